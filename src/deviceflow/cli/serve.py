"""`deviceflow serve`: the local authorization server, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from deviceflow.cli import streams
from deviceflow.errors import UsageError
from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> int:
    """Serve until a signal says to stop.

    Raises:
        UsageError: The settings make no sense, or the port is taken.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = Settings(
            host=args.host,
            port=args.port,
            interval=args.interval,
            expires_in=args.expires_in,
            rate_check=args.rate_check,
            control=args.control,
        )
        server = LocalServer(settings)
    except (ValueError, OSError) as trouble:
        raise UsageError(f"The server cannot run like that: {trouble}") from None
    with server:
        streams.show(server.url)
        streams.say(f"Codes are approved at {server.url}/device. Stop with Ctrl-C.")
        streams.say(f"Log in to it: deviceflow login {server.url} --show-token")
        stop.wait()
    return 0
