"""Log in for a grant, and print the result: for `resume NAME` and `grants login`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deviceflow.cli import changes, exits, options, stored, streams
from deviceflow.core.notice import argument
from deviceflow.errors import DeviceFlowError, WaitTimeoutError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.client._sync import Client
    from deviceflow.core.grant_view import GrantView
    from deviceflow.core.provider import Provider


class GrantLoginOptions(options.ChangesOption, options.JobOptions):
    """The options of both commands."""

    again: bool
    no_browser: bool
    timeout: float | None
    argv: list[str]


def add_again(parser: ArgumentParser) -> None:
    """Add `--again`."""
    parser.add_argument(
        "--again",
        action="store_true",
        help="for a grant that gives tokens: log in all the same, and replace and revoke them",
    )


def log_in(
    args: GrantLoginOptions,
    client: Client,
    name: str,
    provider: Provider | None = None,
    purpose: str | None = None,
) -> int:
    """Log in for a grant, unless it gives tokens and nobody says `--again`; return the exit code.

    Raises:
        DeviceFlowError: As for `Client.log_in`, unless it was printed as a change.
    """
    ready = not args.again and stored.needs_no_login(client, name)
    if ready:
        stored.say_no_login(args, name)
    told = changes.Changes(lambda _: _again(args), until_saved=True) if args.json_events else None
    try:
        view = client.log_in(
            name,
            provider,
            purpose=purpose,
            again=args.again,
            open_browser=not args.no_browser,
            timeout=args.timeout,
            on_step=None if told is None else told.step,
        )
    except KeyboardInterrupt:
        _say_open(args, client, name)
        raise
    except streams.OutputError:
        raise
    except DeviceFlowError as error:
        if isinstance(error, WaitTimeoutError):
            error.hint = "Run the same command again: while the code is valid, it continues."
        if told is None or told.login is None:
            raise
        told.error(error, client.get(told.login.id))
        return exits.of(error)
    if told is None:
        _say(args, view, new=not ready)
    elif told.login is None:
        changes.show("saved", _facts(view))
    else:
        told.result(client.get(told.login.id), _facts(view))
    return 0


def _say_open(args: GrantLoginOptions, client: Client, name: str) -> None:
    """After Ctrl-C, print how to continue the login, if there is one."""
    with suppress(DeviceFlowError):
        if any(login.name == name for login in client.logins()):
            again = stored.command(args, f"grants login {argument(name)}")
            streams.say("")
            streams.say(f"The login is still open. To continue: {again}")


def _say(args: GrantLoginOptions, view: GrantView, *, new: bool) -> None:
    """Print how a grant stands, and after a login, how to get its token."""
    if args.json:
        stored.say_grant(args, view)
        return
    streams.show(stored.grant_line(view))
    if new:
        token = stored.command(args, f"token {argument(view.name)}")
        streams.say(f"Logged in. For a token: {token}")


def _again(args: GrantLoginOptions) -> list[str]:
    """Return the same command without the browser: it continues the login."""
    if args.no_browser:
        return [*changes.program(), *args.argv]
    end = args.argv.index("--") if "--" in args.argv else len(args.argv)
    return [*changes.program(), *args.argv[:end], "--no-browser", *args.argv[end:]]


def _facts(view: GrantView) -> dict[str, Any]:
    return {
        "grant": view.name,
        "issuer": view.provider.server,
        "expires_at": view.expires_at,
        "scopes": None if view.scopes is None else [*view.scopes],
    }
