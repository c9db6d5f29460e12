"""The event that each transition is, with the fields of `deviceflow.audit/1`. Pure: no I/O.

The JSON Schema lies beside this file, and `schema()` returns it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
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
    "collect": "handed_over",
    "acknowledge": "wiped",
    "purge": "wiped",
}

FIELDS: Final = (
    "schema",
    "event_id",
    "time",
    "flow_id",
    "seq",
    "action",
    "from",
    "to",
    "outcome",
    "reason",
    "detail",
    "dialect",
    "issuer",
    "client_id",
    "client_name",
    "scopes",
    "granted_scopes",
    "attempt",
    "interval",
    "wait",
    "http_status",
    "duration",
    "in_doubt",
    "worker",
)
"""An event's fields, in their order."""

LISTS: Final = frozenset({"scopes", "granted_scopes"})
"""Those of them that are lists of texts, or null."""


def render(flow: Flow, transition: Transition, worker: str | None = None) -> dict[str, Any]:
    """Return the event that says what `transition` made of `flow`.

    It holds no secret, and not the user code either.

    Args:
        flow: The flow as it is after it.
        transition: What happened.
        worker: Who did it: the random name of a client, the process's id, and a number.
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
        "worker": worker,
    }


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `deviceflow.audit/1`."""
    from importlib.resources import files  # noqa: PLC0415  # costs, and few ask

    text = files("deviceflow.audit").joinpath("audit-1.schema.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text)
    return read
