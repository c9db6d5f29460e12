"""What a person is told: where to go, and why there is no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import errors, export
from deviceflow.core.explain import error_of, instructions
from deviceflow.core.flow import Flow
from deviceflow.core.states import Reason, State
from deviceflow.core.text import trusted
from deviceflow.core.wire import Failure
from deviceflow.providers.oauth import OAuth
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    Waiting = Callable[..., Flow]

NOW: Final = 1_800_000_000.0
PAGE: Final = "https://studio.example.com/login"
REASONS: Final = {
    Reason.DENIED: errors.DeniedError,
    Reason.CANCELLED: errors.LoginCancelledError,
    Reason.REJECTED: errors.RejectedError,
    Reason.PROTOCOL: errors.ProtocolError,
    Reason.UNREACHABLE: errors.UnreachableError,
    Reason.OUTCOME_UNKNOWN: errors.OutcomeUnknownError,
    Reason.WRONG_APPROVER: errors.WrongApproverError,
}


def failed(waiting: Waiting, reason: Reason, detail: str | None = None) -> Flow:
    flow = waiting(NOW)
    flow.state, flow.reason, flow.detail = State.FAILED, reason, trusted(detail) if detail else None
    return flow


def authorized(waiting: Waiting) -> Flow:
    flow = waiting(NOW)
    flow.poll(NOW, 10.0)
    flow.receive(answer(200, {"access_token": "TOKEN-CANARY"}), NOW)
    return flow


# Where to go.


def test_page_with_the_code_in_it_is_opened_and_compared(waiting: Waiting) -> None:
    assert instructions(waiting()) == [
        "client asks for access to https://studio.example.com.",
        "Open this page, and check that it shows the code:",
        "",
        f"{PAGE}?code=USER-CANARY",
        "USER-CANARY",
        "",
    ]


def test_page_without_the_code_has_it_entered(waiting: Waiting) -> None:
    flow = waiting()
    flow.verification_uri_complete = None

    assert instructions(flow)[1:] == [
        "Open this page, and enter the code:",
        "",
        PAGE,
        "USER-CANARY",
        "",
    ]


@pytest.mark.parametrize(("client_id", "asks"), [("robot", "robot"), ("\x1b[31mr\n", "r ")])
def test_client_without_a_name_is_told_by_its_id(client_id: str, asks: str) -> None:
    flow = Flow("f1", OAuth(client_id=client_id, issuer="https://as.example.com"), NOW)

    assert instructions(flow)[0] == f"{asks} asks for access to https://as.example.com."


def test_client_without_either_is_this_program(waiting: Waiting) -> None:
    flow = waiting()
    flow.provider = flow.provider.with_request(client_name="")

    assert instructions(flow)[0].startswith("This program asks ")


def test_nothing_that_steers_a_terminal_is_in_the_lines(waiting: Waiting) -> None:
    flow = waiting(verification_uri="java\x1b[2J\nscript:x", user_code="A\u202eB\r")

    assert instructions(flow)[1:4] == ["The server sent no usable URL. The code is:", "", "AB "]


# Why there is no token.


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_is_an_error_of_its_own(waiting: Waiting, reason: Reason) -> None:
    error = error_of(failed(waiting, reason))

    assert type(error) is REASONS[reason]
    assert (error.flow_id, error.state, error.reason) == ("f1", "failed", reason)


def test_code_that_died_is_expired(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.expire(NOW + 600)

    assert type(error_of(flow)) is errors.ExpiredError


def test_login_that_goes_on_is_pending(waiting: Waiting) -> None:
    error = error_of(waiting(NOW))

    assert type(error) is errors.WaitTimeoutError
    assert error.state == "awaiting-user"


@pytest.mark.parametrize(
    ("reason", "detail", "said"),
    [
        (Reason.REJECTED, "no such client", "The server's message: no such client."),
        (
            Reason.REJECTED,
            "invalid_scope: No such.",
            "The server's message: invalid_scope: No such.",
        ),
        (Reason.DENIED, "access_denied", None),
        (Reason.CANCELLED, "by hand", None),
        (Reason.WRONG_APPROVER, "approved by bob", "Details: approved by bob."),
        (
            Reason.UNREACHABLE,
            "connection",
            "No response from https://studio.example.com: connection failed.",
        ),
        (Reason.UNREACHABLE, "timeout", "No response from https://studio.example.com: timeout."),
        (
            Reason.UNREACHABLE,
            "too_large",
            "No response from https://studio.example.com: the response is too large.",
        ),
        (
            Reason.UNREACHABLE,
            "lease",
            (
                "No response from https://studio.example.com: this machine was too slow, and the"
                " lease ran out before the request was sent."
            ),
        ),
    ],
)
def test_detail_is_told_as_whose_words_it_is(
    waiting: Waiting, reason: Reason, detail: str, said: str | None
) -> None:
    error = error_of(failed(waiting, reason, detail))

    assert error.message == " ".join(filter(None, [error.default_message, said]))


@pytest.mark.parametrize(
    ("detail", "hint"),
    [
        ("invalid_client", "Check the client id"),
        ("invalid_grant", "Start the login again"),
        ("unauthorized_client: device_flow_disabled", "Enable the device grant"),
        ("no such client", "Fix the cause"),
        (None, "Fix the cause"),
    ],
)
def test_refusal_has_a_hint_for_its_error_code(
    waiting: Waiting, detail: str | None, hint: str
) -> None:
    assert hint in str(error_of(failed(waiting, Reason.REJECTED, detail)))


@pytest.mark.parametrize(
    ("reason", "told"), [(Reason.PROTOCOL, True), (Reason.OUTCOME_UNKNOWN, False)]
)
def test_answer_that_was_lost_is_told_of_once(waiting: Waiting, reason: Reason, told: bool) -> None:
    flow = failed(waiting, reason)
    flow.in_doubt = True

    assert ("a token may exist. Look for the token at the" in str(error_of(flow))) == told


def test_doubt_about_a_login_that_goes_on_is_not_told_yet(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.poll(NOW, 10.0)
    flow.receive(Failure("timeout", sent=True), NOW)

    assert flow.in_doubt
    assert "may exist" not in str(error_of(flow))


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (Flow.acknowledge, "was handed over and acknowledged"),
        (Flow.purge, "was purged"),
    ],
)
def test_token_that_is_gone_is_no_pending_one(
    waiting: Waiting, then: Callable[[Flow, float], Any], said: str
) -> None:
    flow = authorized(waiting)
    then(flow, NOW + 1)

    error = error_of(flow)

    assert type(error) is errors.TokenGoneError
    assert said in str(error)
    assert (error.flow_id, error.state) == ("f1", "authorized")


def test_token_that_was_left_out_of_a_record_is_not_called_pending(waiting: Waiting) -> None:
    flow = export.from_dict(export.to_dict(authorized(waiting)))

    with pytest.raises(errors.UsageError, match="exported without its token"):
        raise error_of(flow)
