"""The server's logins, in memory, and the rules that both dialects share."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.server.settings import Settings

Dialect = Literal["rfc8628", "studio"]

# RFC 8628 section 6.1: without vowels, and without letters that look like digits.
_ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"
_SLOW_DOWN_STEP: Final = 5.0
_REMEMBERED: Final = 3600.0


class Status(StrEnum):
    """What became of a login, as the server sees it."""

    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"
    EXPIRED = "expired"


Decision = Literal[Status.APPROVED, Status.DENIED]

_ENDS: Final = (Status.DENIED, Status.USED, Status.EXPIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asks a person to approve. All texts can be printed, except `client_id`.

    Attributes:
        dialect: The dialect of the request.
        client: The client's name, or its id where the dialect has no names.
        client_id: The client's id as the client sent it; None in Studio's dialect.
        scopes: The scopes asked for.
        resource: Where the token will be used (RFC 8707).
        audience: Who the token is for, for servers that take this parameter.
        purpose: Why the login is needed, as the client states it.
        token_name: The name of the token.
        team_names: The teams that the token is for.
        all_teams: Whether the token is for all teams.
        expires_in_days: The token's lifetime in days.
        never_expires: Whether the token never expires.
    """

    dialect: Dialect
    client: str
    client_id: str | None = None
    scopes: tuple[str, ...] = ()
    resource: tuple[str, ...] = ()
    audience: str | None = None
    purpose: str | None = None
    token_name: str | None = None
    team_names: tuple[str, ...] = ()
    all_teams: bool = False
    expires_in_days: int | None = None
    never_expires: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLogin:
    """One login at one moment. It is immutable: a change makes a new object.

    Attributes:
        asked: What the client asked for.
        device_code: The secret that the client polls with.
        user_code: The code that the person types.
        asked_at: When the client asked, in the clock's seconds.
        expires_at: When the codes expire, in the clock's seconds.
        interval: Seconds that the client must leave between two token requests.
        last_request: When the last token request arrived, in the clock's seconds.
        status: What became of the login so far.
    """

    asked: Asked
    device_code: str = field(repr=False)
    user_code: str
    asked_at: float
    expires_at: float
    interval: float
    last_request: float | None = None
    status: Status = Status.WAITING


@dataclass(slots=True)
class TokenRequest:
    """The log entry of one token request.

    Attributes:
        monotonic: `time.monotonic()` when the request arrived.
        wall: The server's clock when the request arrived.
        answer: The error code of the response, or `issued`; None until the server responds.
    """

    monotonic: float
    wall: float
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """The login at the moment when a token request arrived.

    Attributes:
        login: The login.
        too_early: Whether less than the interval has passed since the previous request.
        record: The request's log entry.
    """

    login: PendingLogin
    too_early: bool
    record: TokenRequest


class TooManyLoginsError(Exception):
    """The limit of open logins is reached.

    Attributes:
        wait: Seconds until the first of the open logins expires.
    """

    def __init__(self, number: int, wait: float) -> None:
        super().__init__(
            f"Too many open logins: {number}, which is the limit. Deny one, or try again later."
        )
        self.wait = wait


def normalised(user_code: str) -> str:
    """Return a user code for comparison: upper case, no dashes or spaces (RFC 8628 section 6.1)."""
    return "".join(filter(str.isalnum, user_code)).upper()


