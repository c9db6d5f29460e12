"""What every store promises of grants: memory, SQLite and a real PostgreSQL, sync and async."""

from __future__ import annotations

import itertools
import json
import traceback
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import errors
from deviceflow.audit.events import render, render_grant
from deviceflow.core import grant_codec, queries
from deviceflow.core.encryption import generate_key
from deviceflow.core.grant import Grant
from deviceflow.core.ports import GrantLease, Origin, Unreadable
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Handover
from deviceflow.core.uses import Use
from deviceflow.core.wire import Failure
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sql.rows import AsStored
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from deviceflow.trail.verify import Verification
from tests.integration.places import KINDS, OAUTH, Place, kept, placed, postgres, sqlite
from tests.stored import find, get, get_grant, load_grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.provider import Token

EVERY: Final = (*KINDS, *(f"async {kind}" for kind in KINDS))
CANARIES: Final = ("ACCESS-CANARY", "REFRESH-CANARY", "LATE-CANARY", "LINK-CANARY", "EXTRA-CANARY")
LIFE: Final = 1000.0


@pytest.fixture(params=EVERY)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Give a place of each kind, and each with its async store as well."""
    yield from placed(request)


@pytest.fixture(params=[kind for kind in EVERY if "memory" not in kind])
def database(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The same of those that outlive a process."""
    yield from placed(request)


def token(name: str = "ACCESS-CANARY", refresh: str = "REFRESH-CANARY", at: float = 0) -> Token:
    sent = {"access_token": name, "refresh_token": refresh, "expires_in": LIFE, "scope": "read"}
    read = OAUTH.read_token(answer(200, sent | {"account": "EXTRA-CANARY"}), at).token
    assert read is not None
    return read


RENEWED: Final = answer(
    200,
    {"access_token": "ACCESS-CANARY-2", "refresh_token": "REFRESH-CANARY-2", "expires_in": LIFE},
)
REFUSED: Final = answer(400, {"error": "invalid_grant"})
CUT: Final = Failure("connection", sent=True)

Moves = tuple["Callable[[Grant, float], Transition]", ...]

REFRESH: Final = Grant.refresh


def need(grant: Grant, now: float) -> Transition:
    return grant.raise_need("n1", Secret("LINK-CANARY"), now)


def log_in(grant: Grant, now: float) -> Transition:
    return grant.log_in(token(at=now), OAUTH, now, flow_id="f1")


def cut_off(grant: Grant, now: float) -> Transition:
    return grant.receive(CUT, now)


def come_late(grant: Grant, now: float) -> Transition:
    return grant.late_answer(token("LATE-CANARY", at=now), 1, now)


def notified(grant: Grant, now: float) -> Transition:
    assert grant.need is not None
    return grant.notified(grant.need, now)


STAGES: Final[dict[str, Moves]] = {
    "needed": (need,),
    "notified": (need, notified),
    "needed once more": (need, notified, Grant.end_need, need),
    "active": (log_in,),
    "refreshing": (log_in, REFRESH),
    "renewed": (log_in, REFRESH, lambda g, now: g.receive(RENEWED, now)),
    "in doubt": (log_in, REFRESH, cut_off),
    "with a late answer": (log_in, REFRESH, cut_off, REFRESH, come_late),
    "invalid": (log_in, Grant.invalidate),
    "lost": (log_in, REFRESH, lambda g, now: g.receive(REFUSED, now)),
    "revoked": (log_in, Grant.log_out),
    "needed again": (log_in, Grant.log_out, need),
}


def event_of(grant: Grant, moved: Transition, worker: str = "w1") -> dict[str, Any]:
    return render_grant(grant, moved, Origin(worker))


def commit(place: Place, grant: Grant, moved: Transition, **how: Any) -> bool:
    return bool(place.store.commit(grant, event_of(grant, moved), **how))


def brought(place: Place, stage: str, name: str = "nightly", grant_id: str = "g1") -> Grant:
    grant = Grant(grant_id, name, OAUTH, place.now, purpose="why")
    for move in STAGES[stage]:
        assert commit(place, grant, move(grant, place.now))
    return grant


