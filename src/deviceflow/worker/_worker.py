"""Drive whatever is due in a store, with a limited number of requests at a time.

A waiting login has no task: it is a record in a heap. Timers and ended steps begin the next steps.
No rule of a login is here: see `deviceflow.worker._drive`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from deviceflow.client import grant_end
from deviceflow.client.driver import HEARTBEAT
from deviceflow.client.grant_end import UNUSED
from deviceflow.client.hold import lease_to_hold
from deviceflow.client.purge import DAY
from deviceflow.client.store_clock import Seen, StoreClock
from deviceflow.client.sweep import save_tokens
from deviceflow.client.turns import NOTIFIED_AT_ONCE, Turn, Turns
from deviceflow.core import queries
from deviceflow.errors import LoginPending, StoreError, UsageError
from deviceflow.worker import _drive
from deviceflow.worker._schedule import (
    GRACE,
    LOOK_AHEAD,
    LOOK_EACH,
    Due,
    Schedule,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deviceflow.client._async import AsyncClient
    from deviceflow.client.grant_end import SweptGrants
    from deviceflow.client.world import World
    from deviceflow.core.login import Login

CONCURRENCY: Final = 200
"""How many logins a worker steps at a time, unless it is told otherwise."""

SHUTDOWN_TIMEOUT: Final = 20.0
"""Seconds that steps in flight have to end, unless the worker is told otherwise.

