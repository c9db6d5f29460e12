"""One bad row stops nobody: loops pass it, report it, and come back to it ever more seldom."""

from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import errors
from deviceflow.core.encryption import generate_key
from deviceflow.core.states import State
from deviceflow.testing import answer
from deviceflow.trail.verify import Verification
from tests.integration import places
from tests.integration.places import (
    CODE,
    GRANTED,
    OAUTH,
    PENDING,
    Place,
    commit,
    everything,
    kept,
)
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow import Client

LOST: Final = "df1.00000000."
"""What begins a text that was sealed with a key that is lost."""


def lose_the_key_of(place: Place, like: str) -> None:
    place.ask("UPDATE {flows} SET mac = ? WHERE id LIKE ?", f"{LOST}00", like)


def many(place: Place, name: str, prefix: str, count: int) -> None:
    for number in range(count):
        kept(place, name, f"{prefix}{number:03}")


@pytest.mark.parametrize("depth", [40, 3000, 100_000])
@pytest.mark.parametrize("column", ["provider", "record", "progress"])
def test_brackets_without_end_stop_no_sweep_and_no_list(
    database: Place, column: str, depth: int
) -> None:
    kept(database, "waiting", "bad")
    kept(database, "waiting", "good")
    database.ask(f"UPDATE {{flows}} SET {column} = ? WHERE id = 'bad'", "[" * depth)
    database.clock.advance(60)
    driver, problems = database.client(PENDING), list[errors.DeviceFlowError]()

    swept = driver.sweep()
    listed = [flow.id for flow in driver.logins(on_problem=problems.append)]

    assert [step.id for step in swept.logins] == listed == ["good"]
    assert [one.flow_id for one in swept.problems] == [one.flow_id for one in problems] == ["bad"]


def test_rows_of_a_lost_key_starve_no_sweep(database: Place) -> None:
    many(database, "waiting", "lost", 120)
    database.clock.advance(0.5)
    many(database, "waiting", "good", 5)
    lose_the_key_of(database, "lost%")
    database.clock.advance(60)
    driver = database.client(*[PENDING] * 5)

    swept = driver.sweep(limit=100)

    assert sorted(step.id for step in swept.logins) == [f"good{n:03}" for n in range(5)]
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
    assert get(database.store, "good").handover == "purged"
    assert driver.purge().problems == []  # they are left alone


def test_row_whose_columns_contradict_each_other_ends_the_list(database: Place) -> None:
    many(database, "waiting", "f", 3)
    database.ask("UPDATE {flows} SET created_at = created_at + 1e6 WHERE id = 'f001'")
    problems: list[errors.DeviceFlowError] = []

    listed = [flow.id for flow in database.client().logins(on_problem=problems.append)]

    assert sorted(listed) == ["f000", "f002"]
    assert [problem.flow_id for problem in problems] == ["f001"]


def test_list_logs_what_it_passes_over(database: Place, caplog: pytest.LogCaptureFixture) -> None:
    many(database, "waiting", "f", 2)
    lose_the_key_of(database, "f000")

    assert [flow.id for flow in database.client().logins()] == ["f001"]

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

    assert len(list(driver.logins(on_problem=problems.append))) == 2
    swept = driver.sweep()

    assert [one.flow_id for one in swept.problems] == [one.flow_id for one in problems] == ["f001"]
    assert len(swept.logins) == 2


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

    assert [login.id for login in database.client(PENDING).sweep().logins] == ["f1"]


def test_clock_set_back_does_not_lengthen_the_codes_life(database: Place) -> None:
    kept(database, "waiting")
    database.clock.advance(-3600)
    driver = database.client(PENDING)
    driver.step("f1")

    expires_at = get(database.store, "f1").expires_at

    assert expires_at is not None
    assert expires_at - database.now <= 901


