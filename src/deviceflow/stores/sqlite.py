"""Flows in a SQLite file: for the programs and jobs of one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deviceflow.core.secret import wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.errors import StoreError
from deviceflow.stores._sqlite import DIALECT, SQLiteConnection, make_private
from deviceflow.stores.sql.statements import Statements
from deviceflow.stores.sql.store import SQLStore

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from deviceflow.core.secret import Secret


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

    _connection: SQLiteConnection

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keys: Iterable[Secret | str] | None = None,
        plaintext: bool = False,
        read_only: bool = False,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
    ) -> None:
        passed = keys = None if keys is None else wrapped(keys)
        self.path = Path(path).absolute()
        if synchronous not in ("FULL", "NORMAL"):
            raise StoreError(f"synchronous is FULL or NORMAL, and not {synchronous!r}.")
        if not read_only:
            make_private(self.path)
        statements = Statements(DIALECT)
        super().__init__(
            SQLiteConnection(self.path, statements, read_only=read_only, synchronous=synchronous),
            DIALECT,
            statements,
            lambda sealed: key_files.sealer(
                passed,
                plaintext=plaintext,
                store=self.path,
                known=sealed,
                read_only=read_only,
            ),
            read_only=read_only,
        )

    def __repr__(self) -> str:
        return f"<SQLiteStore {self.path}>"
