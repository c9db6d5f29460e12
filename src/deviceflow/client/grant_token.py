"""`get_token`: an access token that can be used now, whatever that takes short of a person."""

from __future__ import annotations

from contextlib import suppress
from math import ceil, inf
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from deviceflow import errors
from deviceflow.client import asking, grant_login, grant_need, grant_refresh, recorder
from deviceflow.client.claim import restart_lease
from deviceflow.client.kept import CachedToken, GrantCommit
from deviceflow.client.lease import HeldLease
from deviceflow.core import wording
from deviceflow.core.access_token import AccessToken
from deviceflow.core.grant import Grant, NextStep, check_name
from deviceflow.core.uses import noted
from deviceflow.core.wire import FAILURE_WORDS
from deviceflow.credentials import secret_refs

if TYPE_CHECKING:
    from deviceflow.client.lease import Clocks
    from deviceflow.client.world import World
    from deviceflow.core.flow import Transition
    from deviceflow.core.ports import Stored
    from deviceflow.core.provider import LoginRequest, Provider

    Mint = Literal["later", "now"]

_SHORTEST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.5
_MOST_REFRESHES: Final = 3
_SHORTEST_REQUEST: Final = 1.0
"""Seconds of a caller's time limit that must be left to send a refresh."""


class TokenQuery(NamedTuple):
    """What a caller of `get_token` asks for.

    Attributes:
        name: The grant's name.
        provider: Where to log in; None to ask for a grant that there is.
        purpose: Why the grant is needed.
        min_ttl: How many seconds must be left of the token.
        mint: Whether to ask for a code at once, where a person must log in. `here` says that the
            caller has a person log in, so nobody needs to be notified.
    """

    name: str
    provider: Provider | None
    purpose: str | None
    min_ttl: float
    mint: Mint | Literal["here"]


async def get_token(
    world: World,
    name: str,
    provider: Provider | None,
    purpose: str | None,
    request: LoginRequest,
    min_ttl: float,
    mint: Mint | Literal["here"],
    timeout: float | None = None,
) -> AccessToken:
    """Return an access token of the grant of a name."""
    clocks = world.clocks()
    asked = (provider, request)
    kept = world.context.tokens.get(name, asked, min_ttl, clocks)
    if kept is not None:
        return kept
    check_name(name)
    if provider is not None:
        provider = asking.resolve_provider(provider, request).for_grant()
        secret_refs.allow(provider)
    wanted = TokenQuery(name, provider, purpose, min_ttl, mint)
    until = inf if timeout is None else clocks.steady + timeout
    stored, clocks = await obtain(world, wanted, clocks, until)
    await _note_use(world, stored)
    grant, now = stored.record, stored.now
    token = AccessToken.of(grant, world.context.invalidate)
    if not grant.refresh_ends_token:  # another process may send a refresh at any time
        world.context.tokens.keep(
            name, CachedToken(token, asked, grant.left(now), grant.lifetime, clocks)
        )
    return token


async def obtain(
    world: World, asked: TokenQuery, clocks: Clocks, until: float
) -> tuple[Stored[Grant], Clocks]:
    """Return the grant with an access token that can be used, and the clocks before it was read.

    Args:
        world: What the operation works with.
        asked: What is asked for.
        clocks: What the clocks say.
        until: The time by the monotonic clock at which to give up.
    """
    await grant_refresh.save(world, asked.name)
    look, refreshes, lease = _SHORTEST_LOOK, 0, HeldLease()
    while True:
        remaining = until - clocks.steady
        limited = world
        if remaining < world.context.deadline:
            limited = world.within(max(_SHORTEST_REQUEST, remaining))
        stored = await world.store.load(Grant, asked.name, clocks.shared, by="name")
        next_step, held = NextStep.ASK, 0.0
        if stored is not None:
            held = lease.left(stored.record.seq, stored.held, clocks.steady)
            if stored.since is not None:
                await restart_lease(world, stored.record.id, stored.since)
            stored.record.follow_uptime(stored.now, clocks.clock, clocks.uptime)
            next_step = _next_step(world, stored, held, asked)
            _check_time(stored.record, next_step, remaining)
        if stored is None or next_step is NextStep.ASK:
            await grant_login.ask(limited, asked, stored)
        elif next_step in (NextStep.USE, NextStep.BACK_OFF):
            with suppress(errors.StoreError):  # others notify later
                await grant_need.tell(world, stored)
            _check_usable(stored, next_step)
            return stored, clocks
        elif next_step is NextStep.REFRESH:
            refreshed = await grant_refresh.refresh(limited, stored, clocks)
            refreshes += 1
            # A token that ended on its way here is not good; but a server may be so slow.
            if refreshed is not None and (
                refreshed.usable(refreshed.moved_at) or refreshes >= _MOST_REFRESHES
            ):
                fresh = stored._replace(record=refreshed, now=refreshed.moved_at)
                return fresh, world.clocks()
        elif next_step is NextStep.WAIT:
            world.watch(stored.record.id)
            await world.sleep(min(held, look, remaining), stored.record.id)
            look = min(2 * look, _LONGEST_LOOK)
        else:
            await move(world, stored, next_step)
        clocks = world.clocks()


