"""The rules of a grant: what to do about it, and what an answer makes of it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core import grant_codec
from deviceflow.core.access_token import AccessToken
from deviceflow.core.grant import MOST_ASIDE, QUIET, Grant, NextStep, check_name
from deviceflow.core.grant_view import GrantView
from deviceflow.core.need import (
    CODE_EACH,
    CODES,
    MOST_UNTOLD,
    NOTIFY_AGAIN,
    WHY,
    Need,
    why_lost,
)
from deviceflow.core.notice import LoginNeed
from deviceflow.core.ports import Stored
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Loss
from deviceflow.core.text import trusted
from deviceflow.core.wire import Failure
from deviceflow.errors import IllegalTransitionError, UsageError
from deviceflow.providers.dialect import RFC8628
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.flow import Transition
    from deviceflow.core.wire import Response

NOW: Final = 1_800_000_000.0
LIFE: Final = 1000.0
WANTED, ACTIVE, REFRESHING, IN_DOUBT, LOST, REVOKED = GrantState
SERVER: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
    scopes="read write",
    resource="https://api.example.com",
)
FORGIVING: Final = replace(SERVER, quirks=replace(RFC8628, replay_window=30.0))
WITHOUT_REVOCATION: Final = replace(SERVER, revocation_endpoint=None)

CUT: Final = Failure("connection", sent=True)
UNSENT: Final = Failure("connection", sent=False)
REFUSED: Final = answer(400, {"error": "invalid_grant"})
WRONG_CLIENT: Final = answer(401, {"error": "invalid_client"})
BUSY: Final = answer(503, "busy", Retry_After="120")
CRASHED: Final = answer(502, "<html>")


def renewed(**fields: Any) -> Response:
    sent = {
        "access_token": "ACCESS-2",
        "refresh_token": "REFRESH-2",
        "expires_in": LIFE,
        "scope": "read write",
    } | fields
    return answer(200, {name: value for name, value in sent.items() if value is not None})


def id_token(subject: str, **claims: Any) -> str:
    said = {"iss": "https://as.example.com", "aud": "robot", "exp": 4e9, "sub": subject} | claims
    payload = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


def first_token(
    life: float | None = LIFE, refresh: str | None = "REFRESH-1", subject: str | None = None
) -> Token:
    return Token(
        Secret("ACCESS-1"),
        expires_at=None if life is None else NOW + life,
        refresh_token=None if refresh is None else Secret(refresh),
        scopes=(trusted("read"), trusted("write")),
        subject=None if subject is None else trusted(subject),
    )


def active(provider: Any = SERVER, token: Token | None = None, subject: str | None = None) -> Grant:
    grant = Grant("g1", "nightly", provider, NOW)
    grant.log_in(token or first_token(subject=subject), provider, NOW, flow_id="f1")
    return grant


def refreshing(at: float = NOW + 900, **how: Any) -> Grant:
    grant = active(**how)
    grant.refresh(at)
    return grant


def doubtful(at: float = NOW + 900, **how: Any) -> Grant:
    grant = refreshing(at, **how)
    grant.receive(CUT, at + 1)
    return grant


def lost(**how: Any) -> Grant:
    grant = refreshing(**how)
    grant.receive(REFUSED, NOW + 901)
    return grant


def revoked() -> Grant:
    grant = active()
    grant.log_out(NOW + 1)
    return grant


def wanted() -> Grant:
    return Grant("g1", "nightly", SERVER, NOW, purpose="the nightly report")


IN: Final[dict[GrantState, Callable[[], Grant]]] = {
    WANTED: wanted,
    ACTIVE: active,
    REFRESHING: refreshing,
    IN_DOUBT: doubtful,
    LOST: lost,
    REVOKED: revoked,
}


def access(grant: Grant) -> str | None:
    return None if grant.token is None else grant.token.access_token.reveal()


def refresh_token(grant: Grant) -> str | None:
    kept = None if grant.token is None else grant.token.refresh_token
    return None if kept is None else kept.reveal()


# Enough life left.


@pytest.mark.parametrize(
    ("life", "min_ttl", "passed", "fresh"),
    [
        (LIFE, 60, 0, True),
        (LIFE, 60, 939, True),
        (LIFE, 60, 940, False),
        (LIFE, 60, 2000, False),
        (LIFE, 800, 499, True),  # half of the life is the most that can be asked for
        (LIFE, 800, 500, False),
        (2, 60, 0.9, True),
        (2, 60, 1.0, False),
        (None, inf, 1e9, True),
    ],
)
def test_token_is_fresh_with_enough_life_left(
    life: float | None, min_ttl: float, passed: float, fresh: bool
) -> None:
    grant = active(token=first_token(life))

    assert grant.is_fresh(NOW + passed, min_ttl) is fresh


@pytest.mark.parametrize(
    ("life", "passed", "serves"),
    [(LIFE, 994, True), (LIFE, 995, False), (2, 1.79, True), (2, 1.81, False), (None, 1e9, True)],
)
def test_token_serves_until_shortly_before_its_end(
    life: float | None, passed: float, serves: bool
) -> None:
    assert active(token=first_token(life)).usable(NOW + passed) is serves


@pytest.mark.parametrize("life", [0, -5])
def test_token_that_came_expired_counts_as_one_that_does_not_expire(life: float) -> None:
    grant = active(token=first_token(life))

    assert grant.expires_at is None
    assert grant.is_fresh(NOW + 1e6, 60)
    assert grant.wake_at is None


@pytest.mark.parametrize("sent", [0, "soon", None, -1])
def test_lifetime_that_is_none_is_not_believed(sent: object) -> None:
    grant = refreshing()

    grant.receive(renewed(expires_in=sent), NOW + 901)

    assert grant.expires_at is None


def test_life_begins_when_the_request_is_sent() -> None:
    grant = refreshing()

    grant.receive(renewed(), NOW + 910, duration=10.0)

    assert grant.issued_at == NOW + 900
    assert (grant.expires_at, grant.left(NOW + 900)) == (NOW + 1900, 1000)


def test_clock_that_was_set_back_makes_no_token_live_longer() -> None:
    grant = active()

    assert not grant.is_fresh(NOW - 3600, 60)
    assert grant.usable(NOW - 3600)
    assert grant.left(NOW - 3600) == LIFE
    assert grant.next_step(NOW - 3600, 60) is NextStep.REFRESH
    assert active(token=first_token(refresh=None)).next_step(NOW - 3600, 60) is NextStep.USE


# What to do.


@pytest.mark.parametrize("state", [WANTED, LOST, REVOKED])
def test_without_tokens_a_person_is_asked(state: GrantState) -> None:
    assert IN[state]().next_step(NOW + 5000, 60) is NextStep.ASK


def test_token_that_ends_soon_is_refreshed_by_one_and_used_by_the_others() -> None:
    grant = active()

    assert grant.next_step(NOW + 900, 60) is NextStep.USE
    assert grant.next_step(NOW + 950, 60) is NextStep.REFRESH
    assert grant.next_step(NOW + 950, 60, held=5) is NextStep.USE
    assert grant.next_step(NOW + 2000, 60, held=5) is NextStep.WAIT
    assert grant.next_step(NOW + 2000, 60) is NextStep.REFRESH


@pytest.mark.parametrize("provider", [SERVER, Studio("https://studio.example.com")])
def test_without_refresh_the_token_serves_until_it_ends_and_is_given_up_then(
    provider: Any,
) -> None:
    refresh = None if provider is SERVER else "REFRESH-1"  # Studio has no use for one
    grant = active(provider, first_token(refresh=refresh))

    assert not grant.refreshable
    assert grant.wake_at is None
    assert grant.next_step(NOW + 990, 60) is NextStep.USE
    assert grant.next_step(NOW + 2000, 60) is NextStep.LOSE
    assert grant.lapse(NOW + 2000).action == "lose"
    assert (grant.reason, grant.token) == (Loss.LAPSED, None)


def test_while_a_refresh_is_in_flight_the_others_use_or_wait() -> None:
    grant = refreshing(NOW + 950)

    assert grant.next_step(NOW + 951, 60, held=10) is NextStep.USE
    assert grant.next_step(NOW + 1001, 60, held=10) is NextStep.WAIT
    assert grant.next_step(NOW + 951, 60) is NextStep.RECOVER


def test_recovery_names_whose_lease_ran_out() -> None:
    grant, other = refreshing(), refreshing()

    assert grant.recover(NOW + 920, "w1").detail == "the lease of w1 ran out during a refresh"
    assert other.recover(NOW + 920).detail is None
    assert (grant.state, grant.in_doubt, access(grant)) == (IN_DOUBT, True, "ACCESS-1")


def test_in_doubt_the_token_is_used_to_its_end_and_the_refresh_sent_again_then() -> None:
    grant = doubtful(NOW + 900)

    assert grant.next_step(NOW + 950, 60) is NextStep.USE
    assert grant.next_step(NOW + 950, 60, held=5) is NextStep.USE
    assert grant.next_step(NOW + 999, 60, held=5) is NextStep.WAIT
    assert grant.next_step(NOW + 999, 60) is NextStep.REFRESH
    assert grant.refresh(NOW + 999).action == "replay"
    assert (grant.state, grant.replays, grant.attempt) == (REFRESHING, 1, 2)


@pytest.mark.parametrize("result", [UNSENT, BUSY, CUT, CRASHED, answer(403, "<html>")])
def test_in_doubt_the_refresh_is_sent_again_until_the_server_has_said_something(
    result: Response | Failure,
) -> None:
    grant, now, waits = doubtful(), NOW + 1000, []
    for _ in range(12):
        assert grant.next_step(now, 60) is NextStep.REFRESH
        grant.refresh(now)
        assert grant.receive(result, now).action == "lose_answer"
        assert grant.next_step(now + 0.5, 60) is NextStep.BACK_OFF
        waits.append(grant.due_at - now)
        now = grant.due_at

    assert waits[:5] == sorted(waits[:5])
    assert (grant.unanswered_since, grant.unanswered) == (NOW + 901, 13)
    with pytest.raises(IllegalTransitionError):
        grant.lapse(now)
    grant.refresh(now)
    grant.receive(REFUSED, now)
    assert (grant.reason, grant.unanswered_since) == (Loss.UNKNOWN, None)


def test_in_doubt_after_a_worker_died_it_is_sent_again_as_well() -> None:
    grant = doubtful()
    grant.refresh(NOW + 999)
    assert grant.next_step(NOW + 1000, 60, held=5) is NextStep.WAIT
    grant.recover(NOW + 1020)

    assert grant.next_step(NOW + 1020, 60) is NextStep.REFRESH


def test_refresh_that_is_sent_again_outside_begins_the_servers_window_anew() -> None:
    """The first refresh may never have been sent: the server answers again after this one."""
    grant = doubtful(NOW + 900, provider=FORGIVING)
    grant.refresh(NOW + 1100)
    grant.receive(CUT, NOW + 1101)

    assert grant.next_step(grant.due_at, 60) is NextStep.REFRESH
    grant.refresh(grant.due_at)
    assert (grant.sent_at, grant.window_at) == (NOW + 900, NOW + 1100)
    grant.receive(CUT, NOW + 1120)
    assert grant.next_step(NOW + 1131, 60) is NextStep.REFRESH
    grant.refresh(NOW + 1131)
    assert grant.window_at == NOW + 1131


def test_within_the_servers_window_the_refresh_is_sent_again_at_once() -> None:
    grant = doubtful(provider=FORGIVING)

    assert grant.next_step(NOW + 901, 60, held=3) is NextStep.USE
    assert grant.next_step(NOW + 901, 60) is NextStep.REFRESH
    grant.refresh(NOW + 902)
    assert grant.sent_at == NOW + 900
    grant.receive(CUT, NOW + 903)
    assert grant.next_step(NOW + 903.5, 60) is NextStep.USE  # a back-off
    assert grant.next_step(grant.due_at, 60) is NextStep.REFRESH
    assert grant.next_step(NOW + 930, 60) is NextStep.USE  # the window is over
    assert grant.next_step(NOW + 1100, 60) is NextStep.REFRESH


def test_outside_a_window_a_lost_answer_backs_off_and_retry_after_counts_within() -> None:
    waits = {}
    for name, provider, result in (
        ("no window", SERVER, CUT),
        ("window", FORGIVING, CUT),
        ("asked to wait", FORGIVING, answer(502, "<html>", Retry_After="7")),
    ):
        grant = refreshing(NOW + 1000, provider=provider)
        grant.receive(result, NOW + 1000.1)
        waits[name] = grant.due_at - (NOW + 1000.1)

    assert 1 <= waits["no window"] <= 1.25
    assert (waits["window"], round(waits["asked to wait"], 3)) == (0, 7)


def test_grants_of_a_backup_are_in_doubt_beyond_any_window() -> None:
    grant = active(FORGIVING)

    assert grant.doubt(NOW + 1).action == "doubt"

    assert grant.next_step(NOW + 1, 60) is NextStep.USE
    assert grant.next_step(NOW + 999, 60) is NextStep.REFRESH
    assert grant.unanswered_since == NOW


# When a sweep looks after it.


def test_sweep_refreshes_ahead_at_a_moment_of_the_grants_own() -> None:
    moments = set()
    for number in range(20):
        grant = active()
        grant.id = f"g{number}"
        assert grant.wake_at is not None
        assert NOW + 687 < grant.wake_at <= NOW + 750
        assert grant.next_step(grant.wake_at, inf) is NextStep.REFRESH
        moments.add(grant.wake_at)
    assert len(moments) > 10


def test_each_state_says_when_a_sweep_is_due() -> None:
    assert wanted().wake_at is None
    assert lost().wake_at is None
    assert revoked().wake_at == NOW + 1  # its tokens are to be revoked
    assert refreshing().wake_at == NOW + 900
    assert doubtful(provider=FORGIVING).wake_at == NOW + 901
    woken = doubtful().wake_at
    assert woken is not None
    assert woken > NOW + 680
    endless = active(token=first_token(None))
    endless.invalidate(NOW + 5)
    assert endless.wake_at == NOW


# Answers.


def test_refresh_brings_the_next_generation() -> None:
    grant = refreshing()

    received = grant.receive(renewed(), NOW + 901, duration=0.5)

    assert (received.action, received.source, received.dest) == ("renew", REFRESHING, ACTIVE)
    assert (received.status, received.duration, received.detail) == (200, 0.5, None)
    assert (access(grant), refresh_token(grant), grant.generation) == ("ACCESS-2", "REFRESH-2", 2)
    assert grant.replaced == Secret("ACCESS-1")
    assert grant.next_step(NOW + 901, 60) is NextStep.USE


def test_refresh_request_names_the_refresh_token_and_the_resource() -> None:
    request = active().request()

    assert b"refresh_token=REFRESH-1" in request.body
    assert b"resource=https%3A%2F%2Fapi.example.com" in request.body


@pytest.mark.parametrize("state", [WANTED, LOST, REVOKED])
def test_without_tokens_there_is_nothing_to_refresh(state: GrantState) -> None:
    with pytest.raises(UsageError, match="has no tokens to refresh"):
        IN[state]().request()


def test_answer_without_a_refresh_token_keeps_the_old_one_and_without_scopes_these() -> None:
    grant = refreshing()

    grant.receive(renewed(refresh_token=None, scope=None), NOW + 901)

    assert (access(grant), refresh_token(grant)) == ("ACCESS-2", "REFRESH-1")
    assert grant.token is not None
    assert grant.token.scopes == ("read", "write")


def test_scopes_that_are_gone_are_on_record() -> None:
    grant = refreshing()

    assert grant.receive(renewed(scope="read"), NOW + 901).detail == "no longer granted: write"
    assert grant.token is not None
    assert grant.token.scopes == ("read",)


def test_old_tokens_that_the_server_echoes_are_hidden() -> None:
    grant = refreshing()

    received = grant.receive(renewed(token_type="ACCESS-1", scope="read REFRESH-1"), NOW + 901)

    assert grant.token is not None
    assert (grant.token.token_type, grant.token.scopes) == ("<secret>", ("read", "<secret>"))
    assert received.detail == "no longer granted: write"
    other = refreshing()
    other.receive(answer(503, {"error": "REFRESH-1"}), NOW + 901)
    assert other.detail == "<secret>"


def test_tokens_of_another_subject_are_refused_and_revoked() -> None:
    grant = refreshing(subject="alice")

    received = grant.receive(renewed(id_token=id_token("bob")), NOW + 901)

    assert (received.action, received.detail) == (
        "lose",
        "the refresh gave a token of another subject",
    )
    assert (grant.reason, grant.token) == (Loss.WRONG_SUBJECT, None)
    assert grant.to_revoke == (
        ("refresh_token", Secret("REFRESH-2")),
        ("access_token", Secret("ACCESS-2")),
    )
    assert grant.revocations == 2


@pytest.mark.parametrize("before", [None, "alice"])
def test_same_subject_is_kept_and_a_new_one_noted(before: str | None) -> None:
    grant = refreshing(subject=before)

    grant.receive(renewed(id_token=id_token("alice")), NOW + 901)

    assert (grant.state, grant.subject) == (ACTIVE, "alice")
    assert grant.token is not None
    assert grant.token.id_token is None
    grant.refresh(NOW + 1000)
    grant.receive(renewed(access_token="ACCESS-3"), NOW + 1001)
    assert grant.subject == "alice"


def test_id_token_is_kept_if_the_provider_says_so_until_there_is_a_new_one() -> None:
    first = first_token()
    first.id_token = Secret(id_token("alice", nonce="1"))
    grant = active(replace(SERVER, keep_id_token=True), first, subject="alice")
    grant.refresh(NOW + 900)
    grant.receive(renewed(), NOW + 901)
    assert AccessToken.of(grant).as_dict()["id_token"] == id_token("alice", nonce="1")

    grant.refresh(NOW + 1000)
    grant.receive(renewed(access_token="ACCESS-3", id_token=id_token("alice")), NOW + 1001)
    token = AccessToken.of(grant)
    assert token.id_token == Secret(id_token("alice"))
    assert id_token("alice") not in repr(token)


def test_id_token_that_has_expired_loses_nothing_as_the_clock_may_be_ahead() -> None:
    grant = refreshing(subject="alice")

    grant.receive(renewed(id_token=id_token("alice", exp=NOW - 3600)), NOW + 901)

    assert (grant.state, grant.generation, grant.subject) == (ACTIVE, 2, "alice")
    other = refreshing(subject="alice")
    other.receive(renewed(id_token=id_token("bob", exp=NOW - 3600)), NOW + 901)
    assert other.reason is Loss.WRONG_SUBJECT


def test_tokens_that_fit_nobody_are_refused() -> None:
    grant = refreshing(subject="alice")

    received = grant.receive(renewed(id_token=id_token("alice", aud="other")), NOW + 901)

    assert (grant.reason, received.detail) == (
        Loss.WRONG_SUBJECT,
        "the id token is for another client",
    )


HARD_TO_KEEP: Final = {
    "a token": "of ACCESS-2",
    "the token before": "ACCESS-1",
    "the refresh token, encoded": base64.b64encode(b"REFRESH-2").decode(),
    "too long": "a" * 201,
    "not printable": "ali\x1b[31mce",
}


@pytest.mark.parametrize("what", HARD_TO_KEEP)
def test_subjects_are_told_apart_by_what_the_server_said(what: str) -> None:
    said = HARD_TO_KEEP[what]
    grant = refreshing()

    grant.receive(renewed(id_token=id_token(said)), NOW + 901)
    kept = grant.subject
    grant.refresh(NOW + 1000)
    grant.receive(renewed(access_token="ACCESS-3", id_token=id_token(said)), NOW + 1001)

    assert (grant.state, grant.subject) == (ACTIVE, kept)
    assert str(kept).startswith("sha256:")
    for other in (f"{said}.", str(kept)):
        again = refreshing(subject=kept)
        again.receive(renewed(id_token=id_token(other)), NOW + 901)
        assert again.reason is Loss.WRONG_SUBJECT


def test_subject_is_the_same_where_a_later_token_contains_it() -> None:
    grant = refreshing(subject="alice-wonder")

    answered = renewed(access_token="of.alice-wonder", id_token=id_token("alice-wonder"))
    grant.receive(answered, NOW + 901)

    assert (grant.state, grant.subject) == (ACTIVE, "alice-wonder")


def test_refusal_loses_the_grant() -> None:
    grant = refreshing()

    received = grant.receive(REFUSED, NOW + 901)

    assert (received.dest, received.detail, grant.detail) == (LOST, *["invalid_grant"] * 2)
    assert (grant.reason, grant.token, grant.in_doubt) == (Loss.REFUSED, None, False)
    assert grant.replaced == Secret("ACCESS-1")


@pytest.mark.parametrize("error", ["expired_token", "access_denied", "bad_refresh_token"])
def test_each_refusal_of_the_refresh_token_loses_the_grant(error: str) -> None:
    grant = refreshing()
    grant.receive(answer(400, {"error": error}), NOW + 901)

    assert grant.reason is Loss.REFUSED


def test_refusal_of_what_was_sent_again_leaves_the_outcome_unknown() -> None:
    grant = doubtful()
    grant.refresh(NOW + 999)

    grant.receive(REFUSED, NOW + 1000)

    assert grant.reason is Loss.UNKNOWN


SPRING: Final = {"error": "Not Found", "status": 404}
DETAIL: Final = "HTTP 400 without a reason"


@pytest.mark.parametrize(
    ("result", "times"),
    [
        (REFUSED, 1),
        (answer(403, {"error": "invalid_grant"}), 1),
        (answer(503, {"error": "invalid_grant"}), 1),
        (answer(400, {"error": "expired_token"}), 1),
        (answer(403, {"error": "access_denied"}), 1),
        (answer(400, {"error": "bad_refresh_token"}), 1),
        (answer(200, {"error": "bad_refresh_token"}), 1),
        (answer(401, {"error": "token_gone"}), 1),
        (WRONG_CLIENT, 3),
        (answer(400, {"error": "invalid_scope"}), 3),
        (answer(404, SPRING), 3),
        (answer(403, {"error": "Forbidden"}), 3),
        (answer(400, ""), 3),
        (answer(401, " \n"), 3),
        (answer(403, ""), 3),
        (answer(422, {"message": "unprocessable"}), 3),
        (answer(400, {"error": "authorization_pending"}), 3),
        *((answer(status, ""), 0) for status in (404, 405, 407, 408, 421, 425, 429)),
        (answer(404, {"message": "no such page"}), 0),
        *((answer(status, "<html>"), 0) for status in (200, 302, 400, 401, 403, 404, 502, 503)),
        (answer(400, "invalid refresh token"), 0),
        (answer(403, '{"error": "invalid_gr'), 0),
        (answer(200, ""), 0),
        (answer(500, {"error": "oops"}), 0),
        (answer(400, {"error": "temporarily_unavailable"}), 0),
        (answer(400, {"error": "slow_down"}), 0),
        (CUT, 0),
    ],
    ids=repr,
)
def test_grant_is_lost_only_by_what_counts_as_the_servers_word(
    result: Response | Failure, times: int
) -> None:
    grant, now, waits = active(), NOW + 1000, []
    for _ in range(8):
        grant.refresh(now)
        waits.append(grant.receive(result, now).wait or 0.0)
        if grant.state is LOST:
            break
        now = grant.due_at

    assert grant.refusals == 0
    if not times:
        assert grant.state in (ACTIVE, IN_DOUBT)
        return
    assert (grant.state, len(waits)) == (LOST, times)
    assert waits[:-1] == sorted(waits[:-1])
    assert times == 1 or waits[0] >= 10


def test_refusal_without_a_reason_says_what_the_server_answered() -> None:
    grant = active()
    for at in (900, 920, 960, 1100):
        grant.refresh(NOW + at)
        received = grant.receive(answer(400, ""), NOW + at)
        assert received.detail == DETAIL

    assert (grant.reason, grant.detail) == (Loss.REFUSED, DETAIL)
    assert why_lost(Loss.REFUSED, grant.detail) == (
        "The server refused its refresh token: HTTP 400 without a reason."
    )
    assert why_lost(Loss.LAPSED, None) == WHY[Loss.LAPSED]
    assert why_lost("rusted", None) == "rusted."


# What a refresh brings that was sent again.


def jwt(**claims: Any) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


UNUSABLE: Final[tuple[Any, ...]] = (None, "soon", True, 0, -1, 10**400, [])


@pytest.mark.parametrize(
    ("access_token", "expires_in", "ends"),
    [
        ("ACCESS-2", LIFE, 1900),  # as if the first request had brought it
        (jwt(exp=NOW + 1500), LIFE, 1500),
        (jwt(exp=NOW + 1500.5), None, 1500.5),
        (jwt(exp=NOW + 2500), LIFE, 1900),  # never longer
        *((jwt(exp=end), LIFE, 1900) for end in UNUSABLE),
        (jwt(), LIFE, 1900),
        ("e30.bm90IGpzb24.c2ln", LIFE, 1900),
        (jwt(exp=10**400), None, None),
    ],
)
def test_token_of_a_refresh_that_was_sent_again_ends_at_the_earliest_possible_time(
    access_token: str, expires_in: float | None, ends: float | None
) -> None:
    grant = doubtful(NOW + 900, provider=FORGIVING)
    grant.refresh(NOW + 925)

    grant.receive(renewed(access_token=access_token, expires_in=expires_in), NOW + 926, duration=1)

    assert grant.state is ACTIVE
    assert grant.expires_at == (None if ends is None else NOW + ends)
    assert grant.left(NOW + 926) == (inf if ends is None else ends - 926)


def test_token_that_ended_before_it_came_is_refreshed_at_once() -> None:
    grant = doubtful(NOW + 900)
    grant.refresh(NOW + 2000)
    grant.receive(renewed(), NOW + 2001)

    assert not grant.usable(NOW + 2001)
    assert grant.next_step(NOW + 2001, 60) is NextStep.REFRESH
    grant.refresh(NOW + 2001)
    grant.receive(renewed(access_token=jwt(exp=NOW + 5)), NOW + 2002, duration=1)
    assert grant.expires_at == NOW + 3001  # the claim is not believed where it need not be


@pytest.mark.parametrize("provider", [SERVER, replace(SERVER, refresh_ends_token=True)])
def test_refusals_that_blame_the_client_are_tried_again_while_the_token_lives(
    provider: OAuth,
) -> None:
    grant = active(provider)  # a refresh that was refused ended no token
    for at in range(900, 990, 20):
        grant.refresh(NOW + at)
        assert grant.receive(WRONG_CLIENT, NOW + at).action == "postpone"
    assert grant.refusals == 5

    grant.refresh(NOW + 1100)
    assert grant.receive(WRONG_CLIENT, NOW + 1100).action == "lose"
    assert grant.reason is Loss.REFUSED


def test_first_refusals_that_blame_the_client_are_tried_again_in_any_case() -> None:
    grant = active()

    for at in (1100, 1200):
        grant.refresh(NOW + at)
        assert grant.receive(WRONG_CLIENT, NOW + at).action == "postpone"


@pytest.mark.parametrize(
    ("result", "action", "wait"),
    [
        (UNSENT, "postpone", (1, 1.25)),
        (BUSY, "postpone", (120, 120)),
        (answer(429, "slower"), "postpone", (1, 1.25)),
        (answer(400, {"error": "slow_down"}), "postpone", (1, 1.25)),
        (answer(302, ""), "postpone", (1, 1.25)),
        (CUT, "lose_answer", (1, 1.25)),
        (Failure("timeout", sent=True), "lose_answer", (1, 1.25)),
        (CRASHED, "lose_answer", (1, 1.25)),
        (answer(200, '{"access_tok'), "lose_answer", (1, 1.25)),
    ],
)
def test_answer_that_is_none_is_tried_again_or_in_doubt(
    result: Response | Failure, action: str, wait: tuple[float, float]
) -> None:
    grant = refreshing()

    received = grant.receive(result, NOW + 901)

    assert received.action == action
    assert received.wait is not None
    assert wait[0] <= received.wait <= wait[1]
    assert abs(grant.due_at - (NOW + 901) - received.wait) < 0.001
    assert (access(grant), refresh_token(grant)) == ("ACCESS-1", "REFRESH-1")
    assert grant.failures == 1


@pytest.mark.parametrize("make", [refreshing, doubtful])
def test_refresh_that_came_too_late_to_be_sent_is_due_at_once(
    make: Callable[[], Grant],
) -> None:
    grant = make()
    if grant.state is IN_DOUBT:
        grant.refresh(NOW + 1100)
    failures = grant.failures

    grant.receive(Failure("lease", sent=False), NOW + 1103)

    assert grant.failures == failures
    assert grant.next_step(NOW + 1103, 60) is NextStep.REFRESH


def test_back_off_grows_and_lets_the_token_serve_meanwhile() -> None:
    grant, waits = active(), []
    for _ in range(9):
        grant.refresh(NOW + 940)
        waits.append(grant.receive(UNSENT, NOW + 940).wait or 0.0)

    assert waits[:6] == sorted(waits[:6])
    assert 60 <= waits[-1] <= 75
    assert grant.next_step(NOW + 941, 60) is NextStep.USE
    grant.due_at = NOW + 1100
    assert grant.next_step(NOW + 1050, 60) is NextStep.BACK_OFF
    assert grant.next_step(NOW + 1100, 60) is NextStep.REFRESH


def test_back_off_does_not_outlast_a_clock_that_was_set_back() -> None:
    grant = refreshing()
    grant.receive(UNSENT, NOW + 901)

    assert grant.next_step(NOW - 3600, 60) is NextStep.REFRESH


def test_due_time_by_a_clock_that_was_set_back_keeps_nobody_waiting() -> None:
    grant = doubtful()
    before = NOW - 3600

    grant.invalidate(before)

    assert grant.due_at == before
    assert grant.next_step(before, 60) is NextStep.REFRESH


def test_success_ends_all_counting() -> None:
    grant = active()
    grant.refresh(NOW + 900)
    grant.receive(WRONG_CLIENT, NOW + 900)
    grant.refresh(NOW + 910)
    grant.receive(CUT, NOW + 910)
    grant.refresh(NOW + 999)
    grant.receive(renewed(), NOW + 999)

    assert (grant.failures, grant.refusals, grant.replays) == (0, 0, 0)
    assert (grant.in_doubt, grant.detail) == (False, None)


@pytest.mark.parametrize("state", [*GrantState])
def test_answer_is_for_a_refresh_in_flight_only(state: GrantState) -> None:
    grant = IN[state]()
    before = (grant.state, grant.seq)

    if state is not REFRESHING:
        with pytest.raises(IllegalTransitionError):
            grant.receive(renewed(), NOW + 901)
        assert (grant.state, grant.seq) == before


# Late answers.

LATE: Final = Token(Secret("LATE-ACCESS"), refresh_token=Secret("LATE-REFRESH"))


def late(number: int = 1) -> Token:
    return Token(
        Secret(f"LATE-ACCESS-{number}"),
        expires_at=NOW + 2000,
        refresh_token=Secret(f"LATE-REFRESH-{number}"),
    )


def test_late_answer_is_set_aside_and_used_once_the_stored_one_is_refused() -> None:
    grant = doubtful()
    grant.refresh(NOW + 999)  # somebody sends it again

    assert grant.late_answer(late(), 1, NOW + 1000).action == "late_answer"
    assert (grant.state, access(grant), len(grant.aside)) == (REFRESHING, "ACCESS-1", 1)
    received = grant.receive(REFUSED, NOW + 1001)

    assert (received.action, received.status) == ("use_late_answer", 400)
    assert (access(grant), refresh_token(grant)) == ("LATE-ACCESS-1", "LATE-REFRESH-1")
    assert (grant.state, grant.aside, grant.generation) == (ACTIVE, (), 2)


def test_late_answer_that_is_still_waited_for_is_used_at_once() -> None:
    grant = refreshing()
    grant.recover(NOW + 920, "w1")

    assert grant.late_answer(late(), 1, NOW + 921).action == "use_late_answer"
    assert (grant.state, access(grant)) == (ACTIVE, "LATE-ACCESS-1")


def test_late_answer_to_an_older_refresh_is_set_aside_in_doubt_and_used_then() -> None:
    grant = doubtful()
    grant.refresh(NOW + 999)
    grant.receive(CUT, NOW + 1000)

    assert grant.late_answer(late(), 1, NOW + 1001).action == "late_answer"
    assert grant.wake_at == grant.due_at
    assert grant.next_step(NOW + 1001, 60) is NextStep.ADOPT
    assert grant.use_late_answer(NOW + 1002).dest is ACTIVE


def test_late_answer_brings_a_lost_grant_back() -> None:
    grant = lost()
    grant.raise_need("n1", Secret("LINK"), NOW + 902)

    assert grant.late_answer(late(), 1, NOW + 903).action == "use_late_answer"
    assert (grant.state, grant.reason, grant.open_need) == (ACTIVE, None, None)
    assert grant.need is not None
    assert grant.need.end == "late_answer"


def test_late_answer_of_an_ended_grant_is_revoked() -> None:
    grant = revoked()

    assert grant.late_answer(late(), 1, NOW + 2).action == "orphan_token"

    assert [kind for kind, _ in grant.to_revoke] == ["refresh_token", "access_token"] * 2
    assert grant.revocations == 4


def test_late_answer_of_a_former_server_is_not_sent_to_this_one() -> None:
    grant, former = active(), replace(SERVER, client_id="former")

    assert grant.orphan_token(late(), former, NOW + 2).detail == (
        "revoke them at https://as.example.com"
    )
    assert grant.to_revoke == ()


def test_late_answer_that_has_expired_by_then_does_not_live_for_ever() -> None:
    grant = doubtful()
    grant.refresh(NOW + 5000)
    grant.late_answer(late(), 1, NOW + 5001)

    grant.receive(REFUSED, NOW + 5002)

    assert (grant.expires_at, grant.lifetime) == (NOW + 2000, 1100)
    assert grant.next_step(NOW + 5002, 60) is NextStep.REFRESH


def test_late_answers_are_kept_up_to_a_number_the_newest_first_in_use() -> None:
    grant = active()
    for number in range(MOST_ASIDE + 2):
        grant.late_answer(late(number), 1, NOW + number)
    grant.refresh(NOW + 900)
    grant.receive(REFUSED, NOW + 901)

    assert access(grant) == f"LATE-ACCESS-{MOST_ASIDE + 1}"
    assert len(grant.aside) == MOST_ASIDE - 1


def test_without_late_answers_there_is_none_to_use() -> None:
    with pytest.raises(IllegalTransitionError):
        doubtful().use_late_answer(NOW + 950)


# Invalid tokens.


def test_token_that_was_refused_is_not_used_any_more() -> None:
    grant = active()

    assert grant.invalidate(NOW + 5).action == "invalidate"

    assert grant.next_step(NOW + 5, 60) is NextStep.REFRESH
    assert grant.next_step(NOW + 5, 60, held=5) is NextStep.WAIT
    grant.refresh(NOW + 5)
    grant.receive(renewed(), NOW + 6)
    assert grant.next_step(NOW + 6, 60) is NextStep.USE


def test_token_that_was_refused_without_a_refresh_is_the_end() -> None:
    grant = active(token=first_token(None, None))
    grant.invalidate(NOW + 5)

    assert grant.next_step(NOW + 5, 60) is NextStep.LOSE
    grant.lapse(NOW + 5)
    assert grant.reason is Loss.INVALIDATED


# The login, and the need of one.


def needed(at: float = NOW) -> tuple[Grant, Need]:
    grant = wanted()
    grant.raise_need("n1", Secret("LINK"), at)
    assert grant.need is not None
    return grant, grant.need


def test_need_is_raised_notified_each_day_and_ended_by_a_login() -> None:
    grant = wanted()
    assert grant.need_to_tell(NOW) is None

    raised = grant.raise_need("n1", Secret("LINK"), NOW)

    assert (raised.action, raised.detail, grant.seq) == ("need", "need n1", 1)
    need = grant.need_to_tell(NOW)
    assert need is not None
    assert (need, grant.notify_at) == (grant.open_need, NOW)
    assert grant.notified(need, NOW + 1).detail == "need n1"
    assert grant.need_to_tell(NOW + NOTIFY_AGAIN) is None
    assert grant.need_to_tell(NOW + 1 + NOTIFY_AGAIN) is not None
    assert grant.need_to_tell(NOW - 3600) is not None  # the clock was set back
    given = grant.log_in(first_token(), SERVER, NOW + 60, flow_id="f1", issued_at=NOW + 50)
    assert (given.detail, grant.flow_id) == ("login f1; the need n1 ended", "f1")
    assert (grant.issued_at, grant.generation, grant.state) == (NOW + 50, 1, ACTIVE)
    assert grant.open_need is None
    ended = grant.need_to_tell(NOW + 60)
    assert ended is not None
    assert (ended.ended_at, ended.end, ended.notified) == (NOW + 60, "logged_in", 1)
    assert grant.notified(ended, NOW + 61).detail == "the end of the need n1"
    assert grant.notify_at is None


def test_need_that_lasts_goes_on_when_it_is_raised_again() -> None:
    grant, need = needed()

    assert grant.raise_need("n2", Secret("OTHER"), NOW + 1).detail == "need n1"

    assert grant.need == need


def test_need_that_the_grant_does_not_have_is_not_told() -> None:
    grant, need = needed()
    other = need._replace(id="n0")
    assert (grant.knows(need), grant.knows(other)) == (True, False)
    for tell in (grant.notified, grant.not_notified):
        with pytest.raises(IllegalTransitionError):
            tell(other, NOW)


def test_notification_that_failed_is_tried_again_ever_later() -> None:
    grant, _ = needed()
    waits = []
    now = NOW
    for _ in range(20):
        need = grant.need_to_tell(now)
        assert need is not None
        failed = grant.not_notified(need, now)
        assert failed.action == "notify_failed"
        assert grant.need_to_tell(now) is None
        assert failed.wait is not None
        waits.append(failed.wait)
        assert grant.notify_at is not None
        now = grant.notify_at
    assert 20 < waits[0] < 60 < waits[-1] <= 3600 * 1.25
    need = grant.need_to_tell(now)
    assert need is not None
    grant.notified(need, now)
    assert grant.need is not None
    assert (grant.need.failures, grant.need.notified) == (0, 1)


def test_end_that_came_while_the_program_was_told_of_the_need_is_told_as_well() -> None:
    grant, need = needed()
    grant.log_in(first_token(), SERVER, NOW + 5, flow_id="f1")

    grant.notified(need, NOW + 6)

    ended = grant.need_to_tell(NOW + 6)
    assert ended is not None
    assert (ended.id, ended.lasts, ended.notified) == ("n1", False, 1)


@pytest.mark.parametrize("told", ["not yet", "failed", "by nobody"])
def test_end_of_a_need_that_nobody_was_told_of_is_not_told(told: str) -> None:
    grant = wanted()
    later = NOW + NOTIFY_AGAIN if told == "not yet" else None
    grant.raise_need("n1", Secret("LINK"), NOW, notify_at=later)
    if told == "failed":
        assert grant.need is not None
        grant.not_notified(grant.need, NOW + 1)

    grant.log_in(first_token(), SERVER, NOW + 5, flow_id="f1")

    assert (grant.notify_at, grant.need_to_tell(NOW + 5000)) == (None, None)


# Outages, of which the program is told as of a need, and for which nobody needs to log in.


def silent(result: Response | Failure = CRASHED, after: float = 60.0) -> tuple[Grant, float]:
    """Return a grant whose server gave no usable answer for as long."""
    grant, now = active(), NOW + 1000
    while grant.outage is None or (grant.notify_at is None and now < NOW + 5000):
        grant.refresh(now)
        grant.receive(result, now, outage_after=after)
        now = grant.due_at
    return grant, grant.moved_at


@pytest.mark.parametrize("result", [CRASHED, UNSENT, BUSY, answer(403, "<html>")])
def test_outage_that_lasts_is_told_once_and_its_end_once(result: Response | Failure) -> None:
    grant, now = silent(result)
    outage = grant.need_to_tell(now)
    assert outage is not None
    assert (outage.is_outage, outage.since, now - outage.since >= 60) == (True, NOW + 1000, True)
    assert grant.unanswered_since == NOW + 1000
    assert grant.unanswered == grant.failures >= 3
    told = LoginNeed.of(grant, outage, "https://jobs.example.com")
    assert (told.kind, told.link) == ("outage", None)
    assert "Nobody needs to log in" in told.in_words()
    assert told.command == "deviceflow status nightly"

    assert grant.notified(outage, now).detail == f"outage {outage.id}"
    grant.refresh(now)
    grant.receive(result, now, outage_after=60.0)
    assert grant.need_to_tell(now + 10 * NOTIFY_AGAIN) is None
    grant.refresh(now)
    grant.receive(renewed(), now)

    ended = grant.need_to_tell(now)
    assert ended is not None
    assert (ended.id, ended.end) == (outage.id, "answered")
    told = LoginNeed.of(grant, ended, None)
    assert (told.kind, "the server answers again" in told.in_words()) == ("outage_ended", True)
    assert grant.notified(ended, now).detail == f"the end of the outage {outage.id}"
    assert grant.notify_at is None


def test_outage_that_nobody_was_told_of_ends_in_silence() -> None:
    for grant in (silent()[0], silent(after=inf)[0]):
        grant.refresh(NOW + 6000)
        grant.receive(renewed(), NOW + 6000)

        assert (grant.notify_at, grant.unanswered_since, grant.unanswered) == (None, None, 0)


def test_two_requests_that_failed_are_no_outage_to_tell_of() -> None:
    grant = doubtful()
    grant.refresh(NOW + 5000)
    grant.receive(CUT, NOW + 5000, outage_after=60.0)

    assert (grant.unanswered, grant.notify_at) == (2, None)


def test_next_outage_is_another_one_and_the_end_of_the_last_one_is_still_told() -> None:
    grant, now = silent()
    first = grant.need_to_tell(now)
    assert first is not None
    grant.notified(first, now)
    grant.refresh(now)
    grant.receive(renewed(), now)

    grant.refresh(now + 900)
    grant.receive(UNSENT, now + 900)

    ended = grant.need_to_tell(now + 900)
    assert ended is not None
    assert (ended.id, grant.unanswered_since) == (first.id, now + 900)
    assert grant.outage is not None
    assert grant.outage.id != first.id
    grant.notified(ended, now + 901)
    assert grant.untold == ()


@pytest.mark.parametrize(
    ("finish", "end"),
    [
        (lambda g, now: g.log_in(first_token(), SERVER, now, flow_id="f2"), "logged_in"),
        (lambda g, now: g.log_out(now), "logged_out"),
        (lambda g, now: (g.refresh(now), g.receive(REFUSED, now)), "answered"),
        (lambda g, now: (g.late_answer(late(), 1, now), g.use_late_answer(now)), "late_answer"),
    ],
)
def test_whatever_ends_a_grants_silence_ends_the_outage(
    finish: Callable[[Grant, float], object], end: str
) -> None:
    grant, now = silent()
    outage = grant.need_to_tell(now)
    assert outage is not None
    grant.not_notified(outage, now)
    outage = grant.need_to_tell(now + 5000)
    assert outage is not None
    grant.notified(outage, now)

    finish(grant, now)

    assert grant.outage is not None
    assert (grant.outage.end, grant.unanswered_since) == (end, None)
    told = grant.need_to_tell(now)
    assert told is not None
    assert LoginNeed.of(grant, told, None).kind == "outage_ended"


def test_outage_on_record_says_so() -> None:
    read = again(silent()[0])
    assert read.outage is not None
    assert read.outage.is_outage


def test_need_is_told_once_somebody_asks_who_does_not_log_in_there() -> None:
    grant = wanted()
    grant.raise_need("n1", Secret("LINK"), NOW, notify_at=NOW + NOTIFY_AGAIN)
    assert grant.open_need is not None
    assert grant.open_need.is_reserved(NOW)

    grant.raise_need("n2", Secret("OTHER"), NOW + 5)

    need = grant.need_to_tell(NOW + 5)
    assert need is not None
    assert (need.id, need.since) == ("n1", NOW)
    for tell in (grant.not_notified, grant.notified):
        tell(need, NOW + 5)
        assert grant.open_need is not None
        assert not grant.open_need.is_reserved(NOW + 5)


def test_end_of_a_need_is_told_after_the_next_one_arose() -> None:
    grant, first = needed()
    grant.notified(first, NOW + 1)
    grant.log_in(first_token(None, None), SERVER, NOW + 5, flow_id="f1")
    grant.invalidate(NOW + 6)
    grant.lapse(NOW + 6)
    grant.raise_need("n2", Secret("OTHER"), NOW + 7)

    told = []
    while (need := grant.need_to_tell(NOW + 8)) is not None:
        told.append((need.id, need.lasts))
        grant.notified(need, NOW + 8)

    assert told == [("n1", False), ("n2", True)]
    assert grant.untold == ()


def test_needs_whose_end_is_untold_are_kept_up_to_a_number() -> None:
    grant = wanted()
    for number in range(MOST_UNTOLD + 3):
        grant.raise_need(f"n{number}", Secret("LINK"), NOW)
        assert grant.need is not None
        grant.notified(grant.need, NOW)
        grant.end_need(NOW)
    assert [need.id for need in grant.untold] == ["n2", "n3", "n4", "n5"]
    need = grant.untold[1]
    grant.not_notified(need, NOW)
    assert [need.id for need in grant.untold] == ["n2", "n3", "n4", "n5"]
    grant.notified(need, NOW)
    assert [need.id for need in grant.untold] == ["n2", "n4", "n5"]


def test_need_of_an_ended_grant_is_ended_without_a_login() -> None:
    grant = revoked()
    with pytest.raises(IllegalTransitionError):
        grant.end_need(NOW)
    grant.raise_need("n1", Secret("LINK"), NOW + 5)

    assert grant.end_need(NOW + 6).action == "end_need"

    assert grant.need is not None
    assert (grant.need.end, grant.state) == ("logged_out", REVOKED)


def test_codes_of_a_need_are_limited() -> None:
    grant, _ = needed()
    for _ in range(CODES):
        assert grant.need is not None
        assert grant.need.code_wait(NOW + 1) == 0
        assert grant.request_code(NOW + 1).detail == "need n1"
    assert grant.need is not None
    assert grant.need.code_wait(NOW + 1) == CODE_EACH
    assert grant.need.code_wait(NOW + 1 + CODE_EACH) == 0
    assert grant.need.code_wait(NOW - CODE_EACH - 1) == 0  # the clock was set back
    grant.request_code(NOW - CODE_EACH - 1)
    assert grant.need is not None
    assert grant.need.codes_at == NOW - 1
    grant.log_in(first_token(), SERVER, NOW + 60, flow_id="f1")
    with pytest.raises(IllegalTransitionError):
        grant.request_code(NOW + 61)


def test_lost_grant_is_given_tokens_by_the_next_login() -> None:
    grant = lost(subject="alice")

    grant.log_in(first_token(subject="bob"), FORGIVING, NOW + 1000, flow_id="f2")

    assert (grant.reason, grant.detail, grant.generation) == (None, None, 2)
    assert (grant.provider, grant.subject) == (FORGIVING, "bob")


@pytest.mark.parametrize("make", [active, doubtful])
def test_login_replaces_the_tokens_of_a_grant_and_has_them_revoked(
    make: Callable[[], Grant],
) -> None:
    grant = make()
    grant.late_answer(late(), 0, NOW + 901)

    given = grant.log_in(first_token(refresh=None), SERVER, NOW + 950, flow_id="f2")

    assert (given.detail, grant.state, grant.generation) == ("login f2", ACTIVE, 2)
    assert (refresh_token(grant), grant.replaced, grant.aside) == (None, Secret("ACCESS-1"), ())
    assert [secret.reveal() for _, secret in grant.to_revoke] == [
        *("REFRESH-1", "ACCESS-1"),
        *("LATE-REFRESH-1", "LATE-ACCESS-1"),
    ]
    assert not grant.in_doubt


def test_login_waits_for_the_refresh_in_flight() -> None:
    with pytest.raises(IllegalTransitionError):
        refreshing().log_in(first_token(), SERVER, NOW + 950, flow_id="f2")


# The end.


def test_logging_out_wipes_the_tokens_and_has_them_revoked() -> None:
    grant = active()
    grant.late_answer(late(), 1, NOW + 1)

    ended = grant.log_out(NOW + 2)

    assert (ended.dest, ended.detail) == (REVOKED, None)
    assert (grant.token, grant.aside, grant.revocations) == (None, (), 4)
    assert grant.replaced == Secret("ACCESS-1")
    assert b"token=REFRESH-1" in grant.revocation().body


@pytest.mark.parametrize(
    "other",
    [
        replace(SERVER, revocation_endpoint="https://other.example.com/revoke"),
        replace(SERVER, client_id="another"),
        WITHOUT_REVOCATION,
    ],
)
def test_tokens_that_are_left_to_revoke_are_never_sent_to_the_next_server(other: OAuth) -> None:
    grant = revoked()

    again = grant.log_in(first_token(), other, NOW + 2, flow_id="f2")

    told = "login f2; revoke the former tokens at https://as.example.com"
    assert again.detail == told
    assert (grant.to_revoke, grant.revocations) == ((), 0)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("alice", "bob", "login f2; the subject is another one than before"),
        ("alice", "alice", "login f2"),
        ("alice", None, "login f2"),
        (None, "bob", "login f2"),
    ],
)
def test_login_of_another_person_than_before_is_on_record(
    before: str | None, after: str | None, told: str
) -> None:
    grant = lost(subject=before)

    again = grant.log_in(first_token(subject=after), SERVER, NOW + 1000, flow_id="f2")

    assert again.detail == told
    assert grant.subject == after


def test_tokens_that_are_left_to_revoke_stay_after_a_login_at_the_same_server() -> None:
    grant = revoked()

    again = grant.log_in(first_token(), SERVER, NOW + 2, flow_id="f2")

    assert (again.detail, grant.revocations) == ("login f2", 2)
    assert b"token=REFRESH-1" in grant.revocation().body


def test_tokens_that_the_server_cannot_revoke_are_told_of() -> None:
    grant = active(WITHOUT_REVOCATION)

    assert grant.log_out(NOW).detail == "the tokens were wiped: revoke them at the server"
    assert grant.revocations == 0
    assert wanted().log_out(NOW).detail is None


@pytest.mark.parametrize(
    ("result", "action", "left", "waits"),
    [
        (answer(200, ""), "revoke", 1, False),
        (answer(400, {"error": "unsupported_token_type"}), "revoke_failed", 1, False),
        (BUSY, "revoke_failed", 2, True),
        (answer(429, ""), "revoke_failed", 2, True),
        (UNSENT, "revoke_failed", 2, True),
    ],
)
def test_revocation_is_done_refused_or_tried_again(
    result: Response | Failure, action: str, left: int, waits: bool
) -> None:
    grant = revoked()

    received = grant.receive_revocation(result, NOW + 10, duration=0.5)

    assert (received.action, received.duration) == (action, 0.5)
    assert grant.revocations == len(grant.to_revoke) == left
    assert (received.wait is not None) is waits
    assert grant.due_at == NOW + 10 + (received.wait or 0)
    assert bool(grant.failures) is waits


def test_resealing_changes_nothing_else() -> None:
    grant = active()
    before = hidden(grant)

    assert grant.reseal(NOW + 1).action == "reseal"
    assert hidden(grant) == before


# As a record.


def hidden(grant: Grant) -> dict[str, Any]:
    return {kind: grant_codec.hidden_part(grant, kind) for kind in grant_codec.KINDS}


def again(grant: Grant) -> Grant:
    record = json.loads(json.dumps(grant_codec.open_part(grant)))
    kept = json.loads(json.dumps(hidden(grant)))
    read = Grant(grant.id, grant.name, grant.asked, grant.created_at)
    read.provider, read.head = grant.provider, grant.head
    grant_codec.fill(read, record)
    for kind in grant_codec.KINDS:
        if kept[kind] is not None:
            grant_codec.fill_hidden(read, kind, kept[kind])
    return read


def needing() -> Grant:
    grant = lost()
    grant.raise_need("n1", Secret("LINK"), NOW + 902)
    assert grant.need is not None
    grant.notified(grant.need, NOW + 903)
    grant.end_need(NOW + 904)
    grant.raise_need("n2", Secret("LINK-2"), NOW + 905)
    return grant


def laden() -> Grant:
    grant = doubtful(subject="alice")
    grant.refresh(NOW + 999)
    grant.late_answer(late(), 1, NOW + 1000)
    return grant


@pytest.mark.parametrize("make", [*IN.values(), needing, laden], ids=lambda make: make.__name__)
def test_record_has_all_of_a_grant(make: Callable[[], Grant]) -> None:
    grant = make()

    read = again(grant)

    for name in {*vars(grant)} - {"replaced", "as_stored", "token", "aside"}:
        assert getattr(read, name) == getattr(grant, name), name
    assert hidden(read) == hidden(grant)


def test_open_part_has_no_secret() -> None:
    for make in (*IN.values(), needing, laden):
        shown = json.dumps(grant_codec.open_part(make()))
        assert not [word for word in ("ACCESS", "REFRESH", "LINK", "LATE") if word in shown]


NEEDED: Final[dict[str, Any]] = grant_codec.open_part(needing())["need"]
NOT_NEEDED: Final[tuple[dict[str, Any], ...]] = (
    {"id": 1},
    {"since": "now"},
    {"notify_at": "now"},
    {"notified": -1},
    {"failures": None},
    {"host": 5},
    {"codes_at": None},
    {"ended_at": NOW},
    {"end": "logged_in"},
    {"ended_at": NOW, "end": "forgotten"},
)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": -1},
        {"generation": "1"},
        {"invalid": 1},
        {"issued_at": "now"},
        {"issued_at": float("nan")},
        {"state": "polling"},
        {"reason": "refused"},
        {"detail": 5},
        *({"need": NEEDED | change} for change in NOT_NEEDED),
        *({"untold": [NEEDED | change]} for change in NOT_NEEDED),
        {"need": ["n1"]},
        {"untold": None},
        {"outage": NEEDED | {"since": "now"}},
        {"need": NEEDED | {"reason": "whim"}},
    ],
)
def test_record_that_no_grant_has_is_refused(change: dict[str, Any]) -> None:
    record = grant_codec.open_part(active())

    with pytest.raises((ValueError, TypeError)):
        grant_codec.fill(wanted(), record | change)


def test_secrets_without_what_they_belong_to_are_refused() -> None:
    for kind, value in (("refresh", "REFRESH-1"), ("link", "LINK")):
        with pytest.raises(ValueError, match=kind):
            grant_codec.fill_hidden(wanted(), kind, value)  # type: ignore[arg-type]


# A token that the server ended.

ENDING: Final = replace(SERVER, refresh_ends_token=True)


@pytest.mark.parametrize(
    ("provider", "learnt", "ends"),
    [
        (ENDING, False, True),
        (replace(SERVER, quirks=replace(RFC8628, refresh_ends_token=True)), False, True),
        (SERVER, True, True),
        (SERVER, False, False),
        (replace(ENDING, refresh_ends_token=False), True, False),
    ],
)
def test_no_token_is_given_that_a_refresh_may_have_ended(
    provider: OAuth, learnt: bool, ends: bool
) -> None:
    def having(make: Callable[..., Grant]) -> Grant:
        grant = make(NOW + 600, provider=provider)
        grant.ends_old = learnt
        return again(grant)

    assert having(refreshing).next_step(NOW + 601, 60, held=5) is (
        NextStep.WAIT if ends else NextStep.USE
    )
    unanswered = having(doubtful)  # sent again with a back-off, as in each outage
    again_at = unanswered.due_at
    assert unanswered.next_step(NOW + 602, 60) is (NextStep.BACK_OFF if ends else NextStep.USE)
    assert unanswered.next_step(again_at, 60) is (NextStep.REFRESH if ends else NextStep.USE)
    assert (unanswered.wake_at == again_at) is ends
    postponed, restored = having(refreshing), having(lambda _, **how: active(**how))
    postponed.receive(BUSY, NOW + 601)
    restored.doubt(NOW + 600)
    for grant in (postponed, restored):  # the server has not taken note of a refresh
        assert grant.next_step(NOW + 602, 60) is NextStep.USE


@pytest.mark.parametrize(
    ("case", "learnt"),
    [
        ({}, True),
        ({"generation": 2}, False),
        ({"expires_at": NOW + 700}, False),  # it has expired anyway
        ({"expires_at": None}, False),
        ({"after": QUIET}, False),
        ({"refused_before": True}, False),  # which is why it was refreshed
        ({"provider": replace(SERVER, refresh_ends_token=False)}, False),
        ({"state": "refresh"}, False),
    ],
)
def test_refusal_of_the_former_token_right_after_a_refresh_tells_that_this_ended_it(
    case: dict[str, Any], learnt: bool
) -> None:
    grant = active(case.get("provider", SERVER))
    if "refused_before" in case:
        grant.invalidate(NOW + 690)
    grant.refresh(NOW + 700)
    grant.receive(renewed(), NOW + 701)
    if "state" in case:
        grant.refresh(NOW + 702)
    expires_at = case.get("expires_at", NOW + LIFE)

    told = grant.learn_end(
        case.get("generation", 1), expires_at, NOW + 701 + case.get("after", 5.0)
    )

    assert ((told is not None), again(grant).ends_old, grant.invalid) == (learnt, learnt, False)
    if told is not None:
        assert (told.action, told.detail) == (
            "invalidate",
            "a refresh ends the former access token at this server",
        )


def test_refusal_in_doubt_tells_the_same() -> None:
    for before, learnt in ((NOW + 700, True), (NOW + 999, False)):
        grant = doubtful(before)
        grant.invalidate(before + 2)
        assert (grant.ends_old, grant.invalid, grant.wake_at == grant.due_at) == (
            *(learnt, True, True),
        )


def test_refused_token_is_looked_after_at_once_also_if_nothing_can_refresh_it() -> None:
    for token in (first_token(), first_token(refresh=None), first_token(None)):
        grant = active(token=token)
        grant.invalidate(NOW + 5)
        assert grant.wake_at == grant.due_at <= NOW + 5
        assert [grant.is_quiet(NOW + 5 + passed) for passed in (0, QUIET - 1, QUIET, -1)] == [
            *(True, True, False, False),
        ]


# What callers see.


def test_view_and_repr_show_no_secret() -> None:
    for make in (*IN.values(), needing, laden):
        grant = make()
        view = GrantView.of(Stored(grant, NOW, NOW - 5))
        shown = f"{grant!r} {view!r} {json.dumps(view.to_dict())}"
        assert not [word for word in ("ACCESS", "REFRESH", "LINK", "LATE") if word in shown]
        assert view.to_dict()["state"] == grant.state
        assert "nightly" in shown


def test_access_token_is_all_that_a_program_gets() -> None:
    token = AccessToken.of(active())

    assert token.as_dict() == {
        "access_token": "ACCESS-1",
        "token_type": "Bearer",
        "expires_at": NOW + LIFE,
        "scope": "read write",
    }
    assert "ACCESS" not in repr(token)
    bare = Token(Secret("ACCESS-1"))
    assert AccessToken.of(active(token=bare)).as_dict() == {
        "access_token": "ACCESS-1",
        "token_type": "Bearer",
    }


def test_copy_goes_its_own_way() -> None:
    grant = active()
    copy = grant.copy()

    copy.refresh(NOW + 900)

    assert (grant.state, copy.state) == (ACTIVE, REFRESHING)


# Whatever happens, in every order.

UNKNOWN: Final = Need("n0", "logged_out", NOW, Secret("LINK"), NOW)

HAPPENINGS: Final[dict[str, Callable[[Grant, float], Transition]]] = {
    "need": lambda grant, now: grant.raise_need("n1", Secret("LINK"), now),
    "notified": lambda grant, now: grant.notified(grant.need or UNKNOWN, now),
    "not notified": lambda grant, now: grant.not_notified(grant.need or UNKNOWN, now),
    "request code": lambda grant, now: grant.request_code(now),
    "end need": lambda grant, now: grant.end_need(now),
    "log in": lambda grant, now: grant.log_in(first_token(), SERVER, now, flow_id="f1"),
    "refresh": lambda grant, now: grant.refresh(now),
    "recover": lambda grant, now: grant.recover(now),
    "doubt": lambda grant, now: grant.doubt(now),
    "renew": lambda grant, now: grant.receive(renewed(), now),
    "refused": lambda grant, now: grant.receive(REFUSED, now),
    "busy": lambda grant, now: grant.receive(BUSY, now),
    "cut": lambda grant, now: grant.receive(CUT, now),
    "late": lambda grant, now: grant.late_answer(late(), 1, now),
    "use late": lambda grant, now: grant.use_late_answer(now),
    "invalidate": lambda grant, now: grant.invalidate(now),
    "lapse": lambda grant, now: grant.lapse(now),
    "log out": lambda grant, now: grant.log_out(now),
    "reseal": lambda grant, now: grant.reseal(now),
}


def kind_of(grant: Grant) -> tuple[Any, ...]:
    return (
        *(grant.state, grant.reason, min(grant.replays, 2), grant.invalid),
        *(
            bool(grant.aside),
            bool(grant.to_revoke),
            grant.open_need is not None,
            grant.outage is not None and grant.outage.lasts,
            min(grant.failures, 3),
        ),
    )


def test_whatever_happens_to_a_grant_keeps_its_record_whole() -> None:
    front, seen, refused, at = [wanted()], {kind_of(wanted())}, 0, NOW
    while front:
        at += 1
        following = []
        for before in front:
            for happen in HAPPENINGS.values():
                grant = again(before)
                try:
                    moved = happen(grant, at)
                except IllegalTransitionError:
                    refused += 1
                    assert (grant.state, grant.seq) == (before.state, before.seq)
                    assert hidden(grant) == hidden(before)
                    continue
                assert (moved.source, moved.dest) == (before.state, grant.state)
                assert grant.state is moved.action.grant[before.state]
                assert grant.seq == before.seq + 1
                assert (grant.token is not None) == grant.state.gives_tokens
                assert (grant.reason is not None) == (grant.state is LOST)
                assert grant.generation >= before.generation
                assert len(grant.to_revoke) == grant.revocations
                assert grant.state is not REVOKED or not grant.aside
                if kind_of(grant) not in seen:
                    seen.add(kind_of(grant))
                    following.append(grant)
        front = following
    assert refused > 100
    assert {state for state, *_ in seen} == set(GrantState)


# Long after the end.


def test_grant_is_over_long_after_its_end() -> None:
    grant = active()
    assert (grant.ended_at, grant.is_over(inf)) == (None, False)

    grant.lose(Loss.REFUSED, NOW + 10)
    assert [grant.is_over(before) for before in (NOW + 9, NOW + 10)] == [False, True]
    grant.log_out(NOW + 20)
    assert [grant.is_over(before) for before in (NOW + 19, NOW + 20)] == [False, True]
    grant.log_in(first_token(), SERVER, NOW + 30, flow_id="f2")
    assert (grant.ended_at, grant.is_over(inf)) == (None, False)


@pytest.mark.parametrize("end", [lambda g: g.lose(Loss.REFUSED, NOW), lambda g: g.log_out(NOW)])
def test_grant_that_is_needed_is_not_over(
    end: Callable[[Grant], object],
) -> None:
    grant = active()
    end(grant)
    grant.raise_need("n1", Secret("LINK"), NOW + 50)

    assert not grant.is_over(NOW + 60)
    grant.end_need(NOW + 70)
    assert grant.is_over(NOW + 60)


@pytest.mark.parametrize("ahead", [0.0, 30.0, -30.0, 1e8, -1e8])
@pytest.mark.parametrize("age", [0.0, LIFE / 4, LIFE + 1])
def test_tokens_life_counts_by_the_time_since_the_machine_started(ahead: float, age: float) -> None:
    """It was issued at `NOW` by one clock; the reader's is ahead of that."""
    grant = active()
    now = NOW + ahead + age
    by_wall = grant.usable(now)
    grant.issued_clock, grant.issued_uptime = "this start", 500.0

    grant.follow_uptime(now, "this start", 500.0 + age)
    assert grant.usable(now) is (age < LIFE)
    assert grant.is_fresh(now, 0) is (age < LIFE)
    assert grant.left(now) == pytest.approx(LIFE - age, abs=1e-3)

    for clock, uptime in (("another start", 500.0 + age), ("this start", None)):
        grant.follow_uptime(now, clock, uptime)
        assert grant.usable(now) is by_wall


