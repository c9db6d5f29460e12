"""A store in PostgreSQL, for workers on several machines (extra `postgres`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.core.secret import Secret, wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.stores._option import option_of
from deviceflow.stores._postgres_dialect import check
from deviceflow.stores.sql.store import SQLMethods
from deviceflow.stores.sql.sync_store import SQLStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.audit.mode import TrailMode
    from deviceflow.stores._postgres import PostgresConnection


class PostgresStore(SQLStore):
    """A store in a PostgreSQL database. Its times are those of the database's clock.

    The tables are in the schema `deviceflow`, which is created if the user has the permission. The
    store works with a pooler in transaction mode, such as PgBouncer.

    Args:
        url: The URL, in libpq's format. Put a password into `~/.pgpass` or `PGPASSWORD`.
        keys: Fernet keys, the same for all users of the database. The first one seals secrets, all
            of them unseal. By default the keys in `DEVICEFLOW_KEYS`.
        plaintext: Do not seal secrets.
        read_only: Write nothing. The store then needs only permission to read the tables. It needs
            no key, but without a key it can neither read a secret nor check the MAC of a row.
        pool_size: The maximum number of connections.
        timeout: The timeout of one call in seconds, after which `StoreError` is raised. If a
            connection must be opened, it may take some seconds longer. The server ends statements
            after the same time.
        reading_timeout: The timeout of each response in seconds while a whole trail is read.
        trail: As for `SQLiteStore`.

    Raises:
        UsageError: The URL is invalid.
        StoreError: The database cannot be used. The message says why.
        SealError: There is no key, or it is not the one of this store.
        ImportError: A library is missing (extra `postgres`).
    """

    _connection: PostgresConnection

    def __init__(
        self,
        url: str,
        *,
        keys: Iterable[Secret | str] | None = None,
        plaintext: bool = False,
        read_only: bool = False,
        pool_size: int = 8,
        timeout: float = 10.0,
        reading_timeout: float = 120.0,
        trail: TrailMode | None = None,
    ) -> None:
        address = Secret(url)
        del url
        passed = keys = None if keys is None else wrapped(keys)
        self._option = option_of(address)
        check(address)
        from deviceflow.stores import _postgres as connections  # noqa: PLC0415  # an extra

        connection = connections.PostgresConnection(
            address, pool_size=pool_size, timeout=timeout, reading_timeout=reading_timeout
        )
        methods = SQLMethods(
            connection,
            lambda sealed: key_files.sealer(
                passed, plaintext=plaintext, known=sealed, read_only=read_only
            ),
            read_only=read_only,
            trail=trail,
            name="PostgresStore",
        )
        super().__init__(connection, methods)
