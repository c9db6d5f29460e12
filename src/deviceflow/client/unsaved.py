"""Keep an issued token while the store fails, or while another worker moves the login.

The server gives a token once. From the moment it arrives until it is in the store, the client holds
it in memory, among its `UnsavedTokens`. Each step of the login, and each sweep, tries to save it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow import errors
from deviceflow.client.effects import Load, ReadClocks, Sleep, StoreNow
from deviceflow.client.kept import Issued, UnsavedToken
from deviceflow.client.lease import LEASE_MARGIN

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.exchange import Outcome
    from deviceflow.core.flow import Flow, Transition


def record_issued(
    context: Context,
    flow: Flow,
    transition: Transition,
    issued: Issued,
    worker: str,
    outcome: Outcome,
) -> Op[Flow]:
    """Commit a transition that brings a token, and give the lease back.

    While the store fails, the commit is tried again for as long as the lease lasts.

    Args:
        context: The client's.
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
    event = context.recorder.render(flow, transition, worker)
    context.unsaved.hold(worker, UnsavedToken(flow, event, issued))
    until = outcome.ended + LEASE_MARGIN
    committed = yield from _commit_patiently(context, flow, event, until, worker)
    if not committed:
        flow = yield from _deliver(context, issued, flow.id, outcome.now, until, worker)
    context.unsaved.discard(worker)
    return flow


def save(context: Context, flow_id: str) -> Op[None]:
    """Save the tokens of a flow whose commit failed.

    Raises:
        StoreError: The store still fails.
    """
    for worker, (flow, event, issued) in context.unsaved.of(flow_id):
        # The commit may have succeeded, and only its answer was lost: whoever has the token by now
        # must not have it revoked as a late one. So the very same event comes first.
        until = (yield ReadClocks()).steady + LEASE_MARGIN
        committed = yield from _commit_patiently(context, flow, event, until, worker)
        if not committed:
            now: float = yield StoreNow()
            yield from _deliver(context, issued, flow.id, now, until, worker)
        context.unsaved.discard(worker)


def _deliver(
    context: Context, issued: Issued, flow_id: str, now: float, until: float, worker: str
) -> Op[Flow]:
    """Store a token with a flow that others have moved meanwhile."""
    while True:
        flow: Flow = yield Load(flow_id)
        now = max(now, flow.moved_at)  # the others' events may be later than the answer
        token = issued.token
        if token is None:
            transition = flow.orphan_token(issued.revocable, now)
        elif flow.token is not None and flow.token.access_token == token.access_token:
            return flow  # stored already: only the store's answer was lost
        else:
            transition = flow.late_token(token, issued.attempt, now)
        event = context.recorder.render(flow, transition, worker)
        context.unsaved.hold(worker, UnsavedToken(flow, event, issued))
        committed = yield from _commit_patiently(context, flow, event, until)
        if committed:
            return flow


def _commit_patiently(
    context: Context,
    flow: Flow,
    event: dict[str, Any],
    until: float,
    release: str | None = None,
) -> Op[bool]:
    """Commit, and try again each second while the store fails.

    Args:
        context: The client's.
        flow: The flow.
        event: Its event.
        until: When to give up, by the monotonic clock.
        release: Whose lease is given back.

    Raises:
        StoreError: The store still fails.
    """
    while True:
        try:
            return (yield from context.recorder.commit(flow, event, release))
        except errors.StoreError as failed:
            message, hint = failed.message, failed.hint
        if (yield ReadClocks()).steady >= until:
            raise errors.StoreError(
                f"{message} The login was approved, and its token is in this process only.",
                flow_id=flow.id,
                state=flow.state,
                hint=f"Keep the process running: the next step of the login saves the token. "
                f"{hint or ''}".rstrip(),
            )
        yield Sleep(1.0)
