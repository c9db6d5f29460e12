"""The pieces for programs that log by structlog: the pipeline, its file, and the processors."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import logs
from deviceflow.audit import jsonlines, log
from deviceflow.audit.events import FIELDS, SCHEMA, render
from deviceflow.core.actions import ACTIONS
from deviceflow.core.flow import Flow, Transition
from deviceflow.core.ports import Origin
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.core.text import trusted
from deviceflow.errors import UsageError
from deviceflow.providers.studio import Studio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ORIGIN: Final = Origin("w1.7.3", "build-17", 7, "celery", "report", "task-1", "alice")


def event_of(action: str = "poll", **fields: Any) -> dict[str, Any]:
    studio = Studio("https://studio.example.com").with_request(
        client_name="nightly", scopes=["MODELS"]
    )
    declared, source, dest = ACTIONS[action], State.AWAITING_USER, State.POLLING
    happened = Transition(
        3, 1_800_000_001.5, declared, source, dest, 200, 0.25, 5.0, trusted("said")
    )
    return render(Flow("f1", studio, 1_800_000_000.0), happened, ORIGIN) | fields


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def logged() -> Callable[..., dict[str, Any]]:
    """Log an event through some processors, and return what a renderer would be given."""

    def through(
        *processors: Any, name: str = log.TRANSITION, fields: Any = None, bound: Any = None
    ) -> dict[str, Any]:
        given: list[dict[str, Any]] = []

        def last(_: object, __: object, event_dict: Any) -> Any:
            given.append(event_dict)
            raise structlog.DropEvent

        merge = structlog.contextvars.merge_contextvars
        structlog.configure(
            processors=[merge, structlog.processors.add_log_level, *processors, last]
        )
        with structlog.contextvars.bound_contextvars(**(bound or {})):
            log.emit(name, event_of() if fields is None else fields)
        return given[0] if given else {}

    return through


# Processors.


def test_ecs_gives_a_transition_the_names_of_ecs(logged: Callable[..., dict[str, Any]]) -> None:
    said = logged(logs.ecs, fields=event_of("orphan_token"), bound={"service": "s"})

    assert list(said)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    assert said["event"]["action"] == "orphan_token"
    assert said["log.level"] == "warning"
    assert said["message"] == "f1: orphan_token, awaiting-user -> polling"
    assert said["user"] == {"name": "alice"}
    assert said["service"] == "s"
    assert "level" not in said
    assert json.loads(json.dumps(said)) == said


def test_ecs_translates_other_events_as_well(logged: Callable[..., dict[str, Any]]) -> None:
    fields = {"answer": 42, "exception": "Traceback", "user": "root"}

    said = logged(logs.ecs, name="something else", fields=fields)

    stamp = datetime.fromisoformat(said.pop("@timestamp"))
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60
    assert said == {
        "log.level": "info",
        "message": "something else",
        "ecs.version": "9.5.0",
        "answer": 42,
        "error": {"stack_trace": "Traceback"},
        "labels": {"user": "root"},
    }


@pytest.mark.parametrize("key", ["time", "timestamp"])
def test_ecs_takes_the_time_that_the_program_has_stamped(
    logged: Callable[..., dict[str, Any]], key: str
) -> None:
    said = logged(
        structlog.processors.TimeStamper(fmt="iso", key=key), logs.ecs, fields={}, name="n"
    )

    assert datetime.fromisoformat(said["@timestamp"]).tzinfo == UTC
    assert key not in said


def test_what_a_program_has_bound_does_not_stand_in_the_way_of_ecs(
    logged: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    bound = {"user": "root", "host": "h", "message": "m", "url": "u", "labels": "l"}

    said = logged(logs.ecs, bound=bound)

    assert said["user"] == {"name": "alice"}
    assert said["labels"]["user"] == "root"
    assert said["labels"]["url"] == "u"
    assert said["message"] == "f1: poll, awaiting-user -> polling"
    assert caplog.records == []


def test_flatten_leaves_texts_and_numbers(logged: Callable[..., dict[str, Any]]) -> None:
    fields = event_of(scopes=["a", "b"], granted_scopes=[])

    said = logged(logs.flatten, fields=fields, bound={"request": None})

    assert (said["scopes"], said["granted_scopes"]) == ("a b", "")
    assert "reason" not in said
    assert all(isinstance(value, str | int | float) for value in said.values())
    assert said["event"] == log.TRANSITION
    assert fields == event_of(scopes=["a", "b"], granted_scopes=[])


def test_flattened_transitions_can_be_written_as_logfmt() -> None:
    out = io.StringIO()
    structlog.configure(
        processors=[logs.flatten, structlog.processors.LogfmtRenderer()],
        logger_factory=structlog.WriteLoggerFactory(out),
    )

    log.emit(log.TRANSITION, event_of(scopes=["a", "b"]))

    assert ' scopes="a b" ' in out.getvalue()


def test_own_fields_are_what_a_trail_has(logged: Callable[..., dict[str, Any]]) -> None:
    said = logged(logs.own_fields, bound={"request": "r1"})

    assert said == event_of()
    assert list(said) == list(FIELDS)


def test_drop_drops_transitions_by_their_actions(logged: Callable[..., dict[str, Any]]) -> None:
    thinned = logs.drop("poll", "pending")

    assert logged(thinned, fields=event_of("poll")) == {}
    assert logged(thinned, fields=event_of("deny"))["action"] == "deny"
    assert logged(thinned, fields={"action": "poll"}, name="something else")["action"] == "poll"
    assert logged(logs.drop(), fields=event_of("poll"))["action"] == "poll"


def test_an_action_that_is_none_cannot_be_dropped() -> None:
    with pytest.raises(UsageError, match="No transition has the action 'polls'") as caught:
        logs.drop("poll", "polls")

    assert "slow_down" in str(caught.value)


@pytest.mark.parametrize("processor", [logs.flatten, logs.own_fields, logs.drop("poll")])
def test_other_events_pass_unchanged(logged: Callable[..., dict[str, Any]], processor: Any) -> None:
    fields = {"action": "poll", "scopes": ["a"], "nothing": None}

    said = logged(processor, fields=fields, name="n")

    assert said == fields | {"event": "n", "level": "info"}


# Lines of JSON.


LINES: Final = [jsonlines.line_slowly, jsonlines.line_quickly]


@pytest.fixture(params=LINES, ids=lambda line: str(line.__name__))
def line(request: pytest.FixtureRequest) -> Callable[[Any], str]:
    found: Callable[[Any], str] = request.param
    return found


def test_orjson_is_used_where_it_is_installed() -> None:
    assert jsonlines.line is jsonlines.line_quickly
    program = (
        "import sys; sys.modules['orjson'] = None\n"
        "from deviceflow.audit import jsonlines; print(jsonlines.line({'a': [1, None]}))\n"
        "assert jsonlines.line is jsonlines.line_slowly"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == '{"a":[1,null]}\n'


@given(st.dictionaries(st.text(), st.text() | st.floats() | st.integers() | st.none()))
def test_any_line_is_ascii_and_means_the_same_by_both_encoders(fields: dict[str, Any]) -> None:
    slow, quick = (written(fields) for written in LINES)

    assert slow.isascii()
    assert "\n" not in slow
    assert quick.isascii()
    assert json.loads(slow, parse_constant=pytest.fail) == json.loads(quick)


class _Unspeakable:
    def __str__(self) -> str:
        raise LookupError


def test_what_json_cannot_say_is_there_as_text(line: Callable[[Any], str]) -> None:
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    fields: dict[Any, Any] = {
        "path": PurePosixPath("/tmp"),
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "secret": Secret("CANARY"),
    }

    assert json.loads(line(fields)) == {
        "path": "/tmp",
        "time": "2026-01-01 00:00:00+00:00",
        "secret": "<secret>",
    }
    assert json.loads(line({"value": _Unspeakable()})) == {"value": "<_Unspeakable>"}
    assert json.loads(line({"circle": circle, "nan": float("nan"), 7: 2**80}))["nan"] is None
    assert json.loads(line({7: 2**80})) == {"7": 2**80}


# For a person.


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import time  # noqa: PLC0415

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "08:00:01 login f1 awaiting-user → polling  poll #0, said, next in 5 s"),
        (
            {"attempt": 3, "detail": None, "wait": None},
            "08:00:01 login f1 awaiting-user → polling  poll #3",
        ),
        (
            {
                "action": "deny",
                "to": "failed",
                "reason": "denied",
                "http_status": 400,
                "wait": None,
            },
            "08:00:01 login f1 awaiting-user → failed  deny, HTTP 400, denied, said",
        ),
        (
            {
                "action": "collect",
                "to": "authorized",
                "from": "authorized",
                "detail": None,
                "wait": 0,
            },
            "08:00:01 login f1 authorized  collect",
        ),
        (
            {"flow_id": "store", "action": "prune", "to": None, "from": None, "wait": None},
            "08:00:01 store  prune, said",
        ),
        (
            {"time": "late", "detail": None, "wait": None},
            "--:--:-- login f1 awaiting-user → polling  poll #0",
        ),
        (
            {"detail": "\x1b[31mred\nrow", "wait": None, "request": "r 1", "x": "\u202e"},
            "08:00:01 login f1 awaiting-user → polling  poll #0, red row  request='r 1'  x=",
        ),
    ],
)
def test_a_transition_is_one_readable_line(fields: dict[str, Any], said: str) -> None:
    given = event_of() | {"event": log.TRANSITION, "level": "info"} | fields

    assert logs.console(None, "info", given) == said


def test_another_event_is_a_line_with_its_values_and_a_traceback_below() -> None:
    given = {"event": "it broke\x07", "level": "error", "time": "2027-01-15T08:00:01+00:00", "n": 7}

    assert logs.console(None, "error", {**given}) == "08:00:01 error: it broke  n=7"
    with_trace = logs.console(None, "error", given | {"exception": "Traceback:\n  \x1b[2Jx\nEnd"})
    assert with_trace.splitlines() == ["08:00:01 error: it broke  n=7", "Traceback:", "  x", "End"]


# The pipeline.


def test_json_goes_to_stderr_and_has_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()

    with structlog.contextvars.bound_contextvars(request="r1"):
        log.emit(log.TRANSITION, event_of())
    structlog.get_logger().warning("something else", answer=42)

    out, err = capsys.readouterr()
    first, second = map(json.loads, err.splitlines())
    assert out == ""
    assert first == event_of() | {"event": log.TRANSITION, "level": "info", "request": "r1"}
    assert datetime.fromisoformat(second.pop("time")).tzinfo == UTC
    assert second == {"event": "something else", "level": "warning", "answer": 42}


def test_a_person_reads_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=False)

    log.emit(log.TRANSITION, event_of(attempt=3, detail=None, wait=None))

    assert capsys.readouterr().err == "08:00:01 login f1 awaiting-user → polling  poll #3\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_lines_are_for_a_person_and_in_a_file_they_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.configure()
    log.emit(log.TRANSITION, event_of())
    logs.configure(path=tmp_path / "log")
    log.emit(log.TRANSITION, event_of())

    assert terminal.getvalue().startswith("08:00:01 login f1 ")
    assert json.loads((tmp_path / "log").read_text())["schema"] == SCHEMA


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "closed"])
def test_a_program_without_stderr_goes_on(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    logs.configure(json=True)
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)

    log.emit(log.TRANSITION, event_of())


def test_a_pipeline_of_the_programs_own_is_left_alone() -> None:
    mine = [structlog.processors.JSONRenderer()]
    structlog.configure(processors=mine)

    with pytest.raises(UsageError, match="structlog is configured already"):
        logs.configure()

    assert structlog.get_config()["processors"] is mine


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_called_once_more_it_replaces_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(path=tmp_path / "first")
    log.emit("one", {})
    before = open_files()
    logs.configure(path=tmp_path / "second", level="warning")
    log.emit("two", {})
    log.emit("three", {}, logging.WARNING)

    assert "one" in (tmp_path / "first").read_text()
    assert json.loads((tmp_path / "second").read_text())["event"] == "three"
    assert open_files() == before
    logs.configure(json=True)
    log.emit("four", {})
    assert "four" in capsys.readouterr().err


@pytest.mark.parametrize("configured", [False, True])
def test_a_test_that_captures_logs_sees_those_of_a_program_that_configures(
    configured: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if configured:
        logs.configure(json=True)
        log.emit("before", {})
        capsys.readouterr()

    with structlog.testing.capture_logs() as captured:
        logs.configure(json=True)
        log.emit(log.TRANSITION, event_of())

    assert [entry["event"] for entry in captured] == [log.TRANSITION]
    assert capsys.readouterr().err == ""


def test_a_program_can_configure_after_a_test_has_captured_logs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with structlog.testing.capture_logs():
        pass
    assert structlog.is_configured()

    logs.configure(json=True)
    log.emit("one", {})

    assert json.loads(capsys.readouterr().err)["event"] == "one"


@pytest.mark.parametrize("level", ["loud", 15, "getLogger"])
def test_a_level_that_is_none_is_refused(level: Any) -> None:
    with pytest.raises(UsageError, match="no log level"):
        logs.configure(level=level)
    assert not structlog.is_configured()


def test_the_file_is_its_owners_and_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "log"
    old = os.umask(0)
    try:
        logs.configure(path=file)
    finally:
        os.umask(old)
    log.emit("one", {})
    structlog.reset_defaults()
    logs.configure(path=file)
    log.emit("two", {})

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [json.loads(row)["event"] for row in file.read_text().splitlines()] == ["one", "two"]


def test_a_file_that_was_moved_or_deleted_begins_anew(tmp_path: Path) -> None:
    file, moved = tmp_path / "log", tmp_path / "log.1"
    logs.configure(path=file)

    log.emit("one", {})
    file.rename(moved)
    log.emit("two", {})
    file.unlink()
    log.emit("three", {})

    assert json.loads(moved.read_text())["event"] == "one"
    assert json.loads(file.read_text())["event"] == "three"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logs.configure(path="log")
    monkeypatch.chdir("/")
    (tmp_path / "log").unlink()

    log.emit("one", {})

    assert json.loads((tmp_path / "log").read_text())["event"] == "one"


def test_a_file_that_cannot_be_opened_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        logs.configure(path=tmp_path / "nowhere" / "log")

    assert not structlog.is_configured()


def test_a_line_that_the_file_does_not_take_goes_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(path="/dev/full")

    structlog.get_logger().info("one")

    line, why = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "one"
    assert why == "[not in /dev/full: No space left on device]"


def test_threads_write_whole_lines_while_the_file_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.configure(path=file)

    def work(number: int) -> None:
        for count in range(50):
            log.emit("line", {"number": number, "count": count, "filling": "x" * 500})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for count in range(10):
        if file.exists():
            file.rename(tmp_path / f"log.{count}")
    for thread in threads:
        thread.join()

    rows = [json.loads(row) for one in tmp_path.iterdir() for row in one.read_text().splitlines()]
    assert sorted((row["number"], row["count"]) for row in rows) == [
        (number, count) for number in range(4) for count in range(50)
    ]


def test_a_traceback_is_logged_without_its_locals(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=True)

    def fail() -> None:
        hidden = "CANARY"
        raise LookupError(len(hidden))

    try:
        fail()
    except LookupError:
        structlog.get_logger().exception("it broke")

    err = capsys.readouterr().err
    assert "LookupError: 6" in json.loads(err)["exception"]
    assert "CANARY" not in err
