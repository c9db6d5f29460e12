"""Looking at logins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from deviceflow.audit import log
from deviceflow.client.effects import ListFlows, Load, StoreNow
from deviceflow.core.login import Login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.errors import DeviceFlowError


def get(flow_id: str) -> Op[Login]:
    """Return the login as it is stored."""
    flow: Flow = yield Load(flow_id, secrets=False)
    now: float = yield StoreNow()
    return Login.of(flow, flow.wait_seconds(now))


def logins(
    *, skip_ended: bool, on_problem: Callable[[DeviceFlowError], object]
) -> Op[Iterator[Login]]:
    """Return an iterator over the stored logins, the newest first."""
    now: float = yield StoreNow()
    found: Iterator[Login] = yield ListFlows(
        skip_ended, on_problem, lambda flow: Login.of(flow, flow.wait_seconds(now))
    )
    return found


def log_unreadable(problem: DeviceFlowError) -> None:
    """Log that a stored flow cannot be read."""
    fields = {"flow_id": problem.flow_id, "problem": problem.message}
    log.emit(log.UNREADABLE, fields, logging.WARNING)
