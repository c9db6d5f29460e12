"""How a provider departs from RFC 8628, as data, and how its error responses are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from deviceflow.core.provider import DEFAULT_INTERVAL, Answer
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.core.wire import Fields, Response

Rotation = Literal["unknown", "never", "lenient", "optional", "always"]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dialect:
    """How one provider differs from RFC 8628. An entry of a provider file has these fields.

    Attributes:
        title: The provider's name, for people.
        sources: The pages that document the differences.
        issuer: The issuer's URL; `{name}` stands for a parameter.
        device_authorization_endpoint: The endpoint's URL, for providers without metadata. It may
            contain `{name}` too.
        token_endpoint: The token endpoint's URL, likewise.
        revocation_endpoint: The revocation endpoint's URL (RFC 7009), likewise.
        parameters: The parameters of these URLs, with defaults. The caller must give those whose
            default is empty.
        client_auth: How a client with a secret authenticates.
        needs_secret: Whether the client must have a secret.
        secret_with: Which requests carry the secret: both, or only the one for a code or a token.
        requires: Arguments that the caller must give, such as `scopes` or `audience`.
        pkce: Whether the server accepts PKCE (RFC 7636) with the device grant.
        request: How requests are encoded.
        request_names: The server's names for request fields.
        answer_names: The server's names for response fields.
        code_parameters: Additional parameters of the device authorization request.
        token_parameters: Additional parameters of the token request.
        token_scope: Whether the token request includes the scopes.
        refresh_fields: Which of `audience`, `resource` and `scope` a refresh repeats. RFC 8707
            section 2.2 has `resource`. Without `scope`, the token keeps the scopes that were
            granted (RFC 6749 section 6).
        sends_grant_type: Whether the token request includes `grant_type`.
        scope_separator: The separator between scopes in a request.
        error_fields: The fields that may hold the error code, in order of precedence.
        errors: The server's error codes, each with the error of RFC 8628 or RFC 6749 that it means.
        statuses: Status codes of token responses without an error code, with their meaning.
        retry_unknown_code: Whether to poll once more before an unknown code ends the login.
        interval: Seconds between polls, if the server names none.
        margin: Seconds to add to the interval.
        rotation: What a refresh does to the refresh token: `never`, it stays; `lenient`, a new one
            comes, and the old one stays good; `always`, a new one comes, and the old one is used
            up; `optional`, as the server is set up; `unknown`, the provider does not say.
        replay_window: For how many seconds after a refresh the server answers the same refresh
            again, instead of revoking all tokens of the grant. 0 where the provider does not say.
        refresh_ends_token: Whether a refresh ends the access token that it replaces.
        invalid_token_statuses: The HTTP statuses by which the servers that take the token say that
            it is not valid. `error="invalid_token"` in `WWW-Authenticate` says so at any status
            (RFC 6750 section 3.1).
        refresh_scope: The scope that a login must ask for to get a refresh token.
        access_token_lifetime: The lifetime of an access token in seconds, where nobody has set
            another one; 0 where the provider does not say. For people: what comes with a token
            counts.
        refresh_token_lifetime: The same of a refresh token.
        refresh_token_idle: After how many seconds without use a refresh token ends, likewise.
        refresh_sources: The pages that document this.
        complete_parameter: The query parameter that passes the user code to the verification page,
            for servers that support it but send no `verification_uri_complete`.
        issuer_template: Whether the issuer in the metadata contains `{tenantid}`.
        purpose_parameter: The parameter that passes the login's purpose to the server, which shows
            it to the person. No standard defines one, and some servers refuse unknown parameters.
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
    refresh_fields: tuple[str, ...] = ("resource",)
    sends_grant_type: bool = True
    scope_separator: str = " "
    error_fields: tuple[str, ...] = ("error",)
    errors: Mapping[str, str] = field(default_factory=lambda: _NONE)
    statuses: Mapping[str, str] = field(default_factory=lambda: _NONE)
    retry_unknown_code: bool = False
    interval: float = DEFAULT_INTERVAL
    margin: float = 0.1
    rotation: Rotation = "unknown"
    replay_window: float = 0.0
    refresh_ends_token: bool = False
    invalid_token_statuses: tuple[int, ...] = (401,)
    refresh_scope: str | None = None
    access_token_lifetime: float = 0.0
    refresh_token_lifetime: float = 0.0
    refresh_token_idle: float = 0.0
    refresh_sources: tuple[str, ...] = ()
    complete_parameter: str | None = None
    issuer_template: bool = False
    purpose_parameter: str | None = None

    def answered(self, name: str, fields: Fields) -> Any:
        """Return the response field that RFC 8628 calls `name`."""
        return fields.get(self.answer_names.get(name, name))

    def text(self, name: str, fields: Fields) -> str | None:
        """Return that field if it is a non-empty string."""
        return fields.text(self.answer_names.get(name, name))

    def asked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return request parameters under the server's names, without the empty ones."""
        return {self.request_names.get(k, k): v for k, v in parameters.items() if v}

    def error(self, fields: Fields | None) -> str | None:
        """Return the error code of a response, translated to RFC 8628's code if it is known.

        The body takes precedence over the status: some servers send errors with 200 (GitHub), 401,
        403 or 428.
        """
        texts = (fields.text(name) for name in self.error_fields) if fields else ()
        named = next((text for text in texts if text), None)
        return None if named is None else self.errors.get(named, named)

    def classify(self, response: Response, fields: Fields | None, *, polled: bool = True) -> Answer:
        """Return the meaning of a response that contains neither a code nor a token.

        408, 425, 429 and 5xx are retried, unless the body names a final error. A body that cannot
        be parsed, or a status below 400 without an error code, is not a response of the protocol:
        a gateway's HTML, an empty body, a redirect. Any other error is a refusal.
        """
        status, error = response.status, self.error(fields)
        if error is None and polled:
            error = self.statuses.get(str(status))
        if error in _MEANINGS:
            return _MEANINGS[error]
        if error in _REFUSALS:
            once = error == "invalid_grant" and self.retry_unknown_code
            said = fields.text("error_description") if fields else None
            return Answer("refused", error=error, once=once, description=said)
        if status in _TRANSIENT or status >= 500:
            return Answer("retry", error=error, in_doubt=status not in _NOT_PROCESSED)
        if fields is None or (status < 400 and error is None):
            return Answer("retry", unreadable=True, in_doubt=200 <= status < 300)
        return Answer("refused", error=error)

    def to_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """Return the fields that differ from RFC 8628, as JSON types.

        Args:
            whole: Whether to return what is for people as well: the sources and the lifetimes.
        """
        differing: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value != getattr(RFC8628, one.name) and (whole or one.name not in _FOR_PEOPLE):
                plain = dict(value) if isinstance(value, Mapping) else value
                differing[one.name] = list(plain) if isinstance(plain, tuple) else plain
        return differing


