"""The prompts for the person who approves, on stderr."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from deviceflow.cli import streams
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
    if page and (qr or (qr is None and not opened and _on_screen())):
        show_qr(page, wanted=bool(qr))


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


def show_qr(page: str, *, wanted: bool) -> None:
    """Draw the page's URL as a QR code.

    Args:
        page: The URL.
        wanted: Whether to say why there is no QR code, if there is none.
    """
    try:
        import segno  # an extra
    except ImportError:
        if wanted:
            say("QR codes need the package segno: pip install 'deviceflow[cli]'")
        return
    try:
        code = segno.make(page, error="l")
    except ValueError:
        say("The URL is too long for a QR code: open the URL above.")
        return
    width = code.symbol_size(border=_BORDER)[0]
    if width <= streams.columns(sys.stderr):
        code.terminal(sys.stderr, border=_BORDER, compact=True)
    elif wanted:
        say(f"This terminal is too narrow for the QR code, which has {width} columns.")


def _on_screen() -> bool:
    """Tell whether stderr is a terminal that draws, and not one that only prints lines."""
    term = os.environ.get("TERM", "" if os.name == "posix" else "windows")
    return sys.stderr.isatty() and term not in _LINE_BY_LINE


class Outage:
    """Whether the server gives no usable answers at present.

    Args:
        told: Called with the login after each step.
        say: Called with a line when an outage begins or ends.
    """

    def __init__(
        self, told: Callable[[Login], object] | None, say: Callable[[str], object] | None = None
    ) -> None:
        self._told, self._say = told, say
        self.lasts = False

    def step(self, login: Login) -> None:
        """Take notice of what a step of the login has shown."""
        lasts = bool(login.failures) and not login.state.ended
        if lasts != self.lasts:
            self.lasts = lasts
            if self._say is not None:
                self._say(f"{_OUTAGE}." if lasts else "The server answers again.")
        if self._told is not None:
            self._told(login)


@contextmanager
def waiting(
    login: Login, told: Callable[[Login], object] | None = None
) -> Iterator[Callable[[Login], None]]:
    """Show that the login waits: a countdown on a terminal with rich, else a line each minute.

    Args:
        login: The login.
        told: Called with the login after each step as well.

    Yields:
        A function to call with the login after each step: it shows an outage of the server.
    """
    if login.state.ended:
        yield Outage(told).step
        return
    if _on_screen():
        try:
            from rich.console import Console  # an extra
            from rich.live import Live
        except ImportError:
            pass
        else:
            console, outage = Console(stderr=True), Outage(told)
            with Live(
                console=console,
                get_renderable=lambda: _countdown(login, outage),
                refresh_per_second=2,
                transient=True,
            ):
                yield outage.step
            return
    say(f"Waiting for the approval{_lifetime(login)}.")
    over = threading.Event()
    reminder = threading.Thread(target=remind, args=(login, over.wait), daemon=True)
    try:
        # Ctrl-C may come while the thread starts: the thread must not keep the process alive.
        reminder.start()
        yield Outage(told, say).step
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
_BORDER: Final = 2
_OUTAGE: Final = "The server gives no usable answer, and is asked again"


def _countdown(login: Login, outage: Outage) -> Text:
    from rich.text import Text

    text = Text(_OUTAGE if outage.lasts else "Waiting for the approval", style="dim")
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
