"""Stores that fail, truly: each time a clear error, nothing lost, and the login goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import errors
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.ports import Origin, StoreEvent
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.stores import _pgpool as pgpool
from deviceflow.stores import _sqlite as sqlite_store
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sql.statements import MIGRATIONS
from deviceflow.stores.sqlite import SQLiteStore
from tests.crash.traps import relayed
from tests.integration import places
from tests.integration.places import (
    CODE,
    GRANTED,
    OAUTH,
    PENDING,
    REVOKED,
    Place,
    commit,
    everything,
    kept,
    new,
)
from tests.postgres import PATIENCE, PostgresServer
from tests.stored import flows, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow import Client

    Events = Callable[[], list[dict[str, Any]]]

TOKEN: Final = Secret("TOKEN-CANARY")


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Place]:
    place = places.sqlite(tmp_path)
    yield place
    place.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a server that tests may stop."""
    with PostgresServer() as started:
        yield started


@pytest.fixture
def postgres(server: PostgresServer) -> Iterator[Place]:
    url = server.database()
    place = places.postgres(server, url)
    place.store.close()
    place.store = place.open(timeout=1.0)
    yield place
    place.close()
    server.drop(url)


def file_of(place: Place) -> Path:
    return Path(place.url.removeprefix("sqlite:///"))


def failing(work: Callable[[], object], said: str, hint: str) -> None:
    with pytest.raises(errors.StoreError, match=said) as caught:
        work()
    assert hint in str(caught.value)


def started(place: Place, *script: Any) -> tuple[Client, str]:
    """Return a client with a login that is due to be polled for, and its name."""
    driver = place.client(CODE, *script)
    flow = driver.start(OAUTH)
    place.clock.advance(flow.wait_seconds)
    return driver, flow.id


def goes_on(place: Place, flow_id: str) -> None:
    """See that a login comes to its token, as somebody else opens the store."""
    with place.open() as store:
        place.clock.advance(60)
        assert place.client(GRANTED, store=store).wait_for_token(flow_id).access_token == TOKEN
        history = [event["seq"] for event in store.events(flow_id)]
        assert history == list(range(1, len(history) + 1))


# A disk that is full.


def pages(place: Place, more: int | None) -> None:
    """Let the file have so many pages more than it has, or as many as it likes."""
    assert isinstance(place.store, SQLiteStore)
    connection = place.store._connection.connected()
    (has,) = connection.execute("PRAGMA page_count").fetchone()
    limit = 1_000_000 if more is None else has + more
    connection.execute(f"PRAGMA max_page_count = {limit}")


def fill(place: Place) -> int:
    """Keep flows and events until there is no more room, and return how many flows were kept."""
    added = itertools.count()

    def until_full(keep: Callable[[], object]) -> None:
        with pytest.raises(errors.StoreError, match=r"the disk is full\. Free space"):  # noqa: PT012
            while True:
                keep()

    until_full(lambda: place.store.add(new(f"full-{next(added)}")))
    until_full(lambda: place.store.append(StoreEvent(PLAIN_HTTP, place.now, "x", Origin())))
    return next(added) - 1


def test_disk_that_is_full_loses_nothing(sqlite: Place) -> None:
    _, name = started(sqlite)
    pages(sqlite, 3)

    count = fill(sqlite)

    assert len(list(flows(sqlite.store))) == count + 1
    failing(lambda: sqlite.store.add(new(f"full-{count}")), "the disk is full", "Free space")
    pages(sqlite, None)
    goes_on(sqlite, name)


@pytest.mark.parametrize("patience", [LEASE_MARGIN / 2, LEASE_MARGIN * 2])
def test_token_that_comes_when_the_disk_is_full_is_kept_until_there_is_room(
    sqlite: Place, events: Events, patience: float
) -> None:
    def full(_: object) -> Any:
        pages(sqlite, 0)
        fill(sqlite)
        return GRANTED

    driver, name = started(sqlite, full)
    until = sqlite.now + patience
    sleep = sqlite.clock.sleep

    def room_later(seconds: float) -> None:
        sleep(seconds)
        if sqlite.now >= until:
            pages(sqlite, None)

    sqlite.clock.sleep = room_later  # type: ignore[method-assign]
    if patience > LEASE_MARGIN:
        failing(lambda: driver.step(name), "the disk is full", "the next step of the login saves")
        sqlite.clock.advance(patience)
        pages(sqlite, None)
        assert get(sqlite.store, name).state is State.POLLING

    assert driver.step(name).state is State.AUTHORIZED

    assert driver.collect_token(name).access_token == TOKEN
    assert [event["action"] for event in events()][-3:] == ["poll", "issue_token", "collect"]


