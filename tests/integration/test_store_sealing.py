"""Secrets at rest: what is tampered with is found, nothing is sent, and no key is lost."""

from __future__ import annotations

import itertools
import json
import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

import keyring
import keyring.backend
import pytest

from deviceflow import errors, open_store
from deviceflow.audit.events import STORE
from deviceflow.core.encryption import Sealer, generate_key
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.credentials.keys import KEYRING, VARIABLE, key_file, read_keys, write_keys
from deviceflow.stores.sql import schema
from deviceflow.stores.sql import store as sql_store
from deviceflow.stores.sql.keys import sealed_audit_key
from deviceflow.stores.sqlite import SQLiteStore
from tests.integration.places import (
    CODE,
    GRANTED,
    OAUTH,
    PENDING,
    SECRETS,
    STAGES,
    Place,
    commit,
    everything,
    kept,
)
from tests.integration.racing import started
from tests.statements import run_statement
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow import Client


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def sent(client: Client) -> list[str]:
    requests = client._transport.requests  # type: ignore[attr-defined]
    return [request.purpose for request in requests]


def edit(place: Place, column: str, change: Callable[[str], str], flow_id: str = "f1") -> None:
    ((was,),) = place.ask(f"SELECT {column} FROM {{flows}} WHERE id = ?", flow_id)
    place.ask(f"UPDATE {{flows}} SET {column} = ? WHERE id = ?", change(was), flow_id)


def changed(**fields: Any) -> Callable[[str], str]:
    """Return an edit of a JSON text that leaves all else as it was, to the letter."""

    def change(text: str) -> str:
        again = json.loads(text)
        assert json.dumps(again, separators=(",", ":")) == text
        return json.dumps(again | fields, separators=(",", ":"))

    return change


def refused(
    place: Place,
    error: type[errors.DeviceFlowError] = errors.SealError,
    flow_id: str = "f1",
) -> None:
    """See that every use of the flow's secrets is refused, and nothing is sent."""
    place.clock.advance(3600)
    driver = place.client()
    for use in (
        driver.get,
        driver.step,
        driver.collect_token,
        driver.acknowledge,
        driver.wait_for_token,
    ):
        with pytest.raises(error) as caught:
            use(flow_id)
        assert caught.value.flow_id == flow_id
        assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert sent(driver) == []


def swept(place: Place) -> list[str | None]:
    place.clock.advance(3600)
    driver = place.client()
    problems = driver.sweep().problems
    assert sent(driver) == []
    return [problem.flow_id for problem in problems]


# Moved, and edited.


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("waiting", "code"),
        ("polling", "code"),
        ("authorized", "token"),
        ("with a token too many", "revoke"),
    ],
)
def test_secret_of_another_flow_is_found(database: Place, name: str, column: str) -> None:
    whole = everything(kept(database, name))
    kept(database, name, "f2")
    ((mine,),) = database.ask(f"SELECT {column} FROM {{flows}} WHERE id = 'f1'")

    edit(
        database,
        column,
        lambda _: database.ask(f"SELECT {column} FROM {{flows}} WHERE id = 'f2'")[0][0],
    )

    refused(database)
    edit(database, column, lambda _: mine)
    assert everything(get(database.store, "f1")) == whole


