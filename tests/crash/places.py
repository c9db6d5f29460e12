"""Where the flows are kept: a SQLite file, or a PostgreSQL database by the shared clock."""

from __future__ import annotations

import contextlib
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import psycopg

from deviceflow.core.encryption import generate_key
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from tests.crash.clock import SharedClock, set_database_clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from deviceflow.stores.sql import SQLStore
    from tests.postgres import PostgresServer

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one

Kind = Literal["sqlite", "postgresql"]
KINDS: Final[tuple[Kind, ...]] = ("sqlite", "postgresql")


class Place(Protocol):
    """A store that any number of processes open, and what is to be known of it besides.

    Attributes:
        url: The store's URL.
        keys: Its keys, where it does not keep them itself.
    """

    url: str
    keys: list[str] | None

    def open(self) -> AbstractContextManager[SQLStore]:
        """Open it in this process."""

    def settle(self) -> None:
        """Wait until whatever dead processes had asked of it is done."""

    def files(self) -> Iterator[Path]:
        """Return the files that it is in."""

    def close(self) -> None:
        """Drop it."""


class SQLitePlace:
    """A file of its own, with its key beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._path = folder / "flows.db"
        self.url = f"sqlite:///{self._path}"
        self.keys: list[str] | None = None

    def open(self) -> SQLiteStore:
        return SQLiteStore(self._path)

    def settle(self) -> None:
        """Do nothing: with its process ended each of its locks."""

    def files(self) -> Iterator[Path]:
        yield from self._folder.iterdir()

    def close(self) -> None:
        """Leave the file to whoever drops the folder."""


class PostgresPlace:
    """A database of its own."""

    def __init__(self, server: PostgresServer, clock: SharedClock) -> None:
        self._server = server
        self._bare_url = server.database()
        self.url = set_database_clock(self._bare_url, clock)
        self.keys: list[str] | None = [generate_key().reveal()]

    def open(self) -> PostgresStore:
        return PostgresStore(self.url, keys=self.keys, pool_size=1)

    def settle(self) -> None:
        # A statement that has arrived is carried out, whatever has become of who sent it.
        until = time.monotonic() + PATIENCE
        with psycopg.connect(self._bare_url, autocommit=True) as connection:
            while connection.execute(_OTHERS).fetchone() != (0,):
                assert time.monotonic() < until, "a session of a dead process stays"
                time.sleep(0.0005)

    def files(self) -> Iterator[Path]:
        with psycopg.connect(self._bare_url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            found: Any = connection.execute(
                "SELECT oid FROM pg_database WHERE datname = current_database()"
            ).fetchone()
        yield from (self._server.folder / "data/base" / str(found[0])).iterdir()
        yield from (self._server.folder / "data/pg_wal").glob("[0-9A-F]*")
        yield self._server.folder / "log"

    def close(self) -> None:
        self._server.drop(self._bare_url)


@contextmanager
def time_and_place(
    folder: Path, postgres: PostgresServer | None, pace: int = 1
) -> Iterator[tuple[SharedClock, Place]]:
    """Make a clock, and a place that goes by it, for some time.

    Args:
        folder: An empty folder.
        postgres: The server for a database; None for a SQLite file.
        pace: How many seconds by the clock pass in a real one.
    """
    with clock_for(folder, postgres, pace) as clock:
        place: Place
        place = PostgresPlace(postgres, clock) if postgres else SQLitePlace(folder / "store")
        with contextlib.closing(place):
            yield clock, place


@contextmanager
def clock_for(
    folder: Path, postgres: PostgresServer | None, pace: int = 1
) -> Iterator[SharedClock]:
    """Make a clock where a database that is somebody else's process can read it."""
    home = postgres.folder if postgres else folder
    path = home / f"clock-{secrets.token_hex(4)}"
    with contextlib.closing(SharedClock.make(path, pace=pace)) as clock:
        yield clock
    path.unlink()


_OTHERS: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
        AND pid <> pg_backend_pid()
"""
