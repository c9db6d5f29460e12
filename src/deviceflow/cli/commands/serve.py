"""`deviceflow serve`: run the local authorization server until Ctrl-C."""

from __future__ import annotations

import errno
import signal
import threading
from typing import TYPE_CHECKING, Final

from deviceflow.cli import arguments, streams
from deviceflow.cli.commands import Command
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Literal


class ServeOptions:
    """The options of `serve`."""

    host: str
    port: int
    interval: float
    expires_in: int
    rate_check: Literal["before", "after", "off"]
    access_token_lifetime: int
    refresh_tokens: Literal["rotate", "repeat", "keep", "none"]
    refresh_scope: str
    refresh_token_lifetime: int
    reuse_detection: bool
    reuse_grace: float
    refresh_ends_token: bool
    invalid_token_status: int
    control: bool


def _add_serve(parser: ArgumentParser) -> None:
    parser.description = (
        "Run a local authorization server on this machine until Ctrl-C. It supports RFC 8628 and"
        " DVC Studio's dialect. Its URL is printed to stdout."
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=8628, help="the port; 0 is any free port (%(default)s)"
    )
    parser.add_argument(
        "--interval", type=arguments.seconds, default=5.0, help="seconds between polls (5)"
    )
    parser.add_argument(
        "--expires-in", type=int, default=900, help="lifetime of codes in seconds (900)"
    )
    parser.add_argument(
        "--rate-check",
        choices=("before", "after", "off"),
        default="after",
        help="whether the rate of polls is checked before or after the approval (%(default)s)",
    )
    _add_tokens(parser)
    parser.add_argument(
        "--control", action="store_true", help="serve /control/, with which tests approve and deny"
    )


def _add_tokens(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--access-token-lifetime",
        type=int,
        default=3600,
        metavar="SECONDS",
        help="lifetime of access tokens (%(default)s)",
    )
    parser.add_argument(
        "--refresh-tokens",
        choices=("rotate", "repeat", "keep", "none"),
        default="rotate",
        help="rotate: a refresh replaces the refresh token, and a reuse revokes the grant; repeat:"
        " the refresh token stays, and each answer has it; keep: it stays, and answers to"
        " refreshes do not have it; none: there are none (%(default)s)",
    )
    parser.add_argument(
        "--refresh-scope",
        default="offline_access",
        metavar="SCOPE",
        help="the scope that a login needs to get a refresh token; '' is none (%(default)s)",
    )
    parser.add_argument(
        "--refresh-token-lifetime",
        type=int,
        default=30 * 86400,
        metavar="SECONDS",
        help="lifetime of refresh tokens, from their issue (%(default)s)",
    )
    parser.add_argument(
        "--no-reuse-detection",
        action="store_false",
        dest="reuse_detection",
        help="refuse a refresh token that was replaced, and revoke nothing",
    )
    parser.add_argument(
        "--reuse-grace",
        type=arguments.seconds,
        default=0.0,
        metavar="SECONDS",
        help="how long after a refresh the old refresh token gets the same new one again (0)",
    )
    parser.add_argument(
        "--refresh-ends-token",
        action="store_true",
        help="a refresh ends the access token that it replaces",
    )
    parser.add_argument(
        "--invalid-token-status",
        type=int,
        choices=(401, 403),
        default=401,
        help="the status of the resource for a token that is not valid (%(default)s)",
    )


def _run(args: ServeOptions) -> int:
    """Serve until a signal says to stop.

    Raises:
        UsageError: The settings are invalid, or the port is in use.
    """
    from deviceflow.server import LocalServer, Settings  # an extra

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
            access_token_lifetime=args.access_token_lifetime,
            refresh_tokens=args.refresh_tokens,
            refresh_scope=args.refresh_scope,
            refresh_token_lifetime=args.refresh_token_lifetime,
            reuse_detection=args.reuse_detection,
            reuse_grace=args.reuse_grace,
            refresh_ends_token=args.refresh_ends_token,
            invalid_token_status=args.invalid_token_status,
            control=args.control,
        )
        server = LocalServer(settings)
    except (ValueError, OSError) as trouble:
        why, hint = str(trouble).rstrip("."), None
        if isinstance(trouble, OSError) and trouble.errno in (errno.EADDRINUSE, errno.EACCES):
            taken = trouble.errno == errno.EADDRINUSE
            what = "is in use by another program" if taken else "needs more rights than you have"
            why = f"port {args.port} of {args.host} {what}"
            hint = "Choose another port: --port 0 chooses a free one."
        raise UsageError(f"The server could not be started: {why}.", hint=hint) from None
    with server:
        streams.show(server.url)
        streams.say(f"Approve codes at {server.url}/device. Stop the server with Ctrl-C.")
        streams.say(f"To log in: deviceflow login --issuer {server.url} --client-id demo")
        stop.wait()
    return 0


COMMANDS: Final = {"serve": Command(_add_serve, _run)}
