"""A store in a SQLite file, for the tasks of one event loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deviceflow.core.secret import wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.stores._option import option_of_file
from deviceflow.stores._sqlite import check_synchronous, make_private
from deviceflow.stores._sqlite_thread import GroupingConnection, SQLiteThread
from deviceflow.stores.sql.store import AsyncSQLStore

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.secret import Secret


class AsyncSQLiteStore(AsyncSQLStore):
    """A store in a SQLite file, as `SQLiteStore`, for the tasks of one event loop.

    A thread performs the operations. Operations that many tasks request at the same time share one
    transaction, and so one sync of the disk. Each operation returns after the commit.

    Args:
        path: As for `SQLiteStore`, like the rest.
        keys: As for `SQLiteStore`.
        plaintext: As for `SQLiteStore`.
        read_only: As for `SQLiteStore`.
        synchronous: As for `SQLiteStore`.
        trail: As for `SQLiteStore`.

    Raises:
        StoreError: As for `SQLiteStore`, when the store is first used.
        SealError: Likewise.
        ImportError: Likewise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keys: Iterable[Secret | str] | None = None,
        plaintext: bool = False,
        read_only: bool = False,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        trail: TrailMode | None = None,
    ) -> None:
        passed = keys = None if keys is None else wrapped(keys)
        self.path: Path = Path(path).absolute()
        self._option = option_of_file(self.path)
        check_synchronous(synchronous)
        connection = GroupingConnection(self.path, read_only=read_only, synchronous=synchronous)
        super().__init__(
            SQLiteThread(connection, read_only=read_only),
            lambda sealed: key_files.sealer(
                passed,
                plaintext=plaintext,
                store=self.path,
                known=sealed,
                read_only=read_only,
            ),
            read_only=read_only,
            trail=trail,
            name=f"AsyncSQLiteStore {self.path}",
        )

    def _open_blocking(self) -> None:
        if not self._read_only:
            make_private(self.path, lambda: self._find_sealer(None))
        super()._open_blocking()
