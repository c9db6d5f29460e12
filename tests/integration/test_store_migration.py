"""A store that an earlier version of the schema has: it is opened, and everything is there."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow.core.grant import Grant
from deviceflow.core.secret import Secret
from deviceflow.stores._postgres_dialect import DIALECT as POSTGRES
from deviceflow.stores._sqlite import DIALECT as SQLITE
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sql.statements import Statements
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail.verify import Verification
from tests.integration import places, test_store_grants
from tests.integration.places import GRANTED, commit
from tests.stored import flows as all_flows
from tests.stored import get, load_grant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.stores.sql import SQLStore

WRITTEN: Final = json.loads((Path(__file__).parent / "data/store_1.json").read_text())
"""A store of version 1 of the schema: its rows, what seals them, and what is in them."""


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLStore]:
    """Give a store that was of version 1."""
    keys = [Secret(WRITTEN["key"])]
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        path.touch(0o600)
        with sqlite3.connect(path) as file:
            _fill(file, Statements(SQLITE), "?")
        file.close()
        with SQLiteStore(path, keys=keys) as opened:
            yield opened
        return
    url = request.getfixturevalue("postgres_server").database()
    with psycopg.connect(url) as connection:
        _fill(connection, Statements(POSTGRES), "%s")
    with PostgresStore(url, keys=keys) as opened:
        yield opened


def _fill(database: Any, statements: Statements, mark: str) -> None:
    for name in [*statements.before_migrating, "create_meta", *statements.migration(0)]:
        database.execute(statements[name].text)
    for table, rows in WRITTEN["tables"].items():
        for row in rows:
            names = ", ".join(f'"{name}"' for name in row)
            marks = ", ".join([mark] * len(row))
            statement = f"INSERT INTO {statements.table(table)} ({names}) VALUES ({marks})"
            database.execute(statement, [*row.values()])


def test_everything_is_there(store: SQLStore) -> None:
    expected = WRITTEN["expected"]

    flows = {flow.id: places.everything(get(store, flow.id)) for flow in all_flows(store)}
    grants = {name: stored_grant(store, name) for name in expected["grants"]}

    assert flows == expected["flows"]
    assert grants == expected["grants"]
    assert sum(1 for _ in store.page(Grant, WRITTEN["now"]).found) == len(grants)


def stored_grant(store: SQLStore, name: str) -> str:
    stored = load_grant(store, name, WRITTEN["now"])
    assert stored is not None
    return test_store_grants.everything(stored.record)


def test_logins_and_grants_go_on_and_their_trail_verifies(store: SQLStore) -> None:
    flow = get(store, "f0")
    assert commit(store, flow, flow.poll(WRITTEN["now"] + 10, 10.0))
    assert commit(store, flow, flow.receive(GRANTED, WRITTEN["now"] + 11))
    stored = load_grant(store, "grant-1", WRITTEN["now"])
    assert stored is not None
    moved = stored.record.refresh(WRITTEN["now"] + 900)
    assert store.commit(stored.record, test_store_grants.event_of(stored.record, moved))

    with store.snapshot() as snapshot:
        found = [*Verification(*snapshot).findings()]

    assert found == []
    assert get(store, "f0").token is not None
