"""How the server answers polls: on time, too early, and for a code that was approved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.core.states import State
from deviceflow.core.wire import Failure, Response
from deviceflow.credentials.client_auth import authenticated
from deviceflow.doctor._advice import advise
from deviceflow.doctor._finding import Finding
from deviceflow.doctor._recorder import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Clock
    from deviceflow.core.provider import Token
    from deviceflow.core.text import Known
    from deviceflow.doctor._recorder import Recorder


def first_poll(
    flow: Flow, answer: Response | Failure, after: float, known: Known
) -> Iterator[Finding]:
    if isinstance(answer, Failure):
        yield Finding("poll", "bad", f"No answer came to a poll: {answer.kind}.")
        return
    when = f"{after:.1f} seconds after the code, the interval being {flow.interval:g}"
    if flow.state is State.AUTHORIZED:
        yield Finding("poll", "note", "Somebody has approved the code already.")
    elif flow.state is not State.AWAITING_USER or flow.failures:
        said, quirk = advise(flow.provider, answer, known, pending=True)
        yield Finding(
            "poll",
            "bad",
            f"A poll before the approval should be told 'pending', and was told: status"
            f" {answer.status}, {said}",
            quirk,
        )
    elif flow.slow_downs:
        yield Finding(
            "poll",
            "note",
            f"Told to slow down (status {answer.status}) at the first poll, {after:.1f} seconds"
            " after the code: it wants more than the interval that it names.",
            "margin = 1",
        )
    else:
        yield Finding("poll", "good", f"Pending, with status {answer.status}, {when}.")
        if answer.status != 400:
            yield Finding(
                "poll",
                "note",
                f"RFC 8628 says status 400, and not {answer.status}. What it means is understood,"
                " so nothing has to be set.",
            )


def second_poll(
    recorder: Recorder,
    flow: Flow,
    answer: Response | Failure,
    last: float,
    clock: Clock,
    known: Known,
) -> Iterator[Finding]:
    if isinstance(answer, Failure):
        yield Finding("early poll", "note", f"No answer came: {answer.kind}.")
        return
    after = f"{recorder.exchanges[-1].at - last:.1f} seconds after the one before"
    meant = flow.provider.read_token(answer)
    if meant.outcome == "slow_down" or answer.status == 429:
        named = f" It names an interval of {meant.interval:g} seconds." if meant.interval else ""
        yield Finding(
            "early poll", "good", f"Told to slow down (status {answer.status}), {after}.{named}"
        )
    elif meant.outcome == "pending":
        yield Finding("early poll", "good", f"Pending all the same, {after}: it does no harm.")
    elif meant.token is not None:
        yield revoke_unwanted(recorder, flow, meant.token, clock)
    else:
        said, quirk = advise(flow.provider, answer, known, pending=True)
        yield Finding(
            "early poll",
            "note",
            f"Neither pending nor slow_down, {after}: status {answer.status}, {said}",
            quirk and quirk.replace("authorization_pending", "slow_down"),
        )


def revoke_unwanted(recorder: Recorder, flow: Flow, token: Token, clock: Clock) -> Finding:
    """Revoke a token that nobody wanted, and say what became of it."""
    secrets = {"refresh_token": token.refresh_token, "access_token": token.access_token}
    revoked = False
    for kind, secret in secrets.items():
        request = secret and flow.provider.revocation_request(secret, kind)
        if request:
            result = recorder.send(authenticated(request, clock.time()), PATIENCE)
            revoked = isinstance(result, Response) and result.status == 200
    done = "it was revoked" if revoked else "it has to be revoked at the server, by hand"
    return Finding(
        "left behind",
        "note" if revoked else "bad",
        f"Somebody approved the code meanwhile. A token was issued that nobody needs: {done}.",
    )
