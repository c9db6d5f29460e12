"""The login that a grant gets its first tokens from, and that a person is needed for.

A login belongs to a grant by its name. Any login of that name will do, whoever began it: the next
call that needs a token takes the login's token for the grant.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Final

from deviceflow import errors
from deviceflow.client.effects import (
    CheckCredentials,
    CommitGrant,
    FindFlow,
    Load,
    LoadGrant,
    ReadClocks,
    Sleep,
    StoreNow,
)
from deviceflow.client.grant_need import tell, tell_of
from deviceflow.client.grant_refresh import revoke_all, revoke_next
from deviceflow.client.handover import refuse
from deviceflow.client.login import show
from deviceflow.client.lookup import get
from deviceflow.client.metadata import discover
from deviceflow.client.start import start
from deviceflow.client.step import may_poll, step
from deviceflow.client.wait import wait, watching
from deviceflow.core import wording
from deviceflow.core.explain import error_of
from deviceflow.core.flow import checked_purpose
from deviceflow.core.grant import Grant, check_name
from deviceflow.core.login import Login
from deviceflow.core.need import NOTIFY_AGAIN, why_lost
from deviceflow.core.notice import argument, page_of, resume_command
from deviceflow.core.policy import wrong_approver
from deviceflow.core.states import GrantState, State
from deviceflow.core.text import ours
from deviceflow.credentials import secret_refs

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.grant_token import Asked
    from deviceflow.client.lease import Clocks
    from deviceflow.client.wait import OnStep
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import StoredGrant
    from deviceflow.core.provider import Provider
    from deviceflow.core.secret import Secret

ASK_AGAIN: Final = 60.0
"""Seconds after which to ask again for a token, while nobody logs in."""


_LOOK: Final = 0.5


def check_same(context: Context, grant: Grant, provider: Provider | None) -> None:
    """Check that a grant is of the login that the caller asks for.

    A grant without tokens takes whatever is asked for next.

    Raises:
        UsageError: It is of another one.
    """
    if not grant.state.gives_tokens:
        return
    if context.approver is not None and not grant.needs_approver:
        problem = "has tokens that were taken without this program's policy on who may approve"
    elif provider is not None and not _same(provider, grant.asked):
        problem = f"is of {grant.asked.server}, and was asked for with other settings"
    else:
        return
    raise errors.UsageError(
        f"The grant {grant.name!r} {problem}.",
        flow_id=grant.id,
        state=grant.state,
        hint=f"Use another name, or end that grant first: deviceflow logout {argument(grant.name)}",
    )


@lru_cache(256)
def _same(one: Provider, other: Provider) -> bool:
    # The dialects of equal settings may be different objects.
    return one == other or one.to_dict() == other.to_dict()


def ask(context: Context, asked: Asked, stored: StoredGrant | None) -> Op[None]:
    """Do what can be done for a grant without tokens; return if that may have given it some.

    Raises:
        LoginPending: A person must log in.
        UnknownGrantError: There is no such grant, and the caller does not say how to log in.
    """
    provider = yield from _provider_for(asked, stored)
    purpose = checked_purpose(asked.purpose)
    if stored is not None and stored.grant.revocations and stored.grant.due_at <= stored.now:
        yield from revoke_next(context, stored)
        return
    flow: Flow | None = yield FindFlow(asked.name)
    if flow is not None:
        check_login(flow, provider)
        login = yield from _stepped(context, flow)
        if login is not None and login.has_token:
            yield from adopt(context, asked.name, provider, purpose, flow.id)
            return
        if login is not None and login.state.ended:
            return  # its name is free again
        if login is not None:
            shown = asked.mint == "now"
            raise _pending(context, asked.name, login.wait_seconds, stored, login, shown=shown)
    stored = yield from _need(context, asked, provider, purpose, stored)
    if stored is None:
        return
    if asked.mint == "now":
        if asked.provider is None:
            yield CheckCredentials(provider)
        needs = stored.grant.needs_approver
        login = yield from start(context, provider, asked.name, purpose, {}, needs_approver=needs)
        raise _pending(context, asked.name, login.wait_seconds, stored, login, shown=True)
    raise _pending(context, asked.name, ASK_AGAIN, stored)


def _provider_for(asked: Asked, stored: StoredGrant | None) -> Op[Provider]:
    """Return how to log in: as the caller says, else as the grant or the open login does."""
    provider = asked.provider or (stored and stored.grant.asked)
    if not provider:
        provider = yield from _of_open_login(asked.name)
    if not provider:
        raise errors.UnknownGrantError(
            f"The store has no grant of the name {asked.name!r}.",
            hint="Pass the provider, or log in first: deviceflow grants login"
            f" {argument(asked.name)} PROVIDER (or --profile PROFILE)",
        )
    return provider


def _of_open_login(name: str) -> Op[Provider | None]:
    """Return the settings of the open login of a grant's name: its token will be the grant's."""
    flow: Flow | None = yield FindFlow(name)
    return None if flow is None else flow.provider.for_grant()


def _stepped(context: Context, flow: Flow) -> Op[Login | None]:
    """Take the step of a login that is due; None for one that has no code yet."""
    if flow.state is State.INIT:
        return None  # the code is asked for when somebody is there to see it
    if not (flow.state.ended or may_poll(context, flow)):
        now: float = yield StoreNow()
        if not flow.overdue(now):
            return Login.of(flow, flow.wait_seconds(now))
    return (yield from step(context, flow.id))


def check_login(flow: Flow, provider: Provider) -> None:
    """Check that the open login of a grant's name may be a login for the grant.

    If it was approved already, `adopt` refuses it where it only looks alike.

    Raises:
        UsageError: It is another login, or asks for something else.
    """
    has_token = flow.handover.token_kept
    if not (_looks_alike(flow, provider) if has_token else flow.is_of(provider)):
        of = flow.provider
        raise errors.UsageError(
            f"The login of the name {flow.name!r} is at {of.server}, and asks for something else"
            " than the grant of that name.",
            flow_id=flow.id,
            state=flow.state,
            hint="Use another name for the grant, or end that login first: deviceflow cancel"
            f" {flow.id}, or if the login was approved, deviceflow token {flow.id} --acknowledge.",
        )


def _looks_alike(flow: Flow, provider: Provider) -> bool:
    """Tell whether a login of a grant's name seems to be for the grant, with other settings maybe.

    Otherwise it is somebody else's, who may wait for its token.
    """
    of, provider = flow.provider.for_grant(), provider.for_grant()
    return (of.server, of.client_id, {*of.scopes}) == (
        provider.server,
        provider.client_id,
        {*provider.scopes},
    )


def is_for(flow: Flow, grant: Grant) -> bool:
    """Tell whether the open login of a grant's name may be a login for the grant."""
    try:
        check_login(flow, grant.asked)
    except errors.UsageError:
        return False
    return True


