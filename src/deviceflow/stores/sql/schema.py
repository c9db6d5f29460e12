"""The schema of a database: which version it has, and how it is brought up to date."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from deviceflow.errors import StoreError
from deviceflow.stores.sql.keys import get_meta
from deviceflow.stores.sql.statements import MIGRATIONS

if TYPE_CHECKING:
    from deviceflow.stores.sql.connection import Transaction, Work
    from deviceflow.stores.sql.statements import Dialect

_VERSION: Final = re.compile(r"[0-9]{1,9}")


async def version(db: Transaction, dialect: Dialect, *, read_only: bool) -> int:
    """Return the version of the schema; 0 where there is none.

    Raises:
        StoreError: A newer deviceflow made it; or it is not of this version, and may not be
            written; or the database cannot keep every text.
    """
    if dialect.is_unicode and await db.row("is_unicode") is None:
        raise StoreError(
            "The database's encoding is not UTF8. It may return texts as bytes, or refuse some"
            " of them.",
            hint="Nothing was changed. Create another database, and name it in the store's URL:"
            " CREATE DATABASE deviceflow ENCODING 'UTF8' TEMPLATE template0",
        )
    found = await _version(db)
    if read_only and found != len(MIGRATIONS):
        raise StoreError(
            "There is no store here yet, or it is of an older version.",
            hint="A command that starts a login creates or upgrades it: deviceflow login",
        )
    return found


async def migrate(db: Transaction, begin: Work[None] | None) -> None:
    """Bring the schema up to date, under a lock that keeps others from doing the same.

    Args:
        db: The transaction.
        begin: What a new store begins with. It is made with the tables, or neither is. None if the
            store is not new.
    """
    for name in db.statements.before_migrating:
        await db.run(name)
    await db.run("create_meta")
    found = await _version(db)
    for number in range(found, len(MIGRATIONS)):
        for name in db.statements.migration(number):
            await db.run(name)
    await db.run("set_meta", {"name": "version", "value": str(len(MIGRATIONS))})
    if begin is not None and not found:
        await begin(db)


async def _version(db: Transaction) -> int:
    found = None
    if await db.row("has_meta") is not None:
        found = await get_meta(db, "version")
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