@lru_cache(64)
def taking_purpose(dialect: Dialect) -> Dialect:
    """Return the dialect for a server whose metadata says that it accepts a login's purpose."""
    return replace(dialect, purpose_parameter=dialect.purpose_parameter or "purpose")


RFC8628: Final = Dialect()

_FOR_PEOPLE: Final = frozenset(
    {
        "sources",
        "access_token_lifetime",
        "refresh_token_lifetime",
        "refresh_token_idle",
        "refresh_sources",
    }
)

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
        name: The entry's name, for error messages.
        entry: The entry's fields, those of `Dialect`.

    Raises:
        UsageError: A field is unknown, has the wrong type, or an invalid value.
    """
    known = {one.name: one for one in fields(Dialect)}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in known:
            raise UsageError(
                f"Provider {name!r}: unknown field {key!r}.",
                hint=f"Valid fields are {', '.join(known)}.",
            )
        values[key] = _typed(f"Provider {name!r}: {key}", getattr(RFC8628, key), value)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UsageError(
                f"Provider {name!r}: {key} must be one of {', '.join(_CHOICES[key])},"
                f" not {value!r}."
            )
        if key == "refresh_fields" and (wrong := {*value} - {*_REFRESH_FIELDS}):
            raise UsageError(
                f"Provider {name!r}: unknown field in refresh_fields: {', '.join(sorted(wrong))}.",
                hint=f"Valid fields are {', '.join(_REFRESH_FIELDS)}.",
            )
        if key in ("errors", "statuses") and (wrong := {*value.values()} - _ERRORS):
            raise UsageError(
                f"Provider {name!r}: unknown error code in {key}: {', '.join(sorted(wrong))}.",
                hint=f"Valid error codes are {', '.join(sorted(map(str, _ERRORS)))}.",
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
    """Return the dialect if its fields are consistent and in range."""
    for key in _PATTERNS:
        pattern = getattr(dialect, key) or ""
        if wrong := set(re.split(r"\{(\w+)\}", pattern)[1::2]) - dialect.parameters.keys():
            raise UsageError(
                f"Provider {name!r}: undefined parameter in {key}: {', '.join(sorted(wrong))}.",
                hint="Add it to parameters, with a default or an empty string.",
            )
        if {"{", "}"} & set(re.sub(r"\{\w+\}", "", pattern)):
            raise UsageError(f"Provider {name!r}: unbalanced braces in {key}: {pattern!r}.")
    if not 1 <= dialect.interval <= _LONGEST_INTERVAL:
        raise UsageError(f"Provider {name!r}: interval must be between 1 and 3600 seconds.")
    if dialect.margin > _LONGEST_INTERVAL:
        raise UsageError(f"Provider {name!r}: margin must be at most 3600 seconds.")
    if dialect.replay_window > _LONGEST_INTERVAL:
        raise UsageError(
            f"Provider {name!r}: replay_window must be at most 3600 seconds.",
            hint="If old refresh tokens stay good, say so: rotation = 'lenient'.",
        )
    return dialect


_REFRESH_FIELDS: Final = ("audience", "resource", "scope")
_CHOICES: Final = {
    "client_auth": ("client_secret_basic", "client_secret_post"),
    "request": ("form", "json"),
    "rotation": get_args(Rotation),
    "secret_with": ("both", "code", "token"),
}


def _typed(what: str, default: Any, value: Any) -> Any:
    """Return `value` in the type of the field's default."""
    match default:
        case bool():
            fits, wanted = isinstance(value, bool), "true or false"
        case int() | float():
            fits = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            wanted = "a non-negative number"
        case (int(), *_):
            fits = isinstance(value, list) and all(type(number) is int for number in value)
            wanted = "a list of integers"
        case tuple():
            fits = isinstance(value, list) and all(isinstance(text, str) for text in value)
            wanted = "a list of strings"
        case Mapping():
            fits = isinstance(value, Mapping) and all(isinstance(t, str) for t in value.values())
            wanted = "a table of strings"
        case _:
            fits, wanted = isinstance(value, str) and bool(value), "a non-empty string"
    if not fits:
        raise UsageError(f"{what} must be {wanted}, not {value!r}.")
    if isinstance(value, list):
        return tuple(value)
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else value
