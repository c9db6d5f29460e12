"""The provider protocol: which requests to send, and how to read the responses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypedDict, Unpack

from deviceflow.core.sanitize import LONGEST_URL
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason
from deviceflow.core.text import NOTHING, CleanText, SecretMatcher, cleaned, identifier, trusted
from deviceflow.core.wire import Fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.core.text import PersonText
    from deviceflow.core.wire import Request, Response

Pairs = Iterable[tuple[str, str]] | Mapping[str, str]

DEFAULT_INTERVAL: Final = 5.0
"""Seconds between polls if the server names no interval (RFC 8628 section 3.2)."""

LONGEST_USER_CODE: Final = 100

_LONG_SECRET: Final = 16

_LIMITS: Final = {
    "device_code": 8192,
    "user_code": LONGEST_USER_CODE,
    "verification_uri": LONGEST_URL,
    "verification_uri_complete": LONGEST_URL,
    "token_uri": LONGEST_URL,
}


def problem_with(
    device_code: str, user_code: str, credential: Secret | None = None, **urls: str | None
) -> str | None:
    """Return a message about the first field that cannot be taken, or None.

    A field may be too long. The user code and the URLs are kept in clear, so the user code must not
    contain the device code, nor any of them the client's secret. That means the whole secret: some
    servers begin a device code with the user code, and a short client's secret may be a word.

    Args:
        device_code: The device code of a device authorization response.
        user_code: Its user code.
        credential: The client's secret or assertion in the request.
        **urls: Its URLs, under the names of RFC 8628 and DVC Studio.
    """
    shown = {"user_code": user_code, **urls}
    for name, text in {"device_code": device_code, **shown}.items():
        if text is not None and len(text) > _LIMITS[name]:
            return f"{name} is too long: {len(text)} characters, at most {_LIMITS[name]}"
    if _whole(device_code).found_in(user_code):
        return "user_code contains the device code"
    if credential is not None and len(credential.reveal()) >= _LONG_SECRET:
        known = _whole(credential.reveal())
        for name, text in shown.items():
            if text is not None and known.found_in(text):
                return f"{name} contains the client's secret"
    return None


_TOKEN: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


def ill_formed(**tokens: str | None) -> str | None:
    """Return a message about the first token that no server may issue, or None.

    A token consists of visible ASCII characters and spaces (RFC 6749 appendices A.12 and A.17). In
    a header, spaces around it would be lost, and a line break would end the header.

    Args:
        **tokens: The tokens, under the names of RFC 6749.
    """
    for name, text in tokens.items():
        if text is not None and not _TOKEN.fullmatch(text):
            return f"{name} has characters that no token may have"
    return None


def _whole(secret: str) -> SecretMatcher:
    return SecretMatcher(Secret(secret), piece=len(secret))


_BEARER: Final = trusted("Bearer")


@dataclass(slots=True)
class DeviceCode:
    """A device authorization response (RFC 8628 section 3.2), checked and limited.

    Attributes:
        device_code: The secret that the program polls with.
        user_code: The code for the person; None if the login adopted a device code without it. The
            repr omits the user code and the URLs, because tracebacks are logged.
        verification_uri: The page to open; None if the server sent no usable URL.
        verification_uri_complete: The same page with the user code in the URL.
        token_endpoint: The URL to poll, already checked.
        interval: Seconds between polls.
        expires_in: The code's lifetime in seconds; None if only the server knows.
        extra: Other fields that later steps or the caller need.
    """

    device_code: Secret
    token_endpoint: str
    user_code: PersonText | None = field(default=None, repr=False)
    verification_uri: PersonText | None = field(default=None, repr=False)
    verification_uri_complete: PersonText | None = field(default=None, repr=False)
    interval: float = DEFAULT_INTERVAL
    expires_in: float | None = None
    extra: tuple[tuple[str, CleanText | None], ...] = ()


@dataclass(slots=True)
class Token:
    """A token response (RFC 6749 section 5.1).

    Attributes:
        access_token: The access token, hidden: `token.access_token.reveal()`.
        possibly_revoked: Whether the device code was sent again after the server issued this
            token. Some servers then revoke the token (RFC 6749 section 4.1.2).
        token_type: The token type, usually `Bearer`.
        expires_at: When the token expires, in seconds since 1970; None if the server does not say.
        refresh_token: The refresh token, hidden too; None if there is none.
        scopes: The granted scopes; None if the server does not say, which means as requested.
        missing_scopes: The scopes that were requested and not granted, if the server lists them.
        id_token: The id token (OpenID Connect), which says who approved; hidden too.
        subject: Whose token it is, as the id token says (`sub`): as it is, or its SHA-256 if it is
            too long, not printable, or contains a secret.
        extra: All other fields of the response.
    """

    access_token: Secret
    possibly_revoked: bool = False
    token_type: CleanText = _BEARER
    expires_at: float | None = None
    refresh_token: Secret | None = None
    scopes: tuple[CleanText, ...] | None = None
    missing_scopes: tuple[CleanText, ...] = ()
    id_token: Secret | None = None
    subject: CleanText | None = None
    extra: Fields = field(default_factory=lambda: Fields({}))

    def __post_init__(self) -> None:
        self.hide(SecretMatcher(*self.secrets))

    @property
    def secrets(self) -> tuple[Secret | None, ...]:
        """The tokens themselves, which a server may echo."""
        return self.access_token, self.refresh_token, self.id_token

    def hide(self, known: SecretMatcher) -> None:
        """Remove secrets from the fields that are logged: a server may echo them there."""
        self.token_type = CleanText(self.token_type, known)
        self.scopes = None if self.scopes is None else cleaned(self.scopes, known)
        self.missing_scopes = cleaned(self.missing_scopes, known)

    def as_dict(self) -> dict[str, Any]:
        """Return the token in clear, as Authlib and requests-oauthlib expect it."""
        token = self.extra.as_dict()
        token |= {"access_token": self.access_token.reveal(), "token_type": self.token_type}
        if self.expires_at is not None:
            token["expires_at"] = int(self.expires_at)
        if self.refresh_token is not None:
            token["refresh_token"] = self.refresh_token.reveal()
        if self.scopes is not None:
            token["scope"] = " ".join(self.scopes)
        if self.id_token is not None:
            token["id_token"] = self.id_token.reveal()
        return token

    def to_dict(self) -> dict[str, Any]:
        """Return the token as JSON types, with its secrets in clear."""
        return {
            "access_token": self.access_token.reveal(),
            "possibly_revoked": self.possibly_revoked,
            "token_type": self.token_type,
            "expires_at": self.expires_at,
            "refresh_token": self.refresh_token and self.refresh_token.reveal(),
            "scopes": None if self.scopes is None else list(self.scopes),
            "missing_scopes": list(self.missing_scopes),
            "id_token": self.id_token and self.id_token.reveal(),
            "subject": self.subject,
            "extra": self.extra.as_dict(),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the token of a record that `to_dict` returned.

        Raises:
            TypeError: A field has the wrong type.
        """
        scopes, expires_at = record["scopes"], record["expires_at"]
        subject = record["subject"]
        if not isinstance(record["token_type"], str) or not isinstance(record["extra"], dict):
            raise TypeError
        if expires_at is not None and not isfinite(expires_at):
            raise TypeError
        return cls(
            Secret.of(record["access_token"]),
            possibly_revoked=record["possibly_revoked"] is True,
            token_type=trusted(record["token_type"]),
            expires_at=None if expires_at is None else float(expires_at),
            refresh_token=Secret.of(record["refresh_token"]) if record["refresh_token"] else None,
            scopes=None if scopes is None else cleaned(map(str, scopes), NOTHING),
            missing_scopes=cleaned(map(str, record["missing_scopes"]), NOTHING),
            id_token=Secret.of(record["id_token"]) if record["id_token"] else None,
            subject=None if subject is None else trusted(str(subject)),
            extra=Fields(record["extra"]),
        )


