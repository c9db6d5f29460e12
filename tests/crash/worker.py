"""What a process does that may die at it: a login from its start, or from where it was left."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from deviceflow import (
    AsyncClient,
    Client,
    LoginError,
    LoginPending,
    OAuth,
    State,
    Studio,
    open_store,
)
from deviceflow.cli import main
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.core.ports import LeaseHeld
from deviceflow.errors import LoginBusyError, TokenGoneError, UnreachableError
from deviceflow.stores.sql import SQLStore
from deviceflow.stores.url import open_async_store
from deviceflow.transports.httptools import HttptoolsTransport
from deviceflow.transports.requests import RequestsTransport
from deviceflow.worker import Worker
from tests.crash.async_traps import AsyncTrappedStore, AsyncTrappedTransport
from tests.crash.clock import CrowdClock, SharedClock
from tests.crash.paced import PacedClock, PacedLoop
from tests.crash.traps import (
    TrappedStore,
    TrappedTransport,
    Traps,
    set_in_code,
    set_in_command,
)
from tests.facade import AsyncFacade
from tests.integration.blocking import BlockingStore
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow import Token
    from deviceflow.core.ports import Claim, Decide
    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Failure, Request, Response
    from tests.crash.traps import Trap

Dialect = Literal["oauth", "studio"]
Then = Literal["start", "leave", "collect", "purge", "cancel"]


@dataclass(frozen=True, kw_only=True)
class Login:
    """One life of a login: the same program, started again and again.

    Attributes:
        store: The store's URL.
        keys: Its keys, where it is not to find them itself.
        clock: The file of the shared clock.
        report: The file to write down what happens.
        server: Where the server is.
        dialect: The server's dialect.
        client: The client's name, and the login's key.
        flow_id: The flow to go on with; None to start it by its key.
        waits: Whether by `wait` and `acknowledge`; else by `step` and `collect`.
        then: What to do once it is authorized; `start` and `cancel` end before that.
        deadline: Seconds that a request may take, which are real ones.
        traps: Where to die or to stop.
        any_point: The number of the point at which to die.
        is_async: Whether an `AsyncClient` drives it, with its own store and transport.
    """

    store: str
    keys: list[str] | None
    clock: str
    report: str
    server: str
    dialect: Dialect = "oauth"
    client: str = "robot"
    flow_id: str | None = None
    waits: bool = False
    then: Then = "collect"
    deadline: float = 10.0
    traps: list[Trap] = field(default_factory=list)
    any_point: int | None = None
    is_async: bool = False


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One of many workers that step the same flows.

    Attributes:
        store: The store's URL.
        keys: Its keys, where it is not to find them itself.
        clock: The file of the shared clock.
        report: The file to write down what happens.
        server: Where the server is.
        clients: The names of the clients whose logins this worker starts, by the same keys; others
            start the same at the same time.
        go: A file; once it is there, the flows are stepped.
        seconds: For how long at the most, by the clock.
        seed: Of this worker's choices.
    """

    store: str
    keys: list[str] | None
    clock: str
    report: str
    server: str
    clients: list[str]
    go: str
    seconds: float
    seed: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """One life of the command `deviceflow`, which dies at a trap.

    Attributes:
        args: Its arguments.
        folder: Where it runs; its stdout and stderr go to the files `out` and `err` beside that.
        store: The store's URL.
        keys: Its keys, where it is not to find them itself.
        clock: The file of the shared clock.
        report: The file to write down what happens.
        traps: Where to die.
        any_point: The number of the point at which to die.
    """

    args: list[str]
    folder: str
    store: str
    keys: list[str] | None
    clock: str
    report: str
    traps: list[Trap] = field(default_factory=list)
    any_point: int | None = None


