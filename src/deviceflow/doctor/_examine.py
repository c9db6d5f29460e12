"""The examination: a login up to the point where a person would have to approve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.client._sync import Client
from deviceflow.client.clock import default_clock
from deviceflow.core.flow import Flow
from deviceflow.core.states import Reason, State
from deviceflow.core.text import SecretMatcher
from deviceflow.core.wire import Failure
from deviceflow.credentials.client_auth import authenticated
from deviceflow.doctor._advice import advise
from deviceflow.doctor._check import Check
from deviceflow.doctor._code import code_answer, practice, server_clock
from deviceflow.doctor._discovery import discovery, no_discovery
from deviceflow.doctor._polls import first_poll, revoke_unwanted, second_poll
from deviceflow.doctor._recorder import PATIENCE
from deviceflow.doctor._tls import origins, transport_security
from deviceflow.errors import DeviceFlowError, ServerError
from deviceflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.ports import Clock, Store
    from deviceflow.doctor._recorder import Recorder
    from deviceflow.providers.oauth import OAuth


def examine(
    recorder: Recorder,
    provider: OAuth,
    *,
    early_poll: bool = False,
    clock: Clock | None = None,
) -> Iterator[Check]:
    """Run a login up to the point where a person would have to approve, and yield checks.

    The doctor requests one code, polls once after the interval, and reports whether the code stays
    open.

    Args:
        recorder: What the requests are sent by.
        provider: The provider to check.
        early_poll: Whether to poll a second time at once, to see how the server reacts.
        clock: The clock.

    Raises:
        DeviceFlowError: The login failed for a reason on this machine.
    """
    clock = clock or default_clock()
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
    flow = _stored(store, login.id)  # the doctor looks closer than a login shows
    try:
        yield from _with_code(client, store, recorder, flow, early_poll=early_poll, clock=clock)
    except (DeviceFlowError, ImportError, KeyboardInterrupt):
        yield _left_behind(code, ends - clock.time())
        raise
    ended = client.get(login.id)
    if ended.reason is Reason.DENIED or ended.state is State.EXPIRED:
        yield Check("left behind", "note", f"The code {code} is not valid any more.")
    elif ended.state is not State.AUTHORIZED:
        client.cancel(login.id, "checked by deviceflow doctor")
        yield _left_behind(code, ends - clock.time())


def _stored(store: Store, flow_id: str) -> Flow:
    stored = store.load(Flow, flow_id)
    assert stored is not None  # noqa: S101  # nobody deletes it
    return stored.record


def _left_behind(code: str, seconds: float) -> Check:
    return Check(
        "left behind",
        "note",
        f"The code {code} remains open at the server for another {max(0, round(seconds))} seconds."
        " Do not approve it: no program waits for the token.",
    )


def _with_code(
    client: Client,
    store: Store,
    recorder: Recorder,
    flow: Flow,
    *,
    early_poll: bool,
    clock: Clock,
) -> Iterator[Check]:
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
    polled_flow = _stored(store, flow.id)  # a flow that has ended has no secrets any more
    if not recorder.of("token"):
        yield Check("poll", "bad", "The code expired before the first poll was due.")
        return
    polled = recorder.of("token")[-1]
    known = SecretMatcher(flow.device_code, flow.verifier, user_code=flow.user_code)
    yield from first_poll(polled_flow, polled.result, polled.at - at, known)
    if polled_flow.token is not None:
        yield revoke_unwanted(recorder, polled_flow, polled_flow.token, clock)
    elif early_poll and not polled_flow.state.ended:
        request = authenticated(polled_flow.request(), clock.time())
        early = recorder.send(request, PATIENCE)
        yield from second_poll(recorder, polled_flow, early, polled.at, clock, known)


def _no_code(provider: OAuth, recorder: Recorder, error: ServerError) -> Iterator[Check]:
    """Explain why the server issued no code."""
    if not (asked := recorder.of("code")):
        yield from no_discovery(recorder, error)
        return
    yield from discovery(provider, recorder.metadata())
    result = asked[-1].result
    if isinstance(result, Failure):
        tried = f"{result.words}, {len(asked)} attempt{'s' * (len(asked) != 1)}"
        yield Check("code", "bad", f"No response from {asked[-1].request.url}: {tried}.")
        return
    advice, quirk = advise(provider, result)
    yield Check(
        "code", "bad", f"The server issued no code. Status {result.status}: {advice}", quirk
    )
