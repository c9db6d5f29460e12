"""Where an event goes: to structlog if the program has configured it, else to `logging`.

The library configures nothing. structlog unconfigured prints to stdout, which would break each
program whose stdout is data; `logging` without a handler prints warnings to stderr, so the logger
`deviceflow` has a `NullHandler`. The program is asked at each event, as it may configure late.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.sanitize import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        fields: Its fields. On a `logging` record they are the attribute `deviceflow`, beside
            `deviceflow_event`, the name; and both are part of the message.
        level: `logging`'s level, `INFO` or `WARNING`.
    """
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        logger = structlog.get_logger("deviceflow")
        try:
            # Not all of structlog's loggers have a `log` that takes a level.
            (logger.warning if level >= logging.WARNING else logger.info)(name, **fields)
        except Exception:  # what a program's processors raise must not end its login
            _LOGGER.exception("%s could not be logged", name)
    elif _LOGGER.isEnabledFor(level):
        said = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        extra = {"deviceflow_event": name, "deviceflow": dict(fields)}
        _LOGGER.log(level, "%s %s", name, printable(said, _LONGEST), extra=extra)
