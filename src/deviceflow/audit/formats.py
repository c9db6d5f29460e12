"""Events in the forms that collectors of logs take: ECS, JSON lines, CSV.

`ECS` and `JSONLines` can be the last of structlog's processors::

    structlog.configure(processors=[structlog.processors.add_log_level, ECS()])

and each writes an event of a trail by `line`. ECS needs a library: extra `audit`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deviceflow.audit.events import FIELDS, SCHEMA
from deviceflow.core.actions import Kind, action_of
from deviceflow.core.sanitize import printable
from deviceflow.core.states import AUTHORIZED

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

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
}
_SETS: Final = frozenset(
    {"deviceflow", "event", "host", "http", "log", "process", "related", "url", "user"}
)

_ascii: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode


def ecs(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event under the names of the Elastic Common Schema, with dots in them.

    Nothing is lost but what is null. Whether a login succeeded is said by its end only; all that
    goes before has the outcome `unknown`.

    Args:
        event: An event of `deviceflow.audit/1`.
    """
    action = action_of(event["action"])
    said = {_FIELDS.get(name, f"deviceflow.{name}"): event[name] for name in FIELDS}
    said |= {
        "event.kind": "event",
        "event.module": "deviceflow",
        "event.dataset": "deviceflow.audit",
        "event.category": ["configuration" if action.kind is Kind.STORE else "authentication"],
        "event.type": [action.event_type],
        "event.outcome": _outcome_of(action),
        "log.logger": "deviceflow",
        "log.level": action.severity.value,
        "message": _message(event),
        "url.domain": _domain_of(event["issuer"]),
        "related.user": event["actor"] and [event["actor"]],
    }
    # In nanoseconds, as ECS has it, for which it keeps 63 bits.
    if event["duration"] is not None and 0 <= (duration := event["duration"] * 1e9) < 2**63:
        said["event.duration"] = round(duration)
    return {
        # The library puts lists in order where they are, and these are the event's own.
        name: value[:] if isinstance(value, list) else value
        for name, value in said.items()
        if value is not None
    }


def _outcome_of(action: Action) -> str:
    if action.ends_login is None:
        return "unknown"
    return "success" if action.ends_login is AUTHORIZED else "failure"


def _message(event: Mapping[str, Any]) -> str:
    said = f"{event['flow_id']}: {event['action']}"
    if event["to"] is not None and event["from"] != event["to"]:
        said += f", {event['from']} -> {event['to']}"
    return said


def _domain_of(address: str | None) -> str | None:
    try:
        return urlsplit(address or "").hostname
    except ValueError:
        return None


class ECS:
    """Writes one line of ECS for each event; other events as `ecs-logging` does.

    Raises:
        ImportError: `ecs-logging` is missing (extra `audit`).
    """

    def __init__(self) -> None:
        try:
            from ecs_logging import StructlogFormatter  # noqa: PLC0415  # an extra
        except ImportError:
            raise ImportError("ECS needs a library: pip install 'deviceflow[audit]'") from None
        self._format = StructlogFormatter()

    def __call__(self, logger: Any, name: str, event_dict: MutableMapping[str, Any]) -> str:
        """Write one: structlog's last processor.

        Args:
            logger: Not looked at.
            name: The level's name.
            event_dict: The event, with whatever the program has bound to its logger.
        """
        given = dict(event_dict)
        if given.get("schema") == SCHEMA:
            said = ecs(given)
            bound = {key: value for key, value in given.items() if key not in {*FIELDS, "event"}}
            # What has the name of a set of fields cannot stand beside the fields in it.
            for key in bound.keys() & _SETS:
                bound[f"labels.{key}"] = str(bound.pop(key))
            given = bound | said | {"event": said["message"]}
            del given["message"]
        return str(self._format(logger, name, given))

    def line(self, event: Mapping[str, Any]) -> str:
        """Return an event of a trail as one line."""
        said = ecs(event)
        return str(self._format(None, "info", said | {"event": said.pop("message")}))


class JSONLines:
    """Writes one line of JSON for each event, with its own fields only: as a trail in a file is."""

    def __call__(self, logger: Any, name: str, event_dict: MutableMapping[str, Any]) -> str:  # noqa: ARG002
        """Write one: structlog's last processor.

        Args:
            logger: Not looked at.
            name: The level's name.
            event_dict: The event. One that is no event of a trail is written as it is.
        """
        if event_dict.get("schema") == SCHEMA:
            return self.line(event_dict)
        return _ascii(dict(event_dict))

    def line(self, event: Mapping[str, Any]) -> str:
        """Return an event of a trail as one line. It is ASCII, so it steers no terminal."""
        return _ascii({name: event[name] for name in FIELDS})


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
    if not isinstance(value, str):
        return value
    return _FORMULA.sub(r"\1'\2", printable(value, 10_000))


# At the beginning of a cell; some spreadsheets part cells by a semicolon.
_FORMULA: Final = re.compile(r"(^|;)(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
