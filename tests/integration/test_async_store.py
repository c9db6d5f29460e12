"""What only an async store does: groups of jobs, cancellation, and waiting for what others change.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import errors
from deviceflow.audit.events import render
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.ports import Claim, LeaseHeld, Origin, StoreEvent
from deviceflow.core.states import State
from deviceflow.stores import _pgasync
from deviceflow.stores import _sqlite as sqlite_store
from deviceflow.stores.sql import store as sql_store
from deviceflow.stores.url import open_async_store
from tests.integration import places
from tests.integration.places import PENDING, Place, coded, commit, in_clear, kept, new
from tests.integration.test_traceback_canary import LOST, shown
from tests.pgbouncer import PgBouncer
from tests.postgres import PATIENCE, PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deviceflow.core.flow import Flow

MANY: Final = 40
WORKER: Final = Origin("w1")


@contextlib.asynccontextmanager
async def opened(place: Place, **how: Any) -> AsyncIterator[Any]:
    """Open the place's async store."""
    sealing: dict[str, Any] = {"plaintext": True} if place.plaintext else {"keys": place.keys}
    options = {} if place.kind == "memory" else sealing | how
    store: Any = open_async_store(place.url, **options)
    try:
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


def begun(place: Place, store: Any) -> Callable[[], int]:
    """Count the transactions that the store begins."""
    connection, count = store._connection, 0
    if place.kind == "sqlite":

        def traced(statement: str) -> None:
            nonlocal count
            count += statement.startswith("BEGIN")

        connection._connection.connected().set_trace_callback(traced)
        connection, begins = connection._connection, "move_all"
    else:
        begins = "_transact"
    transact = getattr(connection, begins)

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return transact(*args)

    setattr(connection, begins, counted)
    return lambda: count


# Groups.


def test_many_polls_share_few_transactions(database: Place) -> None:
    ids = [flow.id for flow in flows(database)]

    async def main() -> int:
        async with opened(database) as store:
            await store.get(ids[0])
            count = begun(database, store)
            for _ in range(2):  # those that are remembered are polled by another statement
                database.clock.advance(60)
                assert all(await asyncio.gather(*[poll(store, database, name) for name in ids]))
            return count()

    count = asyncio.run(main())

    assert 4 <= count < 2 * 2 * MANY / 4
    for flow_id in ids:
        assert [event["seq"] for event in database.sql.history(flow_id)] == [1, 2, 3, 4, 5]
        assert database.store.get(flow_id).state is State.AWAITING_USER
        assert database.store.get(flow_id).attempt == 2


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
            flow = database.store.get("f4")
            cancel = render(flow, flow.cancel(database.now), Origin("w2"))
            assert database.store.commit(flow, cancel)
            commits = [answered(store, claim) for claim in came if isinstance(claim, Claim)]
            return came, await asyncio.gather(*commits)

    claims, commits = asyncio.run(main())

    assert [isinstance(claim, LeaseHeld) for claim in claims] == [name == "f3" for name in ids]
    assert commits == [name != "f4" for name in ids if name != "f3"]
    for flow in database.store.flows():
        assert len(database.sql.history(flow.id)) == flow.seq


def test_many_imports_share_few_transactions(database: Place) -> None:
    imported = [new(f"f{number}", at=database.now) for number in range(MANY)]
    for flow in imported:
        for _ in coded(flow, database.now):
            pass

    async def main() -> int:
        async with opened(database) as store:
            await store.now(database.now)
            count = begun(database, store)
            added = await asyncio.gather(*map(store.add, imported))
            assert added == imported
            return count()

    assert asyncio.run(main()) < MANY / 4
    for flow in imported:
        assert [event["action"] for event in database.sql.history(flow.id)] == ["import"]


def test_many_starts_tell_of_themselves_once_a_group(remote: Place) -> None:
    started = [new(f"f{number}", at=remote.now) for number in range(MANY)]
    told = list[str]()

    async def main() -> None:
        async with opened(remote) as store:
            for flow in started:
                await store.add(flow)
            groups = store._connection
            execute = groups._execute

            async def counted(connection: Any, running: Any, name: str, values: Any) -> Any:
                told.append(name)
                return await execute(connection, running, name, values)

            groups._execute = counted
            count = begun(remote, store)

            async def code(flow: Flow) -> None:
                for moved in coded(flow, remote.now):
                    assert await store.commit(flow, render(flow, moved, WORKER))

            with psycopg.connect(remote.url, autocommit=True) as listener:
                listener.execute("LISTEN deviceflow")
                await asyncio.gather(*map(code, started))
                assert await asyncio.to_thread(lambda: [*listener.notifies(timeout=0.2)])
            assert told.count("notify") <= count()

    asyncio.run(main())

    assert {flow.state for flow in remote.store.flows()} == {State.AWAITING_USER}