def load(place: Place, name: str = "nightly") -> Grant:
    stored = load_grant(place.store, name, place.now)
    assert stored is not None
    return stored.record


def everything(grant: Grant) -> str:
    kept_ones = {kind: grant_codec.hidden_part(grant, kind) for kind in grant_codec.KINDS}
    said = [grant_codec.open_part(grant), kept_ones, grant.created_at, grant.name]
    return json.dumps([*said, grant.asked.to_dict(), grant.provider.to_dict()], sort_keys=True)


def opened(place: Place) -> Any:
    """Open the same database by its sync store."""
    if place.kind == "sqlite":
        return SQLiteStore(place.url.removeprefix("sqlite:///"), keys=place.keys)
    return PostgresStore(place.url, keys=place.keys)


def findings(place: Place) -> list[Any]:
    with opened(place) as store, store.snapshot() as seen:
        return list(Verification(*seen).findings())


# Keeping.


@pytest.mark.parametrize("stage", STAGES)
def test_grant_is_kept_whole_with_its_secrets(place: Place, stage: str) -> None:
    grant = brought(place, stage)

    found = load_grant(place.store, "nightly", place.now)
    by_id = place.store.load(Grant, "g1", place.now)

    assert found is not None
    assert by_id is not None
    assert everything(found.record) == everything(by_id.record) == everything(grant)
    assert (found.now, found.used_at, found.held) == (place.now, None, 0)


def test_grant_is_there_for_whoever_opens_the_store_next(database: Place) -> None:
    grant = brought(database, "with a late answer")

    with database.open() as store:
        stored = load_grant(store, "nightly", database.now)
    assert stored is not None
    assert everything(stored.record) == everything(grant)


def test_unknown_grants_are_none(place: Place) -> None:
    assert load_grant(place.store, "nightly", place.now) is None
    assert place.store.load(Grant, "g1", place.now) is None
    assert find(place.store, "nightly") is None
    assert place.store.page(Grant, place.now).found == []


def test_each_look_is_at_a_copy_of_ones_own(place: Place) -> None:
    grant = brought(place, "active")
    before = everything(grant)

    load(place).invalidate(place.now)
    grant.log_out(place.now)

    assert everything(load(place)) == before


def test_open_login_of_a_name_is_found_without_secrets(place: Place) -> None:
    kept(place, "authorized", name="nightly")

    found = find(place.store, "nightly")

    assert found is not None
    assert (found.id, found.handover, found.token) == ("f1", Handover.READY, None)
    assert find(place.store, "other") is None


def test_grants_are_listed_by_their_names(place: Place) -> None:
    for number, name in enumerate(("c", "a", "b")):
        brought(place, "active", name, f"g{number}")

    page = place.store.page(Grant, place.now)
    names = [one.name if isinstance(one, Unreadable) else one.record.name for one in page.found]
    assert names == ["a", "b", "c"]


def test_name_is_of_one_grant(place: Place) -> None:
    brought(place, "active")
    other = Grant("g2", "nightly", OAUTH, place.now)

    assert not commit(place, other, need(other, place.now))
    assert load(place).id == "g1"


@pytest.mark.parametrize("name", ["", "a\0b", "a\ud800b", "x" * 501])
def test_name_that_a_database_cannot_keep_is_refused(database: Place, name: str) -> None:
    grant = Grant("g1", name, OAUTH, database.now)

    with pytest.raises(errors.UsageError, match="grant's name"):
        commit(database, grant, need(grant, database.now))


# Moving.


def test_who_comes_second_moves_nothing(place: Place) -> None:
    first, second = brought(place, "active"), load(place)
    assert commit(place, first, first.invalidate(place.now))

    assert not place.store.commit(second, event_of(second, second.log_out(place.now), "w2"))

    assert load(place).state is GrantState.ACTIVE
    assert load(place).invalid


