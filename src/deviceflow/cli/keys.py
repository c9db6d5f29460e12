"""`deviceflow keys`: make a key that seals a store's secrets, and change it for another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from deviceflow.cli import stored, streams
from deviceflow.errors import StoreError, UsageError
from deviceflow.sealing import generate_key
from deviceflow.stores import keys
from deviceflow.stores.sql import SQLStore
from deviceflow.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> int:
    """Generate or rotate, and return the exit code."""
    return {"generate": _generate, "rotate": _rotate}[args.action](args)


def _generate(args: Namespace) -> int:
    key = generate_key()
    if not args.keyring:
        streams.show(key.reveal())
        return 0
    try:
        import keyring  # an extra

        before = keyring.get_password(*keys.KEYRING)
        keyring.set_password(*keys.KEYRING, " ".join(filter(None, (key.reveal(), before))))
    except ImportError:
        why = "the library is missing: pip install 'deviceflow[cli]'"
    except Exception as broken:  # noqa: BLE001  # its backends raise whatever they like
        why = str(broken).replace(key.reveal(), "<secret>") or type(broken).__name__
    else:
        streams.say(f"The keyring has a new key. It is used where {keys.VARIABLE} is keyring:")
        return 0
    raise StoreError(f"The keyring would not keep the key: {why}.")


def _rotate(args: Namespace) -> int:
    if args.plaintext:
        raise UsageError("Secrets that are kept in clear have no key.")
    store = stored.store(args)
    if not isinstance(store, SQLStore):
        raise UsageError("A store in memory has no key.")
    done = _reseal(store)
    if isinstance(store, SQLiteStore) and not os.environ.get(keys.VARIABLE, "").strip():
        file = keys.key_file(store.path)
        # The key before stays, for whoever is at work with it, until the next rotation. What an
        # interrupted one had left to do is done by now.
        keys.write_keys(file, [generate_key(), keys.read_keys(file)[0]])
        store.close()
        done = _reseal(SQLiteStore(store.path))
    streams.say(f"Sealed anew with the first key: the secrets of {done} logins.")
    return 0


def _reseal(store: SQLStore) -> int:
    done = 0
    while found := store.reseal():
        done += found
    return done
