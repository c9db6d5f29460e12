"""One of many processes whose sessions share a grant: run as a module, by the race's test."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import requests

from deviceflow import AsyncClient, Client, Secret, open_store
from deviceflow.integrations.httpx import DeviceFlowAuth as HttpxAuth
from deviceflow.integrations.requests import DeviceFlowAuth
from deviceflow.stores.url import open_async_store
from tests.integration.bearer import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE = 0.02


def rounds(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield


def by_requests(url: str, key: Secret, resource: str, seconds: float) -> Iterator[int]:
    with open_store(url, keys=[key]) as store, Client(store) as client:  # type: ignore[attr-defined]
        session = requests.Session()
        session.auth = DeviceFlowAuth(client, NAME, origins=[resource])
        for _ in rounds(seconds):
            yield session.get(resource, timeout=60).status_code
            time.sleep(PAUSE)


def by_httpx(url: str, key: Secret, resource: str, seconds: float) -> Iterator[int]:
    with open_store(url, keys=[key]) as store, Client(store) as client:  # type: ignore[attr-defined]
        auth = HttpxAuth(client, NAME, origins=[resource])
        with httpx.Client(auth=auth, timeout=60, trust_env=False) as session:
            for _ in rounds(seconds):
                yield session.get(resource).status_code
                time.sleep(PAUSE)


async def by_async_httpx(url: str, key: Secret, resource: str, seconds: float) -> list[int]:
    seen: list[int] = []
    store = open_async_store(url, keys=[key])
    async with AsyncClient(store) as client:
        auth = HttpxAuth(client, NAME, origins=[resource])
        async with httpx.AsyncClient(auth=auth, timeout=60, trust_env=False) as session:

            async def use() -> None:
                for _ in rounds(seconds):
                    seen.append((await session.get(resource)).status_code)
                    await asyncio.sleep(PAUSE)

            await asyncio.gather(use(), use())
    await store.close()
    return seen


if __name__ == "__main__":
    how, store_url, resource_url, lasts = sys.argv[1:]
    print("ready", flush=True)  # noqa: T201
    given = (store_url, Secret(sys.stdin.readline().strip()), resource_url, float(lasts))
    statuses = {
        "requests": lambda: list(by_requests(*given)),
        "httpx": lambda: list(by_httpx(*given)),
        "async": lambda: asyncio.run(by_async_httpx(*given)),
    }[how]()
    print(json.dumps(Counter(map(str, statuses))))  # noqa: T201
