"""What a request costs by each HTTP client for asyncio: `python -m tests.bench.async_transports`.

The request is a poll of a token that is pending, on a connection that is kept, against a server on
another core. The figures are microseconds of CPU time of the client process, medians of rounds that
take turns, and each one's ratio to bare aiohttp. `at once` is a tight loop of 32 tasks; `paced` is
thousands of tasks that poll every five seconds. `KiB` is what an idle connection takes.

Our transports stand beside the bare libraries. `pycurl` and `curl_cffi` are measured where they are
installed; they are no part of deviceflow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import trustme

from deviceflow.core.wire import Request, Response
from tests.bench.fast_server import INTERVAL
from tests.bench.scale_run import cores, pinned, server

if TYPE_CHECKING:
    from collections.abc import Sequence

_BODY: Final = json.dumps({"code": "x" * 43}).encode()
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}
_CONNECTIONS: Final = 256


class Poller(Protocol):
    async def poll(self, url: str) -> int:
        """Poll, and return the status."""

    async def close(self) -> None: ...


class Ours:
    def __init__(self, bundle: str, library: str) -> None:
        os.environ["REQUESTS_CA_BUNDLE"] = bundle
        module = importlib.import_module(f"deviceflow.transports.{library}")
        kind = getattr(module, f"{library.capitalize()}Transport")
        self._transport = kind(connections=_CONNECTIONS)

    async def poll(self, url: str) -> int:
        result = await self._transport.send(Request("token", url, _HEADERS, _BODY), 30.0)
        assert isinstance(result, Response), result
        return result.status

    async def close(self) -> None:
        await self._transport.close()


class Aiohttp:
    def __init__(self, bundle: str) -> None:
        import aiohttp

        context = ssl.create_default_context(cafile=bundle)
        connector = aiohttp.TCPConnector(ssl=context, limit=_CONNECTIONS)
        self._session = aiohttp.ClientSession(connector=connector)

    async def poll(self, url: str) -> int:
        async with self._session.post(url, data=_BODY, headers=_HEADERS) as response:
            await response.read()
            return response.status

    async def close(self) -> None:
        await self._session.close()


class Httpx:
    def __init__(self, bundle: str) -> None:
        import httpx

        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        context = ssl.create_default_context(cafile=bundle)
        self._client = httpx.AsyncClient(verify=context, limits=limits, trust_env=False)

    async def poll(self, url: str) -> int:
        response = await self._client.post(url, content=_BODY, headers=_HEADERS, timeout=30)
        return response.status_code

    async def close(self) -> None:
        await self._client.aclose()


class CurlCffi:
    def __init__(self, bundle: str) -> None:
        requests: Any = importlib.import_module("curl_cffi.requests")
        self._session = requests.AsyncSession(verify=bundle, max_clients=_CONNECTIONS)

    async def poll(self, url: str) -> int:
        response = await self._session.post(
            url, data=_BODY, headers=_HEADERS, default_headers=False, timeout=30
        )
        status: int = response.status_code
        return status

    async def close(self) -> None:
        await self._session.close()


class Pycurl:
    """libcurl's multi interface, driven by the sockets and timers of asyncio."""

    def __init__(self, bundle: str) -> None:
        self._curl: Any = importlib.import_module("pycurl")
        self._loop = asyncio.get_running_loop()
        self._bundle = bundle
        self._multi = self._curl.CurlMulti()
        self._multi.setopt(self._curl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(self._curl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(self._curl.M_MAXCONNECTS, _CONNECTIONS)
        self._watched: dict[int, int] = {}
        self._timer: Any = None
        self._waiting: dict[Any, asyncio.Future[None]] = {}
        self._free: deque[Any] = deque()
        self._places = asyncio.Semaphore(_CONNECTIONS)

    def _watch(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        before = self._watched.get(descriptor, 0)
        after = 0 if what == self._curl.POLL_REMOVE else what
        self._watched[descriptor] = after
        loop, curl = self._loop, self._curl
        if before & 1 and not after & 1:
            loop.remove_reader(descriptor)
        if before & 2 and not after & 2:
            loop.remove_writer(descriptor)
        if after & 1 and not before & 1:
            loop.add_reader(descriptor, self._act, descriptor, curl.CSELECT_IN)
        if after & 2 and not before & 2:
            loop.add_writer(descriptor, self._act, descriptor, curl.CSELECT_OUT)

    def _set_timer(self, milliseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if milliseconds >= 0:
            after = milliseconds / 1000
            self._timer = self._loop.call_later(after, self._act, self._curl.SOCKET_TIMEOUT, 0)

    def _act(self, descriptor: int, what: int) -> None:
        self._multi.socket_action(descriptor, what)
        left = 1
        while left:
            left, done, failed = self._multi.info_read()
            for handle in (*done, *(each[0] for each in failed)):
                self._multi.remove_handle(handle)
                self._waiting.pop(handle).set_result(None)

    def _new(self, url: str) -> Any:
        curl, handle = self._curl, self._curl.Curl()
        handle.setopt(curl.URL, url)
        headers = [f"{name}: {value}" for name, value in _HEADERS.items()]
        handle.setopt(curl.HTTPHEADER, [*headers, "Expect:"])
        handle.setopt(curl.POST, 1)
        handle.setopt(curl.TIMEOUT_MS, 30_000)
        handle.setopt(curl.NOSIGNAL, 1)
        handle.setopt(curl.CAINFO, self._bundle)
        return handle

    async def poll(self, url: str) -> int:
        async with self._places:
            handle = self._free.pop() if self._free else self._new(url)
            body: list[bytes] = []
            handle.setopt(self._curl.POSTFIELDS, _BODY)
            handle.setopt(self._curl.WRITEFUNCTION, body.append)
            self._waiting[handle] = self._loop.create_future()
            self._multi.add_handle(handle)
            await self._waiting[handle]
            self._free.append(handle)
            status: int = handle.getinfo(self._curl.RESPONSE_CODE)
            return status

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for handle in self._free:
            handle.close()
        self._multi.close()


_BARE: Final = "bare aiohttp"
CLIENTS: Final[dict[str, tuple[str, Any]]] = {
    _BARE: ("aiohttp", Aiohttp),
    "HttptoolsTransport": ("httptools", lambda bundle: Ours(bundle, "httptools")),
    "AiohttpTransport": ("aiohttp", lambda bundle: Ours(bundle, "aiohttp")),
    "pycurl, multi socket": ("pycurl", Pycurl),
    "curl_cffi": ("curl_cffi", CurlCffi),
    "bare httpx": ("httpx", Httpx),
    "HttpxTransport": ("httpx", lambda bundle: Ours(bundle, "httpx")),
}


async def _at_once(client: Poller, url: str, count: int, tasks: int) -> None:
    numbers = iter(range(count))

    async def some() -> None:
        for _ in numbers:
            assert await client.poll(url) == 400

    await asyncio.gather(*(some() for _ in range(tasks)))


async def _tight(client: Poller, url: str, options: argparse.Namespace) -> float:
    await _at_once(client, url, 200, 32)
    began = time.process_time()
    polls: int = options.polls
    await _at_once(client, url, polls, 32)
    return 1e6 * (time.process_time() - began) / polls


async def _paced(client: Poller, url: str, options: argparse.Namespace) -> float:
    polls = 0

    async def login(number: int) -> None:
        nonlocal polls
        await asyncio.sleep(INTERVAL * number / options.logins)
        while True:
            await client.poll(url)
            polls += 1
            await asyncio.sleep(INTERVAL)

    tasks = [asyncio.create_task(login(number)) for number in range(options.logins)]
    await asyncio.sleep(INTERVAL)
    first, began = polls, time.process_time()
    await asyncio.sleep(2 * INTERVAL)
    spent = time.process_time() - began
    made = polls - first
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return 1e6 * spent / max(1, made)


async def _memory(client: Poller, url: str, _options: argparse.Namespace) -> float:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    await _at_once(client, url, 50, 1)
    gc.collect()
    before = resident()
    await _at_once(client, url, 3000, 100)
    gc.collect()
    return float(resident() - before) / 99 / 1024


_LOOPS: Final = ("uvloop", "asyncio")
_MODES: Final[dict[str, Any]] = {"tight": _tight, "paced": _paced, "memory": _memory}


async def _child(options: argparse.Namespace) -> None:
    client: Poller = CLIENTS[options.client][1](options.bundle)
    print(await _MODES[options.mode](client, options.url, options), flush=True)
    await client.close()
    os._exit(0)  # some leave tasks and sockets behind


def _measure(options: argparse.Namespace, mode: str, client: str, loop: str, url: str) -> float:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.async_transports", "--child"),
            *(f"--mode={mode}", f"--client={client}", f"--loop={loop}", f"--url={url}"),
            *(f"--bundle={options.bundle}", f"--polls={options.polls}"),
            f"--logins={options.logins}",
        ],
        stdout=subprocess.PIPE,
        preexec_fn=pinned(cores()[0]),
        check=True,
    )
    return float(done.stdout)


def _table(options: argparse.Namespace, ports: dict[str, int]) -> None:
    clients = [
        name
        for name, (library, _) in CLIENTS.items()
        if find_spec(library) and (name in options.clients or name == _BARE)
    ]
    columns = [
        (title, mode, loop, f"{scheme}://127.0.0.1:{ports[scheme]}/token")
        for loop in _LOOPS
        for title, mode, scheme in (
            ("at once", "tight", "http"),
            ("TLS", "tight", "https"),
            ("paced", "paced", "http"),
            ("KiB, TLS", "memory", "https"),
        )
        if mode in options.modes and loop in options.loops
    ]
    print(f"{'':<22}" + "".join(f"{f'{loop}: {title}':>21}" for title, _, loop, _ in columns))
    figures: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for number, (_, mode, loop, url) in enumerate(columns):
            for client in clients:
                got = _measure(options, mode, client, loop, url)
                figures.setdefault((client, number), []).append(got)
    for client in clients:
        cells = []
        for number in range(len(columns)):
            value, compared = (
                statistics.median(figures[one, number]) for one in (client, clients[0])
            )
            cells.append(f"{f'{value:,.0f}  {value / compared:.2f}':>21}")
        print(f"{client:<22}" + "".join(cells), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.async_transports")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--polls", type=int, default=3000, help="of each tight loop")
    parser.add_argument("--logins", type=int, default=4000, help="of each paced run")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=[*CLIENTS])
    parser.add_argument("--modes", nargs="+", choices=_MODES, default=[*_MODES])
    parser.add_argument("--loops", nargs="+", choices=_LOOPS, default=[*_LOOPS])
    for hidden in ("--mode", "--client", "--loop", "--url", "--bundle"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        loops = importlib.import_module(options.loop)
        with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
            runner.run(_child(options))
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder:
        options.bundle, certificate = f"{folder}/ca.pem", f"{folder}/server.pem"
        authority.cert_pem.write_to_path(options.bundle)
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        with server(cores()[1], certificate) as ports:
            _table(options, ports)


if __name__ == "__main__":
    main()
