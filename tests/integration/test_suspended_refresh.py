"""Processes that are suspended in a refresh, past their lease, while others go on."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.states import GrantState
from tests.crash.checks import Auditor, wrong_with_files
from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures
from tests.crash.gate import PATIENCE
from tests.crash.refreshes import LIFE, RefreshScene, passed_by
from tests.stored import load_grant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.core.grant import Grant
    from tests.crash.places import Place
    from tests.crash.refreshes import Passes
    from tests.crash.traps import Trap
    from tests.crash.zygote import Child, Zygote
    from tests.postgres import PostgresServer

NAME: Final = "nightly"
STOP: Final = signal.SIGSTOP
KILL: Final = signal.SIGKILL
DEADLINE: Final = 1.5  # seconds, where the transport's own has to pass: that is in real time

ANNOUNCED: Final[Trap] = ("after commit: refresh", 1, STOP)
CONNECTING: Final[Trap] = ("before connecting", 1, STOP)
READING: Final[Trap] = ("before reading", 1, STOP)
ANSWERED: Final[Trap] = ("after answer: token", 1, STOP)


class Stage:
    """A grant whose token is half over, and processes that use it one by one."""

    def __init__(self, scene: RefreshScene, folder: Path) -> None:
        self.scene = scene
        self._folder = folder
        self.grace = False
        self.user_code = ""
        self.place: Place

    def begin(self, *, grace: bool = False) -> None:
        self.grace = grace
        self.place, self.user_code = self.scene.begin(NAME, grace=grace)
        self.scene.clock.advance(LIFE * 0.6)

    def suspended(self, *traps: Trap, deadline: float = 10.0) -> Child:
        child = self.scene.use(NAME, "suspended", self.place, traps=traps, deadline=deadline)
        child.wait_until_stopped()
        if READING in traps:
            until = time.monotonic() + PATIENCE
            while not self.answers():  # the server has to have seen it while the lease lasts
                assert time.monotonic() < until
                time.sleep(0.01)
        return child

    def other(self, life: str, *traps: Trap) -> dict[str, Any]:
        """Have another process use the grant, and return what came of it."""
        assert self.scene.use(NAME, life, self.place, traps=traps).wait() == 0
        return self.scene.told(life)[-1]

    def pass_by(self, what: Passes) -> None:
        self.scene.clock.advance(passed_by(what, grace=self.grace))

    def grant(self) -> tuple[Grant, list[str]]:
        """Return the grant, and what was done to it since its login."""
        with self.place.open() as store:
            stored = load_grant(store, NAME, self.scene.clock.time())
            assert stored is not None
            history = store.events(stored.record.id)
        return stored.record, [event["action"] for event in history][2:]

    def log(self) -> dict[str, Any]:
        return self.scene.log(self.grace, self.user_code)

    def answers(self) -> list[str]:
        return [one["answer"] for one in self.log()["requests"]]

    def check(self) -> None:
        """Check what has to be so in any case."""
        self.scene.relays[self.grace].settle()
        self.place.settle()
        with self.place.open() as store:
            assert Auditor(self._folder / "judged").wrong(store) == []
        assert self.scene.relays[self.grace].wrong == []
        assert not list(wrong_with_files([*self.place.files(), *self._folder.rglob("*.log")]))


@pytest.fixture
def stage(
    zygote: Zygote,  # noqa: F811
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Stage]:
    with RefreshScene(zygote, tmp_path, postgres) as scene:
        stage = Stage(scene, tmp_path)
        yield stage
        stage.check()


def resume(child: Child) -> None:
    child.send(signal.SIGCONT)
    assert child.wait() == 0


@pytest.mark.parametrize("where", [READING, ANSWERED], ids=["unread", "read"])
def test_late_answer_is_used_at_once_where_nobody_has_sent_it_again(
    stage: Stage, where: Trap
) -> None:
    stage.begin()
    suspended = stage.suspended(where)
    stage.pass_by("lease")
    assert stage.other("other")["generation"] == 1
    assert stage.grant()[0].state is GrantState.IN_DOUBT

    resume(suspended)

    grant, done = stage.grant()
    assert done == ["refresh", "recover_refresh", "use_late_answer"]
    assert (grant.state, grant.generation, grant.aside) == (GrantState.ACTIVE, 2, ())
    assert stage.scene.told("suspended")[-1]["generation"] == 2
    assert stage.answers() == ["issued"]


def test_late_answer_is_what_others_have_got_already(stage: Stage) -> None:
    """The server has answered the same refresh again, with the same tokens."""
    stage.begin(grace=True)
    suspended = stage.suspended(ANSWERED)
    stage.pass_by("lease")
    assert stage.other("other")["generation"] == 2

    resume(suspended)

    grant, done = stage.grant()
    assert done == ["refresh", "recover_refresh", "replay", "renew"]
    assert (grant.generation, grant.aside) == (2, ())
    assert stage.answers() == ["issued", "replayed"]


def test_late_answer_is_set_aside_and_tried_once_if_the_stored_one_is_refused(
    stage: Stage,
) -> None:
    stage.begin(grace=True)
    suspended = stage.suspended(ANSWERED)
    stage.pass_by("lease")
    assert stage.other("other")["generation"] == 2
    stage.scene.clock.advance(LIFE * 0.6)
    assert stage.other("next")["generation"] == 3

    resume(suspended)

    grant, done = stage.grant()
    assert done[-3:] == ["refresh", "renew", "late_answer"]
    assert (grant.state, grant.generation, len(grant.aside)) == (GrantState.ACTIVE, 3, 1)
    assert (grant.revocations, stage.log()["state"]) == (0, "active")

    stage.scene.post(stage.grace, "revoke", user_code=stage.user_code)
    stage.scene.clock.advance(LIFE * 2)
    assert "pending" in stage.other("later")
    grant, done = stage.grant()
    tried = ["refresh", "use_late_answer", "refresh", "lose", "need"]
    assert done[done.index("late_answer") + 1 :] == tried
    assert (grant.state, grant.aside) == (GrantState.LOST, ())
    assert stage.answers()[-2:] == ["invalid_grant", "invalid_grant"]


def test_late_answer_after_the_loss_is_tried(stage: Stage) -> None:
    """The server has revoked all by then: it saw the old refresh token again."""
    stage.begin()
    suspended = stage.suspended(ANSWERED)
    stage.pass_by("life")
    assert "pending" in stage.other("other")
    assert stage.log()["state"] == "reused"

    resume(suspended)

    grant, done = stage.grant()
    begun = ["refresh", "recover_refresh", "replay", "lose", "need", "use_late_answer"]
    assert done[: len(begun)] == begun
    assert done[len(begun) :] == ["refresh", "lose", "need"]
    assert grant.state is GrantState.LOST
    assert "pending" in stage.scene.told("suspended")[-1]


def test_suspended_before_its_request_while_others_go_on(stage: Stage) -> None:
    stage.begin()
    suspended = stage.suspended(ANNOUNCED)
    stage.pass_by("life")
    assert stage.other("other")["generation"] == 3  # what the second sending brought had ended
    answers = stage.answers()

    resume(suspended)

    assert stage.answers() == answers == ["issued"] * 2
    assert stage.grant()[1] == [
        *("refresh", "recover_refresh", "replay", "renew"),
        *("refresh", "renew"),
    ]
    assert stage.scene.told("suspended")[-1]["generation"] == 3


def test_suspended_before_its_request_and_alone(stage: Stage) -> None:
    stage.begin()
    suspended = stage.suspended(ANNOUNCED)
    stage.pass_by("lease")

    resume(suspended)

    assert stage.grant()[1] == ["refresh", "postpone", "refresh", "renew"]
    assert stage.answers() == ["issued"]
    assert stage.scene.told("suspended")[-1]["generation"] == 2


def test_suspended_when_it_connects(stage: Stage) -> None:
    stage.begin()
    suspended = stage.suspended(CONNECTING, deadline=DEADLINE)
    begun = time.monotonic()
    stage.pass_by("life")
    assert stage.other("other")["generation"] == 3
    time.sleep(max(0.0, begun + DEADLINE - time.monotonic()))

    resume(suspended)

    assert stage.answers() == ["issued"] * 2
    assert stage.scene.told("suspended")[-1]["generation"] == 3


@pytest.mark.parametrize("when", ["before", "between the rows of", "inside", "after"])
def test_killed_when_it_brings_the_late_answer(stage: Stage, when: str) -> None:
    stage.begin()
    suspended = stage.suspended(ANSWERED, (f"{when} commit: use_late_answer", 1, KILL))
    stage.pass_by("lease")
    stage.other("other")
    suspended.send(signal.SIGCONT)
    assert suspended.wait() == -KILL
    stage.place.settle()

    grant, _ = stage.grant()
    if when == "after":
        assert (grant.state, grant.generation) == (GrantState.ACTIVE, 2)
        assert stage.other("next")["generation"] == 2
    else:
        assert (grant.state, grant.generation) == (GrantState.IN_DOUBT, 1)
        assert stage.other("next")["generation"] == 1  # while it lives
