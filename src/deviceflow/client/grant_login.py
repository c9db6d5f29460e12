"""The login that a grant gets its first tokens from, and that a person is needed for.

A login belongs to a grant by its name. Any login of that name will do, whoever began it: the next
call that needs a token takes the login's token for the grant.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Final

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.grant_need import find_grant, tell, tell_of
from deviceflow.client.grant_refresh import revoke_all, revoke_next
from deviceflow.client.handover import refuse
from deviceflow.client.kept import GrantCommit
from deviceflow.client.login import show_and_wait
from deviceflow.client.lookup import get
from deviceflow.client.metadata import discover
from deviceflow.client.start import start
from deviceflow.client.step import may_poll, step
from deviceflow.client.wait import watching
from deviceflow.core import wording
from deviceflow.core.explain import error_of
from deviceflow.core.flow import checked_purpose
from deviceflow.core.grant import Grant, check_name
from deviceflow.core.login import Login
from deviceflow.core.need import NOTIFY_AGAIN, why_lost
from deviceflow.core.notice import argument, login_command, page_of
from deviceflow.core.policy import wrong_approver
from deviceflow.core.states import GrantState, State
from deviceflow.core.text import trusted
from deviceflow.credentials import secret_refs

if TYPE_CHECKING:
    from deviceflow.client.grant_token import TokenQuery
    from deviceflow.client.wait import OnStep
    from deviceflow.client.world import World
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Stored
    from deviceflow.core.provider import Provider
    from deviceflow.core.secret import Secret

ASK_AGAIN: Final = 60.0
"""Seconds after which to ask again for a token, while nobody logs in."""


_LOOK: Final = 0.5


def check_same(world: World, grant: Grant, provider: Provider | None) -> None:
    """Check that a grant is of the login that the caller asks for.

    A grant without tokens takes whatever is asked for next.

    Raises:
        UsageError: It is of another one.
    """
    if not grant.state.gives_tokens:
        return
    if world.context.approver is not None and not grant.needs_approver:
        problem = "has tokens that were taken without this program's policy on who may approve"
    elif provider is not None and not _same(provider, grant.asked):
        problem = f"is of {grant.asked.server}, and was asked for with other settings"
    else:
        return
    raise errors.UsageError(
        f"{grant.name!r} {problem}.",
        flow_id=grant.id,
        state=grant.state,
        hint=f"Use another name, or log out first: deviceflow logout {argument(grant.name)}",
    )


@lru_cache(256)
def _same(one: Provider, other: Provider) -> bool:
    # The dialects of equal settings may be different objects.
    return one == other or one.to_dict() == other.to_dict()


async def ask(world: World, asked: TokenQuery, stored: Stored[Grant] | None) -> None:
    """Do what can be done for a grant without tokens; return if that may have given it some.

    Raises:
        LoginPending: A person must log in.
        UnknownGrantError: There is no such grant, and the caller does not say how to log in.
    """
    provider = asked.provider or await _provider_of(world, asked.name, stored)
    purpose = checked_purpose(asked.purpose)
    if stored is not None and stored.record.revocations and stored.record.due_at <= stored.now:
        await revoke_next(world, stored)
        return
    flow = await world.find_login(asked.name)
    if flow is not None:
        check_login(flow, provider)
        login = await _stepped(world, flow)
        if login is not None and login.has_token:
            await adopt(world, asked.name, provider, purpose, flow.id)
            return
        if login is not None and login.state.ended:
            return  # its name is free again
        if login is not None:
            shown = asked.mint == "now"
            raise _pending(world, asked.name, login.wait_seconds, stored, login, shown=shown)
    stored = await _need(world, asked, provider, purpose, stored)
    if stored is None:
        return
    if asked.mint == "now":
        if asked.provider is None:
            await world.check_credentials(provider)
        needs = stored.record.needs_approver
        login = await start(world, provider, asked.name, purpose, {}, needs_approver=needs)
        raise _pending(world, asked.name, login.wait_seconds, stored, login, shown=True)
    raise _pending(world, asked.name, ASK_AGAIN, stored)


async def _provider_of(world: World, name: str, stored: Stored[Grant] | None) -> Provider:
    """Return how to log in for a grant, or as the open login of its name does.

    Raises:
        UnknownGrantError: There is neither.
    """
    if stored is not None:
        return stored.record.asked
    flow = await world.find_login(name)
    if flow is None:
        raise errors.UnknownGrantError(
            f"The store has no login {name!r}.",
            hint=f"Pass the provider, or: deviceflow login {argument(name)} PROVIDER",
        )
    return flow.provider.for_grant()


async def _stepped(world: World, flow: Flow) -> Login | None:
    """Take the step of a login that is due; None for one that has no code yet."""
    if flow.state is State.INIT:
        return None  # the code is asked for when somebody is there to see it
    if not (flow.state.ended or may_poll(world.context, flow)):
        now = await world.now()
        if not flow.overdue(now):
            return Login.of(flow, flow.wait_seconds(now))
    return await step(world, flow.id)


def check_login(flow: Flow, provider: Provider) -> None:
    """Check that the open login of a grant's name may be a login for the grant.

    If it was approved already, `adopt` refuses it where it only looks alike.

    Raises:
        UsageError: It is another login, or asks for something else.
    """
    if not fits(flow, provider):
        of = flow.provider
        raise errors.UsageError(
            f"The login of the name {flow.name!r} is at {of.server}, and asks for something else"
            " than the grant of that name.",
            flow_id=flow.id,
            state=flow.state,
            hint="Use another name for the grant, or end that login first: deviceflow cancel"
            f" {flow.id}, or if the login was approved, deviceflow token {flow.id} --acknowledge.",
        )


def fits(flow: Flow, provider: Provider) -> bool:
    """Tell whether the open login of a grant's name may be a login for the grant."""
    approved = flow.handover.token_kept
    return _looks_alike(flow, provider) if approved else flow.is_of(provider)


