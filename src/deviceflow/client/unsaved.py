"""Keep an issued token while the store fails, or while another worker moves the login.

The server gives a token once. From the moment it arrives until it is in the store, the client holds
it in memory, among its `UnsavedTokens`. Each step of the login, and each sweep, tries to save it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.kept import Issued, UnsavedToken
from deviceflow.client.lease import LEASE_MARGIN

if TYPE_CHECKING:
    from deviceflow.client.exchange import Outcome
    from deviceflow.client.world import World
    from deviceflow.core.flow import Flow, Transition


async def record_issued(
    world: World,
    flow: Flow,
    transition: Transition,
    issued: Issued,
    worker: str,
    outcome: Outcome,
) -> Flow:
    """Commit a transition that brings a token, and give the lease back.

    While the store fails, the commit is tried again for as long as the lease lasts.

    Args:
        world: What the operation works with.
        flow: The flow after the transition.
        transition: What the answer meant.
        issued: What it brought.
        worker: Who holds the lease.
        outcome: The answer.

    Returns:
        The flow as it is stored.

    Raises:
        StoreError: The store goes on failing. The token stays among the unsaved ones.
    """
    event = recorder.render(world.context, flow, transition, worker)
    world.context.unsaved.hold(worker, UnsavedToken(flow, event, issued))
    until = outcome.ended + LEASE_MARGIN
    committed = await _commit_patiently(world, flow, event, until, worker)
    if not committed:
        flow = await _deliver(world, issued, flow.id, outcome.now, until, worker)
    world.context.unsaved.discard(worker, flow.id)
    return flow


async def save(world: World, flow_id: str) -> None:
    """Save the tokens of a flow whose commit failed.

    Raises:
        StoreError: The store still fails.
    """
    for worker, (flow, event, issued) in world.context.unsaved.of(flow_id):
        # The commit may have succeeded, and only its answer was lost: whoever has the token by now
        # must not have it revoked as a late one. So the very same event comes first.
        until = world.clocks().steady + LEASE_MARGIN
        committed = await _commit_patiently(world, flow, event, until, worker)
        if not committed:
            now = await world.now()
            await _deliver(world, issued, flow.id, now, until, worker)
        world.context.unsaved.discard(worker, flow_id)


async def _deliver(
    world: World, issued: Issued, flow_id: str, now: float, until: float, worker: str
) -> Flow:
    """Store a token with a flow that others have moved meanwhile."""
    while True:
        flow = await world.load_login(flow_id)
        now = max(now, flow.moved_at)  # the others' events may be later than the answer
        token = issued.token
        if token is None:
            transition = flow.orphan_token(issued.revocable, now)
        elif flow.token is not None and flow.token.access_token == token.access_token:
            return flow  # stored already: only the store's answer was lost
        else:
            transition = flow.late_token(token, issued.attempt, now)
        event = recorder.render(world.context, flow, transition, worker)
        world.context.unsaved.hold(worker, UnsavedToken(flow, event, issued))
        committed = await _commit_patiently(world, flow, event, until)
        if committed:
            return flow


async def _commit_patiently(
    world: World,
    flow: Flow,
    event: dict[str, Any],
    until: float,
    release: str | None = None,
) -> bool:
    """Commit, and try again each second while the store fails.

    Args:
        world: What the operation works with.
        flow: The flow.
        event: Its event.
        until: When to give up, by the monotonic clock.
        release: Whose lease is given back.

    Raises:
        StoreError: The store still fails.
    """
    while True:
        try:
            return await recorder.commit(world, flow, event, release)
        except errors.StoreError as failed:
            message, hint = failed.message, failed.hint
        if world.clocks().steady >= until:
            raise errors.StoreError(
                f"{message} The login was approved, and its token is in this process only.",
                flow_id=flow.id,
                state=flow.state,
                hint=f"Keep the process running: the next step of the login saves the token. "
                f"{hint or ''}".rstrip(),
            )
        await world.sleep(1.0)
