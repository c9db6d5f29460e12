"""Grants whose processes are killed while they refresh, and whose answers are cut on their way.

A sample of `python -m tests.crash --refreshes`: some of the named points, and some at random.
"""

from __future__ import annotations

import itertools
import random
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures
from tests.crash.refreshes import RefreshScene, RefreshTally, at_random, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.zygote import Zygote
    from tests.postgres import PostgresServer

EACH = 8
"""One in so many of the named points is played; which ones, chance decides."""
RANDOM_KILLS = 8


@pytest.fixture(scope="module")
def scene(
    zygote: Zygote,  # noqa: F811
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RefreshScene]:
    with RefreshScene(zygote, tmp_path_factory.mktemp("refresh"), postgres) as scene:
        yield scene


def test_named_points(scene: RefreshScene) -> None:
    first = random.randrange(EACH)
    for number, case in enumerate(named()[first::EACH]):
        played = scene.play(f"named-{number}", case)
        assert not played.wrong, case.name
        assert played.kills == [kill.name for kill in case.kills if kill], case.name


def test_random_moments(scene: RefreshScene) -> None:
    seed = random.getrandbits(32)
    rng, tally = Random(seed), RefreshTally()
    for number in itertools.count():
        case = at_random(rng)
        tally.add(f"random-{number}", case, scene.play(f"random-{number}", case))
        if tally.kills.total() >= RANDOM_KILLS:
            break
    assert not tally.wrong, f"seed {seed}"
