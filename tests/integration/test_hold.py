"""Logins that are held: what a store learns of them, and when; who may go on, and what is said."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from deviceflow import Secret, errors
from deviceflow.audit.events import STORE
from deviceflow.client.driver import HEARTBEAT, LOOK
from deviceflow.client.hold import Hold
from deviceflow.core import queries
from deviceflow.core.encryption import generate_key
from deviceflow.core.login import Login
from deviceflow.core.states import State
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.testing import VirtualClock, answer
from deviceflow.trail import login_view
from deviceflow.trail.digest import Signer
from deviceflow.trail.maintenance import prune, take_digest
from deviceflow.trail.verify import Verification
from deviceflow.worker import _drive
from tests.integration.places import CODE, GRANTED, OAUTH, PENDING, SLOW_DOWN, Place, placed, sqlite
from tests.integration.test_store_grants import findings, opened
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgres", "async sqlite", "async postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Give a place of each kind whose trail is a summary."""
    for place in placed(request):
        place.store.close()
        place.store = place.open(trail="summary")
        yield place


def actions(place: Place, flow_id: str) -> list[str]:
    return [event["action"] for event in place.sql.events(flow_id)]


def rows(place: Place) -> Any:
    """Return all that the store has but the heartbeat."""
    tables = ("flows", "audit", "taken")
    return [place.ask(f"SELECT * FROM {{{table}}} ORDER BY 1, 2") for table in tables]


def select(place: Place, query: Any) -> list[Any]:
    return place.sql.select(query, place.moment)


def is_whole(place: Place) -> bool:
    return not findings(place)


def due(place: Place, login: Login) -> None:
    place.clock.advance(login.wait_seconds + 0.01)


def held(place: Place, polls: int, *script: Any) -> tuple[Any, Any, str]:
    """Return a client that holds a login, after so many polls."""
    client = place.client(CODE, *[PENDING] * polls, *script)
    login = client.start(OAUTH)
    hold = Hold(login.id)
    client._run(hold.step)
    for _ in range(polls):
        due(place, client.get(login.id) if hold.flow is None else _as_login(hold, place))
        client._run(hold.step)
    assert hold.flow is not None
    return client, hold, login.id


def _as_login(hold: Hold, place: Place) -> Any:
    assert hold.flow is not None
    return Login.of(hold.flow, hold.flow.wait_seconds(place.now))


def test_wait_stores_its_first_poll_and_its_end(database: Place) -> None:
    logged: list[Any] = []
    script = [CODE, *[PENDING] * 30, GRANTED]
    client = database.client(*script, on_transition=logged.append)
    login = client.start(OAUTH)

    client.wait_for_token(login.id)

    assert actions(database, login.id) == ["issue_code", "poll", "issue_token", "collect"]
    assert [event["seq"] for event in logged] == [*range(1, len(logged) + 1)]
    assert len(logged) == 1 + 2 * 31 + 1
    token = database.sql.events(login.id)[2]
    assert (token["omitted"]["polls"], token["omitted"]["events"]) == (30, 60)
    assert is_whole(database)
    assert database.ask("SELECT driver FROM {drivers}") == []


def test_poll_of_a_held_login_writes_nothing(database: Place) -> None:
    client, hold, _ = held(database, 2, *[PENDING] * 8)
    before = rows(database)

    for _ in range(8):
        due(database, _as_login(hold, database))
        client._run(hold.step)

    assert rows(database) == before


def test_others_find_a_held_login_leased(database: Place) -> None:
    _, _, flow_id = held(database, 2)
    other = database.client()

    login = other.step(flow_id)

    assert login.state is State.POLLING
    assert login.wait_seconds > 0
    assert other.sweep().logins == []


def test_who_takes_over_from_the_dead_says_what_is_unknown(database: Place) -> None:
    _, _, flow_id = held(database, 5)
    before = get(database.store, flow_id)
    database.clock.advance(60)
    other = database.client(GRANTED)

    swept = other.sweep()

    assert len(swept.logins) == 1
    event = database.sql.events(flow_id)[-1]
    assert (event["action"], event["omitted"]["counted"]) == ("recover", False)
    assert event["seq"] == before.seq + 2 * before.reserved + 1
    after = get(database.store, flow_id)
    assert (after.attempt, after.in_doubt) == (before.attempt + before.reserved, True)
    assert after.due_at >= database.now + after.interval
    assert is_whole(database)
    other.wait_for_token(flow_id)
    assert is_whole(database)


