"""What the page of a need shows and does: how things stand, and a code when somebody asks for one.

The page is found by its link. Looking requests no code, whoever looks. A code that is valid is
shown again, and no other one is requested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.grant_login import adopt, fits
from deviceflow.client.grant_need import find_grant, tell_of
from deviceflow.client.lookup import get
from deviceflow.client.start import create, start
from deviceflow.core.login import Login
from deviceflow.core.states import State

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.grant import Grant
    from deviceflow.core.need import Need
    from deviceflow.core.ports import Stored
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


async def look(world: World, link: Secret, login_id: str | None = None) -> NeedPage | None:
    """Return how the need with a link stands; None if there is none.

    Args:
        world: What the operation works with.
        link: The link.
        login_id: The login that the caller has seen the code of, to be told of its end.
    """
    while True:
        stored = await find_grant(world, link, by="link")
        if stored is None:
            return None
        login = await _open_login(world, stored)
        if login is not None and login.has_token:
            if await settle(world, stored.record.name, login.id):
                continue
            login = None  # another process continues the login, or its token was not usable
        if login is None and login_id is not None:
            login = await _ended_login(world, stored, login_id)
        return _page(stored, login)


async def request_code(world: World, link: Secret) -> NeedPage | None:
    """Request a code for the need with a link, unless there is a valid one, and put it on record.

    Returns:
        How the need stands then. There is no login in it where too many codes were requested.

    Raises:
        DeviceFlowError: The server gave no code, or this process may not log in there.
    """
    ours = False
    while True:
        page = await look(world, link)
        if page is None or not page.need.lasts or (page.login is not None and not ours):
            return page
        stored = await find_grant(world, link, by="link")
        if stored is None or stored.record.open_need is None:
            continue
        grant, worker = stored.record, world.context.identity.worker()
        flow = await world.find_login(grant.name)
        under_way = flow is not None and flow.state is State.INIT and fits(flow, grant.asked)
        if page.wait_seconds and not under_way and not ours:
            return page
        needs = grant.needs_approver
        # What is stored names a secret; only what this process was set up for may be read.
        await world.check_credentials(grant.asked)
        if not under_way:
            # Before the request is on record: who reads the grant after that finds the login, too,
            # and waits for its code instead of requesting another one.
            await create(world, grant.asked, grant.name, grant.purpose, {}, needs_approver=needs)
            ours = True
        if ours:
            requested = grant.request_code(stored.now)
            if not await recorder.record_grant(world, grant, requested, worker):
                continue  # the grant has changed, as by a notification: the login is still ours
        login = await start(world, grant.asked, grant.name, grant.purpose, {}, needs_approver=needs)
        return _page(stored, login)


async def settle(world: World, name: str, login_id: str) -> bool:
    """Make the token of a login that a person approved the token of the grant that needs it.

    Returns:
        Whether that was done; not where no grant of the login's name has a need.
    """
    stored = await find_grant(world, name)
    if stored is None or stored.record.open_need is None:
        return False
    grant = stored.record
    flow = await world.find_login(name)
    if flow is None or flow.id != login_id or not fits(flow, grant.asked):
        return False
    adopted = await adopt(world, name, grant.asked, grant.purpose, login_id)
    if adopted:
        await tell_of(world, name)
    return adopted


async def _open_login(world: World, stored: Stored[Grant]) -> Login | None:
    """Return the login of the grant's name that has a code, or a token."""
    if stored.record.open_need is None:
        return None
    flow = await world.find_login(stored.record.name)
    if flow is None or flow.state is State.INIT or not fits(flow, stored.record.asked):
        return None
    over = flow.expires_at is not None and flow.expires_at <= stored.now
    if over and not flow.state.ended:
        return None
    return Login.of(flow, 0.0)


async def _ended_login(world: World, stored: Stored[Grant], login_id: str) -> Login | None:
    """Return the login of an id, if it is one of the grant's that ended without a token."""
    try:
        login = await get(world, login_id)
    except errors.UnknownLoginError:
        return None
    over = login.state.ended or (login.expires_at is not None and login.expires_at <= stored.now)
    return login if over and login.name == stored.record.name else None


def _page(stored: Stored[Grant], login: Login | None) -> NeedPage:
    grant, need = stored.record, stored.record.need
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
