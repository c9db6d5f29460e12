"""The events: what they say, that the shipped schema is kept, and where they go."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest
import structlog

from deviceflow.audit import log
from deviceflow.audit.events import SCHEMA, render, schema, text_of
from deviceflow.client._sync import Client
from deviceflow.core.actions import ACTIONS
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Loss, Reason, State
from deviceflow.core.wire import Failure
from deviceflow.providers.studio import Studio
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deviceflow.core.flow import Transition
    from deviceflow.core.wire import Response

    Waiting = Callable[..., Flow]
    Validate = Callable[[Mapping[str, Any]], None]

NOW: Final = 1_800_000_000.25
STUDIO: Final = Studio("https://studio.example.com").with_request(
    client_name="robot", scopes=["models", "DATASETS"]
)
PENDING: Final = answer(400, {"detail": "authorization_pending"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
DENIED: Final = answer(400, {"detail": "access_denied"})
HTML: Final = answer(404, "<html>")
LOST: Final = Failure("timeout", sent=True)
ECHO: Final = answer(400, {"detail": "DEVICE-CANARY \x1b[31mUSER-CANARY\n" + "x" * 500})


@pytest.fixture
def validate() -> Validate:
    checker = jsonschema.Draft202012Validator(
        schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    return checker.validate


# The schema.


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["title"] == SCHEMA == "deviceflow.audit/1"


def test_schema_describes_each_field_and_allows_no_other() -> None:
    shipped = schema()

    assert shipped["additionalProperties"] is False
    assert sorted(shipped["required"]) == sorted(shipped["properties"])
    assert all(field.get("description") for field in shipped["properties"].values())


def test_schema_knows_each_action_outcome_state_and_reason() -> None:
    shipped = schema()

    assert shipped["properties"]["action"]["enum"] == [*ACTIONS]
    outcomes = shipped["properties"]["outcome"]["enum"]
    assert {*outcomes} == {action.outcome for action in ACTIONS.values()}
    assert len(outcomes) == len({*outcomes})
    assert shipped["$defs"]["state"]["enum"] == [*State, *GrantState, None]
    assert set(shipped["properties"]["reason"]["enum"]) == {None, *Reason, *Loss}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "deviceflow.audit/2"},
        {"event_id": "f1"},
        {"time": "yesterday"},
        {"seq": 0},
        {"action": "guess"},
        {"to": "gone"},
        {"reason": "bored"},
        {"detail": "x" * 201},
        {"scopes": "models"},
        {"interval": 0},
        {"wait": -1},
        {"access_token": "TOKEN-CANARY"},
    ],
)
def test_schema_refuses_what_is_wrong(
    waiting: Waiting, validate: Validate, change: dict[str, Any]
) -> None:
    flow = waiting(NOW)
    event = render(flow, flow.cancel(NOW))
    validate(event)

    with pytest.raises(jsonschema.ValidationError):
        validate(event | change)


# What an event says.


def test_event_of_a_code(code_answer: Callable[..., Response], validate: Validate) -> None:
    flow = Flow("f1", STUDIO, NOW)

    event = render(flow, flow.receive(code_answer(), NOW, duration=0.5), Origin("a client.7.1"))

    validate(event)
    assert event == {
        "schema": "deviceflow.audit/1",
        "event_id": "f1.1",
        "time": "2027-01-15T08:00:00.250+00:00",
        "flow_id": "f1",
        "name": None,
        "seq": 1,
        "action": "issue_code",
        "from": "init",
        "to": "awaiting-user",
        "outcome": "code_issued",
        "reason": None,
        "detail": None,
        "dialect": "studio",
        "issuer": "https://studio.example.com",
        "client_id": None,
        "client_name": "robot",
        "scopes": ["models", "DATASETS"],
        "granted_scopes": None,
        "subject": None,
        "purpose": None,
        "attempt": 0,
        "interval": 5,
        "wait": 0,
        "http_status": 200,
        "duration": 0.5,
        "clock_ahead": None,
        "in_doubt": False,
        "generation": None,
        "expires_at": "2027-01-15T08:09:59.750+00:00",
        "worker": "a client.7.1",
        **dict.fromkeys(("host", "pid", "engine", "task", "task_id", "actor", "address")),
        **dict.fromkeys(("token_fingerprint", "previous_fingerprint", "code_fingerprint")),
        **dict.fromkeys(("row_digest", "key_id", "omitted")),
        **dict.fromkeys(("prev_hash", "hash", "mac")),
    }


def poll(flow: Flow) -> Transition:
    return flow.poll(flow.due_at, 10.0)


def after(*said: Response | Failure) -> Callable[[Flow], Transition]:
    def receive(flow: Flow) -> Transition:
        for result in said:
            now = flow.due_at
            flow.poll(now, 10.0)
            moved = flow.receive(result, now + 1, duration=1.0)
        return moved

    return receive


def handed_over(then: Callable[[Flow, float], Transition]) -> Callable[[Flow], Transition]:
    def collected(flow: Flow) -> Transition:
        after(GRANTED)(flow)
        flow.collect(NOW + 2)
        return then(flow, NOW + 3)

    return collected


def uncollected(flow: Flow) -> Transition:
    after(GRANTED)(flow)
    return flow.purge(NOW + 3)


def recovered(flow: Flow) -> Transition:
    flow.poll(NOW, 10.0)
    return flow.recover(NOW + 60, "w1")


def taken_over(flow: Flow) -> Transition:
    return flow.take_over(NOW + 60, "w1")


def late(flow: Flow) -> Transition:
    recovered(flow)
    return flow.late_token(Token(Secret("TOKEN-CANARY")), 1, NOW + 61)


def stray(flow: Flow) -> Transition:
    flow.cancel(NOW)
    return flow.late_token(Token(Secret("TOKEN-CANARY")), 1, NOW + 61)


@pytest.mark.parametrize(
    ("happen", "said"),
    [
        (poll, {"action": "poll", "outcome": "sent", "attempt": 1, "to": "polling"}),
        (
            after(PENDING),
            {"action": "pending", "outcome": "pending", "wait": 5, "http_status": 400},
        ),
        (
            after(answer(400, {"detail": "slow_down"})),
            {"action": "slow_down", "outcome": "slow_down", "interval": 10, "wait": 11},
        ),
        (
            after(LOST),
            {
                "action": "retry",
                "outcome": "no_answer",
                "detail": "timeout",
                "http_status": None,
                "duration": 1.0,
                "in_doubt": True,
            },
        ),
        (
            recovered,
            {
                "action": "recover",
                "outcome": "unknown",
                "detail": "the lease of w1 ran out during a poll",
            },
        ),
        (
            taken_over,
            {
                "action": "take_over",
                "outcome": "taken_over",
                "from": "awaiting-user",
                "to": "awaiting-user",
                "detail": "the lease of w1 ran out between polls",
            },
        ),
        (after(GRANTED), {"action": "issue_token", "outcome": "token_issued", "to": "authorized"}),
        (late, {"action": "late_token", "outcome": "token_issued", "from": "awaiting-user"}),
        (
            stray,
            {
                "action": "orphan_token",
                "outcome": "must_be_revoked",
                "from": "failed",
                "to": "failed",
                "reason": "cancelled",
            },
        ),
        (
            after(answer(400, {"detail": "expired_token"})),
            {"action": "expire", "outcome": "expired", "to": "expired", "reason": None},
        ),
        (after(DENIED), {"action": "deny", "outcome": "denied", "reason": "denied"}),
        (
            after(answer(400, {"detail": "no such code"})),
            {"action": "fail", "outcome": "failed", "reason": "rejected", "detail": "no such code"},
        ),
        (after(LOST, DENIED), {"action": "fail", "reason": "outcome_unknown", "in_doubt": True}),
        (after(HTML, HTML, HTML), {"action": "fail", "reason": "protocol", "attempt": 3}),
        (
            lambda flow: flow.cancel(NOW, "by hand"),
            {"action": "cancel", "outcome": "cancelled", "reason": "cancelled", "wait": None},
        ),
        (
            handed_over(Flow.collect),
            {"action": "collect", "outcome": "handed_over", "from": "authorized", "detail": None},
        ),
        (
            handed_over(Flow.acknowledge),
            {"action": "acknowledge", "outcome": "wiped", "to": "authorized", "detail": None},
        ),
        (
            handed_over(Flow.purge),
            {
                "action": "purge",
                "outcome": "wiped",
                "detail": "the token was collected but never acknowledged: revoke it at the server",
            },
        ),
        (
            uncollected,
            {
                "action": "purge",
                "outcome": "wiped",
                "detail": "the token was never collected: revoke it at the server",
            },
        ),
    ],
)
def test_event_says_what_happened(
    waiting: Waiting,
    validate: Validate,
    happen: Callable[[Flow], Transition],
    said: Mapping[str, Any],
) -> None:
    flow = waiting(NOW)

    event = render(flow, happen(flow))

    validate(event)
    assert {name: event[name] for name in said} == said


@pytest.mark.parametrize(
    "at", [0.0, 1_800_000_000.9996, 1_800_000_000.0004, 253_402_300_799.0, 1e9]
)
def test_time_is_utc_to_the_millisecond(waiting: Waiting, validate: Validate, at: float) -> None:
    flow = waiting(NOW)

    event = render(flow, flow.cancel(at))

    validate(event)
    told = datetime.fromisoformat(event["time"])
    assert told.utcoffset() == timedelta(0)
    assert 0 <= at - told.timestamp() < 0.001


@pytest.mark.parametrize(
    "origin",
    [Origin(), Origin("9f2c.41.3", "host", 41, "celery", "report", "a task", "alice")],
    ids=["nobody", "somebody"],
)
def test_event_says_who_did_it(waiting: Waiting, validate: Validate, origin: Origin) -> None:
    flow = waiting(NOW)

    event = render(flow, flow.cancel(NOW), origin)

    validate(event)
    assert Origin(**{name: event[name] for name in Origin._fields}) == origin


SCRIPTS: Final[Mapping[str, Sequence[Response | Failure]]] = {
    "granted": [PENDING, GRANTED],
    "denied": [PENDING, DENIED],
    "slowed down": [answer(400, {"detail": "slow_down"}), GRANTED],
    "expired by the server": [answer(400, {"detail": "authorization_expired"})],
    "expired by us": [PENDING] * 200,
    "rejected with the codes echoed": [ECHO],
    "echoed and gone on": [answer(500, ECHO.body), GRANTED],
    "protocol": [HTML, HTML, HTML],
    "lost and refused": [LOST, answer(400, {"detail": "invalid_grant"})],
    "rate limited": [answer(429, {"detail": "rate"}, Retry_After="30"), GRANTED],
    "down": [Failure("connection", sent=False)] * 20 + [GRANTED],
    "cut": [answer(200, b'{"access_token": "TOKEN-CAN'), GRANTED],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_logged_event_keeps_the_schema_and_shows_no_secret(
    code_answer: Callable[..., Response],
    validate: Validate,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    script = [Failure("timeout", sent=True), code_answer(), *SCRIPTS[name]]
    clock = VirtualClock(NOW)
    client = Client(transport=ScriptedTransport(script), clock=clock)
    flow = client.start(STUDIO)
    while not client.step(flow.id).state.ended:
        clock.advance(flow.interval)
    if get(client._store, flow.id).token is not None:
        with client.collect(flow.id):
            pass

    events = [
        vars(record)["deviceflow"] for record in caplog.records if record.name == "deviceflow"
    ]
    assert events[0]["action"] == "retry"
    assert events[-1]["to"] in {"authorized", "expired", "failed"}
    for event in events:
        validate(event)
        assert json.loads(json.dumps(event)) == event
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["event_id"] for event in events}) == len(events)
    # Each begins where the one before it ended: the log replays.
    states = [event["to"] for event in events[:-1]]
    assert [event["from"] for event in events] == ["init", *states]
    for record in caplog.records:
        assert "CANARY" not in record.getMessage()
        assert "CANARY" not in repr(vars(record))


# Where events go.


@pytest.fixture
def unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


FIELDS: Final = {"flow_id": "f1", "from": "init", "to": "failed", "reason": None, "detail": "a b"}


@pytest.mark.usefixtures("unconfigured")
def test_event_goes_to_logging_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    log.emit(log.TRANSITION, FIELDS)

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("deviceflow", logging.INFO)
    assert vars(record)["deviceflow"] == FIELDS
    assert record.getMessage() == "deviceflow.transition flow_id=f1 from=init to=failed detail=a b"


@pytest.mark.usefixtures("unconfigured")
def test_program_without_structlog_is_served_as_well(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "structlog")

    log.emit(log.CLOCK_JUMP, {"wall_clock_ahead": 3600}, logging.WARNING)

    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.usefixtures("unconfigured")
def test_event_below_the_level_is_not_even_rendered(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable:
        def __str__(self) -> str:
            raise AssertionError

    caplog.set_level(logging.WARNING, logger="deviceflow")

    log.emit(log.TRANSITION, {"flow_id": Unreadable()})

    assert caplog.records == []


def capture(into: list[dict[str, Any]]) -> Callable[..., Mapping[str, Any]]:
    def processor(_: object, method: str, event: dict[str, Any]) -> Mapping[str, Any]:
        into.append({"method": method, **event})
        raise structlog.DropEvent

    return processor


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize(
    "wrapper",
    [
        structlog.BoundLogger,
        structlog.stdlib.BoundLogger,
        structlog.make_filtering_bound_logger(logging.INFO),
        structlog.make_filtering_bound_logger(logging.DEBUG),
    ],
    ids=lambda wrapper: wrapper.__module__,
)
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_event_goes_to_structlog_where_the_program_has_configured_it(
    caplog: pytest.LogCaptureFixture, wrapper: Any, level: int
) -> None:
    caplog.set_level(logging.INFO)
    said: list[dict[str, Any]] = []
    structlog.configure(processors=[capture(said)], wrapper_class=wrapper)

    log.emit(log.TRANSITION, FIELDS, level)

    method = "warning" if level == logging.WARNING else "info"
    assert said == [{"method": method, "event": "deviceflow.transition", **FIELDS}]
    assert caplog.records == []


@pytest.mark.usefixtures("unconfigured")
def test_a_message_is_one_line_and_steers_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "deviceflow")

    log.emit(log.TRANSITION, {"client_name": "ci\nCRITICAL root: forged\x1b[31m", "seq": 1})

    (record,) = caplog.records
    assert record.getMessage() == (
        "deviceflow.transition client_name=ci CRITICAL root: forged seq=1"
    )


@pytest.mark.usefixtures("unconfigured")
def test_structlogs_level_is_respected() -> None:
    said: list[dict[str, Any]] = []
    structlog.configure(
        processors=[capture(said)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )

    log.emit(log.TRANSITION, FIELDS)
    log.emit(log.PLAIN_HTTP, FIELDS, logging.WARNING)

    assert [event["event"] for event in said] == ["deviceflow.plain_http"]


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("cached", [False, True])
def test_program_may_configure_structlog_late_and_anew(
    caplog: pytest.LogCaptureFixture, cached: bool
) -> None:
    caplog.set_level(logging.INFO)
    first: list[dict[str, Any]] = []
    second: list[dict[str, Any]] = []

    log.emit(log.TRANSITION, {"seq": 1})
    structlog.configure(processors=[capture(first)], cache_logger_on_first_use=cached)
    log.emit(log.TRANSITION, {"seq": 2})
    structlog.configure(processors=[capture(second)], cache_logger_on_first_use=cached)
    log.emit(log.TRANSITION, {"seq": 3})
    structlog.reset_defaults()
    log.emit(log.TRANSITION, {"seq": 4})

    assert [vars(record)["deviceflow"]["seq"] for record in caplog.records] == [1, 4]
    assert [event["seq"] for event in first] == [2]
    assert [event["seq"] for event in second] == [3]


PROGRAM: Final = """
import sys
{before}
from deviceflow import Client, Studio
from deviceflow.testing import ScriptedTransport, VirtualClock, answer

