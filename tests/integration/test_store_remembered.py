"""Logins that a process remembers: polled without being read, and never against their rows."""

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
from deviceflow.core.states import Reason, State
from deviceflow.stores._parked import Parked
from deviceflow.stores.sql import operations, remembered
from deviceflow.stores.sql.rows import COLUMNS, FIXED
from deviceflow.testing import answer
from tests.crash.traps import relayed
from tests.integration.places import (
    CODE,
    DENIED,
    GRANTED,
    OAUTH,
    PENDING,
    REVOKED,
    Place,
    commit,
    everything,
    in_clear,
)
from tests.integration.test_store_contract import at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow import Client

CHANGES: Final[dict[str, Callable[[Any], Any]]] = {
    "created_at": lambda at: at - 1,
    "ended_at": lambda _: 5.0,
    "open_name": lambda _: "another",
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
    """Start a login, whose store then remembers it, and let its first poll come due."""
    driver = database.client(CODE, *answers)
    flow = driver.start(OAUTH)
    database.clock.advance(60)
    assert len(database.sql._remembered) == 1
    return driver, flow.id


def statements(database: Place) -> list[str]:
    """Note the statements that are run from now on."""
    connection: Any = database.sql._connection
    perform, names = connection.perform, list[str]()
    connection.perform = lambda operation, *how: perform(
        lambda now: relayed(operation(now), after=names.append), *how
    )
    return names


def sent(driver: Client) -> list[str]:
    return [request.purpose for request in driver._transport.requests]  # type: ignore[attr-defined]


def test_poll_of_a_login_that_is_remembered_is_two_transactions_and_reads_nothing(
    database: Place,
) -> None:
    driver, flow_id = begun(database, PENDING, PENDING)
    names = statements(database)

    for _ in range(2):
        assert driver.step(flow_id).state is State.AWAITING_USER
        database.clock.advance(60)

    assert names == ["poll_remembered", "add_event", "move", "add_event"] * 2
    assert [event["seq"] for event in database.sql.history(flow_id)] == [1, 2, 3, 4, 5]


def test_sweep_finds_what_is_due_and_reads_nothing_more(database: Place) -> None:
    driver, _ = begun(database, PENDING)
    names = statements(database)

    assert len(driver.sweep().logins) == 1

    polled = ["upcoming", "poll_remembered", "add_event", "move", "add_event"]
    at = names.index("upcoming")
    assert names[at : at + len(polled)] == polled


@pytest.mark.parametrize("column", [name for name in COLUMNS if name != "id"])
def test_edit_behind_the_librarys_back_is_noticed_and_not_obeyed(
    database: Place, column: str
) -> None:
    """What a poll writes is compared at once; the rest when the login is read again."""
    driver, flow_id = begun(database, PENDING)
    ((was,),) = database.ask(f"SELECT {column} FROM {{flows}}")
    database.ask(f"UPDATE {{flows}} SET {column} = ?", CHANGES[column](was))

    if column not in FIXED:
        with pytest.raises(errors.SealError):
            driver.step(flow_id)
        assert sent(driver) == ["code"]
    else:
        driver.step(flow_id)
        urls = {request.url for request in driver._transport.requests}  # type: ignore[attr-defined]
        assert all(url.startswith("https://as.example.com/") for url in urls)

    with pytest.raises(errors.SealError):
        driver.get(flow_id)
    with pytest.raises(errors.SealError):
        database.client(store=database.open()).step(flow_id)


def test_login_whose_row_is_gone_is_unknown(database: Place) -> None:
    driver, flow_id = begun(database)
    database.ask("DELETE FROM {flows}")

    with pytest.raises(errors.UnknownLoginError):
        driver.step(flow_id)

    assert sent(driver) == ["code"]


@pytest.mark.parametrize("column", ["lease_owner", "previous_owner"])
def test_login_that_somebody_left_behind_is_taken_over_on_record(
    database: Place, column: str
) -> None:
    driver, flow_id = begun(database, PENDING)
    database.ask(f"UPDATE {{flows}} SET {column} = 'the dead', lease_until = 1, leased_at = 0")

    driver.step(flow_id)

    actions = [event["action"] for event in database.sql.history(flow_id)]
    assert actions == ["issue_code", "take_over", "poll", "pending"]


def test_login_with_which_others_went_on_is_read(database: Place) -> None:
    driver, flow_id = begun(database, PENDING)
    other = database.client(PENDING, store=database.open())
    other.step(flow_id)
    database.clock.advance(60)
    names = statements(database)

    driver.step(flow_id)

    assert names[:3] == ["poll_remembered", "lock", "lease_and_move"]
    assert database.store.get(flow_id).attempt == 2


@pytest.mark.parametrize("end", ["cancelled", "denied", "cancelled by another"])
def test_login_that_ended_is_forgotten(database: Place, end: str) -> None:
    driver, flow_id = begun(database, DENIED)

    if end == "denied":
        assert driver.step(flow_id).state is State.FAILED
    elif end == "cancelled":
        driver.cancel(flow_id)
    else:
        database.client(store=database.open()).cancel(flow_id)
        assert driver.step(flow_id).state is State.FAILED
        assert sent(driver) == ["code"]

    assert len(database.sql._remembered) == 0


def test_one_of_many_threads_polls_a_login_that_is_remembered(database: Place) -> None:
    _, flow_id = begun(database)

    done = at_once(lambda n: database.store.claim(flow_id, f"w{n}", database.now, 20.0, polls))

    assert sum(isinstance(claimed, Claim) for claimed in done) == 1
    assert database.store.get(flow_id).attempt == 1


def test_flow_that_is_remembered_is_nobodys(database: Place) -> None:
    _, flow_id = begun(database)
    claimed = database.store.claim(flow_id, "w1", database.now, 20.0, polls)
    assert isinstance(claimed, Claim)
    mine = claimed.flow
    assert commit(database.store, mine, mine.receive(PENDING, database.now), "w1", "w1")
    stored = everything(mine)

    mine.cancel(database.now)
    database.clock.advance(60)
    again = database.store.claim(flow_id, "w1", database.now, 20.0, lambda _: None)

    assert isinstance(again, Claim)
    assert again.flow is not mine
    assert everything(again.flow) == stored


def test_update_that_is_lost_is_forgotten(database: Place) -> None:
    _, flow_id = begun(database)
    claimed = database.store.claim(flow_id, "w1", database.now, 20.0, polls)
    assert isinstance(claimed, Claim)
    flow, theirs = claimed.flow, database.store.get(flow_id)
    assert commit(database.store, theirs, theirs.cancel(database.now), "w2")

    assert not commit(database.store, flow, flow.receive(PENDING, database.now), "w1", "w1")

    assert len(database.sql._remembered) == 0


def test_no_more_are_remembered_than_is_said(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "MOST", 3)
    driver = database.client(*[CODE] * 5)

    ids = [driver.start(OAUTH).id for _ in range(5)]

    assert [*database.sql._remembered._flows] == ids[-3:]


def test_nothing_that_is_remembered_shows(database: Place) -> None:
    _, flow_id = begun(database)
    known = database.sql._remembered.take(flow_id)

    assert known is not None
    assert "CANARY" not in f"{known!r} {database.sql._remembered!r} {known.opened()[0].as_stored!r}"


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
    assert len(database.sql._remembered) == 0
    assert database.store.get(flow_id).reason is Reason.CANCELLED


def test_store_that_fails_at_a_poll_leaves_nothing_remembered_that_was_not_stored(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, flow_id = begun(database, PENDING)

    def fail(*_: Any) -> Any:
        raise errors.StoreError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(operations, "link", fail)
        with pytest.raises(errors.StoreError):
            driver.step(flow_id)

    assert len(database.sql._remembered) == 0
    assert sent(driver) == ["code"]
    assert driver.step(flow_id).state is State.AWAITING_USER
    assert [event["seq"] for event in database.sql.history(flow_id)] == [1, 2, 3]


def test_two_clients_of_one_store_poll_by_their_own_policies(database: Place) -> None:
    _, flow_id = begun(database)
    strict = database.client(
        GRANTED, approver=lambda _: False, origin=Origin(actor="strict"), deadline=7.0
    )

    assert strict.step(flow_id).reason is Reason.WRONG_APPROVER

    actors = {event["actor"] for event in database.sql.history(flow_id)[1:]}
    assert actors == {"strict"}


def test_login_that_another_process_has_sealed_with_a_key_unknown_here_is_refused(
    database: Place,
) -> None:
    driver, flow_id = begun(database, PENDING)
    with database.open(keys=[generate_key(), *database.keys]) as other:
        assert other.reseal() == (1, [])

    with pytest.raises(errors.SealError):
        driver.step(flow_id)

    assert sent(driver) == ["code"]


def test_row_that_was_put_back_is_not_polled(database: Place) -> None:
    driver, flow_id = begun(database, PENDING, PENDING)
    columns = ", ".join(f"{name} = ?" for name in COLUMNS)
    (old,) = database.ask(f"SELECT {', '.join(COLUMNS)} FROM {{flows}}")
    driver.step(flow_id)
    database.clock.advance(60)
    database.ask(f"UPDATE {{flows}} SET {columns}", *old)

    with pytest.raises(errors.StoreError):
        driver.step(flow_id)

    assert sent(driver) == ["code", "token"]


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
    assert in_memory(code)
    database.clock.advance(60)

    assert driver.step(flow_id).state is State.AUTHORIZED

    assert not in_memory(code, token)
    database.client(REVOKED, REVOKED, store=database.open()).purge(tokens_after=0)
    assert driver._store.get(flow_id).token is None
    assert not in_memory(code, token)


def in_memory(*texts: str) -> list[object]:
    gc.collect()
    objects = gc.get_objects()
    secrets = [one for one in objects if isinstance(one, Secret) and one.reveal() in texts]
    parked = [one for one in objects if isinstance(one, Parked)]
    return [
        *secrets,
        *(one for one in parked if any(text.encode() in one._fixed for text in texts)),
    ]


FORKED: Final = """
import os, sys
from deviceflow import Client
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport
from tests.integration.places import CODE, OAUTH
store = SQLiteStore(sys.argv[1])
Client(store, transport=ScriptedTransport([CODE])).start(OAUTH)
assert len(store._remembered) == 1
child = os.fork()
if not child:
    os._exit(len(store._remembered))
_, status = os.waitpid(child, 0)
assert len(store._remembered) == 1
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_forked_child_remembers_nothing(tmp_path: Any) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "flows.db")], check=False)

    assert done.returncode == 0


FORKED_AT_WORK: Final = """
import os, sys, threading
from deviceflow import Client
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock
from tests.integration.places import CODE, OAUTH, PENDING

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def step(flow_id, attempt):
    clock.advance(60 * attempt)  # a child's clock is its own
    client.step(flow_id)
    assert store.get(flow_id).attempt == attempt

clock, store = VirtualClock(), SQLiteStore(sys.argv[1])
client = Client(store, clock=clock, transport=ScriptedTransport([CODE, *[PENDING] * 5]))
flow_id = client.start(OAUTH).id
child = os.fork()
if not child:
    step(flow_id, 1)
    os._exit(0)
assert ended(child) == 0
step(flow_id, 2)

# While another thread is about to remember a login.
held, remembered = threading.Event(), store._remembered
leave = threading.Event()
def hold():
    with remembered._lock:
        held.set()
        leave.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    step(flow_id, 3)
    os._exit(0)
assert ended(child) == 0
leave.set()
thread.join()
step(flow_id, 4)
"""


def test_parent_and_child_poll_one_login_in_turn(tmp_path: Any) -> None:
    script = [sys.executable, "-c", FORKED_AT_WORK, str(tmp_path / "flows.db")]
    done = subprocess.run(script, check=False, timeout=60)

    assert done.returncode == 0


def test_store_that_is_closed_remembers_nothing(database: Place) -> None:
    driver, flow_id = begun(database, PENDING)

    database.store.close()

    assert len(database.sql._remembered) == 0
    assert driver.step(flow_id).state is State.AWAITING_USER
