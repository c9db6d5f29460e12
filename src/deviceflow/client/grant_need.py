"""The needs of grants: notifying the program of them, and what their page asks for."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

from deviceflow.client import recorder
from deviceflow.core import queries, wording
from deviceflow.core.grant import Grant
from deviceflow.core.need import LONGEST_NOTICE
from deviceflow.core.notice import LoginNeed
from deviceflow.errors import DeviceFlowError

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.flow import Transition
    from deviceflow.core.need import Need
    from deviceflow.core.ports import Stored
    from deviceflow.core.secret import Secret


async def find_grant(
    world: World, key: str | Secret, by: Literal["name", "link"] = "name"
) -> Stored[Grant] | None:
    """Return the grant of a name, or of a need's link, as it is stored; None without one."""
    return await world.store.load(Grant, key, world.clocks().shared, by=by)


async def tell(world: World, stored: Stored[Grant]) -> list[DeviceFlowError]:
    """Notify the program of what it is to be told of a grant's needs, and put that on record.

    A notification is claimed first, so that others do not notify at the same time. Whoever dies
    after that has told somebody, or nobody: others notify again soon.

    Returns:
        The notifications that failed. Each is on record, and tried again.
    """
    failed = list[DeviceFlowError]()
    while world.context.notifies:
        need = stored.record.need_to_tell(stored.now)
        if need is None:
            break
        clocks = world.clocks()
        claimed = await world.store.claim_notice(stored.record.id, clocks.shared, LONGEST_NOTICE)
        if not claimed:
            break
        trouble = await world.notify(
            LoginNeed.of(stored.record, need, world.context.pages, world.context.store_option)
        )
        recorded = await _record(world, stored.record.id, need, told=trouble is None)
        if trouble is not None:
            failed.append(_not_told(stored.record.name, trouble, recorded))
        if recorded is None:
            break
        stored = recorded[0]
    return failed


def _not_told(
    name: str, trouble: str, recorded: tuple[Stored[Grant], Transition] | None
) -> DeviceFlowError:
    wait = None if recorded is None else recorded[1].wait
    return DeviceFlowError(
        f"Nobody could be notified about {name!r}: {trouble.rstrip('.')}.",
        hint=None if wait is None else f"It is tried again in {wording.seconds(ceil(wait))}.",
    )


async def _record(
    world: World, grant_id: str, need: Need, *, told: bool
) -> tuple[Stored[Grant], Transition] | None:
    """Put on record that the program was told, also if others moved the grant meanwhile."""
    worker = world.context.identity.worker()
    while True:
        clocks = world.clocks()
        stored = await world.store.load(Grant, grant_id, clocks.shared)
        if stored is None or not stored.record.knows(need):
            return None
        grant, now = stored.record, stored.now
        moved = grant.notified(need, now) if told else grant.not_notified(need, now)
        if await recorder.record_grant(world, grant, moved, worker):
            return stored, moved


async def tell_of(world: World, name: str) -> list[DeviceFlowError]:
    """Notify the program of what it is to be told of the needs of the grant of a name.

    Returns:
        As `tell`.
    """
    if not world.context.notifies:
        return []
    clocks = world.clocks()
    stored = await world.store.load(Grant, name, clocks.shared, by="name")
    if stored is None:
        return []
    if stored.record.need_to_tell(stored.now) is None:
        # Somebody may have made the row due: it must not keep others from being told.
        await world.store.claim_notice(stored.record.id, clocks.shared, LONGEST_NOTICE)
        return []
    return await tell(world, stored)


async def due(world: World, limit: int) -> list[str]:
    """Return the names of grants with a need that the program is to be notified of."""
    if not world.context.notifies:
        return []
    clocks = world.clocks()
    return await world.store.select(queries.due_notices(limit), clocks.shared)