def test_cancel_reaches_who_holds_the_login(database: Place) -> None:
    client, hold, flow_id = held(database, 3)

    database.client().cancel(flow_id)
    due(database, _as_login(hold, database))
    login = client._run(hold.step)

    assert login.state is State.FAILED
    assert hold.flow is None
    assert is_whole(database)


@pytest.mark.parametrize(("by_another", "within"), [(True, 2 * LOOK), (False, 0.01)])
def test_cancel_ends_a_wait_before_the_next_poll(
    database: Place, by_another: bool, within: float
) -> None:
    client = database.client(CODE, *[PENDING] * 9)
    canceller = database.client() if by_another else client
    steps_at = list[float]()

    def cancel_third(login: Login) -> None:
        steps_at.append(database.now)
        if len(steps_at) == 3:
            canceller.cancel(login.id)

    login = client.wait(client.start(OAUTH).id, on_step=cancel_third)

    assert login.state is State.FAILED
    assert login.interval == 7
    assert len(steps_at) == 4
    assert database.now - steps_at[2] < within
    assert is_whole(database)


def test_record_of_a_hold_that_another_process_ended_says_that_nobody_died(
    database: Place,
) -> None:
    _, _, flow_id = held(database, 3)
    database.client().cancel(flow_id)

    history = login_view.Login.of(flow_id, database.sql.events(flow_id))
    said = " ".join(line.message for line in history.story())
    assert "how many polls were sent is unknown" in said
    assert "died" not in said


def test_store_forgets_what_a_heartbeat_says_the_driver_has_seen(database: Place) -> None:
    client, hold, _ = held(database, 2, CODE, CODE, *[PENDING] * 9)
    cancelled = [client.start(OAUTH).id for _ in range(2)]
    for flow_id in cancelled:
        due(database, client.get(flow_id))
        client._run(partial(_drive.drive, flow_id=flow_id, seq=1))
        database.client().cancel(flow_id)
    assert len(database.ask("SELECT flow_id FROM {taken}")) == 2

    for _ in range(2):
        database.clock.advance(HEARTBEAT + 1)
        client._run(hold.step)

    assert database.ask("SELECT flow_id FROM {taken}") == []
    for flow_id in cancelled:
        driven = client._run(partial(_drive.drive, flow_id=flow_id, seq=1))
        assert driven.login.state is State.FAILED
    client._run(hold.end)
    assert is_whole(database)


def test_hold_that_lapsed_is_taken_again_and_its_count_is_true(database: Place) -> None:
    client, hold, flow_id = held(database, 4, PENDING, PENDING, GRANTED)
    database.clock.advance(100)

    while not client._run(hold.step).has_token:
        due(database, _as_login(hold, database))

    events = database.sql.events(flow_id)
    assert [event["action"] for event in events][:3] == ["issue_code", "poll", "poll"]
    assert events[2]["omitted"]["polls"] == 3
    assert is_whole(database)


def test_hold_that_lapsed_is_not_taken_from_others(database: Place) -> None:
    client, hold, flow_id = held(database, 4)
    database.clock.advance(100)
    database.client().step(flow_id)

    login = client._run(hold.step)

    assert login.state is State.AWAITING_USER
    assert hold.flow is None
    assert actions(database, flow_id) == ["issue_code", "poll", "recover"]
    assert is_whole(database)


def test_what_a_successor_needs_is_stored(database: Place) -> None:
    client = database.client(CODE, PENDING, PENDING, SLOW_DOWN, PENDING, PENDING, GRANTED)
    login = client.start(OAUTH)

    client.wait_for_token(login.id)

    assert actions(database, login.id) == [
        *("issue_code", "poll", "slow_down", "poll", "issue_token", "collect")
    ]
    assert is_whole(database)


def test_wait_that_ends_early_gives_the_login_back(database: Place) -> None:
    client = database.client(CODE, *[PENDING] * 20)
    login = client.start(OAUTH)

    with pytest.raises(errors.WaitTimeoutError):
        client.wait(login.id, timeout=50)

    last = database.sql.events(login.id)[-1]
    assert last["action"] == "let_go"
    assert last["omitted"]["polls"] >= 5
    assert get(database.store, login.id).state is State.AWAITING_USER
    assert database.ask("SELECT driver FROM {drivers}") == []
    assert is_whole(database)


