"""The origin of a block of code: it nests, and each task and each thread has its own."""

from __future__ import annotations

import asyncio
import contextvars
import platform
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.audit.origin import current, origin
from deviceflow.client._sync import Client
from deviceflow.core.ports import Origin
from deviceflow.errors import UsageError
from deviceflow.providers.studio import Studio
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.core.wire import Response

CLIENTS: Final = Origin("w1.7.1", "build-17", 7, "cron", None, None, "robot")


def test_a_client_has_its_own_where_nothing_is_set() -> None:
    assert current(CLIENTS) is CLIENTS


def test_a_block_sets_what_it_says_and_nothing_else() -> None:
    with origin(engine="celery", task="report", task_id="t1", address="192.0.2.7"):
        assert current(CLIENTS) == Origin(
            "w1.7.1", "build-17", 7, "celery", "report", "t1", "robot", "192.0.2.7"
        )
    assert current(CLIENTS) == CLIENTS


def test_blocks_nest() -> None:
    with origin(actor="alice", engine="celery"):
        with origin(task_id="t1", actor="bob"):
            assert current(CLIENTS)[3:-1] == ("celery", None, "t1", "bob")
        with origin():
            assert current(CLIENTS)[3:-1] == ("celery", None, None, "alice")


def test_what_a_block_raises_ends_it() -> None:
    with pytest.raises(LookupError), origin(actor="alice"):
        raise LookupError
    assert current(CLIENTS).actor == "robot"


def test_one_object_is_for_one_block_at_a_time() -> None:
    once = origin(actor="alice")
    with once:
        with pytest.raises(UsageError, match="in use"), once:
            pass
        assert current(CLIENTS).actor == "alice"
    with once:
        assert current(CLIENTS).actor == "alice"
    assert current(CLIENTS).actor == "robot"


@pytest.mark.parametrize("name", ["actor", "engine", "task", "task_id", "address"])
def test_only_texts_are_taken(name: str) -> None:
    arguments: Any = {name: 7}

    with pytest.raises(UsageError, match=f"{name} must be a string, not int"):
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


def test_one_client_serves_many_tasks(code_answer: Callable[..., Response]) -> None:
    pending = answer(400, {"detail": "authorization_pending"})
    transport = ScriptedTransport([code_answer(), pending, pending])
    told: list[dict[str, Any]] = []
    clock = VirtualClock()
    client = Client(
        transport=transport, clock=clock, origin=Origin(actor="robot"), on_transition=told.append
    )

    with origin(engine="celery", task_id="t1"):
        flow = client.start(Studio("https://studio.example.com"))
    with origin(engine="celery", task_id="t2", actor="alice"):
        client.step(flow.id)
    clock.advance(5)
    client.step(flow.id)

    assert [(event["action"], event["task_id"], event["actor"]) for event in told] == [
        ("issue_code", "t1", "robot"),
        ("poll", "t2", "alice"),
        ("pending", "t2", "alice"),
        ("poll", None, "robot"),
        ("pending", None, "robot"),
    ]
    assert {event["host"] for event in told} == {platform.node()}


def test_what_is_noted_of_a_store_has_the_origin_too(
    code_answer: Callable[..., Response], tmp_path: Path
) -> None:
    store = SQLiteStore(tmp_path / "flows.db", plaintext=True)
    client = Client(store, transport=ScriptedTransport([code_answer()]), clock=VirtualClock())

    with origin(task_id="t1"):
        client.create(Studio("http://studio.lan", allow_http=True))

    (noted,) = [event for event in store.events("store") if event["action"] == "plain_http"]
    assert noted["task_id"] == "t1"
