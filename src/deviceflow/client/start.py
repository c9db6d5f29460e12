"""The beginning of a login: a device code that is asked for, or one that was issued elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from deviceflow import errors
from deviceflow.client.effects import Load, Sleep, StoreNow
from deviceflow.client.metadata import discover
from deviceflow.client.step import step
from deviceflow.client.wait import watching
from deviceflow.core.explain import error_of
from deviceflow.core.flow import Flow, checked_purpose
from deviceflow.core.machine import State
from deviceflow.core.provider import DeviceCode, Provider
from deviceflow.core.sanitize import endpoint
from deviceflow.credentials import secret_refs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.core.secret import Secret


def create(
    context: Context,
    provider: Provider,
    key: str | None,
    purpose: str | None,
    request: Mapping[str, Any],
) -> Op[Flow]:
    """Keep a new flow in `init`, or return the live flow of the key."""
    purpose = checked_purpose(purpose)  # before anything is sent
    provider = _shared((yield from discover(context, provider.with_request(**request))))
    secret_refs.allow(provider)
    verifier = context.identity.new_verifier() if provider.uses_pkce else None
    now: float = yield StoreNow()
    flow_id = context.identity.new_flow_id()
    flow = Flow(flow_id, provider, now, key=key, verifier=verifier, purpose=purpose)
    kept = yield from context.recorder.add(flow)
    if kept is not flow and (
        kept.purpose != purpose or kept.provider.to_dict() != provider.to_dict()
    ):
        raise errors.UsageError(
            f"A login of the key {key!r} is under way at {kept.provider.server}, and asks for"
            " something else, or for another purpose.",
            flow_id=kept.id,
            state=kept.state,
            hint="Use another key, or end that login first: cancel it, or if it was approved,"
            " acknowledge its token.",
        )
    return kept


def start(
    context: Context,
    provider: Provider,
    key: str | None,
    purpose: str | None,
    request: Mapping[str, Any],
) -> Op[Flow]:
    """Ask the server for a device code, and return the flow that holds it."""
    flow = yield from create(context, provider, key, purpose, request)
    now: float = yield StoreNow()
    if flow.expires_at is not None and flow.expires_at <= now and not flow.state.ended:
        # Nobody came back while that key's code lived. It may have been approved in time.
        done = yield from step(context, flow.id)
        if done.state in (State.EXPIRED, State.FAILED):
            flow = yield from create(context, provider, key, purpose, request)
        else:
            flow = yield Load(flow.id)
    flow = yield from watching(context, flow.id, _ask_for_code(context, flow))
    if flow.reason is not None:
        context.metadata.discard(provider.server)  # it may be why
        raise error_of(flow)
    return flow


def _ask_for_code(context: Context, flow: Flow) -> Op[Flow]:
    while flow.state is State.INIT:
        done = yield from step(context, flow.id)
        if done.state is State.INIT:
            # Another one may be asking already, and have the code in a moment.
            yield Sleep(min(done.wait_seconds, 0.5), flow.id)
        flow = yield Load(flow.id)
    return flow


def adopt(
    context: Context, provider: Provider, token_endpoint: str, device_code: Secret
) -> Op[Flow]:
    """Return a flow that goes on with a device code issued elsewhere."""
    allow_http, server = provider.allow_http, provider.server
    code = DeviceCode(device_code, endpoint(token_endpoint, allow_http=allow_http, server=server))
    flow = yield from create(context, provider, None, None, {})
    adopted = flow.adopt(code, flow.created_at)
    yield from context.recorder.record(flow, adopted, context.identity.worker())
    return flow


@lru_cache(256)
def _shared(provider: Provider) -> Provider:
    """Return the same object for equal settings, which waiting flows then share."""
    return provider