def test_lease_is_renewed_while_a_long_wait_goes_on(database: Place) -> None:
    slow = answer(200, json.loads(CODE.body) | {"interval": 120})
    client = database.client(slow, PENDING, PENDING, PENDING, GRANTED)
    login = client.start(OAUTH)

    client.wait_for_token(login.id)

    assert actions(database, login.id) == ["issue_code", "poll", "issue_token", "collect"]
    assert HEARTBEAT < 120
    assert is_whole(database)


def test_held_login_is_exported_once_it_was_given_back(database: Place) -> None:
    client, hold, flow_id = held(database, 2)
    other, keys = database.client(), [generate_key()]
    ((driver,),) = database.ask("SELECT driver FROM {drivers}")

    with pytest.raises(errors.LoginBusyError, match="holds this login") as caught:
        other.export_login(flow_id, keys)
    assert driver in str(caught.value)
    assert f"deviceflow step {flow_id}" in str(caught.value)

    client._run(hold.end)
    assert other.export_login(flow_id, keys)


def test_login_of_a_driver_that_has_no_row_is_taken_over_at_once(database: Place) -> None:
    _, _, flow_id = held(database, 3)
    database.ask("DELETE FROM {drivers}")
    other = database.client(GRANTED)

    assert [one.flow_id for one in select(database, queries.lapsed())] == [flow_id]
    assert [login.id for login in other.sweep().logins] == [flow_id]

    assert actions(database, flow_id) == ["issue_code", "poll", "recover"]
    other.wait_for_token(flow_id)
    assert is_whole(database)


def test_login_of_a_driver_whose_row_is_gone_is_not_polled_by_it_any_more(database: Place) -> None:
    client, hold, _ = held(database, 3)
    database.ask("DELETE FROM {drivers}")
    database.client().sweep()

    due(database, _as_login(hold, database))
    login = client._run(hold.step)

    assert login.state is State.AWAITING_USER
    assert hold.flow is None
    assert is_whole(database)


def test_driver_that_died_is_put_on_record_by_a_sweep(database: Place) -> None:
    _, _, flow_id = held(database, 3)
    database.clock.advance(60)
    other = database.client()
    other.sweep()

    other.sweep()

    assert actions(database, "store") == ["drive", "lapse"]
    assert database.ask("SELECT driver FROM {drivers}") == []
    assert actions(database, flow_id)[-1] == "recover"


def test_wait_on_the_login_of_another_process_ends_as_that_does(database: Place) -> None:
    client, hold, flow_id = held(database, 2, PENDING, GRANTED)
    watching = database.client()
    seen = []

    def go_on(login: Login) -> None:
        seen.append(login.state)
        if hold.flow is not None and hold.flow.wait_seconds(database.now) == 0:
            client._run(hold.step)

    login = watching.wait(flow_id, on_step=go_on)

    assert login.state is State.AUTHORIZED
    assert State.POLLING in seen
    assert actions(database, flow_id) == ["issue_code", "poll", "issue_token"]
    assert is_whole(database)


@pytest.mark.parametrize("database", ["sqlite", "async sqlite"], indirect=True)
def test_wait_in_a_store_that_may_not_be_written_sends_nothing(database: Place) -> None:
    login = database.client(CODE).start(OAUTH)
    due(database, login)
    before = rows(database)
    reading = database.client(store=database.open(trail="summary", read_only=True))

    with pytest.raises(errors.StoreError, match="opened for reading only"):
        reading.wait(login.id)

    assert rows(database) == before


def test_driver_does_not_stop_while_a_login_is_held(database: Place) -> None:
    client, hold, flow_id = held(database, 3, PENDING)
    other = Hold(flow_id)

    for _ in range(2):
        client._run(other.step)  # a second wait of the same program, which leaves again
    client._run(other.end)

    first, *others = database.sql.events(STORE)
    assert first["action"] == "drive"
    assert first["detail"] not in {event["detail"] for event in others}
    assert database.client().sweep().logins == []
    due(database, _as_login(hold, database))
    client._run(hold.step)
    client._run(hold.end)
    assert is_whole(database)


# What a verification makes of holds.


