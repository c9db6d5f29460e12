"""Statistics of the grants in a trail: states, refreshes, losses, and how long needs lasted."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.actions import (
    ADOPT_GRANT,
    LATE_ANSWER,
    LOG_IN,
    LOG_OUT,
    LOSE_ANSWER,
    NOTIFY,
    NOTIFY_FAILED,
    POSTPONE,
    RECOVER_REFRESH,
    RENEW,
    REPLAY,
    REQUEST_CODE,
    REVOKE,
    REVOKE_FAILED,
    USE_LATE_ANSWER,
)
from deviceflow.trail.percentiles import percentiles

if TYPE_CHECKING:
    from deviceflow.trail.grant_view import Grant

COUNTED: Final = {
    "logins": LOG_IN,
    "adoptions": ADOPT_GRANT,
    "refreshes": RENEW,
    "postponed": POSTPONE,
    "lost_answers": LOSE_ANSWER,
    "recoveries": RECOVER_REFRESH,
    "replays": REPLAY,
    "late_answers": LATE_ANSWER,
    "late_answers_used": USE_LATE_ANSWER,
    "notifications": NOTIFY,
    "not_notified": NOTIFY_FAILED,
    "codes_requested": REQUEST_CODE,
    "logouts": LOG_OUT,
    "revoked": REVOKE,
    "not_revoked": REVOKE_FAILED,
}
"""The action that each statistic of grants counts."""


class GrantStats:
    """Counters of grants, with a few bytes of memory for each need.

    Attributes:
        grants: The number of grants.
        states: The number of grants in each state.
        in_doubt: How many grants are in doubt: a refresh may have been answered, and nobody knows.
        losses: How many times a grant was lost, for each reason.
        totals: The totals of events, by the names in `COUNTED`.
        needs: How many times a person had to log in.
        open_needs: How many of these needs last.
    """

    def __init__(self) -> None:
        self.grants: int = 0
        self.in_doubt: int = 0
        self.needs: int = 0
        self.open_needs: int = 0
        self.states: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.totals: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._lasted = array("d")

    def take(self, grant: Grant) -> None:
        """Count a grant."""
        self.grants += 1
        self.states[grant.state] += 1
        self.in_doubt += grant.in_doubt
        self.losses += grant.losses
        actions = Counter(event["action"] for event in grant.events)
        for name, action in COUNTED.items():
            self.totals[name] += actions[action]
        for need in grant.needs():
            self.needs += 1
            if need.until is None:
                self.open_needs += 1
            else:
                self._lasted.append(max(0.0, need.until - need.since))

    def facts(self) -> dict[str, Any]:
        """Return the statistics as JSON types."""
        lasted = sorted(self._lasted)
        return {
            "grants": self.grants,
            "states": dict(self.states.most_common()),
            "in_doubt": self.in_doubt,
            **self.totals,
            "losses": dict(self.losses.most_common()),
            "needs": {
                "raised": self.needs,
                "open": self.open_needs,
                "lasted": {"ended": len(lasted), **dict(percentiles(lasted))},
            },
        }
