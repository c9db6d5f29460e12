"""Mistakes of a first program: each is an error that says what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deviceflow.client._async import AsyncClient
from deviceflow.client._sync import Client
from deviceflow.errors import UsageError
from deviceflow.stores.async_memory import AsyncMemoryStore
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import (
    AsyncScriptedTransport,
    AsyncVirtualClock,
    ScriptedTransport,
    VirtualClock,
)
from deviceflow.transports.requests import RequestsTransport
from deviceflow.worker import Worker

if TYPE_CHECKING:
    from deviceflow.core.login import Login


@pytest.mark.parametrize(
    ("parts", "hint"),
    [
        ({"store": MemoryStore()}, "open_async_store"),
        ({"transport": RequestsTransport()}, "ThreadedTransport"),
        ({"transport": ScriptedTransport([])}, "ThreadedTransport"),
        ({"clock": VirtualClock()}, "AsyncVirtualClock"),
    ],
)
def test_an_async_client_refuses_a_part_that_blocks(parts: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=f"An AsyncClient needs an async .*{hint}"):
        AsyncClient(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"store": AsyncMemoryStore()},
        {"transport": AsyncScriptedTransport([])},
        {"clock": AsyncVirtualClock()},
    ],
)
def test_a_client_refuses_a_part_that_must_be_awaited(parts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"A Client cannot await .*Use an AsyncClient"):
        Client(**parts)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_path_is_no_store(kind: Any) -> None:
    with pytest.raises(
        UsageError, match=r"A store of the type \w*Path .*Client\('sqlite:///PATH'\)"
    ):
        kind(Path("logins.db"))


def test_a_part_without_its_methods_is_refused() -> None:
    part: Any = object()
    with pytest.raises(UsageError, match=r"no method send.*deviceflow\.typing\.Transport"):
        Client(transport=part)


@pytest.mark.parametrize("method", ["start", "create", "login", "log_in", "get_token"])
def test_the_name_of_a_provider_is_no_provider(method: str) -> None:
    client: Any = Client(transport=ScriptedTransport([]))
    arguments = ["github"] if method in ("start", "create", "login") else ["nightly", "github"]
    with pytest.raises(UsageError, match=r"of the type str.*provider\('github', client_id=…\)"):
        getattr(client, method)(*arguments)


async def _logins(client: AsyncClient) -> list[Login]:
    return [login async for login in client.logins()]


def test_an_async_client_refuses_a_second_loop() -> None:
    client = AsyncClient(transport=AsyncScriptedTransport([]))
    assert asyncio.run(_logins(client)) == []
    with pytest.raises(UsageError, match=r"another event loop.* Create a client in each loop"):
        asyncio.run(_logins(client))


def test_a_worker_refuses_a_sync_client() -> None:
    sync: Any = Client(transport=ScriptedTransport([]))
    with pytest.raises(UsageError, match="AsyncClient"):
        Worker(sync)