def test_commit_whose_answer_was_lost_is_done_once(database: Place) -> None:
    grant = brought(database, "active")
    event = event_of(grant, grant.invalidate(database.now))

    assert database.store.commit(grant, event)
    assert database.store.commit(grant, event)

    assert load(database).seq == 2
    assert not findings(database)


def test_lease_is_taken_with_the_refresh_and_keeps_others_out(place: Place) -> None:
    grant, other = brought(place, "active"), load(place)
    lease = GrantLease("w1", 14.0, place.now)

    assert commit(place, grant, grant.refresh(place.now), lease=lease)

    stored = load_grant(place.store, "nightly", place.now)
    assert stored is not None
    assert (stored.held, stored.owner) == (14.0, "w1")
    late = GrantLease("w2", 14.0, place.now)
    event = event_of(other, other.refresh(place.now), "w2")
    assert not place.store.commit(other, event, lease=late)
    recovered = stored.record.recover(place.now, "w1")
    again = event_of(stored.record, recovered, "w2")
    assert place.store.commit(stored.record, again)  # it is for the client not to do so early
    place.clock.advance(14)
    after = load_grant(place.store, "nightly", place.now)
    assert after is not None
    assert (after.held, after.owner) == (0, "w1")


def test_lease_of_others_is_not_taken_before_it_ends(place: Place) -> None:
    grant = brought(place, "active")
    assert commit(place, grant, grant.refresh(place.now), lease=GrantLease("w1", 14.0, place.now))
    assert commit(place, grant, cut_off(grant, place.now))  # and keeps the lease
    again = load(place)
    moved = again.refresh(place.now)
    event = event_of(again, moved, "w2")

    assert not place.store.commit(again, event, lease=GrantLease("w2", 14.0, place.now))
    place.clock.advance(14)
    again = load(place)
    event = event_of(again, again.refresh(place.now), "w2")
    assert place.store.commit(again, event, lease=GrantLease("w2", 14.0, place.now))


def test_lease_is_given_back_by_its_owner_only(place: Place) -> None:
    grant = brought(place, "active")
    assert commit(place, grant, grant.refresh(place.now), lease=GrantLease("w1", 14.0, place.now))
    assert commit(place, grant, grant.receive(RENEWED, place.now), release="w2")
    held = load_grant(place.store, "nightly", place.now)
    assert held is not None
    assert held.held == 14.0

    assert commit(place, grant, grant.invalidate(place.now), release="w1")

    free = load_grant(place.store, "nightly", place.now)
    assert free is not None
    assert (free.held, free.owner) == (0, None)


# A login's token becomes the grant's.


def adopted(place: Place, flow: Flow, grant: Grant) -> tuple[dict[str, Any], dict[str, Any]]:
    assert flow.token is not None
    given = grant.log_in(flow.token, flow.provider, place.now, flow_id=flow.id)
    handed = flow.acknowledge(place.now)
    return event_of(grant, given), render(flow, handed, Origin("w1"))


def test_token_passes_from_the_login_to_the_grant_in_one_transaction(place: Place) -> None:
    kept(place, "authorized", name="nightly")
    flow, grant = get(place.store, "f1"), Grant("g1", "nightly", OAUTH, place.now)
    event, flow_event = adopted(place, flow, grant)

    assert place.store.commit(grant, event, flow=flow, flow_event=flow_event)

    assert get(place.store, "f1").token is None
    assert find(place.store, "nightly") is None
    held = load(place).token
    assert held is not None
    assert held.access_token == Secret("TOKEN-CANARY")
    if place.kind != "memory":
        assert not findings(place)


@pytest.mark.parametrize("who", ["login", "grant"])
def test_token_stays_where_it_is_if_others_went_on(place: Place, who: str) -> None:
    kept(place, "authorized", name="nightly")
    brought(place, "needed")
    flow, grant = get(place.store, "f1"), load(place)
    event, flow_event = adopted(place, flow, grant)
    if who == "login":
        other = get(place.store, "f1")
        assert place.store.commit(other, render(other, other.collect(place.now), Origin("w2")))
    else:
        ended = load(place)
        assert place.store.commit(ended, event_of(ended, ended.log_out(place.now), "w2"))

    assert not place.store.commit(grant, event, flow=flow, flow_event=flow_event)

    assert get(place.store, "f1").token is not None
    assert load(place).token is None
    if place.kind != "memory":
        assert not findings(place)


