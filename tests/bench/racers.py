"""The readers of `tests.bench.race`: one in a process, or many tasks in one."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
import time
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx
import psycopg
import requests

from tests.bench.racers_filing import Files

NAME: Final = "nightly"

_PAUSE: Final = 0.4  # seconds between two uses of a reader, more or less
_TASK_PAUSE: Final = 2.0  # the same, where there are many
_HOPELESS: Final = 10.0  # seconds without a token that the server accepts


class Row:
    """The row that the naive readers share: a generation, and its two tokens."""

    def __init__(self, url: str) -> None:
        self._connection: Any
        if url.startswith("sqlite"):
            path = url.removeprefix("sqlite:///")
            self._connection = sqlite3.connect(
                path, isolation_level=None, timeout=30, check_same_thread=False
            )
            self._mark = "?"
        else:
            self._connection = psycopg.connect(url, autocommit=True)
            self._mark = "%s"

    def make(self) -> None:
        """Make the table."""
        self._connection.execute("CREATE TABLE shared (access TEXT, refresh TEXT)")
        self._connection.execute("INSERT INTO shared VALUES ('', '')")

    def get(self) -> tuple[str, str]:
        """Return the access token and the refresh token."""
        access, refresh = self._connection.execute("SELECT * FROM shared").fetchone()
        return str(access), str(refresh)

    def put(self, access: str, refresh: str) -> None:
        """Replace both."""
        statement = f"UPDATE shared SET access = {self._mark}, refresh = {self._mark}"
        self._connection.execute(statement, (access, refresh))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class LostError(Exception):
    """The server gives no tokens for the grant any more."""


@dataclass
class Said:
    """What came of a reader.

    Attributes:
        uses: How many tokens the server accepted.
        refused: How many it did not, though they had not ended by then.
        served: For how many seconds there were tokens.
    """

    uses: int = 0
    refused: int = 0
    served: float = 0.0

    def given_up(self, begun: float) -> bool:
        """Tell whether nothing was accepted for so long that nothing will be."""
        return time.time() - begun - self.served > _HOPELESS

    def note(self, status: int, begun: float, *, late: bool = False) -> None:
        """Take note of an answer of the resource server's."""
        if status == 200:
            self.uses += 1
            self.served = time.time() - begun
        elif not late:
            self.refused += 1