def _looks_alike(flow: Flow, provider: Provider) -> bool:
    """Tell whether a login of a grant's name seems to be for the grant, with other settings maybe.

    Otherwise it is somebody else's, who may wait for its token.
    """

    def facts(of: Provider) -> object:
        return of.server, of.client_id, {*of.scopes}

    return facts(flow.provider.for_grant()) == facts(provider.for_grant())


async def _need(
    world: World,
    asked: TokenQuery,
    provider: Provider,
    purpose: str | None,
    stored: Stored[Grant] | None,
) -> Stored[Grant] | None:
    """Put on record that a person must log in, and notify the program of it.

    The program is not notified if it asks for the code itself.

    Returns:
        The grant with its need; None where others went on.
    """
    worker = world.context.identity.worker()
    now = await world.now()
    name = asked.name
    grant = _new(world, name, provider, purpose, now) if stored is None else stored.record
    need, later = grant.open_need, asked.mint == "later"
    sooner = need is not None and later and need.is_reserved(now)
    stricter = world.context.approver is not None and not grant.needs_approver
    if need is None or sooner or stricter or not _same(provider, grant.asked):
        grant.asked, grant.purpose = provider, purpose or grant.purpose
        grant.needs_approver |= stricter
        identity = world.context.identity
        # Where somebody is there, nobody is notified for now.
        notify_at = now if later else now + NOTIFY_AGAIN
        raised = grant.raise_need(
            identity.new_flow_id(),
            identity.new_verifier(),
            now,
            notify_at=notify_at,
            host=identity.origin.host,
        )
        if not await recorder.record_grant(world, grant, raised, worker):
            return None
    found = await find_grant(world, name)
    due = found is not None and found.record.need_to_tell(found.now) is not None
    if found is not None and due and world.context.notifies and later:
        await tell(world, found)
        found = await find_grant(world, name)
    # Another process may have taken the token of the login, which had the name until then.
    return None if found is None or found.record.state.gives_tokens else found


def _new(world: World, name: str, provider: Provider, purpose: str | None, now: float) -> Grant:
    return Grant(world.context.identity.new_flow_id(), name, provider, now, purpose=purpose)


