"""The event that each transition is, with the fields of `deviceflow.audit/1`. Pure: no I/O.

The JSON Schema lies beside this file, and `schema()` returns it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from deviceflow.flow import Flow, Transition

SCHEMA: Final = "deviceflow.audit/1"

_OUTCOMES: Final = {
    "issue_code": "code_issued",
    "poll": "sent",
    "pending": "pending",
    "slow_down": "slow_down",
    "retry": "no_answer",
    "recover": "unknown",
    "grant": "granted",
    "late_grant": "granted",
    "stray_token": "must_be_revoked",
    "revoke": "revoked",
    "revoke_failed": "not_revoked",
    "expire": "expired",
    "deny": "denied",
    "fail": "failed",
    "cancel": "cancelled",
}


def render(flow: Flow, transition: Transition) -> dict[str, Any]:
    """Return the event that says what `transition` made of `flow`.

    It holds no secret, and not the user code either.
    """
    provider = flow.provider
    scope = flow.token.scope if flow.token else None
    return {
        "schema": SCHEMA,
        "event_id": f"{flow.id}.{transition.seq}",
        "time": datetime.fromtimestamp(transition.at, UTC).isoformat(timespec="milliseconds"),
        "flow_id": flow.id,
        "seq": transition.seq,
        "action": transition.action,
        "from": transition.source.value,
        "to": transition.dest.value,
        "outcome": _OUTCOMES[transition.action],
        "reason": flow.reason and flow.reason.value,
        "detail": transition.detail,
        "dialect": provider.dialect,
        "issuer": provider.server,
        "client_id": provider.client_id,
        "client_name": provider.client_name,
        "scopes": list(provider.scopes),
        "granted_scopes": None if scope is None else list(scope),
        "attempt": flow.attempt,
        "interval": flow.interval,
        "wait": transition.wait,
        "http_status": transition.status,
        "duration": transition.duration,
        "in_doubt": flow.in_doubt,
    }


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `deviceflow.audit/1`."""
    text = files("deviceflow.audit").joinpath("audit-1.schema.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text)
    return read
