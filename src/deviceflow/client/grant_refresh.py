"""The refresh of a grant: one request under a lease, and what becomes of its answer.

The lease is taken by the commit that records the refresh, before anything is sent. Whoever finds
the grant in `refreshing` under no lease knows that somebody died there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.claim import lease_of
from deviceflow.client.exchange import transmit, transmit_under
from deviceflow.client.kept import GrantCommit, UnsavedRefresh
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.core.grant import Grant
from deviceflow.core.ports import GrantLease
from deviceflow.core.states import GrantState
from deviceflow.core.wire import Failure

if TYPE_CHECKING:
    from deviceflow.client.exchange import Outcome
    from deviceflow.client.lease import Clocks
    from deviceflow.client.world import World
    from deviceflow.core.flow import Transition
    from deviceflow.core.ports import Stored
    from deviceflow.core.provider import Token

_STILL_UNDER_WAY: Final = frozenset({"timeout", "interrupted"})
"""The failures after which the server may still be at work on the request."""


async def refresh(world: World, stored: Stored[Grant], clocks: Clocks) -> Grant | None:
    """Refresh a grant that was just read.

    Args:
        world: What the operation works with.
        stored: The grant, which nobody has the lease of.
        clocks: What the clocks said before it was read.

    Returns:
        The grant with its next tokens; None where there are none, or others went on.

    Raises:
        UsageError: The grant names a client secret that this process does not have.
        StoreError: The tokens came, and could not be stored. They are kept in this client.
    """
    grant, worker = stored.record, world.context.identity.worker()
    deadline, margin = world.context.refresh_limits(grant.provider.replay_window)
    seconds = deadline + margin
    await world.check_credentials(grant.provider)
    request = grant.request()
    lease = await lease_of(world, worker, seconds, clocks, stored.now)
    lease = lease._replace(margin=margin)
    begun = grant.refresh(stored.now, clocks.clock, clocks.uptime)
    taken = GrantLease(worker, seconds, clocks.shared, stored.owner)
    if not await recorder.record_grant(world, grant, begun, worker, lease=taken):
        return None
    outcome = await transmit_under(world, request, lease, deadline)
    if outcome.stop is None:
        return await _apply_response(world, grant, outcome, worker)
    with suppress(errors.StoreError):  # the interruption counts; it is as if this process had died
        await _apply_response(world, grant, outcome, worker)
    raise outcome.stop


async def _apply_response(
    world: World, grant: Grant, outcome: Outcome, worker: str
) -> Grant | None:
    """Store what the answer means; and where others went on meanwhile, what must not be lost."""
    attempt, old = grant.attempt, grant.token
    received = grant.receive(
        outcome.result,
        outcome.now,
        duration=outcome.duration,
        outage_after=world.context.outage_after,
        approver=world.context.approver,
    )
    # As long as the server may be at work on it, nobody may send it again: the lease stays.
    failure = outcome.result if isinstance(outcome.result, Failure) else None
    stays = failure is not None and failure.sent and failure.kind in _STILL_UNDER_WAY
    event = recorder.render_grant(world.context, grant, received, worker)
    commit = GrantCommit(grant, event, None, None if stays else worker)
    if grant.token is old or grant.token is None:
        await recorder.commit_grant(world, commit)
        return None
    unsaved = UnsavedRefresh(commit, grant.token, attempt)
    world.context.refreshed.hold(worker, unsaved)
    kept = await _store(world, worker, unsaved, outcome.ended + LEASE_MARGIN)
    return kept if kept.state is GrantState.ACTIVE and kept.generation == grant.generation else None


async def save(world: World, name: str) -> None:
    """Save the tokens of refreshes of a grant whose commit failed.

    Raises:
        StoreError: The store still fails.
    """
    for worker, unsaved in world.context.refreshed.of(name):
        until = world.clocks().steady + LEASE_MARGIN
        await _store(world, worker, unsaved, until)


async def _store(world: World, worker: str, unsaved: UnsavedRefresh, until: float) -> Grant:
    """Store the tokens of a refresh, also if others moved the grant; return it as stored."""
    commit, token, attempt = unsaved
    if await _commit_patiently(world, commit, until):
        world.context.refreshed.discard(worker)
        return commit.grant
    while True:
        clocks = world.clocks()
        stored = await world.store.load(Grant, commit.grant.id, clocks.shared)
        if stored is None:
            world.context.refreshed.discard(
                worker
            )  # a later grant of its name has nothing to do with it
            raise errors.StoreError(
                "The grant was removed from the store.", flow_id=commit.grant.id
            )
        grant = stored.record
        if _has(grant, token):
            break  # stored already: only the store's answer was lost
        if grant.is_as_before(commit.grant):
            late = grant.late_answer(token, attempt, stored.now)
        else:  # somebody else may have approved it, or another policy may count by now
            late = grant.orphan_token(token, commit.grant.provider, stored.now)
        again = GrantCommit(grant, recorder.render_grant(world.context, grant, late, worker))
        if await _commit_patiently(world, again, until):
            break
    world.context.refreshed.discard(worker)
    return grant


def _has(grant: Grant, token: Token) -> bool:
    held = (grant.token, *grant.aside)
    return any(one is not None and one.access_token == token.access_token for one in held)


async def _commit_patiently(world: World, commit: GrantCommit, until: float) -> bool:
    """Commit, and try again each second while the store fails.

    Raises:
        StoreError: The store still fails.
    """
    while True:
        try:
            return await recorder.commit_grant(world, commit)
        except errors.StoreError as failed:
            message, hint = failed.message, failed.hint
        if world.clocks().steady >= until:
            raise errors.StoreError(
                f"{message} The grant was refreshed, and its tokens are in this process only.",
                flow_id=commit.grant.id,
                state=commit.grant.state,
                hint="Keep the process running: the next call for the grant saves the tokens."
                f" {hint or ''}".rstrip(),
            )
        await world.sleep(1.0)


async def revoke_next(world: World, stored: Stored[Grant]) -> Transition | None:
    """Send the next revocation request of a grant (RFC 7009), and record what came of it.

    Returns:
        What was recorded; None where others went on.
    """
    grant = stored.record
    await world.check_credentials(grant.provider)
    before = world.clocks()
    result = await transmit(world, grant.revocation(), stored.now)
    after = world.clocks()
    seconds = after.steady - before.steady
    received = grant.receive_revocation(result, stored.now + seconds, duration=seconds)
    worker = world.context.identity.worker()
    kept = await recorder.record_grant(world, grant, received, worker)
    return received if kept else None


async def revoke_all(world: World, stored: Stored[Grant]) -> Stored[Grant]:
    """Send the revocation requests of a grant, until one fails: a sweep tries that again.

    Returns:
        The grant after that.
    """
    failures = stored.record.failures
    while stored.record.revocations and stored.record.failures <= failures:
        await revoke_next(world, stored)
        clocks = world.clocks()
        found = await world.store.load(Grant, stored.record.id, clocks.shared)
        if found is None:
            break
        stored = found
    return stored
