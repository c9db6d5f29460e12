"""The keys that seal a store's secrets.

`DEVICEFLOW_KEYS` has them, separated by commas or white space: keys themselves, `file:PATH` for
those in a file, `keyring:` for those that `deviceflow keys generate --keyring` put into the
desktop's keyring. Without it a SQLite file's keys are in the file `.key` beside it, which is made
on first use. A database that machines share has no such place.
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
    """Return what seals a store's secrets.

    Args:
        given: The keys, where the program has them.
        plaintext: Whether to keep secrets in clear.
        store: A SQLite file, beside which keys may lie.
        known: The mark that its key has left in a store that was used before.
        read_only: Whether the store is only read: then there need be no key.

    Raises:
        SealError: There is no key, or none that can be used.
        StoreError: Others can read the key file, or it cannot be made.
        ImportError: `cryptography` is missing (extra `seal`).
    """
    from deviceflow.core.encryption import Keyless, Plain, Sealer  # noqa: PLC0415  # costs, so not before

    if plaintext:
        return Plain()
    if known is not None and known.startswith(Plain.prefix):
        raise SealError(
            "This store was made with plaintext=True: its secrets are in clear.",
            hint="Open it in the same way (--plaintext), or use a new store.",
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
            "This store is shared, and there is no key to seal its secrets with.",
            hint=f"Set {VARIABLE}, the same for all who use it: deviceflow keys generate",
        )
    return Sealer(_beside(store, new=known is None))


def key_file(store: Path) -> Path:
    """Return where a SQLite file's own keys are."""
    return store.with_name(f"{store.name}.key")


def _beside(store: Path, *, new: bool) -> list[Secret]:
    path = key_file(store)
    if not path.exists():
        if not new:
            raise SealError(
                f"The key file {path} is gone, and with it the only key of this store.",
                hint=f"Put it back, or set {VARIABLE} to its key. Nothing is lost until then.",
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