# Sweeps.


def due(place: Place, unused: float = 5000, limit: int = 10) -> list[str]:
    found = place.store.select(queries.due_grants(unused, limit), place.now)
    assert {server for _, server in found} <= {OAUTH.server}
    return [name for name, _ in found]


def test_grants_in_use_are_due_before_they_end(place: Place) -> None:
    uses = (Use(place.now, "alice", "build-17", "celery", "report", "7"), Use(1.5, "bob"))
    for number, name in enumerate(("used", "unused", "leased")):
        brought(place, "active", name, f"g{number}")
        if name != "unused":
            place.store.use(f"g{number}", place.now, uses)
    assert due(place) == []
    place.clock.advance(760)
    leased = load(place, "leased")
    taken = GrantLease("w1", 14.0, place.now)
    assert commit(place, leased, leased.refresh(place.now), lease=taken)

    assert due(place) == ["used"]
    place.clock.advance(20)
    assert sorted(due(place)) == ["leased", "used"]
    assert len(due(place, limit=1)) == 1
    assert due(place, 100) == []  # they were last used long ago
    place.store.put_off(Grant, "used", place.now)
    assert due(place) == ["leased"]
    used = load_grant(place.store, "used", place.now)
    assert used is not None
    assert used.used_at is not None
    assert abs(place.now - 780 - used.used_at) < 0.01
    assert used.uses == uses


def test_ended_grant_is_due_until_its_tokens_are_revoked(place: Place) -> None:
    grant = brought(place, "revoked")
    assert due(place) == ["nightly"]

    for _ in range(2):
        assert commit(place, grant, grant.receive_revocation(answer(200, ""), place.now))

    assert due(place) == []


def test_grant_that_is_put_off_keeps_nobody_from_being_told_of_others(place: Place) -> None:
    for number, name in enumerate(("damaged", "fine")):
        grant = Grant(f"g{number}", name, OAUTH, place.now)
        needed = grant.raise_need(f"n{number}", Secret(f"link {number}"), place.now)
        assert commit(place, grant, needed)
    assert sorted(place.store.select(queries.due_notices(10), place.now)) == ["damaged", "fine"]

    place.store.put_off(Grant, "damaged", place.now)

    assert place.store.select(queries.due_notices(1), place.now) == ["fine"]
    place.clock.advance(3601)
    assert sorted(place.store.select(queries.due_notices(10), place.now)) == ["damaged", "fine"]


# Needs.


def test_grant_is_found_by_the_link_of_its_last_need(place: Place) -> None:
    grant = brought(place, "needed once more")
    found = place.store.load(Grant, Secret("LINK-CANARY"), place.now, by="link")
    assert found is not None
    assert (found.record.id, found.record.need) == ("g1", grant.need)

    assert commit(place, grant, log_in(grant, place.now))
    ended = place.store.load(Grant, Secret("LINK-CANARY"), place.now, by="link")
    assert ended is not None
    assert ended.record.open_need is None

    assert commit(place, grant, grant.log_out(place.now))
    assert commit(place, grant, grant.raise_need("n2", Secret("LINK-2"), place.now))
    assert place.store.load(Grant, Secret("LINK-CANARY"), place.now, by="link") is None
    for link in ("", "LINK", "\ud800", "\0"):
        assert place.store.load(Grant, Secret(link), place.now, by="link") is None


