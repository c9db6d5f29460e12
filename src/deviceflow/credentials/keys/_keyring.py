"""Keys in the desktop's keyring, with the library `keyring` (extra `cli`)."""

from __future__ import annotations

from typing import Final

from deviceflow.core.secret import Secret
from deviceflow.errors import SealError, StoreError

KEYRING: Final = ("deviceflow", "keys of the store")
"""The keyring's service and user name for the keys."""


def keys_in_keyring(variable: str) -> list[Secret]:
    """Return the keys in the keyring, the newest first.

    Args:
        variable: The environment variable that names the keyring, for the error.

    Raises:
        SealError: The keyring has no keys, or cannot be used.
    """
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
        why = "the keyring has no keys. Create one with: deviceflow keys generate --keyring"
    raise SealError(f"{variable} is set to keyring:, but the keys cannot be read: {why}.")


def add_to_keyring(key: Secret) -> None:
    """Add a key to the keyring, before the existing keys.

    Raises:
        StoreError: The keyring cannot be used.
    """
    try:
        import keyring  # noqa: PLC0415  # an extra

        before = keyring.get_password(*KEYRING)
        keyring.set_password(*KEYRING, " ".join(filter(None, (key.reveal(), before))))
    except ImportError:
        why = "the library is missing: pip install 'deviceflow[cli]'"
    except Exception as broken:  # noqa: BLE001  # its backends raise whatever they like
        why = str(broken).replace(key.reveal(), "<secret>") or type(broken).__name__
    else:
        return
    raise StoreError(f"The key could not be saved in the keyring: {why}.")
