"""The keys in the desktop's keyring, by the library of that name (extra `cli`)."""

from __future__ import annotations

from typing import Final

from deviceflow.core.secret import Secret
from deviceflow.errors import SealError, StoreError

KEYRING: Final = ("deviceflow", "keys of the store")
"""The keyring's service and user name for the keys."""


def keys_in_keyring(variable: str) -> list[Secret]:
    """Return the keys in the keyring, the newest first.

    Args:
        variable: The environment variable that asks for them, for the error.

    Raises:
        SealError: There is none, or the keyring cannot be used.
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
        why = "it has none: deviceflow keys generate --keyring"
    raise SealError(f"{variable} asks for the keys in the keyring: {why}.")


def add_to_keyring(key: Secret) -> None:
    """Put a key before those that are in the keyring.

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
    raise StoreError(f"The keyring would not keep the key: {why}.")
