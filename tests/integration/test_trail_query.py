"""Reading a trail from a store: who is meant, in which order, and with how little memory."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow.audit.chain import STORED
from deviceflow.audit.events import FIELDS
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.encryption import generate_key
from deviceflow.core.ports import StoreEvent
from deviceflow.errors import UnknownLoginError
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.stores.url import sqlite_file
from deviceflow.trail import query
from deviceflow.trail.query import Filters
from tests.logins import ALICE, BEGIN, BOB, ROBOT, Scribe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.stores.sql import SQLStore

COPIES: Final = 4000


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLStore]:
    if request.param == "sqlite":
        with SQLiteStore(tmp_path / "t.db", keys=[generate_key()], synchronous="NORMAL") as sqlite:
            yield sqlite
    else:
        url = request.getfixturevalue("postgres_url")
        with PostgresStore(url, keys=[generate_key()]) as postgres:
            yield postgres


def found(
    store: SQLStore, filters: Filters = query.ALL, *, oldest_first: bool = False
) -> list[str]:
    with query.logins(store, filters, oldest_first=oldest_first) as logins:
        return [login.id for login in logins]


def test_logins_come_in_the_order_of_their_beginning(store: SQLStore) -> None:
    scribe = Scribe(store)
    # The ids' order is another one, and there are more than are read at a time.
    made = [
        scribe.login("code", at=BEGIN + number, flow_id=f"id{number * 37 % 101:03}")
        for number in range(101)
    ]

    assert found(store, oldest_first=True) == made
    assert found(store) == made[::-1]


def test_a_moment_on_the_edge(store: SQLStore) -> None:
    login = Scribe(store).login("code")
    begun = query.one(store, login).started

    assert found(store, Filters(since=begun)) == [login]
    assert found(store, Filters(since=begun + 0.001)) == []
    assert found(store, Filters(until=begun)) == []
    assert found(store, Filters(until=begun + 0.001)) == [login]


def test_what_a_login_was_once_is_not_what_it_is(store: SQLStore) -> None:
    login = Scribe(store).login("code", "lost", "expire", "late")

    assert found(store, Filters(state="authorized")) == [login]
    for state in ("init", "awaiting-user", "polling", "failed"):
        assert found(store, Filters(state=state)) == []
    assert found(store, Filters(reason="outcome_unknown")) == []


def test_who_is_meant(store: SQLStore) -> None:
    scribe = Scribe(store)
    one = scribe.login("code", "denied")
    two = scribe.login("code", "cancel", at=BEGIN + 9, provider=ROBOT, origin=BOB)

    assert found(store, Filters(client="robot", actor="bob", reason="cancelled")) == [two]
    assert found(store, Filters(client="nightly", actor="bob")) == []
    assert found(store, Filters(client="' OR 1=1 --")) == []
    assert found(store, Filters(actor="%")) == []
    assert found(store, Filters(state="failed")) == [two, one]


def test_what_is_in_no_login(store: SQLStore) -> None:
    store.append(StoreEvent(PLAIN_HTTP, BEGIN, "f1 at http://x.example", ALICE))
    login = Scribe(store).login("code")

    noted = query.notes(store)
    assert [note["detail"] for note in noted] == ["f1 at http://x.example"]
    assert query.one(store, "store").events == noted
    assert found(store) == [login]
    at = query.one(store, "store").started
    assert query.notes(store, Filters(since=at + 1)) == []
    assert query.notes(store, Filters(since=at, until=at + 1)) == noted
    assert query.count(store) == 2


def test_an_event_is_as_it_was_logged(store: SQLStore) -> None:
    login = query.one(store, Scribe(store).login("code", "pending", "token", provider=ROBOT))

    assert login.events == store.events(login.id)
    assert list(login.events[0]) == list(FIELDS)


def test_a_login_that_is_not_there(store: SQLStore) -> None:
    with pytest.raises(UnknownLoginError):
        query.one(store, "nobody")


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    keys = [generate_key()]
    with SQLiteStore(path, keys=keys, synchronous="NORMAL", trail="each") as store:
        Scribe(store).login("code", "pending", "pending", "token")
        with closing(sqlite3.connect(path)) as database, database:
            names = ", ".join(f'"{name}"' for name in STORED)
            values = names.replace('"flow_id"', "printf('copy%08d', n)")
            database.execute(
                f"""
                WITH RECURSIVE copies(n) AS
                    (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {COPIES})
                INSERT INTO audit ({names}) SELECT {values} FROM audit, copies
                """
            )
        database.close()

        tracemalloc.start()
        with query.logins(store) as logins:
            events = sum(len(login.events) for login in logins)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert events == 7 * (COPIES + 1)
    assert peak < 3_000_000


def test_two_read_while_a_third_writes(store: SQLStore) -> None:
    scribe = Scribe(store)
    made = [scribe.login("code", at=BEGIN + number) for number in range(120)]

    with query.logins(store) as first, query.logins(store) as second:
        seen = [next(first).id, next(second).id]
        scribe.login("code", "token", at=BEGIN + 1000)
        seen += [login.id for login in first] + [login.id for login in second]

    assert sorted(seen) == sorted(made * 2)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b%20c.db", "/a/b c.db"),
        ("sqlite:///", None),
        ("memory:", None),
        ("postgresql://db.example/x", None),
    ],
)
def test_the_file_of_a_store_is_known_before_it_is_opened(url: str, path: str | None) -> None:
    assert (None if path is None else str(sqlite_file(url))) == path
    if path is None:
        assert sqlite_file(url) is None


def test_the_file_is_the_users_own_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("DEVICEFLOW_STORE", raising=False)
    assert sqlite_file() == tmp_path / "deviceflow" / "flows.db"
    monkeypatch.setenv("DEVICEFLOW_STORE", "sqlite:///other.db")
    assert str(sqlite_file()) == "other.db"
