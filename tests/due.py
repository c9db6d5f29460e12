"""Take the login that has been due the longest, as a sweep does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.core import queries
from deviceflow.core.ports import Claim

if TYPE_CHECKING:
    from deviceflow.core.ports import Decide


def claim_due(
    store: Any, owner: str, now: float, seconds: float, decide: Decide | None = None
) -> Claim | None:
    """Return the claim; None if no login is due that nobody has leased."""
    for due in store.select(queries.upcoming(0.0, 0.0), now):
        claim = store.claim(due.flow_id, owner, now, seconds, decide)
        if isinstance(claim, Claim):
            return claim
    return None
