"""Looking at logins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from deviceflow.audit import log
from deviceflow.core.login import Login

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.errors import DeviceFlowError


async def get(world: World, flow_id: str) -> Login:
    """Return the login as it is stored."""
    flow = await world.load_login(flow_id, secrets=False)
    now = await world.now()
    return Login.of(flow, flow.wait_seconds(now))


def log_unreadable(problem: DeviceFlowError) -> None:
    """Log that a stored flow cannot be read."""
    fields = {"flow_id": problem.flow_id, "problem": problem.message}
    log.emit(log.UNREADABLE, fields, logging.WARNING)
