"""Looking at logins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from deviceflow.audit import log
from deviceflow.client.effects import ListFlows, Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.errors import DeviceFlowError


def get(flow_id: str, *, secrets: bool) -> Op[Flow]:
    """Return the flow as it is stored."""
    flow: Flow = yield Load(flow_id, secrets)
    return flow


def flows(*, live: bool, on_problem: Callable[[DeviceFlowError], object]) -> Op[Iterator[Flow]]:
    """Return an iterator over the stored flows, the newest first."""
    found: Iterator[Flow] = yield ListFlows(live, on_problem)
    return found


def log_unreadable(problem: DeviceFlowError) -> None:
    """Log that a stored flow cannot be read."""
    fields = {"flow_id": problem.flow_id, "problem": problem.message}
    log.emit(log.UNREADABLE, fields, logging.WARNING)
