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


def test_workers_that_are_suspended_for_longer_than_their_leases_last_poll_nothing_early(
    zygote: Zygote,  # noqa: F811
    tmp_path: Path,
    postgres: PostgresServer | None,  # noqa: F811
) -> None:
    seed = secrets.token_hex(4)
    suspended = kill_workers(
        zygote,
        tmp_path,
        postgres,
        Random(seed),
        kills=4,
        logins=30,
        pace=20,
        interval=10.0,
        expires_in=100.0,
        trouble="suspended",
    )

    assert suspended.wrong == [], seed
    assert suspended.outcomes.total() == 30
    assert suspended.issued > 0, seed


def test_workers_that_are_told_to_end_leave_nothing_half_done(
    zygote: Zygote,  # noqa: F811
    tmp_path: Path,
    postgres: PostgresServer | None,  # noqa: F811
) -> None:
    seed = secrets.token_hex(4)
    ended = kill_workers(
        zygote,
        tmp_path,
        postgres,
        Random(seed),
        kills=6,
        logins=30,
        pace=2,  # slow, so that no lease runs out where the machine is slow
        interval=1.0,
        expires_in=12.0,
        trouble="told to end",
    )

    assert ended.wrong == [], seed
    assert ended.outcomes.total() == 30
    assert ended.issued > 0, seed
    # What was in flight came to its end, and each lease was given back.
    assert (ended.recoveries, ended.take_overs, ended.unknown) == (0, 0, 0), seed