Outcome = Literal["issued", "pending", "slow_down", "denied", "expired", "retry", "refused"]


@dataclass(slots=True)
class Answer:
    """The meaning of a server's response.

    Attributes:
        outcome: The meaning.
        code: The device code, if one was issued.
        token: The token, if one was issued.
        error: The server's error code or message, not cleaned yet.
        description: What the server adds to the code of a refusal, not cleaned yet (RFC 6749
            section 5.2, `error_description`).
        reason: Why the login failed, if `outcome` is `refused`.
        interval: The new interval in seconds, if `slow_down` names one.
        once: Whether to poll again before the refusal counts. Some servers do not find a code at
            the moment of its approval (https://github.com/cli/cli/issues/9302).
        unfit: Why an issued token must not be taken: the reason and a message.
        claims: The id token's claims, if there is an id token that says whose the token is. One
            that has expired does, too, though its token is unfit.
        unreadable: Whether the response is not one of this protocol. Three in a row end a login.
        in_doubt: Whether the server may have issued a token and used up the code all the same.
    """

    outcome: Outcome
    code: DeviceCode | None = None
    token: Token | None = None
    error: str | None = field(default=None, repr=False)
    reason: Reason = Reason.REJECTED
    interval: float = 0.0
    once: bool = False
    rejection: tuple[Reason, CleanText] | None = None
    claims: Fields | None = None
    unreadable: bool = False
    in_doubt: bool = False
    description: str | None = field(default=None, repr=False)

    @property
    def message(self) -> str | None:
        """The error code, and what the server adds to it."""
        return ": ".join(filter(None, (self.error, self.description))) or None

    def hide(self, *secrets: Secret | None, user_code: str | None = None) -> None:
        """Remove secrets from what is kept in clear of the token: a server may echo them there.

        Args:
            *secrets: The secrets of the login or of the grant; the token's own are known.
            user_code: The code that the person types.
        """
        if self.token is None:
            return
        known = SecretMatcher(*secrets, *self.token.secrets, user_code=user_code)
        self.token.hide(known)
        subject = None if self.claims is None else self.claims.text("sub")
        self.token.subject = None if subject is None else identifier(subject, known)


