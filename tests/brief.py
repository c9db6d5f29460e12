"""What most tests compare of a login: how it stands, and when the next step is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deviceflow.core.login import Login
    from deviceflow.core.states import Reason, State


def brief(login: Login) -> tuple[str, State, float, Reason | None]:
    """Return the id, the state, the seconds until the next step, and the reason."""
    return login.id, login.state, login.wait_seconds, login.reason
