"""The prompts for the person who approves, on stderr."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from deviceflow.cli.streams import say
from deviceflow.client.browser import kept_back, open_page
from deviceflow.core import wording
from deviceflow.core.explain import instructions
from deviceflow.core.sanitize import web_url
from deviceflow.credentials import secret_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.text import Text

    from deviceflow.core.login import Login


def ask(login: Login, *, browser: bool, qr: bool | None) -> None:
    """Tell the person where to approve, and open the page or show a QR code.

    Args:
        login: The login.
        browser: Whether a browser may be opened.
        qr: Whether to show a QR code; None to show it on a terminal without a browser.
    """
    show_instructions(login)
    page = web_url(login.verification_uri_complete or login.verification_uri)
    with kept_back(*secret_refs.variables(login.provider)), _stdout_kept_back():
        opened = browser and _has_screen() and open_page(page)
    if browser and not opened:
        say("No browser could be opened here: open the page on any device.")
    if page and (qr or (qr is None and not opened and sys.stderr.isatty())):
        _show_qr(page, wanted=bool(qr))


def show_instructions(login: Login) -> None:
    """Print where to approve, with the code in bold and the page as a link on a terminal."""
    pages = (login.verification_uri_complete, login.verification_uri)
    for line in instructions(login):
        say(line, strong=line == login.user_code, link=line in pages)


@contextmanager
def _stdout_kept_back() -> Iterator[None]:
    """Redirect the stdout of child processes to stderr: stdout is for the token.

    A browser that keeps stdout open would also block a program that reads it to the end.
    """
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    try:
        with suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _has_screen() -> bool:
    """Tell whether a browser would open in a window, and not in this very terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _show_qr(page: str, *, wanted: bool) -> None:
    try:
        import segno  # an extra
    except ImportError:
        if wanted:
            say("QR codes need the package segno: pip install 'deviceflow[cli]'")
        return
    try:
        segno.make(page, error="l").terminal(sys.stderr, border=2, compact=True)
    except (ValueError, OSError):  # the URL is too long
        say("The URL is too long for a QR code: open the URL above.")


@contextmanager
def waiting(login: Login) -> Iterator[None]:
    """Show that the login waits: a countdown on a terminal with rich, else a line each minute."""
    if login.state.ended:
        yield
        return
    if sys.stderr.isatty() and os.environ.get("TERM", "") not in _LINE_BY_LINE:
        try:
            from rich.console import Console  # an extra
            from rich.live import Live
        except ImportError:
            pass
        else:
            console = Console(stderr=True)
            with Live(
                console=console,
                get_renderable=lambda: _countdown(login),
                refresh_per_second=2,
                transient=True,
            ):
                yield
            return
    say(f"Waiting for the approval{_lifetime(login)}.")
    over = threading.Event()
    reminder = threading.Thread(target=remind, args=(login, over.wait), daemon=True)
    try:
        # Ctrl-C may come while the thread starts: the thread must not keep the process alive.
        reminder.start()
        yield
    finally:
        over.set()
        if reminder.is_alive():
            reminder.join()


def remind(login: Login, wait: Callable[[float], bool]) -> None:
    """Print each minute that the login still waits, and how long the code is valid.

    Args:
        login: The login.
        wait: Waits for so many seconds, and tells whether the login waits no longer.
    """
    while not wait(_REMINDER):
        say(f"Still waiting for the approval{_lifetime(login)}.")


_LINE_BY_LINE: Final = ("", "dumb", "unknown")
_REMINDER: Final = 60.0


def _countdown(login: Login) -> Text:
    from rich.text import Text

    text = Text("Waiting for the approval", style="dim")
    if login.expires_at is not None:
        minutes, seconds = divmod(max(0, round(login.expires_at - time.time())), 60)
        text.append(f" · the code expires in {minutes}:{seconds:02}")
    return text


def _lifetime(login: Login) -> str:
    if login.expires_at is None:
        return ""
    seconds = round(login.expires_at - time.time())
    if seconds <= 0:
        return ""
    if seconds < 120:
        return f"; the code expires in {wording.seconds(seconds)}"
    return f"; the code expires in {round(seconds / 60)} minutes"
