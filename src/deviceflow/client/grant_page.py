"""What the page of a need shows and does: how things stand, and a code when somebody asks for one.

The page is found by its link. Looking requests no code, whoever looks. A code that is valid is
shown again, and no other one is requested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deviceflow import errors
from deviceflow.client.effects import (
    CheckCredentials,
    FindFlow,
    LoadGrant,
    LoadGrantByLink,
    ReadClocks,
)
from deviceflow.client.grant_login import adopt, is_for
from deviceflow.client.grant_need import tell_of
from deviceflow.client.lookup import get
from deviceflow.client.start import create, start
from deviceflow.core.login import Login
from deviceflow.core.states import State

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.lease import Clocks
    from deviceflow.core.flow import Flow
    from deviceflow.core.need import Need
    from deviceflow.core.ports import StoredGrant
    from deviceflow.core.provider import Provider
    from deviceflow.core.secret import Secret


class NeedPage(NamedTuple):
    """How a need stands at one moment. No secret is in it, but the user code is for the person.

    Attributes:
        name: The grant's name.
        purpose: Why the grant is needed.
        provider: Where to log in, and what for.
        need: The need, without its link.
        now: The time, in seconds since 1970.
        login: The login with the code that was requested last, if the caller may see one.
        login_id: The login that the grant has its tokens from.
        wait_seconds: In how many seconds a code can be requested; 0 for now.
    """

    name: str
    purpose: str | None
    provider: Provider
    need: Need
    now: float
    login: Login | None
    login_id: str | None
    wait_seconds: float


def look(context: Context, link: Secret, login_id: str | None = None) -> Op[NeedPage | None]:
    """Return how the need with a link stands; None if there is none.

    Args:
        context: The client's.
        link: The link.
        login_id: The login that the caller has seen the code of, to be told of its end.
    """
    while True:
        stored = yield from _found(link)
        if stored is None:
            return None
        login = yield from _open_login(stored)
        if login is not None and login.has_token:
            if (yield from settle(context, stored.grant.name, login.id)):
                continue
            login = None  # another process continues the login, or its token was not usable
        if login is None and login_id is not None:
            login = yield from _ended_login(stored, login_id)
        return _page(stored, login)


def request_code(context: Context, link: Secret) -> Op[NeedPage | None]:
    """Request a code for the need with a link, unless there is a valid one, and put it on record.

    Returns:
        How the need stands then. There is no login in it where too many codes were requested.

    Raises:
        DeviceFlowError: The server gave no code, or this process may not log in there.
    """
    while True:
        page = yield from look(context, link)
        if page is None or not page.need.lasts or page.login is not None:
            return page
        stored = yield from _found(link)
        if stored is None or stored.grant.open_need is None:
            continue
        grant, worker = stored.grant, context.identity.worker()
        flow: Flow | None = yield FindFlow(grant.name)
        under_way = flow is not None and flow.state is State.INIT and is_for(flow, grant)
        if page.wait_seconds and not under_way:
            return page
        needs = grant.needs_approver
        # What is stored names a secret; only what this process was set up for may be read.
        yield CheckCredentials(grant.asked)
        if not under_way:
            # Before the request is on record: who reads the grant after that finds the login, too,
            # and waits for its code instead of requesting another one.
            yield from create(
                context, grant.asked, grant.name, grant.purpose, {}, needs_approver=needs
            )
            requested = grant.request_code(stored.now)
            if not (yield from context.recorder.record_grant(grant, requested, worker)):
                continue
        login = yield from start(
            context, grant.asked, grant.name, grant.purpose, {}, needs_approver=needs
        )
        return _page(stored, login)


def settle(context: Context, name: str, login_id: str) -> Op[bool]:
    """Make the token of a login that a person approved the token of the grant that needs it.

    Returns:
        Whether that was done; not where no grant of the login's name has a need.
    """
    clocks: Clocks = yield ReadClocks()
    stored: StoredGrant | None = yield LoadGrant(name, clocks.shared)
    if stored is None or stored.grant.open_need is None:
        return False
    grant = stored.grant
    flow: Flow | None = yield FindFlow(name)
    if flow is None or flow.id != login_id or not is_for(flow, grant):
        return False
    adopted = yield from adopt(context, name, grant.asked, grant.purpose, login_id)
    if adopted:
        yield from tell_of(context, name)
    return adopted


def _found(link: Secret) -> Op[StoredGrant | None]:
    clocks: Clocks = yield ReadClocks()
    stored: StoredGrant | None = yield LoadGrantByLink(link, clocks.shared)
    return stored


def _open_login(stored: StoredGrant) -> Op[Login | None]:
    """Return the login of the grant's name that has a code, or a token."""
    if stored.grant.open_need is None:
        return None
    flow: Flow | None = yield FindFlow(stored.grant.name)
    if flow is None or flow.state is State.INIT or not is_for(flow, stored.grant):
        return None
    over = flow.expires_at is not None and flow.expires_at <= stored.now
    if over and not flow.state.ended:
        return None
    return Login.of(flow, 0.0)


def _ended_login(stored: StoredGrant, login_id: str) -> Op[Login | None]:
    """Return the login of an id, if it is one of the grant's that ended without a token."""
    try:
        login = yield from get(login_id)
    except errors.UnknownLoginError:
        return None
    over = login.state.ended or (login.expires_at is not None and login.expires_at <= stored.now)
    return login if over and login.name == stored.grant.name else None


def _page(stored: StoredGrant, login: Login | None) -> NeedPage:
    grant, need = stored.grant, stored.grant.need
    assert need is not None  # noqa: S101  # it was found by its link
    return NeedPage(
        name=grant.name,
        purpose=grant.purpose,
        provider=grant.asked,
        need=need,
        now=stored.now,
        login=login,
        login_id=grant.flow_id,
        wait_seconds=need.code_wait(stored.now),
    )
