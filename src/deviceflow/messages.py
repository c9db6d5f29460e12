"""The messages that the core hands out and takes in. Nothing here opens a connection."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from deviceflow.untrusted import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_BODY: Final = 1024 * 1024
"""How many bytes of an answer are read; a longer one is not an answer. No token is near that."""

_MAX_RETRY_AFTER: Final = 3600.0


class Request:
    """One POST to send. Its body may hold secrets, so the repr leaves it out.

    Attributes:
        purpose: `code` for a device authorization request, `token` for a token request.
        url: Where to; checked already.
        headers: What to send besides what HTTP itself demands.
        body: The encoded body.
    """

    __slots__ = ("body", "headers", "purpose", "url")

    def __init__(
        self,
        purpose: Literal["code", "token"],
        url: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        self.purpose = purpose
        self.url = url
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Request POST {self.url}>"


class Response:
    """One answer, read whole. Its body may hold secrets, so the repr leaves it out.

    Attributes:
        status: The HTTP status code.
        headers: Its headers; read them without regard to case.
        body: The body's bytes, `MAX_BODY` at the most.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        """Return the header of that name, in whatever case it was sent."""
        wanted = name.lower()
        return next((v for k, v in self.headers.items() if k.lower() == wanted), None)

    def fields(self) -> Fields | None:
        """Return the JSON object in the body, or None where it holds none."""
        try:
            read = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return Fields(read) if isinstance(read, dict) else None

    def retry_after(self, now: float) -> float:
        """Return how many seconds the server asks to be left alone (RFC 9110 section 10.2.3).

        Args:
            now: The time to count a date from, where the server sent no `Date` of its own.

        Returns:
            Seconds, from 0 (it did not ask, or not in a way that can be read) to an hour.
        """
        value = self.header("Retry-After")
        if value is None:
            return 0.0
        until = _http_date(value)
        if until is not None:
            sent = _http_date(self.header("Date") or "")
            value = str(until - (now if sent is None else sent))
        return number(value, 0.0, low=0.0, high=_MAX_RETRY_AFTER)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class Failure:
    """No answer, or none that could be read to its end.

    Attributes:
        kind: What happened.
        sent: Whether the request may have reached the server, which then may have acted on it.
    """

    __slots__ = ("kind", "sent")

    def __init__(
        self,
        kind: Literal["timeout", "connection", "too_large", "interrupted"],
        *,
        sent: bool,
    ) -> None:
        self.kind = kind
        self.sent = sent

    def __repr__(self) -> str:
        return f"<Failure {self.kind}, {'sent' if self.sent else 'not sent'}>"


class Fields:
    """A JSON object that a server sent. Any field may be a secret, so the repr names them only."""

    __slots__ = ("_read",)

    def __init__(self, read: dict[str, Any]) -> None:
        self._read = read

    def get(self, name: str) -> Any:
        """Return the field of that name, or None where it was not sent."""
        return self._read.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._read

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def text(self, name: str) -> str | None:
        """Return the field if it is a text with something in it."""
        value = self._read.get(name)
        return value if isinstance(value, str) and value else None

    def __repr__(self) -> str:
        return f"<Fields {', '.join(sorted(self._read))}>"


def _http_date(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
