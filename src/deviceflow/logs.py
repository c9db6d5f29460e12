"""A pipeline for programs that have none, and processors for programs that log with structlog.

The library configures no logging by itself: it sends its events where the program has configured
structlog or `logging` to send them. A program that has configured neither needs one call::

    import deviceflow.logs

    deviceflow.logs.configure()

A program that has a pipeline puts processors of this module into it, before the renderer::

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            deviceflow.logs.drop("poll", "pending"),
            deviceflow.logs.ecs,
            structlog.processors.JSONRenderer(),
        ]
    )

Each processor changes transitions only (`deviceflow.transition`), and passes other events on
unchanged. Only `ecs` translates all events, because a log is either in ECS or not.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from deviceflow import _forks as forks
from deviceflow._files import open_to_append
from deviceflow.audit import console as _console
from deviceflow.audit import formats, jsonlines
from deviceflow.audit.events import FIELDS, LISTS, SCHEMA, schema
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["configure", "console", "drop", "ecs", "flatten", "json_lines", "own_fields"]

_OWN: Final = frozenset({*FIELDS, "event"})
_ECS_SETS: Final = frozenset(
    {"deviceflow", "ecs", "error", "event", "host", "http", "log", "process", "related", "url"}
    | {"user"}
)
_LEVELS: Final = (
    *(logging.NOTSET, logging.DEBUG, logging.INFO),
    *(logging.WARNING, logging.ERROR, logging.CRITICAL),
)


# Processors.


def ecs(_: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Give an event the names of the Elastic Common Schema, as nested objects.

    Put it before a renderer of JSON, in the place of `ecs_logging.StructlogFormatter`. A value
    that the program has bound keeps its name, unless ECS has a set of fields of that name: then
    it is under `labels`.

    Args:
        _: The logger, which is not looked at.
        method: The name of the level, where no processor has added `level`.
        event_dict: What was logged.
    """
    if event_dict.get("schema") == SCHEMA:
        fields = formats.ecs(event_dict)
        bound = {name: value for name, value in event_dict.items() if name not in _OWN}
        bound.pop("level", None)
    else:
        bound = dict(event_dict)
        fields = {
            "@timestamp": bound.pop("time", None) or bound.pop("timestamp", None) or _now(),
            "log.level": bound.pop("level", method),
            "message": str(bound.pop("event", "")),
            "ecs.version": formats.ECS_VERSION,
        }
        if trace := bound.pop("exception", None):
            fields["error.stack_trace"] = trace
    for name in bound.keys() & _ECS_SETS:
        fields[f"labels.{name}"] = str(bound.pop(name))
    return formats.nested(fields | {name: v for name, v in bound.items() if name not in fields})


