"""What a server sends, made safe: texts to print, numbers to count with, addresses to open."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import unicodedata
from typing import Final
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from deviceflow.errors import InsecureURLError

# CSI and OSC sequences go as a whole, or their parameters would stay behind as litter.
_ESCAPE_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d).*?(?:\x07|\x1b\\|\x9c|$)|\x1b[@-_]?",
    re.DOTALL,
)
# Letters and marks by their category, which fonts show as nothing all the same.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)

_LONG_RUN: Final = re.compile(r"[\w~+=-]{20,}")


def printable(text: str, limit: int = 500) -> str:
    """Return `text` fit for a terminal: on one line, and nothing in it that steers.

    Escape sequences, control characters, invisible and direction-changing ones are removed.

    Args:
        text: What the server sent.
        limit: How many characters to keep at the most.
    """
    if text.isascii() and text.isprintable():
        return text[:limit]
    text = _INVISIBLE.sub("", _ESCAPE_SEQUENCE.sub("", text[: limit * 4]))
    spaced = "".join(" " if char in "\t\n\r" else char for char in text)
    visible = (c for c in spaced if c == " " or unicodedata.category(c)[0] not in "CZ")
    return "".join(visible)[:limit]


def hidden_if_random(text: str) -> str:
    """Return `text` without what looks like a code or a token: 20 characters with a digit."""
    return _LONG_RUN.sub(lambda run: "<hidden>" if any(map(str.isdigit, run[0])) else run[0], text)


def storable(text: str) -> str:
    """Return `text` as every database and every JSON reader takes it: no NUL, proper Unicode."""
    if text.isascii() and text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def number(value: object, default: float, *, low: float, high: float) -> float:
    """Return `value` as a number between `low` and `high`, or `default` where it is none.

    Servers send numbers as strings and floats, negative, absurd, or not at all. A number below
    zero means nothing, so it counts as missing; other ones are brought within the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return default
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return default
    if math.isnan(read) or read < 0:
        return default
    return min(max(read, low), high)


# Only what all parsers read alike, so that the host that is checked is the one that is asked:
# browsers and urllib3 take a backslash for a slash, and urlsplit passes over what follows a `]`.
_AUTHORITY: Final = re.compile(r"(?:[^@\\]*@)?(?:\[[^]\[\\@]+\]|[^]\[\\:@]+)(?::[0-9]*)?")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # reading it is the check
    except ValueError:
        return None
    safe = parts.scheme in ("http", "https") and _AUTHORITY.fullmatch(parts.netloc)
    # What `printable` would change was not an address a person can check by eye.
    return parts if safe and " " not in url and printable(url, len(url)) == url else None


def web_url(url: object) -> str | None:
    """Return `url` if it is a plain http(s) address, else None.

    Only such an address is shown as a link or given to a browser: never `javascript:`, `file:`,
    or one with a user name, spaces, control or invisible characters in it.
    """
    parts = _split(url) if isinstance(url, str) else None
    return url if isinstance(url, str) and parts and parts.username is None else None


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine itself, by name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def crosses_in_clear(url: str) -> bool:
    """Tell whether `url` is plain http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def http_allowed() -> bool:
    """Tell whether the environment allows plain http: `DEVICEFLOW_ALLOW_HTTP=1`.

    It is asked when a provider is made, and the answer is one of its settings from then on.
    """
    return os.environ.get("DEVICEFLOW_ALLOW_HTTP") == "1"


def endpoint(url: object, *, allow_http: bool = False) -> str:
    """Return `url` if secrets may be sent there.

    Args:
        url: The endpoint's address.
        allow_http: Whether plain http to another machine is good enough.

    Raises:
        InsecureURLError: It is not an http(s) address, carries a user name or password, or is
            plain http to another machine without `allow_http`.
    """
    parts = _split(url) if isinstance(url, str) else None
    if not isinstance(url, str) or parts is None:
        shown = printable(url, 100) if isinstance(url, str) else type(url).__name__
        raise InsecureURLError(
            f"Not a web address: {shown!r}.", hint="Give one that starts with https://."
        )
    if parts.username or parts.password:
        raise InsecureURLError(
            f"The address of {parts.hostname} carries a user name or password.",
            hint="Take it out: addresses are logged.",
        )
    if not allow_http and crosses_in_clear(url):
        raise InsecureURLError(
            f"{parts.scheme}://{parts.netloc} is plain http: codes and tokens would cross the"
            " network in clear.",
            hint="Use https, or allow it with allow_http=True or DEVICEFLOW_ALLOW_HTTP=1.",
        )
    return url


def with_query(url: str, **parameters: str) -> str:
    """Return `url` with `parameters` added to its query; what is there already stays as it is."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(parameters))))
    return urlunsplit(parts._replace(query=query))