CHILD: Final = """
import os, resource, sys
from deviceflow import Client
from deviceflow.errors import StoreError
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock
from tests.integration.places import CODE, GRANTED, OAUTH, PENDING, new
from tests.stored import flows

path = sys.argv[1]
store = SQLiteStore(path, plaintext=True)
clock = VirtualClock()
client = Client(store, clock=clock, transport=ScriptedTransport([CODE, PENDING, GRANTED]))
flow = client.start(OAUTH)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path + "-wal").st_size + 20_000, hard))
count = 0
try:
    while count < 10_000:
        store.add(new(f"full-{count}"))
        count += 1
except StoreError as problem:
    print(problem)
print(len(list(flows(store))) == count + 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(client.wait_for_token(flow.id).access_token.reveal())
"""


def test_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "flows.db")],
        capture_output=True,
        text=True,
        check=True,
    )

    problem, whole, token = done.stdout.splitlines()
    assert problem.startswith(f"{tmp_path / 'flows.db'}: the disk ")
    assert (whole, token) == ("True", "TOKEN-CANARY")


# Files that cannot be written.


@contextlib.contextmanager
def as_somebody_else(*paths: Path) -> Iterator[None]:
    """Have no more rights than others where we are root, since nothing stops that one."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    for path in paths:
        os.chown(path, nobody, nobody)
    os.setegid(nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """Make a folder that anybody may use."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_cannot_be_written_is_said_and_mended(public: Path, what: str) -> None:
    place = places.sqlite(public)
    _, name = started(place)
    place.store.close()
    path, mode = (file_of(place), 0o400) if what == "file" else (public, 0o500)
    said = {
        "file": "cannot be used: Permission denied",
        "directory": "the file or its directory is not writable",
    }[what]

    with as_somebody_else(public, *public.iterdir()):
        path.chmod(mode)
        failing(place.open, said, "Make the file and its directory writable")
        path.chmod(mode | 0o200)

        goes_on(place, name)
        place.close()


def test_directory_in_which_no_file_can_be_made_is_said(public: Path) -> None:
    with as_somebody_else(public):
        public.chmod(0o500)

        failing(lambda: places.sqlite(public), "cannot be used as a store: Perm", "Name a file")


def test_file_that_becomes_unwritable_while_it_is_open_is_said_and_mended(public: Path) -> None:
    place = places.sqlite(public)
    with as_somebody_else(public, *public.iterdir()):
        driver, name = started(place, PENDING)
        place.store.close()  # as a process that begins later
        file_of(place).chmod(0o400)

        for use in (driver.step, driver.get):
            failing(
                lambda use=use: use(name),  # type: ignore[misc]
                "cannot be used: Permission",
                "Make the file and its directory writable",
            )
        file_of(place).chmod(0o600)

        assert driver.step(name).state is State.AWAITING_USER
        goes_on(place, name)
        place.close()


# Files that are gone, or something else.


def test_file_that_is_gone_and_comes_back(sqlite: Place) -> None:
    driver, name = started(sqlite, PENDING)
    away = file_of(sqlite).rename(file_of(sqlite).with_name("away"))

    for use in (driver.step, driver.get, driver.cancel, driver.wait_for_token):
        failing(lambda use=use: use(name), "No such file", "restore it")  # type: ignore[misc]
    sqlite.clock.advance(60)
    away.rename(file_of(sqlite))

    assert driver.step(name).state is State.AWAITING_USER
    goes_on(sqlite, name)


def test_file_that_comes_back_as_a_copy(sqlite: Place, tmp_path: Path) -> None:
    driver, name = started(sqlite, PENDING)
    copies = tmp_path / "copies"
    copies.mkdir()
    files = [path for path in tmp_path.glob("flows.db*") if not path.name.endswith("-shm")]
    for path in files:
        shutil.copy2(path, copies)
        path.unlink()
    failing(lambda: driver.step(name), "No such file", "restore it")
    (tmp_path / "flows.db-shm").unlink(missing_ok=True)
    for path in files:
        shutil.copy2(copies / path.name, path)

    sqlite.clock.advance(60)
    assert driver.step(name).state is State.AWAITING_USER
    goes_on(sqlite, name)


