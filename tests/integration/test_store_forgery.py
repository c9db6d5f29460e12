"""Whoever can write to a store's tables, and has no key, gets nothing of the worker out of that.

Each row of a store is authenticated, in every state: one that was not written with the key is not
obeyed, nothing is sent from it, and `audit verify` finds it. Which variables and files a stored
login may name is the worker's own word, in stores that keep secrets in clear as well.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import OAuth, errors
from deviceflow.core.states import State
from deviceflow.trail.verify import Verification
from tests.integration import places
from tests.integration.places import (
    CODE,
    GRANTED,
    PENDING,
    STAGES,
    Place,
    commit,
    everything,
    kept,
    new,
)
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow import Client

EVIL: Final = "https://evil.example.com"
SECRET: Final = "SECRET-OF-THE-WORKER"


@pytest.fixture(params=["sealed", "plaintext"])
def store_of(request: pytest.FixtureRequest, database: Place) -> Place:
    """Give a database with a store in it, whose secrets are sealed or in clear."""
    if request.param == "plaintext":
        places.in_clear(database)
    return database


def sent(client: Client) -> list[str]:
    return [request.url for request in client._transport.requests]  # type: ignore[attr-defined]


def forged_settings(**settings: Any) -> str:
    """Return settings that lead to somebody else's server, as a row has them."""
    record = {
        "dialect": "rfc8628",
        "client_id": "robot",
        "device_authorization_endpoint": f"{EVIL}/code",
        "token_endpoint": f"{EVIL}/token",
        "client_secret": "env:WORKERS_SECRET",
        **settings,
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def rewind(place: Place, **settings: Any) -> None:
    """Make a row one that waits to ask somebody else's server for a code."""
    ((record, progress),) = place.ask("SELECT record, progress FROM {flows}")
    values = (
        edited(ended_at=None)(record),
        edited(state="init", reason=None, due_at=0.0)(progress),
        forged_settings(**settings),
    )
    place.ask(
        "UPDATE {flows} SET state = 'init', ended_at = NULL, code = NULL, token = NULL,"
        " revoke = NULL, wake_at = 0, record = ?, progress = ?, provider = ?",
        *values,
    )


def found(place: Place) -> set[tuple[str, str | None]]:
    with place.sql.snapshot() as snapshot:
        return {(finding.kind, finding.flow_id) for finding in Verification(*snapshot).findings()}


@pytest.fixture(autouse=True)
def workers_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_SECRET", SECRET)


USES: Final[dict[str, Callable[[Client], object]]] = {
    "sweep": lambda client: client.sweep(),
    "step": lambda client: client.step("f1"),
    "wait": lambda client: client.wait_for_token("f1", 1),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("reference", "place_of"),
    [("client_secret", "env:WORKERS_SECRET"), ("private_key", "file:/proc/self/environ")],
)
def test_row_that_was_made_up_sends_nothing_of_the_worker(
    store_of: Place, use: str, reference: str, place_of: str
) -> None:
    kept(store_of, "waiting")
    rewind(store_of, **{"client_secret": None, reference: place_of})
    driver = store_of.client()

    try:
        done = USES[use](driver)
    except errors.DeviceFlowError as problem:
        problems = [problem]
    else:
        problems = done.problems  # type: ignore[attr-defined]

    assert sent(driver) == []
    assert [problem.flow_id for problem in problems] == ["f1"]
    assert found(store_of) == {("wrong_state", "f1")}


@pytest.mark.parametrize("name", STAGES)
def test_row_that_was_rewound_is_found(database: Place, name: str) -> None:
    kept(database, name)
    rewind(database, client_secret="env:WORKERS_SECRET")
    driver = database.client()

    with pytest.raises(errors.SealError):
        driver.step("f1")

    assert sent(driver) == []
    assert found(database) <= {("wrong_state", "f1"), ("edited_row", "f1")} != set()


def test_sweep_goes_on_past_a_login_whose_trail_goes_on_behind_its_row(database: Place) -> None:
    kept(database, "waiting")
    kept(database, "waiting", "f2")
    database.ask(
        'INSERT INTO {audit} SELECT flow_id, seq + 1, "time", hash, mac, "text" FROM {audit}'
        " WHERE flow_id = 'f1'"
    )
    database.clock.advance(60)
    driver = database.client(PENDING)

    done = driver.sweep()

    (problem,) = done.problems
    assert problem.flow_id == "f1"
    assert "set back to an earlier state" in problem.message
    assert [login.id for login in done.logins] == ["f2"]
    assert driver.sweep().problems == []  # it is left alone for a while


@pytest.mark.parametrize("allowed", ["itself", "setting", "environment", "profile", "nobody"])
def test_stored_login_may_name_what_the_worker_was_set_up_for(
    store_of: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: str
) -> None:
    reference = f"env:WORKERS_SECRET_{allowed.upper()}"
    monkeypatch.setenv(f"WORKERS_SECRET_{allowed.upper()}", SECRET)
    provider = OAuth(
        client_id="robot",
        device_authorization_endpoint="https://as.example.com/device_authorization",
        token_endpoint="https://as.example.com/token",
        client_secret=reference,
    )
    flow = new()
    flow.provider = provider
    if allowed == "itself":
        store_of.client(CODE).start(provider, name="another")
    elif allowed == "setting":
        monkeypatch.setenv("DEVICEFLOW_ALLOW_SECRETS", f"env:ANOTHER, {reference}")
    elif allowed == "environment":
        monkeypatch.setenv("DEVICEFLOW_CLIENT_SECRET", reference)
    elif allowed == "profile":
        config = tmp_path / "config.toml"
        config.write_text(f'[profiles.work]\nclient_id = "robot"\nclient_secret = "{reference}"\n')
        monkeypatch.setenv("DEVICEFLOW_CONFIG", str(config))
    store_of.store.add(flow)
    assert commit(store_of.store, flow, flow.receive(CODE, store_of.now, duration=0.0))
    store_of.clock.advance(60)
    driver = store_of.client(PENDING, PENDING)

    swept = driver.sweep()

    if allowed != "nobody":
        assert [step.state for step in swept.logins if step.id == "f1"] == [State.AWAITING_USER]
        return
    assert sent(driver) == []
    (problem,) = swept.problems
    assert problem.flow_id == "f1"
    assert f"DEVICEFLOW_ALLOW_SECRETS={reference}" in str(problem)
    with pytest.raises(errors.UsageError):
        driver.step("f1")
    assert get(store_of.store, "f1").state is State.AWAITING_USER
    assert found(store_of) == set()


def test_login_without_a_secret_needs_no_permission(store_of: Place) -> None:
    kept(store_of, "waiting")
    store_of.clock.advance(60)

    assert [step.state for step in store_of.client(GRANTED).sweep().logins] == [State.AUTHORIZED]


# Where the person is sent, and everything else in a row.


def edited(**fields: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | fields, separators=(",", ":"))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("record", edited(user_code="EVIL-CODE")),
        ("record", edited(verification_uri=EVIL)),
        ("record", edited(verification_uri_complete=f"{EVIL}?code=EVIL")),
        ("progress", edited(interval=1.0)),
        ("progress", edited(expires_at=4e9)),
        ("progress", edited(due_at=0.0)),
        ("record", edited(name="another")),
        ("progress", edited(detail="call this number")),
        ("provider", lambda _: forged_settings()),
        ("created_at", lambda _: 5.0),
        ("ended_at", lambda _: 5.0),
        ("moved_at", lambda _: 5.0),
        ("name", lambda _: "another"),
        ("state", lambda _: "authorized"),
        ("seq", lambda _: 2),
        ("head", lambda _: "0" * 64),
        ("code", lambda _: None),
        ("mac", lambda text: text[:-1] + ("0" if text[-1] != "0" else "1")),
    ],
)
def test_edited_row_shows_and_sends_nothing_and_is_found(
    database: Place, column: str, change: Callable[[Any], Any]
) -> None:
    kept(database, "waiting")
    ((was,),) = database.ask(f"SELECT {column} FROM {{flows}}")
    database.ask(f"UPDATE {{flows}} SET {column} = ?", change(was))
    database.clock.advance(60)
    driver = database.client()

    for use in (
        lambda: driver.get("f1"),
        lambda: driver.get("f1"),
        lambda: driver.step("f1"),
        lambda: list(driver.logins(on_problem=_raise)),
    ):
        with pytest.raises(errors.SealError):
            use()

    assert sent(driver) == []
    assert found(database) <= {("wrong_state", "f1"), ("edited_row", "f1")} != set()


