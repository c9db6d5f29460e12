"""Workers that are killed two at a time, under logins whose people decide at random moments."""

from __future__ import annotations

import secrets
from random import Random
from typing import TYPE_CHECKING

from tests.crash.crew import kill_workers
from tests.crash.fixtures import kind, postgres, zygote  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.zygote import Zygote
    from tests.postgres import PostgresServer


def test_no_token_is_lost_and_no_poll_is_early_while_workers_are_killed(
    zygote: Zygote,  # noqa: F811
    tmp_path: Path,
    postgres: PostgresServer | None,  # noqa: F811
) -> None:
    seed = secrets.token_hex(4)
    killed = kill_workers(
        zygote,
        tmp_path,
        postgres,
        Random(seed),
        kills=6,
        logins=30,
        pace=20,
        interval=10.0,
        expires_in=100.0,
    )

    assert killed.wrong == [], seed
    assert killed.kills == 6
    assert killed.outcomes.total() == 30
    assert killed.issued > 0, seed
    assert killed.events > killed.polls
