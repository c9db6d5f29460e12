"""A program whose machine may lose its power: run as a module, by the test of that."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from deviceflow import AsyncClient, Client, OAuth
from deviceflow.client import grant_end
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.stores.sqlite import SQLiteStore
from tests.crash.disk import Disk

NAME = "nightly"


def say(**what: object) -> None:
    """Say what was just done, and wait until the test has looked."""
    print(json.dumps(what), flush=True)  # noqa: T201
    sys.stdin.readline()


def refresh(path: Path, login: OAuth) -> None:
    with SQLiteStore(path, plaintext=True, synchronous="NORMAL") as store, Client(store) as client:
        client._run(grant_end.refuse, NAME, client.get_token(NAME))
        token = client.get_token(NAME)
        say(given=token.access_token.reveal())
        # What concerns a login need not survive, if the program wants it so.
        say(started=client.start(login).id)


async def refresh_async(path: Path, login: OAuth) -> None:
    store: Any = AsyncSQLiteStore(path, plaintext=True, synchronous="NORMAL")
    async with store, AsyncClient(store) as client:
        token = await client.get_token(NAME)
        await client._run(grant_end.refuse, NAME, token)
        token = await client.get_token(NAME)
        say(given=token.access_token.reveal())
        say(started=(await client.start(login)).id)


if __name__ == "__main__":
    how, file, disk, server = sys.argv[1:]
    Disk(Path(disk))
    other = OAuth(
        client_id="other",
        device_authorization_endpoint=f"{server}/oauth/device_authorization",
        token_endpoint=f"{server}/oauth/token",
    )
    if how == "sync":
        refresh(Path(file), other)
    else:
        asyncio.run(refresh_async(Path(file), other))
