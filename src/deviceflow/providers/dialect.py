"""How a server departs from RFC 8628, as data; and the one code that reads answers by it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from deviceflow.core.provider import DEFAULT_INTERVAL, Answer
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.core.wire import Fields, Response

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dialect:
    """What differs at one provider. An entry of a provider file has these fields.

    Attributes:
        title: The provider's name, for people.
        sources: The pages where the facts were read.
        issuer: The issuer's address; `{name}` stands for a parameter.
        device_authorization_endpoint: The endpoint, where there is no discovery; a pattern too.
        token_endpoint: Likewise.
        revocation_endpoint: Likewise (RFC 7009).
        parameters: The parameters of the patterns, with their defaults; an empty one must be given.
        client_auth: How the client authenticates where it has a secret.
        needs_secret: Whether it must have one.
        secret_with: In which requests the secret goes: both, or only that for a code or a token.
        requires: Arguments that must be given, such as `scopes` or `audience`.
        pkce: Whether the server takes PKCE (RFC 7636) on the device grant.
        request: How requests are encoded.
        request_names: The server's names for fields of requests.
        answer_names: The server's names for fields of answers.
        code_parameters: What to send besides in a device authorization request.
        token_parameters: What to send besides in a token request.
        token_scope: Whether the scopes go into the token request too.
        sends_grant_type: Whether the token request has a `grant_type`.
        scope_separator: What stands between scopes in a request.
        error_fields: Where an answer has its error code; the first one that is there counts.
        errors: What error codes mean: each to one of RFC 8628's or RFC 6749's.
        statuses: What statuses of token answers mean where the body names no error, likewise.
        asks_again: Whether an unknown code is polled once more before that is believed.
        interval: Seconds between polls where the server names none.
        margin: Seconds added to the interval.
        complete_parameter: The parameter that carries the user code in the page's address, where
            the server sends no complete one but understands it.
        issuer_template: Whether the issuer in metadata has `{tenantid}` for the tenant.
        purpose_parameter: The parameter in which the server takes the login's purpose, to show it
            to the person. No standard has one, and some servers refuse what they do not know.
    """

    title: str = "OAuth 2.0"
    sources: tuple[str, ...] = ()
    issuer: str | None = None
    device_authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    parameters: Mapping[str, str] = field(default_factory=lambda: _NONE)
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    needs_secret: bool = False
    secret_with: Literal["both", "code", "token"] = "both"  # noqa: S105  # no secret
    requires: tuple[str, ...] = ()
    pkce: bool = False
    request: Literal["form", "json"] = "form"
    request_names: Mapping[str, str] = field(default_factory=lambda: _NONE)
    answer_names: Mapping[str, str] = field(default_factory=lambda: _NONE)
    code_parameters: Mapping[str, str] = field(default_factory=lambda: _NONE)
    token_parameters: Mapping[str, str] = field(default_factory=lambda: _NONE)
    token_scope: bool = False
    sends_grant_type: bool = True
    scope_separator: str = " "
    error_fields: tuple[str, ...] = ("error",)
    errors: Mapping[str, str] = field(default_factory=lambda: _NONE)
    statuses: Mapping[str, str] = field(default_factory=lambda: _NONE)
    asks_again: bool = False
    interval: float = DEFAULT_INTERVAL
    margin: float = 0.1
    complete_parameter: str | None = None
    issuer_template: bool = False
    purpose_parameter: str | None = None

    def answered(self, name: str, fields: Fields) -> Any:
        """Return the field of an answer that RFC 8628 calls `name`."""
        return fields.get(self.answer_names.get(name, name))

    def text(self, name: str, fields: Fields) -> str | None:
        """Return that field if it is a text with something in it."""
        return fields.text(self.answer_names.get(name, name))

    def asked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a request under the server's names, empty ones left out."""
        return {self.request_names.get(k, k): v for k, v in parameters.items() if v}

    def error(self, fields: Fields | None) -> str | None:
        """Return the error that an answer names, in RFC 8628's words where it is a known one.

        The body counts before the status: errors come with 200 (GitHub), 401, 403 and 428 too.
        """
        texts = (fields.text(name) for name in self.error_fields) if fields else ()
        named = next((text for text in texts if text), None)
        return None if named is None else self.errors.get(named, named)

    def classify(self, response: Response, fields: Fields | None, *, polled: bool = True) -> Answer:
        """Say what an answer means that brings neither code nor token.

        408, 425, 429 and 5xx are final only if the body names an error that is. What was not
        parsed, or names no error below 400, is no answer of the protocol, whatever its status: a
        gateway's HTML, an empty body, a redirect. Any other error is a refusal.
        """
        status, error = response.status, self.error(fields)
        if error is None and polled:
            error = self.statuses.get(str(status))
        if error in _MEANINGS:
            return _MEANINGS[error]
        if error in _REFUSALS:
            once = error == "invalid_grant" and self.asks_again
            return Answer("refused", error=error, once=once)
        if status in _TRANSIENT or status >= 500:
            return Answer("retry", error=error, in_doubt=status not in _NOT_PROCESSED)
        if fields is None or (status < 400 and error is None):
            return Answer("retry", unreadable=True, in_doubt=200 <= status < 300)
        return Answer("refused", error=error)

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from RFC 8628, as JSON types."""
        differing: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value != getattr(RFC8628, one.name):
                plain = dict(value) if isinstance(value, Mapping) else value
                differing[one.name] = list(plain) if isinstance(plain, tuple) else plain
        return differing


@lru_cache(64)
def taking_purpose(dialect: Dialect) -> Dialect:
    """Return the dialect for a server whose metadata says that it takes a login's purpose."""
    return replace(dialect, purpose_parameter=dialect.purpose_parameter or "purpose")


