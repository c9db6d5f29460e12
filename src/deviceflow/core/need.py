"""A need: the fact that a person must log in for a grant, and when the program is told of that.

The program is told when a need arises, again each day that the need lasts, and when the need has
ended: at least once each, with the need's id to recognize repetitions by. The end of a need that
nobody was told of is not told either. As in `deviceflow.core.grant`, nothing here does I/O or reads
a clock.

An outage, during which a server gives no usable answer to the refreshes of a grant, is told in the
same way, but once: nobody can do anything about it in deviceflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from deviceflow.core import pacing
from deviceflow.core.states import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.secret import Secret
    from deviceflow.core.states import NeedEnd

NOTIFY_AGAIN: Final = 86400.0
"""Seconds after which the program is notified again of a need that lasts."""

LONGEST_NOTICE: Final = 120.0
"""Seconds that nobody else notifies the program, after one process has begun to."""

CODES: Final = 5
"""How many codes can be requested for a need in a row."""

CODE_EACH: Final = 300.0
"""Seconds after which one more code can be requested."""

MOST_UNTOLD: Final = 4
"""How many ended needs of a grant are kept until the program is told of their end."""

WHY: Final[Mapping[str, str]] = {
    "never_logged_in": "Nobody has logged in yet.",
    "logged_out": "It was logged out.",
    Loss.REFUSED: "The server refused its refresh token.",
    Loss.UNKNOWN: "The answer to a refresh was lost, and the server refuses the refresh token now.",
    Loss.LAPSED: "Its token has expired, and there is no refresh token.",
    Loss.INVALIDATED: "A server refused its token, and there is no refresh token.",
    Loss.WRONG_SUBJECT: "A refresh brought tokens of somebody else, or of a person who is not"
    " accepted. They were not taken.",
}
"""Why a person must log in: each reason, in words. The set is closed."""

NO_ANSWER: Final = "no_answer"
"""The reason of an outage, which does not need a login: the server gives no usable answer."""

OUTAGE_AFTER: Final = 3600.0
"""Seconds after which the program is told of an outage, unless the client says otherwise."""

_TOLERANCE: Final = 60.0
_FUTURE: Final = NOTIFY_AGAIN + 3600.0


def why_lost(loss: str, detail: str | None) -> str:
    """Return in a sentence why a grant was lost, and what the server answered."""
    why = WHY.get(loss, f"{loss}.")
    return why if not detail else f"{why.removesuffix('.')}: {detail.removesuffix('.')}."


class Need(NamedTuple):
    """That a person must log in. All times are in seconds since 1970.

    Attributes:
        id: A random id. It is not secret.
        reason: Why a person must log in: a key of `WHY`; or `NO_ANSWER`.
        since: When the need arose.
        link: The unguessable part of the address of its page.
        notify_at: When the program is to be notified next; None for never.
        notified: How many times the program was notified.
        notified_at: When the program was last notified; None if it never was.
        failures: How many notifications in a row failed.
        ended_at: When the need ended; None while it lasts.
        end: Why it ended.
        host: The machine of the program that asked, as that says.
        codes_at: The time from which the full number of codes can be requested again.
    """

    id: str
    reason: str
    since: float
    link: Secret
    notify_at: float | None
    notified: int = 0
    notified_at: float | None = None
    failures: int = 0
    ended_at: float | None = None
    end: NeedEnd | None = None
    host: str | None = None
    codes_at: float = 0.0

    @property
    def lasts(self) -> bool:
        """Whether a person must still log in, or the outage goes on."""
        return self.ended_at is None

    @property
    def is_outage(self) -> bool:
        """Whether this is an outage of the server, for which nobody needs to log in."""
        return self.reason == NO_ANSWER

    def is_to_notify(self, now: float) -> bool:
        """Tell whether the program is to be notified now."""
        at = self.notify_at
        return at is not None and (at <= now or at > now + _FUTURE)  # the clock was set back

    def is_reserved(self, now: float) -> bool:
        """Tell whether nobody is to be notified yet, since somebody was there to log in."""
        if self.notified or self.failures or self.notify_at is None:
            return False
        return now + _TOLERANCE < self.notify_at <= now + _FUTURE

    def told(self, now: float, *, of_end: bool) -> Self:
        """Return the need after the program was notified of it, or of its end."""
        told = self._replace(notified=self.notified + 1, notified_at=now, failures=0)
        if not self.lasts:  # its end may have come while the program was told that it lasts
            return told._replace(notify_at=None if of_end else now)
        return told._replace(notify_at=None if self.is_outage else now + NOTIFY_AGAIN)

    def untold(self, now: float, jitter: float) -> tuple[Self, float]:
        """Return the need after a notification failed, and in how many seconds to try again."""
        failures = self.failures + 1
        wait = round(min(30.0 + pacing.revocation_backoff(failures), 3600.0) * jitter, 6)
        return self._replace(failures=failures, notify_at=now + wait), wait

    def ended(self, now: float, end: NeedEnd) -> Self:
        """Return the need after its end. The end is told to a program that knows of the need."""
        at = now if self.notified else None
        return self._replace(ended_at=now, end=end, notify_at=at, failures=0)

    def code_wait(self, now: float) -> float:
        """Return in how many seconds a code can be requested; 0 for now."""
        ahead = self.codes_at - now
        most = (CODES - 1) * CODE_EACH
        if ahead > most + CODE_EACH:
            return 0.0  # the clock was set back
        return max(0.0, ahead - most)

    def code_requested(self, now: float) -> Self:
        """Return the need after a code was requested."""
        ahead = self.codes_at - now
        behind = not 0 < ahead <= CODES * CODE_EACH
        return self._replace(codes_at=(now if behind else self.codes_at) + CODE_EACH)
