"""A login that moves between stores as one sealed text, for programs that keep their own state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow import errors
from deviceflow.client.effects import Add, Load, StoreNow
from deviceflow.core.login import Login
from deviceflow.export import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.core.secret import Secret


def export_login(flow_id: str, keys: Sequence[Secret]) -> Op[str]:
    """Return the whole login, secrets included, as one sealed text."""
    flow: Flow = yield Load(flow_id)
    return seal(flow, keys)


def import_login(text: str, keys: Sequence[Secret]) -> Op[Login]:
    """Add a sealed login to the store."""
    flow = unseal(text, keys)
    kept: Flow = yield Add(flow, None)
    if kept is not flow:
        raise errors.UsageError(
            f"A login of the name {flow.name!r} is open in this store already.",
            flow_id=kept.id,
            state=kept.state,
            hint=f"End that login first: deviceflow cancel {kept.id}, or if the login was approved,"
            f" deviceflow token {kept.id} --acknowledge.",
        )
    now: float = yield StoreNow()
    return Login.of(flow, flow.wait_seconds(now))
