"""acme: a command-line tool that keeps its user logged in."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from deviceflow import Client, DeviceFlowAuth, LoginPending, OAuth
from deviceflow.errors import DeviceFlowError, UnknownGrantError

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER = os.environ.get("ACME_SERVER", "https://login.example.com")
API = os.environ.get("ACME_API", "https://api.example.com/me")


def provider() -> OAuth:
    """Where acme logs in, and what it asks for."""
    return OAuth(issuer=SERVER, client_id="acme", scopes="read offline_access")


def open_client() -> Client:
    """A client whose store is acme's own, in the user's data directory."""
    folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share", "acme")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Client(f"sqlite:///{folder / 'logins.db'}")


def login(client: Client) -> None:
    """Log in."""
    client.log_in("acme", provider(), purpose="use acme on this machine")
    print(f"You are logged in at {SERVER}.")


def whoami(client: Client) -> None:
    """Show who is logged in."""
    with requests.Session() as session:
        session.auth = DeviceFlowAuth(client, "acme", origins=[API], interactive=False)
        answer = session.get(API, timeout=30)
        answer.raise_for_status()
        print(answer.json()["sub"])


def logout(client: Client) -> None:
    """Log out."""
    ended = client.log_out("acme")
    if ended.revocations:
        print(f"You are logged out here, but {SERVER} could not be told.", file=sys.stderr)
    else:
        print("You are logged out.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(prog="acme", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command in (login, whoami, logout):
        one = commands.add_parser(command.__name__, help=command.__doc__)
        one.set_defaults(run=command)
    args = parser.parse_args(argv)
    try:
        with open_client() as client:
            args.run(client)
    except (LoginPending, UnknownGrantError):
        return fail("You are not logged in. To log in: acme login")
    except DeviceFlowError as error:
        return fail(error.message)
    except requests.RequestException as error:
        return fail(f"{API} did not answer as expected: {error}")
    except KeyboardInterrupt:
        return fail("Interrupted.", 130)
    return 0


def fail(message: str, code: int = 1) -> int:
    """Say what went wrong, and return the exit code."""
    print(f"acme: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
