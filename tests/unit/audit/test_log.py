"""Who is told of an event: structlog as it is configured just then, and the program's hook."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import pytest
import structlog

from deviceflow.audit import log
from deviceflow.audit.events import FIELDS
from deviceflow.audit.log import Emitter
from deviceflow.client._sync import Client
from deviceflow.core.secret import Secret
from deviceflow.errors import UsageError
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.wire import Response

EVENT: Final = {"event_id": "f1.1", "flow_id": "f1", "action": "poll"}


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("cached", [None, False, True])
def test_capture_logs_sees_all_events(
    cached: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if cached is not None:
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()], cache_logger_on_first_use=cached
        )
        log.emit("before", EVENT)

    with structlog.testing.capture_logs() as captured:
        log.emit(log.TRANSITION, EVENT)
        log.emit(log.CLOCK_JUMP, {"wall_clock_ahead": 7}, logging.WARNING)
    log.emit("behind", EVENT)

    assert captured == [
        {"event": log.TRANSITION, "log_level": "info", **EVENT},
        {"event": log.CLOCK_JUMP, "log_level": "warning", "wall_clock_ahead": 7},
    ]
    assert log.TRANSITION not in capsys.readouterr().out


def test_values_bound_in_structlogs_context_are_on_the_event_and_do_not_replace_its_own() -> None:
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, captured])

    with structlog.contextvars.bound_contextvars(request_id="r1", flow_id="another"):
        log.emit(log.TRANSITION, EVENT)

    (entry,) = captured.entries
    assert (entry["request_id"], entry["flow_id"]) == ("r1", "f1")


def test_a_bound_logger_is_kept_where_the_program_wants_it_and_for_that_configuration_only() -> (
    None
):
    made: list[str] = []

    def factory(name: str) -> structlog.PrintLogger:
        made.append(name)
        return structlog.PrintLogger(sys.stderr)

    def log_thrice(**changed: Any) -> int:
        structlog.configure(logger_factory=factory, **changed)
        made.clear()
        for _ in range(3):
            log.emit(log.TRANSITION, EVENT)
        assert set(made) <= {"deviceflow"}
        return len(made)

    assert log_thrice(processors=[structlog.processors.JSONRenderer()]) == 3
    assert log_thrice(cache_logger_on_first_use=True) == 1
    assert log_thrice() == 0
    assert log_thrice(processors=[structlog.processors.KeyValueRenderer()]) == 1
    assert log_thrice(wrapper_class=structlog.make_filtering_bound_logger(10)) == 1
    assert log_thrice(cache_logger_on_first_use=False) == 3


def test_another_configuration_is_gone_by_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    render = structlog.processors.KeyValueRenderer(key_order=["event"])
    structlog.configure(processors=[render], cache_logger_on_first_use=True)
    log.emit("first", {})

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    log.emit("second", {})
    log.emit("third", {}, logging.WARNING)

    assert capsys.readouterr().out.splitlines() == ["event='first'", "event='third'"]


def test_a_logger_that_must_be_awaited_logs_at_once() -> None:
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[captured], wrapper_class=structlog.stdlib.AsyncBoundLogger)

    async def program() -> None:
        log.emit(log.TRANSITION, EVENT)

    asyncio.run(program())

    assert [entry["event"] for entry in captured.entries] == [log.TRANSITION]


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_each_event_has_its_own_fields_only_whatever_a_context_is(kind: type) -> None:
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[captured], context_class=kind)

    log.emit("first", {"flow_id": "f1"})
    log.emit("second", {"url": "u"})

    assert captured.entries == [
        {"flow_id": "f1", "event": "first", "log_level": "info"},
        {"url": "u", "event": "second", "log_level": "info"},
    ]


def test_a_processor_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> Any:
        raise LookupError("broken")

    structlog.configure(processors=[broken])

    log.emit(log.TRANSITION, EVENT)

    (record,) = caplog.records
    assert record.getMessage() == "deviceflow.transition could not be logged"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_the_hook_is_called_behind_the_log_with_a_copy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "deviceflow")
    told: list[tuple[dict[str, Any], int]] = []

    def hook(event: dict[str, Any]) -> None:
        told.append((dict(event), len(caplog.records)))
        event.clear()

    event = dict(EVENT)
    Emitter(hook).emit(log.TRANSITION, event)

    assert told == [(EVENT, 1)]
    assert event == EVENT


def test_the_hook_is_told_of_transitions_only(caplog: pytest.LogCaptureFixture) -> None:
    told: list[dict[str, Any]] = []
    emitter = Emitter(told.append)

    emitter.emit(log.CLOCK_JUMP, {"wall_clock_ahead": 7}, logging.WARNING)
    emitter.emit(log.TRANSITION, EVENT)
    Emitter().emit(log.TRANSITION, EVENT)

    assert told == [EVENT]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_hook_that_raises_ends_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: dict[str, Any]) -> None:
        raise LookupError(event["flow_id"])

    Emitter(hook).emit(log.TRANSITION, EVENT)

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("deviceflow", logging.ERROR)
    assert record.getMessage() == "on_transition failed for the event f1.1"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_a_hook_can_be_interrupted() -> None:
    def hook(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Emitter(hook).emit(log.TRANSITION, EVENT)


async def _coroutine_function(_: object) -> None: ...


class _AsyncCallable:
    async def __call__(self, _: object) -> None: ...


@pytest.mark.parametrize("hook", ["print", 7, _coroutine_function, _AsyncCallable()])
def test_what_cannot_be_a_hook_is_refused(hook: Any) -> None:
    with pytest.raises(UsageError, match="on_transition must be a"):
        Emitter(hook)


@pytest.mark.parametrize(
    "module", ["deviceflow", "deviceflow.audit.log", "deviceflow.client._sync"]
)
def test_structlog_is_not_imported_by(module: str) -> None:
    program = f"import sys, {module}; sys.exit('structlog' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def script(code_answer: Callable[..., Response]) -> ScriptedTransport:
    pending = answer(400, {"detail": "authorization_pending"})
    return ScriptedTransport(
        [code_answer(), pending, answer(200, {"access_token": "TOKEN-CANARY"})]
    )


STUDIO: Final = Studio("https://studio.example.com")


def test_a_client_tells_its_hook_of_what_is_stored_already(script: ScriptedTransport) -> None:
    store = MemoryStore()
    told: list[dict[str, Any]] = []

    def hook(event: dict[str, Any]) -> None:
        assert get(store, event["flow_id"]).seq >= event["seq"]
        assert "CANARY" not in repr(event)
        told.append(event)

    client = Client(store, transport=script, clock=VirtualClock(), on_transition=hook)
    client.wait_for_token(client.start(STUDIO).id)

    assert [event["seq"] for event in told] == [1, 2, 3, 4, 5, 6]
    assert told[0].keys() == set(FIELDS)


def test_a_hook_that_raises_ends_no_login(
    script: ScriptedTransport, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(event: dict[str, Any]) -> None:
        raise LookupError(event["action"])

    client = Client(transport=script, clock=VirtualClock(), on_transition=hook)
    token = client.wait_for_token(client.start(STUDIO).id)

    assert token.access_token == Secret("TOKEN-CANARY")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 6