@dataclass(frozen=True, kw_only=True)
class Crew:
    """A worker that drives a whole store, until SIGTERM.

    Attributes:
        store: The store's URL.
        keys: Its keys, where it is not to find them itself.
        clock: The file of the shared clock.
        report: The file to write down what happens.
        concurrency: How many steps it makes at a time.
    """

    store: str
    keys: list[str] | None
    clock: str
    report: str
    concurrency: int = 10


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of a grant: the program asks for its token, which may have to be refreshed.

    Attributes:
        store: The store's URL.
        keys: Its keys, where it is not to find them itself.
        clock: The file of the shared clock.
        report: The file to write down what happens.
        log: The file that the program's log goes to, with all that it says.
        name: The grant's name.
        min_ttl: How many seconds must be left of the token.
        deadline: Seconds that a request may take, which are real ones.
        traps: Where to die or to stop.
        any_point: The number of the point at which to die.
        is_async: Whether by an `AsyncClient`, with its own store and transport.
    """

    store: str
    keys: list[str] | None
    clock: str
    report: str
    log: str
    name: str
    min_ttl: float
    deadline: float = 10.0
    traps: list[Trap] = field(default_factory=list)
    any_point: int | None = None
    is_async: bool = False


Job = Login | Shift | Command | Crew | Use


def to_json(job: Job) -> str:
    """Return the job as one line."""
    return json.dumps({type(job).__name__: asdict(job)})


def run(text: str) -> None:
    """Do the job that `to_json` gave `text` of."""
    ((kind, values),) = json.loads(text).items()
    try:
        match kind:
            case "Login":
                log_in(Login(**values))
            case "Shift":
                work(Shift(**values))
            case "Crew":
                drive(Crew(**values))
            case "Use":
                use(Use(**values))
            case _:
                command(Command(**values))
    except BaseException:
        Reporter(values["report"])(error=traceback.format_exc())
        raise


class Reporter:
    """Writes lines that are there even if the process is not, a moment later."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, **what: object) -> None:
        os.write(self._file, json.dumps(what).encode() + b"\n")