def test_other_store_in_the_place_of_the_file_is_not_mistaken_for_it(
    sqlite: Place, tmp_path: Path
) -> None:
    driver, name = started(sqlite)
    away = tmp_path / "away"
    away.mkdir()
    for path in tmp_path.glob("flows.db*"):
        path.rename(away / path.name)
    with SQLiteStore(file_of(sqlite), keys=sqlite.keys):
        pass

    with pytest.raises(errors.UnknownLoginError):
        driver.step(name)

    for path in tmp_path.glob("flows.db*"):
        path.unlink()
    for path in away.iterdir():
        path.rename(tmp_path / path.name)
    goes_on(sqlite, name)


@pytest.mark.parametrize(
    "content", [b"no database at all\n" * 100, b"\0" * 5000, b"SQLite format 3"]
)
def test_what_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flows.db"
    path.touch(0o600)
    path.write_bytes(content)

    failing(
        lambda: SQLiteStore(path), "not a SQLite database", "Set DEVICEFLOW_STORE to another file"
    )

    assert path.read_bytes() == content


def test_damaged_file_is_said_and_goes_on_once_it_is_restored(sqlite: Place) -> None:
    whole = [kept(sqlite, "waiting", f"f{number}") for number in range(30)]
    for flow in whole:
        for _ in range(20):
            moved = flow.poll(sqlite.now, 10.0)
            assert commit(sqlite.store, flow, moved)
            assert commit(sqlite.store, flow, flow.receive(PENDING, sqlite.now))
    sqlite.store.close()
    content = file_of(sqlite).read_bytes()
    middle = len(content) // 2 // 4096 * 4096
    with file_of(sqlite).open("r+b") as file:
        file.seek(4096)  # not the first page, by which a database is known
        file.write(os.urandom(middle - 4096))

    def look() -> None:
        with sqlite.open() as store:
            list(flows(store))
            for flow in whole:
                get(store, flow.id)
                store.events(flow.id)

    failing(look, "the database is damaged", "Restore it from a backup")
    file_of(sqlite).write_bytes(content)

    for flow in whole:
        assert everything(get(sqlite.store, flow.id)) == everything(flow)
    goes_on(sqlite, "f7")


def test_table_that_is_missing_is_an_error_of_the_store(sqlite: Place) -> None:
    _, name = started(sqlite)
    sqlite.ask("ALTER TABLE flows RENAME TO lost")

    failing(lambda: get(sqlite.store, name), "SQLite error: no such table: flows", "")

    sqlite.ask("ALTER TABLE lost RENAME TO flows")
    goes_on(sqlite, name)


@pytest.mark.parametrize("version", ["x", "-1", "1.0", "", "٣", " 1", "9" * 5000])
def test_version_that_is_not_a_number_is_refused(database: Place, version: str) -> None:
    database.ask("UPDATE {meta} SET value = ? WHERE name = 'version'", version)

    for how in ({}, {"read_only": True}):
        with pytest.raises(errors.StoreError, match="schema, in its table `meta`, is not a number"):
            database.open(**how)

    database.ask("UPDATE {meta} SET value = ? WHERE name = 'version'", str(len(MIGRATIONS)))
    database.open()


def test_store_of_a_newer_version_is_refused_and_left_as_it_is(database: Place) -> None:
    _, name = started(database)
    database.ask("UPDATE {meta} SET value = '99' WHERE name = 'version'")

    failing(database.open, "schema is version 99", "Upgrade deviceflow here. Nothing was changed.")

    database.ask("UPDATE {meta} SET value = ? WHERE name = 'version'", str(len(MIGRATIONS)))
    goes_on(database, name)


# Others who have it.


def test_opening_a_store_again_leaves_the_locks_that_this_process_has(sqlite: Place) -> None:
    """Closing any handle on a file drops them all, and whoever comes next deletes the journal."""
    kept(sqlite, "waiting")
    sqlite.open().close()
    SQLiteStore(file_of(sqlite), keys=sqlite.keys).close()
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM flows')"

    subprocess.run([sys.executable, "-c", look, str(file_of(sqlite))], check=True)

    assert file_of(sqlite).with_name("flows.db-wal").stat().st_size > 0


