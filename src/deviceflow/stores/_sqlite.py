"""Perform operations on a SQLite file, which threads and processes may share."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import sys
import threading
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from deviceflow import _forks as forks
from deviceflow._files import EFFECTIVE, written_whole
from deviceflow.errors import StoreError
from deviceflow.stores import _readonly as readonly
from deviceflow.stores.sql.connection import NO_VALUES, Result, Transaction
from deviceflow.stores.sql.statements import Dialect, Statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from deviceflow.stores.sql.connection import Mode, Query, Work

_T = TypeVar("_T")

BUSY: Final = 10.0
"""Seconds to wait for another process that is writing."""

DIALECT: Final = Dialect(
    placeholder="?",
    now=":now",
    has_meta="SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'",
    find="instr",
    overwrite_deleted="wal_checkpoint",
)


class SQLiteConnection:
    """Does work in transactions on a SQLite file. None of its methods suspends.

    Args:
        path: The file.
        read_only: Whether to write nothing, neither to the file nor beside it.
        synchronous: As for `SQLiteStore`.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool,
        synchronous: Literal["FULL", "NORMAL"],
    ) -> None:
        self.path = path
        self._file = os.fspath(path)
        self.statements = Statements(DIALECT)
        self._read_only = read_only
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)
        forks.around(self._closed)
        forks.in_child(self._renew)

    async def close(self) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def in_turn(self, record_id: str) -> AbstractAsyncContextManager[object]:  # noqa: ARG002
        """Let all go on: the file's lock has them wait."""
        return nullcontext()

    async def run(self, work: Work[_T], mode: Mode, client_now: float) -> _T:
        """Do work in a transaction, as `Connection.run` says."""
        try:
            with self._lock:
                return await self._run(work, mode, client_now)
        except (sqlite3.Error, OSError) as error:
            problem = self._failed(error)
        raise problem

    def _failed(self, error: sqlite3.Error | OSError) -> StoreError:
        """Return the error, and close the file if it may be of no use any more."""
        passing = ("SQLITE_FULL", "SQLITE_BUSY")
        if isinstance(error, sqlite3.Error) and not name_of(error).startswith(passing):
            self._close()  # a file that was opened for reading only stays so, for example
        return self._problem(error)

    async def _run(self, work: Work[_T], mode: Mode, now: float) -> _T:
        if self._read_only:
            with self._opened() as connection:
                return await work(self._transaction(connection, now))
        connection = self.connected(look=mode != "lease")
        try:
            return await self._in_mode(connection, work, mode, now)
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
        # A value is not valid UTF-8. The other values must stay readable.
        connection.text_factory = _any_text
        return await self._in_mode(connection, work, mode, now)

    async def _in_mode(
        self, connection: sqlite3.Connection, work: Work[_T], mode: Mode, now: float
    ) -> _T:
        transaction = self._transaction(connection, now)
        if mode in ("open", "read"):
            return await work(transaction)
        # Losing a lease in a power cut does no harm: its owner is gone too.
        synchronous = {"lease": "NORMAL", "durable": "FULL"}.get(mode, self._synchronous)
        with self._synchronously(connection, synchronous):
            if mode == "lease":
                return await work(transaction)
            with in_transaction(connection):
                return await work(transaction)

    def _transaction(self, connection: sqlite3.Connection, now: float) -> Transaction:
        run = connection.cursor().execute

        async def execute(text: str, values: tuple[Any, ...]) -> Result:
            cursor = run(text, values)
            return Result(cursor.fetchall(), cursor.rowcount)

        return Transaction(execute, self.statements, now)

    @contextmanager
    def _synchronously(self, connection: sqlite3.Connection, synchronous: str) -> Iterator[None]:
        """Set how well committed data must survive a power cut, for the `with` block."""
        if synchronous == self._synchronous:
            yield
            return
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    @contextmanager
    def reading(self) -> Iterator[Query]:
        """Yield a function that returns the rows of a query, from one snapshot."""
        # A separate connection with a read transaction, which does not block writers.
        problem = None
        try:
            if not self._read_only:
                with self._lock:
                    self.connected()  # checks that the file exists and is private
            with self._opened() as connection:

                def rows(name: str, values: Mapping[str, Any] = NO_VALUES) -> Iterator[Any]:
                    text, values_of = self.statements[name]
                    bound, done = values_of(values), 0
                    try:
                        for row in connection.execute(text, bound):
                            yield row
                            done += 1
                    except sqlite3.OperationalError as error:
                        if "decode" not in str(error):
                            raise
                        # A value is not valid UTF-8. The other rows must stay readable.
                        connection.text_factory = _any_text
                        yield from islice(connection.execute(text, bound), done, None)

                yield rows
        except (sqlite3.Error, OSError) as error:
            problem = self._problem(error)
        if problem is not None:
            raise problem

    @contextmanager
    def _closed(self) -> Iterator[None]:
        """Keep the file closed during a fork.

        SQLite keeps the state of its file locks in memory. A child that inherits a held lock could
        never write, or would not notice that another process locks the file.
        """
        with self._lock:
            if self._connection is not None and not self._connection.in_transaction:
                self._close()
            yield

    def _renew(self) -> None:
        # Still open if a signal handler forked during a transaction.
        forks.abandon(self._connection)
        self._lock, self._connection = threading.RLock(), None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection with a read transaction."""
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
        # SQLite keeps writing to a file that was removed, and those writes are lost.
        found = os.stat(self._file)  # noqa: PTH116  # a path object costs, at each poll
        check_private(self.path, found.st_mode)
        if self._connection is None or self._inode != (found.st_dev, found.st_ino):
            self._close()
            self._connection = self._connect()
            self._inode = (found.st_dev, found.st_ino)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if not os.access(self.path, os.R_OK | os.W_OK, effective_ids=EFFECTIVE):
            # SQLite would leave files beside it that nobody could write.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        connection = sqlite3.connect(
            self.path, timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        try:
            until = time.monotonic() + BUSY
            while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                # For this one change SQLite does not wait while others have the file open.
                try:
                    connection.execute("PRAGMA journal_mode = WAL")
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
                        raise
                    time.sleep(0.01)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            if sys.platform == "darwin":  # where a sync leaves the data in the disk's cache
                connection.execute("PRAGMA fullfsync = ON")
            # Overwrite deleted content; the statement `wal_checkpoint` does so in the log.
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
        name = name_of(error)
        for start, (what, hint) in _PROBLEMS.items():
            if name.startswith(start):
                return StoreError(f"{self.path}: {what}.", hint=hint)
        return StoreError(f"{self.path}: SQLite error: {error} ({name}).")


@contextmanager
def in_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the `with` block does, or undo it if that raises."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _any_text(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


def name_of(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def make_private(path: Path, check: Callable[[], object]) -> None:
    """Create the file with access for its owner only, or check an existing file.

    Args:
        path: The file.
        check: Looks for what a new store needs besides, before the file is made.

    Raises:
        StoreError: The file cannot be created, or other users have access.
    """
    hint = "Name a file in a writable directory: sqlite:///PATH."
    try:
        if not path.exists():
            if not os.access(path.parent, os.W_OK, effective_ids=EFFECTIVE):
                path.parent.stat()
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            check()
            # Do not open the file here: closing it would release the POSIX locks of all SQLite
            # connections of this process.
            with suppress(FileExistsError), written_whole(path, new=True):
                pass
        mode = path.stat().st_mode
        why = None if stat.S_ISREG(mode) else "it is not a regular file"
    except FileNotFoundError:
        why, hint = f"there is no directory {path.parent}", "Create it, or name another file."
    except OSError as error:
        why = error.strerror
    if why:
        raise StoreError(f"{path} cannot be used as a store: {why}.", hint=hint)
    check_private(path, mode)


def check_synchronous(synchronous: str) -> None:
    """Check the argument `synchronous` of a store.

    Raises:
        StoreError: It is neither `FULL` nor `NORMAL`.
    """
    if synchronous not in ("FULL", "NORMAL"):
        raise StoreError(f"synchronous must be FULL or NORMAL, not {synchronous!r}.")


def check_private(path: Path, mode: int) -> None:
    """Check that only the owner has access to a store's file.

    Raises:
        StoreError: Other users may read or write it.
    """
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreError(
            f"Other users have access to the store {path}.",
            hint=f"Fix it with: chmod 600 {path}",
        )


_HINT_GONE: Final = "The store's file is missing: restore it. Its logins then continue."
_PROBLEMS: Final = {
    "SQLITE_FULL": ("the disk is full", "Free space on the disk. No stored data is lost."),
    "SQLITE_READONLY": (
        "the file or its directory is not writable",
        "Make the file and its directory writable, or set DEVICEFLOW_STORE to another file.",
    ),
    "SQLITE_CANTOPEN": (
        "the file, or its -wal or -shm file, cannot be opened",
        "Check the permissions of the file and of its directory.",
    ),
    "SQLITE_NOTADB": ("the file is not a SQLite database", "Set DEVICEFLOW_STORE to another file."),
    "SQLITE_CORRUPT": (
        "the database is damaged",
        "Restore it from a backup, or move it away to start with a new one. Nothing was changed.",
    ),
    "SQLITE_BUSY": (
        f"another process has locked the database for {BUSY:g} seconds",
        "Try again. If the error stays, find the process that has the file open.",
    ),
    "SQLITE_IOERR": ("the disk reported an I/O error", "Check the disk, and try again."),
}
