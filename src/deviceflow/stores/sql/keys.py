"""What a store keeps about itself, in its table `meta`: its own id, and its audit key, sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.audit.chain import AuditKey
from deviceflow.core.encryption import Keyless
from deviceflow.core.secret import Secret
from deviceflow.credentials.keys.audit import configured, names_own
from deviceflow.errors import SealError, StoreError

if TYPE_CHECKING:
    from deviceflow.stores.sql.connection import Transaction
    from deviceflow.stores.sql.rows import Rows

_SEALED_FOR: Final = "audit key"


async def get_meta(db: Transaction, name: str) -> str | None:
    """Return a value of the table `meta`."""
    row = await db.row("get_meta", {"name": name})
    return None if row is None else str(row[0])


def sealed_audit_key(own: Secret, rows: Rows) -> dict[str, str]:
    """Return the store's own audit key as the table `meta` has it.

    It also shows which sealing key is the store's: whoever opens it has the right one.
    """
    sealed = rows.sealer.seal(own.reveal(), _SEALED_FOR, rows.store_id)
    return {"name": "audit_key", "value": sealed}


def opened_audit_key(sealed: str, rows: Rows) -> Secret:
    """Return the store's own audit key.

    Raises:
        SealError: It is damaged, or sealed with another key.
    """
    try:
        return Secret.of(rows.open(sealed, _SEALED_FOR, rows.store_id))
    except TypeError:
        problem = SealError(
            "The store's audit key is damaged in its table `meta`: somebody has changed it.",
            hint="Nothing was changed. Restore the store from a backup.",
        )
    raise problem


def audit_key(sealed: str, rows: Rows) -> AuditKey | None:
    """Return the key that authenticates events; None for whoever only reads, and has none.

    Args:
        sealed: The store's own, as the table `meta` has it.
        rows: What opens it.

    Raises:
        SealError: The sealing key is not the one of this store.
    """
    if isinstance(rows.sealer, Keyless):
        # Where the store's own key is one of those that are meant, the others are not enough.
        keys = [] if names_own() else configured()
        return AuditKey(*keys, store=rows.store_id) if keys else None
    return AuditKey(*configured(opened_audit_key(sealed, rows)), store=rows.store_id)


def store_id_gone() -> StoreError:
    """Return the error for a store that has lost its id."""
    return StoreError(
        "The store's own id is gone from its table `meta`: somebody has removed it.",
        hint="Nothing was sent. Restore the store from a backup.",
    )


def audit_key_gone() -> StoreError:
    """Return the error for a store that has lost its audit key."""
    return StoreError(
        "The store's audit key is gone from its table `meta`: somebody has removed it.",
        hint="Nothing was changed. Restore the store from a backup, or verify what is left"
        " in it with the key from there.",
    )