class LoginRequest(TypedDict, total=False):
    """What one login asks for, in place of the provider's own settings.

    OAuth servers take the first five arguments, DVC Studio takes `scopes` and the last six. A
    provider refuses an argument that it does not take with a `UsageError`.

    Attributes:
        scopes: The scopes: a list, or one string with spaces (for DVC Studio, with commas).
        audience: Who the token is for, if the server needs to know.
        resource: Where the token will be used (RFC 8707): one URL or several.
        parameters: Additional parameters of the device authorization request.
        require: Who must approve: the claims that the id token must have.
        client_name: The program's name, which DVC Studio shows to the person.
        token_name: The token's name.
        team_names: The teams that the token is for.
        all_teams: Whether the token is for all teams.
        expires_in_days: The token's lifetime in days.
        never_expires: Whether the token never expires.
    """

    scopes: Sequence[str]
    audience: str | None
    resource: Sequence[str]
    parameters: Pairs
    require: Pairs
    client_name: str
    token_name: str | None
    team_names: Sequence[str]
    all_teams: bool | None
    expires_in_days: int | None
    never_expires: bool | None


class Approver(Protocol):
    """The program's own policy on who may approve a login."""

    def __call__(self, claims: dict[str, Any], /) -> bool:
        """Tell whether to take the token.

        Args:
            claims: The claims of the id token that came with the token, verified as far as the
                provider says.
        """


