"""A connection to a SQLite file, which any number of threads and processes may share."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
import time
from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from deviceflow import _forks as forks
from deviceflow._files import EFFECTIVE, written_whole
from deviceflow.errors import StoreError
from deviceflow.stores import _readonly as readonly
from deviceflow.stores.sql.connection import performed
from deviceflow.stores.sql.statements import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deviceflow.stores.sql.connection import Mode, Operation, Query
    from deviceflow.stores.sql.connection import Statements as Attempt
    from deviceflow.stores.sql.statements import Statements

_T = TypeVar("_T")

BUSY: Final = 10.0
"""Seconds to wait for another process that is writing."""

_PAGE_SIZE: Final = 8192

DIALECT: Final = Dialect(
    placeholder="?",
    now=":now",
    has_meta="SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'",
    find="instr",
    clustered=" WITHOUT ROWID",
)


class SQLiteConnection:
    """Performs operations on a SQLite file.

    Args:
        path: The file.
        statements: The statements.
        read_only: Whether to write nothing, neither to the file nor beside it.
        synchronous: As for `SQLiteStore`.
    """

    def __init__(
        self,
        path: Path,
        statements: Statements,
        *,
        read_only: bool,
        synchronous: Literal["FULL", "NORMAL"],
    ) -> None:
        self.path = path
        self._file = os.fspath(path)
        self._statements = statements
        self._read_only = read_only
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)
        forks.around(self._closed)
        forks.in_child(self._renew)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def perform(self, operation: Operation[_T], mode: Mode, client_now: float) -> _T:
        """Perform an operation, as `Connection.perform` says."""
        try:
            with self._lock:
                return self._perform(operation, mode, client_now)
        except sqlite3.Error as error:
            problem = self._problem(error)
            if not _name_of(error).startswith(("SQLITE_FULL", "SQLITE_BUSY")):
                self.close()  # a file that was opened for reading only stays so, for example
        except OSError as error:
            problem = self._problem(error)
        raise problem

    def _perform(self, operation: Operation[_T], mode: Mode, now: float) -> _T:
        if self._read_only:
            with self._opened() as connection:
                return performed(operation(now), connection.execute, self._statements)
        connection = self.connected(look=mode != "lease")
        try:
            return self._in_mode(connection, operation(now), mode)
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
        # Somebody has put in what is no text, and is not to keep us from reading the rest.
        connection.text_factory = _any_text
        return self._in_mode(connection, operation(now), mode)

    def _in_mode(self, connection: sqlite3.Connection, attempt: Attempt[_T], mode: Mode) -> _T:
        if mode in ("open", "read"):
            return performed(attempt, connection.execute, self._statements)
        if mode == "lease":
            return self._without_sync(connection, attempt)
        execute = connection.cursor().execute
        try:
            execute("BEGIN IMMEDIATE")
            done = performed(attempt, execute, self._statements)
            execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return done

    def _without_sync(self, connection: sqlite3.Connection, attempt: Attempt[_T]) -> _T:
        # A lease that a power cut takes back is one that nobody holds any more.
        if self._synchronous == "NORMAL":
            return performed(attempt, connection.execute, self._statements)
        connection.execute("PRAGMA synchronous = NORMAL")
        try:
            return performed(attempt, connection.execute, self._statements)
        finally:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    @contextmanager
    def reading(self) -> Iterator[Query]:
        """Give what yields the rows of a query."""
        # On a connection of its own, which holds on to one moment and keeps nobody from writing.
        problem = None
        try:
            if not self._read_only:
                with self._lock:
                    self.connected()  # it is there, and is ours
            with self._opened() as connection:

                def rows(name: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]:
                    text, values_of = self._statements[name]
                    bound, done = values_of(values or {}), 0
                    try:
                        for row in connection.execute(text, bound):
                            yield row
                            done += 1
                    except sqlite3.OperationalError as error:
                        if "decode" not in str(error):
                            raise
                        # Somebody has put in what is no text, and is not to keep us from reading.
                        connection.text_factory = _any_text
                        yield from islice(connection.execute(text, bound), done, None)

                yield rows
        except (sqlite3.Error, OSError) as error:
            problem = self._problem(error)
        if problem is not None:
            raise problem

    def overwrite_deleted(self) -> None:
        """Empty the write-ahead log, in which the pages are as they were before."""
        self.perform(_checkpoint, "read", 0.0)

    @contextmanager
    def _closed(self) -> Iterator[None]:
        """Keep the file closed, so that a fork copies nothing of it.

        SQLite keeps its locks on a file in the process's memory. A child in which one of them
        counts as held could never write, or would not notice that others take the file from it.
        """
        with self._lock:
            if self._connection is not None and not self._connection.in_transaction:
                self.close()
            yield

    def _renew(self) -> None:
        # Still open where a signal handler has forked in the middle of a transaction.
        forks.abandon(self._connection)
        self._lock, self._connection = threading.RLock(), None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Give a connection with a transaction that writes nothing."""
        if self._read_only:
            with readonly.reading(self.path, BUSY) as connection:
                yield connection
        else:
            with closing(self._connect()) as connection:
                connection.execute("BEGIN")
                yield connection

    def connected(self, *, look: bool = True) -> sqlite3.Connection:
        """Return the connection, opened if need be, to the file that has that name now.

        Args:
            look: Whether to see that it is still the same file.
        """
        if self._connection is not None and not look:
            return self._connection
        # SQLite goes on with a file that was removed, and what it keeps there is lost.
        found = os.stat(self._file)  # noqa: PTH116  # a path object costs, at each poll
        check_private(self.path, found.st_mode)
        if self._connection is None or self._inode != (found.st_dev, found.st_ino):
            self.close()
            self._connection = self._connect()
            self._inode = (found.st_dev, found.st_ino)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if not os.access(self.path, os.R_OK | os.W_OK, effective_ids=EFFECTIVE):
            # SQLite would leave files beside it that cannot be written either, for good.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        connection = sqlite3.connect(
            self.path, timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        try:
            until = time.monotonic() + BUSY
            while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                # For this one change SQLite does not wait while others have the file open.
                try:
                    # Of a file that is new. On a page of 4096 bytes an event would take two.
                    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
                    connection.execute("PRAGMA journal_mode = WAL")
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
                        raise
                    time.sleep(0.01)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # What is wiped is overwritten, too; in the write-ahead log by `overwrite_deleted`.
            connection.execute("PRAGMA secure_delete = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _problem(self, error: sqlite3.Error | OSError) -> StoreError:
        if isinstance(error, FileNotFoundError):
            return StoreError(f"{self.path}: {error.strerror}.", hint=_HINT_GONE)
        if isinstance(error, OSError):
            _, hint = _PROBLEMS["SQLITE_READONLY"]
            return StoreError(f"{self.path} cannot be used: {error.strerror}.", hint=hint)
        name = _name_of(error)
        for start, (what, hint) in _PROBLEMS.items():
            if name.startswith(start):
                return StoreError(f"{self.path}: {what}.", hint=hint)
        return StoreError(f"{self.path}: SQLite says: {error} ({name}).")


def _checkpoint(_now: float) -> Attempt[None]:
    yield "wal_checkpoint", {}


def _any_text(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


def _name_of(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def make_private(path: Path) -> None:
    """Make the file, its owner's alone, or see that it is.

    Raises:
        StoreError: It cannot be made, or others can read it.
    """
    try:
        if not path.exists():
            # It is not opened here: closing it would drop the locks that others in this process
            # have on it, and SQLite would take it for a file that nobody has open.
            with suppress(FileExistsError), written_whole(path, new=True):
                pass
        mode = path.stat().st_mode
        why = None if stat.S_ISREG(mode) else "it is no file"
    except OSError as error:
        why = error.strerror
    if why:
        raise StoreError(
            f"{path} cannot be used as a store: {why}.",
            hint="Name a file in a directory that can be written: DEVICEFLOW_STORE=sqlite:///PATH.",
        )
    check_private(path, mode)


def check_private(path: Path, mode: int) -> None:
    """See that a store's file is its owner's alone.

    Raises:
        StoreError: Others may read or write it.
    """
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreError(
            f"{path} can be read by others, and logins are kept in it.",
            hint=f"Fix it with: chmod 600 {path}",
        )


_HINT_GONE: Final = "The file was there before: put it back. The login goes on from it."
_PROBLEMS: Final = {
    "SQLITE_FULL": ("the disk is full", "Make room; nothing that was kept is lost."),
    "SQLITE_READONLY": (
        "the file, or its directory, cannot be written",
        "Make both writable for this user, or name another file by DEVICEFLOW_STORE.",
    ),
    "SQLITE_CANTOPEN": (
        "the file, or those beside it, cannot be opened",
        "Look at the rights of the file and of its directory.",
    ),
    "SQLITE_NOTADB": ("this is no SQLite database", "Name another file by DEVICEFLOW_STORE."),
    "SQLITE_CORRUPT": (
        "the database is damaged",
        "Restore it from a backup, or move it away and start anew. Nothing was changed.",
    ),
    "SQLITE_BUSY": (
        f"another process has kept it locked for {BUSY:g} seconds",
        "Try again; if that does not help, see which process has it open.",
    ),
    "SQLITE_IOERR": ("the disk could not be read or written", "Look at the disk, and try again."),
}
