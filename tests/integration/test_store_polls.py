"""Polls of one login, one after another: whoever else goes on with it, or edits it, meanwhile."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Secret, errors
from deviceflow.audit.events import render
from deviceflow.core.encryption import generate_key
from deviceflow.core.ports import Claim, Origin
from deviceflow.core.secret import Hidden
from deviceflow.core.states import Reason, State
from deviceflow.stores.sql import store as sql_store
from deviceflow.stores.sql.rows import LOGINS, AsStored
from deviceflow.testing import answer
from tests.integration.places import (
    CODE,
    DENIED,
    GRANTED,
    OAUTH,
    PENDING,
    REVOKED,
    Place,
    in_clear,
)
from tests.integration.test_store_contract import at_once
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow import Client

CHANGES: Final[dict[str, Callable[[Any], Any]]] = {
    "name": lambda _: "another",
    "created_at": lambda at: at - 1,
    "ended_at": lambda _: 5.0,
    "provider": lambda text: text.replace("as.example.com", "evil.example.com"),
    "record": lambda text: json.dumps(json.loads(text) | {"user_code": "EVIL-CODE"}),
    "code": lambda text: text[:-4],
    "token": lambda _: "df1.00000000.AAAA",
    "revoke": lambda _: "df1.00000000.AAAA",
    "seq": lambda seq: seq + 1,
    "state": lambda _: "init",
    "moved_at": lambda at: at - 1,
    "progress": lambda text: json.dumps(json.loads(text) | {"interval": 0.5}),
    "head": lambda _: "0" * 64,
    "mac": lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
}


def polls(claimed: Claim) -> dict[str, Any]:
    moved = claimed.flow.poll(claimed.now, 10.0)
    return render(claimed.flow, moved, Origin("w1"))


def begun(database: Place, *answers: Any) -> tuple[Client, str]:
    """Start a login, and let its first poll come due."""
    driver = database.client(CODE, *answers)
    flow = driver.start(OAUTH)
    database.clock.advance(60)
    return driver, flow.id


def polled(database: Place, *answers: Any) -> tuple[Client, str]:
    """Start a login, poll it once, and let its next poll come due."""
    driver, flow_id = begun(database, PENDING, *answers)
    assert driver.step(flow_id).state is State.AWAITING_USER
    database.clock.advance(60)
    return driver, flow_id


def sent(driver: Client) -> list[str]:
    return [request.purpose for request in driver._transport.requests]  # type: ignore[attr-defined]


# What is edited meanwhile.


@pytest.mark.parametrize("column", [name for name in LOGINS.columns if name != "id"])
def test_edit_behind_the_librarys_back_is_noticed_and_not_obeyed(
    database: Place, column: str
) -> None:
    driver, flow_id = polled(database, PENDING)
    ((was,),) = database.ask(f"SELECT {column} FROM {{flows}}")
    database.ask(f"UPDATE {{flows}} SET {column} = ?", CHANGES[column](was))

    for client in (driver, database.client(store=database.open())):
        for use in (client.step, client.get):
            with pytest.raises(errors.SealError):
                use(flow_id)

    assert sent(driver) == ["code", "token"]


def test_login_whose_row_is_gone_is_unknown(database: Place) -> None:
    driver, flow_id = polled(database, PENDING)
    database.ask("DELETE FROM {flows}")

    with pytest.raises(errors.UnknownLoginError):
        driver.step(flow_id)

    assert sent(driver) == ["code", "token"]


def test_row_that_was_put_back_is_not_polled(database: Place) -> None:
    driver, flow_id = begun(database, PENDING, PENDING)
    columns = ", ".join(f"{name} = ?" for name in LOGINS.columns)
    (old,) = database.ask(f"SELECT {', '.join(LOGINS.columns)} FROM {{flows}}")
    driver.step(flow_id)
    database.clock.advance(60)
    database.ask(f"UPDATE {{flows}} SET {columns}", *old)

    with pytest.raises(errors.StoreError, match="set back to an earlier state"):
        driver.step(flow_id)

    assert sent(driver) == ["code", "token"]


def test_login_that_another_process_has_sealed_with_a_key_unknown_here_is_refused(
    database: Place,
) -> None:
    driver, flow_id = polled(database, PENDING)
    with database.open(keys=[generate_key(), *database.keys]) as other:
        assert other.reseal() == (1, [])

    with pytest.raises(errors.SealError):
        driver.step(flow_id)

    assert sent(driver) == ["code", "token"]


# What others do meanwhile.


@pytest.mark.parametrize("column", ["lease_owner", "previous_owner"])
def test_login_that_somebody_left_behind_is_taken_over_on_record(
    database: Place, column: str
) -> None:
    driver, flow_id = polled(database, PENDING)
    database.ask(f"UPDATE {{flows}} SET {column} = 'the dead', lease_until = 1, leased_at = 0")

    driver.step(flow_id)

    actions = [event["action"] for event in database.sql.events(flow_id)]
    assert actions == ["issue_code", "poll", "pending", "take_over", "poll", "pending"]


def test_two_processes_poll_one_login_in_turn(database: Place) -> None:
    driver, flow_id = begun(database, PENDING, PENDING)
    other = database.client(PENDING, PENDING, store=database.open())

    for client in (other, driver, other, driver):
        assert client.step(flow_id).state is State.AWAITING_USER
        database.clock.advance(60)

    assert get(database.store, flow_id).attempt == 4
    assert [event["seq"] for event in database.sql.events(flow_id)] == [*range(1, 10)]


@pytest.mark.parametrize("by_another", [False, True])
def test_login_that_was_cancelled_is_polled_no_more(database: Place, by_another: bool) -> None:
    driver, flow_id = polled(database, PENDING)
    other = database.client(store=database.open()) if by_another else driver

    other.cancel(flow_id)

    assert driver.step(flow_id).reason is Reason.CANCELLED
    assert sent(driver) == ["code", "token"]


def test_login_that_was_denied_is_polled_no_more(database: Place) -> None:
    driver, flow_id = polled(database, DENIED, PENDING)
    assert driver.step(flow_id).state is State.FAILED
    database.clock.advance(60)

    assert driver.step(flow_id).reason is Reason.DENIED
    assert sent(driver) == ["code", "token", "token"]


def test_one_of_many_threads_polls_a_login_again(database: Place) -> None:
    _, flow_id = polled(database)

    done = at_once(lambda n: database.store.claim(flow_id, f"w{n}", database.now, 20.0, polls))

    assert sum(isinstance(claimed, Claim) for claimed in done) == 1
    assert get(database.store, flow_id).attempt == 2


def test_login_that_ends_while_its_poll_is_answered_stays_as_it_ended(database: Place) -> None:
    driver, flow_id = begun(database, PENDING)
    other = database.client(store=database.open())
    transport: Any = driver._transport
    send = transport.send

    def send_late(*request: Any) -> Any:
        answered = send(*request)
        other.cancel(flow_id)
        return answered

    transport.send = send_late

    assert driver.step(flow_id).state is State.FAILED
    assert sent(driver) == ["code", "token"]
    assert get(database.store, flow_id).reason is Reason.CANCELLED


def test_two_clients_of_one_store_poll_by_their_own_policies(database: Place) -> None:
    _, flow_id = polled(database)
    strict = database.client(
        GRANTED, approver=lambda _: False, origin=Origin(actor="strict"), deadline=7.0
    )

    assert strict.step(flow_id).reason is Reason.WRONG_APPROVER

    actors = {event["actor"] for event in database.sql.events(flow_id)[3:]}
    assert actors == {"strict"}


# What fails, and what is left.


def test_store_that_fails_at_a_poll_sends_nothing_and_goes_on(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, flow_id = begun(database, PENDING)

    def fail(*_: Any) -> Any:
        raise errors.StoreError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(sql_store, "link", fail)
        with pytest.raises(errors.StoreError, match="The disk is full"):
            driver.step(flow_id)

    assert sent(driver) == ["code"]
    assert driver.step(flow_id).state is State.AWAITING_USER
    assert [event["seq"] for event in database.sql.events(flow_id)] == [1, 2, 3]


@pytest.mark.parametrize("plaintext", [False, True])
def test_no_token_stays_in_memory_once_it_is_stored(database: Place, plaintext: bool) -> None:
    if plaintext:
        in_clear(database)
    token, code = token_hex(8), token_hex(8)
    coded = {**json.loads(CODE.body), "device_code": code}
    driver = database.client(
        answer(200, coded), answer(200, {"access_token": token, "refresh_token": token})
    )
    flow_id = driver.start(OAUTH).id
    database.clock.advance(60)
    read = get(database.store, flow_id)
    assert [type(one) for one in in_memory(code)] == [Secret, *[AsStored] * plaintext]
    del read

    assert driver.step(flow_id).state is State.AUTHORIZED

    assert not in_memory(code, token)
    database.client(REVOKED, REVOKED, store=database.open()).purge(tokens_after=0)
    assert get(driver._store, flow_id).token is None
    assert not in_memory(code, token)


def in_memory(*texts: str) -> list[object]:
    """Return what there is that has one of the texts, of all that can have secrets."""
    gc.collect()
    objects = gc.get_objects()
    secrets = [one for one in objects if isinstance(one, Secret) and one.reveal() in texts]
    hidden = [(one, one.reveal()) for one in objects if isinstance(one, Hidden)]
    stored = [(one, one.columns) for one in objects if isinstance(one, AsStored)]
    shown = [one for one, held in [*hidden, *stored] if any(text in repr(held) for text in texts)]
    return [*secrets, *shown]


def test_what_a_login_keeps_of_its_row_does_not_show(database: Place) -> None:
    in_clear(database)
    _, flow_id = begun(database)

    kept = get(database.store, flow_id).as_stored

    assert isinstance(kept, AsStored)
    assert "DEVICE-CANARY" in repr(kept.columns)
    assert "CANARY" not in repr(kept)


# Forks.

FORKED_AT_WORK: Final = """
import os, sys, threading
from deviceflow import Client
from deviceflow.core.flow import Flow
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock
from tests.integration.places import CODE, OAUTH, PENDING
from tests.stored import get

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def step(flow_id, attempt):
    clock.advance(60 * attempt)  # a child's clock is its own
    client.step(flow_id)
    assert get(store, flow_id).attempt == attempt

clock, store = VirtualClock(), SQLiteStore(sys.argv[1])
client = Client(store, clock=clock, transport=ScriptedTransport([CODE, *[PENDING] * 5]))
flow_id = client.start(OAUTH).id
child = os.fork()
if not child:
    step(flow_id, 1)
    os._exit(0)
assert ended(child) == 0
step(flow_id, 2)

# While another thread is at work in the store.
at_work, leave = threading.Event(), threading.Event()
def work():
    while not leave.is_set():
        store.put_off(Flow, "none of these", 0.0, "w2")
        at_work.set()
thread = threading.Thread(target=work)
thread.start()
at_work.wait()
child = os.fork()
if not child:
    step(flow_id, 3)
    os._exit(0)
assert ended(child) == 0
leave.set()
thread.join()
step(flow_id, 4)
"""


def test_parent_and_child_poll_one_login_in_turn(tmp_path: Path) -> None:
    script = [sys.executable, "-W", "ignore", "-c", FORKED_AT_WORK, str(tmp_path / "flows.db")]
    done = subprocess.run(script, check=False, timeout=60, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
