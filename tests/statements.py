"""Statements of a store, run by their names: what the store itself would not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow._blocking import complete

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.stores.sql import SQLStore
    from deviceflow.stores.sql.connection import Result


def run_statement(store: SQLStore, name: str, values: Mapping[str, Any]) -> Result:
    """Run a statement in a transaction of its own."""
    return complete(store._connection.run(lambda db: db.run(name, values), "write", 0.0))
