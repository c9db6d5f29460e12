"""The traps of `traps`, in what an `AsyncClient` uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.crash.traps import TrappedTransactions

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from deviceflow.core.ports import AsyncTransport
    from deviceflow.core.wire import Failure, Request, Response
    from tests.crash.traps import Watcher


class AsyncTrappedStore(TrappedTransactions):
    """As `TrappedStore`, for one login at a time."""

    async def add(self, *args: Any, **how: Any) -> Any:
        return await self._around("add", self._store.add(*args, **how))

    async def claim(self, *args: Any, **how: Any) -> Any:
        return await self._around("claim", self._store.claim(*args, **how))

    async def commit(self, record: Any, event: Any, **how: Any) -> Any:
        what = f"commit: {event['action']}"
        return await self._around(what, self._store.commit(record, event, **how))

    async def release(self, *args: Any, **how: Any) -> None:
        await self._around("release", self._store.release(*args, **how))

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
