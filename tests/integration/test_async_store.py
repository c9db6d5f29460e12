"""What only an async store does: work of many tasks, cancellation, waiting for others' changes.

What it has in common with a sync store is asked of both, in `test_store_contract`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import errors
from deviceflow.audit.events import render
from deviceflow.client._cancellation import Cancellation
from deviceflow.core import queries
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.ports import Claim, LeaseHeld, Origin, StoreEvent
from deviceflow.core.states import State
from deviceflow.stores import _pgasync
from deviceflow.stores import _sqlite as sqlite_store
from deviceflow.stores._sqlite_thread import GroupingConnection
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.stores.sql import store as sql_store
from deviceflow.stores.url import open_async_store
from tests.integration import places
from tests.integration.places import PENDING, Place, coded, commit, in_clear, kept, new
from tests.integration.test_traceback_canary import LOST, shown
from tests.pgbouncer import PgBouncer
from tests.postgres import PATIENCE, PostgresServer
from tests.stored import flows as all_flows
from tests.stored import flows_async, get_async
from tests.stored import get as get_stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deviceflow.core.flow import Flow
    from deviceflow.stores.sql.connection import Transaction

pytestmark = pytest.mark.usefixtures("each_event")

MANY: Final = 40
WORKER: Final = Origin("w1")


@contextlib.asynccontextmanager
async def opened(place: Place, **how: Any) -> AsyncIterator[Any]:
    """Open the place's async store."""
    sealing: dict[str, Any] = {"plaintext": True} if place.plaintext else {"keys": place.keys}
    options = {} if place.kind == "memory" else sealing | how
    store: Any = open_async_store(place.url, **options)
    try:
        if place.kind != "memory":
            await store.__aenter__()
        yield store
    finally:
        await store.close()


def flows(place: Place) -> list[Flow]:
    """Put many flows into the store that wait for their polls."""
    return [kept(place, "waiting", f"f{number}") for number in range(MANY)]


async def poll(store: Any, place: Place, flow_id: str) -> bool:
    """Poll a flow as a step does: by a claim that decides, and by a commit that releases."""
    return await answered(store, await claimed(store, place, flow_id))


async def claimed(store: Any, place: Place, flow_id: str) -> Any:
    def decide(claim: Claim) -> dict[str, Any]:
        return render(claim.flow, claim.flow.poll(claim.now, 10.0), WORKER)

    return await store.claim(flow_id, "w1", place.now, 20.0, decide)


async def answered(store: Any, claim: Claim) -> bool:
    pending = claim.flow.receive(PENDING, claim.now, duration=0.5)
    event = render(claim.flow, pending, WORKER)
    kept: bool = await store.commit(claim.flow, event, release="w1")
    return kept


async def cancelled(flow: Flow, store: Any, place: Place) -> bool:
    kept: bool = await store.commit(flow, render(flow, flow.cancel(place.now), WORKER))
    return kept


