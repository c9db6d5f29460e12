"""Handing the token over: shown, collected under a lease, acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow import errors
from deviceflow.client.claim import take_lease
from deviceflow.client.effects import Load, Release, Snooze, StoreNow, or_else
from deviceflow.core.explain import error_of
from deviceflow.core.login import Login
from deviceflow.core.policy import wrong_approver
from deviceflow.core.ports import Claim, LeaseHeld
from deviceflow.core.states import Handover
from deviceflow.providers.idtoken import claims_of

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Token
    from deviceflow.core.text import CleanText

LONGEST_COLLECTION: Final = 86400.0
"""Seconds for which a token can be kept from others while it is collected, at most."""


class Collection(NamedTuple):
    """A token that is being collected.

    Attributes:
        flow_id: The flow.
        owner: Who holds the flow's lease meanwhile.
        token: The token.
    """

    flow_id: str
    owner: str
    token: Token


def collect_token(context: Context, flow_id: str) -> Op[Token]:
    """Return the token of a flow that is authorized, and put on record that it was.

    It is refused where this client's policy does not accept who approved.
    """
    while True:
        flow: Flow = yield Load(flow_id)
        if flow.token is None:
            raise error_of(flow)
        if (yield from refuse(context, flow)):
            continue
        now: float = yield StoreNow()
        token, collected = flow.token, flow.collect(now)
        if (yield from context.recorder.record(flow, collected, context.identity.worker())):
            return token


def refuse(context: Context, flow: Flow, why: CleanText | None = None) -> Op[bool]:
    """Refuse the token of a login, if the policy of this client does not accept who approved it.

    Others may have polled: another process, with another policy or none.

    Args:
        context: The client's.
        flow: The login with its token.
        why: Why to refuse it anyway.

    Returns:
        Whether it was refused, or others moved the login meanwhile: then look again.
    """
    token = flow.token
    assert token is not None  # noqa: S101  # the callers looked
    if why is None:
        claims = None if token.id_token is None else claims_of(token.id_token.reveal())
        why = wrong_approver(flow.provider, claims, context.approver)
    if why is None:
        return False
    now: float = yield StoreNow()
    refused = flow.refuse_token(why, now)
    yield from context.recorder.record(flow, refused, context.identity.worker())
    return True


def acknowledge(context: Context, flow_id: str) -> Op[Login]:
    """Wipe the token from the store. A second call changes nothing."""
    while True:
        flow: Flow = yield Load(flow_id)
        now: float = yield StoreNow()
        if flow.handover is Handover.ACKNOWLEDGED:
            break
        if flow.token is None:
            raise error_of(flow)
        acknowledged = flow.acknowledge(now)
        if (yield from context.recorder.record(flow, acknowledged, context.identity.worker())):
            break
    return Login.of(flow, flow.wait_seconds(now))


def begin_collection(context: Context, flow_id: str, seconds: float) -> Op[Collection]:
    """Take the token, and a lease that keeps others from it for a number of seconds.

    `end_collection` has to follow, whatever happens.
    """
    flow: Flow = yield Load(flow_id)
    if flow.token is None:
        raise error_of(flow)  # and leave its lease to whoever polls, or died polling
    owner = context.identity.worker()
    claim = yield from claim_ended(context, flow_id, owner, min(seconds, LONGEST_COLLECTION))
    if isinstance(claim, LeaseHeld):
        raise errors.LoginBusyError(
            flow_id=flow_id, state=claim.flow.state, wait_seconds=claim.seconds
        )
    collected = yield from or_else(collect_token(context, flow_id), Release(flow_id, owner))
    return Collection(flow_id, owner, collected)


def end_collection(context: Context, held: Collection, *, acknowledged: bool) -> Op[None]:
    """Acknowledge the token if it is safe, and let others have it if it is not."""
    release = Release(held.flow_id, held.owner)
    if acknowledged:
        yield from or_else(acknowledge(context, held.flow_id), release)
    yield release


def claim_ended(
    context: Context, flow_id: str, owner: str, seconds: float
) -> Op[Claim | LeaseHeld]:
    """Take the lease of a flow that has ended, and put on record whose lease had run out."""
    claim, lease = yield from take_lease(flow_id, owner, seconds)
    if isinstance(claim, LeaseHeld) or claim.previous_owner is None:
        return claim
    taken_over = claim.flow.take_over(claim.now, claim.previous_owner)
    recorded = context.recorder.record(claim.flow, taken_over, owner)
    yield from or_else(recorded, Snooze(flow_id, owner, lease.taken.now))
    return claim