HOLDER: Final = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_file_that_is_locked_for_too_long_is_said_and_goes_on_after_it(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, name = started(sqlite, PENDING)
    sqlite.store.close()
    monkeypatch.setattr(sqlite_store, "BUSY", 0.05)
    holder = [
        sys.executable,
        "-c",
        HOLDER,
        str(file_of(sqlite)),
    ]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()

        failing(lambda: driver.step(name), "has locked the database", "Try again")
        assert driver.get(name).state is State.AWAITING_USER  # who only reads goes on

        assert other.stdin
        other.stdin.close()

    assert driver.step(name).state is State.AWAITING_USER
    goes_on(sqlite, name)


def test_file_that_others_have_open_in_another_mode_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY", 0.05)
    path = tmp_path / "flows.db"
    path.touch(0o600)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN EXCLUSIVE")

        failing(
            lambda: SQLiteStore(path),
            "has locked the database",
            "find the process that has the file open",
        )

        other.execute("ROLLBACK")
    SQLiteStore(path).close()


def test_file_that_others_read_is_turned_to_the_journal_that_all_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flows.db"
    path.touch(0o600)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN")
        other.execute("SELECT * FROM theirs").fetchall()
        monkeypatch.setattr(sqlite_store, "BUSY", 0.05)
        failing(
            lambda: SQLiteStore(path),
            "has locked the database",
            "find the process that has the file open",
        )
        patient = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: other.execute("ROLLBACK"))
        monkeypatch.setattr(sqlite_store, "time", patient)

        SQLiteStore(path).close()