def _raise(problem: errors.DeviceFlowError) -> None:
    raise problem


@pytest.mark.parametrize("column", ["wake_at", "snoozes", "lease_until", "leased_at"])
@pytest.mark.parametrize("value", [-1.0, 1e12, None])
def test_what_only_delays_is_not_authenticated_and_does_nothing_else(
    database: Place, column: str, value: Any
) -> None:
    if column == "snoozes" and not isinstance(value, int):
        value = 7
    flow = kept(database, "waiting")
    database.ask(f"UPDATE {{flows}} SET {column} = ?", value)

    assert everything(get(database.store, "f1")) == everything(flow)
    assert found(database) == set()
    driver = database.client(PENDING)
    assert driver.step("f1").state is State.AWAITING_USER
    assert sent(driver) == []  # not due yet
    database.clock.advance(60)
    assert driver.step("f1").state is State.AWAITING_USER
    assert len(sent(driver)) == 1


def test_login_that_is_woken_too_early_starves_no_other(database: Place) -> None:
    """Neither one that nobody has started, nor one that waits."""
    for name in ("created", "waiting"):
        for number in range(60):
            kept(database, name, f"{name}{number}")
    database.clock.advance(-0.5)
    kept(database, "waiting", "due")
    database.clock.advance(7.55)
    database.ask("UPDATE {flows} SET wake_at = 0 WHERE id <> 'due'")
    database.ask("UPDATE {flows} SET wake_at = 1 WHERE id = 'due'")
    database.clock.advance(-0.4)
    driver = database.client(PENDING)

    swept = driver.sweep(limit=10)

    assert [step.id for step in swept.logins] == ["due"]
    assert swept.problems == []
    assert len(sent(driver)) == 1


