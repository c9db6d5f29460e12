"""The clients of this process, on the store and with the profiles of the environment."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from deviceflow import _forks as forks
from deviceflow.client._async import AsyncClient
from deviceflow.client._sync import Client
from deviceflow.core.secret import without_traceback
from deviceflow.credentials import profiles
from deviceflow.notify import notifier
from deviceflow.stores.url import open_async_store, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deviceflow.core.ports import AsyncStore, Store


def _notices(profile: str) -> dict[str, Any]:
    found = profiles.notices(profile)
    notify = None if found.notify is None else notifier(found.notify)
    return found._asdict() | {"notify": notify}


class _Clients:
    """The clients of a process: one for each profile, which says who is notified, on one store.

    Airflow's workers fork a process for each task, and no client is shared with it.
    """

    _store: Store | None
    _made: dict[str, Client]

    def __init__(self) -> None:
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        forks.abandon(getattr(self, "_made", None), getattr(self, "_store", None))
        self._making = threading.Lock()
        self._store, self._made = None, {}

    def of(self, profile: str) -> Client:
        with self._making:
            client = self._made.get(profile)
            if client is None:
                # Passwords may be in the URLs of the store and of the notifications.
                self._store = self._store or without_traceback(open_store)
                notices = without_traceback(lambda: _notices(profile))
                client = self._made[profile] = Client(self._store, **notices)
            return client

    def close(self) -> None:
        with self._making:
            for client in self._made.values():
                client.close()
            if self._store is not None:
                self._store.close()
            self._store, self._made = None, {}


clients: Final = _Clients()


class _Shared:
    """The async clients of an event loop, as long as somebody uses one of them."""

    def __init__(self) -> None:
        self.users = 0
        self._making = asyncio.Lock()
        self._store: AsyncStore | None = None
        self._made: dict[str, AsyncClient] = {}

    async def of(self, profile: str) -> AsyncClient:
        # That reads files: the configuration, the store's directory, modules.
        making = asyncio.create_task(self._made_in_thread(profile))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # The thread goes on, and nobody would close what it opens after that.
            await asyncio.gather(making, return_exceptions=True)
            raise

    async def _made_in_thread(self, profile: str) -> AsyncClient:
        async with self._making:
            if profile not in self._made:
                await asyncio.to_thread(self._make, profile)
            return self._made[profile]

    def _make(self, profile: str) -> None:
        self._store = self._store or without_traceback(open_async_store)
        notices = without_traceback(lambda: _notices(profile))
        self._made[profile] = AsyncClient(self._store, **notices)

    async def close(self) -> None:
        for client in self._made.values():
            await client.close()
        if self._store is not None:
            await self._store.close()


_of_loop: Final[dict[asyncio.AbstractEventLoop, _Shared]] = {}


@asynccontextmanager
async def shared_client(profile: str) -> AsyncIterator[AsyncClient]:
    """Lend a client that all triggers of the running event loop share."""
    loop = asyncio.get_running_loop()
    shared = _of_loop.setdefault(loop, _Shared())
    shared.users += 1
    try:
        yield await shared.of(profile)
    finally:
        shared.users -= 1
        if not shared.users:
            del _of_loop[loop]
            await shared.close()
