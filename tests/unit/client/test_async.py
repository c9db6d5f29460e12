"""The async driver: what it does beyond what the sync one does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from blockbuster import BlockingError, blockbuster_ctx

from deviceflow import errors
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.audit.origin import origin
from deviceflow.client._async import AsyncClient
from deviceflow.core.flow import Flow
from deviceflow.core.states import State
from deviceflow.core.wire import Failure
from deviceflow.providers.oauth import OAuth
from deviceflow.stores.async_memory import AsyncMemoryStore
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import AsyncScriptedTransport, AsyncVirtualClock, answer
from deviceflow.transports.threaded import ThreadedTransport
from tests.awaited import Awaited, in_turn
from tests.stored import flows
from tests.unit.client.test_giving_way import OAUTH, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.login import Login
    from deviceflow.core.wire import Request, Response

CODE: Final = answer(
    200,
    {
        "device_code": "code",
        "user_code": "U",
        "verification_uri": "https://as.example.com/device",
        "expires_in": 600,
    },
)
PENDING: Final = answer(400, {"error": "authorization_pending"})
MANY: Final = 100


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("deviceflow"):
        yield


class Never(Server):
    """Nobody approves."""

    def send(self, request: Request, timeout: float) -> Response:
        answered = super().send(request, timeout)
        for code in self.polls:
            self.polls[code] = 0
        return answered


def client(server: Server | None = None, **parts: Any) -> AsyncClient:
    ours: dict[str, Any] = {
        "clock": AsyncVirtualClock(),
        "transport": Awaited(server or Server(), in_turn),
        "output": lambda _: None,
        "browser": lambda _: True,
    }
    return AsyncClient(**(ours | parts))


def test_the_detector_finds_what_blocks() -> None:
    def sleeps(event: object) -> None:
        time.sleep(0.001)

    async def main() -> None:
        driver = client(on_transition=None, audit=None)
        await driver.wait((await driver.start(OAUTH)).id, on_step=sleeps)

    with pytest.raises(BlockingError):
        asyncio.run(main())


# Many tasks.


def test_a_hundred_logins_in_a_task_group() -> None:
    server, clock = Server(), AsyncVirtualClock()

    async def main() -> set[str]:
        async with client(server, clock=clock) as driver, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(driver.login(OAUTH, open_browser=False)) for _ in range(MANY)
            ]
        return {task.result().access_token.reveal() for task in tasks}

    assert asyncio.run(main()) == set(server.issued)
    assert len(server.issued) == MANY
    assert clock.monotonic() - 1000 < 20  # they waited at the same time


def test_task_group_that_fails_leaves_each_login_open_and_no_lease() -> None:
    store = MemoryStore()

    class TooBadError(Exception):
        pass

    async def main() -> None:
        async with client(Never(), store=Awaited(store, in_turn)) as driver:
            started = [(await driver.start(OAUTH)).id for _ in range(MANY)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(driver.wait_for_token(one)) for one in started]
                for _ in range(50):
                    await asyncio.sleep(0)
                assert not any(task.done() for task in tasks)
                raise TooBadError

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())

    assert [type(error) for error in caught.value.exceptions] == [TooBadError]
    assert {flow.state for flow in flows(store)} == {State.AWAITING_USER}
    assert not any(one.owner for one in store._entries[Flow].values())


def test_many_tasks_that_start_one_login_send_one_request_for_a_code() -> None:
    server = Never()

    async def main() -> list[Login]:
        async with client(server) as driver:
            return await asyncio.gather(*(driver.start(OAUTH, name="one") for _ in range(8)))

    assert len({login.id for login in asyncio.run(main())}) == 1
    assert len(server.polls) == 1


def test_each_task_acts_for_its_own_origin() -> None:
    acted: dict[str, list[str]] = {}
    clock = AsyncVirtualClock()

    def keep(event: dict[str, Any]) -> None:
        acted.setdefault(event["flow_id"], []).append(event["actor"])

    async def acting(driver: AsyncClient, actor: str) -> tuple[str, str]:
        with origin(actor=actor):
            login = await driver.start(OAUTH, name=actor)
            clock.advance(6)
            await driver.step(login.id)
        return login.id, actor

    async def in_a_bare_thread(work: Callable[[], Any]) -> Any:
        """Call it where no context variable is set."""
        return await asyncio.get_running_loop().run_in_executor(None, work)

    async def main() -> list[tuple[str, str]]:
        store = Awaited(MemoryStore(), in_a_bare_thread)
        async with client(store=store, clock=clock, on_transition=keep) as driver:
            return await asyncio.gather(*(acting(driver, f"person {n}") for n in range(10)))

    assert acted == {flow_id: [actor] * 3 for flow_id, actor in asyncio.run(main())}


# Waiting.


def test_cancel_from_another_task_wakes_who_waits_in_real_time() -> None:
    async def main() -> Login:
        driver = client(Never(), clock=None)
        login = await driver.start(OAUTH)
        seen = asyncio.Event()
        waiting = asyncio.create_task(driver.wait(login.id, on_step=lambda _: seen.set()))
        await seen.wait()
        await driver.cancel(login.id)
        return await waiting

    began = time.monotonic()
    assert asyncio.run(main()).state is State.FAILED
    assert time.monotonic() - began < 4  # the interval is five seconds


def test_timeout_of_asyncio_leaves_the_login_open() -> None:
    async def main() -> Login:
        driver = client(Never(), clock=None)
        login = await driver.start(OAUTH)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await driver.wait(login.id)
        return await driver.get(login.id)

    assert asyncio.run(main()).state is State.AWAITING_USER


def test_timeout_of_the_wait_is_an_error_of_ours() -> None:
    async def main() -> None:
        driver = client(Never(), clock=None)
        login = await driver.start(OAUTH)
        with pytest.raises(errors.WaitTimeoutError):
            await driver.wait(login.id, timeout=0.05)

    asyncio.run(main())


def test_functions_of_the_program_may_be_coroutine_functions() -> None:
    said: list[object] = []

    async def say(what: object) -> None:
        await asyncio.sleep(0)
        said.append(what)

    async def main() -> None:
        driver = client(output=say)
        await driver.login(OAUTH)
        await driver.wait((await driver.start(OAUTH)).id, on_step=say)

    asyncio.run(main())

    assert {type(one).__name__ for one in said} == {"str", "Login"}


# A request that is cancelled.


def test_request_that_is_cancelled_is_stored_as_interrupted_and_the_lease_given_back() -> None:
    store, events = MemoryStore(), list[dict[str, Any]]()

    async def main() -> None:
        under_way = asyncio.Event()

        class Stalled(AsyncScriptedTransport):
            async def send(self, request: Request, timeout: float) -> Response | Failure:
                if len(self.requests) == 1:
                    under_way.set()
                    await asyncio.Event().wait()
                return await super().send(request, timeout)

        driver = client(
            store=Awaited(store, in_turn),
            transport=Stalled([CODE]),
            on_transition=events.append,
        )
        login = await driver.start(OAUTH)
        task = asyncio.create_task(driver.wait(login.id))
        await under_way.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert [event["action"] for event in events] == ["issue_code", "poll", "retry"]
    assert "interrupted" in json.dumps(events[-1])
    (flow,) = flows(store)
    assert (flow.state, flow.in_doubt) == (State.AWAITING_USER, True)
    assert not any(one.owner for one in store._entries[Flow].values())


def test_collection_that_is_cancelled_at_its_very_end_gives_the_lease_back() -> None:
    """Nobody gets the token of an operation that is over and cancelled."""
    store = MemoryStore()

    async def collect(driver: AsyncClient, flow_id: str) -> None:
        async with driver.collect(flow_id, 3600):
            raise AssertionError("it was cancelled before")

    class Last(Awaited):
        """Has the task cancelled during the last effect of the beginning."""

        task: asyncio.Task[None] | None = None

        async def commit(self, *args: Any, **how: Any) -> bool:
            if self.task is not None:
                self.task.cancel()
            return bool(await self._awaited(self.part.commit, *args, **how))

    async def main() -> None:
        stored = Last(store, in_turn)
        driver = client(store=stored)
        login = await driver.wait((await driver.start(OAUTH)).id)
        stored.task = task = asyncio.create_task(collect(driver, login.id))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert not any(one.owner for one in store._entries[Flow].values())


@pytest.mark.parametrize("fails", [True, False])
def test_cancellation_counts_where_the_store_fails_as_well(fails: bool) -> None:
    async def main() -> None:
        class Failing(AsyncMemoryStore):
            async def commit(self, *args: Any, **how: Any) -> bool:
                done = await super().commit(*args, **how)
                for task in tasks:
                    task.cancel()
                await asyncio.sleep(0)
                if fails:
                    raise errors.StoreError("The disk is full.")
                return done

        tasks: list[asyncio.Task[Any]] = []
        driver = client(store=Failing())
        tasks.append(asyncio.create_task(driver.start(OAUTH)))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    asyncio.run(main())


# What would block is done in threads.


def test_audit_file_is_written_in_the_order_of_the_events(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    async def work(driver: AsyncClient) -> None:
        login = await driver.start(OAUTH)
        polled = asyncio.create_task(driver.step(login.id))
        await driver.cancel(login.id)
        await polled

    async def main() -> None:
        async with client(audit=JSONLinesAudit(path)) as driver, asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(work(driver))

    asyncio.run(main())

    seqs: dict[str, list[int]] = {}
    for line in path.read_text().splitlines():
        event = json.loads(line)
        seqs.setdefault(event["flow_id"], []).append(event["seq"])
    assert len(seqs) == 20
    assert all(found == list(range(1, len(found) + 1)) for found in seqs.values())


def test_secret_in_a_file_is_read_in_a_thread(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    provider = OAuth(
        client_id="robot",
        device_authorization_endpoint="https://as.example.com/device_authorization",
        token_endpoint="https://as.example.com/token",
        client_secret=f"file:{secret}",
    )
    transport = AsyncScriptedTransport([CODE])

    async def main() -> None:
        await client(transport=transport).start(provider)

    asyncio.run(main())

    assert "Authorization" in transport.requests[0].headers


def test_browser_is_opened_in_a_thread() -> None:
    threads: list[threading.Thread] = []

    def browser(url: str) -> bool:
        time.sleep(0.001)
        threads.append(threading.current_thread())
        return True

    asyncio.run(_logged_in(client(browser=browser)))

    assert threads
    assert threading.main_thread() not in threads


async def _logged_in(driver: AsyncClient) -> None:
    await driver.login(OAUTH)


# The default where no extra is installed.


def test_requests_in_threads_share_the_loop() -> None:
    class Slow(Server):
        def send(self, request: Request, timeout: float) -> Response:
            time.sleep(0.01)
            return super().send(request, timeout)

    server = Slow()

    async def main() -> None:
        async with client(transport=ThreadedTransport(server, threads=10)) as driver:
            await asyncio.gather(*(driver.start(OAUTH) for _ in range(10)))

    asyncio.run(main())

    assert len(server.polls) == 10


def test_request_that_finds_no_thread_in_time_is_not_sent() -> None:
    release = threading.Event()

    class Stuck(Server):
        def send(self, request: Request, timeout: float) -> Response:
            release.wait()
            return PENDING

    async def main() -> Response | Failure:
        transport = ThreadedTransport(Stuck(), threads=1)
        request = OAUTH.code_request()
        stuck = asyncio.create_task(transport.send(request, 5))
        await asyncio.sleep(0)
        late = asyncio.create_task(transport.send(request, 0))
        await asyncio.sleep(0)
        release.set()
        await stuck
        said = await late
        await transport.close()
        return said

    late = asyncio.run(main())
    assert isinstance(late, Failure)
    assert (late.kind, late.sent) == ("timeout", False)


def test_transport_in_threads_can_be_used_again_after_it_was_closed() -> None:
    server = Server()

    async def main() -> None:
        transport = ThreadedTransport(server, threads=1)
        for _ in range(2):
            await transport.send(OAUTH.code_request(), 5)
            await transport.close()

    asyncio.run(main())

    assert len(server.polls) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_sends_in_threads_of_its_own() -> None:
    transport = ThreadedTransport(Server(), threads=1)

    async def main() -> Response | Failure:
        return await transport.send(OAUTH.code_request(), 5)

    asyncio.run(main())
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            os._exit(0 if asyncio.run(main()).status == 200 else 1)  # type: ignore[union-attr]
        finally:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Time in tests.


def test_sleepers_on_a_virtual_clock_wake_in_the_order_of_their_times() -> None:
    clock, woken = AsyncVirtualClock(), list[tuple[float, float]]()
    begun = clock.monotonic()

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic() - begun))

    async def main() -> None:
        await asyncio.gather(*(sleep(seconds) for seconds in (3, 1, 2, 1, 0)))

    asyncio.run(main())

    assert woken == [(0, 0), (1, 1), (1, 1), (2, 2), (3, 3)]


def test_sleeper_on_a_virtual_clock_that_is_cancelled_keeps_nobody_waiting() -> None:
    clock = AsyncVirtualClock()

    async def main() -> None:
        short, long = (asyncio.create_task(clock.sleep(n)) for n in (1, 2))
        await asyncio.sleep(0)
        short.cancel()
        with suppress(asyncio.CancelledError):
            await short
        await long

    asyncio.run(main())

    assert clock.monotonic() == 1002