def _need(
    context: Context,
    asked: Asked,
    provider: Provider,
    purpose: str | None,
    stored: StoredGrant | None,
) -> Op[StoredGrant | None]:
    """Put on record that a person must log in, and notify the program of it.

    The program is not notified if it asks for the code itself.

    Returns:
        The grant with its need; None where others went on.
    """
    worker, record = context.identity.worker(), context.recorder.record_grant
    now: float = yield StoreNow()
    name = asked.name
    grant = _new(context, name, provider, purpose, now) if stored is None else stored.grant
    need, later = grant.open_need, asked.mint == "later"
    sooner = need is not None and later and need.is_reserved(now)
    stricter = context.approver is not None and not grant.needs_approver
    if need is None or sooner or stricter or not _same(provider, grant.asked):
        grant.asked, grant.purpose = provider, purpose or grant.purpose
        grant.needs_approver |= stricter
        identity = context.identity
        # Where somebody is there, nobody is notified for now.
        notify_at = now if later else now + NOTIFY_AGAIN
        raised = grant.raise_need(
            identity.new_flow_id(),
            identity.new_verifier(),
            now,
            notify_at=notify_at,
            host=identity.origin.host,
        )
        if not (yield from record(grant, raised, worker)):
            return None
    clocks: Clocks = yield ReadClocks()
    found: StoredGrant | None = yield LoadGrant(name, clocks.shared)
    due = found is not None and found.grant.need_to_tell(found.now) is not None
    if found is not None and due and context.notifies and later:
        yield from tell(context, found)
        clocks = yield ReadClocks()
        found = yield LoadGrant(name, clocks.shared)
    # Another process may have taken the token of the login, which had the name until then.
    return None if found is None or found.grant.state.gives_tokens else found


def _new(context: Context, name: str, provider: Provider, purpose: str | None, now: float) -> Grant:
    return Grant(context.identity.new_flow_id(), name, provider, now, purpose=purpose)


