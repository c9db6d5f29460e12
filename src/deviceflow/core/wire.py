"""Requests and responses as the core sees them. Nothing here opens a connection."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl

from deviceflow.core.sanitize import number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from deviceflow.core.secret import Secret

MAX_BODY: Final = 1024 * 1024
"""The longest body that is read, in bytes. A longer response is an error."""

MAX_DEPTH: Final = 32
"""How deeply the JSON of a response may be nested. No field that is used comes near."""

_MOST_BRACKETS: Final = 20_000
"""How many objects and arrays the JSON of a response may have: it is parsed in an event loop."""

_MAX_RETRY_AFTER: Final = 3600.0
_MAX_DIGITS: Final = 640  # of an integer: the lowest limit that Python can be configured to
# A string, whose brackets do not count, or a bracket. An unterminated string ends with the text.
_BRACKET: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
_MAX_FORM_FIELDS: Final = 100


Purpose = Literal["code", "token", "revoke", "introspect", "metadata", "userinfo", "notify"]


class ClientAuth(NamedTuple):
    """How a client authenticates (RFC 6749 section 2.3). It is applied when the request is sent.

    Attributes:
        method: The method's name in the registry of token endpoint authentication methods.
        client_id: The client id.
        reference: Where the secret or key is: `env:NAME`, `file:PATH`, `profile:NAME`.
        audience: The audience of an assertion.
    """

    method: Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
    client_id: str
    reference: str | None
    audience: str


class Request:
    """One request to send. The body may contain secrets, so the repr omits it.

    Attributes:
        purpose: `metadata` for a GET of a server's metadata, `userinfo` for a GET with an access
            token; else a POST: `code` for a device authorization request, `token` for a token
            request, `revoke` for a revocation, `introspect` for a question about a token, `notify`
            for a notification, of whose response only the status counts, so that its body may be
            left unread.
        url: The URL, already checked.
        headers: Additional headers.
        body: The encoded body.
        auth: How the client authenticates; None if it does not.
        credential: The client's secret or assertion, once it is in the request.
    """

    __slots__ = ("auth", "body", "credential", "headers", "purpose", "url")

    def __init__(
        self,
        purpose: Purpose,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        auth: ClientAuth | None = None,
        credential: Secret | None = None,
    ) -> None:
        self.purpose: Purpose = purpose
        self.url: str = url
        self.headers: Mapping[str, str] = headers
        self.body: bytes = body
        self.auth: ClientAuth | None = auth
        self.credential: Secret | None = credential

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.purpose in ("metadata", "userinfo") else "POST"

    def __repr__(self) -> str:
        # The URL of a webhook is a secret.
        return f"<Request {self.method} {'' if self.purpose == 'notify' else self.url}>"


class Response:
    """One complete response. The body may contain secrets, so the repr omits it.

    Attributes:
        status: The HTTP status code.
        headers: The headers, by their names in lower case.
        body: The body, at most `MAX_BODY` bytes.
        credential: The secret or assertion in the request, which the server may echo.
    """

    __slots__ = ("body", "credential", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status: int = status
        self.headers: dict[str, str] = {name.lower(): value for name, value in headers.items()}
        self.body: bytes = body
        self.credential: Secret | None = None

    def header(self, name: str) -> str | None:
        """Return the header of that name, in upper or lower case."""
        return self.headers.get(name.lower())

    def fields(self) -> Fields | None:
        """Return the JSON object in the body as `read_json` reads it, or None if there is none.

        Some servers send a form although JSON was requested. A form is read if the content type
        says so.
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
        """Return the time of the server's clock (`Date`) in seconds since 1970, or None."""
        return _http_date(self.header("Date") or "")

    def retry_after(self, now: float) -> float:
        """Return the seconds to wait as `Retry-After` says (RFC 9110 section 10.2.3).

        Args:
            now: The time to compare a date with, if the server sent no `Date`.

        Returns:
            Seconds, from 0 (no header, or one that cannot be parsed) to an hour.
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


Cause: TypeAlias = Literal["name_unknown", "connection_refused", "certificate", "tls", "no_tls"]
"""Why a connection failed, where that is known."""

FAILURE_WORDS: Final = {
    "timeout": "timeout",
    "connection": "connection failed",
    "name_unknown": "the name has no address (DNS)",
    "connection_refused": "connection refused",
    "certificate": "the certificate is not valid for this host, or nobody trusted signed it (TLS)",
    "tls": "the TLS handshake failed",
    "no_tls": "the port does not speak TLS: perhaps the URL must begin with http://",
    "too_large": "the response is too large",
    "interrupted": "interrupted",
    "lease": "this machine was too slow, and the lease ran out before the request was sent",
}
"""What happened, for people, by a failure's `code`."""


