"""Run the server in a thread."""

from __future__ import annotations

import logging
import socket
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Final, Self

import waitress
from waitress import wasyncore

from deviceflow.core.sanitize import is_loopback
from deviceflow.errors import InvalidArgumentError
from deviceflow.server.app import create_app
from deviceflow.server.settings import DEFAULTS, MAX_BODY, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from flask import Flask

# Without a handler, waitress's warnings (full queue, disconnected client) go to stderr.
_UNHEARD: Final = logging.NullHandler()


class LocalServer:
    """The authorization server on a loopback port.

    The server listens as soon as the object is created, until `close()` is called. As a context
    manager it closes at the end of the block. It prints nothing.

    Attributes:
        url: The server's URL without a trailing slash, such as `http://127.0.0.1:49152`.
    """

    def __init__(
        self,
        settings: Settings = DEFAULTS,
        *,
        clock: Callable[[], float] = time.time,
        app: Flask | None = None,
    ) -> None:
        """Start serving.

        Args:
            settings: How the server behaves, and where it listens.
            clock: Returns the time in seconds since the epoch, as for `create_app`.
            app: The application to serve; by default a new one, which `create_app` makes.

        Raises:
            OSError: The port is in use, or this user may not bind it.
            InvalidArgumentError: The host name does not resolve to a loopback address.
        """
        logging.getLogger("waitress").addHandler(_UNHEARD)
        listener = _listen(settings.host, settings.port)
        host, port = listener.getsockname()[:2]
        self.url: str = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._sockets: dict[int, object] = {}
        self._server = waitress.create_server(
            app or create_app(settings, clock=clock),
            self._sockets,
            sockets=[listener],
            threads=8,
            connection_limit=1000,
            # select() cannot handle file descriptors above 1023.
            asyncore_use_poll=True,
            max_request_body_size=MAX_BODY,
        )
        self._thread = Thread(target=self._server.run, name="deviceflow-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the requests in progress, and stop the server."""
        if not self._thread.is_alive():
            return
        # Stop the workers first: they wake the loop through a pipe that the loop closes at its end.
        self._server.task_dispatcher.shutdown()
        pulled = Event()

        def close_all() -> None:
            # An earlier wake-up may bring the loop here. Wait, or the pipe is closed too early.
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
        raise InvalidArgumentError(
            f"{host!r} resolves to {address[0]}, which is not a loopback address."
        )
    return socket.create_server(address, family=family, backlog=1024)
