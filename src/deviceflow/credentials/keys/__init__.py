"""Where keys come from: the environment, files, the desktop's keyring. Nothing else reads them.

Each kind of key has a module: `sealing` the keys that seal a store's secrets, `audit` those that
authenticate events, `signing` the one that signs digests of a trail.
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
