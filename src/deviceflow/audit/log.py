"""Log events with structlog if the program has configured it, else with `logging`.

The library does not configure logging; a program can call `deviceflow.logs.configure`. Without
configuration, structlog prints to stdout, which would break programs whose stdout is data, and
`logging` prints warnings to stderr, so the logger `deviceflow` has a `NullHandler`. The
configuration is checked at each event, because a program may configure logging late.
"""

from __future__ import annotations

import logging
import sys
from operator import is_
from typing import TYPE_CHECKING, Any, Final, Protocol

from deviceflow.core.sanitize import printable
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

TRANSITION: Final = "deviceflow.transition"
PLAIN_HTTP: Final = "deviceflow.plain_http"
UNVERIFIED_TLS: Final = "deviceflow.unverified_tls"
PLAINTEXT: Final = "deviceflow.plaintext"
UNREADABLE: Final = "deviceflow.unreadable"
CLOCK_JUMP: Final = "deviceflow.clock_jump"

_LONGEST: Final = 10_000
_LOGGER: Final = logging.getLogger("deviceflow")
_LOGGER.addHandler(logging.NullHandler())


def emit(name: str, fields: Mapping[str, Any], level: int = logging.INFO) -> None:
    """Log one event.

    Args:
        name: The event's name.
        fields: The event's fields. A `logging` record has them in the attribute `deviceflow`, and
            the name in `deviceflow_event`. The message contains both.
        level: The level, `logging.INFO` or `logging.WARNING`.
    """
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        try:
            logger, unbound = _bound_logger(structlog, fields)
            # Not all of structlog's loggers have a `log` that takes a level.
            (logger.warning if level >= logging.WARNING else logger.info)(name, **unbound)
        except Exception:  # what a program's processors raise must not end its login
            _LOGGER.exception("%s could not be logged", name)
    elif _LOGGER.isEnabledFor(level):
        text = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        extra = {"deviceflow_event": name, "deviceflow": dict(fields)}
        _LOGGER.log(level, "%s %s", name, printable(text, _LONGEST), extra=extra)


_kept: tuple[dict[str, Any], Any, bool] = ({}, None, False)
"""The configuration, the logger that structlog's loggers wrap for it, and whether these are async.

What is async has a logger for each event that is not, as `sync_bl`.
"""


def _bound_logger(
    structlog: ModuleType, fields: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """Return a logger with the fields, like `structlog.get_logger("deviceflow").bind(**fields)`.

    The wrapped logger is cached if structlog is configured to cache loggers, until the
    configuration changes. `structlog.testing.capture_logs` changes the list of processors in place,
    so it works with a cached logger too.

    Returns:
        The logger, and the fields that it does not have. Passed on with the event, the fields would
        be copied as keywords three times; but another context than a dict may last longer than the
        event.
    """
    global _kept  # noqa: PLW0603  # one for the process, as structlog's configuration is
    config, wrapped, is_async = _kept
    now: dict[str, Any] = structlog.get_config()
    if not (config and all(map(is_, now.values(), config.values()))):
        wrapped = now["logger_factory"]("deviceflow")
        is_async = hasattr(now["wrapper_class"], "sync_bl")
        if now["cache_logger_on_first_use"]:
            _kept = (now, wrapped, is_async)
    context, unbound = now["context_class"](), fields
    if type(context) is dict:
        context, unbound = dict(fields), {}
    logger = now["wrapper_class"](wrapped, processors=now["processors"], context=context)
    # Of an AsyncBoundLogger, whose own methods must be awaited.
    return (logger.sync_bl if is_async else logger), unbound


class OnTransition(Protocol):
    """The program's hook."""

    def __call__(self, event: dict[str, Any], /) -> object:
        """Process a transition, after it was committed and logged.

        Args:
            event: The fields of `deviceflow.audit/1`, as a copy that the hook may change.
        """


class Emitter:
    """Logs a client's events, and calls the program's hook for transitions.

    Args:
        on_transition: Called with each transition's event. If it raises, the exception is logged
            with `logging.getLogger("deviceflow")`, and the login continues.

    Raises:
        UsageError: The hook cannot be called, or is a coroutine function.
    """

    def __init__(self, on_transition: OnTransition | None = None) -> None:
        if on_transition is not None:
            _check_hook(on_transition)
        self._on_transition = on_transition

    def emit(self, name: str, fields: Mapping[str, Any], level: int = logging.INFO) -> None:
        """Log one event, and call the hook if it is a transition.

        Args:
            name: As for the function `emit`.
            fields: As for the function `emit`. A transition must be committed before.
            level: As for the function `emit`.
        """
        emit(name, fields, level)
        if name == TRANSITION and self._on_transition is not None:
            try:
                self._on_transition(dict(fields))
            except Exception:  # the transition is committed, whatever the program makes of it
                _LOGGER.exception("on_transition failed for the event %s", fields["event_id"])


def _check_hook(hook: object) -> None:
    from inspect import iscoroutinefunction  # noqa: PLC0415  # costs, and few have a hook

    if not callable(hook):
        raise UsageError(
            f"on_transition must be a function, not {type(hook).__name__}.",
            hint="It is called with one argument, the event.",
        )
    if iscoroutinefunction(hook) or iscoroutinefunction(type(hook).__call__):
        raise UsageError(
            "on_transition must be a plain function: a coroutine function would never be awaited.",
            hint="Have a plain function put the event into an asyncio.Queue, or start a task.",
        )
