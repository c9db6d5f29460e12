"""What the commands of `deviceflow audit` say of each login and each grant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.audit.events import text_of
from deviceflow.core.actions import POLL
from deviceflow.core.sanitize import printable
from deviceflow.trail.grant_view import Grant
from deviceflow.trail.login_view import NO_ID_TOKEN, Cause, counted, span

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
    did, asked = counted(login.count(POLL), "poll"), "requested by"
    if isinstance(login, Grant):
        did = "1 refresh" if login.refreshes == 1 else f"{login.refreshes:,} refreshes"
        asked = "needed by"
    who = (login.client, login.issuer, login.actor)
    client, issuer, actor = (printable(name or "?", 100) for name in who)
    approved = f"; approved by: {printable(login.approved.words(), 100)}" if login.approved else ""
    return (
        f"{printable(login.id, 40):<16}  {printable(login.name or '-', 100):<12}"
        f"  {moment(login.started)[:19]}  {outcome(login):<20}"
        f"  {did:>9} in {span(login.seconds):<10}  {client} at {issuer}, {asked} {actor}{approved}"
    )


def facts(login: Login, origin: Login | None = None) -> dict[str, Any]:
    """Return a login or a grant as JSON types.

    Args:
        login: The login or the grant.
        origin: The login that the grant's tokens descend from, if the trail still has it.
    """
    grant = login if isinstance(login, Grant) else None
    shared = {
        "flow_id": login.id,
        "name": login.name,
        "kind": "grant" if isinstance(login, Grant) else "login",
        "started": text_of(login.started),
        "ended": None if login.ended is None else text_of(login.ended),
        "state": login.state,
        "reason": login.reason,
        "client": login.client,
        "issuer": login.issuer,
        "actor": login.actor,
        "purpose": login.purpose,
        "requested_by": _cause(login.requested if grant is None else grant.requested_by(origin)),
        "approved_by": _approval(login),
    }
    if isinstance(login, Grant):
        needs = login.needs()
        return shared | {
            "needed_by": _cause(login.needed),
            "used_by": [_cause(Cause(*use)) for use in login.uses],
            "generation": login.generation,
            "refreshes": login.refreshes,
            "losses": login.losses.total(),
            "needs_raised": len(needs),
            "needs_open": sum(need.until is None for need in needs),
        }
    return shared | {
        "used_by": [_cause(login.collected)] if login.collected else [],
        "polls": login.count(POLL),
        "seconds": round(login.seconds, 3),
        "approved_after": login.approved_after and round(login.approved_after, 3),
    }


def _cause(cause: Cause | None) -> dict[str, Any] | None:
    return None if cause is None else cause._asdict() | {"time": text_of(cause.time)}


def _approval(login: Login) -> dict[str, Any] | None:
    approved = login.approved
    if approved is None:
        return None
    why = NO_ID_TOKEN if approved.subject is None else None
    return {"time": text_of(approved.time), "subject": approved.subject, "why_unknown": why}