async def adopt(
    world: World,
    name: str,
    provider: Provider,
    purpose: str | None,
    flow_id: str,
    *,
    replaces: bool = False,
) -> bool:
    """Make the token of a login the grant's, both in one transaction.

    A token that does not fit the policy of the grant or of this client is refused and revoked.

    Args:
        world: What the operation works with.
        name: The grant's name.
        provider: Where to log in.
        purpose: Why the grant is needed.
        flow_id: The login.
        replaces: Whether the token may replace tokens that the grant has.

    Returns:
        Whether that was done; not if others have moved the grant or the login.
    """
    flow = await world.load_login(flow_id)
    token = flow.token
    if token is None:
        return False
    now = await world.now()
    stored = await world.store.load(Grant, name, now, by="name")
    grant = _new(world, name, provider, purpose, now) if stored is None else stored.record
    has_tokens = grant.state.gives_tokens
    if has_tokens and (not replaces or grant.state is GrantState.REFRESHING):
        return False
    why = None
    if not flow.is_of(provider):
        why = trusted("the login was begun with other settings than the grant's")
    elif grant.needs_approver and not flow.needs_approver and world.context.approver is None:
        why = trusted("the login was begun without the program's policy on who may approve")
    if await refuse(world, flow, why):
        return False
    grant.asked = provider
    grant.needs_approver |= flow.needs_approver or world.context.approver is not None
    worker = world.context.identity.worker()
    given = grant.log_in(token, flow.provider, now, flow_id=flow.id, issued_at=flow.ended_at)
    handed = flow.acknowledge(now, trusted(f"it became the token of the grant {grant.id}"))
    flow_event = recorder.render(world.context, flow, handed, worker)
    event = recorder.render_grant(world.context, grant, given, worker)
    commit = GrantCommit(grant, event, flow=flow, flow_event=flow_event)
    return await recorder.commit_grant(world, commit)


async def adopt_refresh_token(
    world: World,
    name: str,
    provider: Provider,
    purpose: str | None,
    refresh_token: Secret,
) -> None:
    """Make a refresh token from elsewhere the grant's. Nothing is sent to the token endpoint.

    A refresh before the grant is stored could lose its answer, and with it the grant.
    """
    check_name(name)
    provider = provider.for_grant()
    purpose = checked_purpose(purpose)
    if not provider.can_refresh:
        raise errors.UsageError(
            f"{name!r} cannot continue with a refresh token: {provider.server} does not"
            " refresh tokens.",
            hint="Log in instead: Client.log_in.",
        )
    if wrong_approver(provider, None, world.context.approver):
        raise _unknown_approver(name)
    secret_refs.allow(provider)
    found = await discover(world, provider)
    recorded = False
    while not recorded:  # others may have raised a need meanwhile
        now = await world.now()
        stored = await world.store.load(Grant, name, now, by="name")
        grant = _new(world, name, provider, purpose, now) if stored is None else stored.record
        if grant.state.gives_tokens:
            raise _has_tokens(grant)
        if grant.needs_approver:
            raise _unknown_approver(name)
        grant.asked, grant.purpose = provider, purpose or grant.purpose
        adopted = grant.adopt(refresh_token, found, now)
        worker = world.context.identity.worker()
        recorded = await recorder.record_grant(world, grant, adopted, worker)
    await tell_of(world, name)


def _unknown_approver(name: str) -> errors.UsageError:
    return errors.UsageError(
        f"{name!r} cannot continue with a refresh token: nobody knows who approved it,"
        " and the grant accepts some people only.",
        hint="Log in instead: Client.log_in.",
    )


def _has_tokens(grant: Grant) -> errors.UsageError:
    return errors.UsageError(
        f"{grant.name!r} gives tokens already: the refresh token was not taken.",
        flow_id=grant.id,
        state=grant.state,
        hint=f"Use another name, or log out first: deviceflow logout {argument(grant.name)}",
    )


