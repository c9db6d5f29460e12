"""What the engine needs of a provider: what to send, and what an answer means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypedDict, Unpack

from deviceflow.core.machine import Reason
from deviceflow.core.sanitize import LONGEST_URL
from deviceflow.core.secret import Secret
from deviceflow.core.text import NOTHING, CleanText, Known, cleaned, ours
from deviceflow.core.wire import Fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.core.text import PersonText
    from deviceflow.core.wire import Request, Response

Pairs = Iterable[tuple[str, str]] | Mapping[str, str]

DEFAULT_INTERVAL: Final = 5.0
"""Seconds between polls where the server names none (RFC 8628 section 3.2)."""

LONGEST_USER_CODE: Final = 100

_LIMITS: Final = {
    "device_code": 8192,
    "user_code": LONGEST_USER_CODE,
    "verification_uri": LONGEST_URL,
    "verification_uri_complete": LONGEST_URL,
    "token_uri": LONGEST_URL,
}


def too_long(**sent: str | None) -> str | None:
    """Return what of a device authorization answer is longer than may be, in words, or None.

    Args:
        **sent: What the server sent, under the names of RFC 8628 and of DVC Studio.
    """
    for name, text in sent.items():
        if text is not None and len(text) > _LIMITS[name]:
            return f"{name} is too long: {len(text)} characters of at most {_LIMITS[name]}"
    return None


_BEARER: Final = ours("Bearer")


@dataclass(slots=True)
class DeviceCode:
    """A device authorization answer (RFC 8628 section 3.2), checked and bounded.

    Attributes:
        device_code: What the program polls with.
        user_code: What the person is shown; None where a code was adopted without it. The repr
            leaves it out, and the addresses too: tracebacks are logged.
        verification_uri: The page to open; None where the server sent none that can be opened.
        verification_uri_complete: The same with the user code in it.
        token_endpoint: Where to poll; checked.
        interval: Seconds between polls.
        expires_in: The code's lifetime in seconds; None leaves it to the server alone.
        extra: What else the server sent that later steps or the caller need.
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
    """What a login is for: the answer of RFC 6749 section 5.1.

    Attributes:
        access_token: The token itself, hidden: `token.access_token.reveal()`.
        possibly_revoked: Whether the code was used again after it brought this token, upon which
            some servers revoke what they had issued (RFC 6749 section 4.1.2).
        token_type: How to use it, mostly `Bearer`.
        expires_at: When it expires, in seconds since 1970; None where the server does not say.
        refresh_token: What to get the next one with, hidden too.
        scopes: What was granted; None where the server does not say, which means: as asked.
        missing_scopes: What was asked for and not granted, where the server says what was.
        id_token: Who approved, as the server says (OpenID Connect), hidden too.
        extra: What else came with it.
    """

    access_token: Secret
    possibly_revoked: bool = False
    token_type: CleanText = _BEARER
    expires_at: float | None = None
    refresh_token: Secret | None = None
    scopes: tuple[CleanText, ...] | None = None
    missing_scopes: tuple[CleanText, ...] = ()
    id_token: Secret | None = None
    extra: Fields = field(default_factory=lambda: Fields({}))

    def __post_init__(self) -> None:
        self.hide(Known(self.access_token, self.refresh_token, self.id_token))

    def hide(self, known: Known) -> None:
        """Take secrets out of what is kept and logged of the token: a server may echo them."""
        self.token_type = CleanText(self.token_type, known)
        self.scopes = None if self.scopes is None else cleaned(self.scopes, known)
        self.missing_scopes = cleaned(self.missing_scopes, known)

    def as_dict(self) -> dict[str, Any]:
        """Return it in clear, as sessions of Authlib and requests-oauthlib take it."""
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
        """Return the record as JSON types, secrets included."""
        return {
            "access_token": self.access_token.reveal(),
            "possibly_revoked": self.possibly_revoked,
            "token_type": self.token_type,
            "expires_at": self.expires_at,
            "refresh_token": self.refresh_token and self.refresh_token.reveal(),
            "scopes": None if self.scopes is None else list(self.scopes),
            "missing_scopes": list(self.missing_scopes),
            "id_token": self.id_token and self.id_token.reveal(),
            "extra": self.extra.as_dict(),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the token that `to_dict` gave `record` of.

        Raises:
            TypeError: A part of it is not what it should be.
        """
        scopes, expires_at = record["scopes"], record["expires_at"]
        if not isinstance(record["token_type"], str) or not isinstance(record["extra"], dict):
            raise TypeError
        if expires_at is not None and not isfinite(expires_at):
            raise TypeError
        return cls(
            Secret.of(record["access_token"]),
            possibly_revoked=record["possibly_revoked"] is True,
            token_type=ours(record["token_type"]),
            expires_at=None if expires_at is None else float(expires_at),
            refresh_token=Secret.of(record["refresh_token"]) if record["refresh_token"] else None,
            scopes=None if scopes is None else cleaned(map(str, scopes), NOTHING),
            missing_scopes=cleaned(map(str, record["missing_scopes"]), NOTHING),
            id_token=Secret.of(record["id_token"]) if record["id_token"] else None,
            extra=Fields(record["extra"]),
        )


Outcome = Literal["issued", "pending", "slow_down", "denied", "expired", "retry", "refused"]


@dataclass(slots=True)
class Answer:
    """What a server's answer means to a login.

    Attributes:
        outcome: The meaning.
        code: The device code, where one was issued.
        token: The token, where one was issued.
        error: The server's own error code or text, to be made a `CleanText` of.
        reason: Why the login failed, where `outcome` is `refused`.
        interval: The new interval in seconds, where `slow_down` named one.
        once: Whether a refusal is to be believed only when it comes again: some servers do not
            find a code at the very moment of its approval (https://github.com/cli/cli/issues/9302).
        unfit: Why a token that was issued may not be taken: the reason, and words for it.
        claims: Who approved, from the id token, where one came.
        unreadable: Whether this was no answer of this protocol at all. Three in a row end a flow.
        in_doubt: Whether the server may have issued a token and used the code up nevertheless.
    """

    outcome: Outcome
    code: DeviceCode | None = None
    token: Token | None = None
    error: str | None = field(default=None, repr=False)
    reason: Reason = Reason.REJECTED
    interval: float = 0.0
    once: bool = False
    unfit: tuple[Reason, CleanText] | None = None
    claims: Fields | None = None
    unreadable: bool = False
    in_doubt: bool = False


class LoginRequest(TypedDict, total=False):
    """What one login asks for, instead of what the provider's own settings say.

    No provider takes all of it: OAuth servers take the first five, DVC Studio takes `scopes` and
    the rest. What the provider does not take is refused with a `UsageError`.

    Attributes:
        scopes: The scopes: a list, or one text with spaces (at DVC Studio with commas) in it.
        audience: Who the token is for, where the server wants to know.
        resource: Where the token is to be used, one address or more (RFC 8707).
        parameters: What else to send in the device authorization request.
        require: Who must approve: claims of the id token that must be so.
        client_name: The program, as DVC Studio shows it to the person.
        token_name: What to call the token.
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
            claims: Those of the id token that came with it, verified as far as the provider says.
        """


class Provider(Protocol):
    """One server and what one login asks of it: plain settings, hashable, and pure functions.

    Attributes:
        dialect: The name under which `deviceflow.providers` knows the class.
        server: The server's address, for people and for the audit.
        allow_http: Whether plain http to another machine is allowed.
        client_id: The client as the server knows it, where the dialect has that.
        client_name: The client as a person is shown it, where the dialect has that.
        scopes: The scopes that are asked for.
        first_wait: Seconds from the code to the first poll; None for the interval.
        margin: Seconds to add to the interval against servers that count arrivals.
        uses_pkce: Whether a login has a PKCE verifier (RFC 7636).
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

    @property
    def uses_pkce(self) -> bool: ...

    def metadata_urls(self) -> tuple[str, ...]:
        """Return where the server's metadata may be, in order; none where it is not needed."""

    def with_metadata(self, metadata: Fields) -> Self:
        """Return the same provider with what its metadata says.

        Raises:
            ProtocolError: The metadata is another server's, or offers no device grant.
        """

    def code_request(self, verifier: Secret | None = None, purpose: str | None = None) -> Request:
        """Return the device authorization request (RFC 8628 section 3.1).

        Args:
            verifier: The PKCE verifier, where the login has one.
            purpose: Why the login is needed. It is sent only to a server that is known to take it.
        """

    def read_code(self, response: Response) -> Answer:
        """Say what the answer to `code_request` means: issued, retry or refused."""

    def token_request(
        self, token_endpoint: str, device_code: Secret, verifier: Secret | None = None
    ) -> Request:
        """Return the token request (RFC 8628 section 3.4)."""

    def read_token(self, response: Response, now: float = 0.0) -> Answer:
        """Say what the answer to `token_request` means (RFC 8628 section 3.5)."""

    def revocation_request(self, token: Secret, hint: str) -> Request | None:
        """Return the request that revokes a token (RFC 7009), where the server takes one."""

    def refresh_request(self, token: Token) -> Request:
        """Return the request for the next token (RFC 6749 section 6).

        Raises:
            UsageError: There is no such thing here.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types, for `deviceflow.providers.codec`."""