def test_job_that_is_refused_concerns_no_other(database: Place) -> None:
    ids = [flow.id for flow in flows(database)]

    async def main() -> list[Any]:
        async with opened(database) as store:
            await store.get(ids[0])
            count = begun(database, store)
            claims = [store.claim(name, "w1", database.now, 20.0) for name in ["f", *ids]]
            came = await asyncio.gather(*claims, return_exceptions=True)
            assert count() <= 2  # nothing had to be undone
            return came

    came = asyncio.run(main())

    assert isinstance(came[0], errors.UnknownLoginError)
    assert all(isinstance(claim, Claim) for claim in came[1:])
    assert isinstance(database.store.claim(ids[-1], "w2", database.now, 20), LeaseHeld)


def test_job_that_the_database_refuses_concerns_no_other(database: Place) -> None:
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
    ended = {flow.id for flow in database.store.flows() if flow.state.ended}
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
    assert not database.store.get("f3").state.ended


def test_texts_of_a_group_are_stored_as_they_are(database: Place) -> None:
    waiting = flows(database)[:8]
    details = [f'{number} \u2713 \U0001f600 {{\\}},"NULL"' for number in range(len(waiting))]

    async def main() -> list[Any]:
        async with opened(database) as store:
            await store.get(waiting[0].id)
            commits = [
                store.commit(flow, render(flow, flow.cancel(database.now, detail), WORKER))
                for flow, detail in zip(waiting, details, strict=True)
            ]
            return await asyncio.gather(*commits)

    assert all(asyncio.run(main()))
    for flow, detail in zip(waiting, details, strict=True):
        assert database.sql.history(flow.id)[-1]["detail"] == detail
        assert database.store.get(flow.id).detail == detail


def test_job_that_fails_half_way_is_undone_alone(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = sql_store.add_store_event

    def failing(db: Any, key: Any, action: Any, detail: str, *origin: Any) -> Any:
        if detail == "f3":
            raise errors.UsageError("half way")
        return put(db, key, action, detail, *origin)

    monkeypatch.setattr(sql_store, "add_store_event", failing)

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
    assert {flow.id for flow in database.store.flows()} == {f"f{n}" for n in range(8)} - {"f3"}
    details = [event["detail"] for event in database.sql.history("store")]
    assert sorted(details) == [f"f{n}" for n in range(8) if n != 3]


def test_jobs_of_one_flow_are_done_in_their_order(database: Place) -> None:
    (flow, *_) = flows(database)

    async def main() -> tuple[Any, ...]:
        async with opened(database) as store:
            await store.get(flow.id)
            return await asyncio.gather(
                store.claim(flow.id, "w1", database.now, 20.0),
                cancelled(flow, store, database),
                store.get(flow.id),
                store.claim(flow.id, "w2", database.now, 20.0),
                store.release(flow.id, "w1"),
                store.claim(flow.id, "w2", database.now, 20.0),
            )

    first, done, seen, refused, _, second = asyncio.run(main())

    assert isinstance(first, Claim)
    assert done
    assert seen.state.ended
    assert isinstance(refused, LeaseHeld)
    assert isinstance(second, Claim)


def test_closing_waits_for_what_was_asked_for(database: Place) -> None:
    waiting = flows(database)

    async def main() -> None:
        async with opened(database) as store:
            await store.get("f0")
            commits = [asyncio.ensure_future(cancelled(f, store, database)) for f in waiting]
            await asyncio.sleep(0)
            await store.close()
            assert await asyncio.gather(*commits) == [True] * MANY

    asyncio.run(main())

    assert all(flow.state.ended for flow in database.store.flows())


def test_store_serves_one_loop_after_another(database: Place) -> None:
    kept(database, "waiting")
    store: Any = open_async_store(database.url, keys=database.keys)

    for _ in range(3):
        assert asyncio.run(store.get("f1")).id == "f1"

    asyncio.run(store.close())


def test_unusable_store_is_told_of_at_its_first_use_and_mended(database: Place) -> None:
    kept(database, "waiting")
    database.ask("UPDATE {meta} SET value = '99' WHERE name = 'version'")

    async def main() -> None:
        store: Any = open_async_store(database.url, keys=database.keys)
        for _ in range(2):
            with pytest.raises(errors.StoreError, match="newer deviceflow"):
                await store.get("f1")
        database.ask("UPDATE {meta} SET value = '1' WHERE name = 'version'")
        assert (await store.get("f1")).id == "f1"
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
    """Wait until the store performs what it was asked for."""
    connection = store._connection
    await asyncio.sleep(0)  # it is asked for
    async with asyncio.timeout(PATIENCE):
        if place.kind == "sqlite":
            while connection._fresh or connection._waiting:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)
        else:
            while not connection._at_work:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("times", [1, 2])
