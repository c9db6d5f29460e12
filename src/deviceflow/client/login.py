"""A whole login, in front of a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.client.effects import OpenBrowser, Print
from deviceflow.client.handover import acknowledge
from deviceflow.client.start import start
from deviceflow.client.wait import wait, watching
from deviceflow.core.explain import instructions
from deviceflow.core.sanitize import web_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Provider, Token


def login(
    context: Context,
    provider: Provider,
    key: str | None,
    purpose: str | None,
    request: Mapping[str, Any],
    *,
    open_browser: bool,
    timeout: float | None,
    acknowledges: bool | None,
) -> Op[Token]:
    """Start a login, tell the person what to do, and wait for the token."""
    flow = yield from start(context, provider, key, purpose, request)
    shown = _show_and_wait(context, flow, open_browser=open_browser, timeout=timeout)
    # A browser on the terminal keeps us until it is closed: Ctrl-C counts there, too.
    token = yield from watching(context, flow.id, shown)
    if acknowledges or (acknowledges is None and key is None):  # nobody could ask for it again
        yield from acknowledge(context, flow.id)
    return token


def _show_and_wait(
    context: Context, flow: Flow, *, open_browser: bool, timeout: float | None
) -> Op[Token]:
    if not flow.state.ended:
        yield from _show(flow, open_browser=open_browser)
    return (yield from wait(context, flow.id, timeout, None))


def _show(flow: Flow, *, open_browser: bool) -> Op[None]:
    # A frame of its own: a traceback of the waiting must not show the user code.
    for line in instructions(flow):
        yield Print(line)
    page = web_url(flow.verification_uri_complete or flow.verification_uri)
    if open_browser and page:
        opened: bool = yield OpenBrowser(page)
        if not opened:
            yield Print("No browser could be opened here: open the address on any device.")