@pytest.mark.parametrize(("setting", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_what_is_committed_is_as_durable_as_asked_for_whatever_leases_are(
    sqlite: Place, setting: str, level: int
) -> None:
    with sqlite.open(synchronous=setting) as store:
        flow = sqlite.client(CODE, PENDING, store=store).start(OAUTH)
        assert store._connection.connected().execute("PRAGMA synchronous").fetchone() == (level,)
    goes_on(sqlite, flow.id)


def forked(work: Callable[[], object]) -> int:
    """Do the work in a child that is a copy of this process; 0 if it succeeded."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_store_can_be_used_on_both_sides_of_a_fork(database: Place) -> None:
    kept(database, "waiting")

    def poll() -> None:
        flow = get(database.store, "f1")
        assert commit(database.store, flow, flow.poll(database.now, 10))
        database.store.close()

    assert forked(database.store.close) == 0
    assert forked(poll) == 0

    flow = get(database.store, "f1")
    assert flow.state is State.POLLING
    assert commit(database.store, flow, flow.receive(PENDING, database.now))
    goes_on(database, "f1")


# Answers that are lost.


@pytest.fixture
def lossy(postgres: Place, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lose the answers to commits: as many as are in the list that it returns."""
    losses: list[str] = []
    execute: Any = psycopg.Connection.execute

    def losing(connection: Any, query: Any, *args: Any, **how: Any) -> Any:
        done = execute(connection, query, *args, **how)
        if query == "COMMIT" and losses:
            losses.pop()
            connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(psycopg.Connection, "execute", losing)
    return losses


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", [None, "nightly"])
def test_commit_whose_answer_is_lost_is_done_once(
    postgres: Place, lossy: list[str], events: Events, times: int, name: str | None
) -> None:
    driver = postgres.client(CODE, PENDING, GRANTED)

    lossy += ["add"] * times
    flow = driver.create(OAUTH, name=name)
    while not (step := driver.step(flow.id)).state.ended:
        lossy += ["poll and its answer"] * times
        postgres.clock.advance(step.wait_seconds)
    lossy += ["collect"] * times
    token = driver.collect_token(flow.id)
    lossy += ["acknowledge"] * times
    driver.acknowledge(flow.id)

    assert (token.access_token, lossy) == (TOKEN, [])
    actions = ["issue_code", "poll", "pending", "poll", "issue_token", "collect", "acknowledge"]
    assert [event["action"] for event in events()] == actions
    assert postgres.sql.events(flow.id) == events()
    assert get(driver._store, flow.id).orphaned_tokens == 0


def test_commit_whose_answer_is_lost_too_often_is_an_error(
    postgres: Place, lossy: list[str]
) -> None:
    driver, name = started(postgres)
    lossy += ["cancel"] * 3

    failing(lambda: driver.cancel(name), "cannot be reached", "Nothing is lost")

    assert driver.get(name).state is State.FAILED  # it was done all the same


@pytest.mark.parametrize("until", ["collected", "acknowledged", "purged", "ready"])
def test_token_that_was_kept_while_the_answer_was_lost_is_no_stray_one(
    database: Place, events: Events, until: str
) -> None:
    """Whoever has the token by then must not have it revoked under their hands."""
    driver, name = started(database, GRANTED, REVOKED)
    keep = database.store.commit
    answers = False

    def unanswered(*args: Any, **kwargs: Any) -> bool:
        done = keep(*args, **kwargs)
        if args[1]["action"] == "issue_token" and not answers:
            raise errors.StoreError("No answer.")
        return done

    database.store.commit = unanswered  # type: ignore[method-assign]
    failing(lambda: driver.step(name), "No answer", "the next step of the login saves")
    answers = True
    other = database.client(store=database.open())
    if until in ("collected", "acknowledged"):
        other.collect_token(name)
    if until == "acknowledged":
        other.acknowledge(name)
    if until == "purged":
        flow = get(database.store, name)
        assert commit(database.store, flow, flow.purge(database.now))

    assert driver.step(name).state is State.AUTHORIZED

    assert get(database.store, name).orphaned_tokens == (1 if until == "purged" else 0)
    assert "orphan_token" not in [event["action"] for event in events()]
    assert get(database.store, name).handover == (until or "ready")


# A server that stops.


@pytest.mark.parametrize("how", [PostgresServer.stop, PostgresServer.kill])
def test_server_that_stops_and_comes_back(
    postgres: Place, server: PostgresServer, how: Callable[[PostgresServer], None]
) -> None:
    driver, name = started(postgres, PENDING, GRANTED)
    how(server)
    try:
        for use in (driver.step, driver.get, driver.cancel):
            failing(
                lambda use=use: use(name),  # type: ignore[misc]
                "cannot be reached",
                "try again when the database is available",
            )
        failing(postgres.open, "cannot be reached", "try again when the database is available")
    finally:
        server.start()

    assert driver.step(name).state is State.AWAITING_USER
    goes_on(postgres, name)


def test_server_that_was_away_for_long_is_found_at_once_when_it_is_back(
    postgres: Place, server: PostgresServer
) -> None:
    driver, name = started(postgres)
    server.stop()
    try:
        for _ in range(5):  # by which a pool would try ever more seldom
            failing(lambda: driver.get(name), "cannot be reached", "try again")
    finally:
        server.start()

    assert driver.get(name).state is State.AWAITING_USER


def test_server_that_is_restarted_between_two_steps_is_not_even_noticed(
    postgres: Place, server: PostgresServer
) -> None:
    driver, name = started(postgres, PENDING)
    server.kill()
    server.start()

    assert driver.step(name).state is State.AWAITING_USER
    goes_on(postgres, name)


def test_token_that_comes_while_the_server_is_away_is_brought_there_later(
    postgres: Place, server: PostgresServer, events: Events
) -> None:
    def stopped(_: object) -> Any:
        server.stop()
        return GRANTED

    driver, name = started(postgres, stopped)
    try:
        failing(
            lambda: driver.step(name), "in this process only", "the next step of the login saves"
        )
    finally:
        server.start()

    assert driver.step(name).state is State.AUTHORIZED

    assert driver.collect_token(name).access_token == TOKEN
    assert [event["action"] for event in events()] == [
        "issue_code",
        "poll",
        "issue_token",
        "collect",
    ]


# A server that throws clients out, or refuses them.


def thrown_out(place: Place) -> None:
    others = "application_name = 'deviceflow' AND datname = current_database()"
    place.ask(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")


def test_connection_that_is_ended_between_two_steps_is_not_even_noticed(postgres: Place) -> None:
    driver, name = started(postgres, PENDING, GRANTED)

    thrown_out(postgres)
    step = driver.step(name)
    postgres.clock.advance(step.wait_seconds)
    thrown_out(postgres)

    assert driver.wait_for_token(name).access_token == TOKEN


@pytest.mark.parametrize(
    "statement", ["flows.lock", "flows.lease_and_move", "flows.move", "add_event"]
)
def test_connection_that_is_ended_within_a_commit_is_tried_again(
    postgres: Place, events: Events, statement: str
) -> None:
    driver, name = started(postgres, GRANTED)
    assert isinstance(postgres.store, PostgresStore)
    connection: Any = postgres.store._connection
    run = connection.run
    thrown: list[str] = []

    def done(name: str) -> None:
        if name == statement and not thrown:
            thrown.append(name)
            thrown_out(postgres)

    connection.run = lambda work, *how: run(relayed(work, after=done), *how)

    assert driver.wait_for_token(name).access_token == TOKEN

    assert thrown == [statement]
    assert [event["action"] for event in events()] == [
        "issue_code",
        "poll",
        "issue_token",
        "collect",
    ]
    assert postgres.sql.events(name) == events()


@pytest.mark.parametrize(
    ("code", "hint"), [("53100", "Free space on the server's disk"), ("57P03", ""), ("XX001", "")]
)
def test_error_of_the_server_is_told_with_its_code_and_without_values(
    postgres: Place, code: str, hint: str
) -> None:
    driver, name = started(postgres, PENDING)
    postgres.ask(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN RAISE EXCEPTION 'no more' USING ERRCODE = '{code}'; END $$"
    )
    postgres.ask("CREATE TRIGGER fail BEFORE UPDATE ON {flows} EXECUTE FUNCTION fail()")

    failing(lambda: driver.step(name), rf"no more \(SQLSTATE {code}\)", hint)

    postgres.ask("DROP TRIGGER fail ON {flows}")
    assert driver.step(name).state is State.AWAITING_USER
    goes_on(postgres, name)


def test_database_that_is_read_only_is_said(postgres: Place) -> None:
    driver, name = started(postgres, PENDING)
    postgres.store.close()
    database = postgres.ask("SELECT current_database()")[0][0]
    postgres.ask(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')

    failing(lambda: driver.step(name), "SQLSTATE 25006", "use the URL of the primary server")
    assert driver.get(name).state is State.AWAITING_USER

    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f'ALTER DATABASE "{database}" RESET ALL'.encode())
    postgres.store.close()
    assert driver.step(name).state is State.AWAITING_USER
    goes_on(postgres, name)


def test_user_without_rights_is_told_what_its_owner_can_do(
    postgres: Place, server: PostgresServer
) -> None:
    postgres.ask("CREATE ROLE guest LOGIN")
    url = postgres.url.replace("postgres@", "guest@")
    try:
        failing(lambda: PostgresStore(url, keys=postgres.keys), "SQLSTATE 42501", "GRANT")
        empty = server.database()
        other = empty.replace("postgres@", "guest@")
        failing(lambda: PostgresStore(other, keys=postgres.keys), "SQLSTATE 42501", "GRANT CREATE")
        server.drop(empty)
    finally:
        postgres.ask("DROP OWNED BY guest")
        postgres.ask("DROP ROLE guest")


def test_database_that_is_not_there_is_said(server: PostgresServer) -> None:
    url = f"{server.url}-nowhere"

    failing(lambda: PostgresStore(url), "does not exist", "")


def test_server_that_is_not_there_is_said_soon(server: PostgresServer) -> None:
    failing(
        lambda: PostgresStore("postgresql://u:PASSWORD@127.0.0.1:1/x"),
        "Connection refused. Nothing is lost",
        "try again",
    )


@pytest.mark.parametrize(("idle", "kept_open"), [(60.0, True), (0.0, False)])
def test_connection_is_used_again_unless_it_was_idle_for_long(
    postgres: Place, monkeypatch: pytest.MonkeyPatch, idle: float, kept_open: bool
) -> None:
    postgres.store.now(0.0)
    (before,) = sessions(postgres)

    monkeypatch.setattr(pgpool, "IDLE", idle)
    postgres.store.now(0.0)

    until = time.monotonic() + PATIENCE
    while (gone := before not in sessions(postgres)) == kept_open:
        assert time.monotonic() < until, gone


def sessions(place: Place) -> list[Any]:
    """Return the store's sessions, as the database counts them."""
    return place.ask(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'deviceflow'"
    )


def test_store_that_fails_to_open_leaves_no_thread_of_its_pool(postgres: Place) -> None:
    before = {*threading.enumerate()}

    with pytest.raises(errors.SealError):
        postgres.open(keys=["A" * 43 + "="])

    assert {*threading.enumerate()} <= before