@pytest.mark.parametrize("ahead", [3600, 30 * 86400])
def test_lease_of_a_clock_that_was_ahead_lasts_no_longer_than_any_other(
    database: Place, ahead: float
) -> None:
    kept(database, "waiting")
    database.clock.advance(60)
    database.clock.advance(ahead)
    database.store.claim("f1", "w1", database.now, 20)
    database.clock.advance(-ahead)

    driver = database.client(PENDING)
    assert driver.step("f1").wait_seconds <= 20
    database.clock.advance(21)
    assert driver.step("f1").state is State.AWAITING_USER
    assert [event["action"] for event in database.sql.events("f1")][-3:] == [
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

    assert driver.step("f1").state is State.POLLING  # its lease may be that of a process at work
    database.clock.advance(21)
    done = driver.step("f1")

    assert (done.state, driver._transport.requests) == (State.AWAITING_USER, [])  # type: ignore[attr-defined]
    assert 10 < done.wait_seconds < 60
    database.clock.advance(done.wait_seconds)
    assert driver.step("f1").state is State.AWAITING_USER
    assert len(driver._transport.requests) == 1  # type: ignore[attr-defined]


# What is wiped.


@pytest.mark.parametrize("how", ["acknowledge", "purge"])
def test_wiped_secrets_of_a_store_in_clear_are_in_no_file(tmp_path: Any, how: str) -> None:
    from deviceflow.stores.sqlite import SQLiteStore  # noqa: PLC0415

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


# What only a database takes that has no types, or a loop that trusts what it finds.


@pytest.fixture
def untyped(tmp_path: Path) -> Iterator[Place]:
    """Give a SQLite database: PostgreSQL checks the types of its columns."""
    place = places.sqlite(tmp_path)
    yield place
    place.close()


def spoil_the_id_of(place: Place, flow_id: str, new: bytes | str) -> None:
    mark = "CAST(? AS TEXT)" if new[:1] == b"\xff" else "?"
    place.ask(f"UPDATE {{flows}} SET id = {mark} WHERE id = ?", new, flow_id)


@pytest.mark.parametrize("spoilt", [b"\xff", b"\0blob", ""])
def test_id_that_is_none_stops_no_sweep(untyped: Place, spoilt: bytes | str) -> None:
    kept(untyped, "waiting", "bad")
    untyped.clock.advance(0.5)
    kept(untyped, "waiting", "good")
    spoil_the_id_of(untyped, "bad", spoilt)
    untyped.clock.advance(60)

    swept = untyped.client(PENDING).sweep()

    assert [step.id for step in swept.logins] == ["good"]


@pytest.mark.parametrize("spoilt", [b"\xff", b"\0blob", ""])
def test_id_that_is_none_stops_no_purge(untyped: Place, spoilt: bytes | str) -> None:
    many(untyped, "authorized", "bad", 3)
    many(untyped, "denied", "old", 2)
    kept(untyped, "authorized", "good")
    kept(untyped, "denied", "gone")
    spoil_the_id_of(untyped, "bad001", spoilt)
    spoil_the_id_of(untyped, "old001", spoilt * 2 or "x")
    untyped.clock.advance(91 * 86400)

    purged = untyped.client(*[answer(200)] * 6).purge()

    assert (purged.tokens, purged.flows) == (3, 5)
    assert len(purged.problems) == 2
    assert all(isinstance(problem.flow_id, str) for problem in purged.problems)


@pytest.mark.parametrize("spoilt", [b"\xff", b"\0blob", ""])
def test_id_that_is_none_stops_no_rotation(untyped: Place, spoilt: bytes | str) -> None:
    many(untyped, "waiting", "f", 3)
    spoil_the_id_of(untyped, "f000", spoilt)

    done, problems = untyped.open(keys=[generate_key(), *untyped.keys]).reseal()

    assert (done, len(problems)) == (2, 1)


@pytest.mark.parametrize("name", ["created", "waiting", "authorized"])
def test_purge_drops_no_row_that_it_cannot_read(database: Place, name: str) -> None:
    """A time of its end is not enough: the row must be as it was written."""
    flow = kept(database, name)
    kept(database, "denied", "f2")
    columns = "ended_at, token"
    ((ended_at, token),) = database.ask(f"SELECT {columns} FROM {{flows}} WHERE id = 'f1'")
    database.ask("UPDATE {flows} SET ended_at = 1.0, token = NULL WHERE id = 'f1'")
    database.clock.advance(91 * 86400)

    purged = database.client().purge()

    assert (purged.tokens, purged.flows) == (0, 1)
    assert [problem.flow_id for problem in purged.problems] == ["f1"]
    database.ask("UPDATE {flows} SET ended_at = ?, token = ? WHERE id = 'f1'", ended_at, token)
    assert everything(get(database.store, "f1")) == everything(flow)


def test_number_that_is_a_text_or_a_blob_is_found(untyped: Place) -> None:
    kept(untyped, "waiting")
    ((moved_at,),) = untyped.ask("SELECT moved_at FROM {flows}")
    untyped.ask("UPDATE {flows} SET moved_at = ?", str(moved_at).encode())

    with untyped.sql.snapshot() as snapshot:
        found = [finding.kind for finding in Verification(*snapshot).findings()]

    assert found == ["edited_row"]


# A database that does not do what it is told.

LOOPS: Final[dict[str, Callable[[Client], object]]] = {
    "token": lambda client: client.collect_token("authorized"),
    "acknowledge": lambda client: client.acknowledge("authorized"),
    "cancel": lambda client: client.cancel("waiting"),
    "step": lambda client: client.step("waiting"),
    "start": lambda client: client.start(OAUTH, name="its key"),
    "another start": lambda client: client.start(OAUTH),
    "wait": lambda client: client.wait_for_token("waiting"),
}


def ignore(place: Place, what: str, table: str) -> None:
    if place.kind == "sqlite":
        raised = "BEGIN SELECT RAISE(IGNORE); END"
        place.ask(f"CREATE TRIGGER ignored BEFORE {what} ON {table} {raised}")
    else:
        place.ask(
            "CREATE FUNCTION deviceflow.ignore() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END'"
        )
        place.ask(
            f"CREATE TRIGGER ignored BEFORE {what} ON {{{table}}} FOR EACH ROW"
            " EXECUTE FUNCTION deviceflow.ignore()"
        )


@pytest.mark.parametrize("use", LOOPS)
@pytest.mark.parametrize(
    ("what", "table"), [("UPDATE", "flows"), ("INSERT", "flows"), ("INSERT", "audit")]
)
def test_database_that_ignores_statements_makes_nobody_try_for_ever(
    database: Place, what: str, table: str, use: str
) -> None:
    kept(database, "authorized", "authorized")
    kept(database, "waiting", "waiting")
    kept(database, "created", "created", "its key")
    ignore(database, what, table)
    database.clock.advance(60)
    driver = database.client(CODE if "start" in use else GRANTED)

    fails = pytest.raises(errors.StoreError, match="ignored a statement")
    adds_no_row = (what, table) == ("INSERT", "flows") and use != "another start"
    with nullcontext() if adds_no_row else fails:
        LOOPS[use](driver)


def test_row_that_is_there_twice_is_not_moved(untyped: Place) -> None:
    kept(untyped, "authorized")
    untyped.ask("CREATE TABLE rows AS SELECT * FROM flows")
    untyped.ask("DROP TABLE flows")
    untyped.ask("CREATE TABLE flows AS SELECT * FROM rows UNION ALL SELECT * FROM rows")

    with pytest.raises(errors.StoreError, match="ignored a statement"):
        untyped.client().collect_token("f1")

    assert get(untyped.store, "f1").handover == "ready"


@pytest.mark.parametrize("junk", ['"0x1"', "null", '[["a"]]', '{"a": 1}', "7", "[5]"])
def test_history_tells_of_a_damaged_event_what_it_can(database: Place, junk: str) -> None:
    kept(database, "waiting")
    ((text,),) = database.ask("SELECT text FROM {audit}")
    edited = text.replace('"scopes":[', f'"scopes":{junk},"before":[')
    assert edited != text
    database.ask("UPDATE {audit} SET text = ?", edited)

    (event,) = database.sql.events("f1")

    assert event["action"] == "issue_code"
    assert all(isinstance(scope, str) for scope in event["scopes"] or ())


def test_nothing_is_pruned_by_an_id_that_is_no_text(database: Place) -> None:
    kept(database, "pending")
    before = database.sql.events("f1")

    database.sql.prune(["\udcff\udcfe"], {"\udcff": 2})

    assert database.sql.events("f1") == before
