"""A store whose creation is cut off, at each statement: the next open completes it."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import Client
from deviceflow.core.encryption import generate_key
from deviceflow.errors import StoreError
from deviceflow.stores import _sqlite as sqlite
from deviceflow.stores._pgpool import BoundedConnection
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport
from deviceflow.trail.verify import Verification
from tests.integration.places import CODE, OAUTH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.stores.sql import SQLStore

KILLED: Final = 9
MOST: Final = 200


def works(store: SQLStore) -> None:
    """Use a store, and see that its trail accuses nobody."""
    Client(store, transport=ScriptedTransport([CODE])).start(OAUTH)
    with store.snapshot() as snapshot:
        assert not list(Verification(*snapshot).findings())


def dies_at(number: int, create: Callable[[], object]) -> bool:
    """Create in a process that dies before so many statements and files; tell whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    left = number

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(KILLED)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            count()
            return function(*args, **options)

        return call

    class Counted(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.set_trace_callback(count)

    try:
        for name in ("fsync", "link", "replace", "unlink"):
            setattr(os, name, counted(getattr(os, name)))
        connect = sqlite3.connect
        sqlite.sqlite3.connect = lambda *args, **how: connect(*args, factory=Counted, **how)  # type: ignore[attr-defined]
        create()
        os._exit(0)
    except BaseException:  # noqa: BLE001  # the child must not go on with the tests
        os._exit(1)


def reads(path: Path) -> None:
    """Read a store that may be there or not. Nobody is accused of having removed anything."""
    said = ""
    try:
        SQLiteStore(path, read_only=True).close()
    except StoreError as problem:
        said = str(problem)
    assert "somebody" not in said


def test_a_file_whose_creation_was_cut_off_is_completed(tmp_path: Path) -> None:
    for number in range(MOST):
        path = tmp_path / str(number) / "flows.db"
        path.parent.mkdir()
        died = dies_at(number, partial(SQLiteStore, path))
        reads(path)
        with SQLiteStore(path) as store:
            works(store)
        if not died:
            break
    assert 20 < number < MOST - 1


def test_a_database_whose_creation_was_cut_off_is_completed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, key, left = BoundedConnection.execute, [generate_key()], [MOST]

    def cut_off(self: BoundedConnection, *statement: Any, **how: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            self.close()
        return execute(self, *statement, **how)

    monkeypatch.setattr(BoundedConnection, "execute", cut_off)
    for number in range(MOST):
        left[0] = number
        with suppress(StoreError):
            PostgresStore(postgres_url, keys=key).close()
        died, left[0] = left[0] < 0, MOST
        with PostgresStore(postgres_url, keys=key) as store:
            works(store)
        with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
            connection.execute("DROP SCHEMA deviceflow CASCADE")
        if not died:
            break
    assert 15 < number < MOST - 1


@pytest.mark.parametrize("missing", ["extra", "key", "permission"])
def test_what_is_missing_is_said_before_a_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    kind: type[Exception] = StoreError
    if missing == "extra":
        kind = ImportError
        monkeypatch.setitem(sys.modules, "cryptography", None)
    elif missing == "key":
        monkeypatch.setenv("DEVICEFLOW_KEYS", "this is no key")
    else:
        monkeypatch.setattr(os, "access", lambda *_, **__: False)

    with pytest.raises(kind):
        SQLiteStore(place / "flows.db")

    assert not list(place.iterdir())
