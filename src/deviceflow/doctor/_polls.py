"""Checks of polls: after the interval, too early, and after an approval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.core.states import State
from deviceflow.core.wire import Failure, Response
from deviceflow.credentials.client_auth import authenticated
from deviceflow.doctor._advice import advise
from deviceflow.doctor._check import Check
from deviceflow.doctor._recorder import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Clock
    from deviceflow.core.provider import Token
    from deviceflow.core.text import SecretMatcher
    from deviceflow.doctor._recorder import Recorder


def first_poll(
    flow: Flow, answer: Response | Failure, after: float, known: SecretMatcher
) -> Iterator[Check]:
    if isinstance(answer, Failure):
        yield Check("poll", "bad", f"No response to the poll: {answer.words}.")
        return
    when = f"{after:.1f} seconds after the code, with an interval of {flow.interval:g}"
    if flow.state is State.AUTHORIZED:
        yield Check("poll", "note", "Somebody has approved the code already.")
    elif flow.state is not State.AWAITING_USER or flow.failures:
        advice, quirk = advise(flow.provider, answer, known, pending=True)
        yield Check(
            "poll",
            "bad",
            "The response to a poll before the approval is not authorization_pending. Status"
            f" {answer.status}: {advice}",
            quirk,
        )
    elif flow.slow_downs:
        yield Check(
            "poll",
            "note",
            f"The first poll got slow_down (status {answer.status}), {after:.1f} seconds after the"
            " code: the server expects a longer interval than it announced.",
            "margin = 1",
        )
    else:
        yield Check("poll", "good", f"Pending, with status {answer.status}, {when}.")
        if answer.status != 400:
            yield Check(
                "poll",
                "note",
                f"The status is {answer.status} instead of 400 (RFC 8628). deviceflow understands"
                " the response, so no setting is necessary.",
            )


def second_poll(
    recorder: Recorder,
    flow: Flow,
    answer: Response | Failure,
    last: float,
    clock: Clock,
    known: SecretMatcher,
) -> Iterator[Check]:
    if isinstance(answer, Failure):
        yield Check("early poll", "note", f"No response to the poll: {answer.words}.")
        return
    after = f"{recorder.exchanges[-1].at - last:.1f} seconds after the previous poll"
    meant = flow.provider.read_token(answer)
    if meant.outcome == "slow_down" or answer.status == 429:
        named = f" The new interval is {meant.interval:g} seconds." if meant.interval else ""
        yield Check(
            "early poll", "good", f"slow_down, with status {answer.status}, {after}.{named}"
        )
    elif meant.outcome == "pending":
        yield Check("early poll", "good", f"Pending, {after}: the server tolerates early polls.")
    elif meant.token is not None:
        yield revoke_unwanted(recorder, flow, meant.token, clock)
    else:
        advice, quirk = advise(flow.provider, answer, known, pending=True)
        yield Check(
            "early poll",
            "note",
            f"Neither pending nor slow_down, {after}. Status {answer.status}: {advice}",
            quirk and quirk.replace("authorization_pending", "slow_down"),
        )


def revoke_unwanted(recorder: Recorder, flow: Flow, token: Token, clock: Clock) -> Check:
    """Revoke a token that was issued although nobody should have approved."""
    secrets = {"refresh_token": token.refresh_token, "access_token": token.access_token}
    revoked = False
    for kind, secret in secrets.items():
        request = secret and flow.provider.revocation_request(secret, kind)
        if request:
            result = recorder.send(authenticated(request, clock.time()), PATIENCE)
            revoked = isinstance(result, Response) and result.status == 200
    done = "the doctor revoked it" if revoked else "revoke it at the server"
    return Check(
        "left behind",
        "note" if revoked else "bad",
        f"Somebody approved the code, so the server issued a token that nobody needs: {done}.",
    )
