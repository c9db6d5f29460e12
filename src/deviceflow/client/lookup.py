"""Looking at logins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from deviceflow.audit import log
from deviceflow.core.login import Login
from deviceflow.core.ports import Unreadable
from deviceflow.errors import UnknownLoginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.client.world import World
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Page
    from deviceflow.errors import DeviceFlowError


def logins_of(page: Page[Flow], on_problem: Callable[[DeviceFlowError], object]) -> Iterator[Login]:
    """Yield the logins of a page as they are stored, and tell of those that cannot be read."""
    for one in page.found:
        if isinstance(one, Unreadable):
            on_problem(one.problem)
        else:
            yield Login.of(one.record, one.record.wait_seconds(one.now))


async def get(world: World, flow_id: str) -> Login:
    """Return the login of an id, or else the open login of a name, as it is stored."""
    try:
        flow = await world.load_login(flow_id, secrets=False)
    except UnknownLoginError:
        named = await world.find_login(flow_id)
        if named is None:
            raise
        flow = named
    now = await world.now()
    return Login.of(flow, flow.wait_seconds(now))


def log_unreadable(problem: DeviceFlowError) -> None:
    """Log that a stored flow cannot be read."""
    fields = {"flow_id": problem.flow_id, "problem": problem.message}
    log.emit(log.UNREADABLE, fields, logging.WARNING)