def flow_row(place: Place, flow_id: str) -> dict[str, Any]:
    """Return the columns of a login that move."""
    names = ("seq", "state", "moved_at", "progress", "head", "mac", "wake_at", "held_by")
    (row,) = place.ask(f"SELECT {', '.join(names)} FROM {{flows}} WHERE id = ?", flow_id)
    return dict(zip(names, row, strict=True))


def rewind(place: Place, flow_id: str, row: dict[str, Any]) -> None:
    """Put a login and its trail back to what they were."""
    columns = ", ".join(f"{name} = ?" for name in row)
    place.ask(f"UPDATE {{flows}} SET {columns} WHERE id = ?", *row.values(), flow_id)
    place.ask("DELETE FROM {audit} WHERE flow_id = ? AND seq > ?", flow_id, row["seq"])


def signer() -> Signer:
    return Signer(Secret(generate_signing_key()))


def found(place: Place, digests: Path | None = None) -> list[tuple[str, str | None]]:
    with opened(place) as store, store.snapshot() as seen:
        verification = Verification(*seen, digests=digests)
        return [(finding.kind, finding.flow_id) for finding in verification.findings()]


def test_login_that_was_put_back_to_a_hold_is_found_once_who_held_it_has_stopped(
    database: Place,
) -> None:
    client, hold, flow_id = held(database, 3)
    row = flow_row(database, flow_id)
    client._run(hold.end)
    assert is_whole(database)
    database.clock.advance(60)

    rewind(database, flow_id, row)
    assert found(database) == [("illegal_transition", flow_id)]
    database.client().step(flow_id)

    assert actions(database, flow_id) == ["issue_code", "poll", "recover"]
    assert found(database) == [("clock_backwards", flow_id)]


def test_login_that_was_put_back_to_a_hold_is_found_by_digests_alone_if_who_held_it_was_killed(
    database: Place, tmp_path: Path
) -> None:
    (digests := tmp_path / "digests").mkdir()
    client, hold, flow_id = held(database, 3, CODE, PENDING, PENDING, SLOW_DOWN)
    other = Hold(client.start(OAUTH).id)  # by which the driver goes on
    for _ in range(2):
        due(database, client.get(other._flow_id))
        client._run(other.step)
    row = flow_row(database, flow_id)
    client._run(hold.step)
    assert actions(database, flow_id) == ["issue_code", "poll", "slow_down"]
    with opened(database) as store:
        take_digest(store, digests, signer(), begin=True)
    assert found(database, digests) == []

    rewind(database, flow_id, row)
    database.clock.advance(60)
    assert len(database.client().sweep().logins) == 2

    assert actions(database, flow_id) == ["issue_code", "poll", "recover"]
    assert is_whole(database)
    assert found(database, digests) == [("replaced_chain", flow_id)]


def test_login_is_whole_where_the_poll_that_held_it_was_pruned(
    database: Place, tmp_path: Path
) -> None:
    (digests := tmp_path / "digests").mkdir()
    _, _, flow_id = held(database, 3)
    database.clock.advance(60)
    database.client().step(flow_id)

    with opened(database) as store:
        take_digest(store, digests, key := signer(), begin=True)
        assert prune(store, digests, key, database.now + 1, waiting=True).waiting == 1

    assert actions(database, flow_id) == ["recover"]
    assert found(database, digests) == []


def test_recovery_by_a_clock_that_is_behind_is_no_finding(tmp_path: Path) -> None:
    place = sqlite(tmp_path)
    place.store.close()
    place.store = place.open(trail="summary")
    _, _, flow_id = held(place, 3)
    place.clock.advance(60)
    assert isinstance(place.clock, VirtualClock)
    place.clock.set_wall(-600)
    place.client().step(flow_id)
    assert place.sql.events(flow_id)[-1]["clock_ahead"] > 500
    assert [finding.kind for finding in findings(place)] == []


def test_tables_of_who_holds_logins_prove_nothing(database: Place) -> None:
    _, _, flow_id = held(database, 3)

    database.ask("DELETE FROM {drivers}")
    database.ask("INSERT INTO {drivers} (driver) VALUES ('nobody')")
    database.ask("INSERT INTO {taken} (driver, flow_id) VALUES ('nobody', ?)", flow_id)
    database.ask("UPDATE {flows} SET held_by = 'nobody' WHERE id = ?", flow_id)
    assert found(database) == []

    database.client().step(flow_id)  # which says who held it, by that column
    assert {*found(database)} == {("illegal_transition", flow_id)}