def _check_approver(world: World, grant: Grant) -> None:
    if grant.needs_approver and world.context.approver is None:
        raise errors.UsageError(
            f"{grant.name!r} is of a program that checks who approved"
            " (Client(approver=…)). This process has no such policy.",
            flow_id=grant.id,
            state=grant.state,
            hint="Log in with that program. To give up its policy, end the grant first:"
            f" deviceflow logout {argument(grant.name)}",
        )


async def log_in(
    world: World,
    name: str,
    provider: Provider | None,
    purpose: str | None,
    *,
    open_browser: bool,
    timeout: float | None,
    on_step: OnStep = None,
    again: bool = False,
) -> None:
    """Log in for a grant, in front of a person: if it needs that, is in doubt, or `again`."""
    check_name(name)
    provider = provider and provider.for_grant()
    stored = await find_grant(world, name)
    replaces = again or (stored is not None and stored.record.state is GrantState.IN_DOUBT)
    if stored is not None:
        check_same(world, stored.record, provider)
        purpose = purpose or stored.record.purpose
        if stored.record.state.gives_tokens and not replaces:
            return
        _check_approver(world, stored.record)
    if provider is None:
        provider = await _provider_of(world, name, stored)
        await world.check_credentials(provider)
    login = await start(world, provider, name, purpose, {})
    shown = show_and_wait(world, login, open_browser, timeout, on_step)
    login = await watching(world, login.id, shown)
    while login.has_token:
        if await adopt(world, name, provider, purpose, login.id, replaces=replaces):
            await _end_former(world, name)
            return
        # Others have moved the grant: its need, a refresh, or the login's token.
        login = await get(world, login.id)
        stored = await find_grant(world, name)
        if replaces and stored is not None:
            await _end_refresh(world, stored)
        elif stored is not None and stored.record.state.gives_tokens:
            check_same(world, stored.record, provider)
            return
    stored = await find_grant(world, name)
    if stored is None or stored.record.flow_id != login.id:  # nobody has taken its token meanwhile
        flow = await world.load_login(login.id)
        raise error_of(flow)


async def _end_refresh(world: World, stored: Stored[Grant]) -> None:
    """Wait until no refresh is in flight: what it brings belongs to the former login."""
    grant = stored.record
    if stored.held > 0:
        await world.sleep(min(stored.held, _LOOK), grant.id)
    elif grant.state is GrantState.REFRESHING:
        recovered = grant.recover(stored.now, stored.owner)
        await recorder.record_grant(world, grant, recovered, world.context.identity.worker())


async def _end_former(world: World, name: str) -> None:
    """Tell that the need has ended, and revoke what the login has replaced."""
    world.context.tokens.discard(name)
    await tell_of(world, name)
    stored = await find_grant(world, name)
    if stored is not None:
        await revoke_all(world, stored)


def _why(stored: Stored[Grant] | None) -> str:
    """Say why a grant that gave tokens gives none any more, before what to do."""
    if stored is None or stored.record.reason is None:
        return ""
    return f"{why_lost(stored.record.reason, stored.record.detail)} "


def _pending(
    world: World,
    name: str,
    wait_seconds: float,
    stored: Stored[Grant] | None,
    login: Login | None = None,
    *,
    shown: bool = False,
) -> errors.LoginPending:
    need = None if stored is None else stored.record.open_need
    elsewhere = ""
    if world.context.approver is None and login is not None and login.needs_approver:
        elsewhere = "Only a program that checks who approved (Client(approver=…)) can take it. "
    pending = errors.LoginPending(
        f"A person must log in before {name!r} gives a token.",
        name=name,
        wait_seconds=wait_seconds,
        need_id=None if need is None else need.id,
        command=login_command(name, world.context.store_option),
        reason=None if need is None else need.reason,
        flow_id=None if login is None else login.id,
        state=None if login is None else login.state,
        hint=f"{_why(stored)}{elsewhere}Ask again in {wording.seconds(ceil(wait_seconds))}."
        f" To log in: {login_command(name, world.context.store_option)}",
    )
    pending.login = login if shown else None
    pending.link = None if need is None else page_of(world.context.pages, need.link)
    return pending
