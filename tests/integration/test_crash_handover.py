"""Commands that are killed between the store and the place for the token, and run again.

A sample of `python -m tests.crash --handovers`: each named point once, and some at random.
"""

from __future__ import annotations

import random
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.crash.commands import Desk, at_random, named
from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.zygote import Zygote
    from tests.postgres import PostgresServer

CASES = named()
RANDOM_LOGINS = 10


@pytest.fixture(scope="module")
def desk(
    zygote: Zygote,  # noqa: F811
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Desk]:
    with Desk(zygote, tmp_path_factory.mktemp("handover"), postgres) as desk:
        yield desk


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_named_point(desk: Desk, number: int) -> None:
    played = desk.play(f"named-{number}", CASES[number])

    assert not played.wrong
    assert played.kills.total() == 1


def test_random_points(desk: Desk) -> None:
    seed = random.getrandbits(32)
    rng, kills = Random(seed), 0
    for number in range(RANDOM_LOGINS):
        case = at_random(rng)
        played = desk.play(f"random-{number}", case)
        assert not played.wrong, f"seed {seed}: {case.name}"
        kills += played.kills.total()
    assert kills > RANDOM_LOGINS / 2
