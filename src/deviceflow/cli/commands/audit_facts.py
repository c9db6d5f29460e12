"""What the commands of `deviceflow audit` say of each login and each grant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.audit.events import text_of
from deviceflow.core.actions import POLL
from deviceflow.core.sanitize import printable
from deviceflow.trail.grant_view import Grant
from deviceflow.trail.login_view import counted, span

if TYPE_CHECKING:
    from deviceflow.trail.login_view import Login


def outcome(login: Login) -> str:
    """Return the state, with the reason if there is one."""
    state = printable(login.state, 20)
    return f"{state}: {printable(login.reason, 40)}" if login.reason else state


def moment(at: float) -> str:
    """Return a time in UTC, to the millisecond."""
    return text_of(at)[:23].replace("T", " ")


def entry(login: Login) -> str:
    """Return a login or a grant in one line."""
    did = counted(login.count(POLL), "poll")
    if isinstance(login, Grant):
        did = "1 refresh" if login.refreshes == 1 else f"{login.refreshes:,} refreshes"
    who = (login.client, login.issuer, login.actor)
    client, issuer, actor = (printable(name or "?", 100) for name in who)
    return (
        f"{printable(login.id, 40):<16}  {moment(login.started)[:19]}  {outcome(login):<20}"
        f"  {did:>9} in {span(login.seconds):<10}  {client} at {issuer} by {actor}"
    )


def facts(login: Login) -> dict[str, Any]:
    """Return a login or a grant as JSON types."""
    shared = {
        "flow_id": login.id,
        "kind": "grant" if isinstance(login, Grant) else "login",
        "started": text_of(login.started),
        "ended": None if login.ended is None else text_of(login.ended),
        "state": login.state,
        "reason": login.reason,
        "client": login.client,
        "issuer": login.issuer,
        "actor": login.actor,
        "purpose": login.purpose,
    }
    if isinstance(login, Grant):
        needs = login.needs()
        return shared | {
            "generation": login.generation,
            "refreshes": login.refreshes,
            "losses": login.losses.total(),
            "needs_raised": len(needs),
            "needs_open": sum(need.until is None for need in needs),
        }
    return shared | {
        "polls": login.count(POLL),
        "seconds": round(login.seconds, 3),
        "approved_after": login.approved_after and round(login.approved_after, 3),
    }