RFC8628: Final = Dialect()

_TRANSIENT: Final = frozenset({408, 425, 429})
_NOT_PROCESSED: Final = frozenset({408, 425, 429, 503})
_MEANINGS: Final[Mapping[str | None, Answer]] = {
    "authorization_pending": Answer("pending"),
    "slow_down": Answer("slow_down"),
    "access_denied": Answer("denied", error="access_denied"),
    "expired_token": Answer("expired", error="expired_token"),
    "temporarily_unavailable": Answer("retry", error="temporarily_unavailable"),
    "server_error": Answer("retry", error="server_error", in_doubt=True),
}
_REFUSALS: Final = frozenset(
    {
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
_ERRORS: Final = frozenset({*_REFUSALS, *_MEANINGS})


def read_dialect(name: str, entry: Mapping[str, Any]) -> Dialect:
    """Return the dialect that an entry of a provider file describes.

    Args:
        name: The entry's name, for the error.
        entry: Its fields, those of `Dialect`.

    Raises:
        UsageError: A field is unknown, of the wrong type, or means nothing.
    """
    known = {one.name: one for one in fields(Dialect)}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in known:
            raise UsageError(
                f"Provider {name!r}: there is no field {key!r}.",
                hint=f"The fields are {', '.join(known)}.",
            )
        values[key] = _typed(f"Provider {name!r}: {key}", getattr(RFC8628, key), value)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UsageError(f"Provider {name!r}: {key} is one of {', '.join(_CHOICES[key])}.")
        if key in ("errors", "statuses") and (wrong := {*value.values()} - _ERRORS):
            raise UsageError(
                f"Provider {name!r}: {key} leads to {', '.join(sorted(wrong))}.",
                hint=f"It can lead to {', '.join(sorted(map(str, _ERRORS)))}.",
            )
    return _checked(name, Dialect(**values))


_LONGEST_INTERVAL: Final = 3600.0
_PATTERNS: Final = (
    "issuer",
    "device_authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
)


def _checked(name: str, dialect: Dialect) -> Dialect:
    """Return the dialect if its fields fit each other and are within bounds."""
    for key in _PATTERNS:
        pattern = getattr(dialect, key) or ""
        if wrong := set(re.split(r"\{(\w+)\}", pattern)[1::2]) - dialect.parameters.keys():
            raise UsageError(
                f"Provider {name!r}: {key} has {', '.join(sorted(wrong))} in it.",
                hint="Name it in parameters, with a default or an empty text.",
            )
        if {"{", "}"} & set(re.sub(r"\{\w+\}", "", pattern)):
            raise UsageError(f"Provider {name!r}: {key} is no pattern: {pattern!r}.")
    if not 1 <= dialect.interval <= _LONGEST_INTERVAL:
        raise UsageError(f"Provider {name!r}: interval is between 1 and 3600 seconds.")
    if dialect.margin > _LONGEST_INTERVAL:
        raise UsageError(f"Provider {name!r}: margin is at most 3600 seconds.")
    return dialect


_CHOICES: Final = {
    "client_auth": ("client_secret_basic", "client_secret_post"),
    "request": ("form", "json"),
    "secret_with": ("both", "code", "token"),
}


def _typed(what: str, default: Any, value: Any) -> Any:
    """Return `value` as what the field holds, judged by its default."""
    match default:
        case bool():
            fits, wanted = isinstance(value, bool), "true or false"
        case int() | float():
            fits = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            wanted = "a number that is not negative"
        case tuple():
            fits = isinstance(value, list) and all(isinstance(text, str) for text in value)
            wanted = "a list of texts"
        case Mapping():
            fits = isinstance(value, Mapping) and all(isinstance(t, str) for t in value.values())
            wanted = "a table of texts"
        case _:
            fits, wanted = isinstance(value, str) and bool(value), "a text"
    if not fits:
        raise UsageError(f"{what} is {wanted}, not {value!r}.")
    if isinstance(value, list):
        return tuple(value)
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else value
