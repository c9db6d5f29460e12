"""One step, driven by a list: what it asks of the world, in which order, and what comes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow import export
from deviceflow.client.lease import LEASE_MARGIN, Clocks
from deviceflow.client.step import step
from deviceflow.core.flow import Flow
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure
from deviceflow.errors import StoreError, UsageError
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
    tells,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.login import Login
    from deviceflow.core.wire import Response
    from tests.listed import Expected

    Waiting = Callable[..., Flow]

PENDING: Final = answer(400, {"detail": "authorization_pending"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})


class Stepping(Listed):
    """Drives one step."""

    def step(self) -> Login:
        return self.run(step, context(), "f1")


def stored(flow: Flow) -> Flow:
    """Return the flow as a store would keep it and give it back."""
    return export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=True))))


def left_polling(flow: Flow, now: float = NOW) -> Flow:
    flow.poll(now, TIMEOUT)
    return flow


def after(flow: Flow, *results: Response | Failure) -> Flow:
    for result in results:
        now = flow.due_at
        flow.poll(now, TIMEOUT)
        flow.receive(result, now)
    return flow


def committed(driver: Listed) -> list[Call]:
    return driver.of("commit")


def confidential(reference: str) -> Flow:
    provider = OAuth(
        client_id="robot",
        client_secret=reference,
        device_authorization_endpoint="https://as.example.com/device_authorization",
        token_endpoint="https://as.example.com/token",
    )
    flow = Flow("f1", provider, NOW)
    code = {"device_code": "DEVICE-CANARY", "user_code": "U", "verification_uri": "https://a.b/"}
    flow.receive(answer(200, code), NOW)
    flow.due_at = NOW
    return flow


def test_poll_is_kept_with_the_lease_and_its_meaning_gives_the_lease_back(
    waiting: Waiting,
) -> None:
    driver = Stepping(claims(waiting(NOW)), sends(PENDING, 2.0), commits())

    report = driver.step()

    assert [call.name for call in driver.calls] == [
        *("clocks", "claim", "emit"),
        *("prepare", "clocks", "send"),
        *("commit", "emit"),
    ]
    _, claim, poll, _, _, send, meaning, logged = driver.calls
    assert claim.name == "claim"
    assert (claim.flow_id, claim.client_now) == ("f1", NOW)
    assert claim.seconds == TIMEOUT + LEASE_MARGIN
    assert poll.name == "emit"
    assert (poll.fields["action"], poll.fields["worker"]) == ("poll", claim.owner)
    assert send.name == "send"
    assert (send.request.purpose, send.timeout) == ("token", TIMEOUT)
    assert json.loads(send.request.body) == {"code": "DEVICE-CANARY"}
    assert meaning.name == "commit"
    assert (meaning.event["action"], meaning.release) == ("pending", claim.owner)
    assert meaning.event["duration"] == 2
    assert logged.name == "emit"
    assert logged.fields is meaning.event
    assert brief(report) == ("f1", State.AWAITING_USER, 5, None)


def test_lease_outlives_the_request() -> None:
    assert LEASE_MARGIN == 10


def test_code_is_asked_for_first_without_a_poll() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)
    driver = Stepping(claims(flow), sends(answer(503, "busy"), 0.1), commits())

    report = driver.step()

    assert driver.names == ["claim", "send", "retry"]
    assert report.state is State.INIT
    assert report.wait_seconds >= 1


def test_nothing_is_sent_before_it_is_due(waiting: Waiting) -> None:
    flow = after(waiting(NOW), PENDING)
    driver = Stepping(claims(flow, flow.due_at - 3), releases())

    report = driver.step()

    assert driver.names == ["claim", "release"]
    assert brief(report) == ("f1", State.AWAITING_USER, 3, None)


@pytest.mark.parametrize("end", [GRANTED, answer(400, {"detail": "access_denied"})])
def test_nothing_is_done_for_a_flow_that_has_ended(waiting: Waiting, end: Response) -> None:
    flow = after(waiting(NOW), end)
    driver = Stepping(claims(flow, NOW + 1e6), releases())

    report = driver.step()

    assert driver.names == ["claim", "release"]
    assert brief(report) == ("f1", flow.state, 0, flow.reason)


@pytest.mark.parametrize(("left", "wait"), [(17.0, 5.0), (2.0, 2.0)])
def test_held_flow_is_left_alone_until_the_lease_is_over_or_the_next_poll_is(
    waiting: Waiting, left: float, wait: float
) -> None:
    driver = Stepping(held(left_polling(waiting(NOW)), left))

    report = driver.step()

    assert driver.names == ["claim"]
    assert brief(report) == ("f1", State.POLLING, wait, None)


def test_lease_by_another_clock_is_restarted_and_not_taken(waiting: Waiting) -> None:
    flow = left_polling(waiting(NOW))
    driver = Stepping(held(flow, 20, 3580), ("restart_lease", None))

    assert brief(driver.step()) == ("f1", State.POLLING, 5, None)

    assert driver.names == ["claim", "restart_lease"]
    assert driver.calls[-1] == Call("restart_lease", "f1", 3580, NOW)


def test_flow_left_behind_in_polling_is_recovered_and_not_polled_too_early(
    waiting: Waiting,
) -> None:
    driver = Stepping(claims(left_polling(waiting(NOW)), NOW + 12, "w1"), commits(), releases())

    report = driver.step()

    assert driver.names == ["claim", "recover", "release"]
    commit = committed(driver)[0]
    assert commit.record.in_doubt
    assert commit.event["detail"] == "the lease of w1 ran out during a poll"
    assert brief(report) == ("f1", State.AWAITING_USER, 3, None)


def test_flow_left_behind_long_ago_is_recovered_and_polled_in_one_step(waiting: Waiting) -> None:
    driver = Stepping(
        claims(left_polling(waiting(NOW)), NOW + 60),
        commits(),
        commits(),
        sends(PENDING, 1.0),
        commits(),
    )

    driver.step()

    assert driver.names == ["claim", "recover", "poll", "send", "pending"]


def test_flow_recovered_after_its_deadline_gets_one_poll(waiting: Waiting) -> None:
    flow = left_polling(waiting(NOW, expires_in=20))
    driver = Stepping(claims(flow, NOW + 60), commits(), commits(), sends(PENDING), commits())

    report = driver.step()

    assert driver.names == ["claim", "recover", "poll", "send", "expire"]
    assert brief(report) == ("f1", State.EXPIRED, 0.0, None)


def test_flow_left_behind_between_two_polls_is_gone_on_with_on_record(waiting: Waiting) -> None:
    driver = Stepping(
        claims(waiting(NOW), NOW, "w1"), commits(), commits(), sends(PENDING, 1.0), commits()
    )

    driver.step()

    assert driver.names == ["claim", "take_over", "poll", "send", "pending"]
    assert committed(driver)[0].event["detail"] == "the lease of w1 ran out between polls"


def test_flow_that_moved_since_the_clock_was_read_is_not_polled_too_early(
    waiting: Waiting,
) -> None:
    flow = after(waiting(NOW), PENDING)
    driver = Stepping(claims(flow, flow.moved_at - 1), tells(flow.moved_at), releases())

    report = driver.step()

    assert driver.names == ["claim", "now", "release"]
    assert report.wait_seconds == pytest.approx(5)


def test_clock_that_was_set_back_makes_nobody_wait_for_what_it_lost(waiting: Waiting) -> None:
    flow, now = waiting(NOW), NOW - 3600
    driver = Stepping(claims(flow, now), tells(now), commits(), sends(PENDING, 1.0), commits())

    report = driver.step()

    assert driver.names == ["claim", "now", "poll", "send", "pending"]
    assert flow.expires_at == now + 600
    assert report.wait_seconds == pytest.approx(5)


@pytest.mark.parametrize("end", [GRANTED, answer(400, {"detail": "access_denied"})])
def test_flow_left_behind_behind_its_end_is_given_back_on_record(
    waiting: Waiting, end: Response
) -> None:
    flow = after(waiting(NOW), end)
    driver = Stepping(claims(flow, NOW + 60, "w1"), commits(), releases())

    report = driver.step()

    assert driver.names == ["claim", "take_over", "release"]
    assert brief(report) == ("f1", flow.state, 0, flow.reason)


def test_flow_left_behind_before_it_asked_for_a_code_asks_for_it() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)
    driver = Stepping(
        claims(flow, NOW, "w1"), commits(), sends(answer(503, "busy"), 0.1), commits()
    )

    driver.step()

    assert driver.names == ["claim", "take_over", "send", "retry"]


def test_life_that_is_over_is_declared_so_without_a_request(waiting: Waiting) -> None:
    flow = after(waiting(NOW, expires_in=4), PENDING)
    driver = Stepping(claims(flow, NOW + 4), commits())

    report = driver.step()

    assert driver.names == ["claim", "expire"]
    commit = committed(driver)[0]
    assert commit.release == commit.event["worker"]
    assert brief(report) == ("f1", State.EXPIRED, 0.0, None)


def test_wait_ends_at_the_deadline_where_no_poll_comes_before_it(waiting: Waiting) -> None:
    busy = answer(503, "busy", Retry_After="3600")
    driver = Stepping(claims(waiting(NOW, expires_in=100)), sends(busy), commits())

    assert driver.step().wait_seconds == 100


def test_flow_without_its_code_gives_the_lease_back_and_says_why(waiting: Waiting) -> None:
    flow = export.from_dict(export.to_dict(waiting(NOW)))
    driver = Stepping(claims(flow), releases())

    with pytest.raises(UsageError, match="without its device code"):
        driver.step()

    assert driver.names == ["claim", "release"]


# Credentials.


def test_secret_that_was_not_begun_with_here_is_checked_before_anything_is_recorded() -> None:
    flow = confidential("env:SOMEBODY_ELSES")
    driver = Stepping(
        claims(flow), ("check_credentials", Raised(UsageError("not allowed"))), releases()
    )

    with pytest.raises(UsageError) as caught:
        driver.step()

    assert driver.names == ["claim", "check_credentials", "release"]
    assert (caught.value.flow_id, caught.value.state) == ("f1", State.AWAITING_USER)
    assert (flow.seq, flow.attempt) == (1, 0)


def test_secret_that_was_checked_is_polled_with_on_the_longer_way() -> None:
    driver = Stepping(
        claims(confidential("env:ALLOWED")),
        ("check_credentials", None),
        commits(),
        sends(answer(400, {"error": "authorization_pending"})),
        commits(),
    )

    driver.step()

    assert driver.names == ["claim", "check_credentials", "poll", "send", "pending"]


@pytest.mark.parametrize("error", [UsageError("no key"), ImportError("no joserfc"), SystemExit()])
def test_credentials_that_cannot_be_had_leave_no_doubt_since_nothing_was_sent(
    waiting: Waiting, error: BaseException
) -> None:
    driver = Stepping(claims(waiting(NOW)), ("prepare", Raised(error)), commits())

    with pytest.raises(type(error)) as caught:
        driver.step()

    assert caught.value is error
    assert driver.names == ["claim", "poll", "prepare", "retry"]
    assert not committed(driver)[0].record.in_doubt


# Interruptions.


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_interrupts_the_sending_is_stored_as_in_doubt_and_then_raised(
    waiting: Waiting, stop: BaseException
) -> None:
    driver = Stepping(claims(waiting(NOW)), sends(stop, 1.0), commits())

    with pytest.raises(type(stop)) as caught:
        driver.step()

    assert caught.value is stop
    assert driver.names == ["claim", "poll", "send", "retry"]
    commit = committed(driver)[0]
    assert (commit.event["detail"], commit.event["duration"]) == ("interrupted", 1)
    assert commit.record.in_doubt


def test_interruption_is_raised_even_where_it_cannot_be_stored(waiting: Waiting) -> None:
    driver = Stepping(
        claims(waiting(NOW)), sends(KeyboardInterrupt()), ("commit", Raised(StoreError()))
    )

    with pytest.raises(KeyboardInterrupt):
        driver.step()


@pytest.mark.parametrize("clock", ["wall", "steady"])
@pytest.mark.parametrize(("passed", "sent"), [(5.0, True), (5.1, False)])
def test_request_is_sent_only_while_the_lease_covers_it(
    waiting: Waiting, clock: str, passed: float, sent: bool
) -> None:
    late = Clocks(NOW, STEADY)._replace(**{clock: Clocks(NOW, STEADY)._asdict()[clock] + passed})
    request = [sends(PENDING)] if sent else []
    driver = Stepping(
        ("clocks", Clocks(NOW, STEADY)),
        claims(waiting(NOW)),
        ("clocks", late),
        *request,
        commits(),
    )

    driver.step()

    assert committed(driver)[0].event["detail"] == (None if sent else "lease")
    assert ("send" in driver.names) is sent


# Others went on meanwhile.


@pytest.mark.parametrize(
    ("end", "wait"), [(None, 5.0), (answer(400, {"detail": "access_denied"}), 0.0)]
)
def test_poll_that_could_not_be_stored_is_not_sent(
    waiting: Waiting, end: Response | None, wait: float
) -> None:
    theirs = after(waiting(NOW), *([end] if end else []))
    driver = Stepping(
        claims(waiting(NOW), NOW, "w1"), commits(), commits(False), loads(theirs), releases()
    )

    report = driver.step()

    assert driver.names == ["claim", "take_over", "poll", "load", "release"]
    assert brief(report) == ("f1", theirs.state, wait, theirs.reason)


@pytest.mark.parametrize("action", ["recover", "take_over"])
def test_recovery_that_came_second_is_not_gone_on_with(waiting: Waiting, action: str) -> None:
    theirs = after(waiting(NOW), PENDING)
    flow = left_polling(waiting(NOW)) if action == "recover" else waiting(NOW)
    driver = Stepping(claims(flow, NOW + 60, "w1"), commits(False), loads(theirs), releases())

    driver.step()

    assert driver.names == ["claim", action, "load", "release"]


def test_expiry_that_came_second_is_not_reported(waiting: Waiting) -> None:
    flow = after(waiting(NOW, expires_in=4), PENDING)
    theirs = stored(flow)
    theirs.cancel(NOW + 4)
    driver = Stepping(claims(flow, NOW + 4), commits(False), loads(theirs), releases())

    report = driver.step()

    assert driver.names == ["claim", "expire", "load", "release"]
    assert brief(report) == ("f1", State.FAILED, 0, Reason.CANCELLED)


def test_answer_that_came_too_late_and_brings_no_token_is_dropped(waiting: Waiting) -> None:
    theirs = after(waiting(NOW), PENDING)
    driver = Stepping(
        claims(waiting(NOW)), sends(PENDING, 60.0), commits(False), loads(theirs), releases()
    )

    report = driver.step()

    assert driver.names == ["claim", "poll", "send", "pending", "load", "release"]
    assert brief(report) == ("f1", State.AWAITING_USER, 5, None)


def test_token_that_came_too_late_is_brought_to_the_flow_as_it_stands_now(
    waiting: Waiting,
) -> None:
    theirs = left_polling(waiting(NOW))
    theirs.recover(NOW + 30)
    driver = Stepping(
        claims(waiting(NOW)), sends(GRANTED, 60.0), commits(False), loads(theirs), commits()
    )

    report = driver.step()

    assert driver.names == ["claim", "poll", "send", "issue_token", "load", "late_token"]
    assert brief(report) == ("f1", State.AUTHORIZED, 0.0, None)
    assert theirs.token is not None
    assert theirs.token.access_token == Secret("TOKEN-CANARY")
    assert not theirs.token.possibly_revoked


def test_late_token_is_brought_until_it_is_taken(waiting: Waiting) -> None:
    first = left_polling(waiting(NOW))
    first.recover(NOW + 30)
    second = stored(first)
    left_polling(second, NOW + 30)
    driver = Stepping(
        claims(waiting(NOW)),
        sends(GRANTED, 60.0),
        commits(False),
        loads(first),
        commits(False),
        loads(second),
        commits(),
    )

    driver.step()

    assert driver.names[-4:] == ["load", "late_token", "load", "late_token"]
    assert second.token is not None
    assert second.token.possibly_revoked


def test_late_token_of_a_cancelled_flow_is_recorded(waiting: Waiting) -> None:
    theirs = left_polling(waiting(NOW))
    theirs.cancel(NOW + 1)
    driver = Stepping(
        claims(waiting(NOW)), sends(GRANTED, 2.0), commits(False), loads(theirs), commits()
    )

    report = driver.step()

    assert driver.names[-2:] == ["load", "orphan_token"]
    assert brief(report) == ("f1", State.FAILED, 0, Reason.CANCELLED)
    assert theirs.orphaned_tokens == 1


# In general.


@pytest.mark.parametrize(
    "result",
    [PENDING, GRANTED, answer(200, "cut"), Failure("timeout", sent=True), answer(503, "busy")],
)
@pytest.mark.parametrize("kept", [True, False])
def test_step_sends_at_most_once_whatever_comes_of_it(
    waiting: Waiting, result: Response | Failure, kept: bool
) -> None:
    theirs: list[Expected] = []
    if not kept:
        theirs = [loads(after(waiting(NOW), PENDING))]
        theirs += [commits() if result is GRANTED else releases()]
    driver = Stepping(claims(waiting(NOW)), sends(result), commits(kept), *theirs)

    driver.step()

    assert driver.names.count("send") == 1


@pytest.mark.parametrize("result", [PENDING, GRANTED])
def test_effects_show_no_secret(waiting: Waiting, result: Response) -> None:
    exchange = sends(result)
    driver = Stepping(claims(waiting(NOW)), exchange, commits())

    report = driver.step()

    assert "CANARY" not in repr([driver.calls, report, exchange[1]])
