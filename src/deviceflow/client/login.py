"""A whole login, in front of a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.client.effects import OpenBrowser, Print
from deviceflow.client.handover import acknowledge
from deviceflow.client.start import start
from deviceflow.client.wait import wait_for_token, watching
from deviceflow.core.explain import instructions
from deviceflow.core.sanitize import web_url

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.core.login import Login
    from deviceflow.core.provider import LoginRequest, Provider, Token


def login(
    context: Context,
    provider: Provider,
    name: str | None,
    purpose: str | None,
    request: LoginRequest,
    *,
    open_browser: bool,
    timeout: float | None,
    acknowledges: bool | None,
) -> Op[Token]:
    """Start a login, tell the person what to do, and wait for the token."""
    started = yield from start(context, provider, name, purpose, request)
    shown = _show_and_wait(context, started, open_browser=open_browser, timeout=timeout)
    # A browser on the terminal keeps us until it is closed: Ctrl-C counts there, too.
    token = yield from watching(context, started.id, shown)
    if acknowledges or (acknowledges is None and name is None):  # nobody could ask for it again
        yield from acknowledge(context, started.id)
    return token


def _show_and_wait(
    context: Context, started: Login, *, open_browser: bool, timeout: float | None
) -> Op[Token]:
    if not started.state.ended:
        yield from show(started, open_browser=open_browser)
    return (yield from wait_for_token(context, started.id, timeout))


def show(started: Login, *, open_browser: bool) -> Op[None]:
    """Tell the person what to do, and open the page."""
    # A frame of its own: a traceback of the waiting must not show the user code.
    for line in instructions(started):
        yield Print(line)
    page = web_url(started.verification_uri_complete or started.verification_uri)
    if open_browser and page:
        opened: bool = yield OpenBrowser(page)
        if not opened:
            yield Print("No browser could be opened here: open the address on any device.")
