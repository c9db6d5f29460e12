"""Open a SQLite file for reading only, with and without permission to write.

A database in WAL mode needs the files `-wal` and `-shm` even for reading. How it is opened depends
on the user's permissions:

1. With permission to write the file and its directory, it is opened as by a writer.
2. Otherwise, the two files are used if they exist.
3. If they do not exist, no other process has the file open, and it is read without locks.
   Afterwards, the file's modification time shows whether somebody has written to it meanwhile.

No files are created that the store's owner could not write.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from deviceflow._files import may_write
from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def reading(path: Path, timeout: float) -> Iterator[sqlite3.Connection]:
    """Open a snapshot of a file for reading only, for the duration of the `with` block.

    Args:
        path: The file.
        timeout: Seconds to wait for locks.

    Raises:
        StoreError: The user has no permission, or the file was written while it was read without
            locks.
        sqlite3.Error: The file cannot be read for another reason.
        OSError: The file does not exist.
    """
    before = _stamp(path)
    how, connection = _begun(path, timeout)
    try:
        yield connection
    finally:
        connection.close()
        # This error replaces any error that a partly written page caused.
        if how == _WITHOUT_LOCKS and _stamp(path) != before:
            raise StoreError(
                f"{path} was written while it was being read.",
                hint="Try again, or read a copy of the file. This user has no permission to create"
                " files in its directory, so the file is read without locks.",
            )


def _begun(path: Path, timeout: float) -> tuple[str, sqlite3.Connection]:
    """Return how a file was opened, and a connection with an open read transaction."""
    while True:
        how = _how(path)
        connection = sqlite3.connect(
            f"{path.as_uri()}?{how}",
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except BaseException as stop:
            connection.close()
            # The last writer may have just closed the file and removed `-wal` and `-shm`.
            if not isinstance(stop, sqlite3.OperationalError) or _how(path) == how:
                raise
        else:
            return how, connection


_WITHOUT_LOCKS: Final = "mode=ro&immutable=1"


def _how(path: Path) -> str:
    if may_write(path):
        return "mode=rw"
    wal, shm = (path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm"))
    if wal.exists() and shm.exists():
        return "mode=ro"
    if wal.exists() and wal.stat().st_size:
        raise StoreError(
            f"{path} cannot be read: the file {shm.name} for {wal.name} is missing, and this user"
            " has no permission to create it.",
            hint="Let a user with permission to write open the store once, or copy the database and"
            f" {wal.name} to a directory of your own.",
        )
    return _WITHOUT_LOCKS


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
