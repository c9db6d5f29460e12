"""A program that talks to hostile servers: run by `test_hostile_server`, in a process of its own.

It reads a list of tasks from stdin, does each in a forked child, and prints what became of each:
how long that took, by how much the memory of the child has grown, and how it ended.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests

from deviceflow import AsyncClient, Client, OAuth, Studio, auth, errors
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.integrations import studio as studio_login
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import AsyncVirtualClock, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.ports import Store
    from deviceflow.core.provider import Provider

DEADLINE: Final = 0.4
"""Seconds that a request may take."""

AT_ONCE: Final = 12
LONGEST: Final = 60


def _finish(client: Client, clock: VirtualClock) -> str:
    """Do with what is stored by now what a program does with any login."""
    states = [flow.state.value for flow in client.logins()]
    for _ in client.logins():
        clock.advance(100)
    purged = client.purge(tokens_after=0, flows_after=0)
    return " ".join([*states, *(str(problem) for problem in purged.problems)])


def _code(provider: Provider, store: Store) -> str:
    clock = VirtualClock()
    client = Client(store, clock=clock, deadline=DEADLINE)
    client.step(client.create(provider).id)
    return _finish(client, clock)


def _token(provider: Provider, store: Store) -> str:
    clock = VirtualClock()
    client = Client(store, clock=clock, deadline=DEADLINE)
    flow = client.start(provider)
    clock.advance(10)
    client.step(flow.id)
    return _finish(client, clock)


def _oauth(code: str, token: str, revoke: str | None = None) -> OAuth:
    return OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{code}/code",
        token_endpoint=f"{token}/token",
        revocation_endpoint=revoke and f"{revoke}/revoke",
    )


def oauth_code(bad: str, good: str, store: Store) -> str:
    return _code(_oauth(bad, good), store)


def oauth_token(bad: str, good: str, store: Store) -> str:
    return _token(_oauth(good, bad), store)


def oauth_revocation(bad: str, good: str, store: Store) -> str:
    return _token(_oauth(good, good, bad), store)


def oauth_metadata(bad: str, good: str, store: Store) -> str:
    client = Client(store, deadline=DEADLINE)
    return client.create(OAuth(client_id="robot", issuer=bad)).state


def oauth_refresh(bad: str, good: str, store: Store) -> str:
    client = Client(store, deadline=DEADLINE)
    token = Token(Secret("old"), refresh_token=Secret("R3fresh-0123456789"))
    return repr(client.refresh(_oauth(good, bad), token))


def studio_code(bad: str, good: str, store: Store) -> str:
    return _code(Studio(bad), store)


def studio_token(bad: str, good: str, store: Store) -> str:
    return _token(Studio(f"{good}/{bad}"), store)


async def _async_token(provider: Provider) -> str:
    clock = AsyncVirtualClock()
    async with AsyncClient(clock=clock, deadline=DEADLINE) as client:
        flow = await client.start(provider)
        clock.advance(10)
        return (await client.step(flow.id)).state


def async_code(bad: str, good: str, store: Store) -> str:
    return asyncio.run(_async_token(_oauth(bad, good)))


def async_token(bad: str, good: str, store: Store) -> str:
    return asyncio.run(_async_token(_oauth(good, bad)))


def start_device_login(bad: str, good: str, store: Store) -> str:
    return ",".join(auth.start_device_login(client_name="test", base_url=bad))


def check_token_authentication(bad: str, good: str, store: Store) -> str:
    return str(auth.check_token_authentication(uri=f"{bad}/token", device_code="Dv1ce-0123456789"))


def get_access_token(bad: str, good: str, store: Store) -> str:
    return auth.get_access_token(hostname=f"{good}/{bad}", open_browser=False)[1]


ENGINE: Final = {
    one.__name__: one
    for one in (
        oauth_code,
        oauth_token,
        oauth_metadata,
        oauth_revocation,
        oauth_refresh,
        studio_code,
        studio_token,
        async_code,
        async_token,
    )
}
FUNCTIONS: Final = {
    one.__name__: one for one in (start_device_login, check_token_authentication, get_access_token)
}
REQUESTS: Final = {
    "async_code": 3,  # it is asked for again, twice
    "oauth_metadata": 2,  # two addresses are tried
    "check_token_authentication": 4,  # three more after a failure
    "get_access_token": 6,  # as long as the code lives
}
"""How many requests to the hostile server there may be, where it is not one."""


def _ours(name: str) -> tuple[type[Exception], ...]:
    if name in FUNCTIONS:
        return (errors.StudioAuthError, requests.RequestException, ValueError)
    return (errors.DeviceFlowError,)


def _run(name: str, bad: str, good: str) -> dict[str, Any]:
    work: Callable[[str, str, Store], str] = (ENGINE | FUNCTIONS)[name]
    with tempfile.TemporaryDirectory() as folder:
        engine = name in ("oauth_code", "oauth_token", "studio_code", "studio_token")
        store: Store = MemoryStore()
        if engine:
            store = SQLiteStore(Path(folder, "f.db"), plaintext=True, synchronous="NORMAL")
        before, began = _peak(), _time()
        try:
            ended, ours = work(bad, good, store), True
        except BaseException as error:  # noqa: BLE001  # to be judged by the test
            ended, ours = f"{type(error).__name__}: {error}", isinstance(error, _ours(name))
        seconds, grown = _time() - began, _peak() - before
        store.close()
    return {"ended": ended[:500], "ours": ours, "seconds": seconds, "grown": grown}


def _time() -> float:
    """Return a time that stands still while other processes keep this one from running."""
    try:
        waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, LookupError):  # not Linux
        waited = 0.0
    return time.monotonic() - waited


def _peak() -> float:
    """Return the most memory that this process ever had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _child(write: int, task: dict[str, str]) -> None:
    signal.alarm(LONGEST)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    time.sleep = lambda _: None
    studio_login.TIMEOUT = DEADLINE  # type: ignore[misc,assignment]
    os.write(write, json.dumps(_run(task["face"], task["bad"], task["good"])).encode())


def _results(tasks: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    waiting = list(reversed(tasks))
    running: dict[int, tuple[dict[str, str], int]] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            task = waiting.pop()
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    _child(write, task)
                finally:
                    os._exit(0)
            os.close(write)
            running[child] = (task, read)
        child, status = os.wait()
        task, read = running.pop(child)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        died = {
            "ended": f"killed, or died: {status}",
            "ours": False,
            "seconds": LONGEST,
            "grown": 0,
        }
        yield task | (json.loads(said) if said else died)


def main() -> None:
    gc.freeze()  # or each child would copy all of it
    for result in _results(json.load(sys.stdin)):
        print(json.dumps(result), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
