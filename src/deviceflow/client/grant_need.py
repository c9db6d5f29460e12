"""The needs of grants: notifying the program of them, and what their page asks for."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from deviceflow.client.effects import (
    ClaimNotice,
    DueNotices,
    LoadGrant,
    LoadGrantById,
    ReadClocks,
    TellNeed,
)
from deviceflow.core import wording
from deviceflow.core.need import LONGEST_NOTICE
from deviceflow.core.notice import LoginNeed
from deviceflow.errors import DeviceFlowError

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.lease import Clocks
    from deviceflow.core.flow import Transition
    from deviceflow.core.need import Need
    from deviceflow.core.ports import StoredGrant


def tell(context: Context, stored: StoredGrant) -> Op[list[DeviceFlowError]]:
    """Notify the program of what it is to be told of a grant's needs, and put that on record.

    A notification is claimed first, so that others do not notify at the same time. Whoever dies
    after that has told somebody, or nobody: others notify again soon.

    Returns:
        The notifications that failed. Each is on record, and tried again.
    """
    failed = list[DeviceFlowError]()
    while context.notifies:
        need = stored.grant.need_to_tell(stored.now)
        if need is None:
            break
        clocks: Clocks = yield ReadClocks()
        claimed: bool = yield ClaimNotice(stored.grant.id, clocks.shared, LONGEST_NOTICE)
        if not claimed:
            break
        trouble: str | None = yield TellNeed(
            LoginNeed.of(stored.grant, need, context.pages, context.store_option)
        )
        recorded = yield from _record(context, stored.grant.id, need, told=trouble is None)
        if trouble is not None:
            failed.append(_not_told(stored.grant.name, trouble, recorded))
        if recorded is None:
            break
        stored = recorded[0]
    return failed


def _not_told(
    name: str, trouble: str, recorded: tuple[StoredGrant, Transition] | None
) -> DeviceFlowError:
    wait = None if recorded is None else recorded[1].wait
    return DeviceFlowError(
        f"Nobody could be notified about the grant {name!r}: {trouble.rstrip('.')}.",
        hint=None if wait is None else f"It is tried again in {wording.seconds(ceil(wait))}.",
    )


def _record(
    context: Context, grant_id: str, need: Need, *, told: bool
) -> Op[tuple[StoredGrant, Transition] | None]:
    """Put on record that the program was told, also if others moved the grant meanwhile."""
    worker = context.identity.worker()
    while True:
        clocks: Clocks = yield ReadClocks()
        stored: StoredGrant | None = yield LoadGrantById(grant_id, clocks.shared)
        if stored is None or not stored.grant.knows(need):
            return None
        grant, now = stored.grant, stored.now
        moved = grant.notified(need, now) if told else grant.not_notified(need, now)
        if (yield from context.recorder.record_grant(grant, moved, worker)):
            return stored, moved


def tell_of(context: Context, name: str) -> Op[list[DeviceFlowError]]:
    """Notify the program of what it is to be told of the needs of the grant of a name.

    Returns:
        As `tell`.
    """
    if not context.notifies:
        return []
    clocks: Clocks = yield ReadClocks()
    stored: StoredGrant | None = yield LoadGrant(name, clocks.shared)
    if stored is None:
        return []
    if stored.grant.need_to_tell(stored.now) is None:
        # Somebody may have made the row due: it must not keep others from being told.
        yield ClaimNotice(stored.grant.id, clocks.shared, LONGEST_NOTICE)
        return []
    return (yield from tell(context, stored))


def due(context: Context, limit: int) -> Op[list[str]]:
    """Return the names of grants with a need that the program is to be notified of."""
    if not context.notifies:
        return []
    clocks: Clocks = yield ReadClocks()
    names: list[str] = yield DueNotices(clocks.shared, limit)
    return names