def test_what_is_to_be_told_is_due_until_somebody_claims_it(place: Place) -> None:
    grant = brought(place, "needed")
    brought(place, "active", "other", "g2")
    assert place.store.select(queries.due_notices(10), place.now) == ["nightly"]

    assert place.store.claim_notice("g1", place.now, 100.0)

    assert not place.store.claim_notice("g1", place.now, 100.0)
    assert not place.store.claim_notice("g2", place.now, 100.0)
    assert not place.store.claim_notice("nobody", place.now, 100.0)
    assert place.store.select(queries.due_notices(10), place.now) == []
    place.clock.advance(101)  # whoever claimed it is dead
    assert place.store.select(queries.due_notices(10), place.now) == ["nightly"]
    assert place.store.claim_notice("g1", place.now, 100.0)
    assert commit(place, grant, notified(grant, place.now))
    assert place.store.select(queries.due_notices(10), place.now) == []
    place.clock.advance(86401)
    assert place.store.select(queries.due_notices(10), place.now) == ["nightly"]
    place.store.put_off(Grant, "nightly", place.now)
    assert place.store.select(queries.due_notices(10), place.now) == []
    assert commit(place, grant, log_in(grant, place.now))
    assert place.store.select(queries.due_notices(10), place.now) == ["nightly"]
    assert commit(place, grant, notified(grant, place.now))
    place.clock.advance(86401)
    assert place.store.select(queries.due_notices(10), place.now) == []


# On record, and against whoever can write to the database.


@pytest.mark.parametrize("stage", STAGES)
def test_events_of_a_grant_are_a_chain_that_verifies(database: Place, stage: str) -> None:
    grant = brought(database, stage)
    events = database.store.events("g1")  # type: ignore[attr-defined]

    assert [event["seq"] for event in events] == list(range(1, grant.seq + 1))
    assert {event["flow_id"] for event in events} == {"g1"}
    assert events[-1]["to"] == grant.state
    assert events[-1]["generation"] == grant.generation
    assert findings(database) == []
    for one, following in itertools.pairwise(events):
        if following["previous_fingerprint"] is not None:
            assert following["previous_fingerprint"] == one["token_fingerprint"]


AUTHENTICATED: Final = {
    "created_at": "created_at + 1",
    "asked": "replace(asked, 'robot', 'other')",
    "provider": "replace(provider, 'as.example.com/token', 'evil.example.com/token')",
    "access": "'x'",
    "refresh": "NULL",
    "aside": "refresh",
    "link_hash": "'x'",
    "state": "'lost'",
    "moved_at": "moved_at + 1",
    "progress": "replace(progress, '\"invalid\":false', '\"invalid\":true')",
    "head": "'0'",
    "mac": "'0'",
}


@pytest.mark.parametrize(("column", "value"), AUTHENTICATED.items(), ids=AUTHENTICATED)
def test_row_that_was_edited_is_refused_and_found(database: Place, column: str, value: str) -> None:
    brought(database, "active")
    database.ask(f"UPDATE {{grants}} SET {column} = {value}")

    with pytest.raises(errors.StoreError):
        load(database)

    assert {finding.flow_id for finding in findings(database)} == {"g1"}
    (found,) = database.store.page(Grant, database.now).found
    assert isinstance(found, Unreadable)
    assert found.name == "nightly"


def test_secrets_of_one_grant_do_not_open_in_another_nor_those_of_an_older_generation(
    database: Place,
) -> None:
    grant = brought(database, "active")
    columns = "access, refresh"
    old = database.ask(f"SELECT {columns} FROM {{grants}}")[0]
    assert commit(database, grant, grant.refresh(database.now))
    assert commit(database, grant, grant.receive(RENEWED, database.now))
    current = load(database)
    with opened(database) as store:
        rows = store.inner._rows
        for kind, sealed in zip(("access", "refresh"), old, strict=True):
            forged = current.copy()
            forged.as_stored = AsStored(current.name, {**current.as_stored.columns, kind: sealed})
            digest, row = rows.columns(forged, seal=False)
            rows.sign(row, digest, forged.head)
            values = row.reveal()
            changed = [values[name] for name in ("access", "refresh", "mac")]
            database.ask("UPDATE {grants} SET access = ?, refresh = ?, mac = ?", *changed)
            with pytest.raises(errors.SealError, match="belongs to another"):
                load(database)