@pytest.mark.parametrize(
    ("back", "said"), [(-5, None), (0, None), (0.4, None), (0.6, 0.6), (1e8, 1e8)]
)
def test_transition_says_by_how_much_the_clock_before_was_ahead(
    back: float, said: float | None
) -> None:
    grant = active()

    assert grant.invalidate(NOW - back).ahead == (said and pytest.approx(said))


def test_grant_that_nobody_logged_in_for_has_not_ended() -> None:
    grant, _ = needed()

    assert not grant.is_over(inf)


@pytest.mark.parametrize(
    ("provider", "revoked", "left"),
    [
        (SERVER, True, None),
        (WITHOUT_REVOCATION, False, "revoke the former tokens at https://as.example.com"),
    ],
)
def test_late_answers_are_revoked_at_the_next_login(
    provider: OAuth, revoked: bool, left: str | None
) -> None:
    grant = active(provider)
    grant.late_answer(late(1), 1, NOW)
    grant.lose(Loss.REFUSED, NOW + 5)  # as where the refresh gave a token of another subject

    log_in = grant.log_in(first_token(), provider, NOW + 10, flow_id="f2")

    tokens = [secret.reveal() for _, secret in grant.to_revoke]
    assert tokens == (["LATE-REFRESH-1", "LATE-ACCESS-1"] if revoked else [])
    assert log_in.detail == "; ".join(filter(None, ["login f2", left]))
    assert grant.aside == ()
    assert grant.wake_at is not None


