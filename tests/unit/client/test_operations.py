"""Each operation of a client but the step, driven by a list of calls and results alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import errors
from deviceflow.client import handover, lookup, purge, refresh, start, unsaved, wait
from deviceflow.client.lease import LEASE_MARGIN, Clocks
from deviceflow.client.login import login
from deviceflow.client.step import step
from deviceflow.client.world import Prepared
from deviceflow.core.flow import Flow
from deviceflow.core.login import Login
from deviceflow.core.ports import Stored, Unreadable, UpcomingFlow
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio
from deviceflow.testing import answer
from tests.brief import brief
from tests.listed import (
    NOW,
    STEADY,
    TIMEOUT,
    Call,
    Listed,
    Raised,
    claims,
    commits,
    context,
    held,
    loads,
    releases,
    sends,
    sweep_each,
    tells,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.wire import Response
    from tests.listed import Expected

    CodeAnswer = Callable[..., Response]
    Waiting = Callable[..., Flow]

STUDIO: Final = Studio("https://studio.example.com")
DISCOVERED: Final = OAuth(client_id="robot", issuer="https://as.example.com")
OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device_authorization",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
)
METADATA: Final = answer(
    200,
    {
        "issuer": "https://as.example.com",
        "device_authorization_endpoint": "https://as.example.com/device",
        "token_endpoint": "https://as.example.com/token",
    },
)
PENDING: Final = answer(400, {"detail": "authorization_pending"})
DENIED: Final = answer(400, {"detail": "access_denied"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
TOKEN: Final = Secret("TOKEN-CANARY")
FAILING: Final = Raised(errors.StoreError("The disk is full.", hint="Make room."))
WATCHES: Final = ("watch", None)


def with_token(flow: Flow, now: float = NOW) -> Flow:
    flow.poll(now, TIMEOUT)
    flow.receive(GRANTED, now)
    return flow


def with_token_of_oauth() -> Flow:
    """Return a flow whose token can be revoked."""
    flow = Flow("f1", OAUTH, NOW)
    code = {"device_code": "D", "user_code": "U", "verification_uri": "https://as.example.com/d"}
    flow.receive(answer(200, code), NOW)
    return with_token(flow)


def clocks_at(passed: float) -> tuple[str, Clocks]:
    return "clocks", Clocks(NOW + passed, STEADY + passed)


# Beginning.


def test_create_keeps_a_flow_in_init_and_sends_nothing() -> None:
    driver = Listed(tells(), ("add", lambda add: add.flow), tells())

    flow = driver.run(start.create, context(), STUDIO, "nightly", "the nightly run", {})

    assert driver.names == ["now", "add", "now"]
    assert (flow.state, flow.name, flow.purpose) == (State.INIT, "nightly", "the nightly run")
    assert flow.created_at == NOW


def test_create_returns_the_open_login_of_the_name(waiting: Waiting) -> None:
    theirs = waiting(NOW)
    driver = Listed(tells(), ("add", theirs), tells())

    found = driver.run(start.create, context(), theirs.provider, "nightly", None, {})

    assert found == Login.of(theirs, theirs.wait_seconds(NOW))


def test_create_refuses_a_name_whose_login_asks_for_something_else(waiting: Waiting) -> None:
    driver = Listed(tells(), ("add", waiting(NOW)))

    with pytest.raises(errors.UsageError, match="'nightly' is open already"):
        driver.run(start.create, context(), STUDIO, "nightly", None, {"scopes": ["models"]})


def test_create_fetches_metadata_once_an_hour() -> None:
    shared = context()
    created: list[Expected] = [tells(), ("add", lambda add: add.flow), tells()]
    for passed, fetches in ((0.0, True), (3599.0, False), (3600.0, True)):
        fetched = [sends(METADATA), clocks_at(passed)] if fetches else []
        driver = Listed(clocks_at(passed), *fetched, *created)

        driver.run(start.create, shared, DISCOVERED, None, None, {})

        (add,) = driver.of("add")
        assert add.flow.request().url == "https://as.example.com/device"
        assert driver.names.count("send") == fetches


def test_server_without_metadata_is_unreachable() -> None:
    urls = DISCOVERED.metadata_urls()
    driver = Listed(*[sends(Failure("connection", sent=False)) for _ in urls])

    with pytest.raises(errors.UnreachableError, match="could not be fetched"):
        driver.run(start.create, context(), DISCOVERED, None, None, {})

    assert [send.request.url for send in driver.of("send")] == list(urls)


def test_interrupted_fetching_of_metadata_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        Listed(sends(KeyboardInterrupt())).run(start.create, context(), DISCOVERED, None, None, {})


def test_start_steps_until_there_is_a_code(code_answer: CodeAnswer) -> None:
    created = Flow("f1", STUDIO, NOW)
    driver = Listed(
        tells(),
        ("add", created),
        tells(),
        WATCHES,
        held(created, 0.3),
        ("sleep", None),
        loads(created),
        tells(),
        claims(created),
        sends(code_answer()),
        commits(),
    )

    flow = driver.run(start.start, context(), STUDIO, None, None, {})

    assert flow.state is State.AWAITING_USER
    assert driver.of("sleep") == [Call("sleep", 0.3, "f1")]
    assert driver.names[-2:] == ["send", "issue_code"]


def test_start_forgets_the_metadata_of_a_server_that_refuses() -> None:
    def refused(add: Call) -> Flow:
        flow: Flow = add.flow
        flow.receive(answer(400, {"error": "invalid_client"}), NOW)
        return flow

    shared = context()
    driver = Listed(sends(METADATA), tells(), ("add", refused), tells(), WATCHES)

    with pytest.raises(errors.RejectedError):
        driver.run(start.start, shared, DISCOVERED, None, None, {})

    assert shared.metadata.get(DISCOVERED.server, STEADY) is None


@pytest.mark.parametrize("durable", [True, False])
def test_interrupted_start_cancels_what_nobody_could_go_on_with(durable: bool) -> None:
    created = Flow("f1", STUDIO, NOW)
    cancels: list[Expected] = (
        [] if durable else [loads(created), tells(), commits(), ("wake", None)]
    )
    driver = Listed(
        tells(),
        ("add", created),
        tells(),
        WATCHES,
        claims(created),
        sends(KeyboardInterrupt()),
        commits(),
        *cancels,
    )

    with pytest.raises(KeyboardInterrupt):
        driver.run(start.start, context(durable=durable), STUDIO, None, None, {})

    assert ("cancel" in driver.names) is not durable


def test_adopt_records_the_code_of_another() -> None:
    driver = Listed(tells(), ("add", lambda add: add.flow), commits())

    flow = driver.run(
        start.adopt, context(), STUDIO, "https://studio.example.com/t", Secret("DEVICE-CANARY")
    )

    assert driver.names == ["now", "add", "issue_code"]
    assert (flow.state, flow.expires_at) == (State.AWAITING_USER, None)


# Looking.


def test_get_loads_the_flow(waiting: Waiting) -> None:
    flow = waiting(NOW)
    driver = Listed(loads(flow), tells(NOW + 1))

    assert driver.run(lookup.get, context(), "f1") == Login.of(flow, flow.wait_seconds(NOW + 1))
    assert driver.calls == [Call("load", Flow, "f1", secrets=False), Call("now")]


# Waiting.


def test_wait_steps_and_sleeps_until_the_end(waiting: Waiting) -> None:
    flow, told = waiting(NOW), list[Login]()
    driver = Listed(
        WATCHES,
        claims(flow),
        sends(PENDING),
        commits(),
        ("on_step", None),
        ("sleep", None),
        WATCHES,
        claims(flow, NOW + 5),
        sends(DENIED),
        commits(),
        ("on_step", None),
        loads(flow),
    )

    done = driver.run(wait.wait, context(), "f1", None, told.append)

    assert brief(done) == ("f1", State.FAILED, 0, Reason.DENIED)
    assert driver.of("sleep") == [Call("sleep", 5, "f1")]
    assert driver.of("on_step")[1] == Call("on_step", told.append, done)


def test_wait_ends_with_the_callers_patience(waiting: Waiting) -> None:
    flow = waiting(NOW)
    held_by_others = held(flow, 17.0)
    driver = Listed(
        WATCHES,
        clocks_at(0),
        clocks_at(0),
        held_by_others,
        clocks_at(0),
        ("sleep", None),
        WATCHES,
        clocks_at(3),
        held_by_others,
        clocks_at(3),
    )

    with pytest.raises(errors.WaitTimeoutError) as caught:
        driver.run(wait.wait, context(), "f1", 3, None)

    assert driver.of("sleep") == [Call("sleep", 3, "f1")]
    assert (caught.value.flow_id, caught.value.state) == ("f1", State.AWAITING_USER)


def test_wait_revokes_what_is_left_at_the_end() -> None:
    flow = with_token_of_oauth()
    flow.orphan_token((("access_token", Secret("SECOND")),), NOW)
    driver = Listed(
        WATCHES,
        held(flow, 0.0),
        loads(flow),
        claims(flow),
        sends(answer(200, "")),
        commits(),
    )

    assert driver.run(wait.wait, context(), "f1", None, None).state is State.AUTHORIZED
    assert driver.names[-2:] == ["send", "revoke"]


def test_what_on_step_raises_ends_the_waiting_only(waiting: Waiting) -> None:
    driver = Listed(WATCHES, held(waiting(NOW), 5.0), ("on_step", Raised(ZeroDivisionError())))

    with pytest.raises(ZeroDivisionError):
        driver.run(wait.wait, context(), "f1", None, print)


def test_wait_for_token_returns_the_token_on_record(waiting: Waiting) -> None:
    flow = waiting(NOW)
    driver = Listed(
        WATCHES,
        claims(flow),
        sends(GRANTED),
        commits(),
        loads(flow),
        loads(flow),
        tells(),
        commits(),
    )

    token = driver.run(wait.wait_for_token, context(), "f1", None)

    assert token.access_token == TOKEN
    assert driver.names[-4:] == ["load", "load", "now", "collect"]


def test_cancel_wakes_whoever_waits(waiting: Waiting) -> None:
    first, second = waiting(NOW), waiting(NOW)
    driver = Listed(
        loads(first), tells(), commits(False), loads(second), tells(), commits(), ("wake", None)
    )

    done = driver.run(wait.cancel, context(), "f1", "no longer wanted")

    assert brief(done) == ("f1", State.FAILED, 0, Reason.CANCELLED)
    assert driver.of("commit")[1].event["detail"] == "no longer wanted"
    assert driver.calls[-1] == Call("wake", "f1")


def test_cancel_leaves_a_flow_that_has_ended(waiting: Waiting) -> None:
    driver = Listed(loads(with_token(waiting(NOW))), tells(), ("wake", None))

    assert driver.run(wait.cancel, context(), "f1", None).state is State.AUTHORIZED


# Handing over.


def test_token_is_given_until_it_is_on_record(waiting: Waiting) -> None:
    first, second = with_token(waiting(NOW)), with_token(waiting(NOW))
    driver = Listed(loads(first), tells(), commits(False), loads(second), tells(), commits())

    assert driver.run(handover.collect_token, context(), "f1") is second.token


def test_there_is_no_token_before_the_end(waiting: Waiting) -> None:
    with pytest.raises(errors.WaitTimeoutError):
        Listed(loads(waiting(NOW))).run(handover.collect_token, context(), "f1")


def test_acknowledged_once_is_acknowledged(waiting: Waiting) -> None:
    flow = with_token(waiting(NOW))
    first, again = Listed(loads(flow), tells(), commits()), Listed(loads(flow), tells())

    done = first.run(handover.acknowledge, context(), "f1")

    assert again.run(handover.acknowledge, context(), "f1") == done
    assert first.names == ["load", "now", "acknowledge"]
    assert flow.token is None


def test_collection_holds_the_lease_until_it_ends(waiting: Waiting) -> None:
    flow = with_token(waiting(NOW))
    driver = Listed(
        loads(flow), claims(flow, NOW, "w1"), commits(), loads(flow), tells(), commits()
    )

    held_token = driver.run(handover.begin_collection, context(), "f1", 1e9)

    claim = driver.of("claim")[0]
    assert (claim.seconds, claim.owner) == (handover.LONGEST_COLLECTION, held_token.owner)
    assert driver.names[1:3] == ["claim", "take_over"]
    assert held_token.token.access_token == TOKEN
    ending = Listed(loads(flow), tells(), commits(), releases())
    ending.run(handover.end_collection, context(), held_token, acknowledged=True)
    assert ending.names == ["load", "now", "acknowledge", "release"]
    abandoned = Listed(releases())
    abandoned.run(handover.end_collection, context(), held_token, acknowledged=False)


def test_collection_by_others_is_an_error(waiting: Waiting) -> None:
    flow = with_token(waiting(NOW))

    with pytest.raises(errors.LoginBusyError) as caught:
        Listed(loads(flow), held(flow, 42.0)).run(handover.begin_collection, context(), "f1", 60)

    assert caught.value.wait_seconds == 42


def test_lease_is_given_back_where_the_collection_fails(waiting: Waiting) -> None:
    flow = with_token(waiting(NOW))
    driver = Listed(loads(flow), claims(flow), ("load", FAILING), releases())

    with pytest.raises(errors.StoreError):
        driver.run(handover.begin_collection, context(), "f1", 60)

    held_token = handover.Collection("f1", "w1", Token(TOKEN))
    with pytest.raises(errors.StoreError):
        Listed(("load", FAILING), releases()).run(
            handover.end_collection, context(), held_token, acknowledged=True
        )


def test_flow_that_cannot_be_taken_over_is_snoozed(waiting: Waiting) -> None:
    flow = with_token(waiting(NOW))
    driver = Listed(loads(flow), claims(flow, NOW, "w1"), ("commit", FAILING), ("put_off", None))

    with pytest.raises(errors.StoreError):
        driver.run(handover.begin_collection, context(), "f1", 60)


# Sweeping and purging.


def looks(*flow_ids: str) -> list[Expected]:
    """Expect that a sweep looks for what is due, and finds these."""
    found = [UpcomingFlow(one, 3, NOW, NOW, STUDIO.url) for one in flow_ids]
    return [("wake_after_clock_change", None), ("foreign_leases", []), ("upcoming", found)]


def test_sweep_steps_what_is_due(waiting: Waiting) -> None:
    driver = Listed(*looks("f1"), claims(waiting(NOW)), sends(PENDING), commits())

    done = driver.run(sweep_each, context(), 100)

    assert [brief(one) for one in done.logins] == [("f1", State.AWAITING_USER, 5, None)]
    assert done.problems == []
    assert driver.names[2:] == ["upcoming", "claim", "poll", "send", "pending"]


def test_sweep_stops_at_its_limit(waiting: Waiting) -> None:
    driver = Listed(*looks("f1", "f2"), claims(waiting(NOW)), sends(PENDING), commits())

    assert len(driver.run(sweep_each, context(), 1).logins) == 1


def test_sweep_leaves_to_others_what_they_have_and_what_is_not_due(waiting: Waiting) -> None:
    early = waiting(NOW)
    early.due_at += 100
    gone = ("claim", Raised(errors.UnknownLoginError(flow_id="f3")))
    driver = Listed(
        *looks("f1", "f2", "f3"),
        claims(early),
        releases(),
        held(early, 5.0),
        gone,
    )

    assert driver.run(sweep_each, context(), 100) == ([], [])


def test_sweep_snoozes_what_it_cannot_step(waiting: Waiting) -> None:
    unreadable = errors.StoreError("It cannot be read.", flow_id="f0")
    driver = Listed(
        *looks("f0", "f1"),
        ("claim", Raised(unreadable)),
        ("put_off", None),
        claims(waiting(NOW)),
        sends(PENDING),
        ("commit", Raised(errors.SealError(flow_id="f1"))),
        ("put_off", None),
    )

    done = driver.run(sweep_each, context(), 100)

    assert [problem.flow_id for problem in done.problems] == ["f0", "f1"]
    assert [call.key for call in driver.of("put_off")] == ["f0", "f1"]


def test_sweep_of_a_store_that_fails_is_an_error() -> None:
    driver = Listed(*looks("f1"), ("claim", Raised(errors.StoreError())))
    with pytest.raises(errors.StoreError):
        driver.run(sweep_each, context(), 100)


def test_purge_wipes_revokes_and_deletes(waiting: Waiting) -> None:
    flow = with_token_of_oauth()
    ended, problem = Stored(waiting(NOW), NOW), errors.StoreError("It cannot be read.")
    driver = Listed(
        tells(NOW + 1e9),
        ("with_token", ["f1"]),
        claims(flow, NOW + 1e9),
        commits(),
        claims(flow, NOW + 1e9),
        sends(answer(200, "")),
        commits(),
        ("with_token", []),
        ("with_revoke", []),
        ("without_secrets", [ended, Unreadable("f9", problem), ended, ended]),
        ("delete", 3),
        ("without_secrets", []),
        ("ended_grants", []),
    )

    assert driver.run(purge.purge, context(), 100, 1000)[:3] == (1, 3, [problem])
    assert [call.event["action"] for call in driver.of("commit")] == ["purge", "revoke"]
    assert driver.of("delete")[0].records == 3 * [ended.record]
    pages = [call for call in driver.calls if call.name.startswith("with")]
    assert [(page.name, page.skip) for page in pages] == [
        ("with_token", 0),
        ("with_token", 0),
        ("with_revoke", 0),
        ("without_secrets", 0),
        ("without_secrets", 1),
    ]


def test_purge_snoozes_what_it_cannot_wipe_and_asks_for_the_page_behind_it(
    waiting: Waiting,
) -> None:
    driver = Listed(
        tells(),
        ("with_token", ["f1"]),
        ("claim", FAILING),
        ("put_off", None),
        ("with_token", ["f1"]),
        ("with_token", []),
        ("with_revoke", []),
        ("without_secrets", []),
        ("ended_grants", []),
    )

    done = driver.run(purge.purge, context(), 100, 1000)

    assert len(done.problems) == 1
    assert [page.skip for page in driver.of("with_token")] == [0, 0, 1]


# Refreshing.


def test_refresh_keeps_what_the_server_leaves_out() -> None:
    token = Token(Secret("OLD"), refresh_token=Secret("REFRESH"))
    driver = Listed(sends(answer(200, {"access_token": "NEW", "token_type": "Bearer"})))

    refreshed = driver.run(refresh.refresh, context(), OAUTH, token)

    assert refreshed.access_token == Secret("NEW")
    assert refreshed.refresh_token == Secret("REFRESH")
    assert driver.names == ["send"]


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (Failure("timeout", sent=True), errors.UnreachableError),
        (answer(503, "busy"), errors.UnreachableError),
        (answer(400, {"error": "invalid_grant"}), errors.RejectedError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_refresh_that_fails_says_why(result: Any, error: type[BaseException]) -> None:
    token = Token(Secret("OLD"), refresh_token=Secret("REFRESH"))

    with pytest.raises(error):
        Listed(sends(result)).run(refresh.refresh, context(), OAUTH, token)


# A login in front of a person.


def test_login_shows_waits_and_acknowledges(waiting: Waiting) -> None:
    flow = waiting(NOW)
    driver = Listed(
        tells(),
        ("add", lambda add: flow),
        tells(),
        WATCHES,
        WATCHES,
        *[("print", None)] * 6,
        ("open_browser", False),
        ("print", None),
        WATCHES,
        claims(flow),
        sends(GRANTED),
        commits(),
        loads(flow),
        loads(flow),
        tells(),
        commits(),
        loads(flow),
        tells(),
        commits(),
    )

    token = driver.run(
        login,
        context(),
        flow.provider,
        None,
        None,
        {},
        open_browser=True,
        timeout=None,
        acknowledges=True,
    )

    assert token.access_token == TOKEN
    assert driver.names[-3:] == ["load", "now", "acknowledge"]
    assert "No browser" in driver.of("print")[-1].line


# Tokens whose commit failed.


def test_commit_of_a_token_is_tried_again_while_the_lease_lasts(waiting: Waiting) -> None:
    shared = context()
    driver = Listed(
        claims(waiting(NOW)),
        sends(GRANTED),
        ("commit", FAILING),
        ("sleep", None),
        ("commit", FAILING),
        ("sleep", None),
        commits(),
    )

    assert driver.run(step, shared, "f1").state is State.AUTHORIZED

    first, *again = driver.of("commit")
    assert all(commit.event is first.event for commit in again)
    assert driver.of("sleep") == [Call("sleep", 1.0), Call("sleep", 1.0)]
    assert shared.unsaved.flow_ids() == []


def test_token_that_cannot_be_committed_is_held_and_saved_by_the_next_step(
    waiting: Waiting,
) -> None:
    shared, flow = context(), waiting(NOW)
    failing = Listed(
        claims(flow),
        sends(GRANTED),
        ("commit", FAILING),
        clocks_at(LEASE_MARGIN),
    )
    with pytest.raises(errors.StoreError, match=r"The disk is full\. The login was approved"):
        failing.run(step, shared, "f1")
    assert shared.unsaved.flow_ids() == ["f1"]

    saving = Listed(commits(), claims(flow), releases())
    assert saving.run(step, shared, "f1").state is State.AUTHORIZED

    assert saving.names == ["issue_token", "claim", "release"]
    assert saving.of("commit")[0].event is failing.of("commit")[0].event
    assert shared.unsaved.flow_ids() == []


def test_unsaved_token_of_a_flow_that_others_moved_is_saved_late(waiting: Waiting) -> None:
    shared, theirs = context(), waiting(NOW)
    theirs.poll(NOW, TIMEOUT)
    theirs.recover(NOW + 30)
    with pytest.raises(KeyboardInterrupt):
        Listed(claims(waiting(NOW)), sends(GRANTED), ("commit", Raised(KeyboardInterrupt()))).run(
            step, shared, "f1"
        )

    saving = Listed(commits(False), tells(), loads(theirs), commits())
    saving.run(unsaved.save, shared, "f1")

    assert saving.names == ["issue_token", "now", "load", "late_token"]
    assert theirs.token is not None
    assert shared.unsaved.flow_ids() == []


def test_unsaved_token_that_may_not_be_taken_is_set_aside_to_be_revoked() -> None:
    """The program does not accept the person who approved, and the store fails just then."""
    shared = context(approver=lambda _: False)
    flow = Flow("f1", OAUTH, NOW)
    code = {"device_code": "D", "user_code": "U", "verification_uri": "https://as.example.com/d"}
    flow.receive(answer(200, code), NOW)
    flow.due_at = NOW
    granted = answer(200, {"access_token": "TOKEN-CANARY", "token_type": "Bearer"})
    with pytest.raises(KeyboardInterrupt):
        Listed(claims(flow), sends(granted), ("commit", Raised(KeyboardInterrupt()))).run(
            step, shared, "f1"
        )
    theirs = Flow("f1", OAUTH, NOW)
    theirs.cancel(NOW)

    saving = Listed(commits(False), tells(), loads(theirs), commits())
    saving.run(unsaved.save, shared, "f1")

    assert saving.names[-1] == "orphan_token"
    assert theirs.to_revoke == (("access_token", TOKEN),)


def test_sweep_saves_tokens_and_tells_of_those_that_it_cannot_save(waiting: Waiting) -> None:
    shared = context()
    with pytest.raises(KeyboardInterrupt):
        Listed(claims(waiting(NOW)), sends(GRANTED), ("commit", Raised(KeyboardInterrupt()))).run(
            step, shared, "f1"
        )
    rest = looks()

    failing = Listed(clocks_at(0), ("commit", FAILING), clocks_at(LEASE_MARGIN), *rest)
    assert [p.flow_id for p in failing.run(sweep_each, shared, 100).problems] == ["f1"]
    assert Listed(commits(), *rest).run(sweep_each, shared, 100) == ([], [])


# What goes on record of a connection.


def test_certificate_that_is_not_checked_is_on_record_before_anything_is_sent(
    waiting: Waiting,
) -> None:
    shared = context()
    unverified = ("prepare", lambda call: Prepared(call.request, unverified=True))
    driver = Listed(claims(waiting(NOW)), unverified, ("append", None), sends(PENDING), commits())
    driver.run(step, shared, "f1")
    again = Listed(claims(waiting(NOW)), unverified, sends(PENDING), commits())
    again.run(step, shared, "f1")

    assert driver.names[2:5] == ["prepare", "append", "send"]
    warnings = [emit for emit in driver.of("emit") if emit.level == logging.WARNING]
    assert [emit.fields for emit in warnings] == [{"url": "https://studio.example.com"}]


def test_address_in_clear_is_committed_with_the_code_and_warned_of(
    code_answer: CodeAnswer,
) -> None:
    flow = Flow("f1", Studio("http://studio.lan", allow_http=True), NOW)
    driver = Listed(
        claims(flow),
        ("check_credentials", None),
        sends(code_answer(token_uri="http://token.lan/t")),
        commits(),
    )

    driver.run(step, context(), "f1")

    note = driver.of("commit")[0].store_event
    assert (note.action, note.detail) == ("plain_http", "f1 at http://token.lan")
    assert driver.of("emit")[-1].fields == {"flow_id": "f1", "url": "http://token.lan"}


def test_refused_commit_is_not_logged(waiting: Waiting) -> None:
    theirs = waiting(NOW)
    driver = Listed(claims(waiting(NOW)), sends(PENDING), commits(False), loads(theirs), releases())

    driver.run(step, context(), "f1")

    assert [emit.fields["action"] for emit in driver.of("emit")] == ["poll"]