def test_row_of_before_the_last_refresh_is_found(database: Place) -> None:
    grant = brought(database, "active")
    columns = "access, refresh, seq, state, moved_at, progress, head, mac"
    (old,) = database.ask(f"SELECT {columns} FROM {{grants}}")
    assert commit(database, grant, grant.refresh(database.now))
    assert commit(database, grant, grant.receive(RENEWED, database.now))
    places = ", ".join(f"{name} = ?" for name in columns.split(", "))
    database.ask(f"UPDATE {{grants}} SET {places}", *old)

    (finding,) = findings(database)
    assert finding.kind == "wrong_state"
    assert finding.message.startswith("the row was set back to what it was after event")
    rewound = get_grant(database.store, "nightly", database.now)
    with pytest.raises(errors.StoreError) as told:
        commit(database, rewound, rewound.refresh(database.now))
    assert "was set back to an earlier state" in str(told.value)
    assert "deviceflow audit verify" in (told.value.hint or "")


def test_needed_grant_that_was_removed_is_found_and_a_purge_says_what_it_does(
    database: Place,
) -> None:
    grant = brought(database, "needed again")
    assert grant.open_need is not None
    database.clock.advance(100)
    client = database.client()
    assert client.purge(flows_after=50)[3:] == (0, 1)
    assert findings(database) == []
    database.clock.advance(100)
    assert client.purge(flows_after=50)[3:] == (1, 0)
    assert findings(database) == []

    brought(database, "needed again", "other", "g2")
    database.ask("DELETE FROM {grants}")
    (finding,) = findings(database)
    assert (finding.kind, finding.flow_id) == ("wrong_state", "g2")
    assert "while a person has to log in for it" in finding.message


def test_grant_that_was_removed_is_found(database: Place) -> None:
    brought(database, "active")
    database.ask("DELETE FROM {grants}")

    assert [finding.kind for finding in findings(database)] == ["wrong_state"]


def test_nothing_of_a_grant_is_kept_in_clear(database: Place) -> None:
    brought(database, "with a late answer")
    brought(database, "needed again", "other", "g2")
    rows = [*database.ask("SELECT * FROM {grants}"), *database.ask("SELECT * FROM {audit}")]

    shown = repr(rows)
    assert "nightly" in shown
    assert not [canary for canary in CANARIES if canary in shown]


def test_errors_and_reprs_show_no_secret(
    database: Place,
) -> None:
    grant = brought(database, "with a late answer")
    database.ask("UPDATE {grants} SET mac = '0'")

    with pytest.raises(errors.StoreError) as caught:
        load(database)

    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    told.stack[:] = [frame for frame in told.stack if "/tests/" not in frame.filename]
    shown = f"{''.join(told.format())} {grant!r} {grant.as_stored!r}"
    assert not [canary for canary in CANARIES if canary in shown]


def test_grants_are_resealed_with_another_key(sync_database: Place) -> None:
    place = sync_database
    grant = brought(place, "with a late answer")
    before = everything(grant)
    place.keys = [generate_key(), *place.keys]

    with place.open() as store:
        resealed = store.reseal()
    assert (resealed.flows, resealed.problems) == (1, [])
    place.keys = place.keys[:1]

    with place.open() as store:
        stored = load_grant(store, "nightly", place.now)
        assert stored is not None
        again = json.loads(everything(stored.record))
        assert again[1] == json.loads(before)[1]
        assert store.events("g1")[-1]["action"] == "reseal"
    # The store itself goes by the real time; the event says by how much that is earlier.
    assert findings(place) == []


