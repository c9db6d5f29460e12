"""No traceback that is rendered with local variables shows a secret, wherever a store fails.

Each statement of each operation fails in turn, as a database does and as Ctrl-C does, in stores
that seal their secrets and in stores that keep them in clear. What comes out is rendered by the
three renderers that programs use: the standard library's, rich's, and structlog's.
"""

from __future__ import annotations

import io
import itertools
import sqlite3
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from rich.console import Console
from rich.traceback import Trace, Traceback
from structlog.tracebacks import ExceptionDictTransformer

from deviceflow import Client, errors, export
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.stores import _parked
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, answer
from tests.crash.traps import relayed
from tests.facade import AsyncFacade
from tests.integration.places import (
    CODE,
    GRANTED,
    OAUTH,
    PENDING,
    SECRETS,
    Place,
    in_clear,
    kept,
    memory,
)
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Operation = Callable[[Place, Client], object]

TESTS: Final = str(Path(__file__).parents[1])
USER_CODE: Final = "WDJB-MJHT"
NEEDLES: Final = (*SECRETS, USER_CODE)
LOST: Final = {"sqlite": sqlite3.OperationalError, "postgres": psycopg.errors.SyntaxError}


def rendered(error: BaseException, *, drawn: bool = False) -> Iterator[str]:
    """Yield the traceback, without the tests' own frames, by each renderer."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(TESTS):
        frame = frame.tb_next
    bare = error.with_traceback(frame)
    told = traceback.TracebackException.from_exception(bare, capture_locals=True)
    yield "".join(told.format())
    options: Any = {"show_locals": True, "locals_max_string": None, "locals_max_length": None}
    trace = Traceback.extract(type(bare), bare, frame, **options)
    if drawn:
        console = Console(file=io.StringIO(), width=250)
        console.print(Traceback(trace, **options))
        assert isinstance(console.file, io.StringIO)
        yield console.file.getvalue()
    else:  # what is drawn, before it is broken into lines: to draw takes longer than all the rest
        yield "\n".join(_texts(trace))
    transform = ExceptionDictTransformer(show_locals=True, locals_max_string=100_000)
    yield repr(transform((type(bare), bare, frame)))


def _texts(trace: Trace) -> Iterator[str]:
    """Yield what rich draws of exceptions: their texts, and each local variable."""
    for stack in trace.stacks:
        yield from (stack.exc_type, stack.exc_value, *stack.notes)
        for frame in stack.frames:
            yield from map(str, (frame.locals or {}).values())
        for each in stack.exceptions:
            yield from _texts(each)


def shown(error: BaseException, needles: tuple[str, ...] = NEEDLES) -> set[str]:
    return {needle for text in rendered(error) for needle in needles if needle in text}


def test_renderers_show_what_is_in_a_frame(tmp_path: Path) -> None:
    module = tmp_path / "elsewhere.py"
    module.write_text("def fail(token):\n    raise LookupError\n")
    scope: dict[str, Any] = {}
    exec(compile(module.read_text(), str(module), "exec"), scope)

    with pytest.raises(LookupError) as caught:
        scope["fail"]({"access_token": "TOKEN-CANARY"})

    for drawn in (False, True):
        texts = list(rendered(caught.value, drawn=drawn))
        assert ["TOKEN-CANARY" in text for text in texts] == [True, True, True]


class Failing:
    """Has a store's statement of a number fail."""

    def __init__(self, store: Any, at: int, problem: BaseException) -> None:
        self.left, self.problem = at, problem
        run = store._connection.run
        store._connection.run = lambda work, *how: run(relayed(work, before=self._count), *how)

    def _count(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.problem


def begin(place: Place, driver: Client) -> object:
    return driver.start(OAUTH)


def poll(place: Place, driver: Client) -> object:
    return driver.step("waiting")


def collect(place: Place, driver: Client) -> object:
    with driver.collect("authorized") as token:
        return token


def import_it(place: Place, driver: Client) -> object:
    flow = get(place.store, "authorized")
    flow.id = "brought"
    return driver._store.add(flow)


def seal_and_unseal(place: Place, driver: Client) -> object:
    keys = [key.reveal() for key in place.keys]
    return export.unseal(export.seal(get(driver._store, "authorized"), keys), keys)


OPERATIONS: Final[dict[str, Operation]] = {
    "start": begin,
    "poll": poll,
    "get": lambda place, driver: [driver.get(id_) for id_ in ("waiting", "authorized")],
    "list": lambda place, driver: list(driver.logins()),
    "sweep": lambda place, driver: driver.sweep(),
    "cancel": lambda place, driver: driver.cancel("waiting"),
    "token": lambda place, driver: driver.collect_token("authorized"),
    "collect": collect,
    "acknowledge": lambda place, driver: driver.acknowledge("authorized"),
    "purge": lambda place, driver: driver.purge(tokens_after=0, flows_after=0),
    "import": import_it,
    "reseal": lambda place, driver: driver._store.reseal(),  # type: ignore[attr-defined]
    "seal and unseal": seal_and_unseal,
}


@pytest.fixture(params=["sealed", "plaintext"])
def place(request: pytest.FixtureRequest, database: Place) -> Place:
    """Give a database with a store in it, whose secrets are sealed or in clear."""
    if request.param == "plaintext":
        in_clear(database)
    return database


@pytest.mark.parametrize(
    ("name", "face"),
    [*((name, Client) for name in OPERATIONS), ("poll", AsyncFacade), ("token", AsyncFacade)],
)
def test_no_traceback_of_a_failing_store_shows_a_secret(place: Place, name: str, face: Any) -> None:
    kept(place, "waiting", "waiting")
    kept(place, "authorized", "authorized")
    kept(place, "with a token too many", "revocable")
    place.clock.advance(8)
    at, seen = 0, list[BaseException]()
    while True:
        at += 1
        with place.open() as store:
            lost = (
                sqlite3.OperationalError if place.kind == "sqlite" else psycopg.errors.SyntaxError
            )
            trap = Failing(store, at, (lost if at % 2 else KeyboardInterrupt)("by the test"))
            transport = ScriptedTransport([CODE, GRANTED, PENDING, *[answer(200)] * 3])
            driver = face(store, clock=place.clock, transport=transport)
            try:
                OPERATIONS[name](place, driver)
            except BaseException as error:  # noqa: BLE001
                seen.append(error)
        if trap.left > 0:
            break

    assert seen
    assert [shown(one) for one in seen] == [set()] * len(seen)


def interrupted_poll(
    place: Place, patch: pytest.MonkeyPatch, owner: Any, name: str, at: int
) -> BaseException:
    """Start a login and poll, with Ctrl-C at a call of a function; return what comes out."""
    driver, work, times = place.client(CODE, PENDING), getattr(owner, name), itertools.count(1)

    def interrupted(given: Any) -> Any:
        if next(times) == at:
            raise KeyboardInterrupt
        return work(given)

    patch.setattr(owner, name, interrupted)

    def run() -> None:
        flow = driver.start(OAUTH)
        place.clock.advance(60)
        driver.step(flow.id)

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    return caught.value


@pytest.mark.parametrize("at", range(1, 6))
def test_no_traceback_of_an_interruption_at_a_row_shows_a_secret(
    database: Place, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    in_clear(database)
    sealer = database.sql.inner._rows.sealer

    stopped = interrupted_poll(database, monkeypatch, sealer, "mac", at)

    assert shown(stopped) == set()


@pytest.mark.parametrize("name", ["_plain", "_secret"])
def test_no_traceback_of_an_interruption_at_a_flow_in_memory_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stopped = interrupted_poll(memory(), monkeypatch, _parked, name, 1)

    assert shown(stopped) == set()


@pytest.mark.parametrize("column", ["record", "progress", "provider", "code", "token", "mac"])
def test_no_traceback_of_a_damaged_row_shows_a_secret(place: Place, column: str) -> None:
    kept(place, "waiting", "waiting")
    kept(place, "authorized", "authorized")
    place.ask(f"UPDATE {{flows}} SET {column} = {column} || '.'")
    driver = place.client()
    damaged = {"code": ["waiting"], "token": ["authorized"]}.get(column, ["waiting", "authorized"])

    for flow_id in damaged:
        for use in (driver.get, driver.step, driver.collect_token):
            with pytest.raises(errors.DeviceFlowError) as caught:
                use(flow_id)
            assert shown(caught.value) == set()


def test_keys_that_are_given_as_texts_show_in_no_frame_of_ours(tmp_path: Path) -> None:
    right, wrong = generate_key().reveal(), generate_key().reveal()
    path, others = tmp_path / "flows.db", tmp_path / "dir"
    SQLiteStore(path, keys=[right]).close()
    others.mkdir()
    flow = Flow("f1", OAUTH, 0.0)
    sealed = export.seal(flow, [right])
    uses: list[Callable[[], object]] = [
        lambda: SQLiteStore(path, keys=[wrong]),
        lambda: SQLiteStore(others, keys=[right]),
        lambda: SQLiteStore(tmp_path / "new.db", keys=[right, "no key"]),
        lambda: export.unseal(sealed, [wrong]),
        lambda: export.unseal(sealed[:-4], [right]),
        lambda: export.seal(flow, [right, "no key"]),
        lambda: PostgresStore("postgresql://127.0.0.1:1/none", keys=[right], timeout=1),
    ]
    for use in uses:
        with pytest.raises(errors.DeviceFlowError) as caught:
            use()
        assert shown(caught.value, (right, wrong)) == set()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:PASSWORD-CANARY@127.0.0.1:1/none",
        "postgresql://user:PASSWORD-CANARY@[::1/none",
        "postgresql://127.0.0.1:1/none?password=PASSWORD-CANARY",
    ],
)
def test_password_of_the_database_shows_in_no_frame_of_ours(url: str) -> None:
    with pytest.raises(errors.DeviceFlowError) as caught:
        PostgresStore(url, keys=[generate_key()], timeout=1)

    assert shown(caught.value, ("PASSWORD-CANARY",)) == set()
