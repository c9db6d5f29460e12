"""What the events of grants come to: a token's descent, needs, and how things stood at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow.audit.events import FIELDS
from deviceflow.audit.reading import readable
from deviceflow.core.actions import ACTIONS
from deviceflow.core.encryption import generate_key
from deviceflow.core.states import GrantState, Loss
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from deviceflow.trail import query
from deviceflow.trail.grant_view import Grant, standing
from deviceflow.trail.login_view import Login
from deviceflow.trail.stats import Stats
from tests.grant_lives import DAY, HOUR, GrantLife
from tests.logins import BEGIN, Scribe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(tmp_path / "t.db", keys=[generate_key()], synchronous="NORMAL") as store:
        yield store


@pytest.fixture
def life(store: SQLiteStore) -> GrantLife:
    return GrantLife(store)


def grant_of(store: SQLiteStore, name: str = "nightly") -> Grant:
    found = query.one(store, name)
    assert isinstance(found, Grant)
    return found


def test_descent_of_a_token_begins_with_a_login_and_goes_on_with_each_refresh(
    store: SQLiteStore, life: GrantLife
) -> None:
    life.log_in()
    life.refresh(2)
    life.lose()
    life.log_in()
    grant = grant_of(store)

    descent = grant.generations()

    assert [one.number for one in descent] == [1, 2, 3, 4]
    assert [one.action and one.action.name for one in descent] == [
        "log_in",
        "renew",
        "renew",
        "log_in",
    ]
    logins = [query.one(store, one.login_id) for one in descent if one.login_id]
    assert len(logins) == 2
    # The login's own chain names the same token, by its fingerprint.
    for login, first in zip(logins, (descent[0], descent[3]), strict=True):
        assert first.fingerprint in {event["token_fingerprint"] for event in login.events}
    fingerprints = [one.fingerprint for one in descent]
    assert None not in fingerprints
    assert len({*fingerprints}) == 4
    # Each event says which token went before, too.
    renewals = [event for event in grant.events if event["action"] == "renew"]
    assert [event["previous_fingerprint"] for event in renewals] == fingerprints[:2]
    assert descent[0].since == pytest.approx(BEGIN + 60)
    assert descent[1].expires_at == pytest.approx(BEGIN + 60 + 2 * HOUR)
    assert [one.until for one in descent[:2]] == [one.since for one in descent[1:3]]
    assert descent[2].until == pytest.approx(BEGIN + 60 + 3 * HOUR)
    assert descent[3].until is None
    assert (grant.state, grant.outcome, grant.refreshes) == ("active", "active", 2)
    assert grant.losses == {Loss.REFUSED: 1}


def test_needs_last_until_somebody_logs_in(store: SQLiteStore, life: GrantLife) -> None:
    life.ask()
    for _ in range(2):
        life.clock.advance(DAY)
        life.ask()
    life.clock.advance(HOUR)
    life.log_in()
    life.lose()

    first, last = grant_of(store).needs()

    assert (first.id, first.since, first.notified) == (life.told[0].id, BEGIN, 3)
    assert first.until == pytest.approx(BEGIN + 2 * DAY + HOUR + 60)
    assert (last.id, last.until, last.notified) == (life.told[-1].id, None, 1)


def test_need_ends_when_the_grant_does(store: SQLiteStore, life: GrantLife) -> None:
    life.ask()
    life.clock.advance(HOUR)
    life.client.log_out("nightly")

    [need] = grant_of(store).needs()

    assert need.until == BEGIN + HOUR


def test_need_lasts_while_others_ask_for_something_else(
    store: SQLiteStore, life: GrantLife
) -> None:
    life.ask()
    life.clock.advance(HOUR)
    life.provider = life.provider.with_request(scopes="write offline_access")
    life.ask()
    grant = grant_of(store)

    [need] = grant.needs()

    assert (need.id, need.since, need.until) == (life.told[0].id, BEGIN, None)
    assert sum(event["action"] == "need" for event in grant.events) == 2


def test_how_a_grant_stood(store: SQLiteStore, life: GrantLife) -> None:
    life.ask()
    life.clock.advance(DAY)
    life.ask()
    life.log_in()
    begun = BEGIN + DAY + 60
    life.refresh(3)
    life.lose()
    grant = grant_of(store)
    descent = grant.generations()

    waiting = standing(grant, BEGIN + DAY / 2)
    second = standing(grant, begun + 1.5 * HOUR)
    lost = standing(grant, begun + 100 * DAY)

    assert standing(grant, BEGIN - 1) is None
    assert waiting is not None
    assert (waiting.state, waiting.generation, waiting.expires_at) == ("wanted", 0, None)
    assert waiting.need is not None
    assert (waiting.need.since, waiting.need.until, waiting.need.notified) == (BEGIN, None, 1)
    assert second is not None
    assert (second.state, second.generation, second.need) == ("active", 2, None)
    assert second.token_fingerprint == descent[1].fingerprint
    assert second.expires_at == pytest.approx(begun + 2 * HOUR)
    assert lost is not None
    assert (lost.state, lost.reason, lost.generation) == ("lost", "refused", 4)
    assert (lost.token_fingerprint, lost.expires_at) == (None, None)
    assert lost.since == pytest.approx(begun + 4 * HOUR)
    assert lost.need is not None
    assert lost.seq == grant.events[-1]["seq"]


@pytest.mark.usefixtures("each_event")
def test_how_a_login_stood(store: SQLiteStore) -> None:
    login = query.one(store, Scribe(store).login("code", "pending", "pending", "token", "collect"))
    polled = next(i for i, event in enumerate(login.events) if event["action"] == "poll")
    times = (login.started - 1, login.started + 1, login.times[polled], login.started + 10_000)
    before, at_the_code, polling, after = (standing(login, at) for at in times)

    assert before is None
    assert at_the_code is not None
    assert (at_the_code.state, at_the_code.generation) == ("awaiting-user", None)
    assert at_the_code.code_fingerprint is not None
    assert at_the_code.expires_at == pytest.approx(login.started + 900, abs=1)
    assert polling is not None
    assert polling.state == "polling"
    assert after is not None
    assert (after.state, after.token_fingerprint is not None) == ("authorized", True)
    assert after.since == login.ended


def test_how_a_login_stood_while_a_summarized_trail_left_events_out(tmp_path: Path) -> None:
    keys = [generate_key()]
    with SQLiteStore(tmp_path / "s.db", keys=keys, trail="summary") as store:
        moves = ("code", *["pending"] * 5, "token")
        login = query.one(store, Scribe(store).login(*moves))

    assert "pending" not in {event["action"] for event in login.events}
    between = standing(login, (login.times[0] + login.times[-1]) / 2)
    assert between is not None
    assert between.state == "awaiting-user"


def test_routine_refreshes_share_a_line(store: SQLiteStore, life: GrantLife) -> None:
    life.log_in()
    life.refresh(3)
    life.refresh_answers.append(answer(503, "busy"))
    life.clock.advance(HOUR * 0.9)
    life.client.get_token("nightly", min_ttl=HOUR)
    life.clock.advance(HOUR * 0.05)
    life.client.get_token("nightly", min_ttl=HOUR)
    grant = grant_of(store)

    assert [line.message for line in grant.story()] == [
        f"a person logged in: the login's token became the grant's: {grant.events[0]['detail']}",
        "3 refreshes: generations 2 to 4",
        "a refresh is sent",
        "not refreshed: retrying later (HTTP 503)",
        "refreshed: generation 5 of the tokens (HTTP 200)",
    ]
    assert len(grant.story(whole=True)) == len(grant.events)


def test_descent_of_a_chain_whose_beginning_was_pruned(store: SQLiteStore, life: GrantLife) -> None:
    life.log_in()
    life.refresh(3)
    events = grant_of(store).events
    cut = next(i for i, event in enumerate(events) if event["generation"] == 2)
    grant = Grant.of("g1", events[cut + 1 :])

    first, *rest = grant.generations()

    assert (first.number, first.action, first.login_id) == (2, None, None)
    assert [one.number for one in rest] == [3, 4]


def test_chain_of_a_grant_is_known_by_its_states(store: SQLiteStore, life: GrantLife) -> None:
    life.log_in()
    life.client.log_out("nightly")
    grant = grant_of(store)
    revoked = [event for event in grant.events if event["action"] == "revoke"]
    assert revoked  # an action that is of logins as well

    with query.chains(store) as chains:
        kinds = {type(one): one.id for one in chains}
    with query.logins(store) as logins:
        assert [login.id for login in logins] == [kinds[Login]]
    assert kinds[Grant] == grant.id


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (query.Filters(state="lost"), {"lost"}),
        (query.Filters(state="active"), {"active"}),
        (query.Filters(reason="refused"), {"lost"}),
        (query.Filters(actor="alice"), {"lost", "active"}),
        (query.Filters(actor="mallory"), set()),
        (query.Filters(since=BEGIN + 2 * HOUR), set()),
    ],
)
def test_filters_are_for_grants_as_well(
    store: SQLiteStore, filters: query.Filters, found: set[str]
) -> None:
    for name in ("lost", "active"):
        life = GrantLife(store, name)
        life.log_in()
        if name == "lost":
            life.lose()

    with query.chains(store, filters) as chains:
        assert {one.state for one in chains if isinstance(one, Grant)} == found


def test_statistics_of_grants(store: SQLiteStore) -> None:
    steady, lost, wanted = (GrantLife(store, name) for name in ("steady", "lost", "wanted"))
    steady.log_in()
    steady.refresh(5)
    lost.ask()
    lost.clock.advance(HOUR)
    lost.log_in()
    lost.refresh()
    lost.lose()
    wanted.ask()
    with query.chains(store) as chains:
        facts = Stats(chains).facts()

    assert facts["logins"] == 2
    grants = facts["grants"]
    assert grants["grants"] == 3
    assert grants["states"] == {"active": 1, "lost": 1, "wanted": 1}
    assert (grants["refreshes"], grants["logins"], grants["in_doubt"]) == (6, 2, 0)
    assert grants["losses"] == {"refused": 1}
    assert (grants["needs"]["raised"], grants["needs"]["open"]) == (3, 2)
    assert grants["needs"]["lasted"] == {"ended": 1} | dict.fromkeys(
        ("p50", "p90", "p99"), HOUR + 60
    )
    assert (grants["notifications"], grants["logouts"]) == (3 + 1, 0)


odd = st.one_of(st.none(), st.text(max_size=20), st.integers(), st.booleans(), st.floats())
states = st.sampled_from([*map(str, GrantState), "polling", None, "x"])
rows = st.fixed_dictionaries(
    dict.fromkeys(FIELDS, odd)
    | {"action": st.sampled_from([*ACTIONS, "x", None]), "from": states, "to": states}
    | {"time": st.sampled_from(["2026-01-01T00:00:00.000+00:00", "x", None])}
)


@given(st.lists(rows, min_size=1, max_size=6))
def test_whatever_a_database_has_it_is_read(damaged: list[dict[str, object]]) -> None:
    grant = Grant.of("g", [readable(event) for event in damaged])

    assert grant.generations() is not None
    assert len(grant.needs()) <= len(damaged)
    assert grant.story(whole=True)
    assert grant.story()
    stood = standing(grant, BEGIN)
    assert stood is None or stood.at == BEGIN
    Stats([grant]).facts()
