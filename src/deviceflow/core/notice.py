"""What a program is told of a need: when it arises, each day that it lasts, and when it ends.

A program is also told of a long outage of the server, and of its end: see `deviceflow.core.need`.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

from deviceflow.core import wording
from deviceflow.core.need import WHY
from deviceflow.core.sanitize import printable
from deviceflow.core.secret import Secret
from deviceflow.core.wire import FAILURE_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.core.grant import Grant
    from deviceflow.core.need import Need

SCHEMA: Final = "deviceflow.need/1"
PATH: Final = "need"
"""The first part of the path of a need's page, behind the public URL."""

_LONGEST_TEXT: Final = 8000
_ENDS: Final = {
    "logged_in": "A person has logged in.",
    "late_answer": "The tokens arrived late, and nobody needs to log in.",
    "logged_out": "The need was ended without a login.",
}
_ENDS_OF_OUTAGE: Final = {"answered": "the server answers again"}


def page_of(pages: str | None, link: Secret) -> Secret | None:
    """Return the address of a need's page, where it is known where the pages are."""
    text = link.reveal()
    return Secret(f"{pages}/{PATH}/{text}") if pages and text else None


def argument(name: str) -> str:
    """Return a grant's name as a shell takes it behind a command."""
    return f"{'-- ' if name.startswith('-') else ''}{shlex.quote(name)}"


def login_command(name: str, option: str = "") -> str:
    """Return the command that logs in for a grant from any shell.

    Args:
        name: The grant's name.
        option: What names the store, such as `--store URL`; empty for the user's own.
    """
    return _command("login", name, option)


def _command(verb: str, name: str, option: str) -> str:
    return f"deviceflow {verb} {option}{' ' if option else ''}{argument(name)}"


class LoginNeed(NamedTuple):
    """One notification of a need. All times are in seconds since 1970.

    Attributes:
        id: The id of the need or the outage. All notifications of one have the same id.
        name: The grant's name.
        purpose: Why the grant is needed, as the program stated it.
        reason: Why a person must log in: `never_logged_in`, `logged_out`, or the `Loss` of the
            grant.
        server: The server to log in to.
        scopes: The scopes that the login asks for.
        host: The machine of the program that asked.
        since: When the need arose, or the outage began.
        number: The number of this notification of the need, from 1. A repeated notification has the
            same number.
        ended_at: When the need ended; None while a person must log in.
        end: Why the need ended: `logged_in`, `late_answer`, `logged_out`, or for an outage
            `answered`; None while it lasts.
        link: The address of the need's page, hidden; None if the client does not know where the
            pages are, and after the end. Whoever has the link can request a code.
        outage: What an outage comes to, in words; None for a need. Nobody needs to log in.
        store: The option of a command that names the store; empty for the user's own store.
    """

    id: str
    name: str
    purpose: str | None
    reason: str
    server: str
    scopes: Sequence[str]
    host: str | None
    since: float
    number: int
    ended_at: float | None
    end: str | None
    link: Secret | None
    outage: str | None = None
    store: str = ""

    @classmethod
    def of(cls, grant: Grant, need: Need, pages: str | None, store: str = "") -> Self:
        """Return what to tell of a grant's need, or of an outage of its server."""
        outage = None
        if need.is_outage:
            outage = wording.silence(need.since, grant.unanswered)
            if need.lasts and grant.detail:
                outage += f", last: {FAILURE_WORDS.get(grant.detail, grant.detail)}"
        return cls(
            id=need.id,
            name=grant.name,
            purpose=grant.purpose,
            reason=str(need.reason),
            server=grant.asked.server,
            scopes=tuple(grant.asked.scopes),
            host=need.host,
            since=need.since,
            number=need.notified + 1,
            ended_at=need.ended_at,
            end=None if need.end is None else str(need.end),
            link=page_of(pages, need.link) if need.lasts else None,
            outage=outage,
            store=store,
        )

    @property
    def kind(self) -> Literal["needed", "still_needed", "ended", "outage", "outage_ended"]:
        """What is told: that the need arose, that it lasts, or that it ended; or of an outage."""
        if self.outage is not None:
            return "outage" if self.ended_at is None else "outage_ended"
        if self.ended_at is not None:
            return "ended"
        return "needed" if self.number == 1 else "still_needed"

    @property
    def command(self) -> str:
        """The command that shows a fresh code. It names the store, without a password.

        In an outage, it is the command that shows the grant.
        """
        if self.outage is not None:
            return _command("status", self.name, self.store)
        return login_command(self.name, self.store)

    def how_to_log_in(self, *, link: bool = True) -> str:
        """Return what to open or to type: the link in clear, or the command if there is no link.

        Args:
            link: Whether the link may be revealed.
        """
        return self.command if self.link is None or not link else self.link.reveal()

    def in_words(self, *, link: bool = False) -> str:
        """Return what is told, for a person.

        Args:
            link: Whether to reveal the link in it.
        """
        return printable(self._in_words(link=link), _LONGEST_TEXT)

    def _in_words(self, *, link: bool) -> str:
        if self.outage is not None and self.end is not None:
            how = _ENDS_OF_OUTAGE.get(self.end, "the grant is not refreshed any more")
            return f"{self.name}: the outage of {self.server} is over: {how}."
        if self.outage is not None:
            return (
                f"{self.name}: {self.server} has given {self.outage}. Nobody needs to log in:"
                f" deviceflow asks again until the server answers. To look: {self.command}"
            )
        if self.end is not None:
            return f"{self.name} needs no login any more. {_ENDS.get(self.end, '')}".rstrip()
        since = wording.moment(self.since)
        why = f" Purpose: {self.purpose}." if self.purpose else ""
        still = "still " if self.kind == "still_needed" else ""
        return (
            f"{self.name} {still}needs somebody to log in at {self.server}, since {since}."
            f" {WHY[self.reason]}{why} To log in: {self.how_to_log_in(link=link)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types, the link in clear: it is for whoever is to be told."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "purpose": self.purpose,
            "reason": self.reason,
            "server": self.server,
            "scopes": [*self.scopes],
            "host": self.host,
            "since": self.since,
            "number": self.number,
            "ended_at": self.ended_at,
            "end": self.end,
            "command": None if self.ended_at is not None else self.command,
            "link": None if self.link is None else self.link.reveal(),
            "how_to_log_in": None if self.ended_at is not None else self.how_to_log_in(),
            "text": self.in_words(link=True),
        }