# Rows from elsewhere.


def test_old_row_put_back_is_found(database: Place) -> None:
    flow = kept(database, "waiting")
    columns = "seq, state, moved_at, progress, record, head, mac, code, wake_at"
    (old,) = database.ask(f"SELECT {columns} FROM {{flows}}")
    assert commit(database.store, flow, flow.poll(database.now, 10))
    assert commit(database.store, flow, flow.receive(PENDING, database.now))

    sets = ", ".join(f"{name.strip()} = ?" for name in columns.split(","))
    database.ask(f"UPDATE {{flows}} SET {sets}", *old)

    assert found(database) == {("wrong_state", "f1")}


def test_deleted_row_is_found(database: Place) -> None:
    kept(database, "waiting")
    database.ask("DELETE FROM {flows}")

    assert found(database) == {("wrong_state", "f1")}


def test_row_of_another_store_with_the_same_keys_is_not_obeyed(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    mine, theirs = map(places.sqlite, folders)
    theirs.close()
    theirs.keys = mine.keys
    for file in folders[1].iterdir():
        file.unlink()
    theirs.store = theirs.open()
    kept(theirs, "waiting")
    theirs.store.close()

    with closing(sqlite3.connect(folders[0] / "flows.db")) as database:
        database.execute("ATTACH ? AS other", (str(folders[1] / "flows.db"),))
        for table in ("flows", "audit"):
            database.execute(f"INSERT INTO {table} SELECT * FROM other.{table}")
        database.commit()

    with pytest.raises(errors.SealError):
        mine.client().step("f1")
    assert {flow_id for _, flow_id in found(mine)} == {"f1"}
    mine.close()
    theirs.close()


@pytest.mark.parametrize("name", ["audit_key", "store_id"])
def test_wiped_key_of_a_store_is_not_made_anew(database: Place, name: str) -> None:
    kept(database, "waiting")
    database.ask("DELETE FROM {meta} WHERE name = ?", name)

    with pytest.raises(errors.StoreError, match="somebody has removed it"):
        database.open()

    assert database.ask("SELECT 1 FROM {meta} WHERE name = ?", name) == []


@pytest.mark.parametrize("value", ["plain.1.5", "plain.null", "plain.[]", "plain.{", "", "x"])
def test_audit_key_that_is_none_is_an_error_of_ours(store_of: Place, value: str) -> None:
    store_of.ask("UPDATE {meta} SET value = ? WHERE name = 'audit_key'", value)

    with pytest.raises(errors.StoreError):
        store_of.open()
