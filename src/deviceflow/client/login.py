"""A whole login, in front of a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.client.handover import acknowledge, collect_token
from deviceflow.client.start import start
from deviceflow.client.wait import wait, watching
from deviceflow.core.explain import instructions
from deviceflow.core.sanitize import web_url

if TYPE_CHECKING:
    from deviceflow.client.wait import OnStep
    from deviceflow.client.world import World
    from deviceflow.core.login import Login
    from deviceflow.core.provider import LoginRequest, Provider, Token


async def login(
    world: World,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    *,
    open_browser: bool,
    timeout: float | None,
    acknowledges: bool | None,
) -> Token:
    """Start a login, tell the person what to do, and wait for the token."""
    started = await start(world, provider, name, purpose, request)
    shown = show_and_wait(world, started, open_browser, timeout)
    # A browser on the terminal keeps us until it is closed: Ctrl-C counts there, too.
    await watching(world, started.id, shown)
    token = await collect_token(world, started.id)
    if acknowledges or (acknowledges is None and name is None):  # nobody could ask for it again
        await acknowledge(world, started.id)
    return token


async def show_and_wait(
    world: World,
    started: Login,
    open_browser: bool,
    timeout: float | None,
    on_step: OnStep = None,
) -> Login:
    """Tell the person what to do, and step until the login has ended. `watching` runs it."""
    if not started.state.ended:
        await _show(world, started, open_browser=open_browser)
        if on_step is not None:
            await world.on_step(on_step, started)
    return await wait(world, started.id, timeout, on_step)


async def _show(world: World, started: Login, *, open_browser: bool) -> None:
    # A frame of its own: a traceback of the waiting must not show the user code.
    for line in instructions(started):
        await world.print(line)
    page = web_url(started.verification_uri_complete or started.verification_uri)
    if open_browser and page:
        opened = await world.open_browser(page)
        if not opened:
            await world.print("No browser could be opened here: open the address on any device.")
