"""The traps of `traps`, in what an `AsyncClient` uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.crash.traps import TrappedTransactions

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from deviceflow.core.ports import AsyncTransport, Decide
    from deviceflow.core.wire import Failure, Request, Response
    from tests.crash.traps import Watcher


class AsyncTrappedStore(TrappedTransactions):
    """As `TrappedStore`, for one login at a time."""

    async def add(self, *args: Any, **how: Any) -> Any:
        return await self._around("add", self._store.add(*args, **how))

    async def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Any:
        named = self._named(decide)
        work = self._store.claim(flow_id, owner, client_now, seconds, named)
        return await self._around("claim", work)

    async def commit(self, record: Any, event: Any, **how: Any) -> Any:
        what = f"commit: {event['action']}"
        return await self._around(what, self._store.commit(record, event, **how))

    async def release(self, *args: Any, **how: Any) -> None:
        await self._around("release", self._store.release(*args, **how))

    async def drive(self, *args: Any, begin: bool = False, **how: Any) -> Any:
        what = "drive" if begin else "heartbeat"
        return await self._around(what, self._store.drive(*args, begin=begin, **how))

    async def stop_driving(self, *args: Any, **how: Any) -> None:
        await self._around("stop_driving", self._store.stop_driving(*args, **how))

    async def leave_out(self, flow: Any, event: Any) -> None:
        await self._around(f"leave_out: {event['action']}", self._store.leave_out(flow, event))

    async def _around(self, what: str, work: Coroutine[Any, Any, Any]) -> Any:
        self._traps.reach(f"before {what}")
        self._doing = what
        done = await work
        self._traps.reach(f"after {self._doing}")
        self._doing = ""
        return done


class AsyncTrappedTransport:
    """As `TrappedTransport`."""

    def __init__(self, sender: AsyncTransport, traps: Watcher) -> None:
        self._transport = sender
        self._traps = traps

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109  # as in `AsyncTransport`
        self._traps.reach(f"before request: {request.purpose}")
        result = await self._transport.send(request, timeout)
        self._traps.reach(f"after answer: {request.purpose}")
        return result

    async def close(self) -> None:
        await self._transport.close()
