"""The keys that seal a store's secrets.

`DEVICEFLOW_KEYS` contains them, separated by commas or white space: keys, `file:PATH` for the keys
in a file, or `keyring:` for the keys that `deviceflow keys generate --keyring` put into the
desktop's keyring. Without the variable, a SQLite store has its keys in the file `.key` beside it,
which is created on first use. A database server has no such file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deviceflow._files import may_read
from deviceflow.core.secret import Secret
from deviceflow.credentials.keys._keyfile import read_keys, write_keys
from deviceflow.credentials.keys._keyring import keys_in_keyring
from deviceflow.errors import SealError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.core.encryption import Keyless, Plain, Sealer

VARIABLE: Final = "DEVICEFLOW_KEYS"


def sealer(
    given: Iterable[Secret | str] | None,
    *,
    plaintext: bool,
    store: Path | None = None,
    known: str | None = None,
    read_only: bool = False,
) -> Sealer | Plain | Keyless:
    """Return the sealer for a store's secrets.

    Args:
        given: Keys that the program passes.
        plaintext: Whether secrets are stored in plaintext.
        store: A SQLite file, which may have a key file beside it.
        known: The mark of the key in a store that was used before.
        read_only: Whether the store is opened for reading only, which needs no key.

    Raises:
        SealError: There is no usable key.
        StoreError: Other users can read the key file, or it cannot be created.
        ImportError: `cryptography` is missing (extra `seal`).
    """
    from deviceflow.core.encryption import Keyless, Plain, Sealer  # noqa: PLC0415  # costs, so not before

    if plaintext:
        return Plain()
    if known is not None and known.startswith(Plain.prefix):
        raise SealError(
            "This store was created with plaintext=True: its secrets are not sealed.",
            hint="Open it with plaintext=True (--plaintext), or use a new store.",
        )
    if given is not None:
        return Sealer(given)
    configured = Secret(os.environ.get(VARIABLE, "").strip())
    if configured.reveal():
        return Sealer(_configured(configured))
    if read_only and (store is None or not may_read(key_file(store))):
        return Keyless()
    if store is None:
        raise SealError(
            "There is no key to seal the secrets of this shared store.",
            hint=f"Set {VARIABLE} to the same key for all users of the store. Create one with:"
            " deviceflow keys generate",
        )
    return Sealer(_beside(store, new=known is None))


def key_file(store: Path) -> Path:
    """Return the key file of a SQLite store."""
    return store.with_name(f"{store.name}.key")


def _beside(store: Path, *, new: bool) -> list[Secret]:
    path = key_file(store)
    if not path.exists():
        if not new:
            raise SealError(
                f"The key file {path} of this store is missing.",
                hint=f"Restore the file, or set {VARIABLE} to its key. Nothing was changed.",
            )
        from deviceflow.core.encryption import generate_key  # noqa: PLC0415  # once in a store's life

        write_keys(path, [generate_key()], new=True)
    return read_keys(path)


def _configured(text: Secret) -> list[Secret]:
    found: list[Secret] = []
    for item in filter(None, re.split(r"[\s,]+", text.reveal())):
        if item.startswith("file:"):
            found += read_keys(Path(item.removeprefix("file:")).expanduser(), group=True)
        elif item == "keyring:":
            found += keys_in_keyring(VARIABLE)
        else:
            found.append(Secret(item))
    return found
