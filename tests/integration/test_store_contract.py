"""What every store promises, asked of each: memory, SQLite, and a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from deviceflow import OAuth, errors, export
from deviceflow.audit.events import STORE, render, schema
from deviceflow.core import queries
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Claim, LeaseHeld, Moment, Origin
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.text import PersonText, trusted
from deviceflow.stores.sql import store as sql_store
from deviceflow.stores.sql.connection import Result, Transaction
from tests.brief import brief
from tests.due import claim_due
from tests.integration.places import (
    CODE,
    DENIED,
    EXPIRED,
    GRANTED,
    KINDS,
    LOST,
    OAUTH,
    PENDING,
    REVOKED,
    SECRETS,
    SLOW_DOWN,
    STAGES,
    UNKNOWN_CODE,
    Place,
    coded,
    commit,
    everything,
    hidden,
    kept,
    new,
    placed,
    second_token,
)
from tests.integration.racing import started
from tests.stored import delete_ended, get
from tests.stored import flows as all_flows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Transition
    from deviceflow.core.ports import Decide

    Events = Callable[[], list[dict[str, Any]]]

THREADS: Final = 16
ODD: Final = {
    "NUL": "a\0b",
    "half a character": "a\ud800b",
    "an emoji": "\U0001f511 schlüssel",
    "escapes": "a\x1b[31m\r\n\u202eb",
    "percent and colon": "%s %(id)s :id ? {flows} '; DROP TABLE flows; --",
    "long": "x" * 10_000,
}
odd = pytest.mark.parametrize("text", ODD.values(), ids=ODD)


EVERY: Final = (*KINDS, *(f"async {kind}" for kind in KINDS))


MANY_CASES: Final = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask each kind of store, and each with its async store as well.

    What is asked in many cases is not asked of the async store in PostgreSQL: it has the rules and
    the SQL of the others, and a database for each case takes its time.
    """
    marks = metafunc.definition.iter_markers("parametrize")
    many = any(len(mark.args[1]) >= MANY_CASES for mark in marks)
    kinds = [kind for kind in EVERY if not (many and kind == "async postgres")]
    if "place" in metafunc.fixturenames:
        metafunc.parametrize("place", kinds, indirect=True)
    if "database" in metafunc.fixturenames:
        kinds = [kind for kind in kinds if not kind.endswith("memory")]
        metafunc.parametrize("database", kinds, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from placed(request)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from placed(request)


class Dying(BaseException):
    """What ends a process, and nobody handles; but for Ctrl-C, which would end the loop as well."""


class Sent:
    """What a database answers, of which a test says what it is."""

    def __init__(self, *rows: tuple[Any, ...], changed: int = 0) -> None:
        self.rows, self.rowcount = [*rows], changed

    def fetchone(self) -> Any:
        return self.rows.pop(0) if self.rows else None

    def fetchall(self) -> list[Any]:
        return self.rows


def at_once(work: Callable[[int], Any], times: int = THREADS) -> list[Any]:
    barrier = threading.Barrier(times)

    def do(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(do, range(times)))


def claim(place: Place, owner: str = "w1", seconds: float = 20.0, flow_id: str = "f1") -> Claim:
    taken = place.store.claim(flow_id, owner, place.moment, seconds)
    assert isinstance(taken, Claim)
    return taken


def test_lease_by_another_clock_is_restarted(database: Place) -> None:
    """By one of another machine, or of another start of this one; or by one that was set back."""
    if database.kind == "postgres":  # whose clock is all processes' clock
        database.store.add(new(at=database.now))
        claim(database)
        database.ask(
            "UPDATE {flows} SET leased_at = leased_at + 5000, lease_until = lease_until + 5000"
        )
    else:
        database.store.add(new(at=database.now))
        there = Moment(database.now - 1e6, 7.0, "elsewhere")
        assert isinstance(database.store.claim("f1", "w1", there, 20.0), Claim)
    seen = held(database)
    assert seen.seconds == pytest.approx(20)
    assert seen.since is not None
    assert database.store.select(queries.foreign_leases(), database.moment) == []  # it is not due
    database.ask("UPDATE {flows} SET wake_at = 0")
    assert database.store.select(queries.foreign_leases(), database.moment) == [("f1", seen.since)]
    assert due(database, "w2") is None
    database.clock.advance(100)

    database.store.restart_lease("f1", seen.since - 1, database.moment)
    assert held(database).since == seen.since
    database.store.restart_lease("f1", seen.since, database.moment)

    assert database.store.select(queries.foreign_leases(), database.moment) == []
    database.clock.advance(19)
    restarted = held(database)
    assert restarted.since is None
    assert 0 < restarted.seconds <= 1.1
    database.store.restart_lease("f1", seen.since, database.moment)
    database.clock.advance(1.1)
    assert due(database, "w2") == "f1"


def held(place: Place, owner: str = "w2", flow_id: str = "f1") -> LeaseHeld:
    refused = place.store.claim(flow_id, owner, place.moment, 20)
    assert isinstance(refused, LeaseHeld)
    return refused


def due(place: Place, owner: str = "w1") -> str | None:
    found = claim_due(place.store, owner, place.moment, 20)
    return found and found.flow.id


# Keeping.


@pytest.mark.parametrize("name", STAGES)
def test_flow_is_kept_whole_with_its_secrets_and_can_be_had_without(
    place: Place, name: str
) -> None:
    flow = kept(place, name)

    assert everything(get(place.store, "f1")) == everything(flow)
    bare = get(place.store, "f1", secrets=False)
    assert export.to_dict(bare) == export.to_dict(flow)
    assert hidden(bare)


@pytest.mark.parametrize("name", STAGES)
def test_flow_of_any_age_can_be_added(place: Place, name: str) -> None:
    flow = new(at=place.now)
    for _ in STAGES[name](flow, place.now):
        pass

    assert place.store.add(flow) is flow

    assert everything(get(place.store, "f1")) == everything(flow)


@pytest.mark.parametrize("name", STAGES)
def test_flow_is_there_for_whoever_opens_the_store_next(database: Place, name: str) -> None:
    flow = kept(database, name)
    database.store.close()

    assert everything(get(database.open(), "f1")) == everything(flow)
    assert everything(get(database.store, "f1")) == everything(flow)


def test_each_look_is_at_a_copy_of_ones_own(place: Place) -> None:
    flow = kept(place, "waiting")
    before = everything(flow)

    for copy in (get(place.store, "f1"), claim(place).flow, held(place).flow, flow):
        copy.cancel(place.now)
    next(all_flows(place.store)).cancel(place.now)

    assert everything(get(place.store, "f1")) == before


@pytest.mark.parametrize("flow_id", ["f9", "", *ODD.values()], ids=ascii)
def test_unknown_flow_is_an_error_that_names_it(place: Place, flow_id: str) -> None:
    kept(place, "waiting")

    for use in (
        partial(get, place.store),
        lambda name: place.store.claim(name, "w1", place.moment, 20),
    ):
        with pytest.raises(errors.UnknownLoginError) as caught:
            use(flow_id)
        assert caught.value.flow_id == flow_id


def test_flow_does_not_take_the_place_of_another_of_its_id(place: Place) -> None:
    flow = kept(place, "waiting")

    with pytest.raises(errors.UsageError, match="in the store already") as caught:
        place.store.add(new(at=place.now))

    assert caught.value.flow_id == "f1"
    assert everything(get(place.store, "f1")) == everything(flow)


@pytest.mark.parametrize("name", [None, "nightly"])
def test_flow_whose_adding_was_not_answered_is_added_once(
    database: Place, name: str | None
) -> None:
    flow = new(name=name)

    assert database.store.add(flow) is flow
    assert database.store.add(flow) is flow

    assert [one.id for one in all_flows(database.store)] == ["f1"]


def test_store_says_whether_it_persists(place: Place) -> None:
    assert place.store.durable is (place.kind != "memory")


def test_closed_store_is_opened_again_where_it_is_needed(place: Place) -> None:
    flow = kept(place, "waiting")
    place.store.close()
    place.store.close()

    assert everything(get(place.store, "f1")) == everything(flow)


def test_time_is_the_places_own(place: Place) -> None:
    before = place.now
    place.clock.advance(1000)

    assert place.store.now(place.now) == pytest.approx(before + 1000, abs=1e-4)
    kept(place, "waiting")
    assert claim(place).now == pytest.approx(before + 1000, abs=1e-4)


def test_postgres_goes_by_its_own_clock_whatever_its_clients_say(place: Place) -> None:
    kept(place, "waiting")
    expected = place.now if place.kind == "postgres" else 5.0

    assert place.store.now(5.0) == pytest.approx(expected, abs=1e-4)


# Names.


def test_open_login_of_the_name_is_returned_instead(place: Place) -> None:
    first = kept(place, "waiting", name="nightly")

    again = place.store.add(new("f2", "nightly"))

    assert everything(again) == everything(first)
    assert again is not first
    assert [flow.id for flow in all_flows(place.store)] == ["f1"]


def test_names_do_not_mix(place: Place) -> None:
    keys = ["a", "b", "", None, None, "A", "a ", "ä", "a\u0308"]

    flows = [place.store.add(new(f"f{number}", key)) for number, key in enumerate(keys)]

    assert [flow.id for flow in flows] == [f"f{number}" for number in range(len(keys))]
    assert place.store.add(new("f9", "")).id == "f2"


@pytest.mark.parametrize(
    "name",
    ["acknowledged", "purged", "denied", "expired", "unknown", "cancelled"],
)
def test_name_is_free_once_its_flow_lives_no_more(place: Place, name: str) -> None:
    kept(place, name, name="nightly")

    assert place.store.add(new("f2", "nightly")).id == "f2"
    assert place.store.add(new("f3", "nightly")).id == "f2"
    assert get(place.store, "f1").name == "nightly"


@pytest.mark.parametrize(
    "name", ["created", "polling", "in doubt", "recovered", "authorized", "collected"]
)
def test_name_is_kept_until_the_token_is_acknowledged(place: Place, name: str) -> None:
    kept(place, name, name="nightly")

    assert place.store.add(new("f2", "nightly")).id == "f1"


@pytest.mark.parametrize("taken_meanwhile", [True, False])
def test_token_that_comes_late_does_not_take_the_name_back(
    place: Place, taken_meanwhile: bool
) -> None:
    flow = kept(place, "expired", name="nightly")
    if taken_meanwhile:
        place.store.add(new("f2", "nightly"))

    late = second_token(flow, place.now)
    assert (late.action, flow.open) == ("late_token", True)
    assert commit(place.store, flow, late)

    assert get(place.store, "f1").state is State.AUTHORIZED
    assert place.store.add(new("f3", "nightly")).id == ("f2" if taken_meanwhile else "f3")


def test_name_whose_flow_ends_at_that_very_moment_is_taken(
    database: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It clashes, and then there is none of that name."""
    flow = new("f2", "nightly")
    run, asked = Transaction.run, list[str]()

    async def first_clashes(self: Transaction, name: str, *values: Any) -> Result:
        asked.append(name)
        return Result([], 0) if len(asked) == 1 else await run(self, name, *values)

    monkeypatch.setattr(Transaction, "run", first_clashes)

    assert database.sql.add(flow) is flow
    assert asked[:4] == ["flows.add", "flows.get_by_id", "flows.get_by_name", "flows.add"]


def test_one_of_many_threads_makes_the_flow_of_a_name(place: Place) -> None:
    ids = at_once(lambda number: place.store.add(new(f"f{number}", "nightly")).id)

    assert len(set(ids)) == 1
    assert [flow.id for flow in all_flows(place.store)] == ids[:1]


CHILD: Final = """
import sys
from deviceflow import open_store
from tests.brief import brief
from tests.integration.places import new
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(store.add(new(sys.argv[2], "nightly")).id)
"""


def test_one_of_many_processes_makes_the_flow_of_a_name(database: Place) -> None:
    children = started(
        CHILD,
        ([database.url, f"f{number}"] for number in range(6)),
        DEVICEFLOW_KEYS=database.keys[0].reveal(),
    )

    ids = [child.communicate(timeout=60)[0].strip() for child in children]

    assert len(set(ids)) == 1
    assert [flow.id for flow in all_flows(database.store)] == ids[:1]


# Committing.


def test_commit_on_what_others_changed_is_refused(place: Place) -> None:
    mine = kept(place, "waiting")
    theirs = get(place.store, "f1")
    assert commit(place.store, theirs, theirs.poll(place.now, 10), "w2")

    assert not commit(place.store, mine, mine.cancel(place.now))

    assert everything(get(place.store, "f1")) == everything(theirs)


@pytest.mark.parametrize("step", [Flow.cancel, lambda flow, now: flow.poll(now, 10)])
def test_commit_whose_answer_was_lost_counts_as_done_on_a_database(
    place: Place, step: Callable[[Flow, float], Transition]
) -> None:
    flow = kept(place, "waiting")
    moved = step(flow, place.now)
    assert commit(place.store, flow, moved, "w1")

    # In memory no answer is lost, so the same again is another one who went on.
    assert commit(place.store, flow, moved, "w1") is (place.kind != "memory")
    assert not commit(place.store, flow, moved, "w2")

    # And it does so whatever others made of it since.
    later = get(place.store, "f1")
    if not later.state.ended:
        assert commit(place.store, later, later.cancel(place.now), "w3")
        assert commit(place.store, flow, moved, "w1") is (place.kind != "memory")
    assert everything(get(place.store, "f1")) == everything(later)


def test_commit_of_a_flow_that_is_not_kept_is_refused(place: Place) -> None:
    flow = new()

    assert not commit(place.store, flow, next(coded(flow, place.now)))

    assert list(all_flows(place.store)) == []


def test_one_of_many_threads_commits(place: Place) -> None:
    kept(place, "waiting")

    flows = [get(place.store, "f1") for _ in range(THREADS)]
    moves = [flow.poll(place.now, 10) for flow in flows]
    done = at_once(lambda n: commit(place.store, flows[n], moves[n], f"w{n}"))

    assert sum(done) == 1
    assert get(place.store, "f1").attempt == 1


@pytest.mark.parametrize("name", STAGES)
def test_row_and_history_go_together(database: Place, name: str) -> None:
    flow = kept(database, name)

    history = database.sql.events("f1")

    assert [event["seq"] for event in history] == list(range(1, flow.seq + 1))
    assert [event["from"] for event in history] == ["init", *[e["to"] for e in history]][:-1]
    assert (history[-1]["to"] if history else "init") == get(database.store, "f1").state


@pytest.mark.parametrize("step", ["poll", "cancel"])
def test_both_are_kept_or_none(database: Place, step: str) -> None:
    flow = kept(database, "waiting")
    before = everything(flow)
    moved = flow.poll(database.now, 10) if step == "poll" else flow.cancel(database.now)
    spoilt = render(flow, moved, Origin("w1")) | {"time": None}  # which the table does not take

    with pytest.raises(errors.StoreError):
        database.store.commit(flow, spoilt)

    assert everything(get(database.store, "f1")) == before
    assert len(database.sql.events("f1")) == 1
    assert commit(database.store, flow, moved)


def test_history_does_not_fork(database: Place) -> None:
    """A row of the history that is there already is not written over."""
    flow = kept(database, "waiting")
    database.ask("UPDATE {flows} SET seq = 0")
    flow.as_stored.seq = 0  # as if it had been read from that row

    with pytest.raises(errors.StoreError):
        commit(database.store, flow, flow.cancel(database.now)._replace(seq=1))

    assert [event["action"] for event in database.sql.events("f1")] == ["issue_code"]


def test_history_of_a_flow_that_is_unknown_is_empty(database: Place) -> None:
    assert database.sql.events("f9") == []
    assert database.sql.events("a\0\ud800b") == []


def test_history_outlives_the_flow(database: Place) -> None:
    flow = kept(database, "cancelled")
    assert delete_ended(database.store, database.now) == 1

    assert [event["action"] for event in database.sql.events(flow.id)] == ["issue_code", "cancel"]


# Leases.


@pytest.mark.parametrize("name", ["created", "waiting", "polling", "authorized", "denied"])
def test_lease_is_taken_and_the_flow_comes_whole(place: Place, name: str) -> None:
    flow = kept(place, name)

    taken = claim(place)

    assert everything(taken.flow) == everything(flow)
    assert taken.now == pytest.approx(place.now, abs=1e-4)
    assert taken.previous_owner is None


@pytest.mark.parametrize("name", ["waiting", "authorized", "with a token too many"])
def test_lease_that_is_held_says_for_how_long_and_shows_no_secret(place: Place, name: str) -> None:
    flow = kept(place, name)
    claim(place, "w1", 20)
    place.clock.advance(15)

    refused = held(place)

    assert refused.seconds == pytest.approx(5, abs=1e-4)
    assert export.to_dict(refused.flow) == export.to_dict(flow)
    assert hidden(refused.flow)


def test_lease_that_ran_out_goes_to_the_next_and_says_who_left_it(place: Place) -> None:
    kept(place, "polling")
    claim(place, "w1")
    place.clock.advance(20.001)

    assert claim(place, "w2").previous_owner == "w1"

    assert isinstance(held(place, "w1"), LeaseHeld)


def test_lease_given_back_is_free_at_once_and_left_by_nobody(place: Place) -> None:
    kept(place, "waiting")
    claim(place, "w1")

    place.store.release("f1", "w1")

    assert claim(place, "w2").previous_owner is None


def test_nobody_gives_back_the_lease_of_another(place: Place) -> None:
    kept(place, "waiting")
    claim(place, "w1")
    place.clock.advance(20.001)
    claim(place, "w2")

    for flow_id, owner in [("f1", "w1"), ("f1", "w9"), ("f9", "w2"), ("f9", "w9")]:
        place.store.release(flow_id, owner)

    held(place, "w3")


def test_flow_that_is_put_off_is_found_by_no_sweep_for_longer_each_time(place: Place) -> None:
    flow = kept(place, "waiting")
    for minutes in [1, 2, 4, 8, 16, 32, 64, 64]:
        claim(place, "w1")
        for flow_id in ["f1", "f9"]:
            place.store.put_off(Flow, flow_id, place.moment, "w1")

        place.clock.advance(minutes * 60 - 0.1)
        assert due(place) is None
        assert claim(place, "w2").previous_owner is None  # who asks for this one gets it
        place.store.release("f1", "w2")
        place.clock.advance(0.2)
        assert due(place, "w1") is not None

    assert commit(place.store, flow, flow.poll(place.now, 10), "w1", release="w1")
    place.clock.advance(60)
    assert due(place) is not None


def test_flow_that_is_put_off_is_still_known_to_be_left_by_the_dead(place: Place) -> None:
    kept(place, "waiting")
    claim(place, "the dead", 20)
    place.clock.advance(20.001)
    claim(place, "w1")
    place.store.put_off(Flow, "f1", place.moment, "w1")

    flow, now, previous_owner, _ = claim(place, "w2")

    assert previous_owner == "the dead"
    assert commit(place.store, flow, flow.take_over(now, previous_owner), "w2")
    place.store.put_off(Flow, "f1", place.moment, "w2")
    assert claim(place, "w3").previous_owner is None


def test_nobody_puts_off_what_another_has(place: Place) -> None:
    kept(place, "waiting")
    claim(place, "w1", 20)

    place.store.put_off(Flow, "f1", place.moment, "w2")

    assert held(place).seconds == pytest.approx(20, abs=1e-4)


def test_flow_that_was_woken_too_early_is_given_its_time_back(place: Place) -> None:
    flow = kept(place, "waiting")
    place.store.put_off(Flow, "f1", place.moment, "w1")
    place.clock.advance(61)
    assert due(place, "w1") is not None

    flow.due_at = place.now + 30
    place.store.release(flow.id, "w1", due=flow)

    assert due(place) is None
    place.clock.advance(30.001)
    assert due(place) is not None


def test_lease_can_be_taken_again_by_who_has_it(place: Place) -> None:
    kept(place, "polling")
    claim(place, "the dead", 20)
    place.clock.advance(20.001)
    claim(place, "w1", 20)
    place.clock.advance(15)

    again = claim(place, "w1", 60)

    assert again.previous_owner == "the dead"
    assert held(place).seconds == pytest.approx(60, abs=1e-4)


def test_one_of_many_threads_gets_the_lease(place: Place) -> None:
    kept(place, "waiting")

    done = at_once(lambda number: place.store.claim("f1", f"w{number}", place.moment, 20))

    assert [type(one) for one in done].count(Claim) == 1


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("step", ["poll", "cancel"])
def test_commit_gives_the_lease_back_in_the_same_breath(
    place: Place, refused: bool, step: str
) -> None:
    kept(place, "waiting")
    flow = claim(place, "w1").flow
    if refused:
        theirs = get(place.store, "f1")
        assert commit(place.store, theirs, theirs.poll(place.now, 10), "w2")
        held(place)
    moved = flow.poll(place.now, 10) if step == "poll" else flow.cancel(place.now)

    assert commit(place.store, flow, moved, "w1", "w1") is not refused

    assert claim(place, "w2").previous_owner is None


def test_commit_gives_back_nobody_elses_lease(place: Place) -> None:
    kept(place, "waiting")
    flow = claim(place, "w1").flow

    stale = get(place.store, "f1")

    assert commit(place.store, flow, flow.poll(place.now, 10), "w2", "w2")
    assert not commit(place.store, stale, stale.cancel(place.now), "w3", "w3")

    held(place, "w3")


def test_commit_without_giving_back_keeps_the_lease(place: Place) -> None:
    kept(place, "waiting")
    flow = claim(place, "w1").flow

    commit(place.store, flow, flow.poll(place.now, 10))

    held(place)


# Deciding, with the lease, on a transition.


def polls(claimed: Claim) -> dict[str, Any]:
    moved = claimed.flow.poll(claimed.now, 10.0)
    return render(claimed.flow, moved, Origin("w1"))


def leaves(_: Claim) -> None:
    """Decide on nothing."""


def breaks(claimed: Claim) -> dict[str, Any]:
    polls(claimed)
    raise LookupError("no decision")


def claims(place: Place, decide: Decide | None, owner: str = "w1") -> Claim | LeaseHeld:
    return place.store.claim("f1", owner, place.moment, 20.0, decide)


def claims_due(place: Place, decide: Decide | None) -> Claim | None:
    return claim_due(place.store, "w1", place.moment, 20.0, decide)


both_claims = pytest.mark.parametrize("take", [claims, claims_due])
Take = Callable[[Place, "Decide | None"], "Claim | LeaseHeld | None"]


@both_claims
def test_what_is_decided_is_kept_with_the_lease(place: Place, take: Take) -> None:
    kept(place, "waiting")
    place.clock.advance(60)

    taken = take(place, polls)

    assert isinstance(taken, Claim)
    assert taken.event is not None
    assert (taken.flow.state, taken.flow.seq) == (State.POLLING, 2)
    assert taken.now == pytest.approx(place.now, abs=1e-4)
    assert everything(get(place.store, "f1")) == everything(taken.flow)
    held(place, "w2")
    answered = taken.flow.receive(PENDING, place.now)
    assert commit(place.store, taken.flow, answered, "w1", "w1")
    assert claim(place, "w2").previous_owner is None


def test_event_that_was_decided_on_is_linked_and_kept(database: Place) -> None:
    flow = kept(database, "waiting")

    taken = claims(database, polls)

    assert isinstance(taken, Claim)
    assert taken.event is not None
    assert taken.event["prev_hash"] == flow.head
    assert taken.event["hash"] == taken.flow.head
    assert database.sql.events("f1")[-1] == taken.event


def test_event_that_was_decided_on_is_linked_after_others_went_on(database: Place) -> None:
    """Also by a store that has seen the flow before."""
    kept(database, "pending")
    other = database.open()
    theirs = other.claim("f1", "w2", database.moment, 20.0, polls)
    assert isinstance(theirs, Claim)
    assert commit(other, theirs.flow, theirs.flow.receive(PENDING, database.now), "w2", "w2")

    taken = claims(database, polls)

    assert isinstance(taken, Claim)
    assert [event["seq"] for event in database.sql.events("f1")] == [1, 2, 3, 4, 5, 6]
    assert (taken.flow.seq, taken.flow.attempt) == (6, 3)


@pytest.mark.parametrize("take", [claims, claims_due])
@pytest.mark.parametrize("decide", [leaves, None])
def test_where_nothing_is_decided_the_flow_stays_as_it_is(
    place: Place, take: Take, decide: Decide | None
) -> None:
    flow = kept(place, "waiting")
    place.clock.advance(60)

    taken = take(place, decide)

    assert isinstance(taken, Claim)
    assert taken.event is None
    assert everything(get(place.store, "f1")) == everything(taken.flow) == everything(flow)
    held(place, "w2")


@both_claims
def test_where_the_decision_breaks_nothing_is_kept_and_the_lease_is_free(
    place: Place, take: Take
) -> None:
    flow = kept(place, "waiting")
    place.clock.advance(60)

    with pytest.raises(LookupError, match="no decision"):
        take(place, breaks)

    assert everything(get(place.store, "f1")) == everything(flow)
    assert claim(place, "w2").previous_owner is None


def test_nothing_is_decided_while_others_have_the_lease(place: Place) -> None:
    flow = kept(place, "waiting")
    claim(place, "w2")

    assert isinstance(claims(place, polls), LeaseHeld)
    place.clock.advance(10)
    assert claims_due(place, polls) is None

    assert everything(get(place.store, "f1")) == everything(flow)


def test_decision_is_told_who_left_the_lease_behind(place: Place) -> None:
    kept(place, "waiting")
    claim(place, "w2")
    place.clock.advance(20.001)

    def take_over(claimed: Claim) -> dict[str, Any]:
        moved = claimed.flow.take_over(claimed.now, str(claimed.previous_owner))
        return render(claimed.flow, moved, Origin("w1"))

    taken = claims(place, take_over)

    assert isinstance(taken, Claim)
    assert taken.event is not None
    assert taken.event["detail"] == "the lease of w2 ran out between polls"
    place.store.release("f1", "w1")
    assert claim(place, "w3").previous_owner is None  # it is on record, and done with


def test_decision_can_end_the_flow(place: Place) -> None:
    kept(place, "waiting", name="nightly")

    def give_up(claimed: Claim) -> dict[str, Any]:
        return render(claimed.flow, claimed.flow.cancel(claimed.now), Origin("w1"))

    taken = claims(place, give_up)

    assert isinstance(taken, Claim)
    assert everything(get(place.store, "f1")) == everything(taken.flow)
    assert place.store.add(new("f2", "nightly")).id == "f2"


def test_flow_that_was_claimed_is_the_callers_own(place: Place) -> None:
    kept(place, "waiting")
    taken = claims(place, polls)
    assert isinstance(taken, Claim)
    before = everything(taken.flow)
    place.clock.advance(21)

    again = claims(place, lambda c: render(c.flow, c.flow.recover(c.now), Origin("w3")), "w3")

    assert isinstance(again, Claim)
    assert everything(taken.flow) == before
    taken.flow.cancel(place.now)
    assert everything(get(place.store, "f1")) == everything(again.flow)


def test_one_of_many_threads_claims_and_polls(place: Place) -> None:
    kept(place, "waiting")

    done = at_once(lambda n: place.store.claim("f1", f"w{n}", place.moment, 20.0, polls))

    assert sum(isinstance(taken, Claim) for taken in done) == 1
    assert get(place.store, "f1").attempt == 1


# What is due.


def test_nothing_is_due_in_an_empty_store(place: Place) -> None:
    assert due(place) is None


@pytest.mark.parametrize(
    ("name", "after", "is_due"),
    [
        ("created", 1e6, False),
        ("waiting", 7.0, False),  # 7 seconds, and the margin of a tenth
        ("waiting", 7.2, True),
        ("pending", 7.0, False),
        ("polling", 1e3, True),
        ("recovered", 1e3, True),
        ("authorized", 1e6, False),
        ("collected", 1e6, False),
        ("acknowledged", 1e6, False),
        ("denied", 1e6, False),
        ("expired", 1e6, False),
        ("cancelled", 1e6, False),
        ("purged", 0.001, True),  # there is something to revoke
        ("with a second token", 0.001, True),
        ("with a token too many", 0.001, True),
    ],
)
def test_due_is_what_there_is_something_to_do_for(
    place: Place, name: str, after: float, is_due: bool
) -> None:
    kept(place, name)
    place.clock.advance(after)

    assert due(place) == ("f1" if is_due else None)


def test_due_the_longest_comes_first_and_each_once(place: Place) -> None:
    for number in (2, 1, 3):
        kept(place, "waiting", f"f{number}")
        place.clock.advance(1)
    place.clock.advance(60)

    assert [due(place, f"w{number}") for number in range(4)] == ["f2", "f1", "f3", None]


def test_due_comes_whole_and_leased_and_says_who_left_it(place: Place) -> None:
    flow = kept(place, "polling")
    claim(place, "the dead")
    assert due(place) is None
    place.clock.advance(60)

    found = claim_due(place.store, "w1", place.moment, 20)

    assert found is not None
    assert everything(found.flow) == everything(flow)
    assert found.previous_owner == "the dead"
    assert found.now == pytest.approx(place.now, abs=1e-4)
    assert held(place).seconds == pytest.approx(20, abs=1e-4)
    assert due(place, "w2") is None


def test_due_flow_goes_to_one_of_many_threads(place: Place) -> None:
    for number in range(THREADS // 2):
        kept(place, "waiting", f"f{number}")
    place.clock.advance(60)

    found = at_once(lambda number: due(place, f"w{number}"))

    ids = [one for one in found if one is not None]
    assert len(ids) == len(set(ids))
    # A database passes over what others have locked just then; the next one finds it.
    while (one := due(place, f"x{len(ids)}")) is not None:
        ids.append(one)
    assert sorted(ids) == sorted(f"f{number}" for number in range(THREADS // 2))


# What is left over, and what is forgotten.


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("waiting", []),
        ("denied", []),
        ("acknowledged", []),
        ("authorized", ["token"]),
        ("collected", ["token"]),
        ("purged", ["revoke"]),
        ("with a second token", ["token", "revoke"]),
        ("with a token too many", ["revoke"]),
    ],
)
def test_left_over_is_what_ended_before_then_and_holds_such_secrets(
    place: Place, name: str, kinds: list[str]
) -> None:
    kept(place, name)
    ended = place.now

    for kind in ("token", "revoke"):
        found = place.store.select(queries.with_secrets(kind, ended), ended)
        assert found == (["f1"] if kind in kinds else [])
        assert place.store.select(queries.with_secrets(kind, ended - 1), ended) == []
        assert place.store.select(queries.with_secrets(kind, ended, 1), ended) == []


@pytest.mark.parametrize("name", STAGES)
def test_forgotten_is_what_ended_before_then_and_holds_no_secret(place: Place, name: str) -> None:
    flow = kept(place, name, name="nightly")
    forgettable = flow.state.ended and not flow.token and not flow.to_revoke

    assert delete_ended(place.store, place.now - 1) == 0
    assert delete_ended(place.store, place.now) == (1 if forgettable else 0)

    assert len(list(all_flows(place.store))) == (0 if forgettable else 1)


def test_forgotten_flow_is_unknown_and_so_is_its_lease(place: Place) -> None:
    flow = kept(place, "denied")
    claim(place, "w1", 1e4)
    delete_ended(place.store, place.now)

    with pytest.raises(errors.UnknownLoginError):
        get(place.store, "f1")
    place.store.release("f1", "w1")
    assert not commit(place.store, flow, flow.take_over(place.now, "w1"))
    place.store.add(new())
    assert claim(place, "w2").previous_owner is None


# Looking at all of them.


def test_flows_come_newest_first_without_secrets(place: Place) -> None:
    for name in ("authorized", "waiting", "with a token too many", "denied"):
        kept(place, name, f"f-{name.replace(' ', '-')}")
        place.clock.advance(1)

    flows = list(all_flows(place.store))

    assert [flow.id for flow in flows] == [
        "f-denied",
        "f-with-a-token-too-many",
        "f-waiting",
        "f-authorized",
    ]
    for flow in flows:
        assert export.to_dict(flow) == export.to_dict(get(place.store, flow.id))
        assert hidden(flow)
    assert [flow.id for flow in all_flows(place.store, skip_ended=True)] == ["f-waiting"]


def test_flows_come_page_by_page_each_once(place: Place) -> None:
    for number in range(450):
        # Many at the same moment, across the ends of pages.
        flow = new(f"f{number:03}", at=1000.0 + number // 90)
        if number % 3 == 0:
            flow.cancel(2000.0)
        place.store.add(flow)

    ages = {flow.id: flow.created_at for flow in all_flows(place.store)}

    assert len(ages) == 450
    assert list(ages.values()) == sorted(ages.values(), reverse=True)
    found = [flow.id for flow in all_flows(place.store, skip_ended=True)]
    assert len(found) == len(set(found)) == 300


def test_flows_can_be_stepped_while_they_are_looked_at(place: Place) -> None:
    for number in range(3):
        kept(place, "waiting", f"f{number}")

    for flow in all_flows(place.store):
        whole = get(place.store, flow.id)
        assert commit(place.store, whole, whole.cancel(place.now))

    assert list(all_flows(place.store, skip_ended=True)) == []


# Odd texts.


@odd
def test_any_words_about_a_flow_are_kept(place: Place, text: str) -> None:
    provider = OAuth(
        client_id=text, token_endpoint="https://a/t", device_authorization_endpoint="https://a/d"
    )
    flow = Flow("f1", provider, place.now)
    place.store.add(flow)
    for moved in coded(flow, place.now):
        flow.detail, flow.user_code = trusted(text), PersonText(text, 100)
        flow.extra = (("odd", trusted(text)),)
        flow.device_code = Secret(text)
        event = render(flow, moved._replace(detail=trusted(text)), Origin("w1"))
        assert place.store.commit(flow, event)

    back = get(place.store, "f1")

    assert everything(back) == everything(flow)
    assert back.device_code == Secret(text)
    if place.kind != "memory":
        (said,) = place.sql.events("f1")
        # What no database takes is replaced, and nothing else.
        storable = text.replace("\0", "\ufffd").replace("\ud800", "?")
        assert said == event | {"client_id": storable}


@odd
def test_any_token_is_kept(place: Place, text: str) -> None:
    flow = kept(place, "polling")
    token = OAUTH.read_token(GRANTED).token
    assert token is not None
    token.access_token = Secret(text)
    moved = flow.late_token(token, 1, place.now)

    assert commit(place.store, flow, moved)

    assert everything(get(place.store, "f1")) == everything(flow)


@odd
def test_any_name_is_one_or_is_refused(place: Place, text: str) -> None:
    takes = place.kind == "memory" or text not in (
        ODD["NUL"],
        ODD["half a character"],
        ODD["long"],
    )
    if takes:
        place.store.add(new("f1", text))
        assert place.store.add(new("f2", text)).id == "f1"
        assert get(place.store, "f1").name == text
    else:
        with pytest.raises(
            errors.UsageError, match="A login's name is a text of at most 500 characters"
        ):
            place.store.add(new("f1", text))
        assert list(all_flows(place.store)) == []


def test_longest_name_of_the_longest_characters_is_taken(place: Place) -> None:
    name = "".join(chr(0x10000 + number) for number in range(500))

    place.store.add(new("f1", name))

    assert place.store.add(new("f2", name)).id == "f1"


# Whole logins.


def test_login_is_one_whoever_makes_its_steps(database: Place, events: Events) -> None:
    """Each step by another client, which opens the store anew, as jobs do."""
    script = [CODE, PENDING, SLOW_DOWN, LOST, PENDING, GRANTED]

    flow = database.client(script.pop(0), store=database.open()).start(OAUTH, name="nightly")
    while True:
        driver = database.client(*script, store=database.open())
        done = driver.step(flow.id)
        del script[: len(driver._transport.requests)]  # type: ignore[attr-defined]
        if done.state.ended:
            break
        database.clock.advance(done.wait_seconds)
    with database.client(store=database.open()).collect(flow.id) as token:
        assert token.access_token == Secret("TOKEN-CANARY")
        assert token.extra.as_dict()["account"]["name"] == "müller"

    history = database.sql.events(flow.id)
    assert [event["action"] for event in history] == [
        *("issue_code", "poll", "pending", "poll", "slow_down", "poll", "retry"),
        *("poll", "pending", "poll", "issue_token", "collect", "acknowledge"),
    ]
    assert history == events()
    checker = jsonschema.Draft202012Validator(schema())
    for event in history:
        checker.validate(event)
    with pytest.raises(errors.TokenGoneError):
        database.client(store=database.open()).collect_token(flow.id)


@pytest.mark.parametrize("failing", [1, 2])
def test_plain_http_is_noted_in_the_transaction_that_makes_it_true(
    database: Place, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    clear = OAuth(
        client_id="robot",
        device_authorization_endpoint="http://as.lan/code",
        token_endpoint="http://token.lan/token",
        allow_http=True,
    )
    store, notes = database.sql, 0
    put = sql_store.add_store_event

    def dying(*args: Any) -> Any:
        nonlocal notes
        notes += 1
        if notes == failing:
            raise Dying
        return put(*args)

    monkeypatch.setattr(sql_store, "add_store_event", dying)
    with pytest.raises(Dying):
        database.client(CODE).start(clear)

    monkeypatch.undo()
    assert [flow.seq for flow in all_flows(store)] == [0] * (failing - 1)
    details = [event["detail"] for event in store.events(STORE)]
    assert len(details) == failing - 1

    flow = database.client(CODE).start(clear)

    details = [event["detail"] for event in store.events(STORE)][failing - 1 :]
    assert details == [f"{flow.id} at http://as.lan", f"{flow.id} at http://token.lan"]


def test_flow_from_elsewhere_is_imported_on_record(database: Place, events: Events) -> None:
    flow = Flow("f1", OAUTH, database.now)
    flow.receive(CODE, database.now)

    database.store.add(flow)

    (event,) = events()
    assert (event["action"], event["seq"]) == ("import", 2)
    assert database.sql.events("f1") == [event]


@pytest.mark.parametrize(
    ("script", "error", "actions"),
    [
        ([DENIED], errors.DeniedError, ["poll", "deny"]),
        ([EXPIRED], errors.ExpiredError, ["poll", "expire"]),
        ([PENDING] * 200, errors.ExpiredError, None),
        (
            [LOST, UNKNOWN_CODE],
            errors.OutcomeUnknownError,
            ["poll", "retry", "poll", "fail"],
        ),
    ],
)
def test_login_ends_in_each_store_as_in_any(
    place: Place, script: list[Any], error: type[Exception], actions: list[str] | None
) -> None:
    driver = place.client(CODE, *script)
    flow = driver.start(OAUTH)

    with pytest.raises(error):
        driver.wait_for_token(flow.id)

    if actions is not None and place.kind != "memory":
        said = [event["action"] for event in place.sql.events(flow.id)]
        assert said == ["issue_code", *actions]
    assert get(place.store, flow.id).device_code is None


def test_login_goes_on_behind_a_dead_worker(place: Place, events: Events) -> None:
    flow = place.client(CODE).start(OAUTH)
    dead = claim(place, "the dead", flow_id=flow.id)
    assert commit(place.store, dead.flow, dead.flow.poll(place.now, 10), "the dead")
    driver = place.client(UNKNOWN_CODE)

    assert brief(driver.step(flow.id)) == (flow.id, State.POLLING, flow.interval, None)
    place.clock.advance(60)
    done = driver.step(flow.id)

    assert (done.state, done.reason) == (State.FAILED, Reason.OUTCOME_UNKNOWN)
    assert events()[-3]["action"] == "recover"
    assert events()[-3]["detail"] == "the lease of the dead ran out during a poll"


def test_stalled_workers_token_is_taken_late(place: Place, events: Events) -> None:
    def stalled(_: object) -> Any:
        place.clock.advance(60)
        place.client(UNKNOWN_CODE).step(flow.id)
        return GRANTED

    driver = place.client(CODE, stalled)
    flow = driver.start(OAUTH)
    place.clock.advance(flow.wait_seconds)

    assert driver.step(flow.id).state is State.AUTHORIZED

    token = place.client().collect_token(flow.id)
    assert (token.access_token, token.possibly_revoked) == (Secret("TOKEN-CANARY"), True)
    said = [event["action"] for event in events()]
    assert said == ["issue_code", "poll", "recover", "poll", "fail", "late_token", "collect"]


def test_many_threads_stepping_one_flow_send_one_request(place: Place) -> None:
    driver = place.client(CODE, PENDING)
    flow = driver.start(OAUTH)
    place.clock.advance(flow.wait_seconds)

    at_once(lambda _: driver.step(flow.id))

    assert get(place.store, flow.id).attempt == 1
    assert len(driver._transport.requests) == 2  # type: ignore[attr-defined]


def test_sweep_and_purge_bring_everything_to_its_end(place: Place) -> None:
    driver = place.client(CODE, CODE, DENIED, GRANTED, REVOKED, REVOKED)
    for _ in range(2):
        driver.start(OAUTH)
        place.clock.advance(1)
    place.clock.advance(20)

    assert [done.state for done in driver.sweep().logins] == [State.FAILED, State.AUTHORIZED]
    place.clock.advance(8 * 86400)
    assert driver.purge()[:3] == (1, 0, [])
    place.clock.advance(90 * 86400)
    assert driver.purge()[:3] == (0, 2, [])

    assert list(driver.logins()) == []
    if place.kind != "memory":
        assert place.ask("SELECT count(*) FROM {audit}") == [(8 + 1,)]


def test_nothing_that_is_shown_of_a_store_is_secret(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    for name in STAGES:
        kept(place, name, f"f-{name.replace(' ', '-')}")
    key = place.keys[0].reveal()

    shown = f"{place.store!r} {vars(place.store)!r} {caplog.text}"

    assert not [secret for secret in (*SECRETS, key) if secret in shown]
