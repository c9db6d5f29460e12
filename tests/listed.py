"""A world that is a list: of the calls that an operation is expected to make, and their results.

No store, no transport and no clock takes part: what a test shows with it, the operation alone does.
"""

from __future__ import annotations

import logging
from inspect import signature
from typing import TYPE_CHECKING, Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from deviceflow._blocking import complete
from deviceflow.client import sweep
from deviceflow.client.context import context_of
from deviceflow.client.lease import Clocks
from deviceflow.client.world import Exchange, Prepared, World
from deviceflow.core.ports import AsyncStore, Claim, LeaseHeld, Origin, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deviceflow.client.context import Context
    from deviceflow.client.sweep import Swept
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Approver
    from deviceflow.core.wire import Failure, Response

NOW: Final = 1_800_000_000.0
STEADY: Final = 1000.0
TIMEOUT: Final = 10.0

_P = ParamSpec("_P")
_T = TypeVar("_T")

Expected = tuple[str, Any]
"""The name of a port's method, and its result; a function makes the result of the `Call`."""


class Raised(NamedTuple):
    """A result that is none: the method raised this."""

    error: BaseException


class Call:
    """A call of a port's method: its name, and its arguments by their names as attributes.

    A query has the name of what is asked, and its values.
    """

    def __init__(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.name = name
        of = World if hasattr(World, name) else AsyncStore
        bound = signature(getattr(of, name)).bind(None, *args, **kwargs)
        bound.apply_defaults()
        self.arguments = dict(bound.arguments)
        del self.arguments["self"]
        if name == "select":
            self.name, values = self.arguments.pop("query")
            self.arguments |= values

    def __getattr__(self, name: str) -> Any:
        try:
            return vars(self)["arguments"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.name}({self.arguments})"


USUAL: Final[dict[str, Callable[[Any], Any]]] = {
    "check_credentials": lambda _: None,
    "emit": lambda _: None,
    "prepare": lambda call: Prepared(call.request),
    "clocks": lambda _: Clocks(NOW, STEADY),
}
"""The results of calls that a list leaves out."""


class _ListedStore:
    def __init__(self, world: Listed) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return self._world.answer(name, *args, **kwargs)

        return call


class Listed(World):
    """Runs operations by a list.

    Args:
        *script: The calls that are expected, and their results. Those of `USUAL` may be left out.

    Attributes:
        calls: All calls, in order.
        names: Their names without those of `USUAL`; commits by their actions.
    """

    def __init__(self, *script: Expected) -> None:
        self._script = list(script)
        self.calls: list[Call] = []
        self.names: list[str] = []
        store: Any = _ListedStore(self)
        self.store = store

    def run(
        self,
        operation: Callable[Concatenate[World, _P], Coroutine[Any, Any, _T]],
        by: Context,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run an operation of a client to its end."""
        self.context = by
        result = complete(operation(self, *args, **kwargs))
        assert not self._script, f"it did not call {self._script}"
        return result

    def of(self, name: str) -> list[Call]:
        """Return the calls of one method."""
        return [call for call in self.calls if call.name == name]

    def answer(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call."""
        call = Call(name, *args, **kwargs)
        self.calls.append(call)
        result = self._result(call)
        if isinstance(result, Raised):
            raise result.error
        return result

    def _result(self, call: Call) -> Any:
        if call.name in USUAL and not (self._script and self._script[0][0] == call.name):
            return USUAL[call.name](call)
        assert self._script, f"nothing was to follow, and there is {call}"
        expected, result = self._script.pop(0)
        assert call.name == expected, f"expected {expected}, got {call}"
        self.names.append(call.event["action"] if call.name == "commit" else call.name)
        if callable(result):
            result = result(call)
        if isinstance(result, Claim) and result.event is not None:
            self.names.append(result.event["action"])
        return result

    # The ports.

    def clocks(self) -> Any:
        return self.answer("clocks")

    def resync_clock(self) -> None:
        self.answer("resync_clock")

    async def now(self) -> Any:
        return self.answer("now")

    async def sleep(self, seconds: float, watched: str | None = None) -> None:
        self.answer("sleep", seconds, watched)

    def watch(self, subject_id: str) -> None:
        self.answer("watch", subject_id)

    def wake(self, subject_id: str) -> None:
        self.answer("wake", subject_id)

    async def check_credentials(self, provider: Any) -> None:
        self.answer("check_credentials", provider)

    async def prepare(self, request: Any, now: float) -> Any:
        return self.answer("prepare", request, now)

    async def send(self, request: Any, timeout: float) -> Any:  # noqa: ASYNC109  # as in `World`
        return self.answer("send", request, timeout)

    async def write_audit(self, event: dict[str, Any], subject: Any) -> None:
        self.answer("write_audit", event, subject)

    def emit(self, name: str, fields: dict[str, Any], level: int = logging.INFO) -> None:
        self.answer("emit", name, fields, level)

    async def print(self, line: str) -> None:
        self.answer("print", line)

    async def open_browser(self, url: str) -> Any:
        return self.answer("open_browser", url)

    async def notify(self, need: Any) -> Any:
        return self.answer("notify", need)

    async def on_step(self, function: Any, login: Any) -> None:
        self.answer("on_step", function, login)


async def sweep_each(world: World, limit: int) -> Swept:
    """Take the steps that are due, one after the other."""
    swept, steps = await sweep.due(world)
    for one in steps[:limit]:
        swept.add(await one.item(world))
    return swept


def context(
    *, durable: bool = False, approver: Approver | None = None, deadline: float = TIMEOUT
) -> Context:
    """Make the context of a client whose store keeps the trail."""
    return context_of(
        durable=durable,
        keeps_trail=True,
        holds=False,
        audit=None,
        origin=Origin(actor="tester"),
        deadline=deadline,
        approver=approver,
    )


def claims(flow: Flow, now: float = NOW, previous_owner: str | None = None) -> Expected:
    """Have a lease taken; what was to be decided with it is."""
    return "claim", _decided(flow, now, previous_owner)


def _decided(flow: Flow, now: float, previous_owner: str | None) -> Callable[[Call], Claim]:
    def result(call: Call) -> Claim:
        claim = Claim(flow, now, previous_owner)
        return claim._replace(event=call.decide(claim) if call.decide else None)

    return result


def held(flow: Flow, seconds: float, since: float | None = None) -> Expected:
    """Have the lease be somebody else's."""
    return "claim", LeaseHeld(flow, seconds, since)


def commits(committed: bool = True) -> Expected:  # it is the result
    """Have a commit succeed, or be refused since others went on."""
    return "commit", committed


def sends(result: Response | Failure | BaseException, seconds: float = 0.0) -> Expected:
    """Have a request answered after so many seconds."""
    return "send", Exchange(result, STEADY + seconds)


def loads(flow: Flow) -> Expected:
    """Have a flow be stored like this."""
    return "load", Stored(flow, NOW)


def releases() -> Expected:
    """Have a lease given back."""
    return "release", None


def tells(now: float = NOW) -> Expected:
    """Have it be that time for the store."""
    return "now", now