def test_need_that_nobody_fulfils_is_given_up() -> None:
    grant, _ = needed()
    need = grant.open_need
    assert need is not None
    assert grant.purge_from == grant.created_at
    assert [grant.has_stale_need(at) for at in (need.since - 1, need.since)] == [False, True]
    grant.request_code(NOW + 50)
    assert not grant.has_stale_need(NOW + 50)

    grant.give_up_need(NOW + 1000)

    assert (grant.state, grant.purge_from) == (REVOKED, NOW + 1000)
    assert not grant.has_stale_need(inf)
    assert grant.need_to_tell(NOW + 1000) is None  # nobody knows of it
    grant.raise_need("n2", Secret("LINK"), NOW + 2000)
    grant.give_up_need(NOW + 3000)
    assert (grant.state, grant.ended_at) == (REVOKED, NOW + 1000)


def test_late_answer_ends_the_end() -> None:
    grant = active()
    grant.lose(Loss.REFUSED, NOW)

    grant.late_answer(late(1), 1, NOW + 5)

    assert (grant.state, grant.ended_at) == (ACTIVE, None)


def test_tokens_that_cannot_be_revoked_are_wiped_at_last() -> None:
    grant = active()
    grant.log_out(NOW)
    assert len(grant.to_revoke) == grant.revocations == 2

    abandoned = grant.abandon_revocation(NOW + 90 * 86_400)

    assert (abandoned.action, abandoned.source, abandoned.dest) == (
        "abandon_revocation",
        REVOKED,
        REVOKED,
    )
    assert "revoke the grant's tokens at the server" in str(abandoned.detail)
    assert not grant.to_revoke
    assert (grant.revocations, grant.wake_at) == (0, None)
    assert grant.is_over(NOW)


@pytest.mark.parametrize("name", ["", "a" * 1000, "a\0", "\ud800", None, 5], ids=ascii)
def test_name_that_no_store_keeps_is_refused(name: object) -> None:
    with pytest.raises(UsageError, match="A grant's name is a text of 1 to"):
        check_name(name)
