"""The server in a thread of its own."""

from __future__ import annotations

import logging
import socket
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Final, Self

import waitress
from waitress import wasyncore

from deviceflow.core.sanitize import is_loopback
from deviceflow.server.app import create_app
from deviceflow.server.settings import DEFAULTS, MAX_BODY, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Without a handler, Python prints waitress's warnings (a busy moment, a hung-up client) to stderr.
_UNHEARD: Final = logging.NullHandler()


class LocalServer:
    """The authorization server on a loopback port, until it is closed.

    It listens from its creation on; as a context manager it closes itself. It prints nothing.

    Attributes:
        url: Where it is, such as `http://127.0.0.1:49152`; no slash at the end.
    """

    def __init__(
        self, settings: Settings = DEFAULTS, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Start serving.

        Args:
            settings: How it behaves, and where it listens.
            clock: Tells the time in seconds since the epoch, as for `create_app`.

        Raises:
            OSError: The port is taken, or not ours to take.
            ValueError: The host's name leads to another address than this machine's own.
        """
        logging.getLogger("waitress").addHandler(_UNHEARD)
        listener = _listen(settings.host, settings.port)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._sockets: dict[int, object] = {}
        self._server = waitress.create_server(
            create_app(settings, clock=clock),
            self._sockets,
            sockets=[listener],
            threads=8,
            connection_limit=1000,
            # select() ends at file descriptor 1024.
            asyncore_use_poll=True,
            max_request_body_size=MAX_BODY,
        )
        self._thread = Thread(target=self._server.run, name="deviceflow-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer what is under way, stop, and wait for that."""
        if not self._thread.is_alive():
            return
        # The workers first: they wake the loop through a pipe that the loop's end closes.
        self._server.task_dispatcher.shutdown()
        pulled = Event()

        def close_all() -> None:
            # A wake-up from before may be what brings the loop here, and the pipe is closed next.
            pulled.wait()
            wasyncore.close_all(self._sockets)

        self._server.trigger.pull_trigger(close_all)
        pulled.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if not is_loopback(str(address[0])):
        raise ValueError(f"{host!r} leads to {address[0]}, which is not a loopback address.")
    return socket.create_server(address, family=family, backlog=1024)
