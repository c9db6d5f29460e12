"""The examination: a login up to the point where a person would be needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.client._sync import Client
from deviceflow.client.clock import SystemClock
from deviceflow.core.states import Reason, State
from deviceflow.core.text import Known
from deviceflow.core.wire import Failure
from deviceflow.credentials.client_auth import authenticated
from deviceflow.doctor._advice import advise
from deviceflow.doctor._code import code_answer, practice, server_clock
from deviceflow.doctor._discovery import discovery, no_discovery
from deviceflow.doctor._finding import Finding
from deviceflow.doctor._polls import first_poll, revoke_unwanted, second_poll
from deviceflow.doctor._recorder import PATIENCE
from deviceflow.doctor._tls import origins, transport_security
from deviceflow.errors import DeviceFlowError, ServerError
from deviceflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Clock, Store
    from deviceflow.doctor._recorder import Recorder
    from deviceflow.providers.oauth import OAuth


def examine(
    recorder: Recorder,
    provider: OAuth,
    *,
    early_poll: bool = False,
    clock: Clock | None = None,
) -> Iterator[Finding]:
    """Walk through a login up to the point where a person would be needed.

    It asks for one code, polls once after the interval, and says what becomes of the code.

    Args:
        recorder: What the requests are sent by.
        provider: Whom to look at.
        early_poll: Whether to poll once more at once, to see whether the server minds.
        clock: What tells the time, and waits out the interval.

    Raises:
        DeviceFlowError: It could not be gone on with, for a reason on this side.
    """
    clock = clock or SystemClock()
    sound = True
    for origin in origins(provider):
        found = list(transport_security(origin, clock))
        yield from found
        sound = sound and not any(one.verdict == "bad" for one in found)
    if not sound:
        return
    store = MemoryStore()
    client = Client(store, transport=recorder, clock=clock)
    try:
        login = client.start(provider)
    except ServerError as error:
        yield from _no_code(provider, recorder, error)
        return
    code = login.user_code or ""
    ends = login.expires_at or clock.time()
    flow = store.get(login.id)  # the doctor looks closer than a login shows
    try:
        yield from _with_code(client, store, recorder, flow, early_poll=early_poll, clock=clock)
    except (DeviceFlowError, ImportError, KeyboardInterrupt):
        yield _left_behind(code, ends - clock.time())
        raise
    ended = client.get(login.id)
    if ended.reason is Reason.DENIED or ended.state is State.EXPIRED:
        yield Finding("left behind", "note", f"The code {code} is not open any more.")
    elif ended.state is not State.AUTHORIZED:
        client.cancel(login.id, "only looked at")
        yield _left_behind(code, ends - clock.time())


def _left_behind(code: str, seconds: float) -> Finding:
    return Finding(
        "left behind",
        "note",
        f"The code {code} stays open at the server for {max(0, round(seconds))} seconds more. Do"
        " not approve it: nobody waits for its token.",
    )


def _with_code(
    client: Client,
    store: Store,
    recorder: Recorder,
    flow: Flow,
    *,
    early_poll: bool,
    clock: Clock,
) -> Iterator[Finding]:
    provider: Any = flow.provider
    metadata, (_, answered, at) = recorder.metadata(), recorder.of("code")[-1]
    yield from discovery(provider, metadata)
    yield from code_answer(provider, flow, answered)
    yield from practice(provider, flow, answered)
    yield from server_clock(provider, answered, clock)
    while not recorder.of("token") and not client.get(flow.id).state.ended:
        wait = client.step(flow.id).wait_seconds
        if not recorder.of("token"):
            clock.sleep(wait)
    polled_flow = store.get(flow.id)  # a flow that has ended has no secrets any more
    if not recorder.of("token"):
        yield Finding("poll", "bad", "The code's life was over before the first poll was due.")
        return
    polled = recorder.of("token")[-1]
    known = Known(flow.device_code, flow.verifier, user_code=flow.user_code)
    yield from first_poll(polled_flow, polled.result, polled.at - at, known)
    if polled_flow.token is not None:
        yield revoke_unwanted(recorder, polled_flow, polled_flow.token, clock)
    elif early_poll and not polled_flow.state.ended:
        request = authenticated(polled_flow.request(), clock.time())
        early = recorder.send(request, PATIENCE)
        yield from second_poll(recorder, polled_flow, early, polled.at, clock, known)


def _no_code(provider: OAuth, recorder: Recorder, error: ServerError) -> Iterator[Finding]:
    """Say why there is no code."""
    if not (asked := recorder.of("code")):
        yield from no_discovery(recorder, error)
        return
    yield from discovery(provider, recorder.metadata())
    result = asked[-1].result
    if isinstance(result, Failure):
        tried = f"{result.kind}, {len(asked)} times tried"
        yield Finding("code", "bad", f"{asked[-1].request.url} gave no answer: {tried}.")
        return
    said, quirk = advise(provider, result)
    yield Finding("code", "bad", f"No code: status {result.status}, {said}", quirk)
