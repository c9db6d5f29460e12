"""The key that signs digests of a trail: `DEVICEFLOW_AUDIT_SIGNING_KEY`, or a store's own.

A SQLite file's own key is in the file `.signing-key` beside it, which is made on first use.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Final

from deviceflow._files import may_read, may_write
from deviceflow.core.secret import Secret
from deviceflow.credentials.keys._keyfile import read_keys, write_keys
from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE: Final = "DEVICEFLOW_AUDIT_SIGNING_KEY"


def generate_signing_key() -> str:
    """Return a new Ed25519 private key: 32 bytes as base64."""
    return base64.b64encode(os.urandom(32)).decode()


def key_file(store: Path) -> Path:
    """Return where a SQLite file's own key to sign with is."""
    return store.with_name(f"{store.name}.signing-key")


def signing_key(store: Path | None) -> Secret:
    """Return the key that signs digests.

    Args:
        store: A SQLite file, beside which the key is made (0600) on first use.

    Raises:
        StoreError: There is no key, or none that can be used.
    """
    if configured := os.environ.get(VARIABLE, "").strip():
        return Secret(configured)
    if store is None:
        raise StoreError(
            "There is no key to sign digests with.",
            hint=f"Set {VARIABLE}: deviceflow audit keygen",
        )
    path = key_file(store)
    if not path.exists():
        if not may_write(store):
            raise StoreError(
                "There is no key to sign digests with, and this user may not make one beside the"
                f" store: {path}.",
                hint=f"Set {VARIABLE} to a key of this user's own: deviceflow audit keygen",
            )
        write_keys(path, [Secret(generate_signing_key())], new=True)
    if not may_read(path):
        raise StoreError(
            f"This user may not read the store's key to sign digests with, {path}.",
            hint=f"Set {VARIABLE} to a key of this user's own: deviceflow audit keygen",
        )
    return read_keys(path)[0]


def signing_key_if_there(store: Path | None) -> Secret | None:
    """Return the key that signs digests, where there is one by now that this user may read.

    Args:
        store: A SQLite file, beside which the key may lie.

    Raises:
        StoreError: The key cannot be used.
    """
    if os.environ.get(VARIABLE, "").strip() or (store is not None and may_read(key_file(store))):
        return signing_key(store)
    return None
