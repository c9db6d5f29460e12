"""Read HTTP/1.1 responses from bytes with `httptools`, within limits. Nothing here does I/O.

`httptools` runs llhttp, the parser of Node.js, which refuses ambiguous framing.
"""

from __future__ import annotations

from typing import Any

import httptools

from deviceflow.core.wire import MAX_BODY, Response
from deviceflow.transports._limits import (
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    MAX_WIRE,
    TooLargeError,
    decoded,
    joined,
)


class Reader:
    """Reads the responses of one connection, one after the other.

    Attributes:
        complete: Whether the response has been read to its end.
        keep: Whether the connection may be used again, once the response is complete.
    """

    __slots__ = (
        "_ends_with_connection",
        "_headers",
        "_length",
        "_parser",
        "_pieces",
        "_received",
        "_status",
        "complete",
        "keep",
    )

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Prepare for the next response."""
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._received = self._length = self._status = 0
        self._ends_with_connection = self.complete = self.keep = False

    def feed(self, data: bytes) -> None:
        """Read the next bytes.

        Raises:
            TooLargeError: The response exceeds a limit.
            ValueError: The response is invalid.
        """
        self._received += len(data)
        if self._received > MAX_WIRE:
            raise TooLargeError(f"The response is longer than {MAX_WIRE} bytes.")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keep = False
            if self.complete:  # what follows the response is of no interest
                return
            if isinstance(error.__context__, TooLargeError):
                raise TooLargeError(str(error.__context__)) from None
            raise ValueError("The response is not valid HTTP.") from None
        if not self._status and self._received > MAX_HEAD:
            raise TooLargeError(f"The head of the response is longer than {MAX_HEAD} bytes.")

    def feed_end(self) -> None:
        """Take note that the server closed the connection, which can be the end of the body."""
        self.complete = self.complete or self._ends_with_connection
        self.keep = False

    def response(self) -> Response:
        """Return the complete response.

        Raises:
            TooLargeError: The decoded body is too long.
            ValueError: The body cannot be decoded.
        """
        headers = joined(self._headers)
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        encoding = headers.get("content-encoding")
        return Response(self._status, headers, decoded(body, encoding) if encoding else body)

    def close(self) -> None:
        """Let go of the parser, which refers to this object."""
        self._parser = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Note a response that nobody asked for: it must not answer the next request."""
        if self.complete:
            self.keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header line, but neither a trailer nor what follows the response."""
        if self._status:
            return
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS or len(name) + len(value) > MAX_LINE:
            raise ValueError("The headers are too long.")

    def on_headers_complete(self) -> None:
        """Skip an interim response (RFC 9110 section 15.2); otherwise note the framing."""
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            if not status >= 100 or status == 101:
                raise ValueError("The server switched to another protocol.")
            self._headers.clear()
            return
        names = {name.lower(): value for name, value in self._headers}
        coding = names.get(b"transfer-encoding")
        if coding is not None and coding.strip().lower() != b"chunked":
            raise ValueError("The transfer encoding is not supported.")
        framed = coding is not None or b"content-length" in names or status in (204, 304)
        self._ends_with_connection = not framed
        self._status = status
        self.keep = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body."""
        if self.complete:
            return
        self._length += len(piece)
        if self._length > MAX_BODY:
            raise TooLargeError(f"The body is longer than {MAX_BODY} bytes.")
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Note the end of the response, unless it is an interim one."""
        self.complete = self._status > 0
