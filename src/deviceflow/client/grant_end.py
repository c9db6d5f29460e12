"""What else can be done with a grant: look at it, report its token, end it; and sweep them all."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow import errors
from deviceflow.audit import log
from deviceflow.client import grant_login, grant_need, grant_refresh
from deviceflow.client.claim import restart_lease
from deviceflow.client.effects import (
    DueGrants,
    Emit,
    FindFlow,
    ListGrants,
    LoadGrant,
    ReadClocks,
    SnoozeGrant,
)
from deviceflow.client.grant_token import Asked, move
from deviceflow.client.purge import wipe
from deviceflow.client.turns import Turn, by_turns
from deviceflow.client.wait import cancel
from deviceflow.core.access_token import AccessToken
from deviceflow.core.grant import Course, check_name
from deviceflow.core.grant_view import GrantView
from deviceflow.core.states import GrantState

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.lease import Clocks
    from deviceflow.client.turns import Work
    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import StoredGrant
    from deviceflow.core.secret import Secret

UNUSED: Final = 14 * 86400.0
"""Seconds without use after which a sweep lets a grant lapse, unless it is told otherwise."""

_MOST_MOVES: Final = 8
_LOOK_FURTHER: Final = 10
"""How many times the limit of a sweep are looked at, so that each server has a turn."""


def _load(name: str) -> Op[StoredGrant]:
    check_name(name)
    clocks: Clocks = yield ReadClocks()
    stored: StoredGrant | None = yield LoadGrant(name, clocks.shared)
    if stored is None:
        raise errors.UnknownGrantError(f"The store has no grant of the name {name!r}.")
    stored.grant.follow_uptime(stored.now, clocks.clock, clocks.uptime)
    return stored


def get(name: str) -> Op[GrantView]:
    """Return the grant of a name as it is stored."""
    stored = yield from _load(name)
    return GrantView.of(stored)


def list_all() -> Op[list[GrantView]]:
    """Return all grants by their names. One that cannot be read is logged."""
    seen, after = list[GrantView](), None
    clocks: Clocks = yield ReadClocks()
    page: list[StoredGrant | str]
    while page := (yield ListGrants(clocks.shared, after)):
        for one in page:
            if isinstance(one, str):
                fields = {"grant": one, "problem": "the record of this grant cannot be read"}
                yield Emit(log.UNREADABLE, fields, logging.WARNING)
                after = one
            else:
                seen.append(GrantView.of(one))
                after = one.grant.name
    return seen


def invalidate(context: Context, name: str, token: AccessToken | Secret | None) -> Op[bool]:
    """Record that a resource server refused an access token, and get the next one.

    If there is none, a person is asked to log in.

    Args:
        context: The client's.
        name: The grant's name.
        token: The token; None for the one in use, as a person says.

    Returns:
        As `refuse`.
    """
    refused = yield from refuse(context, name, token)
    if refused:
        with suppress(errors.LoginPending):
            yield from _tend(context, name)
    return refused


def refuse(
    context: Context, name: str, token: AccessToken | Secret | None, *, sure: bool = False
) -> Op[bool]:
    """Record that a resource server refused an access token, as `invalidate`.

    Args:
        context: The client's.
        name: The grant's name.
        token: The token; None for the one in use, as a person says.
        sure: Whether the server that issued the token says so.

    Returns:
        Whether the token is not used any more. Not if it is not the one in use; nor if its
        predecessor was refused just now, unless a person or the issuer says so.
    """
    secret = token.access_token if isinstance(token, AccessToken) else token
    while True:
        stored = yield from _load(name)
        grant, now = stored.grant, stored.now
        transition: Transition | None
        if grant.token is None:
            return False
        refused = grant.token.access_token if secret is None else secret
        context.tokens.refuse(name, refused)
        is_in_use = grant.token.access_token == refused
        if is_in_use:
            if grant.invalid or grant.state is GrantState.REFRESHING:
                return True  # the next one is under way
            if secret is not None and not sure and grant.is_quiet(now):
                return False
            transition = grant.invalidate(now)
        elif isinstance(token, AccessToken):
            transition = grant.learn_end(token.generation, token.expires_at, now)
        else:
            transition = None
        if transition is None:
            return False
        worker = context.identity.worker()
        if (yield from context.recorder.record_grant(grant, transition, worker)):
            return is_in_use


def log_out(context: Context, name: str) -> Op[GrantView]:
    """End a grant: wipe its tokens, and revoke them where the server can do that."""
    context.tokens.discard(name)
    while True:
        stored = yield from _load(name)
        grant, worker = stored.grant, context.identity.worker()
        if grant.state is not GrantState.REVOKED:
            ended = grant.log_out(stored.now)
        elif grant.open_need is not None:
            ended = grant.end_need(stored.now)
        else:
            break
        yield from context.recorder.record_grant(grant, ended, worker)
    yield from _end_login(context, stored.grant)
    yield from grant_need.tell(context, stored)
    return GrantView.of((yield from grant_refresh.revoke_all(context, stored)))


def _end_login(context: Context, grant: Grant) -> Op[None]:
    """End the login that would give the grant tokens again: whoever has its code could approve."""
    flow: Flow | None = yield FindFlow(grant.name)
    if flow is None or not grant_login.is_for(flow, grant):
        return
    login = yield from cancel(context, flow.id, f"the grant {grant.id} was ended")
    if login.has_token:
        yield from wipe(context, flow.id, "token")


def doubt(context: Context) -> Op[int]:
    """Mark all grants as in doubt: the store is a backup, and they may have been refreshed since.

    Returns:
        How many were marked.
    """
    marked = 0
    for seen in (yield from list_all()):
        while True:
            stored = yield from _load(seen.name)
            grant, worker = stored.grant, context.identity.worker()
            if grant.state is not GrantState.ACTIVE or not grant.refreshable:
                break
            doubted = grant.doubt(stored.now)
            if (yield from context.recorder.record_grant(grant, doubted, worker)):
                marked += 1
                break
    return marked


class SweptGrants(NamedTuple):
    """What a sweep of grants did.

    Attributes:
        names: The names of the grants that were looked after.
        problems: What kept others from that: they are left alone for an hour. Also notifications
            that failed, which are tried again sooner.
    """

    names: list[str]
    problems: list[errors.DeviceFlowError]

    def add(self, others: SweptGrants) -> None:
        """Add what was done for others."""
        self.names.extend(others.names)
        self.problems.extend(others.problems)


def due(context: Context, unused: float, limit: int) -> Op[list[Work[SweptGrants]]]:
    """Return what to do for the grants that are due, the servers by turns.

    Args:
        context: The client's.
        unused: For how many seconds a grant may go unused.
        limit: How many grants at most.
    """
    clocks: Clocks = yield ReadClocks()
    found: list[tuple[str, str]] = yield DueGrants(clocks.shared, unused, _LOOK_FURTHER * limit)
    works: list[Work[SweptGrants]] = [
        Turn(server, name, partial(tend, context, name)) for name, server in found
    ]
    return by_turns(works)[:limit]


def due_notices(context: Context, limit: int) -> Op[list[Work[SweptGrants]]]:
    """Return the notifications that are due. A sweep sends them once it has refreshed."""
    names = yield from grant_need.due(context, limit)
    return [Turn(name, name, partial(tell, context, name)) for name in names]


def tend(context: Context, name: str) -> Op[SweptGrants]:
    """Do for a grant what is due: refresh, adopt the token of a login, or revoke."""
    return _swept(name, _tend(context, name))


def tell(context: Context, name: str) -> Op[SweptGrants]:
    """Notify the program of the needs of a grant."""
    return _swept(name, grant_need.tell_of(context, name))


def _swept(name: str, work: Op[list[errors.DeviceFlowError] | None]) -> Op[SweptGrants]:
    """Do the work. If it fails, have sweeps pass the grant over for a while."""
    try:
        return SweptGrants([name], (yield from work) or [])
    except errors.LoginPending:
        return SweptGrants([name], [])
    except errors.DeviceFlowError as problem:
        clocks: Clocks = yield ReadClocks()
        yield SnoozeGrant(name, clocks.shared)
        return SweptGrants([], [problem])


def _tend(context: Context, name: str) -> Op[None]:
    """Do for a grant what is due."""
    yield from grant_refresh.save(context, name)
    for _ in range(_MOST_MOVES):
        stored = yield from _load(name)
        grant, now = stored.grant, stored.now
        if grant.revocations and grant.due_at <= now:
            yield from grant_refresh.revoke_next(context, stored)
            continue
        if stored.since is not None:
            yield from restart_lease(grant.id, stored.since)
        course = grant.course(now, inf, stored.held)
        match course:
            case Course.REFRESH:
                clocks: Clocks = yield ReadClocks()
                yield from grant_refresh.refresh(context, stored, clocks)
                if grant.state is not GrantState.LOST:
                    return
                yield from _ask(context, name)
            case Course.RECOVER | Course.ADOPT:
                yield from move(context, stored, course)
            case Course.LOSE:
                yield from move(context, stored, course)
                yield from _ask(context, name)
            case Course.USE if grant.wake_at is not None and grant.wake_at <= now:
                # The time to send a refresh again has passed. Others are due as well.
                yield SnoozeGrant(name, now)
                return
            case _:
                return


def _ask(context: Context, name: str) -> Op[None]:
    """Have a person log in for a grant that was lost."""
    asked = Asked(name, None, None, 0.0, "later")
    yield from grant_login.ask(context, asked, (yield from _load(name)))
