"""Logins whose processes are killed, and gone on with by others.

A sample of `python -m tests.crash`: each named point once, and some at random. Of these an
`AsyncClient` plays some too; with `--client async` it plays all.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
from contextlib import ExitStack, closing
from random import Random
from typing import TYPE_CHECKING

import pytest

from deviceflow.audit.mode import VARIABLE
from deviceflow.stores.sqlite import SQLiteStore
from tests.crash.cases import at_random, held, named
from tests.crash.checks import Auditor
from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures
from tests.crash.kills import Scene, Tally
from tests.crash.zygote import Zygote
from tests.evidence.histories import Login

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgres import PostgresServer

CASES = named()
HELD = held()
RANDOM_KILLS = 15
OF_ASYNC = (
    "inside migration",
    "inside claim: poll",
    "between the rows of commit: issue_token",
    "after commit: issue_token",
    "while the server holds: issued",
    "after claim: poll, then between the rows of commit: recover",
    "after commit: collect by key",
    "before the sink",
    "inside commit: acknowledge",
)


@pytest.fixture(scope="module")
def scene(
    zygote: Zygote,  # noqa: F811
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    with Scene(zygote, tmp_path_factory.mktemp("crash"), postgres) as scene:
        yield scene


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_named_point(scene: Scene, number: int) -> None:
    case = CASES[number]
    played = scene.play(f"named-{number}", case)
    assert not played.wrong
    assert played.kills == [kill.name for kill in case.kills]
    assert played.outcome == case.expected


@pytest.fixture(scope="module")
def summarized(
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[bool, Scene]]:
    """Give scenes whose trails are summaries; by whether an `AsyncClient` plays."""
    with ExitStack() as stack:
        zygote = stack.enter_context(Zygote("summary"))
        yield {
            is_async: stack.enter_context(
                Scene(zygote, tmp_path_factory.mktemp("held"), postgres, is_async=is_async)
            )
            for is_async in (False, True)
        }


@pytest.mark.parametrize("number", range(len(HELD)), ids=[case.name for case in HELD])
def test_named_point_of_a_held_login(summarized: dict[bool, Scene], number: int) -> None:
    case = HELD[number]
    played = summarized[number % 2 == 1].play(f"held-{number}", case)
    assert not played.wrong
    assert played.kills == [kill.name for kill in case.kills]
    assert played.outcome == case.expected


@pytest.fixture(scope="module")
def async_scene(
    zygote: Zygote,  # noqa: F811
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("crash-async")
    with Scene(zygote, folder, postgres, is_async=True) as scene:
        yield scene


@pytest.mark.parametrize("name", OF_ASYNC)
def test_named_point_of_an_async_client(async_scene: Scene, name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    played = async_scene.play(name, case)
    assert not played.wrong
    assert played.kills == [kill.name for kill in case.kills]
    assert played.outcome == case.expected


def test_random_moments_of_an_async_client(async_scene: Scene) -> None:
    seed = random.getrandbits(32)
    rng, tally = Random(seed), Tally()
    for number in itertools.count():
        case = at_random(rng)
        tally.add(f"random-{number}", case, async_scene.play(f"random-{number}", case))
        if tally.kills.total() >= RANDOM_KILLS // 3:
            break
    assert not tally.wrong, f"seed {seed}"


def test_random_moments(scene: Scene) -> None:
    seed = random.getrandbits(32)
    rng, tally = Random(seed), Tally()
    for number in itertools.count():
        case = at_random(rng)
        tally.add(f"random-{number}", case, scene.play(f"random-{number}", case))
        if tally.kills.total() >= RANDOM_KILLS:
            break
    assert not tally.wrong, f"seed {seed}"


def test_random_moments_of_a_summarized_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "summary")
    seed = random.getrandbits(32)
    rng, tally = Random(seed), Tally()
    with Zygote() as zygote, Scene(zygote, tmp_path, None) as scene:  # noqa: F811
        for number in itertools.count():
            case = at_random(rng)
            tally.add(f"random-{number}", case, scene.play(f"random-{number}", case))
            if tally.kills.total() >= RANDOM_KILLS // 3:
                break
    assert not tally.wrong, f"seed {seed}"


def test_auditor_misses_a_transition_that_is_gone(tmp_path: Path) -> None:
    auditor = Auditor(tmp_path / "digests")
    with SQLiteStore(tmp_path / "flows.db", trail="each") as store:
        login = Login(Random(1), "f1")
        login.begin_in(store)
        login.keep(store, 5)
        assert auditor.wrong(store) == []
        with closing(sqlite3.connect(store.path, isolation_level=None)) as behind:
            behind.execute("DELETE FROM audit WHERE seq = 3")

        (problem,) = auditor.wrong(store)

    assert "kind='removed', flow_id='f1', seq=3" in problem