def test_job_that_was_begun_is_awaited_to_its_end(database: Place, times: int) -> None:
    flow = kept(database, "waiting")

    async def main() -> None:
        async with opened(database) as store:
            await store.get("f1")
            with held_up(database):
                commit = asyncio.ensure_future(cancelled(flow, store, database))
                await is_begun(store, database)
                for _ in range(times):
                    commit.cancel()
                    await asyncio.sleep(0.05)
                    assert not commit.done()
            with pytest.raises(asyncio.CancelledError):
                await commit

    asyncio.run(main())

    assert database.store.get("f1").state.ended


def test_cancellation_counts_whatever_the_method_makes_of_the_answer(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        begun, goes_on = threading.Event(), threading.Event()
        async with opened(place) as store:
            await store.now(place.now)
            connection = store._connection._connection
            perform = connection.perform

            def slow(*job: Any) -> Any:
                begun.set()
                goes_on.wait(PATIENCE)
                return perform(*job)

            connection.perform = slow
            get = asyncio.ensure_future(store.get("none of these"))
            await asyncio.to_thread(begun.wait, PATIENCE)
            get.cancel()
            await asyncio.sleep(0)
            goes_on.set()
            with pytest.raises(asyncio.CancelledError):
                await get

    place = places.sqlite(tmp_path)
    asyncio.run(main(place))
    place.close()


def test_job_that_was_not_begun_is_never_done(database: Place) -> None:
    flow = kept(database, "waiting")

    async def main() -> None:
        async with opened(database) as store:
            await store.get("f1")
            with held_up(database):
                claim = asyncio.ensure_future(store.claim("f1", "w1", database.now, 20.0))
                await is_begun(store, database)
                commit = asyncio.ensure_future(cancelled(flow, store, database))
                await asyncio.sleep(0.05)
                commit.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await commit
                assert not claim.done()
            assert isinstance(await claim, Claim)

    asyncio.run(main())

    assert not database.store.get("f1").state.ended


def test_loop_that_ends_leaves_all_of_a_job_or_none(database: Place) -> None:
    waiting = flows(database)

    async def main() -> None:
        store = open_async_store(database.url, keys=database.keys)
        await store.get("f0")
        for flow in waiting:
            main.tasks.append(asyncio.ensure_future(cancelled(flow, store, database)))  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)

    main.tasks = []  # type: ignore[attr-defined]
    asyncio.run(main())

    for flow in waiting:
        stored = database.store.get(flow.id)
        assert len(database.sql.history(flow.id)) == stored.seq
    assert all(task.cancelled() or task.result() for task in main.tasks)  # type: ignore[attr-defined]


def test_store_can_be_closed_where_all_tasks_were_cancelled_at_once(database: Place) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE), opened(database) as store:
            await store.now(database.now)
            asked = asyncio.ensure_future(store.any_pending())
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task(), asked}:
                task.cancel()  # before the first step of each
            assert not await asked

    asyncio.run(main())