def refusing(place: Place, flow_id: str) -> None:
    """Have the database refuse whatever would change a flow."""
    if place.kind == "sqlite":
        place.ask(
            f"CREATE TRIGGER refusing BEFORE UPDATE ON {{flows}} WHEN NEW.id = '{flow_id}'"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        return
    place.ask(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
    )
    place.ask(
        f"CREATE TRIGGER refusing BEFORE UPDATE ON {{flows}} FOR EACH ROW"
        f" WHEN (NEW.id = '{flow_id}') EXECUTE FUNCTION refuse()"
    )


def begun(store: Any) -> Callable[[], int]:
    """Count the transactions that a store in SQLite begins."""
    count = 0

    def traced(statement: str) -> None:
        nonlocal count
        count += statement.startswith("BEGIN")

    store._connection._connection.connected().set_trace_callback(traced)
    return lambda: count


# The work of many tasks.


def test_many_polls_at_once_are_each_done_once(database: Place) -> None:
    ids = [flow.id for flow in flows(database)]

    async def main() -> None:
        async with opened(database) as store:
            for _ in range(2):
                database.clock.advance(60)
                assert all(await asyncio.gather(*[poll(store, database, name) for name in ids]))

    asyncio.run(main())

    for flow_id in ids:
        assert [event["seq"] for event in database.sql.events(flow_id)] == [1, 2, 3, 4, 5]
        assert get_stored(database.store, flow_id).state is State.AWAITING_USER
        assert get_stored(database.store, flow_id).attempt == 2


def test_many_polls_share_few_transactions(file: Place) -> None:
    ids = [flow.id for flow in flows(file)]

    async def main() -> int:
        async with opened(file) as store:
            count = begun(store)
            assert all(await asyncio.gather(*[poll(store, file, name) for name in ids]))
            return count()

    count = asyncio.run(main())

    assert 2 <= count < 2 * MANY / 4
    assert {get_stored(file.store, name).attempt for name in ids} == {1}


def test_flow_that_others_went_on_with_concerns_no_other(database: Place) -> None:
    ids = [flow.id for flow in flows(database)]

    async def main() -> tuple[list[Any], list[Any]]:
        async with opened(database) as store:
            assert all(await asyncio.gather(*[poll(store, database, name) for name in ids]))
            database.clock.advance(60)
            other = database.store.claim("f3", "w2", database.now, 20.0)
            assert isinstance(other, Claim)
            claims = [claimed(store, database, name) for name in ids]
            came = await asyncio.gather(*claims)
            flow = get_stored(database.store, "f4")
            cancel = render(flow, flow.cancel(database.now), Origin("w2"))
            assert database.store.commit(flow, cancel)
            commits = [answered(store, claim) for claim in came if isinstance(claim, Claim)]
            return came, await asyncio.gather(*commits)

    claims, commits = asyncio.run(main())

    assert [isinstance(claim, LeaseHeld) for claim in claims] == [name == "f3" for name in ids]
    assert commits == [name != "f4" for name in ids if name != "f3"]
    for flow in all_flows(database.store):
        assert len(database.sql.events(flow.id)) == flow.seq


def test_many_imports_share_few_transactions(file: Place) -> None:
    imported = [new(f"f{number}", at=file.now) for number in range(MANY)]
    for flow in imported:
        for _ in coded(flow, file.now):
            pass

    async def main() -> int:
        async with opened(file) as store:
            count = begun(store)
            added = await asyncio.gather(*map(store.add, imported))
            assert added == imported
            return count()

    assert 1 <= asyncio.run(main()) < MANY / 4
    for flow in imported:
        assert [event["action"] for event in file.sql.events(flow.id)] == ["import"]


def test_work_that_is_refused_concerns_no_other(database: Place) -> None:
    ids = [flow.id for flow in flows(database)]

    async def main() -> list[Any]:
        async with opened(database) as store:
            count = begun(store) if database.kind == "sqlite" else None
            claims = [store.claim(name, "w1", database.now, 20.0) for name in ["f", *ids]]
            came = await asyncio.gather(*claims, return_exceptions=True)
            assert count is None or count() <= 2  # nothing had to be undone
            return came

    came = asyncio.run(main())

    assert isinstance(came[0], errors.UnknownLoginError)
    assert all(isinstance(claim, Claim) for claim in came[1:])
    assert isinstance(database.store.claim(ids[-1], "w2", database.now, 20), LeaseHeld)


def test_row_that_was_edited_concerns_no_other(database: Place) -> None:
    ids = [flow.id for flow in flows(database)]
    database.ask("UPDATE {flows} SET moved_at = 5 WHERE id = 'f3'")

    async def main() -> list[Any]:
        async with opened(database) as store:
            claims = [claimed(store, database, name) for name in ids]
            return await asyncio.gather(*claims, return_exceptions=True)

    came = asyncio.run(main())

    assert isinstance(came[3], errors.SealError)
    assert came[3].flow_id == "f3"
    assert all(isinstance(claim, Claim) for claim in came[:3] + came[4:])
    leased = database.ask("SELECT id FROM {flows} WHERE lease_owner IS NOT NULL")
    assert {name for (name,) in leased} == {*ids} - {"f3"}


def test_work_that_the_database_refuses_concerns_no_other(database: Place) -> None:
    waiting = flows(database)
    refusing(database, "f3")

    async def main() -> list[Any]:
        async with opened(database) as store:
            commits = [cancelled(flow, store, database) for flow in waiting]
            return await asyncio.gather(*commits, return_exceptions=True)

    came = asyncio.run(main())

    assert isinstance(came[3], errors.StoreError)
    assert "refused" in str(came[3]) or "constraint" in str(came[3])
    assert came[:3] + came[4:] == [True] * (MANY - 1)
    ended = {flow.id for flow in all_flows(database.store) if flow.state.ended}
    assert ended == {flow.id for flow in waiting} - {"f3"}


def test_event_that_the_database_ignores_concerns_no_other(database: Place) -> None:
    waiting = flows(database)
    if database.kind == "sqlite":
        database.ask(
            "CREATE TRIGGER ignoring BEFORE INSERT ON {audit} WHEN NEW.flow_id = 'f3'"
            " BEGIN SELECT RAISE(IGNORE); END"
        )
    else:
        database.ask(
            "CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RETURN NULL; END $$"
        )
        database.ask(
            "CREATE TRIGGER ignoring BEFORE INSERT ON {audit} FOR EACH ROW"
            " WHEN (NEW.flow_id = 'f3') EXECUTE FUNCTION ignore()"
        )

    async def main() -> list[Any]:
        async with opened(database) as store:
            commits = [cancelled(flow, store, database) for flow in waiting]
            return await asyncio.gather(*commits, return_exceptions=True)

    came = asyncio.run(main())

    assert isinstance(came[3], errors.StoreError)
    assert "ignored a statement" in str(came[3])
    assert came[:3] + came[4:] == [True] * (MANY - 1)
    assert not get_stored(database.store, "f3").state.ended


def test_texts_of_many_tasks_are_stored_as_they_are(database: Place) -> None:
    waiting = flows(database)[:8]
    details = [f'{number} \u2713 \U0001f600 {{\\}},"NULL"' for number in range(len(waiting))]

    async def main() -> list[Any]:
        async with opened(database) as store:
            await get_async(store, waiting[0].id)
            commits = [
                store.commit(flow, render(flow, flow.cancel(database.now, detail), WORKER))
                for flow, detail in zip(waiting, details, strict=True)
            ]
            return await asyncio.gather(*commits)

    assert all(asyncio.run(main()))
    for flow, detail in zip(waiting, details, strict=True):
        assert database.sql.events(flow.id)[-1]["detail"] == detail
        assert get_stored(database.store, flow.id).detail == detail


def test_work_that_fails_half_way_is_undone_alone(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = sql_store.add_store_event

    async def fails(db: Any, key: Any, action: Any, detail: str, *origin: Any) -> None:
        if detail == "f3":
            raise errors.UsageError("half way")
        await put(db, key, action, detail, *origin)

    monkeypatch.setattr(sql_store, "add_store_event", fails)

    async def main() -> list[Any]:
        async with opened(database) as store:
            added = [
                store.add(
                    new(f"f{number}", at=database.now),
                    store_event=StoreEvent(PLAIN_HTTP, database.now, f"f{number}", WORKER),
                )
                for number in range(8)
            ]
            return await asyncio.gather(*added, return_exceptions=True)

    came = asyncio.run(main())

    assert isinstance(came[3], errors.UsageError)
    assert sum(not isinstance(one, Exception) for one in came) == 7
    assert {flow.id for flow in all_flows(database.store)} == {f"f{n}" for n in range(8)} - {"f3"}
    details = [event["detail"] for event in database.sql.events("store")]
    assert sorted(details) == [f"f{n}" for n in range(8) if n != 3]


def test_writes_to_a_file_are_done_in_their_order(file: Place) -> None:
    (flow, *_) = flows(file)

    async def main() -> tuple[Any, ...]:
        async with opened(file) as store:
            return await asyncio.gather(
                store.claim(flow.id, "w1", file.now, 20.0),
                cancelled(flow, store, file),
                store.claim(flow.id, "w2", file.now, 20.0),
                store.release(flow.id, "w1"),
                store.claim(flow.id, "w2", file.now, 20.0),
            )

    first, done, refused, _, second = asyncio.run(main())

    assert isinstance(first, Claim)
    assert not first.flow.state.ended
    assert done
    assert isinstance(refused, LeaseHeld)
    assert isinstance(second, Claim)
    assert second.flow.state.ended


def test_one_of_many_tasks_gets_the_lease_and_one_moves_the_flow(database: Place) -> None:
    (flow, *_) = flows(database)

    async def main() -> tuple[list[Any], list[bool]]:
        async with opened(database) as store:
            claims = [store.claim(flow.id, f"w{n}", database.now, 20.0) for n in range(MANY)]
            came = await asyncio.gather(*claims)
            found = [await get_async(store, flow.id) for _ in range(MANY)]
            ends = [
                store.commit(one, render(one, one.cancel(database.now), Origin(f"w{number}")))
                for number, one in enumerate(found)
            ]
            return came, await asyncio.gather(*ends)

    claims, ends = asyncio.run(main())

    assert sum(isinstance(claim, Claim) for claim in claims) == 1
    assert sum(isinstance(claim, LeaseHeld) for claim in claims) == MANY - 1
    assert sum(ends) == 1
    assert [event["action"] for event in database.sql.events(flow.id)] == ["issue_code", "cancel"]


def test_closing_cuts_nothing_off_that_was_asked_for(database: Place) -> None:
    waiting = flows(database)

    async def main() -> None:
        async with opened(database) as store:
            commits = [asyncio.ensure_future(cancelled(f, store, database)) for f in waiting]
            await asyncio.sleep(0)
            await store.close()
            if database.kind == "sqlite":
                assert all(flow.state.ended for flow in all_flows(database.store))
            assert await asyncio.gather(*commits) == [True] * MANY

    asyncio.run(main())

    assert all(flow.state.ended for flow in all_flows(database.store))


def test_store_serves_one_loop_after_another(database: Place) -> None:
    kept(database, "waiting")
    store: Any = open_async_store(database.url, keys=database.keys)

    for _ in range(3):
        assert asyncio.run(get_async(store, "f1")).id == "f1"

    asyncio.run(store.close())


def test_unusable_store_is_told_of_at_its_first_use_and_mended(database: Place) -> None:
    kept(database, "waiting")
    ((version,),) = database.ask("SELECT value FROM {meta} WHERE name = 'version'")
    database.ask("UPDATE {meta} SET value = '99' WHERE name = 'version'")

    async def main() -> None:
        store: Any = open_async_store(database.url, keys=database.keys)
        for _ in range(2):
            with pytest.raises(errors.StoreError, match="newer deviceflow"):
                await get_async(store, "f1")
        database.ask("UPDATE {meta} SET value = ? WHERE name = 'version'", version)
        assert (await get_async(store, "f1")).id == "f1"
        await store.close()

    asyncio.run(main())


# Cancellation.


@contextlib.contextmanager
def held_up(place: Place) -> Iterator[None]:
    """Have whatever would write wait, as long as the block lasts."""
    if place.kind == "sqlite":
        path = place.url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
    else:
        with psycopg.connect(place.url) as other:
            other.execute("SELECT 1 FROM deviceflow.flows WHERE id = 'f1' FOR UPDATE")
            yield
            other.rollback()


async def is_begun(store: Any, place: Place) -> None:
    """Wait until the store waits for what `held_up` has locked."""
    locked = (
        "SELECT 1 FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    await asyncio.sleep(0)  # it is asked for
    async with asyncio.timeout(PATIENCE):
        if place.kind == "sqlite":
            while store._connection._fresh or store._connection._waiting:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)
        else:
            while not await asyncio.to_thread(place.ask, locked):  # noqa: ASYNC110  # likewise
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("times", [1, 2])
def test_work_on_a_file_that_was_begun_is_awaited_to_its_end(file: Place, times: int) -> None:
    flow = kept(file, "waiting")

    async def main() -> None:
        async with opened(file) as store:
            with held_up(file):
                commit = asyncio.ensure_future(cancelled(flow, store, file))
                await is_begun(store, file)
                for _ in range(times):
                    commit.cancel()
                    await asyncio.sleep(0.05)
                    assert not commit.done()
            with pytest.raises(asyncio.CancelledError):
                await commit

    asyncio.run(main())

    assert get_stored(file.store, "f1").state.ended


def test_cancellation_counts_whatever_the_method_makes_of_the_answer(file: Place) -> None:
    async def main() -> None:
        begun, goes_on = threading.Event(), threading.Event()
        async with opened(file) as store:
            connection = store._connection._connection
            run = connection.run

            def slow(*how: Any) -> Any:
                begun.set()
                goes_on.wait(PATIENCE)
                return run(*how)

            connection.run = slow
            get = asyncio.ensure_future(get_async(store, "none of these"))
            await asyncio.to_thread(begun.wait, PATIENCE)
            get.cancel()
            await asyncio.sleep(0)
            goes_on.set()
            with pytest.raises(asyncio.CancelledError):
                await get

    asyncio.run(main())


def test_work_on_a_file_that_was_not_begun_is_never_done(file: Place) -> None:
    flow = kept(file, "waiting")

    async def main() -> None:
        async with opened(file) as store:
            with held_up(file):
                claim = asyncio.ensure_future(store.claim("f1", "w1", file.now, 20.0))
                await is_begun(store, file)
                commit = asyncio.ensure_future(cancelled(flow, store, file))
                await asyncio.sleep(0.05)
                commit.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await commit
                assert not claim.done()
            assert isinstance(await claim, Claim)

    asyncio.run(main())

    assert not get_stored(file.store, "f1").state.ended


def test_work_on_a_server_is_cut_off_and_undone(remote: Place) -> None:
    flow = kept(remote, "waiting")

    async def main() -> None:
        async with opened(remote, pool_size=1) as store:
            with held_up(remote):
                commit = asyncio.ensure_future(cancelled(flow, store, remote))
                await is_begun(store, remote)
                commit.cancel()
                async with asyncio.timeout(PATIENCE / 2):
                    with pytest.raises(asyncio.CancelledError):
                        await commit
                    # Its place in the pool is free, whatever its session still waits for.
                    assert (await get_async(store, "f1")).id == "f1"
            await settled(remote)

    asyncio.run(main())

    assert not get_stored(remote.store, "f1").state.ended
    assert [event["action"] for event in remote.sql.events("f1")] == ["issue_code"]


async def settled(place: Place) -> None:
    """Wait until the server does no more of what a store has sent."""
    at_work = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'deviceflow'"
        " AND state <> 'idle' AND datname = current_database()"
    )
    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(place.ask, at_work):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


def test_work_on_a_server_is_done_or_not_wherever_it_is_cut_off(
    remote: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is BEGIN, two statements, and COMMIT; each is sent, and its answer not awaited."""
    waiting = [kept(remote, "waiting", f"f{number}") for number in range(1, 6)]
    sent, execute = list[str](), _pgasync.Session.execute

    async def main() -> list[bool]:
        came = []
        async with opened(remote, pool_size=1) as store:
            for at, flow in enumerate(waiting, 1):
                sent.clear()
                commit = asyncio.ensure_future(cancelled(flow, store, remote))

                async def cut_off(
                    self: Any, *how: Any, at: int = at, commit: asyncio.Task[bool] = commit
                ) -> Any:
                    sent.append(how[0])
                    if len(sent) == at:
                        commit.cancel()
                    return await execute(self, *how)

                monkeypatch.setattr(_pgasync.Session, "execute", cut_off)
                await asyncio.wait([commit])
                came.append(commit.cancelled())
                await settled(remote)
        return came

    assert asyncio.run(main()) == [True] * 4 + [False]
    assert [text.partition(" ")[0] for text in sent] == ["BEGIN;", "UPDATE", "INSERT", "COMMIT"]

    for flow in waiting:
        stored, history = get_stored(remote.store, flow.id), remote.sql.events(flow.id)
        assert stored.state.ended == (len(history) == 2) == (stored.seq == 2)
    assert [get_stored(remote.store, flow.id).state.ended for flow in waiting[:3]] == [False] * 3
    assert get_stored(remote.store, waiting[-1].id).state.ended


def test_loop_that_ends_leaves_all_of_a_job_or_none(database: Place) -> None:
    waiting = flows(database)

    async def main() -> None:
        store = open_async_store(database.url, keys=database.keys)
        await get_async(store, "f0")
        for flow in waiting:
            main.tasks.append(asyncio.ensure_future(cancelled(flow, store, database)))  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)

    main.tasks = []  # type: ignore[attr-defined]
    asyncio.run(main())

    for flow in waiting:
        stored = get_stored(database.store, flow.id)
        assert len(database.sql.events(flow.id)) == stored.seq
    assert all(task.cancelled() or task.result() for task in main.tasks)  # type: ignore[attr-defined]


def test_timeout_of_a_caller_goes_through(database: Place) -> None:
    kept(database, "waiting")

    async def main() -> None:
        async with opened(database) as store:
            await get_async(store, "f1")
            with held_up(database):
                first = asyncio.ensure_future(store.claim("f1", "w1", database.now, 20.0))
                await is_begun(store, database)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await store.claim("f1", "w2", database.now, 20.0)
            assert isinstance(await first, Claim)

    asyncio.run(main())


# What a process leaves.

_DYING: Final = """
import asyncio, os, signal, sys
from deviceflow.audit.events import render
from deviceflow.core.ports import Origin
from deviceflow.stores.url import open_async_store
from tests.integration.places import coded, new

async def main():
    store = open_async_store(sys.argv[1], keys=[sys.argv[2]])
    async def start(number):
        flow = new(f"f{number}", at=float(sys.argv[3]))
        await store.add(flow)
        for moved in coded(flow, float(sys.argv[3])):
            await store.commit(flow, render(flow, moved, Origin("w1")))
        os.write(1, f"{number}\\n".encode())
        if number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.gather(*map(start, range(40)))

asyncio.run(main())
"""


def test_what_was_answered_survives_a_kill_right_after(database: Place) -> None:
    command = [sys.executable, "-c", _DYING, database.url, database.keys[0].reveal()]
    done = subprocess.run(
        [*command, str(database.now)],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=PATIENCE,
    )

    assert done.returncode == -signal.SIGKILL, done.stderr
    answered = done.stdout.decode().split()
    assert "20" in answered
    for number in answered:
        assert get_stored(database.store, f"f{number}").state is State.AWAITING_USER
    for flow in all_flows(database.store):
        assert len(database.sql.events(flow.id)) == flow.seq


@pytest.mark.parametrize(
    ("synchronous", "mode", "level"),
    [("FULL", "write", 2), ("NORMAL", "write", 1), ("NORMAL", "durable", 2)],
)
def test_group_is_as_durable_as_asked_for(
    tmp_path: Path, synchronous: Any, mode: Any, level: int
) -> None:
    """One piece of work that must survive a power cut makes that of all with which it is done."""
    store: Any = AsyncSQLiteStore(tmp_path / "f.db", plaintext=True, synchronous=synchronous)
    levels = list[Any]()

    async def main() -> None:
        async with store:
            connection = store._connection._connection.connected()

            def traced(statement: str) -> None:
                if statement == "COMMIT":
                    levels.append(connection.execute("PRAGMA synchronous").fetchone())

            connection.set_trace_callback(traced)
            await asyncio.gather(
                *[store.add(new(f"f{number}")) for number in range(20)],
                store._run(lambda db: db.run("lock_store"), mode),
            )

    asyncio.run(main())

    assert levels[-1] == (level,)
    assert len(levels) <= 2  # the first task's own, and that of all others


_FORKING: Final = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
from deviceflow.stores.url import open_async_store
from tests.stored import flows_async, get_async

store = open_async_store(sys.argv[1], keys=[sys.argv[2]])

async def look():
    return [(await get_async(store, "f1")).id async for _ in flows_async(store)]

async def parent():
    assert await look()
    child = os.fork()
    if not child:
        # The loop belongs to the parent. A child makes its own.
        asyncio._set_running_loop(None)
        assert asyncio.run(look()) == ["f1"]
        os._exit(0)
    assert await look() == ["f1"]
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0, status
    assert await look() == ["f1"]
    await store.close()

asyncio.run(parent())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_store_can_be_used_on_both_sides_of_a_fork(database: Place) -> None:
    kept(database, "waiting")

    done = subprocess.run(
        [sys.executable, "-c", _FORKING, database.url, database.keys[0].reveal()],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )

    assert (done.returncode, done.stderr) == (0, "")


# Databases that do not answer.


@pytest.mark.parametrize("undone", [False, True])
def test_file_that_is_locked_for_too_long_fails_all_at_once(
    file: Place, monkeypatch: pytest.MonkeyPatch, undone: bool
) -> None:
    """Also where each has to be done alone, since the group was undone."""
    monkeypatch.setattr(sqlite_store, "BUSY", 0.3)
    waiting = flows(file)
    if undone:
        monkeypatch.setattr(GroupingConnection, "run_all", lambda *_: None)

    async def main() -> None:
        async with opened(file) as store:
            with held_up(file):
                begun = time.monotonic()
                claims = [claimed(store, file, flow.id) for flow in waiting]
                came = await asyncio.gather(*claims, return_exceptions=True)
                assert (await get_async(store, "f0")).id == "f0"  # reading waits for nobody
                assert time.monotonic() - begun < 0.3 * MANY
            assert all("has locked the database" in str(problem) for problem in came)
            assert isinstance(await store.claim("f0", "w1", file.now, 20.0), Claim)

    asyncio.run(main())


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Place]:
    """Give a place in a SQLite file."""
    place = places.sqlite(tmp_path)
    yield place
    place.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a server that tests may suspend."""
    with PostgresServer() as started:
        yield started


@pytest.fixture(scope="module")
def bouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(server) as started:
        yield started


@pytest.fixture
def remote(server: PostgresServer) -> Iterator[Place]:
    url = server.database()
    place = places.postgres(server, url)
    yield place
    place.close()
    server.drop(url)


def test_server_that_is_suspended_is_waited_for_no_longer_than_asked(
    remote: Place, server: PostgresServer
) -> None:
    waiting = flows(remote)

    async def main() -> None:
        async with opened(remote, timeout=1.0, pool_size=2) as store:
            await get_async(store, "f0")
            with server.frozen():
                claims = [store.claim(flow.id, "w1", remote.now, 20.0) for flow in waiting]
                async with asyncio.timeout(PATIENCE):
                    came = await asyncio.gather(*claims, return_exceptions=True)
            assert {type(problem) for problem in came} == {errors.StoreError}
            assert all(problem.hint for problem in came)  # type: ignore[union-attr]
            async with asyncio.timeout(PATIENCE):
                assert isinstance(await store.claim("f0", "w1", remote.now, 20.0), Claim)

    asyncio.run(main())


def test_pool_is_waited_for_no_longer_than_asked_by_tasks_that_cannot_be_cancelled(
    remote: Place, server: PostgresServer
) -> None:
    """As those are in which a client awaits what it writes."""
    waiting = flows(remote)

    async def main() -> None:
        async with opened(remote, timeout=1.0, pool_size=2) as store:
            with server.frozen():
                begun = time.monotonic()
                commits = [
                    Cancellation().finish(cancelled(flow, store, remote)) for flow in waiting
                ]
                came = await asyncio.gather(*commits, return_exceptions=True)
                assert time.monotonic() - begun < MANY / 4
            assert {type(problem) for problem in came} == {errors.StoreError}

    asyncio.run(main())


def test_connections_that_were_ended_are_not_even_noticed(remote: Place) -> None:
    waiting = flows(remote)

    async def main() -> None:
        async with opened(remote) as store:
            await get_async(store, "f0")
            remote.ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            claims = [store.claim(flow.id, "w1", remote.now, 20.0) for flow in waiting]
            assert all(isinstance(claim, Claim) for claim in await asyncio.gather(*claims))

    asyncio.run(main())


def test_row_that_another_process_has_locked_holds_up_no_other(remote: Place) -> None:
    waiting = flows(remote)

    async def main() -> None:
        async with opened(remote) as store:
            await get_async(store, "f0")
            with held_up(remote):
                claims = [
                    asyncio.ensure_future(store.claim(flow.id, "w1", remote.now, 20.0))
                    for flow in waiting
                ]
                async with asyncio.timeout(PATIENCE):
                    await asyncio.wait(
                        [
                            claim
                            for claim, flow in zip(claims, waiting, strict=True)
                            if flow.id != "f1"
                        ]
                    )
                assert not claims[1].done()
            assert all(isinstance(claim, Claim) for claim in await asyncio.gather(*claims))

    asyncio.run(main())


def test_pooler_in_transaction_mode_is_good_enough(remote: Place, bouncer: PgBouncer) -> None:
    ids = [flow.id for flow in flows(remote)]
    url = bouncer.url(remote.url.partition("?")[0])

    async def main() -> None:
        store: Any = open_async_store(url, keys=remote.keys)
        remote.clock.advance(60)
        assert all(await asyncio.gather(*[poll(store, remote, name) for name in ids]))
        for _ in range(3):  # nothing is heard, so that a caller has to look each second
            assert await store.watch(PATIENCE)
        await store.close()

    asyncio.run(main())
    assert {get_stored(remote.store, name).attempt for name in ids} == {1}


# Secrets.


class DyingError(BaseException):
    """What ends a process, and nobody handles."""


_FAILS: Final[ContextVar[bool]] = ContextVar("_FAILS", default=False)


async def victim(call: Any) -> Any:
    """Await a call, whose statement is the one that fails."""
    _FAILS.set(True)
    return await call


def has_fail(store: Any, statement: str, problem: type[BaseException]) -> None:
    """Have the store fail where a victim runs a statement."""
    run = store._connection.run

    def failing(work: Any, *how: Any) -> Any:
        if not _FAILS.get():
            return run(work, *how)

        async def fails(db: Transaction) -> Any:
            run_statement = db.run

            async def run_or_fail(name: str, *values: Any) -> Any:
                if name == statement:
                    raise problem("x")
                return await run_statement(name, *values)

            db.run = run_or_fail  # type: ignore[assignment, method-assign]
            return await work(db)

        return run(fails, *how)

    store._connection.run = failing


@pytest.mark.parametrize("others", [0, 4])
@pytest.mark.parametrize("kind", [DyingError, None])
def test_no_traceback_of_a_failing_store_shows_a_secret(
    database: Place, others: int, kind: type[BaseException] | None
) -> None:
    in_clear(database)
    kept(database, "authorized", "authorized", "nightly")
    statements = {
        "poll": ("flows.lock", "flows.lease_and_move", "add_event", "flows.move"),
        "claim": ("flows.lock", "flows.lease"),
        "get": ("flows.get_by_id",),
        "add": ("flows.add", "flows.get_by_id", "flows.get_by_name"),
        "list": ("flows.all",),
    }
    seen = list[BaseException]()

    async def main(what: str, statement: str) -> list[Any]:
        ids = [kept(database, "waiting", f"{what} {statement} {n}").id for n in range(others + 1)]
        database.clock.advance(60)
        async with opened(database) as store:
            has_fail(store, statement, kind or LOST[database.kind])
            calls: dict[str, Callable[[], Any]] = {
                "poll": lambda: poll(store, database, ids[0]),
                "claim": lambda: store.claim("authorized", "w1", database.now, 20.0),
                "get": lambda: get_async(store, "authorized"),
                "add": lambda: store.add(new("new", "nightly", at=database.now)),
                "list": lambda: anext(flows_async(store)),
            }
            return await asyncio.gather(
                victim(calls[what]()),
                *[poll(store, database, name) for name in ids[1:]],
                return_exceptions=True,
            )

    for what, names in statements.items():
        for name in names:
            problem, *rest = asyncio.run(main(what, name))
            assert isinstance(problem, kind or errors.StoreError), (what, name)
            assert rest == [True] * others
            seen.append(problem)

    assert [shown(one) for one in seen] == [set()] * len(seen)


# Waiting for what others change.


def changes(place: Place) -> list[Callable[[], object]]:
    """Return what somebody else may do that makes a flow due."""
    other = place.open()
    started = new("g2", at=place.now)

    def start() -> None:
        other.add(started)
        for moved in coded(started, place.now):
            assert commit(other, started, moved)

    imported = new("g1", at=place.now)
    for _ in coded(imported, place.now):
        pass
    return [start, lambda: other.add(imported)]


async def nothing_new(store: Any, place: Place) -> None:
    """Wait until a change is told of where there is one, and only there."""
    await store.watch(0.1)
    if place.kind == "postgres":
        while not store._connection._listener._heard:
            await store.watch(0.1)
    while await store.watch(0.0):
        pass


def test_change_by_another_wakes_who_waits(database: Place) -> None:
    async def main() -> None:
        async with opened(database) as store:
            assert await store.watch(0.0)
            await nothing_new(store, database)
            for change in changes(database):
                waits = asyncio.ensure_future(store.watch(PATIENCE))
                await asyncio.sleep(0.1)
                assert not waits.done()
                begun = time.monotonic()
                await asyncio.to_thread(change)
                assert await waits
                assert time.monotonic() - begun < PATIENCE / 2

    asyncio.run(main())


def test_change_by_another_wakes_who_waits_in_each_loop(database: Place) -> None:
    store: Any = open_async_store(database.url, keys=database.keys)

    async def main(change: Callable[[], object]) -> None:
        await nothing_new(store, database)
        waits = asyncio.ensure_future(store.watch(PATIENCE))
        await asyncio.sleep(0.1)
        assert not waits.done()
        await asyncio.to_thread(change)
        async with asyncio.timeout(PATIENCE / 2):
            assert await waits

    for change in changes(database):
        asyncio.run(main(change))
    asyncio.run(store.close())


def test_listener_is_one_for_all_that_wait_and_survives_the_end_of_its_session(
    remote: Place,
) -> None:
    listening = "FROM pg_stat_activity WHERE query = 'LISTEN deviceflow'"
    troubles: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
        async with opened(remote) as store:
            await store.now(remote.now)
            await asyncio.gather(*[store.watch(0.1) for _ in range(3)])
            while await store.watch(0.0):
                pass
            waits = asyncio.ensure_future(store.watch(PATIENCE))
            await asyncio.sleep(0.1)
            ended = await asyncio.to_thread(
                remote.ask, f"SELECT pg_terminate_backend(pid) {listening}"
            )
            assert len(ended) == 1
            async with asyncio.timeout(PATIENCE / 2):
                assert await waits
            await store.watch(0.1)
            assert len(await asyncio.to_thread(remote.ask, f"SELECT 1 {listening}")) == 1

    asyncio.run(main())
    assert not troubles


def test_listener_that_is_closed_while_it_connects_keeps_no_session(
    remote: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = "SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN deviceflow'"
    connect = _pgasync.connect

    async def main() -> None:
        connecting, closed = asyncio.Event(), asyncio.Event()

        async def slow(*args: Any) -> Any:
            connection = await connect(*args)
            connecting.set()
            await closed.wait()
            return connection

        monkeypatch.setattr(_pgasync, "connect", slow)
        async with opened(remote) as store:
            waits = asyncio.ensure_future(store.watch(0.1))
            await connecting.wait()
            listener = store._connection._listener  # or its session would end with it
            listener.close()
            closed.set()
            assert await waits
            deadline = time.monotonic() + PATIENCE
            while await asyncio.to_thread(remote.ask, listening):
                assert time.monotonic() < deadline, "the session is kept"

    asyncio.run(main())


def test_own_change_wakes_who_waits(place: Place) -> None:
    async def main() -> None:
        async with opened(place) as store:
            while await store.watch(0.0):
                pass
            waits = asyncio.ensure_future(store.watch(PATIENCE))
            await asyncio.sleep(0.1)
            flow = new("f1", at=place.now)
            await store.add(flow)
            for moved in coded(flow, place.now):
                assert await store.commit(flow, render(flow, moved, WORKER))
            async with asyncio.timeout(PATIENCE / 2):
                assert await waits

    asyncio.run(main())


def test_change_between_two_calls_is_not_missed(place: Place) -> None:
    async def main() -> None:
        async with opened(place) as store:
            while await store.watch(0.0):
                pass
            flow = new("f1", at=place.now)
            await store.add(flow)
            for moved in coded(flow, place.now):
                assert await store.commit(flow, render(flow, moved, WORKER))
            assert await store.watch(0.0)

    asyncio.run(main())


def test_upcoming_is_what_nobody_drives(place: Place) -> None:
    """New flows come before they are due; others, once they were due for as long as was asked."""

    async def main() -> list[list[str]]:
        async with opened(place) as store:
            pending = [await store.select(queries.pending(), 0.0)]
            flows = [new(f"f{number}", at=place.now) for number in range(5)]
            for number, flow in enumerate(flows):
                await store.add(flow)
                if number:
                    for moved in coded(flow, place.now - (0 if number == 1 else 10)):
                        assert await store.commit(flow, render(flow, moved, WORKER))
            pending.append(await store.select(queries.pending(), 0.0))
            assert isinstance(await store.claim("f2", "w1", place.now, 5000.0), Claim)
            polled = flows[3]
            poll = polled.poll(place.now, 10.0)
            assert await store.commit(polled, render(polled, poll, WORKER))
            recovery = polled.recover(place.now)
            assert await store.commit(polled, render(polled, recovery, WORKER))
            assert pending == [[], [True]]

            found = []
            for seconds, ahead, grace in ((0, 0, 0.0), (0, 100, 0.0), (1000, 0, 900.0)):
                place.clock.advance(seconds)
                upcoming = await store.select(queries.upcoming(ahead, grace), place.now)
                assert [flow.wake_at for flow in upcoming] == sorted(f.wake_at for f in upcoming)
                assert all(flow.now == pytest.approx(place.now, abs=60) for flow in upcoming)
                assert all(flow.seq == flows[int(flow.flow_id[1])].seq for flow in upcoming)
                found.append(sorted(flow.flow_id for flow in upcoming))
            found.append(
                sorted(
                    f.flow_id for f in await store.select(queries.upcoming(0.0, None), place.now)
                )
            )
            return found

    assert asyncio.run(main()) == [["f4"], ["f1", "f4"], ["f1", "f3", "f4"], ["f1", "f4"]]