@pytest.mark.parametrize(("source", "target"), [("token", "revoke"), ("revoke", "token")])
def test_secret_of_another_kind_is_found(database: Place, source: str, target: str) -> None:
    kept(database, "with a second token")

    database.ask(f"UPDATE {{flows}} SET {target} = {source}")

    refused(database)


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("provider", changed(token_endpoint="https://evil.example.com/token")),
        ("provider", changed(revocation_endpoint="https://evil.example.com/revoke")),
        ("provider", changed(client_id="another")),
        ("provider", changed(client_secret="env:OF_ANOTHER")),
        ("provider", changed(require={"email": "mallory@example.com"})),
        ("provider", changed(allow_http=True)),
        ("provider", lambda text: f" {text}"),
        ("record", changed(token_endpoint="https://evil.example.com/token")),
        ("record", changed(token_endpoint=None)),
    ],
)
def test_edited_settings_are_found_and_nothing_is_sent(
    database: Place, column: str, change: Callable[[str], str]
) -> None:
    names = ("waiting", "polling", "authorized", "with a token too many")
    for number, name in enumerate(names):
        kept(database, name, f"f{number}")

        edit(database, column, change, f"f{number}")

        refused(database, flow_id=f"f{number}")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text[:40],
        lambda text: text + "A",
        lambda text: text.replace(text[60], "A" if text[60] != "A" else "B"),
        lambda text: 'plain.["DEVICE", null]',
        lambda text: "df2" + text[3:],
    ],
)
def test_edited_secret_is_found_and_nothing_is_sent(
    database: Place, change: Callable[[str], str]
) -> None:
    kept(database, "waiting")

    edit(database, "code", change)

    refused(database)
    assert swept(database) == ["f1"]


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("record", lambda text: text[:-10]),
        ("record", lambda text: "null"),
        ("record", lambda text: "[]"),
        ("progress", changed(state="running")),
        ("progress", changed(due_at="soon")),
        ("progress", changed(seq=7)),
        ("progress", changed(id="f2")),
        ("progress", changed(interval=10**400)),
        ("progress", lambda text: text[:-10]),
        ("progress", lambda text: "null"),
        ("progress", lambda text: "[]"),
        ("provider", lambda text: text[:-1]),
        ("provider", lambda text: "[]"),
        ("provider", lambda text: "null"),
    ],
)
def test_damaged_record_is_an_error_that_names_the_flow_and_loses_no_other(
    database: Place, column: str, change: Callable[[str], str]
) -> None:
    kept(database, "waiting")
    whole = kept(database, "waiting", "f2")

    edit(database, column, change)

    refused(database, errors.StoreError)
    assert everything(get(database.store, "f2")) == everything(whole)


@pytest.mark.parametrize(
    "settings", ["{}", '{"dialect": "later", "url": "x"}', '{"dialect": "studio", "url": "ftp://"}']
)
def test_provider_that_cannot_be_read_is_an_error_that_names_the_flow(
    database: Place, settings: str
) -> None:
    kept(database, "waiting")

    edit(database, "provider", lambda _: settings)

    refused(database)
    assert swept(database) == ["f1"]


def test_sweep_goes_on_past_what_was_tampered_with(database: Place) -> None:
    kept(database, "waiting")
    kept(database, "waiting", "f2")
    edit(database, "code", lambda text: text[:-1])
    database.clock.advance(60)

    done = database.client(PENDING).sweep()

    assert [problem.flow_id for problem in done.problems] == ["f1"]
    assert [step.id for step in done.logins] == ["f2"]


# Keys.


def test_wrong_key_is_one_clear_error_and_loses_nothing(database: Place) -> None:
    whole = {name: everything(kept(database, name, f"f{n}")) for n, name in enumerate(STAGES)}
    wrong = generate_key()

    with pytest.raises(
        errors.SealError, match=r"The sealing key '[0-9a-f]{8}' is missing"
    ) as caught:
        database.open(keys=[wrong])

    assert "Nothing is lost" in str(caught.value)
    assert database.keys[0].reveal() not in str(caught.value)
    assert wrong.reveal() not in str(caught.value)
    again = database.open()
    for number, name in enumerate(STAGES):
        assert everything(get(again, f"f{number}")) == whole[name]
    database.clock.advance(60)
    assert database.client(GRANTED, store=again).step("f1").state is State.AUTHORIZED


def emptied(place: Place) -> None:
    """Have the next open make a new store."""
    for table in ("flows", "grants", "audit", "meta", "drivers", "taken"):
        place.ask(f"DROP TABLE {{{table}}}")


@pytest.mark.parametrize(("made", "opened"), [(True, False), (False, True)])
def test_store_is_opened_sealed_or_in_clear_as_it_was_made(
    database: Place, made: bool, opened: bool
) -> None:
    place = database
    emptied(place)
    with place.open(plaintext=made):
        pass

    said = "plaintext=True"
    with pytest.raises(errors.SealError, match=said):
        place.open(plaintext=opened)

    assert place.open(plaintext=made).load


