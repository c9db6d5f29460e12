"""An event as one line that a person reads while it happens."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.events import FIELDS, SCHEMA
from deviceflow.core.actions import POLL
from deviceflow.core.sanitize import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LONGEST: Final = 1000
_NOT_REPEATED: Final = frozenset({*FIELDS, "event", "level"})
_NOT_A_VALUE: Final = frozenset({"event", "level", "time", "exception", "stack"})


def line(fields: Mapping[str, Any]) -> str:
    """Return what was logged, in words; what the program has bound stands behind it.

    Nothing in it steers a terminal. Only an exception's traceback takes more than one line.

    Args:
        fields: What was logged: with `event`, its name, `level` and `time` (ISO 8601); and under
            `exception` and `stack` tracebacks, where there are any.
    """
    transition = fields.get("schema") == SCHEMA
    text = _transition(fields) if transition else _other(fields)
    hidden = _NOT_REPEATED if transition else _NOT_A_VALUE
    bound = [f"{name}={_value(value)}" for name, value in fields.items() if name not in hidden]
    text = printable("  ".join((text, *bound)), _LONGEST)
    traces = [str(fields[name]) for name in ("exception", "stack") if fields.get(name)]
    below = [printable(row, _LONGEST) for trace in traces for row in trace.splitlines()]
    return "\n".join([f"{_clock(fields.get('time'))} {text}", *below])


def _transition(event: Mapping[str, Any]) -> str:
    before, after = event["from"], event["to"]
    moved = after if before == after else f"{before} → {after}"
    subject = f"login {event['flow_id']} {moved}" if after else str(event["flow_id"])
    return f"{subject}  {', '.join(_facts(event))}"


def _facts(event: Mapping[str, Any]) -> Iterator[str]:
    action = event["action"]
    yield f"{action} #{event['attempt']}" if action == POLL else action
    if event["http_status"] not in (None, 200):
        yield f"HTTP {event['http_status']}"
    if event["reason"]:
        yield str(event["reason"])
    if event["detail"]:
        yield str(event["detail"])
    if event["wait"]:
        yield f"next in {event['wait']:g} s"


def _other(fields: Mapping[str, Any]) -> str:
    return f"{fields.get('level', 'info')}: {fields.get('event')}"


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or " " in text else text


def _clock(time: object) -> str:
    try:
        return datetime.fromisoformat(str(time)).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "--:--:--"
