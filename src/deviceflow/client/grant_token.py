"""`get_token`: an access token that can be used now, whatever that takes short of a person."""

from __future__ import annotations

from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from deviceflow import errors
from deviceflow.client import asking, grant_login, grant_need, grant_refresh
from deviceflow.client.effects import CommitGrant, LoadGrant, ReadClocks, Sleep, UseGrant, Watch
from deviceflow.client.kept import KeptToken
from deviceflow.client.lease import HeldLease
from deviceflow.core import wording
from deviceflow.core.access_token import AccessToken
from deviceflow.core.grant import Course, check_name
from deviceflow.core.wire import FAILURE_WORDS
from deviceflow.credentials import secret_refs

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.lease import Clocks
    from deviceflow.core.flow import Transition
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import StoredGrant
    from deviceflow.core.provider import LoginRequest, Provider

    Mint = Literal["later", "now"]

DAY: Final = 86400.0
"""Seconds after which the use of a grant is noted again."""

_SHORTEST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.5
_MOST_REFRESHES: Final = 3


class Asked(NamedTuple):
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


def get_token(
    context: Context,
    name: str,
    provider: Provider | None,
    purpose: str | None,
    request: LoginRequest,
    min_ttl: float,
    mint: Mint | Literal["here"],
) -> Op[AccessToken]:
    """Return an access token of the grant of a name."""
    clocks: Clocks = yield ReadClocks()
    asked = (provider, request)
    kept = context.tokens.get(name, asked, min_ttl, clocks)
    if kept is not None:
        return kept
    check_name(name)
    if provider is not None:
        provider = asking.asked(provider, request).for_grant()
        secret_refs.allow(provider)
    wanted = Asked(name, provider, purpose, min_ttl, mint)
    stored, clocks = yield from _obtain(context, wanted, clocks)
    yield from _note_use(stored)
    grant, now = stored.grant, stored.now
    token = AccessToken.of(grant)
    context.tokens.keep(name, KeptToken(token, asked, grant.left(now), grant.lifetime, clocks))
    return token


def _obtain(context: Context, asked: Asked, clocks: Clocks) -> Op[tuple[StoredGrant, Clocks]]:
    """Return the grant with an access token that can be used, and the clocks before it was read.

    Args:
        context: The client's.
        asked: What is asked for.
        clocks: What the clocks say.
    """
    yield from grant_refresh.save(context, asked.name)
    look, refreshes, lease = _SHORTEST_LOOK, 0, HeldLease()
    while True:
        stored: StoredGrant | None = yield LoadGrant(asked.name, clocks.shared)
        course, held = Course.ASK, 0.0
        if stored is not None:
            held = lease.left(stored.grant.seq, stored.held, clocks.steady)
            course = _course(context, stored, held, asked)
        if stored is None or course is Course.ASK:
            yield from grant_login.ask(context, asked, stored)
        elif course is Course.USE:
            if context.notifies:
                with suppress(errors.StoreError):  # the token is good, and others notify later
                    yield from grant_need.tell(context, stored)
            return stored, clocks
        elif course is Course.REFRESH:
            refreshed = yield from grant_refresh.refresh(context, stored, clocks)
            refreshes += 1
            # A token that ended on its way here is not good; but a server may be so slow.
            if refreshed is not None and (
                refreshed.serves(refreshed.moved_at) or refreshes >= _MOST_REFRESHES
            ):
                fresh = stored._replace(grant=refreshed, now=refreshed.moved_at)
                return fresh, (yield ReadClocks())
        elif course is Course.WAIT:
            yield Watch(stored.grant.id)
            yield Sleep(min(held, look), stored.grant.id)
            look = min(2 * look, _LONGEST_LOOK)
        else:
            yield from move(context, stored, course)
        clocks = yield ReadClocks()


def _course(context: Context, stored: StoredGrant, held: float, asked: Asked) -> Course:
    """Return what to do about a grant.

    Args:
        context: The client's.
        stored: The grant.
        held: For how many seconds somebody else has its lease.
        asked: What is asked for.

    Raises:
        UsageError: The grant is of another login than is asked for.
        UnreachableError: The server gave no usable answer lately, and there is nothing to use.
    """
    grant, now = stored.grant, stored.now
    grant_login.check_same(context, grant, asked.provider)
    course = grant.course(now, asked.min_ttl, held)
    if course is Course.BACK_OFF:
        raise _unreachable(grant, now)
    if course is Course.USE and held > 0 and _is_refused(context, grant):
        return Course.WAIT  # the next one is under way
    return course


def _is_refused(context: Context, grant: Grant) -> bool:
    """Tell whether this client knows that a resource server refused the access token."""
    token = grant.token
    return token is not None and context.tokens.is_refused(grant.name, token.access_token)


def move(context: Context, stored: StoredGrant, course: Course) -> Op[bool]:
    """Record what needs no request: that somebody died, that a late answer is used, or a loss."""
    grant, now, recorder = stored.grant, stored.now, context.recorder
    transition: Transition
    release = None
    if course is Course.RECOVER:
        transition, release = grant.recover(now, stored.owner), stored.owner
    elif course is Course.ADOPT:
        transition = grant.use_late_answer(now)
    else:
        transition = grant.lapse(now)
    event = recorder.render_grant(grant, transition, context.identity.worker())
    return (yield from recorder.commit_grant(CommitGrant(grant, event, release=release)))


def _note_use(stored: StoredGrant) -> Op[None]:
    """Note that the grant is used, once a day: a sweep refreshes ahead what is in use.

    Where the store can only be read, as with a full disk, the token is as good as before.
    """
    used_at, now = stored.used_at, stored.now
    if used_at is None or not 0 <= now - used_at < DAY:
        with suppress(errors.StoreError):
            yield UseGrant(stored.grant.id, now)


def _unreachable(grant: Grant, now: float) -> errors.UnreachableError:
    seconds = max(0.0, grant.due_at - now)
    detail = grant.detail or ""
    why = FAILURE_WORDS.get(detail, detail) or "there was no usable answer"
    return errors.UnreachableError(
        f"The token of the grant {grant.name!r} has expired and could not be refreshed."
        f" The last request to {grant.provider.server} failed: {why}.",
        flow_id=grant.id,
        state=grant.state,
        wait_seconds=seconds,
        hint=f"Nothing is lost. Ask again in {wording.seconds(max(1, ceil(seconds)))}.",
    )
