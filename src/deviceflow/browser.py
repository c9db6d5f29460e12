"""Opening a web page for a person."""

from __future__ import annotations

from deviceflow.untrusted import web_url


def open_page(url: str | None) -> bool:
    """Open `url` in the person's browser, if it is an http(s) address.

    No shell is involved. Other addresses (`javascript:`, `file:`, ...) come from a server that
    means no good, and are not opened.

    Returns:
        Whether a browser took it.
    """
    safe = web_url(url)
    if safe is None:
        return False
    import webbrowser  # noqa: PLC0415  # costs, and most steps open no page

    try:
        return webbrowser.open(safe)
    except (webbrowser.Error, OSError):
        return False
