"""Parts for tests of programs that log in: a clock that obeys, a server that answers by a list.

With pytest, the fixtures of `deviceflow.testing.plugin` are there by themselves. Nothing is loaded
before it is asked for: pytest imports this package at the start of every run.
"""

from __future__ import annotations

_HOME_OF = {
    "Answers": "answers",
    "AsyncScriptedTransport": "transport",
    "AsyncVirtualClock": "clock",
    "DeviceServer": "device_server",
    "ScriptedTransport": "transport",
    "Transitions": "transitions",
    "VirtualClock": "clock",
    "answer": "transport",
    "answers_of": "answers",
}

__all__ = [*_HOME_OF]  # noqa: PLE0604  # they are texts

TYPE_CHECKING = False
if TYPE_CHECKING:  # the same names, for type checkers; a test compares the two
    from deviceflow.testing.answers import Answers as Answers
    from deviceflow.testing.answers import answers_of as answers_of
    from deviceflow.testing.clock import AsyncVirtualClock as AsyncVirtualClock
    from deviceflow.testing.clock import VirtualClock as VirtualClock
    from deviceflow.testing.device_server import DeviceServer as DeviceServer
    from deviceflow.testing.transitions import Transitions as Transitions
    from deviceflow.testing.transport import AsyncScriptedTransport as AsyncScriptedTransport
    from deviceflow.testing.transport import ScriptedTransport as ScriptedTransport
    from deviceflow.testing.transport import answer as answer
else:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # costs, so not before it is needed

        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