def told(path: Path) -> list[dict[str, Any]]:
    """Return what a process has reported by now."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def provider_of(dialect: Dialect, server: str, client: str) -> Provider:
    """Return the provider that is the local server, in a dialect."""
    if dialect == "studio":
        return Studio(server).with_request(client_name=client)
    return OAuth(
        client_id=client,
        device_authorization_endpoint=f"{server}/oauth/device_authorization",
        token_endpoint=f"{server}/oauth/token",
    )


def log_in(job: Login) -> None:
    """Drive one login, or what is left of it, to its end."""
    report = Reporter(job.report)
    traps = Traps(job.traps, job.any_point, report)
    set_in_code(traps)
    clock = SharedClock(Path(job.clock))
    client, store = _client(job, traps, clock)
    flow_id = job.flow_id
    if flow_id is None:
        provider = provider_of(job.dialect, job.server, job.client)
        flow_id = client.start(provider, name=job.client).id
        report(flow_id=flow_id)
    if job.then == "start":
        return
    if job.then == "cancel":
        client.step(flow_id)
        client.cancel(flow_id)

    def sink(token: Token) -> None:
        traps.reach("before the sink")
        report(delivered=token.access_token.reveal(), possibly_revoked=token.possibly_revoked)
        traps.reach("after the sink")

    if job.waits and job.then == "collect":
        _wait(client, flow_id, sink)
    elif job.waits and job.then == "leave":
        client.wait(flow_id)
    else:
        _step(client, clock, flow_id)
        if job.then == "collect":
            _collect(client, clock, flow_id, sink)
        elif job.then == "purge":
            while get(client._store, flow_id).token is not None:
                client.purge(tokens_after=0.0)
                clock.sleep(LEASE_MARGIN)  # whoever died at it holds the lease still
    report(done=True)
    store.close()


def use(job: Use) -> None:
    """Ask for the token of a grant once, and say what came of it."""
    report = Reporter(job.report)
    logging.basicConfig(filename=job.log, level=logging.DEBUG)
    traps = Traps(job.traps, job.any_point, report)
    set_in_code(traps)
    client, store = _client(job, traps, SharedClock(Path(job.clock)))
    try:
        token = client.get_token(job.name, min_ttl=job.min_ttl)
        report(token=token.access_token.reveal(), generation=token.generation)
    except LoginPending as pending:
        report(pending=pending.need_id)
    except UnreachableError:
        report(unreachable=True)
    store.close()


def _client(job: Login | Use, traps: Traps, clock: SharedClock) -> tuple[Client, Any]:
    """Return the client that drives the login, and its store, both with a sync face."""
    keys: dict[str, Any] = {"keys": job.keys} if job.keys else {}
    if job.is_async:
        opened: Any = open_async_store(job.store, **keys)
        blocking = BlockingStore(AsyncTrappedStore(opened, traps))
        transport = AsyncTrappedTransport(HttptoolsTransport(), traps)
        facade: Any = AsyncFacade(blocking, transport=transport, clock=clock, deadline=job.deadline)
        return facade, blocking
    store = open_store(job.store, **keys)
    assert isinstance(store, SQLStore)
    client = Client(
        TrappedStore(store, traps),
        transport=TrappedTransport(RequestsTransport(), traps),
        clock=clock,
        deadline=job.deadline,
    )
    return client, store


def _wait(client: Client, flow_id: str, sink: Callable[[Token], None]) -> None:
    try:
        token = client.wait_for_token(flow_id)
    except (LoginError, TokenGoneError):
        return
    sink(token)
    client.acknowledge(flow_id)


def _step(client: Client, clock: SharedClock, flow_id: str) -> None:
    while not (done := client.step(flow_id)).state.ended:
        clock.sleep(done.wait_seconds)


def _collect(
    client: Client, clock: SharedClock, flow_id: str, sink: Callable[[Token], None]
) -> None:
    while True:
        try:
            with client.collect(flow_id) as token:
                sink(token)
        except LoginBusyError as busy:
            clock.sleep(busy.wait_seconds)
        except (LoginError, TokenGoneError):
            return
        else:
            return


class _PacedTransport:
    """A transport by a clock that runs faster: its deadlines come sooner."""

    def __init__(self, pace: int) -> None:
        self._transport = RequestsTransport()
        self._pace = pace

    def send(self, request: Request, timeout: float) -> Response | Failure:
        return self._transport.send(request, timeout / (self._pace or 1))

    def close(self) -> None:
        self._transport.close()


class _SinkError(Exception):
    pass


def work(job: Shift) -> None:
    """Step all the flows, in competition with others, until all have come to their end."""
    report, rng = Reporter(job.report), Random(job.seed)
    clock = CrowdClock(Path(job.clock))
    store = open_store(job.store, **({"keys": job.keys} if job.keys else {}))
    assert isinstance(store, SQLStore)
    claim, held = store.claim, 0

    def counting_claim(
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        nonlocal held
        claimed = claim(flow_id, owner, client_now, seconds, decide)
        held += isinstance(claimed, LeaseHeld)
        return claimed

    store.claim = counting_claim  # type: ignore[method-assign]
    client = Client(store, transport=_PacedTransport(clock.pace), clock=clock)
    for name in rng.sample(job.clients, len(job.clients)):
        client.start(provider_of("oauth", job.server, name), name=name)
    report(started=True)
    while not Path(job.go).exists():
        time.sleep(0.01)

    now = clock.time()
    due = {login.id: now + login.wait_seconds for login in client.logins()}
    until = clock.time() + job.seconds
    while due and clock.time() < until:
        chance = rng.random()
        if chance < 0.3:
            swept = client.sweep(rng.randint(1, 4))
            steps = swept.logins
            for problem in swept.problems:
                report(problem=str(problem))
        else:
            # Mostly what all the others are about to step as well.
            chosen = rng.choice(list(due)) if chance < 0.5 else min(due, key=lambda one: due[one])
            steps = [client.step(chosen)]
        for done in steps:
            if done.state is not State.AUTHORIZED:
                over = done.state.ended
            else:
                over = _hand_over(client, done.id, rng, report)
            due[done.id] = clock.time() + done.wait_seconds
            if over:
                del due[done.id]
        clock.sleep(rng.uniform(0.02, 0.3))
    report(done=True, held=held, left=list(due))
    store.close()


def _sink(rng: Random) -> None:
    if rng.random() < 0.3:
        raise _SinkError


def _hand_over(client: Client, flow_id: str, rng: Random, report: Reporter) -> bool:
    """Collect a token, with a sink that fails now and then; tell whether that is done."""
    try:
        with client.collect(flow_id) as token:
            _sink(rng)
            delivered = token.access_token.reveal()
    except (_SinkError, LoginBusyError):
        return False
    except TokenGoneError:
        return True
    report(delivered=delivered, flow_id=flow_id)
    return True


def command(job: Command) -> None:
    """Run the command as a process of its own would, by the shared clock."""
    report = Reporter(job.report)
    traps = Traps(job.traps, job.any_point, report)
    set_in_code(traps)
    set_in_command(traps, SharedClock(Path(job.clock)))
    folder = Path(job.folder)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder.with_name(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
    os.environ |= {"DEVICEFLOW_STORE": job.store, "HOME": job.folder}
    if job.keys:
        os.environ["DEVICEFLOW_KEYS"] = ",".join(job.keys)
    code = main(job.args)
    sys.stdout.flush()
    report(code=code)


def drive(job: Crew) -> None:
    """Drive all logins of the store, by the clock's pace."""
    clock = PacedClock(Path(job.clock))
    with asyncio.Runner(loop_factory=lambda: PacedLoop(clock.pace)) as runner:
        runner.run(_drive(job, clock))


async def _drive(job: Crew, clock: PacedClock) -> None:
    report = Reporter(job.report)
    store = open_async_store(job.store, **({"keys": job.keys} if job.keys else {}))
    async with AsyncClient(store, clock=clock) as client:
        worker = Worker(
            client,
            concurrency=job.concurrency,
            on_problem=lambda problem: report(problem=f"{type(problem).__name__}: {problem}"),
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()
    await store.close()
    report(done=True, counts=worker.counts._asdict())
