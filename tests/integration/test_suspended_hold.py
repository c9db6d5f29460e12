"""Processes that are suspended while they hold a login, and come back when others have gone on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.states import Reason
from tests.crash.checks import unfolded, wrong_with_history, wrong_with_polls
from tests.crash.fixtures import kind, postgres  # noqa: F401  # fixtures
from tests.crash.stage import Stage
from tests.crash.zygote import Zygote
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.traps import Trap
    from tests.crash.zygote import Child

STOP: Final = signal.SIGSTOP
KILL: Final = signal.SIGKILL
LEASE: Final = 40.0  # seconds
AFTER_FIRST_POLL: Final = 7.0  # seconds

BETWEEN: Final[Trap] = ("after leave_out: pending", 1, STOP)
ANSWERED: Final[Trap] = ("before commit: issue_token", 1, STOP)
POINTS: Final = (
    ("after claim: poll", 1),
    ("before leave_out: pending", 1),
    ("after leave_out: pending", 1),
    ("before leave_out: poll", 1),
    ("after leave_out: poll", 1),
    ("before heartbeat", 1),
    ("after heartbeat", 1),
)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Run what forks children that hold logins."""
    with Zygote("summary") as zygote:
        yield zygote


@pytest.fixture
def stage(zygote: Zygote, postgres: PostgresServer | None, tmp_path: Path) -> Iterator[Stage]:  # noqa: F811
    with Stage(zygote, tmp_path, postgres) as stage:
        stage.start()
        yield stage
        flow, history = stage.stored()
        whole = unfolded(history)
        assert not list(wrong_with_history(flow, whole))
        assert not list(wrong_with_polls(stage.login(), whole))
        assert stage.wrong() == []


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL that nobody else uses, since it is shut down."""
    with PostgresServer() as server:
        yield server


def run(child: Child) -> None:
    assert child.wait() == 0


def resume(child: Child) -> None:
    child.send(signal.SIGCONT)
    run(child)


def suspended_at(stage: Stage, *traps: Trap) -> Child:
    child = stage.fork("suspended", *traps, waits=True)
    child.wait_until_stopped()
    return child


def actions(history: list[dict[str, Any]]) -> list[str]:
    return [event["action"] for event in history]


@pytest.mark.parametrize("point", POINTS, ids=[point for point, _ in POINTS])
def test_who_was_suspended_sends_nothing_by_its_old_lease(
    stage: Stage, point: tuple[str, int]
) -> None:
    stage.rule.after = 3 * LEASE
    suspended = suspended_at(stage, (*point, STOP))
    run(stage.fork("other", waits=True, then="leave"))
    asked, (_, before) = stage.login()["requests"], stage.stored()

    resume(suspended)

    assert stage.login()["requests"] == asked
    history = stage.stored()[1]
    assert actions(before) == ["issue_code", "poll", "recover", "poll", "issue_token"]
    assert actions(history[len(before) :]) == ["collect", "acknowledge"]
    assert stage.told("suspended", "delivered") == stage.issued()


def test_command_that_was_suspended_ends_as_the_login_did(stage: Stage, tmp_path: Path) -> None:
    stage.rule.after = 3 * LEASE
    wait = ["wait", str(stage.flow_id)]
    suspended = stage.command("suspended", BETWEEN, args=wait)
    suspended.wait_until_stopped()
    run(stage.command("other", args=wait))
    asked, (_, before) = stage.login()["requests"], stage.stored()

    resume(suspended)

    assert stage.told("suspended", "code") == stage.told("other", "code") == 0
    assert stage.login()["requests"] == asked
    assert stage.stored()[1] == before
    outputs = [
        (tmp_path / f"home of {name}" / "out").read_text() for name in ("suspended", "other")
    ]
    assert "authorized" in outputs[0]
    assert outputs[0] == outputs[1]


def test_denial_that_others_were_told_ends_who_was_suspended(stage: Stage) -> None:
    stage.rule.decision, stage.rule.after = "deny", 2 * LEASE
    suspended = suspended_at(stage, BETWEEN)
    run(stage.fork("other", waits=True, then="leave"))
    _, before = stage.stored()

    resume(suspended)

    assert stage.stored()[1] == before
    assert stage.told("suspended", "done")


def test_token_that_came_to_who_was_suspended_is_stored_late(stage: Stage) -> None:
    suspended = suspended_at(stage, ANSWERED)
    run(stage.fork("other", waits=True, then="leave"))
    assert stage.stored()[0].reason is Reason.OUTCOME_UNKNOWN

    resume(suspended)

    assert actions(stage.stored()[1])[-3:] == ["late_token", "collect", "acknowledge"]
    assert stage.told("suspended", "delivered") == stage.issued()
    assert stage.told("suspended", "possibly_revoked")


def test_nobody_polled_while_who_has_the_token_was_suspended(stage: Stage) -> None:
    suspended = suspended_at(stage, ANSWERED)
    other = stage.fork("other", ("after commit: recover", 1, KILL), waits=True)
    assert other.wait() == -KILL

    resume(suspended)

    assert actions(stage.stored()[1])[2:4] == ["recover", "late_token"]
    assert stage.told("suspended", "delivered") == stage.issued()
    assert not stage.told("suspended", "possibly_revoked")


def test_cancel_while_the_token_waits_orphans_it(stage: Stage) -> None:
    suspended = suspended_at(stage, ANSWERED)
    run(stage.fork("owner", then="cancel"))

    resume(suspended)

    flow, history = stage.stored()
    assert (flow.reason, flow.token, flow.orphaned_tokens) == (Reason.CANCELLED, None, 1)
    assert actions(history) == ["issue_code", "poll", "cancel", "orphan_token"]


def test_who_was_suspended_alone_takes_the_login_again(stage: Stage) -> None:
    stage.rule.after = AFTER_FIRST_POLL
    suspended = suspended_at(stage, BETWEEN)
    stage.clock.advance(LEASE)

    resume(suspended)

    _, history = stage.stored()
    assert actions(history)[:4] == ["issue_code", "poll", "poll", "issue_token"]
    assert len({event["worker"] for event in history[1:3]}) == 2
    assert history[2]["omitted"]["events"] == 1
    assert stage.told("suspended", "delivered") == stage.issued()


@pytest.mark.parametrize(("seconds", "again"), [(0.0, False), (LEASE, True)])
def test_database_that_restarts_under_a_hold(
    own_server: PostgresServer, zygote: Zygote, tmp_path: Path, seconds: float, again: bool
) -> None:
    with Stage(zygote, tmp_path, own_server) as stage:
        stage.start()
        stage.rule.after = AFTER_FIRST_POLL
        holder = suspended_at(stage, BETWEEN)
        asked = stage.login()["requests"]
        own_server.kill()
        try:
            stage.clock.advance(seconds)
            holder.send(signal.SIGCONT)
            assert not holder.has_ended(within=0.5)
            assert stage.login()["requests"] == asked
        finally:
            own_server.start()
        run(holder)

        flow, history = stage.stored()
        held = ["poll", "poll"] if again else ["poll"]
        assert actions(history) == [*("issue_code", *held, "issue_token"), "collect", "acknowledge"]
        assert stage.told("suspended", "delivered") == stage.issued()
        assert len(stage.login()["requests"]) == len(asked) + 1
        assert not list(wrong_with_history(flow, unfolded(history)))
        assert stage.wrong() == []
