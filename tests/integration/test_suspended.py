"""Workers that are suspended past their lease, and come back when others have gone on."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import State
from deviceflow.core.states import Reason
from tests.crash.checks import wrong_with_history, wrong_with_polls
from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures
from tests.crash.pauses import APPROVED_AFTER, play, points_of_a_login
from tests.crash.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.traps import Trap
    from tests.crash.zygote import Child, Zygote
    from tests.postgres import PostgresServer

STOP: Final = signal.SIGSTOP
KILL: Final = signal.SIGKILL
LEASE: Final = 20.0  # seconds
PAUSES: Final = (
    (4.0, APPROVED_AFTER),
    (LEASE + 2.0, APPROVED_AFTER),  # seconds; others have gone on, and have the token
    (LEASE + 2.0, APPROVED_AFTER + LEASE + 2.0),  # others have gone on, and it is pending
)
DEADLINE: Final = 1.5  # seconds, where the transport's own has to pass: that is in real time

ANSWERED: Final[Trap] = ("before commit: issue_token", 1, STOP)
ANNOUNCED: Final[Trap] = ("after claim: poll", 1, STOP)
RECOVERED: Final[Trap] = ("after commit: poll", 1, STOP)
READING: Final[Trap] = ("before reading", 1, STOP)
CONNECTING: Final[Trap] = ("before connecting", 1, STOP)


@pytest.fixture
def stage(
    zygote: Zygote,  # noqa: F811
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Stage]:
    with Stage(zygote, tmp_path, postgres) as stage:
        stage.start()
        yield stage
        flow, history = stage.stored()
        assert not list(wrong_with_history(flow, history))
        assert not list(wrong_with_polls(stage.login(), history))


def run(child: Child) -> None:
    assert child.wait() == 0


def resume(child: Child) -> None:
    child.send(signal.SIGCONT)
    run(child)


def actions(history: list[dict[str, Any]]) -> list[str]:
    return [event["action"] for event in history]


def assert_collected(stage: Stage, *, possibly_revoked: bool) -> None:
    """Check that whoever comes next is given the very token that was issued."""
    run(stage.fork("collector"))
    assert stage.told("collector", "delivered") == stage.issued()
    assert stage.told("collector", "possibly_revoked") == possibly_revoked
    assert stage.stored()[0].handover == "acknowledged"


def suspended_with_its_answer(stage: Stage, *more: Trap) -> Child:
    child = stage.fork("suspended", ANSWERED, *more, then="leave")
    child.wait_until_stopped()
    return child


@pytest.mark.parametrize("traps", [[], [READING]], ids=["while it waits", "before it reads"])
def test_answer_that_waits_for_a_suspended_worker(stage: Stage, traps: list[Trap]) -> None:
    stage.rule.hold = None if traps else "issued"
    suspended = stage.fork("suspended", *traps, then="leave", deadline=DEADLINE)
    if not traps:
        assert stage.server.gate.held.wait(DEADLINE)
        suspended.send(STOP)
    suspended.wait_until_stopped()
    asked = time.monotonic()
    stage.server.gate.let_go.set()

    run(stage.fork("other"))
    flow, history = stage.stored()
    assert flow.reason is Reason.OUTCOME_UNKNOWN
    assert actions(history) == ["issue_code", "poll", "recover", "poll", "fail"]
    assert history[2]["detail"] == f"the lease of {history[1]['worker']} ran out during a poll"

    time.sleep(max(0.0, asked + DEADLINE - time.monotonic()))
    resume(suspended)
    flow, history = stage.stored()
    assert flow.state is State.AUTHORIZED
    assert actions(history)[5:] == ["late_token"]
    assert (history[5]["from"], history[5]["to"]) == ("failed", "authorized")
    assert_collected(stage, possibly_revoked=True)


def test_suspended_between_the_answer_and_the_commit(stage: Stage) -> None:
    suspended = suspended_with_its_answer(stage)
    run(stage.fork("other"))
    assert stage.stored()[0].reason is Reason.OUTCOME_UNKNOWN
    resume(suspended)
    assert actions(stage.stored()[1])[3:] == ["poll", "fail", "late_token"]
    assert_collected(stage, possibly_revoked=True)


def test_nobody_polled_meanwhile(stage: Stage) -> None:
    suspended = suspended_with_its_answer(stage)
    assert stage.fork("other", ("after commit: recover", 1, KILL)).wait() == -KILL
    resume(suspended)
    assert actions(stage.stored()[1]) == ["issue_code", "poll", "recover", "late_token"]
    assert_collected(stage, possibly_revoked=False)


def test_another_poll_is_on_its_way(stage: Stage) -> None:
    suspended = suspended_with_its_answer(stage)
    other = stage.fork("other", RECOVERED)
    other.wait_until_stopped()
    resume(suspended)
    assert actions(stage.stored()[1])[2:] == ["recover", "poll", "late_token"]
    resume(other)  # which finds that the code is used, and that the token is there
    assert stage.told("other", "delivered") == stage.issued()
    assert stage.told("other", "possibly_revoked")
    assert stage.stored()[0].orphaned_tokens == 0


def test_somebody_gave_up_meanwhile(stage: Stage) -> None:
    suspended = suspended_with_its_answer(stage)
    run(stage.fork("owner", then="cancel"))
    resume(suspended)
    flow, history = stage.stored()
    assert (flow.reason, flow.token, flow.orphaned_tokens) == (Reason.CANCELLED, None, 1)
    assert actions(history) == ["issue_code", "poll", "cancel", "orphan_token"]
    assert history[3]["outcome"] == "must_be_revoked"


@pytest.mark.parametrize("when", ["before", "between the rows of", "inside", "after"])
def test_killed_when_it_brings_the_token_late(stage: Stage, when: str) -> None:
    suspended = suspended_with_its_answer(stage, (f"{when} commit: late_token", 1, KILL))
    run(stage.fork("other"))
    suspended.send(signal.SIGCONT)
    assert suspended.wait() == -KILL
    if when == "after":
        assert_collected(stage, possibly_revoked=True)
    else:
        assert stage.stored()[0].reason is Reason.OUTCOME_UNKNOWN


def test_suspended_before_its_request_while_others_go_on(stage: Stage) -> None:
    stage.rule.after = 2 * LEASE
    suspended = stage.fork("suspended", ANNOUNCED)
    suspended.wait_until_stopped()
    run(stage.fork("other"))
    requests = stage.login()["requests"]
    resume(suspended)
    assert stage.login()["requests"] == requests
    assert stage.told("other", "delivered") == stage.issued()
    assert stage.told("suspended", "delivered") is None
    assert "late_token" not in actions(stage.stored()[1])


def test_suspended_before_its_request_and_alone(stage: Stage) -> None:
    suspended = stage.fork("suspended", ANNOUNCED)
    suspended.wait_until_stopped()
    stage.clock.advance(LEASE)
    resume(suspended)
    _, history = stage.stored()
    assert actions(history)[:5] == ["issue_code", "poll", "retry", "poll", "issue_token"]
    assert (history[2]["detail"], history[2]["in_doubt"]) == ("lease", False)
    assert len(stage.login()["requests"]) == 1


def test_suspended_when_it_connects(stage: Stage) -> None:
    suspended = stage.fork("suspended", CONNECTING, deadline=DEADLINE)
    suspended.wait_until_stopped()
    begun = time.monotonic()
    run(stage.fork("other"))
    time.sleep(max(0.0, begun + DEADLINE - time.monotonic()))
    resume(suspended)
    assert len(stage.login()["requests"]) == 1
    assert stage.told("other", "delivered") == stage.issued()
    assert stage.told("suspended", "delivered") is None


@pytest.mark.usefixtures("each_event")
@pytest.mark.parametrize(("seconds", "approved_after"), PAUSES)
def test_suspended_anywhere(tmp_path: Path, seconds: float, approved_after: float) -> None:
    points = points_of_a_login(tmp_path)
    wrong = {}
    for number, point in enumerate(points, 1):
        _, wrong[number] = play(tmp_path / f"{number}.db", number, seconds, approved_after)
        # Between the last look at the lease and the beginning of the transport's own deadline is
        # a moment that nothing guards.
        if "before request: token" in (point, *points[number : number + 1]):
            assert wrong.pop(number) or seconds < LEASE
    assert len(wrong) > 100
    assert not any(wrong.values()), {n: (points[n - 1], w) for n, w in wrong.items() if w}