A request takes 10 seconds at the most, and Kubernetes kills a container after 30.
"""

_TIDY_EACH: Final = 60.0
_GRANTS_EACH: Final = 2.0
_GRANTS: Final = 1000
_CHECKS: Final = 10
_LOOK_AGAIN: Final = 0.05
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_LONGEST_TIMER: Final = 60.0
_LISTEN: Final = 60.0
_LAST_TRY: Final = 1.0
_GIVEN_BACK_AT_ONCE: Final = 1000

_T = TypeVar("_T")


class Retention(NamedTuple):
    """What a worker purges, and how often.

    Attributes:
        tokens_after: As for `Client.purge`, in seconds.
        flows_after: As for `Client.purge`, in seconds.
        each: Seconds between two purges.
    """

    tokens_after: float = 7 * DAY
    flows_after: float = 90 * DAY
    each: float = 3600.0


class Step(NamedTuple):
    """A step that a worker made.

    Attributes:
        flow_id: The login.
        lateness: How many seconds after it was due the step began.
        login: The login after the step; None where there was none.
        problem: What kept the login from being stepped.
    """

    flow_id: str
    lateness: float
    login: Login | None = None
    problem: Exception | None = None


class Counts(NamedTuple):
    """How a worker is doing.

    Attributes:
        waiting: How many logins it drives that are not in flight.
        due: How many of these are due.
        in_flight: How many steps it is making.
        lateness: The greatest lateness in seconds among the last steps, or of what is due.
        steps: How many steps it has made.
        problems: How many logins could not be stepped.
        store_failed: Whether the store cannot be used at the moment.
    """

    waiting: int
    due: int
    in_flight: int
    lateness: float
    steps: int
    problems: int
    store_failed: bool


def _nothing(_: Any) -> None:
    return None


class Worker:
    """Drives the logins of a store until it is stopped.

    The worker finds logins that other programs have started. Any number of workers may share a
    store. A worker does not touch the logins that another worker drives, unless a login stays due
    for two seconds: then its worker has died, or has too much to do.

    Args:
        client: The client whose store the worker drives. The caller closes the client.
        concurrency: How many logins the worker steps at a time, and as many grants beside them. The
            servers take turns, and none has more than half of what is free, so that one that hangs
            delays no others. Up to 10 notifications are sent at a time.
        shutdown_timeout: How many seconds the steps in flight have to end after `stop`. Then the
            worker interrupts them, and stores that it did.
        retention: What the worker purges; None for nothing.
        check_each: After how many seconds the worker asks the servers whether the tokens of grants
            in use are valid, as `Client.check` does, again and again; None for never.
        on_step: Called after each step.
        on_problem: Called with each problem, once for each time that the store begins to fail.
        on_progress: Called whenever the worker makes progress: a step has ended, or the worker has
            looked for work and found none. A stuck worker does not call it.

    Raises:
        UsageError: `concurrency` is less than 1, or the client is not an `AsyncClient`.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        concurrency: int = CONCURRENCY,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
        retention: Retention | None = None,
        check_each: float | None = None,
        on_step: Callable[[Step], object] = _nothing,
        on_problem: Callable[[Exception], object] = _nothing,
        on_progress: Callable[[Worker], object] = _nothing,
    ) -> None:
        if concurrency < 1:
            raise UsageError("A worker makes at least one step at a time.")
        if not client._is_async:
            raise UsageError(
                "A worker runs in an event loop.",
                hint="Give it an AsyncClient; or use Client.sweep, one step of each due login.",
            )
        self._client = client
        self._clients = [client]
        self._logins = Turns[Due](concurrency)
        self._grants = Turns[None](concurrency)
        self._notices = Turns[None](NOTIFIED_AT_ONCE)
        self.retention = retention
        self.check_each = check_each
        self._shutdown_timeout = shutdown_timeout
        self._on_step = on_step
        self._on_problem = on_problem
        self._on_progress = on_progress
        self._schedule = Schedule()
        self._clock = StoreClock()
        self._flying: set[asyncio.Task[None]] = set()
        # What is to be stepped again once its step has ended: it takes no other turn before.
        self._again: dict[str, Due] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._stopping = asyncio.Event()
        self._pause = 0.0
        self._paused = False
        self._steps = self._problems = 0
        self._look_soon = asyncio.Event()
        self._until_idle = self._at_once = self._looked_for_grants = False
        self._bug: BaseException | None = None
        self._recent = deque[float]([0.0], maxlen=1000)

    # What a program calls.

    async def run(self, *, until_idle: bool = False) -> None:
        """Drive logins until `stop` is called; then end the steps in flight, and return.

        A cancelled `run` interrupts the steps in flight, and stores that.

        Args:
            until_idle: Whether to return also when no login is pending. Logins that were created
                and not started do not count, and neither do logins that cannot be stepped.
        """
        self._loop = asyncio.get_running_loop()
        self._until_idle = until_idle
        self._begin_chores()
        try:
            await self._stopping.wait()
            await self._end_steps()
            await self._give_back(self._client)
        finally:
            self._stopping.set()
            self._interrupt()
            while others := self._flying | self._chores:
                await asyncio.wait(others)
            if self._timer is not None:
                self._timer.cancel()
        if self._bug is not None:
            raise self._bug

    def stop(self, *, at_once: bool = False) -> None:
        """Begin no more steps, and have `run` return once those in flight have ended.

        Args:
            at_once: Whether to interrupt the steps in flight. The worker stores their results. If a
                step has no result yet, the worker stores that the login is in doubt.
        """
        self._stopping.set()
        if at_once:
            self._at_once = True
            self._interrupt()

    async def replace(self, client: AsyncClient) -> None:
        """Use another client for the same store; return when the old client is no longer used.

        Call `replace` after settings have changed. The old client finishes the steps in flight, and
        saves the tokens that it could not save yet.
        """
        former, self._client = self._client, client
        self._clients.append(client)
        flying = set(self._flying)
        for chore in self._chores:
            chore.cancel()
        if self._chores:
            await asyncio.wait(self._chores)
        self._begin_chores()
        if flying:
            await asyncio.wait(flying)
        await self._give_back(former)
        while former._context.unsaved.flow_ids() and not self._stopping.is_set():
            if await former._run(save_tokens):
                await asyncio.sleep(_FIRST_PAUSE)
        if not former._context.unsaved.flow_ids():
            self._clients.remove(former)

    @property
    def unsaved(self) -> list[str]:
        """The logins whose token is in this process only, because the store failed."""
        return [
            flow_id for client in self._clients for flow_id in client._context.unsaved.flow_ids()
        ]

    @property
    def counts(self) -> Counts:
        """The worker's counts at this moment."""
        now = self._now()
        return Counts(
            waiting=len(self._schedule) + len(self._logins),
            due=self._schedule.due(now) + len(self._logins),
            in_flight=len(self._flying),
            lateness=max(*self._recent, self._behind(now)),
            steps=self._steps,
            problems=self._problems,
            store_failed=self._paused,
        )

    # Steps.

    def _fill(self) -> None:
        """Begin what is due, as far as there is room."""
        if self._stopping.is_set() or self._paused:
            return
        now, client = self._now(), self._client
        while (due := self._schedule.take(now)) is not None:
            self._logins.put(due.server, due.flow_id, due)
        while (login := self._logins.take()) is not None:
            self._begin(self._logins, login, self._step(client, login.item, now - login.item.at))
        while (grant := self._grants.take()) is not None:
            tended = partial(grant_end.tend, name=grant.key)
            self._begin(self._grants, grant, self._look_after(client, tended))
        while (notice := self._notices.take()) is not None:
            told = partial(grant_end.tell, name=notice.key)
            self._begin(self._notices, notice, self._look_after(client, told))
        self._set_timer(now)

    def _begin(self, turns: Turns[_T], turn: Turn[_T], work: Coroutine[Any, Any, None]) -> None:
        def landed(task: asyncio.Task[None]) -> None:
            turns.end(turn)
            again = self._again.pop(turn.key, None)
            if again is not None:
                self._schedule.put(again)
            self._landed(task)

        task = self._loop.create_task(work)
        self._flying.add(task)
        task.add_done_callback(landed)

    def _set_timer(self, now: float) -> None:
        """Have `_fill` called when the next login is due, unless a step ends before."""
        at = self._schedule.next_at
        if at is None or not self._logins.free:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(min(max(0.0, at - now), _LONGEST_TIMER), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._fill()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._fill()
        if self._until_idle and not self._flying:
            self._look_soon.set()

    async def _step(self, client: AsyncClient, due: Due, lateness: float) -> None:
        login, problem = None, None
        try:
            driven = await client._run(_drive.drive, due.flow_id, due.seq)
        except StoreError as failed:
            self._store_failed(failed)
            self._again[due.flow_id] = due
        except Exception as bug:  # noqa: BLE001  # one login must not end the others
            problem = bug
        else:
            self._pause = 0.0
            if driven.seen is not None:
                self._clock.observe(driven.seen)
            if driven.next is not None:
                self._again[due.flow_id] = driven.next
            login, problem = driven.login, driven.problem
        if problem is not None:
            self._problems += 1
            self._on_problem(problem)
        self._steps += 1
        self._recent.append(lateness)
        self._on_step(Step(due.flow_id, lateness, login, problem))
        self._on_progress(self)

    def _store_failed(self, problem: Exception) -> None:
        """Leave the store alone for some seconds, more each time that it fails again."""
        if self._paused or self._stopping.is_set():
            return
        self._paused = True
        self._pause = min(max(_FIRST_PAUSE, 2 * self._pause), _LONGEST_PAUSE)
        self._loop.call_later(self._pause, self._go_on)
        self._on_problem(problem)

    def _go_on(self) -> None:
        self._paused = False
        self._fill()

    async def _end_steps(self) -> None:
        """Wait for the steps in flight, and try once more to save what could not be saved."""
        until = self._loop.time() + self._shutdown_timeout
        for chore in self._chores:
            chore.cancel()
        if self._flying:
            await asyncio.wait(self._flying, timeout=self._shutdown_timeout)
        self._interrupt()
        if self._flying:
            await asyncio.wait(self._flying)
        if self.unsaved:
            left = _LAST_TRY if self._at_once else until - self._loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(_LAST_TRY, left)):
                    for client in self._clients:
                        await client._run(save_tokens)

    def _interrupt(self) -> None:
        for task in self._flying | self._chores:
            task.cancel()

    # What else there is to do.

    def _begin_chores(self) -> None:
        if self._stopping.is_set():
            return
        for chore in (
            self._look_for_logins(),
            self._listen(),
            self._tidy(),
            self._purge(),
            self._look_for_grants(),
            self._check(),
            self._keep_hold(),
        ):
            task = self._loop.create_task(chore)
            self._chores.add(task)
            task.add_done_callback(self._chore_ended)

    def _chore_ended(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._bug = bug
            self._stopping.set()

    async def _look_for_logins(self) -> None:
        """Find logins that are due and that nobody drives."""
        while True:
            self._look_soon.clear()
            began = self._loop.time()
            try:
                await self._look()
                if self._until_idle and await self._is_idle():
                    self._stopping.set()
                    return
            except StoreError as failed:
                self._store_failed(failed)
            waits = not (self._logins or self._schedule.any_due(self._now()))
            if waits and not (self._paused or self._flying):
                self._pause = 0.0  # nothing is left of what the store failed for
            if waits or self._paused:
                self._on_progress(self)
            await asyncio.sleep(_LOOK_AGAIN)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(began + LOOK_EACH):
                    await self._look_soon.wait()

    async def _listen(self) -> None:
        """Look as soon as somebody has started a login, where the store tells of that."""
        while True:
            try:
                if await self._client._store.watch(_LISTEN):
                    self._look_soon.set()
            except StoreError as failed:
                self._store_failed(failed)
                await asyncio.sleep(LOOK_EACH)

    async def _look(self) -> None:
        client = self._client
        clocks = client._timeline.read()
        # A worker that is behind would find its own logins, unless those wait for one server.
        behind = self._behind(self._now()) >= GRACE / 2 and not self._logins.free
        grace = None if behind else GRACE
        found = await client._store.select(queries.upcoming(LOOK_AHEAD, grace), clocks.now)
        if client._context.driver.holds:
            found += await client._store.select(queries.lapsed(), clocks.now)
        if found:
            answered = client._clock.monotonic()
            self._clock.observe(Seen(found[0].now, clocks.steady, answered))
        self._schedule.put_found(
            Due(flow.wake_at, flow.flow_id, flow.seq, flow.server)
            for flow in found
            if flow.flow_id not in self._logins
        )
        self._fill()

    async def _is_idle(self) -> bool:
        waiting = self._logins or self._grants or self._notices or not self._looked_for_grants
        if waiting or self._flying or self.unsaved or self._schedule.any_due(self._now()):
            return False
        return not await self._client._store.select(queries.pending(), 0.0)

    async def _keep_hold(self) -> None:
        """Renew the lease of what is held, also while no poll is due."""
        while True:
            await asyncio.sleep(HEARTBEAT / 2)
            try:
                if self._client._context.driver.flows:
                    await self._client._run(lease_to_hold)
            except StoreError as failed:
                self._store_failed(failed)

    async def _give_back(self, client: AsyncClient) -> None:
        """Let others have the logins that are held."""
        held = iter(list(client._context.driver.flows))
        try:
            while some := list(islice(held, _GIVEN_BACK_AT_ONCE)):
                work = [client._run(_drive.give_back, flow_id) for flow_id in some]
                for done in await asyncio.gather(*work, return_exceptions=True):
                    if isinstance(done, BaseException):
                        raise done
            await client._run(_drive.stop)
        except StoreError as failed:
            self._on_problem(failed)  # they are taken over once the lease has ended

    async def _tidy(self) -> None:
        while True:
            try:
                for problem in await self._client._run(_drive.tidy):
                    self._on_problem(problem)
            except StoreError as failed:
                self._store_failed(failed)
            await asyncio.sleep(_TIDY_EACH)

    async def _purge(self) -> None:
        while (retention := self.retention) is not None:
            try:
                purged = await self._client.purge(
                    tokens_after=retention.tokens_after, flows_after=retention.flows_after
                )
                for problem in purged.problems:
                    self._on_problem(problem)
            except StoreError as failed:
                self._store_failed(failed)
            await asyncio.sleep(retention.each)

    async def _look_for_grants(self) -> None:
        """Find the grants that are due, and the needs of which nobody was notified yet."""
        while True:
            try:
                for due in await self._client._run(grant_end.due, UNUSED, _GRANTS):
                    self._grants.put(due.origin, due.key, None)
                for due in await self._client._run(grant_end.due_notices, _GRANTS):
                    self._notices.put(due.origin, due.key, None)
                self._looked_for_grants = True
                self._fill()
            except StoreError as failed:
                self._store_failed(failed)
            await asyncio.sleep(_GRANTS_EACH)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for work that is ended even if the chore that began it is cancelled."""
        task = self._loop.create_task(work)
        self._flying.add(task)
        task.add_done_callback(self._landed)
        await asyncio.wait([task])

    async def _check(self) -> None:
        """Ask the servers whether the tokens of the grants in use are valid."""
        while self.check_each is not None:
            await asyncio.sleep(self.check_each)
            await self._finish(self._check_grants(self._client))

    async def _check_grants(self, client: AsyncClient) -> None:
        now, gate = client._timeline.read().wall, asyncio.Semaphore(_CHECKS)
        try:
            views = [view async for view in client.grants()]
        except StoreError as failed:
            self._store_failed(failed)
            return

        async def check(name: str) -> None:
            async with gate:
                if self._stopping.is_set():
                    return
                try:
                    await client.check(name)
                except LoginPending:
                    return  # the need is on record, and the program was notified
                except Exception as problem:  # noqa: BLE001  # grants must not end logins
                    self._on_problem(problem)

        await asyncio.gather(
            *(
                check(view.name)
                for view in views
                if view.state.gives_tokens and now - (view.used_at or 0.0) < UNUSED
            )
        )

    async def _look_after(
        self, client: AsyncClient, work: Callable[[World], Coroutine[Any, Any, SweptGrants]]
    ) -> None:
        try:
            swept = await client._run(work)
        except StoreError as failed:
            self._store_failed(failed)
        except Exception as bug:  # noqa: BLE001  # one grant must not end the others
            self._on_problem(bug)
        else:
            for problem in swept.problems:
                self._on_problem(problem)

    def _behind(self, now: float) -> float:
        """Return for how many seconds the login that is due the longest has been due."""
        return max(
            0.0,
            *(now - due.at for due in self._logins.longest_waiting()),
            self._schedule.behind(now),
        )

    def _now(self) -> float:
        return self._clock.at(self._client._clock.monotonic())
