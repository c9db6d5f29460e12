"""The key that signs digests: `DEVICEFLOW_AUDIT_SIGNING_KEY`, or the store's own key.

A SQLite store has its own key in the file `.signing-key` beside it, which is created on first use.
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
    """Return the signing key file of a SQLite store."""
    return store.with_name(f"{store.name}.signing-key")


def signing_key(store: Path | None) -> Secret:
    """Return the signing key.

    Args:
        store: A SQLite file. Its signing key file is created (0600) on first use.

    Raises:
        StoreError: There is no usable key.
    """
    if configured := os.environ.get(VARIABLE, "").strip():
        return Secret(configured)
    if store is None:
        raise StoreError(
            "There is no key to sign digests.",
            hint=f"Set {VARIABLE} to a key from: deviceflow audit keygen",
        )
    path = key_file(store)
    if not path.exists():
        if not may_write(store):
            raise StoreError(
                "There is no key to sign digests, and this user has no permission to create the"
                f" file {path}.",
                hint=f"Set {VARIABLE} to a key from: deviceflow audit keygen",
            )
        write_keys(path, [Secret(generate_signing_key())], new=True)
    if not may_read(path):
        raise StoreError(
            f"This user has no permission to read the signing key {path}.",
            hint=f"Set {VARIABLE} to a key from: deviceflow audit keygen",
        )
    return read_keys(path)[0]


def signing_key_if_there(store: Path | None) -> Secret | None:
    """Return the signing key, if it exists and this user may read it.

    Args:
        store: A SQLite file, which may have a signing key file.

    Raises:
        StoreError: The key cannot be used.
    """
    if os.environ.get(VARIABLE, "").strip() or (store is not None and may_read(key_file(store))):
        return signing_key(store)
    return None
