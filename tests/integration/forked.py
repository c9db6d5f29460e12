"""A program that has begun logins, and then forks: run by `test_fork`, in a process of its own.

It prints what came of that as JSON. Where something would hang, it is killed by an alarm.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests
from requests.adapters import HTTPAdapter

from deviceflow import Client, OAuth, State, Studio, errors
from deviceflow.client.clock import SystemClock
from deviceflow.client.hold import Hold
from deviceflow.core.secret import Secret
from deviceflow.integrations.requests import DeviceFlowAuth
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock
from deviceflow.transports.requests import LimitedAdapter, RequestsTransport
from tests.integration.places import CODE, GRANTED, PENDING
from tests.stored import flows as all_flows
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from deviceflow.core.flow import Flow

LOGINS: Final = 8
WORKERS: Final = 4
PATIENCE: Final = 60
"""Seconds after which a child counts as hanging."""


class _OtherAdapter(HTTPAdapter):
    """One that a program has made itself, and that knows nothing of this library."""


def transport(kind: str) -> RequestsTransport:
    """Return a transport whose connections are its own, or belong to a session's adapter."""
    session = requests.Session() if kind != "own" else None
    if session is not None:
        session.mount("http", LimitedAdapter() if kind == "limited" else _OtherAdapter())
    return RequestsTransport(session)


def provider(url: str) -> OAuth:
    return OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{url}/code",
        token_endpoint=f"{url}/token",
        revocation_endpoint=f"{url}/revoke",
    )


def fork(work: Callable[[], object]) -> int:
    """Do the work in a child, and return its process id."""
    child = os.fork()
    if child:
        return child
    signal.alarm(PATIENCE)
    code = 1
    try:
        work()
        gc.collect()
        code = 0
    except BaseException:  # noqa: BLE001  # or it would go on as a second parent
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(children: Iterable[int]) -> list[int]:
    """Return how the children ended: 0 if they did what they should."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def by_os_fork(step: Callable[[str], object], shares: Sequence[Sequence[str]]) -> None:
    """Step the logins in children that all begin at the same moment."""
    ready, go = os.pipe()

    def work(share: Sequence[str]) -> None:
        os.close(go)
        os.read(ready, 1)
        for flow_id in share:
            step(flow_id)

    children = [fork(functools.partial(work, share)) for share in shares]
    os.close(ready)
    os.close(go)
    ended(children)


def by_multiprocessing(step: Callable[[str], object], shares: Sequence[Sequence[str]]) -> None:
    """Step the logins in a pool's workers, as `multiprocessing` forks them."""
    global _step  # noqa: PLW0603  # what the workers inherit
    _step = step
    with multiprocessing.get_context("fork").Pool(len(shares)) as pool:
        pool.map(_stepped, itertools.chain(*shares), chunksize=1)


def _stepped(flow_id: str) -> None:
    _step(flow_id)


_step: Callable[[str], object]


