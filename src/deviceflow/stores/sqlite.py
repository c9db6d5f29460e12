"""A store in a SQLite file, for programs and jobs on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deviceflow.core.secret import wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.stores._option import option_of_file
from deviceflow.stores._sqlite import SQLiteConnection, check_synchronous, make_private
from deviceflow.stores.sql.store import SQLMethods
from deviceflow.stores.sql.sync_store import SQLStore

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.encryption import Keyless, Plain, Sealer
    from deviceflow.core.secret import Secret


class SQLiteStore(SQLStore):
    """A store in a SQLite file. Any number of processes of one machine may share the file.

    Only the owner has access (0600). The database is in WAL mode, so there are two more files
    beside it while it is open. Do not put it on a network drive.

    Args:
        path: The file. It is created if it does not exist.
        keys: Fernet keys. The first one seals secrets, all of them unseal. By default the keys in
            `DEVICEFLOW_KEYS`, else those in the file `PATH.key`, which is created (0600) with the
            store.
        plaintext: Do not seal secrets.
        read_only: Write nothing: no rows, no key file. The store then needs no permission to write.
            It needs no key either, but without a key it can neither read a secret nor check the MAC
            of a row.
        synchronous: With `FULL`, committed data survives a power cut. `NORMAL` is several times
            faster, but a power cut may lose the last transactions, even a token.
        trail: `each` stores every event. `summary` leaves out polls that were answered `pending`,
            and stores their number and times, and a hash over them, with the next event; a wait
            then writes nothing in between. By default `DEVICEFLOW_TRAIL`, else `summary`. Processes
            with different settings may share a store.

    Raises:
        StoreError: The file cannot be used. The message says why, and the hint what to do.
        SealError: The key is not the one of this store.
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
        trail: TrailMode | None = None,
    ) -> None:
        passed = keys = None if keys is None else wrapped(keys)
        self.path: Path = Path(path).absolute()
        self._option = option_of_file(self.path)
        check_synchronous(synchronous)

        def find_sealer(known: str | None) -> Sealer | Plain | Keyless:
            return key_files.sealer(
                passed, plaintext=plaintext, store=self.path, known=known, read_only=read_only
            )

        if not read_only:
            make_private(self.path, lambda: find_sealer(None))
        connection = SQLiteConnection(self.path, read_only=read_only, synchronous=synchronous)
        methods = SQLMethods(
            connection,
            find_sealer,
            read_only=read_only,
            trail=trail,
            name=f"SQLiteStore {self.path}",
        )
        super().__init__(connection, methods)
