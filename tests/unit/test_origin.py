"""The origin of a block of code: it nests, and each task and each thread has its own."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from deviceflow.audit.origin import current, origin
from deviceflow.core.ports import Origin
from deviceflow.errors import UsageError

CLIENTS: Final = Origin("w1.7.1", "build-17", 7, "cron", None, "robot")


def test_a_client_has_its_own_where_nothing_is_set() -> None:
    assert current(CLIENTS) is CLIENTS


def test_a_block_sets_what_it_says_and_nothing_else() -> None:
    with origin(engine="celery", task_id="t1"):
        assert current(CLIENTS) == Origin("w1.7.1", "build-17", 7, "celery", "t1", "robot")
    assert current(CLIENTS) == CLIENTS


def test_blocks_nest() -> None:
    with origin(actor="alice", engine="celery"):
        with origin(task_id="t1", actor="bob"):
            assert current(CLIENTS)[3:] == ("celery", "t1", "bob")
        with origin():
            assert current(CLIENTS)[3:] == ("celery", None, "alice")


def test_what_a_block_raises_ends_it() -> None:
    with pytest.raises(LookupError), origin(actor="alice"):
        raise LookupError
    assert current(CLIENTS).actor == "robot"


def test_one_object_is_for_one_block_at_a_time() -> None:
    once = origin(actor="alice")
    with once:
        with pytest.raises(UsageError, match="in use already"), once:
            pass
        assert current(CLIENTS).actor == "alice"
    with once:
        assert current(CLIENTS).actor == "alice"
    assert current(CLIENTS).actor == "robot"


@pytest.mark.parametrize("name", ["actor", "engine", "task_id"])
def test_only_texts_are_taken(name: str) -> None:
    arguments: Any = {name: 7}

    with pytest.raises(UsageError, match=f"{name} must be a text, not int"):
        origin(**arguments)


def test_each_asyncio_task_has_its_own() -> None:
    async def work(task_id: str, seen: list[str | None]) -> None:
        with origin(task_id=task_id):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(current(CLIENTS).task_id)

    async def program() -> list[str | None]:
        first: list[str | None] = []
        second: list[str | None] = []
        with origin(engine="agent"):
            await asyncio.gather(work("t1", first), work("t2", second))
            assert current(CLIENTS)[3:5] == ("agent", None)
        return first + second

    assert asyncio.run(program()) == ["t1"] * 3 + ["t2"] * 3


def test_a_task_starts_with_what_its_creator_has_set() -> None:
    async def look() -> str | None:
        return current(CLIENTS).engine

    async def program() -> str | None:
        with origin(engine="agent"):
            task = asyncio.create_task(look())
        return await task

    assert asyncio.run(program()) == "agent"


def test_a_thread_has_its_own_and_can_be_given_the_callers() -> None:
    with ThreadPoolExecutor(1) as pool, origin(actor="alice"):
        assert pool.submit(current, CLIENTS).result().actor == "robot"
        context = contextvars.copy_context()
        assert pool.submit(context.run, current, CLIENTS).result().actor == "alice"
