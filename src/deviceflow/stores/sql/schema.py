"""The schema of a database: which version it has, and how it is brought up to date."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from deviceflow.errors import StoreError
from deviceflow.stores.sql.keys import get_meta
from deviceflow.stores.sql.statements import MIGRATIONS

if TYPE_CHECKING:
    from deviceflow.stores.sql.connection import Operation
    from deviceflow.stores.sql.connection import Statements as Attempt
    from deviceflow.stores.sql.statements import Dialect, Statements

_VERSION: Final = re.compile(r"[0-9]{1,9}")


def version(dialect: Dialect, *, read_only: bool) -> Operation[int]:
    """Return the version of the schema; 0 where there is none.

    Args:
        dialect: The SQL dialect.
        read_only: Whether it may not be written.

    Raises:
        StoreError: A newer deviceflow made it; or it is not of this version, and may not be
            written; or the database cannot keep every text.
    """

    def attempt(_now: float) -> Attempt[int]:
        if dialect.is_unicode and not (yield "is_unicode", {}).fetchone():
            raise StoreError(
                "The database's encoding is not UTF8. It may return texts as bytes, or refuse some"
                " of them.",
                hint="Nothing was changed. Create another database, and name it in the store's URL:"
                " CREATE DATABASE deviceflow ENCODING 'UTF8' TEMPLATE template0",
            )
        found = yield from _version()
        if read_only and found != len(MIGRATIONS):
            raise StoreError(
                "There is no store here yet, or it is of an older version.",
                hint="A command that starts a login creates or upgrades it: deviceflow login",
            )
        return found

    return attempt


def migrate(statements: Statements, begin: Operation[None] | None) -> Operation[None]:
    """Bring the schema up to date, under a lock that keeps others from doing the same.

    Args:
        statements: The statements.
        begin: What a new store begins with. It is made with the tables, or neither is. None if the
            store is not new.
    """

    def attempt(now: float) -> Attempt[None]:
        for name in statements.before_migrating:
            yield name, {}
        yield "create_meta", {}
        found = yield from _version()
        for number in range(found, len(MIGRATIONS)):
            for name in statements.migration(number):
                yield name, {}
        yield "set_meta", {"name": "version", "value": str(len(MIGRATIONS))}
        if begin is not None and not found:
            yield from begin(now)

    return attempt


def _version() -> Attempt[int]:
    found = None
    if (yield "has_meta", {}).fetchone():
        found = yield from get_meta("version")
    if found is not None and not _VERSION.fullmatch(found):
        raise StoreError(
            "The version of the store's schema, in its table `meta`, is not a number: somebody"
            " has changed it.",
            hint="Nothing was changed. Restore the store from a backup.",
        )
    version = int(found or 0)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"This store was made by a newer deviceflow: its schema is version {version}, and"
            f" this one knows {len(MIGRATIONS)}.",
            hint="Upgrade deviceflow here. Nothing was changed.",
        )
    return version
