"""Flows in a SQLite file: for the programs and jobs of one machine."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
import time
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from deviceflow import _forks as forks
from deviceflow._files import EFFECTIVE, written_whole
from deviceflow.core.secret import wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.errors import StoreError
from deviceflow.stores import _readonly as readonly
from deviceflow.stores.sql import SQLStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from deviceflow.core.secret import Secret
    from deviceflow.stores.sql import Execute, Mode, Query

_T = TypeVar("_T")

BUSY: Final = 10.0
"""Seconds to wait for another process that is writing."""


class SQLiteStore(SQLStore):
    """Keeps flows in a file, which any number of processes of this machine may share.

    The file is its owner's alone (0600). It is in WAL mode, so two more lie beside it while it is
    open; it does not belong on a network drive.

    Args:
        path: The file; it is made if it is not there.
        keys: Fernet keys that seal its secrets, the first one, and open them, each. Where none are
            given, those of `DEVICEFLOW_KEYS`, else those of the file `PATH.key` beside it, which
            is made (0600) with the store.
        plaintext: Keep secrets in clear instead.
        read_only: Write nothing: neither to the file, nor a key beside it. The user need not be
            able to write the file. No key is needed; without one no secret can be read, and no
            row's MAC checked.
        synchronous: `FULL`: what is committed survives a power cut. `NORMAL` is several times
            faster, and after a power cut a token that came last may be missing.

    Raises:
        StoreError: The file cannot be used; the error says why, and what to do.
        SealError: The key is not the one of this file.
        ImportError: `cryptography` is missing (extra `seal`).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keys: Iterable[Secret | str] | None = None,
        plaintext: bool = False,
        read_only: bool = False,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
    ) -> None:
        super().__init__(
            now=":now",
            has_meta="SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'",
            clustered=" WITHOUT ROWID",
        )
        self.path = Path(path).absolute()
        if synchronous not in ("FULL", "NORMAL"):
            raise StoreError(f"synchronous is FULL or NORMAL, and not {synchronous!r}.")
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)
        forks.around(self._closed)
        forks.in_child(self._renew)
        passed = keys = None if keys is None else wrapped(keys)
        self._start(
            lambda: key_files.sealer(
                passed,
                plaintext=plaintext,
                store=self.path,
                known=self._sealing(),
                read_only=read_only,
            ),
            read_only=read_only,
        )

    def __repr__(self) -> str:
        return f"<SQLiteStore {self.path}>"

    def close(self) -> None:
        """Close the file. It is opened again where it is needed again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _migrate_if_needed(self) -> None:
        if not self._read_only:
            _make_private(self.path)
        if not self._transact(self._is_current, "read"):
            self._transact(lambda do: self._migrate(do, self._run))

    def _attempt(self, work: Callable[[Execute], _T], mode: Mode) -> _T:
        try:
            with self._lock:
                return self._within(work, mode)
        except sqlite3.Error as error:
            problem = self._problem(error)
            if not _name_of(error).startswith(("SQLITE_FULL", "SQLITE_BUSY")):
                self.close()  # a file that was opened for reading only stays so, for example
        except OSError as error:
            problem = self._problem(error)
        raise problem

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

    def _within(self, work: Callable[[Execute], _T], mode: Mode) -> _T:
        if self._read_only:
            with self._opened() as read:
                return work(lambda name, values: read.execute(self._sql[name], values))
        connection = self._connected(look=mode != "lease")
        try:
            return self._in_mode(connection, work, mode)
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
        # Somebody has put in what is no text, and is not to keep us from reading the rest.
        connection.text_factory = _any_text
        return self._in_mode(connection, work, mode)

    def _in_mode(
        self, connection: sqlite3.Connection, work: Callable[[Execute], _T], mode: Mode
    ) -> _T:
        if mode == "read":
            return work(self._do)
        if mode == "lease":
            return self._without_sync(connection, work)
        try:
            connection.execute("BEGIN IMMEDIATE")
            done = work(self._do)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return done

    def _leave_no_trace(self) -> None:
        self._attempt(lambda _: self._run("PRAGMA wal_checkpoint(TRUNCATE)"), "read")

    def _without_sync(self, connection: sqlite3.Connection, work: Callable[[Execute], _T]) -> _T:
        # A lease that a power cut takes back is one that nobody holds any more.
        if self._synchronous == "NORMAL":
            return work(self._do)
        connection.execute("PRAGMA synchronous = NORMAL")
        try:
            return work(self._do)
        finally:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    @contextmanager
    def reading(self) -> Iterator[Query]:
        # On a connection of its own, which holds on to one moment and keeps nobody from writing.
        problem = None
        try:
            self._transact(lambda _: None, "read")  # it is there, and is ours
            with self._opened() as connection:

                def rows(name: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]:
                    done = 0
                    try:
                        for row in connection.execute(self._sql[name], values or {}):
                            yield row
                            done += 1
                    except sqlite3.OperationalError as error:
                        if "decode" not in str(error):
                            raise
                        # Somebody has put in what is no text, and is not to keep us from reading.
                        connection.text_factory = _any_text
                        again = connection.execute(self._sql[name], values or {})
                        yield from islice(again, done, None)

                yield rows
        except (sqlite3.Error, OSError) as error:
            problem = self._problem(error)
        if problem is not None:
            raise problem

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

    def _do(self, name: str, values: Mapping[str, Any]) -> sqlite3.Cursor:
        assert self._connection is not None  # noqa: S101  # within a transaction
        return self._connection.execute(self._sql[name], values)

    def _run(self, statement: str) -> None:
        assert self._connection is not None  # noqa: S101  # within a transaction
        self._connection.execute(statement)

    def _connected(self, *, look: bool = True) -> sqlite3.Connection:
        if self._connection is not None and not look:
            return self._connection
        # SQLite goes on with a file that was removed, and what it keeps there is lost.
        found = self.path.stat()
        _check_private(self.path, found.st_mode)
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
                    connection.execute("PRAGMA journal_mode = WAL")
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
                        raise
                    time.sleep(0.01)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # What is wiped is overwritten, too; in the write-ahead log by `_leave_no_trace`.
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


def _any_text(text: bytes) -> str:
    return text.decode(errors="backslashreplace")


def _name_of(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _make_private(path: Path) -> None:
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
    _check_private(path, mode)


def _check_private(path: Path, mode: int) -> None:
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
