"""What the events of logins come to: their outcomes, their times, and their stories."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Client, OAuth
from deviceflow.audit.events import FIELDS
from deviceflow.audit.reading import readable
from deviceflow.core.encryption import generate_key
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from deviceflow.trail import query
from deviceflow.trail.login_view import Login, span
from deviceflow.trail.stats import Stats
from tests.logins import BEGIN, BOB, ROBOT, Scribe, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(tmp_path / "t.db", keys=[generate_key()], synchronous="NORMAL") as store:
        yield store


@pytest.fixture
def scribe(store: SQLiteStore) -> Scribe:
    return Scribe(store)


def said(login: Login, *, whole: bool = False) -> list[tuple[str, str]]:
    return [(line.state, line.message) for line in login.story(whole=whole)]


@pytest.mark.usefixtures("each_event")
def test_a_login_that_was_approved(store: SQLiteStore, scribe: Scribe) -> None:
    login = query.one(store, scribe.login("code", "pending", "pending", "token", "collect"))

    assert (login.state, login.outcome, login.reason) == ("authorized", "authorized", None)
    assert (login.client, login.issuer, login.actor) == (
        "nightly",
        "https://studio.example.com",
        "alice",
    )
    assert login.count("poll") == 3
    assert login.started == pytest.approx(BEGIN + 0.3)
    assert login.approved_after == pytest.approx(login.seconds)
    assert login.ended == pytest.approx(login.started + login.seconds)
    assert said(login) == [
        ("awaiting-user", "a code was issued (HTTP 200)"),
        ("awaiting-user", "2 polls: not approved yet (HTTP 400)"),
        ("polling", "poll 3 is sent"),
        ("authorized", "approved: the token arrived (HTTP 200)"),
        ("authorized", "the token was collected"),
    ]
    assert len(said(login, whole=True)) == len(login.events) == 8


def test_a_login_that_failed_says_why(store: SQLiteStore, scribe: Scribe) -> None:
    login = query.one(store, scribe.login("code", "refused", says="no such code"))

    assert (login.outcome, login.reason) == ("rejected", "rejected")
    assert login.approved_after is None
    assert said(login)[-1] == ("failed", "the login failed: rejected (HTTP 400): no such code")


def test_a_login_that_has_not_ended(store: SQLiteStore, scribe: Scribe) -> None:
    login = query.one(store, scribe.login("code", "slow_down"))

    assert (login.outcome, login.ended) == ("unfinished", None)
    assert said(login)[-1] == (
        "awaiting-user",
        "the server asked for slower polling: every 10 s from now on (HTTP 400)",
    )


def test_a_token_that_came_late_is_an_approval(store: SQLiteStore, scribe: Scribe) -> None:
    login = query.one(store, scribe.login("code", "lost", "expire", "late"))

    states = [spell.state for spell in login.spells()]
    assert states == ["awaiting-user", "polling", "awaiting-user", "failed"]
    assert login.outcome == "authorized"
    assert login.approved_after == pytest.approx(login.seconds)


def test_where_a_login_was_begun_elsewhere_nobody_knows_how_long_it_took(
    store: SQLiteStore, scribe: Scribe
) -> None:
    login = query.one(store, scribe.login("code", "pending", "token"))

    assert Login.of(login.id, login.events[1:]).approved_after is None


def test_times_in_states_sum_to_the_life(store: SQLiteStore) -> None:
    fill(store, 60)

    with query.logins(store) as logins:
        for login in logins:
            spells = list(login.spells())
            assert sum(spell.until - spell.since for spell in spells) == pytest.approx(
                login.seconds
            )
            for spell, after in pairwise(spells):
                assert spell.until == after.since
                assert spell.state != after.state
            lines = login.story()
            lasted = sum(line.lasted or 0.0 for line in lines)
            assert lasted == pytest.approx(lines[-1].time - login.started)


def test_counts(store: SQLiteStore, scribe: Scribe) -> None:
    scribe.login("code", "pending", "pending", "pending", "token")
    scribe.login("code", "slow_down", "crash", "token", at=BEGIN + 10)
    scribe.login("code", "lost", "late", provider=ROBOT, at=BEGIN + 20)
    scribe.login("code", "down", "denied", at=BEGIN + 30)
    scribe.login("code", "cancel", provider=ROBOT, origin=BOB, at=BEGIN + 40)
    scribe.login("code", "take_over", "lost", at=BEGIN + 50)

    with query.logins(store) as logins:
        facts = Stats(logins).facts()

    assert facts["logins"] == 6
    assert facts["first"] == "2026-11-18T11:06:40.300+00:00"
    assert facts["last"] == "2026-11-18T11:07:30.300+00:00"
    assert facts["outcomes"] == {"authorized": 3, "denied": 1, "cancelled": 1, "unfinished": 1}
    assert facts["time_to_approval"]["approvals"] == 3
    assert facts["polls_per_login"] == {"total": 11, "p50": 1, "p90": 4, "p99": 4}
    assert {
        name: facts[name] for name in ("slow_downs", "recoveries", "take_overs", "no_answers")
    } == {
        "slow_downs": 1,
        "recoveries": 1,
        "take_overs": 1,
        "no_answers": 3,
    }
    assert (facts["late_tokens"], facts["in_doubt"]) == (1, 1)
    assert facts["clients"] == [
        {"client": "nightly", "logins": 4, "approved": 2},
        {"client": "robot", "logins": 2, "approved": 1},
    ]
    assert sum(row["logins"] for row in facts["actors"]) == 6
    assert {row["actor"] for row in facts["actors"]} <= {"alice", "bob"}
    assert [row["issuer"] for row in facts["issuers"]] == [
        "https://studio.example.com",
        "https://login.example.com",
    ]


CODE: Final = {
    "device_code": "d" * 40,
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://login.example.com/verify",
    "interval": 5,
    "expires_in": 3600,
}
PENDING: Final = answer(400, {"error": "authorization_pending"})
SOUND: Final = {
    "without_purpose": 0,
    "without_scope": 0,
    "granted_more": 0,
    "approved_late": 0,
    "plain_http": 0,
}


@pytest.mark.parametrize(
    ("server", "scope", "granted", "purpose", "minutes", "departs"),
    [
        ("https://login.example.com", "a b", "a", "nightly", 14, []),
        ("https://login.example.com", "a b", "b a", "nightly", 14, []),
        ("https://login.example.com", "a b", "a b admin", "nightly", 14, ["granted_more"]),
        ("https://login.example.com", "", "admin", "nightly", 14, ["without_scope"]),
        ("https://login.example.com", "a", None, None, 16, ["approved_late", "without_purpose"]),
        ("http://login.example.com", "a", "a", "nightly", 14, ["plain_http"]),
        ("http://127.0.0.1:9", "a", "a", "nightly", 14, []),
    ],
)
def test_what_departs_from_the_practice_is_counted(
    store: SQLiteStore,
    server: str,
    scope: str,
    granted: str | None,
    purpose: str | None,
    minutes: int,
    departs: list[str],
) -> None:
    token = {"access_token": "t" * 30} | ({} if granted is None else {"scope": granted})
    script = [answer(200, CODE), *[PENDING] * 1000]
    transport, clock = ScriptedTransport(script), VirtualClock()
    client = Client(store, transport=transport, clock=clock)
    provider = OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{server}/device",
        token_endpoint=f"{server}/token",
        scopes=scope,
        allow_http=True,
    )
    flow = client.start(provider, purpose=purpose)
    until = clock.time() + minutes * 60
    while clock.time() < until:
        clock.advance(client.step(flow.id).wait_seconds)
    Client(store, transport=ScriptedTransport([answer(200, token)]), clock=clock).step(flow.id)

    with query.logins(store) as logins:
        assert Stats(logins).facts()["practice"] == SOUND | dict.fromkeys(departs, 1)


def test_of_nothing_there_is_nothing_to_count() -> None:
    facts = Stats().facts()

    assert facts["logins"] == 0
    assert facts["first"] is None
    assert facts["time_to_approval"] == {"approvals": 0, "p50": None, "p90": None, "p99": None}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (3661, "1 h 1 min"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


STORED = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from(
        ["poll", "pending", "issue_token", "failed", "9999-12-31T23:59:59+00:00", "[[", "{}"]
    ),
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(FIELDS, STORED)), min_size=1, max_size=6))
def test_whatever_a_database_has_it_is_read(rows: list[dict[str, Any]]) -> None:
    login = Login.of("f1", [readable(row) for row in rows])

    stats = Stats([login])

    assert stats.facts()["logins"] == 1
    assert len(login.story()) >= 1
    assert all(spell.until >= spell.since for spell in login.spells())
    assert login.seconds >= 0
