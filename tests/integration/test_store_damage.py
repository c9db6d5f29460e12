"""One bad row stops nobody: loops pass it, report it, and come back to it ever more seldom."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, Final

import pytest

from deviceflow import errors
from deviceflow.machine import State
from deviceflow.sealing import generate_key
from deviceflow.testing import answer
from tests.integration.places import (
    CODE,
    GRANTED,
    OAUTH,
    PENDING,
    Place,
    commit,
    kept,
)

LOST: Final = "df1.00000000."
"""What begins a text that was sealed with a key that is lost."""


def lose_the_key_of(place: Place, like: str) -> None:
    place.ask("UPDATE {flows} SET mac = ? WHERE id LIKE ?", f"{LOST}00", like)


def many(place: Place, name: str, prefix: str, count: int) -> None:
    for number in range(count):
        kept(place, name, f"{prefix}{number:03}")


@pytest.mark.parametrize("depth", [40, 3000, 100_000])
@pytest.mark.parametrize("column", ["provider", "record"])
def test_brackets_without_end_stop_no_sweep_and_no_list(
    database: Place, column: str, depth: int
) -> None:
    kept(database, "waiting", "bad")
    kept(database, "waiting", "good")
    database.ask(f"UPDATE {{flows}} SET {column} = ? WHERE id = 'bad'", "[" * depth)
    database.clock.advance(60)
    driver, problems = database.client(PENDING), list[errors.DeviceFlowError]()

    swept = driver.sweep()
    listed = [flow.id for flow in driver.flows(on_problem=problems.append)]

    assert [step.flow_id for step in swept.steps] == listed == ["good"]
    assert [one.flow_id for one in swept.problems] == [one.flow_id for one in problems] == ["bad"]


def test_rows_of_a_lost_key_starve_no_sweep(database: Place) -> None:
    many(database, "waiting", "lost", 120)
    database.clock.advance(0.5)
    many(database, "waiting", "good", 5)
    lose_the_key_of(database, "lost%")
    database.clock.advance(60)
    driver = database.client(*[PENDING] * 5)

    swept = driver.sweep(limit=100)

    assert sorted(step.flow_id for step in swept.steps) == [f"good{n:03}" for n in range(5)]
    assert len(swept.problems) == 120
    assert driver.sweep().problems == []  # they are left alone


def test_bad_row_is_come_back_to_ever_more_seldom(database: Place) -> None:
    kept(database, "waiting", "lost")
    lose_the_key_of(database, "lost")
    driver, tries = database.client(), 0
    for _ in range(24 * 60):
        database.clock.advance(60)
        tries += len(driver.sweep().problems)

    assert 24 <= tries <= 30  # of 1,440 minutes


def test_rows_of_a_lost_key_keep_purge_from_no_other(database: Place) -> None:
    many(database, "authorized", "lost", 210)
    database.clock.advance(0.5)
    kept(database, "authorized", "good")
    lose_the_key_of(database, "lost%")
    database.clock.advance(8 * 86400)
    driver = database.client(answer(200), answer(200))

    purged = driver.purge()

    assert purged.tokens == 1
    assert len(purged.problems) == 210
    assert database.store.get("good").handover == "purged"
    assert driver.purge().problems == []  # they are left alone


def test_row_whose_columns_contradict_each_other_ends_the_list(database: Place) -> None:
    many(database, "waiting", "f", 3)
    database.ask("UPDATE {flows} SET created_at = created_at + 1e6 WHERE id = 'f001'")
    problems: list[errors.DeviceFlowError] = []

    listed = [flow.id for flow in database.client().flows(on_problem=problems.append)]

    assert sorted(listed) == ["f000", "f002"]
    assert [problem.flow_id for problem in problems] == ["f001"]


def test_list_logs_what_it_passes_over(database: Place, caplog: pytest.LogCaptureFixture) -> None:
    many(database, "waiting", "f", 2)
    lose_the_key_of(database, "f000")

    assert [flow.id for flow in database.client().flows()] == ["f001"]

    (logged,) = [r for r in caplog.records if vars(r).get("deviceflow_event")]
    assert vars(logged)["deviceflow_event"] == "deviceflow.unreadable"
    assert vars(logged)["deviceflow"]["flow_id"] == "f000"


def test_missing_key_blocks_no_worker_who_has_it(database: Place) -> None:
    """Whoever cannot read a row gives its lease back."""
    kept(database, "waiting")
    rotated = database.open(keys=[generate_key(), *database.keys])
    assert rotated.reseal() == (1, [])
    database.clock.advance(60)

    with pytest.raises(errors.SealError):
        database.client().step("f1")

    assert database.client(PENDING, store=rotated).step("f1").state is State.AWAITING_USER


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a\xc3"])
def test_text_that_is_none_is_a_bad_row_and_no_more(database: Place, text: bytes) -> None:
    if database.kind != "sqlite":
        return  # PostgreSQL takes none
    many(database, "waiting", "f", 3)
    with closing(sqlite3.connect(database.url.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE flows SET record = CAST(? AS TEXT) WHERE id = 'f001'", (text,))
        connection.commit()
    database.clock.advance(60)
    driver, problems = database.client(PENDING, PENDING), list[errors.DeviceFlowError]()

    assert len(list(driver.flows(on_problem=problems.append))) == 2
    swept = driver.sweep()

    assert [one.flow_id for one in swept.problems] == [one.flow_id for one in problems] == ["f001"]
    assert len(swept.steps) == 2


# A clock that was set back.


def test_clock_set_back_makes_nobody_wait(database: Place) -> None:
    flow = kept(database, "waiting")
    assert commit(database.store, flow, flow.poll(database.now, 10))
    assert commit(database.store, flow, flow.receive(PENDING, database.now))
    database.clock.advance(-3600)

    driver = database.client(PENDING)
    done = driver.step("f1")

    assert done.wait_seconds < 60
    assert len(driver._transport.requests) == 1  # type: ignore[attr-defined]
    assert driver.step("f1").wait_seconds < 60  # and from then on it is as ever
    assert len(driver._transport.requests) == 1  # type: ignore[attr-defined]


def test_clock_set_back_keeps_no_sweep_from_a_login(database: Place) -> None:
    kept(database, "waiting")
    database.clock.advance(-3600)

    assert [step.flow_id for step in database.client(PENDING).sweep().steps] == ["f1"]


def test_clock_set_back_does_not_lengthen_the_codes_life(database: Place) -> None:
    kept(database, "waiting")
    database.clock.advance(-3600)
    driver = database.client(PENDING)
    driver.step("f1")

    expires_at = database.store.get("f1").expires_at

    assert expires_at is not None
    assert expires_at - database.now <= 901


@pytest.mark.parametrize("ahead", [3600, 30 * 86400])
def test_lease_of_a_clock_that_was_ahead_holds_nobody_up(database: Place, ahead: float) -> None:
    kept(database, "waiting")
    database.clock.advance(60)
    database.clock.advance(ahead)
    database.store.claim("f1", "w1", database.now, 20)
    database.clock.advance(-ahead)

    assert database.client(PENDING).step("f1").state is State.AWAITING_USER
    assert [event["action"] for event in database.sql.history("f1")][-3:] == [
        "take_over",
        "poll",
        "pending",
    ]


def test_dead_workers_poll_is_waited_out_though_the_clock_was_set_back(database: Place) -> None:
    flow = kept(database, "waiting")
    database.store.claim("f1", "w1", database.now, 20)
    assert commit(database.store, flow, flow.poll(database.now, 10))
    database.clock.advance(-3600)
    driver = database.client(PENDING)

    done = driver.step("f1")

    assert (done.state, driver._transport.requests) == (State.AWAITING_USER, [])  # type: ignore[attr-defined]
    assert 10 < done.wait_seconds < 60
    database.clock.advance(done.wait_seconds)
    assert driver.step("f1").state is State.AWAITING_USER
    assert len(driver._transport.requests) == 1  # type: ignore[attr-defined]


# What is wiped.


@pytest.mark.parametrize("how", ["acknowledge", "purge"])
def test_wiped_secrets_of_a_store_in_clear_are_in_no_file(tmp_path: Any, how: str) -> None:
    from deviceflow import SQLiteStore  # noqa: PLC0415
    from tests.integration import places  # noqa: PLC0415

    place = places.sqlite(tmp_path)
    path = tmp_path / "plain" / "flows.db"
    path.parent.mkdir()
    with SQLiteStore(path, plaintext=True) as store:
        driver = place.client(CODE, GRANTED, answer(200), answer(200), store=store)
        flow = driver.start(OAUTH)
        place.clock.advance(60)
        assert driver.step(flow.id).state is State.AUTHORIZED
        assert any(b"TOKEN-CANARY" in file.read_bytes() for file in path.parent.iterdir())
        if how == "acknowledge":
            driver.acknowledge(flow.id)
        else:
            place.clock.advance(8 * 86400)
            assert driver.purge().tokens == 1

        kept_still = {
            needle
            for needle in (b"TOKEN-CANARY", b"REFRESH-CANARY", b"DEVICE-CANARY", b"EXTRA-CANARY")
            for file in path.parent.iterdir()
            if needle in file.read_bytes()
        }
        assert kept_still == set()
    place.close()
