"""Eight processes that step forty flows, as a sample of `python -m tests.crash --concurrency`."""

from __future__ import annotations

import random
from random import Random
from typing import TYPE_CHECKING

from tests.crash.crowd import FLOWS, compete
from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.zygote import Zygote
    from tests.postgres import PostgresServer

PACE = 2  # half a minute; faster, a busy machine ends logins before they are approved


def test_many_workers_on_the_same_flows(
    zygote: Zygote,  # noqa: F811
    postgres: PostgresServer | None,  # noqa: F811
    tmp_path: Path,
) -> None:
    seed = random.getrandbits(32)
    done = compete(zygote, tmp_path, postgres, Random(seed), pace=PACE, interval=5.0)
    assert not done.wrong, f"seed {seed}"
    assert done.outcomes == {
        "authorized": FLOWS * 3 // 5,
        "denied": FLOWS // 5,
        "expired": FLOWS // 5,
    }
    assert done.delivered == done.outcomes["authorized"]
    assert done.held  # else they were never at the same flow at once
