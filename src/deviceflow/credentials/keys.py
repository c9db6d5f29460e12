"""Where the keys come from that seal a store's secrets.

`DEVICEFLOW_KEYS` has them, separated by commas or white space: keys themselves, `file:PATH` for
those in a file, `keyring:` for those that `deviceflow keys generate --keyring` put into the
desktop's keyring. Without it a SQLite file's keys are in the file `.key` beside it, which is made
on first use. A database that machines share has no such place.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deviceflow._files import may_read
from deviceflow.core.secret import Secret
from deviceflow.errors import SealError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.core.encryption import Keyless, Plain, Sealer

VARIABLE: Final = "DEVICEFLOW_KEYS"
KEYRING: Final = ("deviceflow", "keys of the store")
"""The keyring's service and user name for the keys."""


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


def read_keys(path: Path, *, group: bool = False) -> list[Secret]:
    """Return the keys in a file, of which each stands on a line of its own.

    Args:
        path: The file.
        group: Whether its group may read it: systemd and Kubernetes hand files over so.

    Raises:
        StoreError: It cannot be read, or others can read it.
    """
    try:
        exposed = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if group:
            exposed &= ~stat.S_IRGRP
        if not exposed or os.name != "posix":
            return [Secret(key) for key in path.read_text("ascii").split()]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        problem = StoreError(f"The key file {path} cannot be read: {why}.")
    else:
        problem = StoreError(
            f"The key file {path} can be read by others.", hint=f"Fix it with: chmod 600 {path}"
        )
    raise problem


def write_keys(path: Path, keys: Iterable[Secret], *, new: bool = False) -> bool:
    """Write a key file, all of it or nothing, for its owner only.

    Args:
        path: The file.
        keys: The keys; the first one is to seal.
        new: Leave it as it is if it is there.

    Returns:
        Whether it was written.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        return put(path, (f"{key.reveal()}\n" for key in keys), new=new)
    except OSError as error:
        why = error.strerror
    raise StoreError(f"The key file {path} cannot be written: {why}.")


def put(path: Path, lines: Iterable[str], *, new: bool) -> bool:
    """Write a file for its owner only, which nobody ever sees half written.

    Raises:
        OSError: It cannot be written.
    """
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        if not new:
            os.replace(draft, path)  # noqa: PTH105
            return True
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        return True
    finally:
        Path(draft).unlink(missing_ok=True)


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
            found += _from_keyring()
        else:
            found.append(Secret(item))
    return found


def _from_keyring() -> list[Secret]:
    try:
        import keyring  # noqa: PLC0415  # an extra

        text = keyring.get_password(*KEYRING)
    except ImportError:
        why = "the library is missing: pip install 'deviceflow[cli]'"
    except Exception as broken:  # noqa: BLE001  # its backends raise whatever they like
        why = str(broken) or type(broken).__name__
    else:
        if text:
            return [Secret(key) for key in text.split()]
        why = "it has none: deviceflow keys generate --keyring"
    raise SealError(f"{VARIABLE} asks for the keys in the keyring: {why}.")
