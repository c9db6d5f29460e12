"""Read keys from the environment, from files and from the desktop's keyring.

Each kind of key has a module: `sealing` for the keys that seal a store's secrets, `audit` for the
keys that authenticate events, and `signing` for the key that signs digests.
"""

from __future__ import annotations

from deviceflow.credentials.keys._keyfile import read_keys, write_keys
from deviceflow.credentials.keys._keyring import KEYRING, add_to_keyring
from deviceflow.credentials.keys.sealing import VARIABLE, key_file, sealer

__all__ = [
    "KEYRING",
    "VARIABLE",
    "add_to_keyring",
    "key_file",
    "read_keys",
    "sealer",
    "write_keys",
]