class PendingLogins:
    """All logins of the server. Thread-safe: each method holds the lock while it runs."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = Lock()
        self._logins: dict[str, PendingLogin] = {}
        self._device_codes: dict[str, str] = {}
        self._requests: dict[str, list[TokenRequest]] = {}

    def new_user_code(self) -> str:
        """Return a user code that no other login has."""
        while True:
            letters = "".join(secrets.choice(_ALPHABET) for _ in range(8))
            if letters not in self._device_codes:
                return f"{letters[:4]}-{letters[4:]}"

    def add(self, asked: Asked, device_code: str, user_code: str) -> PendingLogin:
        """Add a login.

        Raises:
            TooManyLoginsError: The limit of open logins is reached.
        """
        with self._lock:
            now = self._clock()
            self._drop_ended(now)
            login = PendingLogin(
                asked=asked,
                device_code=device_code,
                user_code=user_code,
                asked_at=now,
                expires_at=now + self._settings.expires_in,
                interval=self._settings.interval,
            )
            self._logins[device_code] = login
            self._device_codes[normalised(user_code)] = device_code
            self._requests[device_code] = []
            return login

    def poll(self, device_code: str, dialect: Dialect) -> Poll | None:
        """Record a token request. None if no login of that dialect has the device code."""
        with self._lock:
            now = self._clock()
            login = self._current(device_code, now)
            if login is None or login.asked.dialect != dialect:
                return None
            too_early = login.last_request is not None and (
                now - login.last_request < login.interval
            )
            self._change(device_code, last_request=now)
            record = TokenRequest(time.monotonic(), now)
            self._requests[device_code].append(record)
            return Poll(login, too_early, record)

    def slow_down(self, poll: Poll) -> None:
        """Increase the login's interval by 5 seconds (RFC 8628 section 3.5)."""
        with self._lock:
            code = poll.login.device_code
            self._change(code, interval=self._logins[code].interval + _SLOW_DOWN_STEP)

    def redeem(self, poll: Poll) -> bool:
        """Use up an approved code. False if another request has used it already."""
        with self._lock:
            code = poll.login.device_code
            if self._logins[code].status is not Status.APPROVED:
                return False
            self._change(code, status=Status.USED)
            return True

    def find(self, user_code: str) -> PendingLogin | None:
        """Return the login that has the user code, with any status."""
        with self._lock:
            return self._by_user_code(user_code)

    def decide(self, user_code: str, decision: Decision) -> bool:
        """Approve or deny a login. False if no login with that code is waiting."""
        with self._lock:
            login = self._by_user_code(user_code)
            if login is None or login.status is not Status.WAITING:
                return False
            self._change(login.device_code, status=decision)
            return True

    def expire(self, user_code: str) -> bool:
        """Let a login expire now. False if its code is used or has expired already."""
        with self._lock:
            login = self._by_user_code(user_code)
            if login is None or login.status in (Status.USED, Status.EXPIRED):
                return False
            self._change(login.device_code, expires_at=self._clock())
            return True

    def log(self) -> list[tuple[PendingLogin, list[TokenRequest]]]:
        """Return every login with its token requests, oldest first."""
        with self._lock:
            now = self._clock()
            current = (self._current(code, now) for code in self._logins)
            return [(login, self._requests[login.device_code][:]) for login in current if login]

    def _by_user_code(self, user_code: str) -> PendingLogin | None:
        device_code = self._device_codes.get(normalised(user_code), "")
        return self._current(device_code, self._clock())

    def _current(self, device_code: str, now: float) -> PendingLogin | None:
        login = self._logins.get(device_code)
        if login and login.status is not Status.USED and now >= login.expires_at:
            return replace(login, status=Status.EXPIRED)
        return login

    def _change(self, device_code: str, **fields: object) -> None:
        self._logins[device_code] = replace(self._logins[device_code], **fields)  # type: ignore[arg-type]

    def _drop_ended(self, now: float) -> None:
        """Delete ended logins: those that expired an hour ago, and the oldest beyond the limit."""
        limit = self._settings.open_logins
        logins = [self._current(code, now) or login for code, login in self._logins.items()]
        ended = [login for login in logins if login.status in _ENDS]
        if len(logins) - len(ended) >= limit:
            first = min(login.expires_at for login in logins if login.status not in _ENDS)
            raise TooManyLoginsError(limit, first - now)
        before = now - _REMEMBERED
        too_many = max(0, len(ended) - limit)
        for number, login in enumerate(ended):
            if number < too_many or login.expires_at < before:
                del self._logins[login.device_code]
                del self._requests[login.device_code]
                del self._device_codes[normalised(login.user_code)]