def test_timeout_of_a_caller_goes_through(database: Place) -> None:
    kept(database, "waiting")

    async def main() -> None:
        async with opened(database) as store:
            await store.get("f1")
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
        assert database.store.get(f"f{number}").state is State.AWAITING_USER
    for flow in database.store.flows():
        assert len(database.sql.history(flow.id)) == flow.seq


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_group_is_as_durable_as_asked_for(tmp_path: Path, synchronous: str, level: int) -> None:
    from deviceflow.stores.async_sqlite import AsyncSQLiteStore  # noqa: PLC0415

    store: Any = AsyncSQLiteStore(tmp_path / "f.db", plaintext=True, synchronous=synchronous)  # type: ignore[arg-type]
    levels = list[Any]()

    async def main() -> None:
        async with store:
            connection = store._connection._connection.connected()

            def traced(statement: str) -> None:
                if statement == "COMMIT":
                    levels.append(connection.execute("PRAGMA synchronous").fetchone())

            connection.set_trace_callback(traced)
            await asyncio.gather(*[store.add(new(f"f{number}")) for number in range(20)])

    asyncio.run(main())

    assert set(levels) == {(level,)}


_FORKING: Final = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
from deviceflow.stores.url import open_async_store

store = open_async_store(sys.argv[1], keys=[sys.argv[2]])

async def look():
    return [(await store.get("f1")).id async for _ in store.flows()]

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


@pytest.mark.parametrize("remembered", [False, True])
def test_file_that_is_locked_for_too_long_fails_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: bool
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY", 0.3)
    from tests.integration import places  # noqa: PLC0415

    place = places.sqlite(tmp_path)
    waiting = flows(place)

    async def main() -> None:
        async with opened(place) as store:
            await store.get("f0")
            for flow in waiting if remembered else ():
                assert await poll(store, place, flow.id)
            place.clock.advance(60)
            with held_up(place):
                begun = time.monotonic()
                claims = [claimed(store, place, flow.id) for flow in waiting]
                came = await asyncio.gather(*claims, return_exceptions=True)
                assert (await store.get("f0")).id == "f0"  # reading waits for nobody
                assert time.monotonic() - begun < 0.3 * MANY
            assert all("has locked the database" in str(problem) for problem in came)
            assert isinstance(await store.claim("f0", "w1", place.now, 20.0), Claim)

    asyncio.run(main())
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
    from tests.integration import places  # noqa: PLC0415

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
            await store.get("f0")
            with server.frozen():
                claims = [store.claim(flow.id, "w1", remote.now, 20.0) for flow in waiting]
                async with asyncio.timeout(PATIENCE):
                    came = await asyncio.gather(*claims, return_exceptions=True)
            assert {type(problem) for problem in came} == {errors.StoreError}
            assert all(problem.hint for problem in came)  # type: ignore[union-attr]
            async with asyncio.timeout(PATIENCE):
                assert isinstance(await store.claim("f0", "w1", remote.now, 20.0), Claim)

    asyncio.run(main())


def test_connections_that_were_ended_are_not_even_noticed(remote: Place) -> None:
    waiting = flows(remote)

    async def main() -> None:
        async with opened(remote) as store:
            await store.get("f0")
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
            await store.get("f0")
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
            assert await store.wait_for_change(PATIENCE)
        await store.close()

    asyncio.run(main())
    assert {remote.store.get(name).attempt for name in ids} == {1}


# Secrets.


class DyingError(BaseException):
    """What ends a process, and nobody handles."""


def failing(job: Any, at: int, problem: BaseException) -> tuple[Any, Callable[[], int]]:
    """Have the statement of a number fail in a job."""
    left = at

    def attempt(now: float) -> Any:
        nonlocal left
        running, rows = job.operation(now), None
        while True:
            try:
                wanted = running.send(rows)
            except StopIteration as stop:
                return stop.value
            left -= 1
            if left == 0:
                raise problem
            rows = yield wanted

    return job._replace(operation=attempt), lambda: left


@pytest.mark.parametrize("others", [0, 4])
@pytest.mark.parametrize("kind", [DyingError, None])
def test_no_traceback_of_a_failing_store_shows_a_secret(
    database: Place, others: int, kind: type[BaseException] | None
) -> None:
    in_clear(database)
    ids = [kept(database, "waiting", f"f{number}").id for number in range(others + 1)]
    kept(database, "authorized", "authorized")
    kind = kind or LOST[database.kind]
    seen = list[BaseException]()

    async def main() -> None:
        async with opened(database) as store:
            perform = store._connection.perform
            for at in range(1, 4):
                database.clock.advance(60)

                async def fails(job: Any, at: int = at) -> Any:
                    is_victim = job.flow_id in ("f0", "authorized", None)
                    return await perform(failing(job, at, kind("x"))[0] if is_victim else job)

                store._connection.perform = fails
                came = await asyncio.gather(
                    *[poll(store, database, flow_id) for flow_id in ids],
                    store.get("authorized"),
                    store.claim("authorized", "w1", database.now, 20.0),
                    store.add(new(f"new{at}", at=database.now)),
                    anext(store.flows()),
                    return_exceptions=True,
                )
                store._connection.perform = perform
                seen.extend(one for one in came if isinstance(one, BaseException))
                await store.release("f0", "w1")

    asyncio.run(main())

    assert seen
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


