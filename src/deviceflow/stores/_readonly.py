"""Opening a SQLite file to read it, by a user who may write it and by one who may not.

A database in WAL mode needs two files beside it, `-wal` and `-shm`, even to be read. So it depends
on the user's rights how it is opened:

1. Who may write the file and its directory opens it as a writer does, and writes nothing.
2. Who may not uses the two files, where a writer has left them or has them open.
3. Where they are not there, nobody else has the file open, and it is read without locks. Whoever
   does that must see afterwards that nobody has written to it meanwhile.

No files are made that the store's owner could not write.
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
    """Open a file as it is now, for reading only, for as long as the `with` block.

    Args:
        path: The file.
        timeout: Seconds to wait for others.

    Raises:
        StoreError: The user's rights do not suffice, or the file was written while it was read
            without locks.
        sqlite3.Error: It cannot be read for another reason.
        OSError: It is not there.
    """
    before = _stamp(path)
    how, connection = _begun(path, timeout)
    try:
        yield connection
    finally:
        connection.close()
        # Raised in place of whatever a half-written page has led to.
        if how == _WITHOUT_LOCKS and _stamp(path) != before:
            raise StoreError(
                f"{path} was written while it was being read.",
                hint="Try again. This user may not make files beside it, so it is read without"
                " locks; a copy in a directory of the user's own needs none.",
            )


def _begun(path: Path, timeout: float) -> tuple[str, sqlite3.Connection]:
    """Return how a file was opened, and a connection with a transaction that has read already."""
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
            # The last writer may have closed the file just now, and removed the files beside it.
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
            f"{path} cannot be read: the file {wal.name} belongs to it, {shm.name} is gone, and"
            " this user may not make it.",
            hint="Have somebody open the store once who may write it, or copy both files into a"
            " directory of your own.",
        )
    return _WITHOUT_LOCKS


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
