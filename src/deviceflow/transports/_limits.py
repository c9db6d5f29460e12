"""What no response may exceed, whichever HTTP library reads it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from deviceflow.core.wire import MAX_BODY

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_WIRE: Final = 2 * MAX_BODY
"""The longest response on the wire in bytes: headers, body, and chunk framing."""

MAX_HEAD: Final = 128 * 1024
"""The longest head of a response in bytes, with all interim responses before the response."""

MAX_HEADERS: Final = 100
"""The most header lines of a response, as in `http.client`."""

MAX_LINE: Final = 64 * 1024
"""The longest header line in bytes, as in `http.client`."""

GRACE: Final = 0.5
"""Seconds after the deadline in which a response that has already arrived may still be read."""

IDLE: Final = 4.0
"""Seconds for which an idle connection is kept.

Many servers close an idle connection after 5 seconds, which is also a common interval between
polls. A request that crosses with that close may or may not have been received.
"""

CONNECTIONS: Final = 256
"""The most connections per origin. Further requests wait for a connection until their deadline."""

_ZLIB: Final = zlib.MAX_WBITS
_GZIP: Final = 16 + _ZLIB


class TooLargeError(ValueError):
    """The response is longer than a limit."""


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return header lines by name in lower case. Values of the same name are joined by a comma."""
    named: dict[str, str] = {}
    for raw, value in headers:
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        named[name] = f"{named[name]}, {text}" if name in named else text
    return named


def decoded(body: bytes, encoding: str) -> bytes:
    """Return the body without its content encoding (RFC 9110 section 8.4).

    Requests ask for no encoding, but some servers encode all the same.

    Args:
        body: The body as received.
        encoding: The value of `Content-Encoding`. One that is unknown leaves the body as it is.

    Raises:
        TooLargeError: The decoded body is longer than `MAX_BODY`.
        ValueError: The body cannot be decoded, or its encoding cannot be bounded.
    """
    encoding = encoding.strip().lower()
    if "," in encoding or encoding in ("br", "zstd"):
        raise ValueError(f"The content encoding {encoding[:40]!r} is not supported.")
    if encoding in ("gzip", "x-gzip"):
        body = _inflated(body, _GZIP)
    elif encoding == "deflate":
        # Some servers omit the header of zlib, which starts with the method: 8.
        body = _inflated(body, _ZLIB if body[:1] and body[0] & 15 == 8 else -_ZLIB)
    if len(body) > MAX_BODY:
        raise TooLargeError(f"The body is longer than {MAX_BODY} bytes.")
    return body


def _inflated(body: bytes, window: int) -> bytes:
    inflate = zlib.decompressobj(window)
    try:
        whole = inflate.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise ValueError("The compressed body is invalid.") from None
    # Several members of gzip, which no server sends, could take a long time to decode.
    if len(whole) <= MAX_BODY and (not inflate.eof or inflate.unused_data):
        raise ValueError("The compressed body is incomplete, or something follows it.")
    return whole
