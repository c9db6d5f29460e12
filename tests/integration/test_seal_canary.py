"""No secret of a login is in the files of a store, in what is sealed, or in what goes wrong."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import errors, export
from deviceflow.audit.events import render
from deviceflow.core.encryption import generate_key
from deviceflow.core.ports import Origin
from deviceflow.credentials.keys import key_file, read_keys
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from tests.integration import places
from tests.integration.places import (
    CODE,
    GRANTED,
    OAUTH,
    PENDING,
    SECRETS,
    SLOW_DOWN,
    STAGES,
    Place,
    kept,
    second_token,
)
from tests.postgres import PostgresServer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from deviceflow import Client
    from deviceflow.core.login import Login

TESTS: Final = str(Path(__file__).parents[1])
BUSY: Final = answer(503, "busy")


def seen(files: Iterable[Path], needles: Iterable[str]) -> set[str]:
    """Return which of the needles are in the files, and where."""
    found = set()
    for file in files:
        content = file.read_bytes()
        found |= {f"{needle} in {file.name}" for needle in needles if needle.encode() in content}
    return found


def files_of(place: Place) -> list[Path]:
    return [*Path(place.url.removeprefix("sqlite:///")).parent.iterdir()]


def life(place: Place, look: Callable[[list[str]], object], **options: Any) -> None:
    """Lead logins through all they can go through, and look at each point of that."""
    with place.open(**options) as store:
        driver = place.client(CODE, PENDING, SLOW_DOWN, GRANTED, CODE, GRANTED, BUSY, store=store)
        secrets = [*SECRETS, place.keys[0].reveal()]
        first = driver.start(OAUTH)
        secrets.append(verifier_of(driver, first))
        while not (done := driver.step(first.id)).state.ended:
            look(secrets)
            place.clock.advance(done.wait_seconds)
        look(secrets)
        late = get(store, first.id)
        assert store.commit(late, render(late, second_token(late, place.now), Origin("w1")))
        secrets.append("SECOND-CANARY")
        with driver.collect(first.id):
            look(secrets)
        look(secrets)
        second = driver.start(OAUTH)
        secrets.append(verifier_of(driver, second))
        place.clock.advance(60)
        driver.wait(second.id)
        look(secrets)
        place.clock.advance(8 * 86400)
        driver.purge()
        look(secrets)
    look(secrets)


def verifier_of(driver: Client, flow: Login) -> str:
    verifier = get(driver._store, flow.id).verifier
    assert verifier is not None
    return verifier.reveal()


# Files.


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Place]:
    place = places.sqlite(tmp_path)
    yield place
    place.close()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Start a server whose files nobody else writes to."""
    with PostgresServer() as started:
        yield started


@pytest.fixture
def postgres(server: PostgresServer) -> Iterator[Place]:
    url = server.database()
    place = places.postgres(server, url)
    yield place
    place.close()
    server.drop(url)


def test_files_of_sqlite_have_no_secret_while_it_is_open_and_after(sqlite: Place) -> None:
    looks: list[set[str]] = []

    def look(secrets: list[str]) -> None:
        assert seen(files_of(sqlite), secrets) == set()
        looks.append({file.suffix for file in files_of(sqlite)})

    life(sqlite, look)

    assert {".db", ".db-wal", ".db-shm"} in looks
    sqlite.store.close()
    look([*SECRETS, sqlite.keys[0].reveal()])
    assert looks[-1] == {".db"}


def test_own_key_of_a_file_is_beside_it_and_nowhere_else(tmp_path: Path) -> None:
    place = places.sqlite(tmp_path / "..")  # whose own files are elsewhere
    path = tmp_path / "own.db"
    with SQLiteStore(path) as store:
        flow = place.client(CODE, store=store).start(OAUTH)
        (key,) = read_keys(key_file(path))
        others = [file for file in tmp_path.iterdir() if file != key_file(path)]
        assert seen(others, [key.reveal(), "DEVICE-CANARY"]) == set()
        assert len(others) == 3
        assert get(store, flow.id).device_code
    place.close()


def data_of(server: PostgresServer) -> list[Path]:
    return [file for file in (server.folder / "data").rglob("*") if file.is_file()]


def test_files_of_postgresql_have_no_secret(postgres: Place, server: PostgresServer) -> None:
    known: list[str] = []

    life(postgres, known.extend)
    for name in STAGES:
        kept(postgres, name, f"f-{name.replace(' ', '-')}")
    postgres.ask("CHECKPOINT")

    assert seen([*data_of(server), server.folder / "log"], {*known}) == set()
    # Which is no wonder if nothing had been found at all.
    assert seen(data_of(server), ["WDJB-MJHT", "as.example.com/device_authorization"]) != set()


# In clear, where that was asked for.


