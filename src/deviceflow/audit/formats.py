"""Events of a trail as lines, in the forms that collectors of logs take: ECS, JSON lines, CSV.

For what is logged as it happens, `deviceflow.logs` has processors for structlog.
"""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deviceflow.audit import jsonlines
from deviceflow.audit.events import FIELDS
from deviceflow.core.actions import Kind, action_of
from deviceflow.core.sanitize import printable
from deviceflow.core.states import AUTHORIZED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.actions import Action

# By https://www.elastic.co/docs/reference/ecs; what has no place there is under `deviceflow`.
_FIELDS: Final = {
    "time": "@timestamp",
    "event_id": "event.id",
    "seq": "event.sequence",
    "action": "event.action",
    "reason": "event.reason",
    "hash": "event.hash",
    "issuer": "url.full",
    "http_status": "http.response.status_code",
    "host": "host.name",
    "pid": "process.pid",
    "actor": "user.name",
    "address": "source.address",
}
ECS_VERSION: Final = "9.5.0"
"""The version of the schema whose names and types these are."""

_FIRST: Final = ("@timestamp", "log.level", "message", "ecs.version")
"""The fields that a line begins with, as they are (https://github.com/elastic/ecs-logging)."""


def ecs(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event under the names of the Elastic Common Schema, with dots in them.

    Only null fields are omitted. The end of a login says whether the login succeeded; the events
    before it have the outcome `unknown`.

    Args:
        event: An event of `deviceflow.audit/1`.
    """
    action = action_of(event["action"])
    fields = {_FIELDS.get(name, f"deviceflow.{name}"): event[name] for name in FIELDS}
    fields |= {
        "event.kind": "event",
        "event.module": "deviceflow",
        "event.dataset": "deviceflow.audit",
        "event.category": ["configuration" if action.kind is Kind.STORE else "authentication"],
        "event.type": [action.event_type],
        "event.outcome": _outcome_of(action),
        "log.logger": "deviceflow",
        "log.level": action.severity.value,
        "message": _message(event),
        "ecs.version": ECS_VERSION,
        "url.domain": _domain_of(event["issuer"]),
        "related.user": [*filter(None, (event["actor"], event["subject"]))] or None,
        "source.ip": _ip_of(event["address"]),
    }
    # In nanoseconds, as ECS has it, for which it keeps 63 bits.
    if event["duration"] is not None and 0 <= (duration := event["duration"] * 1e9) < 2**63:
        fields["event.duration"] = round(duration)
    return {name: value for name, value in fields.items() if value is not None}


def _ip_of(address: str | None) -> str | None:
    """Return the address in clear, if it is one: the field takes nothing else."""
    with suppress(ValueError):
        return str(ip_address((address or "").partition("%")[0]))
    return None


def _outcome_of(action: Action) -> str:
    if action.ends_login is None:
        return "unknown"
    return "success" if action.ends_login is AUTHORIZED else "failure"


def _message(event: Mapping[str, Any]) -> str:
    text = f"{event['flow_id']}: {event['action']}"
    if event["to"] is not None and event["from"] != event["to"]:
        text += f", {event['from']} -> {event['to']}"
    return text


def _domain_of(address: str | None) -> str | None:
    try:
        return urlsplit(address or "").hostname
    except ValueError:
        return None


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields whose names have dots as objects in objects, in the order of ECS's logs.

    Args:
        fields: As `ecs` returns them.
    """
    tree: dict[str, Any] = {name: fields[name] for name in _FIRST if name in fields}
    for name, value in fields.items():
        if name not in tree:
            *path, last = name.split(".")
            inner = tree
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
    return tree


class ECS:
    """Writes one line of ECS for each event."""

    def line(self, event: Mapping[str, Any]) -> str:
        """Return an event of a trail as one line."""
        return jsonlines.line(nested(ecs(event)))


class JSONLines:
    """Writes one line of JSON for each event: as a trail in a file is."""

    def line(self, event: Mapping[str, Any]) -> str:
        """Return an event of a trail as one line. It is ASCII, so it steers no terminal."""
        return jsonlines.line({name: event[name] for name in FIELDS})


class CSV:
    """Writes one row for each event: for spreadsheets, which take some texts for formulas."""

    header: Final = ",".join(FIELDS)

    def line(self, event: Mapping[str, Any]) -> str:
        """Return an event of a trail as one row."""
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(_cell(event[name]) for name in FIELDS)
        return row.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = " ".join(value)
    if isinstance(value, dict):
        value = jsonlines.line(value)
    if not isinstance(value, str):
        return value
    return _FORMULA.sub(r"\1'\2", printable(value, 10_000))


# At the beginning of a cell; some spreadsheets part cells by a semicolon.
_FORMULA: Final = re.compile(r"(^|;)(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
