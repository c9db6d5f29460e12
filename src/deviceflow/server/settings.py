"""What can be set about the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from deviceflow.core.sanitize import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BODY: Final = 64 * 1024
"""How many bytes of a request's body are read."""

_HIGHEST_PORT: Final = 65535

RateCheck = Literal["before", "after", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the server behaves.

    Attributes:
        host: The loopback name or address to listen on, such as `127.0.0.1` or `::1`.
        port: The TCP port to listen on; 0 takes a free one.
        expires_in: Lifetime of a device code and its user code, in seconds (RFC 8628 section 3.2).
        interval: Seconds between two token requests for one code (RFC 8628 section 3.2). Each
            `slow_down` adds 5 s for that code. Studio's dialect has no interval.
        rate_check: When a token request that came too early is answered `slow_down`. `after`:
            only while nobody has decided, as RFC 8628 section 3.5 has it. `before`: whatever was
            decided, as GitHub does it, so that a client that always polls too early never sees
            the approval. `off`: never.
        client_secrets: The clients that must authenticate (RFC 6749 section 2.3): client id to
            secret.
        any_client: Whether client ids that have no secret here are accepted, as public clients.
        guess_limit: How many wrong user codes are accepted within `guess_window`, from everybody
            together, before the page answers 429 (RFC 8628 section 5.1).
        guess_window: Seconds for which a wrong user code counts.
        open_logins: How many logins may be open at once. To ask for one more is answered 503.
        control: Whether to serve `/control/`, where a test approves, denies and expires logins
            without a person. Whoever reaches the port can then approve anything.

    Raises:
        ValueError: The host is not loopback, or a number makes no sense.
    """

    host: str = "127.0.0.1"
    port: int = 0
    expires_in: int = 900
    interval: float = 5.0
    rate_check: RateCheck = "after"
    client_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    any_client: bool = True
    guess_limit: int = 10
    guess_window: float = 60.0
    open_logins: int = 1000
    control: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise ValueError(
                f"The local server approves logins for whoever asks, so it listens on this"
                f" machine only: {self.host!r} is not a loopback address. Use 127.0.0.1 or ::1."
            )
        if self.rate_check not in get_args(RateCheck):
            raise ValueError(f"rate_check is one of {get_args(RateCheck)}: {self.rate_check!r}.")
        if not 0 <= self.port <= _HIGHEST_PORT:
            raise ValueError(f"port is between 0 and {_HIGHEST_PORT}: {self.port}.")
        if self.interval < 0:
            raise ValueError(f"interval is not negative: {self.interval}.")
        for name in ("expires_in", "guess_limit", "guess_window", "open_logins"):
            if (value := getattr(self, name)) <= 0:
                raise ValueError(f"{name} is more than 0: {value}.")


DEFAULTS: Final = Settings()