class Failure:
    """There is no complete response.

    Attributes:
        kind: What happened; `lease` means that too little of the lease was left to send anything.
        sent: Whether the request may have reached the server, so that the server may have acted.
        cause: Why the connection failed, if that is known.
    """

    __slots__ = ("cause", "kind", "sent")

    def __init__(
        self,
        kind: Literal["timeout", "connection", "too_large", "interrupted", "lease"],
        *,
        sent: bool,
        cause: Cause | None = None,
    ) -> None:
        self.kind: Literal["timeout", "connection", "too_large", "interrupted", "lease"] = kind
        self.sent: bool = sent
        self.cause: Cause | None = cause

    @property
    def code(self) -> str:
        """The cause, or else the kind: what the record of a login says."""
        return self.cause or self.kind

    @property
    def words(self) -> str:
        """What happened, for people."""
        return FAILURE_WORDS[self.code]

    def __repr__(self) -> str:
        return f"<Failure {self.kind}, {'sent' if self.sent else 'not sent'}>"


class Fields:
    """A JSON object from a server. Any name or value may be a secret: the repr has their number."""

    __slots__ = ("_read",)

    def __init__(self, read: dict[str, Any]) -> None:
        self._read = read

    def get(self, name: str) -> Any:
        """Return the field of that name, or None if the server did not send it."""
        return self._read.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._read

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def text(self, name: str) -> str | None:
        """Return the field if it is a non-empty string, else None."""
        value = self._read.get(name)
        if not isinstance(value, str) or not value:
            return None
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can contain a lone surrogate, which cannot be encoded
            return None
        return value

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, in clear."""
        return dict(self._read)

    def __repr__(self) -> str:
        return f"<Fields {len(self._read)}>"


def read_json(body: bytes) -> Any:
    """Return the JSON value in `body`, without values that cannot be stored later.

    Python may be able to parse deeply nested JSON and still fail to serialise it from a deeper
    stack. So a member of the outermost object or array that is nested more deeply than `MAX_DEPTH`
    (which counts the outermost level) becomes null, as does an integer of more than 640 digits.
    Everything else is returned.

    Raises:
        ValueError: The body is not JSON, or has more than 20,000 opening brackets.
    """
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    try:
        return _decode(_shallow(text))
    except RecursionError:
        pass  # possible only if brackets do not match
    raise ValueError("The brackets in the JSON do not match.")


def read_jwt(token: str) -> Fields | None:
    """Return the claims of a JSON Web Token (RFC 7519), unverified; None if it is not one."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    payload = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        read = read_json(base64.b64decode(payload, altchars=b"-_", validate=True))
    except ValueError:
        return None
    return Fields(read) if isinstance(read, dict) else None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


_decode: Final = json.JSONDecoder(parse_int=_integer).decode  # made once: that takes its time


def _shallow(text: str) -> str:
    """Return JSON text with null for each outermost member that is nested too deeply."""
    brackets = text.count("[") + text.count("{")
    if brackets <= MAX_DEPTH:
        return text
    if brackets > _MOST_BRACKETS:
        raise ValueError("The JSON has too many brackets.")
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


def _http_date(value: str) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  # costs, and few answers have one

    try:
        read = parsedate_to_datetime(value)
        # One of the three formats has no time zone. All of them are UTC (RFC 9110 section 5.6.7).
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


_BEARER_ERROR: Final = re.compile(
    r'\berror\s*=\s*"?(invalid_token|insufficient_scope)\b', re.IGNORECASE
)


def is_token_refused(status: int, challenge: str | None, statuses: Collection[int]) -> bool:
    """Tell whether a response says that the access token of its request is not valid.

    Args:
        status: The HTTP status.
        challenge: The header `WWW-Authenticate`, whose error decides at any status (RFC 6750
            section 3.1).
        statuses: The statuses that say so, if the header does not.
    """
    if status < 400:
        return False
    error = _BEARER_ERROR.search(challenge or "")
    return status in statuses if error is None else error[1].lower() == "invalid_token"
