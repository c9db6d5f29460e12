"""A login that moves between stores as one sealed text, for programs that keep their own state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow import errors
from deviceflow.core.login import Login
from deviceflow.core.sanitize import printable
from deviceflow.export import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.client.world import World
    from deviceflow.core.secret import Secret


async def export_login(world: World, flow_id: str, keys: Sequence[Secret]) -> str:
    """Return the whole login, secrets included, as one sealed text."""
    stored = await world.load_stored(flow_id)
    flow, holder = stored.record, printable(str(stored.owner), 100)
    if flow.reserved:
        raise errors.LoginBusyError(
            f"Another process holds this login, and polls for it: {holder}.",
            flow_id=flow.id,
            state=flow.state,
            wait_seconds=flow.interval,
            hint="Stop that process: it gives the login back, which can then be exported. If it has"
            f" died, take the login over once its lease has ended: deviceflow step {flow.id}",
        )
    return seal(flow, keys)


async def import_login(world: World, text: str, keys: Sequence[Secret]) -> Login:
    """Add a sealed login to the store."""
    flow = unseal(text, keys)
    kept = await world.store.add(flow, store_event=None)
    if kept is not flow:
        raise errors.UsageError(
            f"A login of the name {flow.name!r} is open in this store already.",
            flow_id=kept.id,
            state=kept.state,
            hint=f"End that login first: deviceflow cancel {kept.id}, or if the login was approved,"
            f" deviceflow token {kept.id} --acknowledge.",
        )
    now = await world.now()
    return Login.of(flow, flow.wait_seconds(now))