def test_store_in_clear_says_so_each_time_and_keeps_secrets_as_they_are(
    database: Place, caplog: pytest.LogCaptureFixture
) -> None:
    emptied(database)
    caplog.clear()

    database.store = database.open(plaintext=True)

    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage().split()[0] for record in warned] == ["deviceflow.plaintext"]
    flow = kept(database, "authorized")
    ((token,),) = database.ask("SELECT token FROM {flows}")
    assert token.startswith('plain.{"access_token":"TOKEN-CANARY"')
    assert everything(get(database.open(plaintext=True), "f1")) == everything(flow)


def test_first_to_come_decides_about_the_key(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two open a new store at once, with two keys: one of them is told."""
    # At a moment when the other one's tables are not there.
    version, looks = schema.version, [0]

    async def look(db: Any, dialect: Any, *, read_only: bool) -> int:
        return looks.pop() if looks else await version(db, dialect, read_only=read_only)

    monkeypatch.setattr(schema, "version", look)

    with pytest.raises(errors.SealError, match=r"The sealing key '[0-9a-f]{8}' is missing"):
        database.open(keys=[generate_key()])

    assert looks == []
    assert database.open().now


def test_shared_database_without_a_key_is_refused(database: Place) -> None:
    if database.kind == "postgres":
        with pytest.raises(errors.SealError, match="deviceflow keys generate"):
            database.open(keys=None)
    else:  # a file has its own, unless it was made with another
        with pytest.raises(errors.SealError, match=r"flows\.db\.key of this store is missing"):
            database.open(keys=None)


def test_keys_of_the_environment_open_any_store(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = kept(database, "waiting")
    monkeypatch.setenv(VARIABLE, f"{generate_key().reveal()}, {database.keys[0].reveal()}")

    with open_store(database.url) as again:  # type: ignore[attr-defined]
        assert everything(get(again, "f1")) == everything(flow)


class Desktop(keyring.backend.KeyringBackend):
    """A keyring that has one entry."""

    priority = 1.0
    kept: ClassVar[dict[tuple[str, str], str]] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


def test_keys_may_be_in_the_desktops_keyring(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = kept(database, "waiting")
    before = keyring.get_keyring()
    keyring.set_keyring(Desktop())  # type: ignore[no-untyped-call]
    monkeypatch.setenv(VARIABLE, "keyring:")
    try:
        with pytest.raises(errors.SealError, match="the keyring has no keys"):
            database.open(keys=None)
        keyring.set_password(*KEYRING, database.keys[0].reveal())
        assert everything(get(database.open(keys=None), "f1")) == everything(flow)
    finally:
        keyring.set_keyring(before)
        Desktop.kept.clear()


# The key file.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.db"


def test_store_whose_key_file_is_gone_says_so_and_goes_on_once_it_is_back(
    path: Path, place: Place
) -> None:
    with SQLiteStore(path) as store:
        flow = place.client(CODE, store=store).start(OAUTH)
    away = key_file(path).rename(path.with_name("away"))

    with pytest.raises(errors.SealError, match="of this store is missing"):
        SQLiteStore(path)
    away.rename(key_file(path))

    with SQLiteStore(path) as store:
        assert get(store, flow.id).device_code == Secret("DEVICE-CANARY")


def test_store_whose_key_file_others_can_read_is_refused_until_that_is_mended(path: Path) -> None:
    SQLiteStore(path).close()
    key_file(path).chmod(0o644)

    with pytest.raises(errors.StoreError, match=f"chmod 600 {key_file(path)}"):
        SQLiteStore(path)
    key_file(path).chmod(0o600)

    SQLiteStore(path).close()


OPENER: Final = """
import sys
from deviceflow.stores.sqlite import SQLiteStore
print("ready", flush=True)
sys.stdin.readline()
store = SQLiteStore(sys.argv[1])
print(repr(store.inner._rows.sealer))
"""


def test_processes_that_open_a_new_store_at_once_have_one_key(path: Path) -> None:
    children = started(OPENER, [[str(path)]] * 6)

    names = {child.communicate(timeout=60)[0].strip() for child in children}

    assert names == {repr(Sealer(read_keys(key_file(path))))}
    leftovers = [one.name for one in path.parent.iterdir() if one.name.startswith(".")]
    assert leftovers == []


# Rotation.


def prefixes(place: Place) -> set[str]:
    rows = place.ask("SELECT code, token, revoke, mac FROM {flows}")
    return {text.rpartition(".")[0] + "." for row in rows for text in row if text is not None}


def test_rows_are_sealed_anew_and_the_old_key_is_not_needed_any_more(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: everything(kept(database, name, f"f{n}")) for n, name in enumerate(STAGES)}
    old, new = database.keys[0], generate_key()
    begun = database.open(keys=[new, old])
    resealed = itertools.count(1)
    commit_it = begun.commit

    def interrupted(*args: Any, **options: Any) -> bool:
        if next(resealed) > 4:
            raise KeyboardInterrupt
        return bool(commit_it(*args, **options))

    monkeypatch.setattr(begun, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        begun.reseal()

    assert len(prefixes(database)) == 2
    with pytest.raises(errors.SealError):
        database.open(keys=[new])  # the old one is needed still
    database.clock.advance(60)
    assert database.open(keys=[new, old]).reseal() == (len(STAGES) - 4, [])

    assert prefixes(database) == {Sealer([new]).prefix}
    again = database.open(keys=[new])
    for number, name in enumerate(STAGES):
        was, now = json.loads(whole[name]), json.loads(everything(get(again, f"f{number}")))
        went_on = {key for key in now if now[key] != was[key]}
        assert went_on <= {"head", "moved_at", "seq"}
        assert again.events(f"f{number}")[-1]["action"] == "reseal"
    with pytest.raises(errors.SealError):
        database.open(keys=[old])
    assert again.reseal() == (0, [])


def test_flow_that_somebody_is_at_work_on_is_sealed_later(database: Place) -> None:
    flow = kept(database, "waiting")
    keys = [generate_key(), *database.keys]
    store = database.open(keys=keys)
    database.store.claim("f1", "w1", time.time(), 20)

    done, (problem,) = store.reseal()

    assert done == 0
    assert isinstance(problem, errors.LoginBusyError)
    assert problem.wait_seconds == pytest.approx(20, abs=1)
    assert commit(database.store, flow, flow.poll(database.now, 10), release="w1")
    assert store.reseal() == (1, [])
    assert get(database.open(keys=keys[:1]), "f1").state is State.POLLING


def test_lost_key_of_one_flow_does_not_keep_others_from_being_sealed_anew(database: Place) -> None:
    for number in range(3):
        kept(database, "waiting", f"f{number}")
    database.ask("UPDATE {flows} SET mac = 'df1.00000000.x' WHERE id = 'f1'")
    new = generate_key()

    done, (problem,) = database.open(keys=[new, *database.keys]).reseal()

    assert (done, problem.flow_id) == (2, "f1")
    assert isinstance(problem, errors.SealError)


def test_key_that_is_needed_still_is_named_by_the_rotation_that_lacks_it(
    database: Place,
) -> None:
    kept(database, "waiting")
    other = generate_key()
    store = database.open(keys=[other, *database.keys])
    store.reseal()
    kept(database, "waiting", "f2")  # by somebody who has the old key alone
    kept_so = sealed_audit_key(Secret("another audit key"), store.inner._rows)
    run_statement(store, "set_meta", kept_so)

    done, (problem,) = database.open(keys=[other]).reseal()

    assert (done, problem.flow_id) == (0, "f2")
    assert "The sealing key" in problem.message


def test_rotation_is_done_and_on_record_or_neither(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.open(keys=[generate_key(), *database.keys])

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sql_store, "add_store_event", dying)
        with pytest.raises(KeyboardInterrupt):
            store.reseal()
    assert store.events(STORE) == []

    store.reseal()
    store.reseal()
    assert [event["action"] for event in store.events(STORE)] == ["rotate_keys"]


def test_store_that_is_open_notices_that_its_key_file_was_rotated(path: Path, place: Place) -> None:
    old = SQLiteStore(path)
    flow = place.client(CODE, store=old).start(OAUTH)
    (key,) = read_keys(key_file(path))
    write_keys(key_file(path), [generate_key(), key])
    with SQLiteStore(path) as new:
        assert new.reseal() == (1, [])
        assert new.reseal() == (0, [])

    assert get(old, flow.id).device_code == Secret("DEVICE-CANARY")
    assert place.client(store=old).cancel(flow.id).state is State.FAILED
    old.close()
