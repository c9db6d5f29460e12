"""Make values from a server safe: texts to print, numbers to calculate with, URLs to open."""

from __future__ import annotations

import ipaddress
import math
import re
import unicodedata
from typing import Final
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from deviceflow.errors import InsecureURLError

# CSI and OSC sequences are removed as a whole, or their parameters would remain.
_ESCAPE_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d).*?(?:\x07|\x1b\\|\x9c|$)|\x1b[@-_]?",
    re.DOTALL,
)
# Their Unicode category is letter or mark, but fonts do not show them.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)

_RUN: Final = re.compile(r"[\w~+=-]{10,}")
_PART: Final = re.compile(r"[0-9A-Za-z]{10,}")
_DIGIT_OR_LETTERS: Final = re.compile(r"[0-9]+|[A-Za-z]+")
# The 120 most frequent pairs of letters. Of random pairs, one in six is among them.
_PAIRS: Final = (
    "ab ac ad ag al am an ap ar as at bl ca ce ch ck cl co ct da de di do ea ec ed ef el em en ep"
    " er es et ex fi fo ge ha he ia ic id ie ig il im in io is it iz ke la le li ll lo ly ma me mi"
    " mo mp na nc nd ne ng ni no ns nt oc od ol om on op or os ot ou pa pe pl po pr ra re ri rm ro"
    " rr rs rt sc se sh si so sp ss st su ta te th ti to tr ts ty ul un ur us ut va ve"
)
_WORDLIKE: Final = 0.35


def printable(text: str, limit: int = 500) -> str:
    """Return `text` safe to print on a terminal, on one line.

    Escape sequences, control characters, invisible characters and characters that change the
    writing direction are removed.

    Args:
        text: The text from the server.
        limit: The most characters to keep.
    """
    if text.isascii() and text.isprintable():
        return text[:limit]
    text = _INVISIBLE.sub("", _ESCAPE_SEQUENCE.sub("", text[: limit * 4]))
    spaced = "".join(" " if char in "\t\n\r" else char for char in text)
    visible = (c for c in spaced if c == " " or unicodedata.category(c)[0] not in "CZ")
    return "".join(visible)[:limit]


def hidden_if_random(text: str) -> str:
    """Return `text` without anything that looks like a code or a token, known or not.

    That is a run of 20 characters with a digit, a run of 10 in which letters and digits alternate,
    or a run of 12 letters that is unlike a word.
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
    """Return `text` as every database and JSON parser accepts it: no NUL, valid Unicode."""
    if text.isascii() and text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def number(value: object, default: float, *, low: float, high: float) -> float:
    """Return `value` as a number between `low` and `high`, or `default` if it is not a number.

    Servers send numbers as strings or floats, negative, very large, or not at all. A negative
    number counts as missing. Other numbers are clamped.
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
"""The longest URL, in characters."""

# Only URLs that all parsers read alike, so that the request goes to the host that was checked:
# browsers and urllib3 treat a backslash as a slash, and urlsplit ignores what follows a `]`.
_AUTHORITY: Final = re.compile(r"(?:[^@\\]*@)?(?:\[[^]\[\\@]+\]|[^]\[\\:@]+)(?::[0-9]*)?")
# Likewise 127.1, 2130706433 and 0x7f.1, which some parsers read as 127.0.0.1.
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
    # A person cannot check a URL with invisible characters.
    return parts if safe and " " not in url and printable(url, len(url)) == url else None


def web_url(url: object) -> str | None:
    """Return `url` if it is a valid http(s) URL without a user name, else None.

    Only such a URL is shown as a link or opened in a browser: never one with `javascript:` or
    `file:`, with a user name, spaces, control or invisible characters, or longer than
    `LONGEST_URL`.
    """
    parts = _split(url) if isinstance(url, str) else None
    return url if isinstance(url, str) and parts and parts.username is None else None


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address, or exactly `localhost`.

    A name below `localhost` is one only where the resolver follows RFC 6761 section 6.3. Others
    ask the network's DNS.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names_this_machine(host: str) -> bool:
    """Tell whether a request to `host` would go to this machine, however that is written."""
    host = host.removesuffix(".")
    if host.endswith(".localhost") or is_loopback(host):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    inner = getattr(address, "ipv4_mapped", None) or address
    return inner.is_loopback or inner.is_unspecified


def crosses_in_clear(url: str) -> bool:
    """Return whether `url` is plain http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def endpoint(
    url: object, *, allow_http: bool = False, server: str | None = None, setting: str = ""
) -> str:
    """Return `url` if secrets may be sent to it.

    A server on another machine may not name an endpoint on this machine, with http or https. It
    could make this program send requests, with the client's secret, to any local service.

    Args:
        url: The endpoint's URL.
        allow_http: Whether to allow plain http to another machine.
        server: The URL of the server that names the endpoint, if known.
        setting: The setting that the URL is from, for the error, if it is from one.

    Raises:
        InsecureURLError: The URL is not http(s), is longer than `LONGEST_URL`, contains a user
            name or password, is plain http to another machine without `allow_http`, or is on this
            machine and the server is not.
    """
    parts = _split(url) if isinstance(url, str) else None
    prefix = f"{setting}: " if setting else ""
    if not isinstance(url, str) or parts is None:
        shown = printable(url, 100) if isinstance(url, str) else type(url).__name__
        raise InsecureURLError(
            f"{prefix}Not a valid http(s) URL: {shown!r}.",
            hint="Give one that starts with https://.",
        )
    if parts.username or parts.password:
        raise InsecureURLError(
            f"{prefix}The URL of {parts.hostname} contains a user name or password.",
            hint="Remove it: URLs are logged.",
        )
    elsewhere = server is not None and not _names_this_machine(urlsplit(server).hostname or "")
    if elsewhere and _names_this_machine(parts.hostname or ""):
        raise InsecureURLError(
            f"{prefix}{parts.scheme}://{parts.netloc} is on this machine, and the server"
            f" {printable(str(server), 200)} is not.",
            hint="A server may name endpoints on this machine only if it runs on this machine.",
        )
    if not allow_http and crosses_in_clear(url):
        raise InsecureURLError(
            f"{prefix}{parts.scheme}://{parts.netloc} uses plain http, which would send codes and"
            " tokens unencrypted.",
            hint="Use https. On a network that you trust, --allow-http, allow_http=True or"
            " DEVICEFLOW_ALLOW_HTTP=1 allows plain http.",
        )
    return url


def with_query(url: str, **parameters: str) -> str:
    """Return `url` with `parameters` added to its query, which is otherwise unchanged."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(parameters))))
    return urlunsplit(parts._replace(query=query))
