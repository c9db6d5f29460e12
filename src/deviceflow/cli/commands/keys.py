"""`deviceflow keys`: create a sealing key, and replace it by another."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.encryption import generate_key
from deviceflow.credentials import keys
from deviceflow.errors import LoginBusyError, UsageError
from deviceflow.stores.sql import SQLStore
from deviceflow.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.errors import DeviceFlowError

_PATIENCE: Final = 60.0
"""Seconds to wait for the leases of other workers."""


class GenerateOptions:
    """The options of `generate`."""

    keyring: bool


def _add_keys(parser: ArgumentParser) -> None:
    parser.description = "The keys that seal the secrets in a store."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    generate = actions.add_parser("generate", help="print a new key, for DEVICEFLOW_KEYS")
    Command(_add_generate, _generate).add_to(generate)
    rotate = actions.add_parser("rotate", help="reseal all secrets with the first key")
    Command(options.add_store, stored.reporting(_rotate)).add_to(rotate)


def _add_generate(parser: ArgumentParser) -> None:
    parser.add_argument("--keyring", action="store_true", help="add it to the keyring instead")


def _generate(args: GenerateOptions) -> int:
    key = generate_key()
    if not args.keyring:
        streams.show(key.reveal())
        return 0
    keys.add_to_keyring(key)
    streams.say(f"A new key was added to the keyring. To use it, set {keys.VARIABLE}=keyring:")
    return 0


def _rotate(args: options.StoreOptions) -> int:
    if args.plaintext:
        raise UsageError("A plaintext store has no sealing key.")
    store = stored.store(args)
    if not isinstance(store, SQLStore):
        raise UsageError("A store in memory has no sealing key.")
    done, problems = _reseal(store)
    if isinstance(store, SQLiteStore) and not os.environ.get(keys.VARIABLE, "").strip():
        file = keys.key_file(store.path)
        before = keys.read_keys(file)
        # The previous key stays until the next rotation, for workers that still use it. All keys
        # stay while there is a login that could not be resealed.
        keys.write_keys(file, [generate_key(), *(before if problems else before[:1])])
        store.close()
        done, problems = _reseal(SQLiteStore(store.path))
    for problem in problems:
        stored.say_problem(problem)
    were = "login was" if done == 1 else "logins were"
    streams.say(f"{done} {were} resealed with the first key.")
    return exits.FAILED if problems else 0


def _reseal(store: SQLStore) -> tuple[int, list[DeviceFlowError]]:
    """Reseal all logins with the first key, and wait for the leases of other workers."""
    done, patience = 0, _PATIENCE
    while True:
        flows, problems = store.reseal()
        done += flows
        busy = [one.wait_seconds for one in problems if isinstance(one, LoginBusyError)]
        if not busy or patience <= 0:
            return done, problems
        wait = min(max(busy) + 0.1, patience)
        patience -= wait
        time.sleep(wait)


COMMANDS: Final = {"keys": Command(_add_keys)}