def adopt(
    context: Context,
    name: str,
    provider: Provider,
    purpose: str | None,
    flow_id: str,
    *,
    replaces: bool = False,
) -> Op[bool]:
    """Make the token of a login the grant's, both in one transaction.

    A token that does not fit the policy of the grant or of this client is refused and revoked.

    Args:
        context: The client's.
        name: The grant's name.
        provider: Where to log in.
        purpose: Why the grant is needed.
        flow_id: The login.
        replaces: Whether the token may replace tokens that the grant has.

    Returns:
        Whether that was done; not if others went on with the grant or the login.
    """
    flow: Flow = yield Load(flow_id)
    token = flow.token
    if token is None:
        return False
    now: float = yield StoreNow()
    stored: StoredGrant | None = yield LoadGrant(name, now)
    grant = _new(context, name, provider, purpose, now) if stored is None else stored.grant
    has_tokens = grant.state.gives_tokens
    if has_tokens and (not replaces or grant.state is GrantState.REFRESHING):
        return False
    why = None
    if not flow.is_of(provider):
        why = ours("the login was begun with other settings than the grant's")
    elif grant.needs_approver and not flow.needs_approver and context.approver is None:
        why = ours("the login was begun without the program's policy on who may approve")
    if (yield from refuse(context, flow, why)):
        return False
    grant.asked = provider
    grant.needs_approver |= flow.needs_approver or context.approver is not None
    worker, recorder = context.identity.worker(), context.recorder
    given = grant.log_in(token, flow.provider, now, flow_id=flow.id, issued_at=flow.ended_at)
    handed = flow.acknowledge(now, ours(f"it became the token of the grant {grant.id}"))
    flow_event = recorder.render(flow, handed, worker)
    event = recorder.render_grant(grant, given, worker)
    commit = CommitGrant(grant, event, flow=flow, flow_event=flow_event)
    return (yield from recorder.commit_grant(commit))


def adopt_refresh_token(
    context: Context,
    name: str,
    provider: Provider,
    purpose: str | None,
    refresh_token: Secret,
) -> Op[None]:
    """Make a refresh token from elsewhere the grant's. Nothing is sent to the token endpoint.

    A refresh before the grant is stored could lose its answer, and with it the grant.
    """
    check_name(name)
    provider = provider.for_grant()
    purpose = checked_purpose(purpose)
    if not provider.can_refresh:
        raise errors.UsageError(
            f"The grant {name!r} cannot continue with a refresh token: {provider.server} does not"
            " refresh tokens.",
            hint="Log in instead: Client.log_in.",
        )
    if wrong_approver(provider, None, context.approver):
        raise _unknown_approver(name)
    secret_refs.allow(provider)
    found = yield from discover(context, provider)
    recorded = False
    while not recorded:  # others may have raised a need meanwhile
        now: float = yield StoreNow()
        stored: StoredGrant | None = yield LoadGrant(name, now)
        grant = _new(context, name, provider, purpose, now) if stored is None else stored.grant
        if grant.state.gives_tokens:
            raise _has_tokens(grant)
        if grant.needs_approver:
            raise _unknown_approver(name)
        grant.asked, grant.purpose = provider, purpose or grant.purpose
        adopted = grant.adopt(refresh_token, found, now)
        worker = context.identity.worker()
        recorded = yield from context.recorder.record_grant(grant, adopted, worker)
    yield from tell_of(context, name)


def _unknown_approver(name: str) -> errors.UsageError:
    return errors.UsageError(
        f"The grant {name!r} cannot continue with a refresh token: nobody knows who approved it,"
        " and the grant accepts some people only.",
        hint="Log in instead: Client.log_in.",
    )


def _has_tokens(grant: Grant) -> errors.UsageError:
    return errors.UsageError(
        f"The grant {grant.name!r} gives tokens already: the refresh token was not taken.",
        flow_id=grant.id,
        state=grant.state,
        hint=f"Use another name, or end that grant first: deviceflow logout {argument(grant.name)}",
    )


def _check_approver(context: Context, grant: Grant) -> None:
    if grant.needs_approver and context.approver is None:
        raise errors.UsageError(
            f"The grant {grant.name!r} is of a program that checks who approved"
            " (Client(approver=…)). This process has no such policy.",
            flow_id=grant.id,
            state=grant.state,
            hint="Log in with that program. To give up its policy, end the grant first:"
            f" deviceflow logout {argument(grant.name)}",
        )


