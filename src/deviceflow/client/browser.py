"""Opening a web page for a person."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from deviceflow.core.sanitize import web_url

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS: Final = ("DEVICEFLOW_", "PG")
"""How the names begin of the variables that deviceflow and libpq read, passwords and keys among
them. A browser needs none of these."""


def open_page(url: str | None) -> bool:
    """Open `url` in the person's browser, if it is an http(s) address.

    No shell is involved. Other URLs (`javascript:`, `file:`, ...) can only come from a malicious
    server, so they are not opened.

    In a process with one thread, the browser does not inherit the variables that `kept_back`
    removes. Threads share the environment, so a process with several threads keeps it unchanged.

    Returns:
        Whether a browser accepted the URL.
    """
    safe = web_url(url)
    if safe is None:
        return False
    if threading.active_count() > 1:
        return _open(safe)
    with kept_back():
        return _open(safe)


def _open(url: str) -> bool:
    import webbrowser  # noqa: PLC0415  # costs, and most steps open no page

    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False


@contextmanager
def kept_back(*names: str) -> Iterator[None]:
    """Take secrets out of the environment, so that processes started meanwhile inherit none.

    Args:
        *names: Variables to take out besides those that begin with `DEVICEFLOW_` or `PG`.
    """
    found = [name for name in os.environ if name in names or name.startswith(_OURS)]
    kept = {name: os.environ.pop(name) for name in found}
    try:
        yield
    finally:
        os.environ.update(kept)
