"""Grants whose processes are killed while they refresh, and whose answers are cut on their way.

A sample of `python -m tests.crash --refreshes`: some of the named points, and some at random.
"""

from __future__ import annotations

import itertools
import random
from random import Random
from typing import TYPE_CHECKING

import pytest
import requests

from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures
from tests.crash.gate import PATIENCE
from tests.crash.refreshes import RefreshScene, RefreshTally, at_random, named
from tests.stored import load_grant

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


def test_proxy_notices_a_refresh_that_is_not_on_record(scene: RefreshScene) -> None:
    place, _ = scene.begin("noticed", grace=True)
    with place.open() as store:
        stored = load_grant(store, "noticed", scene.clock.time())
    assert stored is not None
    assert stored.record.token is not None
    request = stored.record.request()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}
    wrong = list[str]()
    for refresh in (request.body, request.body, request.body + b"-another"):
        requests.post(request.url, data=refresh, headers=headers, timeout=PATIENCE)
        wrong += scene.relays[True].wrong[len(wrong) :]

    assert wrong[0] == wrong[1] == "a refresh was sent in active, with 0.0 s of a lease"
    assert wrong[2] == "an old refresh token was sent while a newer one is stored"


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