def flatten(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Leave out what is null, and join lists by a space: for renderers of `key=value` pairs.

    Args:
        _: The logger, which is not looked at.
        __: The name of the level, which is not either.
        event_dict: What was logged.
    """
    if event_dict.get("schema") != SCHEMA:
        return event_dict
    for name in LISTS:
        if event_dict[name] is not None:
            event_dict[name] = " ".join(event_dict[name])
    if event_dict["omitted"] is not None:
        event_dict["omitted"] = jsonlines.line(event_dict["omitted"])
    return {name: value for name, value in event_dict.items() if value is not None}


def own_fields(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Leave a transition its own fields only: those of `deviceflow.audit/1`, as a trail has them.

    What the program has bound is omitted, and so are the event's name and its level.

    Args:
        _: The logger, which is not looked at.
        __: The name of the level, which is not either.
        event_dict: What was logged.
    """
    if event_dict.get("schema") != SCHEMA:
        return event_dict
    return {name: event_dict[name] for name in FIELDS}


def drop(*actions: str) -> Processor:
    """Return a processor that drops transitions by their actions, such as `poll` and `pending`.

    This affects the log only: a trail keeps all transitions.

    Args:
        *actions: Some of the actions that `deviceflow.audit/1` has.

    Raises:
        UsageError: There is no such action.
    """
    known = schema()["properties"]["action"]["enum"]
    if unknown := [action for action in actions if action not in known]:
        raise UsageError(
            f"No transition has the action {unknown[0]!r}.", hint=f"Actions: {', '.join(known)}."
        )
    omitted = frozenset(actions)

    def processor(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        if event_dict.get("schema") == SCHEMA and event_dict["action"] in omitted:
            raise structlog.DropEvent
        return event_dict

    return processor


# Renderers.


def json_lines(_: WrappedLogger, __: str, event_dict: EventDict) -> str:
    """Render any event as one line of JSON in ASCII, by orjson where that is installed.

    Args:
        _: The logger, which is not looked at.
        __: The name of the level, which is not either.
        event_dict: What was logged. What JSON has no type for is written as its text.
    """
    return jsonlines.line(event_dict)


def console(_: WrappedLogger, __: str, event_dict: EventDict) -> str:
    """Render any event as one line for a person to read.

    A transition reads `12:03:11 login f1 awaiting-user → polling  poll #3`. A line contains no
    control sequences.

    Args:
        _: The logger, which is not looked at.
        __: The name of the level, which is not either.
        event_dict: What was logged, with `time` and `level`.
    """
    return _console.line(event_dict)


# A pipeline.


def _settings() -> dict[str, Any]:
    config = structlog.get_config()
    return config | {"processors": list(config["processors"])}


_UNCONFIGURED: Final = None if structlog.is_configured() else _settings()
"""structlog's defaults. `capture_logs` leaves them behind, and structlog says 'configured' then."""


def configure(
    *,
    json: bool | None = None,
    path: str | os.PathLike[str] | None = None,
    level: int | str = logging.INFO,
) -> None:
    """Configure structlog for a program that has not: all that is logged by structlog goes there.

    Each event has `event`, `level`, `time` and what is bound in `structlog.contextvars`. Called
    once more, it replaces what it has set up. Within `structlog.testing.capture_logs` it does
    nothing, so that a test sees what its program logs.

    Args:
        json: Whether each event is a line of JSON; otherwise it is a line for a person to read. By
            default JSON, unless the lines go to stderr and that is a terminal.
        path: A file to append to; it is made for its owner only (0600). Several processes may
            append to one file, and it may be moved away at any time, by logrotate for instance:
            the next line begins a new one. By default the lines go to stderr. A line that cannot
            be written to the file goes to stderr too: logging never ends what it reports on.
        level: The lowest level that is logged, by `logging`'s number or name.

    Raises:
        UsageError: The program has configured structlog already; or the file cannot be opened, or
            there is no such level.
    """
    current = structlog.get_config()
    if any(isinstance(part, structlog.testing.LogCapture) for part in current["processors"]):
        return
    ours = isinstance(current["logger_factory"], _Lines)
    if structlog.is_configured() and not ours and _settings() != _UNCONFIGURED:
        raise UsageError(
            "structlog is configured already, and deviceflow.logs.configure() replaces no pipeline"
            " of the program's own.",
            hint="Call it instead of structlog.configure(), or add the processors of"
            " deviceflow.logs to that pipeline.",
        )
    minimum = getattr(logging, level.upper(), None) if isinstance(level, str) else level
    if minimum not in _LEVELS:
        raise UsageError(f"There is no log level {level!r}.", hint="Use DEBUG, INFO or WARNING.")
    if json is None:
        json = path is not None or not _is_terminal(sys.stderr)
    lines = _Lines(_Stderr() if path is None else _File(Path(path).absolute()))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_time,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            json_lines if json else console,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        context_class=dict,
        logger_factory=lines,
        cache_logger_on_first_use=True,
    )
    if ours:
        current["logger_factory"].place.close()


def _add_time(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    event_dict.setdefault("time", _now())  # a transition says when it happened
    return event_dict


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


class _Place(Protocol):
    """Where lines go."""

    def write(self, line: str) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """Makes structlog's loggers, which write each event as a line."""

    def __init__(self, place: _Place) -> None:
        self.place = place

    def __call__(self, *_: object) -> _Lines:
        return self

    def msg(self, line: str) -> None:
        self.place.write(line)

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


class _Stderr:
    def write(self, line: str) -> None:
        stream = sys.stderr  # whatever that is by now; nothing where there is no console
        if stream is None:
            return
        try:
            stream.write(f"{line}\n")
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, or it is closed
            return

    def close(self) -> None:
        return


class _File:
    """Appends lines to a file, each by one write, and begins it anew where it was moved away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._renew_lock()
        forks.in_child(self._renew_lock)
        self._handle = -1
        problem: OSError | None = None
        try:
            self._open()
        except OSError as error:
            problem = error
        if problem is not None:
            raise UsageError(
                f"The log file {path} cannot be opened: {problem.strerror}.",
                hint="Name a file in a directory that exists and that this user may write to.",
            )

    def write(self, line: str) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        try:
            with self._lock:
                if self._was_moved():
                    self._open()
                written = os.write(self._handle, data)
            if written != len(data):
                raise OSError(0, "the disk took a part of the line only")  # noqa: TRY301
        except OSError as error:
            _Stderr().write(f"{line}\n[not in {self._path}: {error.strerror}]")

    def close(self) -> None:
        with self._lock:
            if self._handle >= 0:
                os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        handle = open_to_append(self._path)
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = handle

    def _was_moved(self) -> bool:
        if self._handle < 0:
            return True
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._handle))  # noqa: PTH116
        except FileNotFoundError:
            return True

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()