def _next_step(world: World, stored: Stored[Grant], held: float, asked: TokenQuery) -> NextStep:
    """Return what to do about a grant.

    Args:
        world: What the operation works with.
        stored: The grant.
        held: For how many seconds somebody else has its lease.
        asked: What is asked for.

    Raises:
        UsageError: The grant is of another login than is asked for.
    """
    grant, now = stored.record, stored.now
    grant_login.check_same(world, grant, asked.provider)
    next_step = grant.next_step(now, asked.min_ttl, held)
    if next_step is NextStep.USE and held > 0 and _is_refused(world, grant):
        return NextStep.WAIT  # the next one is under way
    return next_step


def _is_refused(world: World, grant: Grant) -> bool:
    """Tell whether this client knows that a resource server refused the access token."""
    token = grant.token
    return token is not None and world.context.tokens.is_refused(grant.name, token.access_token)


async def move(world: World, stored: Stored[Grant], next_step: NextStep) -> bool:
    """Record what needs no request: that somebody died, that a late answer is used, or a loss."""
    grant, now = stored.record, stored.now
    transition: Transition
    release = None
    if next_step is NextStep.RECOVER:
        transition, release = grant.recover(now, stored.owner), stored.owner
    elif next_step is NextStep.ADOPT:
        transition = grant.use_late_answer(now)
    else:
        transition = grant.lapse(now)
    event = recorder.render_grant(world.context, grant, transition, world.context.identity.worker())
    return await recorder.commit_grant(world, GrantCommit(grant, event, release=release))


async def _note_use(world: World, stored: Stored[Grant]) -> None:
    """Note what uses the grant, once a minute: an audit asks, and a sweep refreshes ahead.

    Where the store can only be read, as with a full disk, the token is as good as before.
    """
    uses = noted(stored.uses, stored.used_at, world.context.identity.origin, stored.now)
    if uses is not None:
        with suppress(errors.StoreError):
            await world.store.use(stored.record.id, stored.now, uses)


def _check_time(grant: Grant, next_step: NextStep, remaining: float) -> None:
    """Check that there is time for what is to be done.

    Raises:
        WaitTimeoutError: There is none.
    """
    if next_step is NextStep.REFRESH and remaining < _SHORTEST_REQUEST:
        why = "too little was left of the timeout to refresh it"
    elif next_step is NextStep.WAIT and remaining <= 0:
        why = "another process is refreshing it"
    else:
        return
    raise errors.WaitTimeoutError(
        f"{grant.name!r} gave no token in time: {why}.",
        flow_id=grant.id,
        state=grant.state,
        hint="Nothing was changed. Ask again, or allow more time.",
    )


def _check_usable(stored: Stored[Grant], next_step: NextStep) -> None:
    """Check that there is an access token to use.

    Raises:
        UnreachableError: There is none, and the server gave no usable answer lately.
    """
    if next_step is NextStep.BACK_OFF:
        raise _unreachable(stored.record, stored.now)


def _unreachable(grant: Grant, now: float) -> errors.UnreachableError:
    seconds = max(0.0, grant.due_at - now)
    detail = grant.detail or ""
    why = FAILURE_WORDS.get(detail, detail) or "there was no usable answer"
    silent = ""
    if grant.unanswered_since is not None:
        silent = f", {wording.silence(grant.unanswered_since, grant.unanswered)}"
    kept = "Nothing is lost."
    if grant.in_doubt:
        kept = "The grant is in doubt: the answer to a refresh was lost. It is asked for again."
    ended = "was refused" if grant.invalid else "has expired"
    return errors.UnreachableError(
        f"The token of {grant.name!r} {ended} and could not be refreshed."
        f" The last request to {grant.provider.server} failed: {why}{silent}.",
        flow_id=grant.id,
        state=grant.state,
        wait_seconds=seconds,
        hint=f"{kept} Ask again in {wording.seconds(max(1, ceil(seconds)))}.",
    )