class Provider(Protocol):
    """A server and a login request: hashable settings with pure functions.

    Attributes:
        dialect: The name of the dialect, or of the provider.
        server: The server's URL, for people and for the audit trail.
        allow_http: Whether plain http to another machine is allowed.
        client_id: The client id, if the dialect has one.
        client_name: The client's name as the server shows it to people, if the dialect has one.
        scopes: The scopes that the login asks for.
        first_wait: Seconds from the code to the first poll; None means the interval.
        margin: Seconds to add to the interval, for servers that measure when polls arrive.
        uses_pkce: Whether a login has a PKCE verifier (RFC 7636).
        can_refresh: Whether the provider knows how to refresh tokens (RFC 6749 section 6).
        replay_window: For how many seconds after a refresh the server answers the same refresh
            again, with the same tokens or new ones. 0 if it does not: then it may revoke them all.
            Infinite if old refresh tokens stay good.
        ends_old_token: Whether a refresh ends the access token that it replaces; None if nobody
            says.
        invalid_token_statuses: The HTTP statuses by which the servers that take an access token say
            that it is not valid.
        keep_id_token: Whether a grant keeps the id token of its last login or refresh.
    """

    @property
    def dialect(self) -> str: ...
    @property
    def server(self) -> str: ...
    @property
    def allow_http(self) -> bool: ...
    @property
    def client_id(self) -> str | None: ...
    @property
    def client_name(self) -> str | None: ...
    @property
    def scopes(self) -> Sequence[str]: ...
    @property
    def first_wait(self) -> float | None: ...
    @property
    def margin(self) -> float: ...

    def __hash__(self) -> int: ...

    def with_request(self, **request: Unpack[LoginRequest]) -> Self:
        """Return the same provider with what one login asks for.

        Args:
            **request: As `LoginRequest` says, instead of the provider's own.

        Raises:
            UsageError: The provider does not take one of them.
        """

    def for_grant(self) -> Self:
        """Return the same provider, asking for what a refresh token needs as well.

        The caller's setting `offline` takes precedence over what the provider is known to need.
        """

    @property
    def uses_pkce(self) -> bool: ...
    @property
    def can_refresh(self) -> bool: ...
    @property
    def replay_window(self) -> float: ...
    @property
    def ends_old_token(self) -> bool | None: ...
    @property
    def invalid_token_statuses(self) -> tuple[int, ...]: ...
    @property
    def keep_id_token(self) -> bool: ...

    def well_known_urls(self) -> tuple[str, ...]:
        """Return the URLs where the server's metadata may be, in order, needed or not."""

    def metadata_urls(self) -> tuple[str, ...]:
        """Return the URLs where the metadata may be, in order; none if it is not needed."""

    def with_metadata(self, metadata: Fields) -> Self:
        """Return the same provider with the endpoints of its metadata.

        Raises:
            ProtocolError: The metadata is for another issuer, or does not offer the device grant.
        """

    def code_request(self, verifier: Secret | None = None, purpose: str | None = None) -> Request:
        """Return the device authorization request (RFC 8628 section 3.1).

        Args:
            verifier: The PKCE verifier, if the login has one.
            purpose: Why the login is needed. Only servers that are known to accept a purpose get
                it.
        """

    def read_code(self, response: Response) -> Answer:
        """Return the meaning of the response to `code_request`: issued, retry or refused."""

    def token_request(
        self, token_endpoint: str, device_code: Secret, verifier: Secret | None = None
    ) -> Request:
        """Return the token request (RFC 8628 section 3.4)."""

    def read_token(self, response: Response, now: float = 0.0) -> Answer:
        """Return the meaning of the response to `token_request` (RFC 8628 section 3.5)."""

    def wrong_approver(self, claims: Fields | None) -> str | None:
        """Return why the person who approved is not accepted; None if the person is.

        Args:
            claims: The claims of the id token; None without one.
        """

    def revocation_request(self, token: Secret, hint: str) -> Request | None:
        """Return the request that revokes a token (RFC 7009); None without an endpoint."""

    def refresh_request(self, token: Token) -> Request:
        """Return the request for the next token (RFC 6749 section 6).

        Raises:
            UsageError: The token cannot be refreshed.
        """

    def check_requests(self, metadata: Fields, token: Token) -> tuple[Request, ...]:
        """Return the requests that ask the server whether an access token is valid, best first."""

    def read_check(self, request: Request, response: Response) -> bool | None:
        """Return whether the token is valid, by a response to one of these, if that says so."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types, for `deviceflow.providers.codec`."""
