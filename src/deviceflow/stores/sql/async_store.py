"""The async face of a store in a SQL database; see `methods` for what its methods do."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from deviceflow.core.ports import reraise
from deviceflow.core.secret import without_frames
from deviceflow.errors import DeviceFlowError
from deviceflow.stores.sql.async_grant_face import AsyncGrantFace
from deviceflow.stores.sql.methods import FIRST_PAGE, SQLMethods, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.actions import Action
    from deviceflow.core.encryption import Keyless, Plain, Sealer
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Claim, Decide, LeaseHeld, Origin, StoreEvent, UpcomingFlow
    from deviceflow.stores.sql.connection import AsyncConnection
    from deviceflow.stores.sql.methods import Method
    from deviceflow.stores.sql.statements import Dialect, Statements

_T = TypeVar("_T")


class AsyncSQLStore(SQLMethods, AsyncGrantFace):
    """Keeps flows in a SQL database, for the tasks of one event loop.

    `AsyncSQLiteStore` and `AsyncPostgresStore` say in which. The store is opened by `async with`,
    or else by the first method that is called; that is when an unusable store is told of.

    Args:
        connection: Performs jobs.
        dialect: As for `SQLStore`.
        statements: As for `SQLStore`.
        find_sealer: As for `SQLStore`.
        read_only: As for `SQLStore`.
        trail: As for `SQLStore`.
    """

    works_in_callers_task = True

    def __init__(
        self,
        connection: AsyncConnection,
        dialect: Dialect,
        statements: Statements,
        find_sealer: Callable[[str | None], Sealer | Plain | Keyless],
        *,
        read_only: bool,
        trail: TrailMode | None = None,
    ) -> None:
        super().__init__(dialect, statements, find_sealer, read_only=read_only, trail=trail)
        self._connection = connection
        self._is_open = False
        self._opening: asyncio.Future[None] | None = None
        self._change = asyncio.Event()
        self._change.set()

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _opened(self) -> None:
        """Wait until the store is open. One task begins to open it, and all wait for that."""
        loop = asyncio.get_running_loop()
        while not self._is_open:
            opening = self._opening
            if opening is None or opening.done() or opening.get_loop() is not loop:
                opening = self._opening = loop.run_in_executor(None, self._open_blocking)
            await asyncio.shield(opening)

    def _open_blocking(self) -> None:
        # In a thread: besides the database, the keys are read from files or a keyring.
        with self._connection.blocking() as connection:
            try:
                run(self._open(), connection.perform)
            except BaseException:
                connection.close()
                raise
        self._is_open = True

    async def _run(self, begin: Callable[[], Method[_T]]) -> _T:
        """Perform a method's jobs, and return its result.

        Once one of its jobs has begun, a cancellation waits for the job's end, and for what the
        method does after it. What a method would write after that is left.
        """
        if not self._is_open:
            await self._opened()
        method = begin()
        cancelled: BaseException | None = None
        answer: Any = None
        while True:
            try:
                job = method.send(answer)
            except StopIteration as done:
                if cancelled is not None:
                    raise cancelled from None
                result: _T = done.value
                return result
            except DeviceFlowError:
                if cancelled is not None:
                    raise cancelled from None
                raise
            if cancelled is not None and job.mode != "read":
                method.close()
                raise cancelled
            done_job = await self._connection.perform(job)
            cancelled = cancelled or done_job.cancelled
            if done_job.problem is not None:
                raise without_frames(cancelled or done_job.problem)
            answer = done_job.result

    async def close(self) -> None:
        """Wait for the operations that were begun, close what is open, and forget the flows.

        The store is opened again where it is needed again.
        """
        self._remembered.forget_all()
        self._seen_grants.clear()
        await self._connection.close()

    # The protocol; see `AsyncStore`.

    async def now(self, client_now: float) -> float:
        return await self._run(lambda: self._now(client_now))

    async def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        return await self._run(lambda: self._add(flow, store_event))

    async def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        return await self._run(lambda: self._get(flow_id, secrets=secrets))

    async def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = reraise
    ) -> AsyncIterator[Flow]:
        """Yield all flows, or those that have not ended, the newest first, without secrets."""
        after: dict[str, Any] | None = FIRST_PAGE
        while after is not None:
            rows, after = await self._run(partial(self._flow_rows, after, skip_ended=skip_ended))
            for flow in self._readable(rows, on_problem):
                yield flow

    async def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        return await self._run(lambda: self._claim(flow_id, owner, client_now, seconds, decide))

    async def claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None = None
    ) -> Claim | None:
        return await self._run(lambda: self._claim_due(owner, client_now, seconds, decide))

    async def upcoming(
        self, client_now: float, ahead: float, grace: float | None = None
    ) -> list[UpcomingFlow]:
        return await self._run(lambda: self._upcoming(client_now, ahead, grace))

    async def any_pending(self) -> bool:
        return await self._run(self._any_pending)

    async def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        await self._run(lambda: self._restart_lease(subject_id, since, client_now))

    async def foreign_leases(self, client_now: float) -> list[tuple[str, float]]:
        return await self._run(lambda: self._foreign_leases(client_now))

    async def wake_after_clock_change(self, client_now: float) -> None:
        await self._run(lambda: self._wake_after_clock_change(client_now))

    async def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        return await self._run(lambda: self._commit(flow, event, release, store_event))

    async def release(self, flow_id: str, owner: str) -> None:
        await self._run(lambda: self._release(flow_id, owner))

    async def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        await self._run(lambda: self._snooze(flow_id, owner, client_now))

    async def reschedule(self, flow: Flow, owner: str) -> None:
        await self._run(lambda: self._reschedule(flow, owner))

    async def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        return await self._run(lambda: self._ids_with_secrets(kind, ended_before, client_now, skip))

    async def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = reraise,
    ) -> int:
        return await self._run(lambda: self._delete_ended(ended_before, on_problem))

    async def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        await self._run(lambda: self._record_store_event(action, client_now, detail, origin))

    # For a process that drives whatever is due.

    async def wait_for_change(self, seconds: float) -> bool:
        if not self._is_open:
            await self._opened()
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while True:
            pause = await self._connection.look_for_change(self._changed)
            left = until - clock()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(left, pause))):
                    await asyncio.sleep(0)  # a caller that does not wait must not stop the loop
                    await self._change.wait()
            if self._change.is_set():
                self._change.clear()
                return True
            if left <= pause:
                return False

    def _changed(self) -> None:
        self._change.set()

    # What only a database has.

    async def history(self, flow_id: str) -> list[dict[str, Any]]:
        """Return the events of a flow, as they were logged, in their order."""
        return await self._run(lambda: self._history(flow_id))