def log_in(
    context: Context,
    name: str,
    provider: Provider | None,
    purpose: str | None,
    *,
    open_browser: bool,
    timeout: float | None,
    on_step: OnStep = None,
    again: bool = False,
) -> Op[None]:
    """Log in for a grant, in front of a person: if it needs that, is in doubt, or `again`."""
    check_name(name)
    provider = provider and provider.for_grant()
    clocks: Clocks = yield ReadClocks()
    stored: StoredGrant | None = yield LoadGrant(name, clocks.shared)
    replaces = again or (stored is not None and stored.grant.state is GrantState.IN_DOUBT)
    if stored is not None:
        check_same(context, stored.grant, provider)
        purpose = purpose or stored.grant.purpose
        if stored.grant.state.gives_tokens and not replaces:
            return
        _check_approver(context, stored.grant)
    if provider is None:
        provider = yield from _provider_of(name, stored)
    login = yield from start(context, provider, name, purpose, {})
    waited = _show_and_wait(
        context, login, open_browser=open_browser, timeout=timeout, on_step=on_step
    )
    login = yield from watching(context, login.id, waited)
    while login.has_token:
        if (yield from adopt(context, name, provider, purpose, login.id, replaces=replaces)):
            yield from _end_former(context, name)
            return
        # Others went on with the grant: with its need, with a refresh, or with the login's token.
        login = yield from get(login.id)
        stored = yield LoadGrant(name, (yield ReadClocks()).shared)
        if replaces and stored is not None:
            yield from _end_refresh(context, stored)
        elif stored is not None and stored.grant.state.gives_tokens:
            check_same(context, stored.grant, provider)
            return
    stored = yield LoadGrant(name, clocks.shared)
    if stored is None or stored.grant.flow_id != login.id:  # nobody has taken its token meanwhile
        flow: Flow = yield Load(login.id)
        raise error_of(flow)


def _provider_of(name: str, stored: StoredGrant | None) -> Op[Provider]:
    """Return how to log in for a grant, or for the open login of its name."""
    if stored is not None:
        yield CheckCredentials(stored.grant.asked)
        return stored.grant.asked
    provider = yield from _of_open_login(name)
    if provider is None:
        raise errors.UnknownGrantError(
            f"The store has no grant of the name {name!r}.",
            hint="Name the provider as well: it says how to log in.",
        )
    return provider


def _end_refresh(context: Context, stored: StoredGrant) -> Op[None]:
    """Wait until no refresh is in flight: what it brings belongs to the former login."""
    grant = stored.grant
    if stored.held > 0:
        yield Sleep(min(stored.held, _LOOK), grant.id)
    elif grant.state is GrantState.REFRESHING:
        recovered = grant.recover(stored.now, stored.owner)
        yield from context.recorder.record_grant(grant, recovered, context.identity.worker())


def _end_former(context: Context, name: str) -> Op[None]:
    """Tell that the need has ended, and revoke what the login has replaced."""
    context.tokens.discard(name)
    yield from tell_of(context, name)
    clocks: Clocks = yield ReadClocks()
    stored: StoredGrant | None = yield LoadGrant(name, clocks.shared)
    if stored is not None:
        yield from revoke_all(context, stored)


def _show_and_wait(
    context: Context, login: Login, *, open_browser: bool, timeout: float | None, on_step: OnStep
) -> Op[Login]:
    if not login.state.ended:
        yield from show(login, open_browser=open_browser)
    return (yield from wait(context, login.id, timeout, on_step))


def _why(stored: StoredGrant | None) -> str:
    """Say why a grant that gave tokens gives none any more, before what to do."""
    if stored is None or stored.grant.reason is None:
        return ""
    return f"{why_lost(stored.grant.reason, stored.grant.detail)} "


def _pending(
    context: Context,
    name: str,
    wait_seconds: float,
    stored: StoredGrant | None,
    login: Login | None = None,
    *,
    shown: bool = False,
) -> errors.LoginPending:
    need = None if stored is None else stored.grant.open_need
    elsewhere = ""
    if context.approver is None and login is not None and login.needs_approver:
        elsewhere = "Only a program that checks who approved (Client(approver=…)) can take it. "
    pending = errors.LoginPending(
        f"A person must log in before the grant {name!r} gives a token.",
        name=name,
        wait_seconds=wait_seconds,
        need_id=None if need is None else need.id,
        command=resume_command(name, context.store_option),
        reason=None if need is None else need.reason,
        flow_id=None if login is None else login.id,
        state=None if login is None else login.state,
        hint=f"{_why(stored)}{elsewhere}Ask again in {wording.seconds(ceil(wait_seconds))}."
        f" To log in: {resume_command(name, context.store_option)}",
    )
    pending.login = login if shown else None
    pending.link = None if need is None else page_of(context.pages, need.link)
    return pending
