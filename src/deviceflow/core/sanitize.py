"""What a server sends, made safe: texts to print, numbers to count with, addresses to open."""

from __future__ import annotations

import ipaddress
import math
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

_RUN: Final = re.compile(r"[\w~+=-]{10,}")
_PART: Final = re.compile(r"[0-9A-Za-z]{10,}")
_DIGIT_OR_LETTERS: Final = re.compile(r"[0-9]+|[A-Za-z]+")
# The 120 pairs of letters that most words are made of; random letters have one in six of them.
_PAIRS: Final = (
    "ab ac ad ag al am an ap ar as at bl ca ce ch ck cl co ct da de di do ea ec ed ef el em en ep"
    " er es et ex fi fo ge ha he ia ic id ie ig il im in io is it iz ke la le li ll lo ly ma me mi"
    " mo mp na nc nd ne ng ni no ns nt oc od ol om on op or os ot ou pa pe pl po pr ra re ri rm ro"
    " rr rs rt sc se sh si so sp ss st su ta te th ti to tr ts ty ul un ur us ut va ve"
)
_WORDLIKE: Final = 0.35


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
    """Return `text` without what looks like a code or a token, as one that was never seen.

    That is a run of 20 characters with a digit, one of 10 with letters and digits in turns, and one
    of 12 letters that are not those of words.
    """
    return _RUN.sub(lambda run: "<hidden>" if _is_random(run[0]) else run[0], text)


def _is_random(run: str) -> bool:
    if len(run) >= 20 and any(map(str.isdigit, run)):
        return True
    for part in _PART.findall(run):
        if len(_DIGIT_OR_LETTERS.findall(part)) > 4:
            return True
        letters = max(_DIGIT_OR_LETTERS.findall(part), key=len).lower()
        pairs = [letters[at : at + 2] in _PAIRS for at in range(len(letters) - 1)]
        if letters.isalpha() and len(letters) >= 12 and sum(pairs) < _WORDLIKE * len(pairs):
            return True
    return False


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


LONGEST_URL: Final = 2048
"""Characters of an address."""

# Only what all parsers read alike, so that the host that is checked is the one that is asked:
# browsers and urllib3 take a backslash for a slash, and urlsplit passes over what follows a `]`.
_AUTHORITY: Final = re.compile(r"(?:[^@\\]*@)?(?:\[[^]\[\\@]+\]|[^]\[\\:@]+)(?::[0-9]*)?")
# Likewise 127.1, 2130706433 and 0x7f.1, which are 127.0.0.1 to some.
_NUMERIC: Final = re.compile(r"(?:[^:]*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")


def _split(url: str) -> SplitResult | None:
    if len(url) > LONGEST_URL:
        return None
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # reading it is the check
        if _NUMERIC.fullmatch(parts.hostname or ""):
            ipaddress.IPv4Address(parts.hostname or "")
    except ValueError:
        return None
    safe = parts.scheme in ("http", "https") and _AUTHORITY.fullmatch(parts.netloc)
    # What `printable` would change was not an address a person can check by eye.
    return parts if safe and " " not in url and printable(url, len(url)) == url else None


def web_url(url: object) -> str | None:
    """Return `url` if it is a plain http(s) address, else None.

    Only such an address is shown as a link or given to a browser: never `javascript:`, `file:`,
    one with a user name, spaces, control or invisible characters in it, or one longer than
    `LONGEST_URL`.
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


def _names_this_machine(host: str) -> bool:
    """Tell whether a request to `host` would go to this machine, however that is written."""
    if is_loopback(host.removesuffix(".")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    inner = getattr(address, "ipv4_mapped", None) or address
    return inner.is_loopback or inner.is_unspecified


def crosses_in_clear(url: str) -> bool:
    """Tell whether `url` is plain http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def endpoint(url: object, *, allow_http: bool = False, server: str | None = None) -> str:
    """Return `url` if secrets may be sent there.

    A server on another machine may not name an endpoint on this one, by http or https: it would
    have us send requests, and the client's secret, to whatever listens here.

    Args:
        url: The endpoint's address.
        allow_http: Whether plain http to another machine is good enough.
        server: The address of the server that it is an endpoint of, where that is known.

    Raises:
        InsecureURLError: It is not an http(s) address, is longer than `LONGEST_URL`, carries a
            user name or password, is plain http to another machine without `allow_http`, or is
            on this machine and the server is not.
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
    elsewhere = server is not None and not _names_this_machine(urlsplit(server).hostname or "")
    if elsewhere and _names_this_machine(parts.hostname or ""):
        raise InsecureURLError(
            f"{parts.scheme}://{parts.netloc} is on this machine, and the server"
            f" {printable(str(server), 200)} is not.",
            hint="A server may name endpoints on this machine only if it runs on this machine.",
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