def test_change_by_another_wakes_who_waits(database: Place) -> None:
    async def main() -> None:
        async with opened(database) as store:
            assert await store.wait_for_change(0.0)
            if database.kind == "postgres":
                while not store._connection._listener._heard:
                    await store.wait_for_change(0.1)
            while await store.wait_for_change(0.0):
                pass
            for change in changes(database):
                waits = asyncio.ensure_future(store.wait_for_change(PATIENCE))
                await asyncio.sleep(0.1)
                assert not waits.done()
                begun = time.monotonic()
                await asyncio.to_thread(change)
                assert await waits
                assert time.monotonic() - begun < PATIENCE / 2

    asyncio.run(main())


def test_listener_is_one_for_all_that_wait_and_survives_the_end_of_its_session(
    remote: Place,
) -> None:
    listening = "FROM pg_stat_activity WHERE query = 'LISTEN deviceflow'"
    troubles: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
        async with opened(remote) as store:
            await store.now(remote.now)
            await asyncio.gather(*[store.wait_for_change(0.1) for _ in range(3)])
            while await store.wait_for_change(0.0):
                pass
            waits = asyncio.ensure_future(store.wait_for_change(PATIENCE))
            await asyncio.sleep(0.1)
            ended = await asyncio.to_thread(
                remote.ask, f"SELECT pg_terminate_backend(pid) {listening}"
            )
            assert len(ended) == 1
            async with asyncio.timeout(PATIENCE / 2):
                assert await waits
            await store.wait_for_change(0.1)
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
            waits = asyncio.ensure_future(store.wait_for_change(0.1))
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
            while await store.wait_for_change(0.0):
                pass
            waits = asyncio.ensure_future(store.wait_for_change(PATIENCE))
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
            while await store.wait_for_change(0.0):
                pass
            flow = new("f1", at=place.now)
            await store.add(flow)
            for moved in coded(flow, place.now):
                assert await store.commit(flow, render(flow, moved, WORKER))
            assert await store.wait_for_change(0.0)

    asyncio.run(main())


def test_upcoming_is_what_nobody_drives(place: Place) -> None:
    """New flows come before they are due; others, once they were due for as long as was asked."""

    async def main() -> list[list[str]]:
        async with opened(place) as store:
            pending = [await store.any_pending()]
            flows = [new(f"f{number}", at=place.now) for number in range(5)]
            for number, flow in enumerate(flows):
                await store.add(flow)
                if number:
                    for moved in coded(flow, place.now - (0 if number == 1 else 10)):
                        assert await store.commit(flow, render(flow, moved, WORKER))
            pending.append(await store.any_pending())
            assert isinstance(await store.claim("f2", "w1", place.now, 5000.0), Claim)
            polled = flows[3]
            poll = polled.poll(place.now, 10.0)
            assert await store.commit(polled, render(polled, poll, WORKER))
            recovery = polled.recover(place.now)
            assert await store.commit(polled, render(polled, recovery, WORKER))
            assert pending == [False, True]

            found = []
            for seconds, ahead, grace in ((0, 0, 0.0), (0, 100, 0.0), (1000, 0, 900.0)):
                place.clock.advance(seconds)
                upcoming = await store.upcoming(place.now, ahead, grace)
                assert [flow.wake_at for flow in upcoming] == sorted(f.wake_at for f in upcoming)
                assert all(flow.now == pytest.approx(place.now, abs=60) for flow in upcoming)
                assert all(flow.seq == flows[int(flow.flow_id[1])].seq for flow in upcoming)
                found.append(sorted(flow.flow_id for flow in upcoming))
            found.append(sorted(f.flow_id for f in await store.upcoming(place.now, 0.0, None)))
            return found

    assert asyncio.run(main()) == [["f4"], ["f1", "f4"], ["f1", "f3", "f4"], ["f1", "f4"]]