def crossing(url: str, kind: str, how: str, runs: str) -> list[Any]:
    """Begin logins, let forked workers step them, and end one more after that; so many times.

    Returns:
        The device code of each login, and the token that it ended with.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(int(runs)):
            clock = VirtualClock()
            store = SQLiteStore(Path(folder, f"{run}.db"), plaintext=True)
            client = Client(store, transport=transport(kind), clock=clock, deadline=5.0)
            flows = [client.start(provider(url)) for _ in range(LOGINS + 1)]
            codes = {flow.id: _text(get(store, flow.id).device_code) for flow in flows}
            clock.advance(10)

            def step(flow_id: str, client: Client = client) -> None:
                client.step(flow_id)

            ids = [flow.id for flow in flows[1:]]
            shares = [ids[worker::WORKERS] for worker in range(WORKERS)]
            (by_os_fork if how == "os" else by_multiprocessing)(step, shares)
            client.step(flows[0].id)
            found += [(codes[flow.id], _token(get(client._store, flow.id))) for flow in flows]
            client.close()
            store.close()
    return found


def _token(flow: Flow) -> str | None:
    return None if flow.token is None else flow.token.access_token.reveal()


def _text(secret: Secret | None) -> str:
    assert secret is not None
    return secret.reveal()


class _FullDisk(SQLiteStore):
    full = True

    def commit(self, record: Any, event: dict[str, Any], **how: Any) -> bool:
        if self.full and event["action"] == "issue_token":
            raise errors.StoreError("The disk is full.")
        return super().commit(record, event, **how)


def unsaved(url: str) -> list[Any]:
    """Fork with a token that the store would not take; the child does all it can to get it.

    Returns:
        The child's exit code, what the child found in the store, what the parent got, and what
        was to be revoked in the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        clock = VirtualClock()
        store = _FullDisk(Path(folder, "flows.db"), plaintext=True)
        client = Client(store, clock=clock, deadline=5.0)
        flow = client.start(provider(url))
        clock.advance(10)
        try:
            client.step(flow.id)
        except errors.StoreError:
            store.full = False
        said = Path(folder, "child")

        def child() -> None:
            client.sweep()
            state = client.step(flow.id).state
            said.write_text(state)
            if state is State.AUTHORIZED:
                client.collect_token(flow.id)
                client.acknowledge(flow.id)

        codes = ended([fork(child)])
        client.step(flow.id)
        stands = get(client._store, flow.id)
        revoked = [kind for kind, _ in stands.to_revoke]
        return [*codes, said.read_text(), _token(stands), stands.orphaned_tokens, revoked]


def holding() -> list[Any]:
    """Fork while a login is held; one child goes on with it, and another one gives it back.

    Returns:
        The children's exit codes, whether they changed the store, and the history in the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        clock, path = VirtualClock(), Path(folder, "flows.db")
        store = SQLiteStore(path, plaintext=True, trail="summary")
        waits = [PENDING] * 3
        transport = ScriptedTransport([CODE, *waits, GRANTED])
        client = Client(store, clock=clock, transport=transport)
        login = client.start(provider("https://as.example.com"))
        hold = Hold(login.id)
        for _ in waits:
            client._run(hold.step)
            clock.advance(10)
        asked, tables = len(transport.requests), ("flows", "drivers", "taken", "audit")

        def stored() -> list[Any]:
            with closing(sqlite3.connect(path)) as database:
                return [database.execute(f"SELECT * FROM {name}").fetchall() for name in tables]

        def go_on() -> None:
            client._run(hold.step)
            assert (hold.flow, len(transport.requests)) == (None, asked)

        before = stored()
        codes = ended([fork(go_on)]) + ended([fork(lambda: client._run(hold.end))])
        changed = stored() != before
        while not client._run(hold.step).has_token:
            clock.advance(10)
        return [codes, changed, [event["action"] for event in store.events(login.id)]]


class _Gate:
    """Where one thread is held while the program forks."""

    def __init__(self) -> None:
        self.inside, self.leave = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def pass_through(self) -> None:
        if threading.current_thread() is self.thread:
            self.inside.set()
            self.leave.wait()

    def hold(self, work: Callable[[], object]) -> None:
        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        assert self.inside.wait(PATIENCE)


class _SlowClock(SystemClock):
    def __init__(self, gate: _Gate) -> None:
        self._gate = gate

    def time(self) -> float:
        self._gate.pass_through()
        return super().time()


class _SlowNumber(float):
    gate: _Gate

    def __float__(self) -> float:
        self.gate.pass_through()
        return super().__float__()


def held_clock(url: str) -> list[int]:
    """Fork while another thread is inside the client's clock."""
    gate = _Gate()
    client = Client(clock=_SlowClock(gate), deadline=5.0)
    flow = client.start(provider(url))
    gate.hold(lambda: client.step(flow.id))
    codes = ended([fork(lambda: client.start(provider(url)))])
    gate.leave.set()
    return codes


