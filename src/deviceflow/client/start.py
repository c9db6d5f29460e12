"""The beginning of a login: a device code that is asked for, or one that was issued elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from deviceflow import errors
from deviceflow.client.asking import asked
from deviceflow.client.effects import Sleep, StoreNow
from deviceflow.client.lookup import get
from deviceflow.client.metadata import discover
from deviceflow.client.step import step
from deviceflow.client.wait import watching
from deviceflow.core.explain import error_of
from deviceflow.core.flow import Flow, checked_purpose
from deviceflow.core.login import Login
from deviceflow.core.policy import settings_of
from deviceflow.core.provider import DeviceCode, Provider
from deviceflow.core.sanitize import endpoint
from deviceflow.core.states import State
from deviceflow.credentials import secret_refs

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.core.provider import LoginRequest
    from deviceflow.core.secret import Secret


def create(
    context: Context,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    *,
    needs_approver: bool = False,
) -> Op[Login]:
    """Keep a new login in `init`, or return the open login of that name.

    `needs_approver` is for the login of a grant that needs one, where this process has none.
    """
    flow = yield from _create(context, provider, name, purpose, request, needs_approver)
    now: float = yield StoreNow()
    return Login.of(flow, flow.wait_seconds(now))


def _create(
    context: Context,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    needs_approver: bool = False,
) -> Op[Flow]:
    purpose = checked_purpose(purpose)  # before anything is sent
    wanted = asked(provider, request)
    provider = _shared((yield from discover(context, wanted)))
    secret_refs.allow(provider)
    verifier = context.identity.new_verifier() if provider.uses_pkce else None
    now: float = yield StoreNow()
    flow_id = context.identity.new_flow_id()
    flow = Flow(
        flow_id,
        provider,
        now,
        name=name,
        verifier=verifier,
        purpose=purpose,
        settings=settings_of(wanted),
        needs_approver=needs_approver or context.approver is not None,
    )
    kept = yield from context.recorder.add(flow)
    if kept is not flow and (
        kept.purpose != purpose
        or kept.provider.to_dict() != provider.to_dict()
        # With a policy of its own, this process applies it to whatever token others bring.
        or (needs_approver and not kept.needs_approver and context.approver is None)
    ):
        raise errors.UsageError(
            f"A login of the name {name!r} is open already at {kept.provider.server}, and asks for"
            " something else, or for another purpose.",
            flow_id=kept.id,
            state=kept.state,
            hint=f"Use another name, or end that login first: deviceflow cancel {kept.id}, or if"
            f" the login was approved, deviceflow token {kept.id} --acknowledge.",
        )
    return kept


def start(
    context: Context,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    *,
    needs_approver: bool = False,
) -> Op[Login]:
    """Ask the server for a device code, and return the login that has it; as `create`."""
    flow = yield from _create(context, provider, name, purpose, request, needs_approver)
    now: float = yield StoreNow()
    login = Login.of(flow, flow.wait_seconds(now))
    if login.expires_at is not None and login.expires_at <= now and not login.state.ended:
        # Nobody came back while the code of that name lived. It may have been approved in time.
        login = yield from step(context, login.id)
        if login.state in (State.EXPIRED, State.FAILED):
            login = yield from create(
                context, provider, name, purpose, request, needs_approver=needs_approver
            )
    login = yield from watching(context, login.id, _ask_for_code(context, login))
    if login.reason is not None:
        context.metadata.discard(provider.server)  # it may be why
        raise error_of(login)
    return login


def _ask_for_code(context: Context, login: Login) -> Op[Login]:
    while login.state is State.INIT:
        login = yield from step(context, login.id)
        if login.state is State.INIT:
            # Another one may be asking already, and have the code in a moment.
            yield Sleep(min(login.wait_seconds, 0.5), login.id)
            login = yield from get(login.id)
    return login


def adopt(
    context: Context, provider: Provider, token_endpoint: str, device_code: Secret
) -> Op[Login]:
    """Return a login that goes on with a device code issued elsewhere."""
    allow_http, server = provider.allow_http, provider.server
    code = DeviceCode(device_code, endpoint(token_endpoint, allow_http=allow_http, server=server))
    flow = yield from _create(context, provider, None, None, {})
    now = flow.created_at
    adopted = flow.adopt(code, now)
    yield from context.recorder.record(flow, adopted, context.identity.worker())
    return Login.of(flow, flow.wait_seconds(now))


@lru_cache(256)
def _shared(provider: Provider) -> Provider:
    """Return the same object for equal settings, which waiting flows then share."""
    return provider