clock = VirtualClock()
client = Client(clock=clock, transport=ScriptedTransport([
    answer(200, dict(device_code="DEVICE-CANARY", user_code="USER-CANARY",
                     verification_uri="http://studio.lan/login", token_uri="http://studio.lan/t")),
    answer(400, dict(detail="authorization_pending")),
    answer(200, dict(access_token="TOKEN-CANARY")),
]))
flow = client.start(Studio("http://studio.lan", allow_http=True))
{between}
clock.set_wall(-3600)
client.wait_for_token(flow.id)
"""


def run(before: str = "", between: str = "") -> tuple[str, str]:
    """Run a program that logs in, with events at INFO and WARNING; return what it printed."""
    program = PROGRAM.format(before=before, between=between)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("before", ["", "import structlog", "import logging"])
def test_unconfigured_program_prints_nothing(before: str) -> None:
    assert run(before) == ("", "")


def test_program_that_configured_logging_gets_lines_on_stderr() -> None:
    out, err = run("import logging; logging.basicConfig(level='INFO')")

    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("INFO:transitions.")]
    transitions = [line for line in lines if line.startswith("INFO:deviceflow:deviceflow.trans")]
    assert [line.split(" action=")[1].split()[0] for line in transitions] == [
        "issue_code",
        "poll",
        "pending",
        "poll",
        "issue_token",
        "collect",
    ]
    warnings = [line for line in lines if line not in transitions]
    assert [line.split()[0] for line in warnings] == [
        "WARNING:deviceflow:deviceflow.plain_http",
        "WARNING:deviceflow:deviceflow.plain_http",
        "WARNING:deviceflow:deviceflow.clock_jump",
    ]
    assert "CANARY" not in err


STRUCTLOG: Final = (
    "import structlog;"
    " structlog.configure(processors=[structlog.processors.JSONRenderer()],"
    " logger_factory=structlog.PrintLoggerFactory(sys.stderr))"
)


def test_program_that_configured_structlog_gets_the_fields() -> None:
    out, err = run(before=STRUCTLOG)

    assert out == ""
    events = [json.loads(line) for line in err.splitlines()]
    named = [event.pop("event") for event in events]
    assert named.count("deviceflow.transition") == 6
    assert named.count("deviceflow.plain_http") == 2
    assert named.count("deviceflow.clock_jump") == 1
    for name, event in zip(named, events, strict=True):
        if name == "deviceflow.transition":
            jsonschema.validate(event, schema())
    assert "CANARY" not in err


def test_program_that_configures_structlog_late_gets_the_rest() -> None:
    out, err = run(between=STRUCTLOG)

    assert out == ""
    events = [json.loads(line) for line in err.splitlines()]
    actions = [event["action"] for event in events if "action" in event]
    assert actions == ["poll", "pending", "poll", "issue_token", "collect"]


# Times.


@pytest.mark.parametrize(
    "seconds",
    [
        *(0, 0.0004999, 0.9994999, 3599.9999999, 1_800_000_000, NOW, -0.5, -3600, 253_402_300_799),
        *(random.Random(7).uniform(0, 4e9) for _ in range(200)),
        *(1_800_000_000 + number / 8192 for number in range(0, 8192, 37)),
        *(1_800_000_000 - 3600.0 * number for number in range(70)),
    ],
)
def test_times_are_written_as_the_standard_library_writes_them(seconds: float) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)

    assert text_of(seconds) == moment.isoformat(timespec="milliseconds")


def test_events_of_many_servers_name_their_own(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.cancel(NOW)
    transition = flow.record_import(NOW)
    servers = [Studio(f"https://{number}.example.com") for number in range(600)]

    for server in [*servers, *servers]:
        flow.provider = server
        assert render(flow, transition)["issuer"] == server.url


def test_event_that_is_changed_changes_no_other(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.provider = STUDIO
    transition = flow.cancel(NOW)

    render(flow, transition)["scopes"].append("changed")

    assert render(flow, transition)["scopes"] == ["models", "DATASETS"]