@pytest.fixture(params=["sqlite", "postgres"])
def sync_database(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from placed(request)


# Durable, whatever the store's setting.


def test_sqlite_syncs_each_commit_of_a_grant_and_no_other(
    tmp_path: Any,
) -> None:
    place = sqlite(tmp_path)
    with place.open(synchronous="NORMAL") as store:
        said: list[str] = []
        store._connection.connected().set_trace_callback(said.append)
        place.store = store
        grant = brought(place, "active")
        kept(place, "waiting")
        assert commit(place, grant, grant.invalidate(place.now))
    place.close()

    settings, synced = "NORMAL", []
    for statement in said:
        if statement.startswith("PRAGMA synchronous ="):
            settings = statement.split()[-1]
        elif statement.startswith(("INSERT INTO grants", "UPDATE grants", "UPDATE flows")):
            synced.append((statement.split()[-1 if "INTO" in statement else 1], settings))
    tables = {table if table in ("flows", "grants") else "grants" for table, _ in synced}
    assert tables == {"flows", "grants"}
    for table, setting in synced:
        assert setting == ("NORMAL" if table == "flows" else "FULL")


@pytest.mark.parametrize("is_async", [False, True])
def test_postgres_syncs_each_commit_of_a_grant(
    postgres_server: Any, postgres_url: str, is_async: bool
) -> None:
    place = postgres(postgres_server, postgres_url, is_async=is_async)
    with psycopg.connect(postgres_url, autocommit=True) as database:
        database.execute(
            "CREATE TABLE public.said (name TEXT, setting TEXT);"
            "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO public.said"
            " VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); RETURN NULL; END $$;"
            "CREATE TRIGGER note AFTER INSERT OR UPDATE ON deviceflow.grants"
            " FOR EACH ROW EXECUTE FUNCTION public.note();"
            "CREATE TRIGGER note AFTER UPDATE ON deviceflow.flows"
            " FOR EACH ROW EXECUTE FUNCTION public.note()"
        )
        name = database.info.dbname
        database.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off'.encode())
    place.store.close()
    brought(place, "active")
    kept(place, "waiting")
    place.close()

    with psycopg.connect(postgres_url) as database:
        found = set(database.execute("SELECT name, setting FROM public.said").fetchall())
    assert found == {("grants", "on"), ("flows", "off")}


# Long after the end.


def test_ended_grants_are_found_by_their_age_and_deleted_as_they_were_read(place: Place) -> None:
    stages = ("active", "lost", "revoked", "needed again", "in doubt")
    for number, stage in enumerate(stages):
        brought(place, stage, stage, f"g{number}")
    ended = ["lost", "needed again", "revoked"]

    assert place.store.select(queries.ended_grants(place.now - 1), place.now - 1) == []
    assert place.store.select(queries.ended_grants(place.now), place.now) == ended
    assert place.store.select(queries.ended_grants(place.now, "lost"), place.now) == ended[1:]
    lost = load(place, "lost")
    assert [place.store.delete([lost]) for _ in range(2)] == [1, 0]
    stale = load(place, "needed again")
    moved = load(place, "needed again")
    assert commit(place, moved, log_in(moved, place.now))
    assert place.store.delete([stale]) == 0

    assert load_grant(place.store, "lost", place.now) is None
    assert load(place, "needed again").state is GrantState.ACTIVE
    assert place.store.select(queries.ended_grants(place.now), place.now) == ["revoked"]
    if place.kind != "memory":
        assert not findings(place)
    brought(place, "active", "lost", "another")  # the name is free
    assert load(place, "lost").id == "another"


def test_deleted_row_of_a_grant_that_gave_tokens_is_found(database: Place) -> None:
    brought(database, "active")
    assert database.store.delete([load(database)])

    [finding] = findings(database)

    assert finding.kind == "wrong_state"


def test_purge_ends_where_the_name_of_a_grant_is_not_text(tmp_path: Path) -> None:
    place = sqlite(tmp_path)
    for number in range(2):
        brought(place, "lost", f"lost-{number}", f"g{number}")
    place.ask("UPDATE {grants} SET name = x'ff' WHERE id = 'g1'")
    place.clock.advance(400 * 86_400)

    purged = place.client().purge()

    assert purged.grants == 1
    assert place.ask("SELECT id FROM {grants}") == [("g1",)]
    place.close()
