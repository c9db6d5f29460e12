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
    from deviceflow.stores.sql.statements import Statements

_VERSION: Final = re.compile(r"[0-9]{1,9}")


def version(*, read_only: bool) -> Operation[int]:
    """Return the version of the schema; 0 where there is none.

    Args:
        read_only: Whether it may not be written.

    Raises:
        StoreError: A newer deviceflow made it; or it is not of this version, and may not be
            written.
    """

    def attempt(_now: float) -> Attempt[int]:
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