def test_files_show_secrets_in_clear_only_until_they_are_acknowledged(sqlite: Place) -> None:
    sqlite.store.close()
    Path(sqlite.url.removeprefix("sqlite:///")).unlink()
    with sqlite.open(plaintext=True) as store:
        driver = sqlite.client(CODE, GRANTED, store=store)
        flow = driver.start(OAUTH)
        code = ["DEVICE-CANARY", verifier_of(driver, flow)]
        assert {found.split()[0] for found in seen(files_of(sqlite), code)} == {*code}
        driver.wait_for_token(flow.id)
    assert seen(files_of(sqlite), code) == set()
    tokens = ["TOKEN-CANARY", "REFRESH-CANARY", "ID-CANARY", "EXTRA-CANARY"]
    assert seen(files_of(sqlite), tokens) == {f"{token} in flows.db" for token in tokens}

    with sqlite.open(plaintext=True) as store:
        sqlite.client(store=store).acknowledge(flow.id)

    assert seen(files_of(sqlite), [*code, *tokens]) == set()
    assert [file.name for file in files_of(sqlite)] == ["flows.db"]


def test_files_of_postgresql_show_secrets_in_clear_where_that_was_asked_for(
    postgres: Place, server: PostgresServer
) -> None:
    places.in_clear(postgres)
    store = postgres.store
    flow = postgres.client(CODE, store=store).start(OAUTH)
    postgres.ask("CHECKPOINT")
    assert seen(data_of(server), ["DEVICE-CANARY"]) != set()

    # And still the server's log has nothing of them, not even when a statement fails.
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("ALTER TABLE deviceflow.flows ADD CHECK (state <> 'failed')")
    with pytest.raises(errors.StoreError):
        postgres.client(store=store).cancel(flow.id)
    assert "failed" in (server.folder / "log").read_text()
    assert seen([server.folder / "log"], SECRETS) == set()


# Sealed texts.


@pytest.mark.parametrize("name", STAGES)
def test_sealed_flow_shows_nothing_of_it(sqlite: Place, name: str) -> None:
    flow = kept(sqlite, name)

    sealed = export.seal(flow, sqlite.keys)

    assert not [one for one in (*SECRETS, "WDJB-MJHT", "as.example.com", "robot") if one in sealed]


# What goes wrong.


def rendered(error: BaseException) -> str:
    """Show all that a crash reporter would: messages, what hangs on them, and frames' locals."""
    summary = traceback.TracebackException.from_exception(error, capture_locals=True)
    chain: list[traceback.TracebackException | None] = [summary]
    texts = [repr(error.args), repr(vars(error))]
    while chain:
        if (link := chain.pop()) is not None:
            link.stack[:] = [f for f in link.stack if not f.filename.startswith(TESTS)]
            texts += link.format(chain=False)
            chain += [link.__cause__, link.__context__]
    return "\n".join(texts)


def set_to(column: str, text: str) -> Callable[[Place], object]:
    return lambda place: place.ask(f"UPDATE {{flows}} SET {column} = ?", text)


def refuse_all(place: Place) -> None:
    """Have the database refuse whatever is written."""
    place.ask("ALTER TABLE {audit} RENAME TO lost")


TROUBLE: Final[dict[str, Callable[[Place], object]]] = {
    "refused": refuse_all,
    "another's": set_to("code", "df1.00000000.x"),
    "changed": lambda place: place.ask("UPDATE {flows} SET code = code || 'A'"),
    "no record": set_to("record", "{}"),
    "no provider": set_to("provider", "[]"),
    "gone": lambda place: place.ask("DELETE FROM {flows}"),
    "newer": lambda place: place.ask("UPDATE {meta} SET value = '99'"),
    "another key": lambda place: place.keys.__setitem__(0, generate_key()),
}


@pytest.mark.parametrize("how", TROUBLE)
@pytest.mark.parametrize(
    "use",
    [
        lambda place, name: place.client(GRANTED).step(name),
        lambda place, name: place.client().cancel(name, "no more"),
        lambda place, name: place.client().get(name),
        lambda place, name: place.client().collect_token(name),
        lambda place, name: list(place.client().logins()),
        lambda place, name: place.open(),
        lambda place, name: place.sql.reseal(),
    ],
)
def test_nothing_that_goes_wrong_shows_a_secret(
    database: Place,
    caplog: pytest.LogCaptureFixture,
    how: str,
    use: Callable[[Place, str], object],
) -> None:
    caplog.set_level(logging.DEBUG)
    driver = database.client(CODE)
    flow = driver.start(OAUTH)
    database.clock.advance(60)
    secrets = [*SECRETS, verifier_of(driver, flow), database.keys[0].reveal()]
    TROUBLE[how](database)
    secrets.append(database.keys[0].reveal())

    shown = ""
    try:
        use(database, flow.id)
    except errors.DeviceFlowError as error:
        shown = rendered(error)
        assert "deviceflow" in shown

    shown += caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert not [secret for secret in secrets if secret in shown]


def test_token_that_cannot_be_kept_is_not_shown(
    database: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(_: object) -> Any:
        refuse_all(database)
        return GRANTED

    caplog.set_level(logging.DEBUG)
    driver = database.client(CODE, refusing)
    flow = driver.start(OAUTH)
    database.clock.advance(60)

    with pytest.raises(errors.StoreError, match="its token is in this process only") as caught:
        driver.step(flow.id)

    shown = rendered(caught.value) + repr(vars(driver)) + caplog.text
    assert not [secret for secret in SECRETS if secret in shown]
