"""How long a cancel takes to reach who holds the login: `python -m tests.bench.cancels`.

Another client cancels each of 50 held logins at a random moment. The interval is 5 seconds.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from deviceflow import AsyncClient, Studio
from deviceflow.core.encryption import generate_key
from deviceflow.stores.url import open_async_store
from deviceflow.trail.percentiles import percentiles
from tests.bench.polling import pending_server
from tests.bench.size import size
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from deviceflow import Secret

CANCELS = size(50, 2)
UNTIL_HELD: Final = 7.0  # seconds
SPREAD: Final = size(10)  # seconds


async def measured(url: str, keys: list[Secret], server: str, holders: int) -> list[float]:
    """Return the seconds from each cancel's commit until who waits has returned.

    Args:
        url: The store.
        keys: Its keys.
        server: Where nobody ever approves.
        holders: How many clients share the logins.
    """
    rng, cancelled = Random(1), dict[str, float]()
    stores: list[Any] = [open_async_store(url, keys=keys, trail="summary") for _ in range(2)]
    store, other = stores
    async with store, other, AsyncClient(other) as canceller:
        clients = [AsyncClient(store) for _ in range(holders)]

        async def reach(number: int) -> float:
            client = clients[number % holders]
            login = await client.start(Studio(server), client_name=f"robot-{number}")
            waiting = asyncio.create_task(client.wait(login.id))
            await asyncio.sleep(UNTIL_HELD + rng.uniform(0, SPREAD))
            await canceller.cancel(login.id)
            cancelled[login.id] = asyncio.get_running_loop().time()
            await waiting
            return asyncio.get_running_loop().time() - cancelled[login.id]

        found = await asyncio.gather(*map(reach, range(CANCELS)))
        for client in clients:
            await client.close()
    return sorted(found)


def main() -> None:
    """Print the percentiles for each store."""
    print(f"{'seconds until a cancel arrives':<44}{'p50':>8}{'p99':>8}")
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as database:
        for kind in ("sqlite", "postgresql"):
            for holders in (CANCELS, 1):
                file = Path(folder, f"{holders}.db")
                url = f"sqlite:///{file}" if kind == "sqlite" else database.database()
                with pending_server() as server:
                    found = asyncio.run(measured(url, [generate_key()], server, holders))
                figures = dict(percentiles(found))
                what = f"{kind}, {CANCELS} logins of {holders} client{'s' * (holders > 1)}"
                print(f"{what:<44}{figures['p50']:>8.2f}{figures['p99']:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