def _form(refresh: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": "robot"}


# deviceflow.


def use_client(url: str, key: str, server: str, lasts: float) -> Said:
    from deviceflow import Client, Secret, open_store

    said, session = Said(), requests.Session()
    with (
        open_store(url, keys=[Secret(key)], **patience(url)) as store,  # type: ignore[attr-defined]
        Client(store, deadline=60) as client,
    ):
        client.grant(NAME)
        begun = ready()
        while time.time() < begun + lasts:
            token = client.get_token(NAME)
            bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
            status = session.get(f"{server}/oauth/resource", headers=bearer, timeout=60).status_code
            late = token.expires_at is None or time.time() > token.expires_at
            said.note(status, begun, late=late)
            time.sleep(random.uniform(0.5, 1.5) * _PAUSE)
    return said


async def use_async_client(url: str, key: str, server: str, lasts: float, tasks: int) -> Said:
    from deviceflow import AsyncClient, Secret
    from deviceflow.stores.url import open_async_store

    said, store = Said(), open_async_store(url, keys=[Secret(key)], **patience(url))
    async with AsyncClient(store, deadline=60) as client, session(server) as http:
        await client.grant(NAME)
        begun = await asyncio.to_thread(ready)

        async def use() -> None:
            while time.time() < begun + lasts:
                token = await client.get_token(NAME)
                bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
                status = (await http.get("/oauth/resource", headers=bearer)).status_code
                late = token.expires_at is None or time.time() > token.expires_at
                said.note(status, begun, late=late)
                await asyncio.sleep(random.uniform(0.5, 1.5) * _TASK_PAUSE)

        await asyncio.gather(*(use() for _ in range(tasks)))
    await store.close()
    return said


# The naive way: refused, a reader looks whether another one has refreshed, and refreshes if not.


def use_row(url: str, server: str, lasts: float) -> Said:
    said, http = Said(), requests.Session()
    with Row(url) as row:
        row.get()
        begun = ready()
        try:
            while time.time() < begun + lasts:
                access, _ = row.get()
                status = resource(http, server, access)
                if status == 401:
                    status = resource(http, server, refreshed(http, row, server, access))
                said.note(status, begun)
                time.sleep(random.uniform(0.5, 1.5) * _PAUSE)
        except LostError:
            said.refused += 1
    return said


def resource(http: requests.Session, server: str, access: str) -> int:
    bearer = {"Authorization": f"Bearer {access}"}
    return http.get(f"{server}/oauth/resource", headers=bearer, timeout=60).status_code


def refreshed(http: requests.Session, row: Row, server: str, refused: str) -> str:
    access, refresh = row.get()
    if access != refused:
        return access
    answer = http.post(f"{server}/oauth/token", data=_form(refresh), timeout=60)
    if answer.status_code != 200:
        again, _ = row.get()
        if again != access:
            return again
        raise LostError
    fields = answer.json()
    row.put(fields["access_token"], fields["refresh_token"])
    return str(fields["access_token"])


async def use_row_async(url: str, server: str, lasts: float, tasks: int) -> Said:
    said = Said()
    with Row(url) as row:
        row.get()
        async with session(server) as http:
            begun = await asyncio.to_thread(ready)

            async def get(access: str) -> int:
                bearer = {"Authorization": f"Bearer {access}"}
                return (await http.get("/oauth/resource", headers=bearer)).status_code

            async def use() -> None:
                while time.time() < begun + lasts:
                    access, _ = row.get()
                    status = await get(access)
                    if status == 401:
                        status = await get(await refreshed_async(http, row, access))
                    said.note(status, begun)
                    await asyncio.sleep(random.uniform(0.5, 1.5) * _TASK_PAUSE)

            done = await asyncio.gather(*(use() for _ in range(tasks)), return_exceptions=True)
    said.refused += sum(isinstance(one, LostError) for one in done)
    return said


async def refreshed_async(http: httpx.AsyncClient, row: Row, refused: str) -> str:
    access, refresh = row.get()
    if access != refused:
        return access
    answer = await http.post("/oauth/token", data=_form(refresh))
    if answer.status_code != 200:
        again, _ = row.get()
        if again != access:
            return again
        raise LostError
    fields = answer.json()
    row.put(fields["access_token"], fields["refresh_token"])
    return str(fields["access_token"])


# singleflight-auth, with the same row. Its locks are within one process.


def use_singleflight(url: str, server: str, lasts: float) -> Said:
    from singleflight_auth import RefreshFailedError, RequestsSingleFlightAuth

    said, http, bare = Said(), requests.Session(), requests.Session()
    with Row(url) as row:
        row.get()

        def refresh() -> str:
            answer = bare.post(f"{server}/oauth/token", data=_form(row.get()[1]), timeout=60)
            if answer.status_code != 200:
                raise LostError
            fields = answer.json()
            row.put(fields["access_token"], fields["refresh_token"])
            return str(fields["access_token"])

        http.auth = RequestsSingleFlightAuth(
            get_token=lambda: row.get()[0], refresh=refresh, raise_on_max_retries=False
        )
        begun = ready()
        while time.time() < begun + lasts:
            try:
                said.note(http.get(f"{server}/oauth/resource", timeout=60).status_code, begun)
            except RefreshFailedError:
                said.refused += 1
                if said.given_up(begun):
                    break
            time.sleep(random.uniform(0.5, 1.5) * _PAUSE)
    return said


async def use_singleflight_async(url: str, server: str, lasts: float, tasks: int) -> Said:
    from singleflight_auth import AsyncSingleFlightAuth, RefreshFailedError

    said = Said()
    with Row(url) as row:
        row.get()
        async with session(server) as http, session(server) as bare:

            async def refresh() -> str:
                answer = await bare.post("/oauth/token", data=_form(row.get()[1]))
                if answer.status_code != 200:
                    raise LostError
                fields = answer.json()
                row.put(fields["access_token"], fields["refresh_token"])
                return str(fields["access_token"])

            http.auth = AsyncSingleFlightAuth(
                get_token=lambda: row.get()[0], refresh=refresh, raise_on_max_retries=False
            )
            begun = await asyncio.to_thread(ready)

            async def use() -> None:
                while time.time() < begun + lasts:
                    try:
                        said.note((await http.get("/oauth/resource")).status_code, begun)
                    except RefreshFailedError:
                        said.refused += 1
                        if said.given_up(begun):
                            break
                    await asyncio.sleep(random.uniform(0.5, 1.5) * _TASK_PAUSE)

            await asyncio.gather(*(use() for _ in range(tasks)))
    return said


# Libraries that keep the tokens in files of their own, and refresh them unasked.


def use_files(files: Files, server: str, lasts: float) -> Said:
    said, http = Said(), requests.Session()
    begun = ready()
    while time.time() < begun + lasts and not said.given_up(begun):
        said.note(resource(http, server, files.get()), begun)
        time.sleep(random.uniform(0.5, 1.5) * _PAUSE)
    return said


async def use_files_async(files: Files, server: str, lasts: float, tasks: int) -> Said:
    said = Said()
    async with session(server) as http:
        begun = await asyncio.to_thread(ready)

        async def use() -> None:
            while time.time() < begun + lasts and not said.given_up(begun):
                bearer = {"Authorization": f"Bearer {await asyncio.to_thread(files.get)}"}
                said.note((await http.get("/oauth/resource", headers=bearer)).status_code, begun)
                await asyncio.sleep(random.uniform(0.5, 1.5) * _TASK_PAUSE)

        await asyncio.gather(*(use() for _ in range(tasks)))
    return said


def patience(url: str) -> dict[str, Any]:
    """Return how a store is opened on a machine that has too much to do."""
    return {} if url.startswith("sqlite") else {"timeout": 60.0}


def session(server: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=20)
    return httpx.AsyncClient(base_url=server, timeout=60, trust_env=False, limits=limits)


def ready() -> float:
    """Say that this process is ready, and wait until all are; return when that is."""
    print("ready", flush=True)
    begun = float(sys.stdin.readline())
    time.sleep(max(0.0, begun - time.time()))
    return begun


def main() -> None:
    """Be one of the readers."""
    way, url, server, seconds, count = sys.argv[1:]
    key, lasts, tasks = sys.stdin.readline().strip(), float(seconds), int(count)
    match way, tasks:
        case "deviceflow", 0:
            said = use_client(url, key, server, lasts)
        case "deviceflow", _:
            said = asyncio.run(use_async_client(url, key, server, lasts, tasks))
        case "naive", 0:
            said = use_row(url, server, lasts)
        case "naive", _:
            said = asyncio.run(use_row_async(url, server, lasts, tasks))
        case "huggingface_hub" | "msal-extensions", 0:
            said = use_files(Files(way, url, server), server, lasts)
        case "huggingface_hub" | "msal-extensions", _:
            said = asyncio.run(use_files_async(Files(way, url, server), server, lasts, tasks))
        case _, 0:
            said = use_singleflight(url, server, lasts)
        case _:
            said = asyncio.run(use_singleflight_async(url, server, lasts, tasks))
    print(json.dumps(vars(said)))


if __name__ == "__main__":
    main()
