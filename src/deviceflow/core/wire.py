"""The messages that the core hands out and takes in. Nothing here opens a connection."""

from __future__ import annotations

import json
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl

from deviceflow.core.sanitize import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_BODY: Final = 1024 * 1024
"""How many bytes of an answer are read; a longer one is not an answer. No token is near that."""

MAX_DEPTH: Final = 32
"""How deeply the JSON of an answer may be nested. No field that means something comes near."""

_MAX_RETRY_AFTER: Final = 3600.0
_MAX_DIGITS: Final = 640  # of an integer: what Python reads however it is configured
# Text in quotes, whose brackets do not count, or a bracket. A text without an end goes to the end.
_BRACKET: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
_MAX_FORM_FIELDS: Final = 100


class ClientAuth(NamedTuple):
    """How a client shows who it is; whoever sends the request adds it (RFC 6749 section 2.3).

    Attributes:
        method: The name it has in the registry of token endpoint authentication methods.
        client_id: The client.
        reference: Where its secret or key is: `env:NAME`, `file:PATH`, `profile:NAME`.
        audience: Who an assertion is for.
    """

    method: Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
    client_id: str
    reference: str | None
    audience: str


class Request:
    """One request to send. Its body may hold secrets, so the repr leaves it out.

    Attributes:
        purpose: `metadata` for a GET of a server's metadata; else a POST: `code` for a device
            authorization request, `token` for a token request, `revoke` for a revocation.
        url: Where to; checked already.
        headers: What to send besides what HTTP itself demands.
        body: The encoded body.
        auth: How the client is to show who it is, where it must.
    """

    __slots__ = ("auth", "body", "headers", "purpose", "url")

    def __init__(
        self,
        purpose: Literal["code", "token", "revoke", "metadata"],
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        auth: ClientAuth | None = None,
    ) -> None:
        self.purpose = purpose
        self.url = url
        self.headers = headers
        self.body = body
        self.auth = auth

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.purpose == "metadata" else "POST"

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"


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
        """Return the JSON object in the body, or None where it holds none; as `read_json` does.

        Some servers answer with a form although JSON was asked for; where they say so, it is read.
        """
        try:
            read = read_json(self.body)
        except ValueError:
            read = self._form()
        return Fields(read) if isinstance(read, dict) else None

    def _form(self) -> dict[str, Any] | None:
        kind = (self.header("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            return None
        try:
            pairs = parse_qsl(
                self.body.decode().strip(),
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=_MAX_FORM_FIELDS,
            )
        except ValueError:
            return None
        return dict(pairs) or None

    def date(self) -> float | None:
        """Return what the server's clock said, in seconds since 1970, where it told."""
        return _http_date(self.header("Date") or "")

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
            sent = self.date()
            value = str(until - (now if sent is None else sent))
        return number(value, 0.0, low=0.0, high=_MAX_RETRY_AFTER)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class Failure:
    """No answer, or none that could be read to its end.

    Attributes:
        kind: What happened; `lease` if too little of it was left to send anything.
        sent: Whether the request may have reached the server, which then may have acted on it.
    """

    __slots__ = ("kind", "sent")

    def __init__(
        self,
        kind: Literal["timeout", "connection", "too_large", "interrupted", "lease"],
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
        if not isinstance(value, str) or not value:
            return None
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half a character, which nothing can encode
            return None
        return value

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, in clear."""
        return dict(self._read)

    def __repr__(self) -> str:
        return f"<Fields {', '.join(sorted(self._read))}>"


def read_json(body: bytes) -> Any:
    """Return the JSON value in `body`, without what could not be kept.

    What Python just manages to read, it may be unable to write again some frames deeper. A member
    of the outermost object or array that is nested too deeply (`MAX_DEPTH` counts that one, too)
    is null in what is returned, and so is an integer of more than 640 digits: nothing else is lost.

    Raises:
        ValueError: It is no JSON.
    """
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    try:
        return json.loads(_shallow(text), parse_int=_integer)
    except RecursionError:
        pass  # only where brackets do not match
    raise ValueError("The brackets in it do not match.")


def _shallow(text: str) -> str:
    """Return JSON text with null for each outermost member that is nested too deeply."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return text
    kept = []
    depth = deepest = begin = end = 0
    for found in _BRACKET.finditer(text):
        sign = text[found.start()]
        if sign in "[{":
            depth += 1
            if depth == 2:
                begin, deepest = found.start(), 0
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
            if depth == 1 and deepest > MAX_DEPTH:
                kept += [text[end:begin], "null"]
                end = found.end()
    return "".join([*kept, text[end:]])


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def _http_date(value: str) -> float | None:
    try:
        read = parsedate_to_datetime(value)
        # One of the three forms names no zone. All of them mean UTC (RFC 9110 section 5.6.7).
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
