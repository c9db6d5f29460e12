"""A login as a notebook shows it: HTML without a script, with what the person needs to approve.

A notebook keeps what it has shown in its file. So there is only what a person is shown anyway.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from deviceflow.core.sanitize import printable, web_url
from deviceflow.core.states import State

if TYPE_CHECKING:
    from deviceflow.core.login import Login

_WAITING = (State.AWAITING_USER, State.POLLING)


def as_html(login: Login) -> str | None:
    """Return where to approve a login, as HTML; None where no person is awaited."""
    if login.state not in _WAITING or not login.user_code:
        return None
    provider = login.provider
    asks = printable(provider.client_name or provider.client_id or "This program", 100)
    lines = [f"{escape(asks)} asks for access to {escape(printable(provider.server, 200))}."]
    if login.purpose:
        lines.append(f"Purpose: {escape(printable(login.purpose, 200))}")
    complete = web_url(login.verification_uri_complete)
    page = complete or web_url(login.verification_uri)
    if complete:
        lines.append("Open this page, and check that it shows the code:")
    elif page:
        lines.append("Open this page, and enter the code:")
    else:
        lines.append("The server sent no usable URL. The code is:")
    shown = "".join(f"<p>{line}</p>" for line in lines)
    if page:
        url = escape(page)
        shown += (
            f'<p><a href="{url}" target="_blank" rel="noopener noreferrer">{url}</a></p>{_qr(page)}'
        )
    code = escape(printable(login.user_code, 100))
    return f'<div>{shown}<p><code style="font-size: 150%">{code}</code></p></div>'


def _qr(page: str) -> str:
    """Return a QR code of a page as SVG; nothing where it cannot be drawn."""
    try:
        import segno  # noqa: PLC0415  # an extra
    except ImportError:
        return ""
    try:
        # White behind it, since a dark theme would turn it around.
        code = segno.make(page, error="l").svg_inline(scale=3, border=4, light="#fff")
    except ValueError:  # the URL is too long
        return ""
    return f"<p>{code}</p>"
