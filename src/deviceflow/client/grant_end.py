"""What else can be done with a grant: look at it, report its token, end it; and sweep them all."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow import errors
from deviceflow.audit import log
from deviceflow.client import grant_login, grant_need, grant_refresh, recorder
from deviceflow.client.claim import restart_lease
from deviceflow.client.grant_token import TokenQuery, move
from deviceflow.client.purge import wipe
from deviceflow.client.turns import Turn, by_turns
from deviceflow.client.wait import cancel
from deviceflow.core import queries
from deviceflow.core.access_token import AccessToken
from deviceflow.core.grant import Grant, NextStep, check_name
from deviceflow.core.grant_view import GrantView
from deviceflow.core.ports import Unreadable
from deviceflow.core.states import GrantState

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from deviceflow.client.turns import Work
    from deviceflow.client.world import World
    from deviceflow.core.flow import Transition
    from deviceflow.core.ports import Stored
    from deviceflow.core.secret import Secret

UNUSED: Final = 14 * 86400.0
"""Seconds without use after which a sweep lets a grant lapse, unless it is told otherwise."""

_MOST_MOVES: Final = 8
_LOOK_FURTHER: Final = 10
"""How many times the limit of a sweep are looked at, so that each server has a turn."""


async def _load(world: World, name: str) -> Stored[Grant]:
    check_name(name)
    clocks = world.clocks()
    stored = await world.store.load(Grant, name, clocks.shared, by="name")
    if stored is None:
        raise errors.UnknownGrantError(f"The store has no login {name!r}.")
    stored.record.follow_uptime(stored.now, clocks.clock, clocks.uptime)
    return stored


async def get(world: World, name: str) -> GrantView:
    """Return the grant of a name as it is stored."""
    stored = await _load(world, name)
    return GrantView.of(stored)


async def list_all(world: World) -> list[GrantView]:
    """Return all grants by their names. One that cannot be read is logged."""
    seen, after = list[GrantView](), None
    clocks = world.clocks()
    while True:
        page = await world.store.page(Grant, clocks.shared, after)
        for one in page.found:
            if isinstance(one, Unreadable):
                fields = {"grant": one.name, "problem": "the record of this grant cannot be read"}
                world.emit(log.UNREADABLE, fields, logging.WARNING)
            else:
                seen.append(GrantView.of(one))
        if (after := page.after) is None:
            return seen


async def invalidate(world: World, name: str, token: AccessToken | Secret | None) -> bool:
    """Record that a resource server refused an access token, and get the next one.

    If there is none, a person is asked to log in.

    Args:
        world: What the operation works with.
        name: The grant's name.
        token: The token; None for the one in use, as a person says.

    Returns:
        As `refuse`.
    """
    refused = await refuse(world, name, token)
    if refused:
        with suppress(errors.LoginPending):
            await _tend(world, name)
    return refused


async def refuse(
    world: World, name: str, token: AccessToken | Secret | None, *, sure: bool = False
) -> bool:
    """Record that a resource server refused an access token, as `invalidate`.

    Args:
        world: What the operation works with.
        name: The grant's name.
        token: The token; None for the one in use, as a person says.
        sure: Whether the server that issued the token says so.

    Returns:
        Whether the token is not used any more. Not if it is not the one in use; nor if its
        predecessor was refused just now, unless a person or the issuer says so.
    """
    secret = token.access_token if isinstance(token, AccessToken) else token
    while True:
        stored = await _load(world, name)
        grant, now = stored.record, stored.now
        transition: Transition | None
        if grant.token is None:
            return False
        refused = grant.token.access_token if secret is None else secret
        world.context.tokens.refuse(name, refused)
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
        worker = world.context.identity.worker()
        if await recorder.record_grant(world, grant, transition, worker):
            return is_in_use


async def log_out(world: World, name: str) -> GrantView:
    """End a grant: wipe its tokens, and revoke them where the server can do that."""
    world.context.tokens.discard(name)
    while True:
        stored = await _load(world, name)
        grant, worker = stored.record, world.context.identity.worker()
        if grant.state is not GrantState.REVOKED:
            ended = grant.log_out(stored.now)
        elif grant.open_need is not None:
            ended = grant.end_need(stored.now)
        else:
            break
        await recorder.record_grant(world, grant, ended, worker)
    await _end_login(world, stored.record)
    await grant_need.tell(world, stored)
    return GrantView.of(await grant_refresh.revoke_all(world, stored))


async def _end_login(world: World, grant: Grant) -> None:
    """End the login that would give the grant tokens again: whoever has its code could approve."""
    flow = await world.find_login(grant.name)
    if flow is None or not grant_login.fits(flow, grant.asked):
        return
    login = await cancel(world, flow.id, f"the grant {grant.id} was ended")
    if login.has_token:
        await wipe(world, flow.id, "token")


async def doubt(world: World) -> int:
    """Mark all grants as in doubt: the store is a backup, and they may have been refreshed since.

    Returns:
        How many were marked.
    """
    marked = 0
    for seen in await list_all(world):
        while True:
            stored = await _load(world, seen.name)
            grant, worker = stored.record, world.context.identity.worker()
            if grant.state is not GrantState.ACTIVE or not grant.refreshable:
                break
            doubted = grant.doubt(stored.now)
            if await recorder.record_grant(world, grant, doubted, worker):
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


async def due(world: World, unused: float, limit: int) -> list[Work[SweptGrants]]:
    """Return what to do for the grants that are due, the servers by turns.

    Args:
        world: What the operation works with.
        unused: For how many seconds a grant may go unused.
        limit: How many grants at most.
    """
    clocks = world.clocks()
    wanted = queries.due_grants(unused, _LOOK_FURTHER * limit)
    found = await world.store.select(wanted, clocks.shared)
    works: list[Work[SweptGrants]] = [
        Turn(server, name, partial(tend, name=name)) for name, server in found
    ]
    return by_turns(works)[:limit]


async def due_notices(world: World, limit: int) -> list[Work[SweptGrants]]:
    """Return the notifications that are due. A sweep sends them once it has refreshed."""
    names = await grant_need.due(world, limit)
    return [Turn(name, name, partial(tell, name=name)) for name in names]


async def tend(world: World, name: str) -> SweptGrants:
    """Do for a grant what is due: refresh, adopt the token of a login, or revoke."""
    return await _swept(world, name, _tend(world, name))


async def tell(world: World, name: str) -> SweptGrants:
    """Notify the program of the needs of a grant."""
    return await _swept(world, name, grant_need.tell_of(world, name))


async def _swept(
    world: World, name: str, work: Coroutine[Any, Any, list[errors.DeviceFlowError] | None]
) -> SweptGrants:
    """Do the work. If it fails, have sweeps pass the grant over for a while."""
    try:
        return SweptGrants([name], await work or [])
    except errors.LoginPending:
        return SweptGrants([name], [])
    except errors.DeviceFlowError as problem:
        clocks = world.clocks()
        await world.store.put_off(Grant, name, clocks.shared)
        return SweptGrants([], [problem])


async def _tend(world: World, name: str) -> None:
    """Do for a grant what is due."""
    await grant_refresh.save(world, name)
    for _ in range(_MOST_MOVES):
        stored = await _load(world, name)
        grant, now = stored.record, stored.now
        if grant.revocations and grant.due_at <= now:
            await grant_refresh.revoke_next(world, stored)
            continue
        if stored.since is not None:
            await restart_lease(world, grant.id, stored.since)
        next_step = grant.next_step(now, inf, stored.held)
        match next_step:
            case NextStep.REFRESH:
                clocks = world.clocks()
                await grant_refresh.refresh(world, stored, clocks)
                if grant.state is not GrantState.LOST:
                    return
                await _ask(world, name)
            case NextStep.RECOVER | NextStep.ADOPT:
                await move(world, stored, next_step)
            case NextStep.LOSE:
                await move(world, stored, next_step)
                await _ask(world, name)
            case NextStep.USE if grant.wake_at is not None and grant.wake_at <= now:
                # The time to send a refresh again has passed. Others are due as well.
                await world.store.put_off(Grant, name, now)
                return
            case _:
                return


async def _ask(world: World, name: str) -> None:
    """Have a person log in for a grant that was lost."""
    asked = TokenQuery(name, None, None, 0.0, "later")
    await grant_login.ask(world, asked, await _load(world, name))
