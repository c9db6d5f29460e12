"""The beginning of a login: a device code that is asked for, or one that was issued elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.asking import resolve_provider
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
    from deviceflow.client.world import World
    from deviceflow.core.provider import LoginRequest
    from deviceflow.core.secret import Secret


async def create(
    world: World,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    *,
    needs_approver: bool = False,
) -> Login:
    """Keep a new login in `init`, or return the open login of that name.

    `needs_approver` is for the login of a grant that needs one, where this process has none.
    """
    flow = await _create(world, provider, name, purpose, request, needs_approver)
    now = await world.now()
    return Login.of(flow, flow.wait_seconds(now))


async def _create(
    world: World,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    needs_approver: bool = False,
) -> Flow:
    purpose = checked_purpose(purpose)  # before anything is sent
    wanted = resolve_provider(provider, request)
    provider = _shared(await discover(world, wanted))
    secret_refs.allow(provider)
    verifier = world.context.identity.new_verifier() if provider.uses_pkce else None
    now = await world.now()
    flow_id = world.context.identity.new_flow_id()
    flow = Flow(
        flow_id,
        provider,
        now,
        name=name,
        verifier=verifier,
        purpose=purpose,
        settings=settings_of(wanted),
        needs_approver=needs_approver or world.context.approver is not None,
    )
    kept = await recorder.add(world, flow)
    if kept is not flow and (
        kept.purpose != purpose
        or kept.provider.to_dict() != provider.to_dict()
        # With a policy of its own, this process applies it to whatever token others bring.
        or (needs_approver and not kept.needs_approver and world.context.approver is None)
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


async def start(
    world: World,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    *,
    needs_approver: bool = False,
) -> Login:
    """Ask the server for a device code, and return the login that has it; as `create`."""
    flow = await _create(world, provider, name, purpose, request, needs_approver)
    now = await world.now()
    login = Login.of(flow, flow.wait_seconds(now))
    if login.expires_at is not None and login.expires_at <= now and not login.state.ended:
        # Nobody came back while the code of that name lived. It may have been approved in time.
        login = await step(world, login.id)
        if login.state in (State.EXPIRED, State.FAILED):
            login = await create(
                world, provider, name, purpose, request, needs_approver=needs_approver
            )
    login = await watching(world, login.id, _ask_for_code(world, login))
    if login.reason is not None:
        world.context.metadata.discard(provider.server)  # it may be why
        raise error_of(login)
    return login


async def _ask_for_code(world: World, login: Login) -> Login:
    while login.state is State.INIT:
        login = await step(world, login.id)
        if login.state is State.INIT:
            # Another one may be asking already, and have the code in a moment.
            await world.sleep(min(login.wait_seconds, 0.5), login.id)
            login = await get(world, login.id)
    return login


async def adopt(
    world: World, provider: Provider, token_endpoint: str, device_code: Secret
) -> Login:
    """Return a login that uses a device code issued elsewhere."""
    allow_http, server = provider.allow_http, provider.server
    code = DeviceCode(device_code, endpoint(token_endpoint, allow_http=allow_http, server=server))
    flow = await _create(world, provider, None, None, {})
    now = flow.created_at
    adopted = flow.adopt(code, now)
    await recorder.record(world, flow, adopted, world.context.identity.worker())
    return Login.of(flow, flow.wait_seconds(now))


@lru_cache(256)
def _shared(provider: Provider) -> Provider:
    """Return the same object for equal settings, which waiting flows then share."""
    return provider
