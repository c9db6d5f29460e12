"""A job that a task waits for: answered, cancelled, and both at once."""

from __future__ import annotations

import asyncio

import pytest

from deviceflow.stores.sql.pending import Done, Pending

DONE = Done("result")


def dropped(pending: Pending) -> bool:
    pending.dropped = not pending.begun
    return pending.dropped


async def waiting(*, begun: bool) -> tuple[Pending, asyncio.Task[Done]]:
    pending = Pending(None)
    pending.begun = begun
    task = asyncio.ensure_future(pending.wait(dropped))
    await asyncio.sleep(0)
    return pending, task


def test_job_is_answered() -> None:
    async def main() -> None:
        pending, task = await waiting(begun=True)
        pending.answer(DONE)
        assert await task == DONE

    asyncio.run(main())


def test_job_that_was_not_begun_is_dropped() -> None:
    async def main() -> None:
        pending, task = await waiting(begun=False)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pending.dropped

    asyncio.run(main())


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("answered_first", [True, False])
def test_answer_is_not_lost_whenever_the_task_is_cancelled(
    turns: int, times: int, answered_first: bool
) -> None:
    async def main() -> None:
        pending, task = await waiting(begun=True)
        for _ in range(times):
            if answered_first:
                pending.answer(DONE)
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        pending.answer(DONE)
        async with asyncio.timeout(60):
            done = await task
        assert done.result == "result"
        assert isinstance(done.cancelled, asyncio.CancelledError)

    asyncio.run(main())