def held_memory(url: str) -> list[int]:
    """Fork while another thread is inside the store in memory."""
    gate, store = _Gate(), MemoryStore()
    client = Client(store, deadline=5.0)
    flow = client.start(provider(url))
    now = _SlowNumber(1e9)
    now.gate = gate
    gate.hold(lambda: store.claim(flow.id, "another", now, 1.0))

    def child() -> None:
        assert client.get(flow.id).id == flow.id
        client.start(provider(url))

    codes = ended([fork(child)])
    gate.leave.set()
    return codes


_WRITER: Final = """
import sqlite3, sys
writer = sqlite3.connect(sys.argv[1], isolation_level=None)
writer.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
sys.stdin.readline()
writer.execute("ROLLBACK")
"""


def held_sqlite(url: str) -> list[int]:
    """Fork while another thread waits, inside the store, for another process's transaction."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flows.db")
        store = SQLiteStore(path, plaintext=True)
        client = Client(store, deadline=5.0)
        flow = client.start(provider(url))
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        ) as writer:
            assert writer.stdin
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
            waiting = threading.Thread(target=client.cancel, args=(flow.id,))
            waiting.start()
            threading.Event().wait(0.3)
            # Not closed, since the child has it open too.
            threading.Timer(1.0, writer.stdin.write, (b"\n",)).start()
            codes = ended([fork(lambda: client.start(provider(url)))])
            waiting.join()
        assert client.get(flow.id).state.ended
        store.close()
    return codes


def closed_sqlite(url: str) -> list[int]:
    """Let a child go on with a store that its parent has closed, while a third opens it anew."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flows.db")
        store = SQLiteStore(path, plaintext=True)
        client = Client(store, deadline=5.0)
        closed, go = os.pipe()

        def child() -> None:
            first = client.start(provider(url)).id
            os.read(closed, 1)
            second = client.start(provider(url)).id
            with SQLiteStore(path, plaintext=True) as other:
                assert {flow.id for flow in all_flows(other)} == {first, second}

        number = fork(child)
        threading.Event().wait(0.5)
        store.close()
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM flows')"
        subprocess.run([sys.executable, "-c", script, path], check=True)
        os.write(go, b"x")
        return ended([number])


def held_login(url: str) -> list[int]:
    """Fork while another thread waits for a person's approval, on behalf of a session."""
    gate = _Gate()

    def output(_: str) -> None:
        gate.pass_through()

    client = Client(output=output, browser=lambda _: True, clock=VirtualClock())
    session = requests.Session()
    session.auth = DeviceFlowAuth(client, "nightly", provider(url), interactive=True)
    gate.hold(lambda: session.get(f"{url}/api", timeout=60))

    def child() -> None:
        assert session.get(f"{url}/api", timeout=60).ok

    return ended([fork(child)])


def busy(url: str) -> list[int]:
    """Fork again and again while other threads log in by the same client."""
    with tempfile.TemporaryDirectory() as folder:
        codes = []
        for store in (SQLiteStore(Path(folder, "flows.db"), plaintext=True), MemoryStore()):
            client = Client(store, deadline=5.0)
            over = threading.Event()

            def login(client: Client = client) -> None:
                flow = client.start(Studio(url))  # which may be polled at once
                code = get(client._store, flow.id).device_code
                client.step(flow.id)
                assert client.collect_token(flow.id).access_token == Secret(
                    f"token-of-{_text(code)}"
                )

            def logins(over: threading.Event = over, login: Callable[[], None] = login) -> None:
                while not over.is_set():
                    login()

            threads = [threading.Thread(target=logins) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(10):
                codes += ended([fork(login) for _ in range(2)])
            over.set()
            for thread in threads:
                thread.join()
            client.close()
            store.close()
    return codes


def main() -> None:
    name, *given = sys.argv[1:]
    print(json.dumps(globals()[name](*given)))  # noqa: T201


if __name__ == "__main__":
    main()
