"""The settings of the local server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from deviceflow.core.sanitize import is_loopback
from deviceflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BODY: Final = 64 * 1024
"""The longest request body that is accepted, in bytes."""

_HIGHEST_PORT: Final = 65535
_POSITIVE: Final = (
    "access_token_lifetime",
    "expires_in",
    "guess_limit",
    "guess_window",
    "open_logins",
    "refresh_token_lifetime",
)

RateCheck = Literal["before", "after", "off"]
RefreshTokens = Literal["rotate", "repeat", "keep", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the server behaves.

    Attributes:
        host: The loopback name or address to listen on, such as `127.0.0.1` or `::1`.
        port: The TCP port to listen on; 0 chooses a free one.
        expires_in: Lifetime of a device code and its user code, in seconds (RFC 8628 section 3.2).
        interval: Seconds between two token requests for one code (RFC 8628 section 3.2). Each
            `slow_down` adds 5 s for that code. Studio's dialect has no interval.
        rate_check: When the server answers `slow_down` to a token request that comes too early.
            `after`: only while nobody has decided (RFC 8628 section 3.5). `before`: even after
            the approval, as GitHub does; a client that always polls too early then never sees the
            approval. `off`: never.
        access_token_lifetime: Lifetime of an access token in seconds.
        refresh_tokens: What a refresh does to the refresh token (RFC 6749 section 6). `rotate`:
            the answer has a new one, and the old one must not come again. `repeat`: the refresh
            token stays, and each answer contains it. `keep`: the refresh token stays, and answers
            to refreshes do not contain it. `none`: no refresh token is issued at all.
        refresh_scope: The scope that a login must ask for to get a refresh token. If empty, every
            login gets one.
        refresh_token_lifetime: Lifetime of a refresh token in seconds, from its issue.
        reuse_detection: Whether the server revokes the grant with all its tokens when a replaced
            refresh token comes again (RFC 9700 section 4.14). If not, it only refuses that token.
        refresh_ends_token: Whether a refresh ends the access token that it replaces, as GitHub's
            and GitLab's servers do.
        invalid_token_status: The HTTP status with which the resource answers a token that is not
            valid (RFC 6750 section 3.1); 403 as with django-oauth-toolkit.
        reuse_grace: For how many seconds after a refresh the server answers the old refresh token
            with the same new one, unless somebody has used the new one. 0 means never.
        client_secrets: The clients that must authenticate (RFC 6749 section 2.3): client id to
            secret.
        any_client: Whether to accept client ids without a secret here, as public clients.
        guess_limit: How many wrong user codes all visitors together may enter within
            `guess_window`, before the page answers 429 (RFC 8628 section 5.1).
        guess_window: Seconds for which a wrong user code counts.
        open_logins: How many logins may be open at once. A request for another one is answered
            503.
        control: Whether to serve `/control/`, where a test approves, denies and expires logins
            without a person, ends tokens and grants, and spoils answers. Whoever can reach the
            port can then approve any login.

    Raises:
        InvalidArgumentError: The host is not loopback, or a number is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 0
    expires_in: int = 900
    interval: float = 5.0
    rate_check: RateCheck = "after"
    access_token_lifetime: int = 3600
    refresh_tokens: RefreshTokens = "rotate"
    refresh_scope: str = "offline_access"
    refresh_token_lifetime: int = 30 * 86400
    reuse_detection: bool = True
    reuse_grace: float = 0.0
    refresh_ends_token: bool = False
    invalid_token_status: int = 401
    client_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    any_client: bool = True
    guess_limit: int = 10
    guess_window: float = 60.0
    open_logins: int = 1000
    control: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise InvalidArgumentError(
                f"{self.host!r} is not a loopback address. The local server lets anybody who can"
                f" connect approve logins, so it listens on this machine only."
                f" Use 127.0.0.1 or ::1."
            )
        for name, choices in (("rate_check", RateCheck), ("refresh_tokens", RefreshTokens)):
            if (value := getattr(self, name)) not in get_args(choices):
                raise InvalidArgumentError(
                    f"{name} must be one of {get_args(choices)}, not {value!r}."
                )
        if not 0 <= self.port <= _HIGHEST_PORT:
            raise InvalidArgumentError(
                f"port must be between 0 and {_HIGHEST_PORT}, not {self.port}."
            )
        if self.invalid_token_status not in (401, 403):
            raise InvalidArgumentError(
                f"invalid_token_status must be 401 or 403, not {self.invalid_token_status}."
            )
        for name in ("interval", "reuse_grace"):
            if (value := getattr(self, name)) < 0:
                raise InvalidArgumentError(f"{name} must not be negative, but is {value}.")
        for name in _POSITIVE:
            if (value := getattr(self, name)) <= 0:
                raise InvalidArgumentError(f"{name} must be greater than 0, not {value}.")


DEFAULTS: Final = Settings()
