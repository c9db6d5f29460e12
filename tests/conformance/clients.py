"""The clients that the docs' table compares, each by its command."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.released import packaged, released, released_by_npm

_HERE: Final = Path(__file__).parent
_NODE: Final = _HERE / "node"
_PYTHON: Final = shlex.quote(sys.executable)


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client.

    Attributes:
        command: Its command, for the kit.
        distribution: The Python distribution that has it, or
        npm: the package of npm, or
        program: the program that has it.
        debian: The Debian package of the program, if its name is another.
        tls: Whether it takes servers with TLS only.
    """

    command: str
    distribution: str | None = None
    npm: str | None = None
    program: str | None = None
    debian: str | None = None
    tls: bool = False

    def is_installed(self) -> bool:
        """Tell whether it can be run here."""
        if self.npm:
            return (_NODE / "node_modules" / self.npm).exists()
        return self.program is None or shutil.which(self.program) is not None

    def version(self) -> str:
        """Return its name and version, and when that was published."""
        if self.distribution:
            return released(self.distribution)
        if self.npm:
            return released_by_npm(self.npm, _NODE)
        name = str(self.debian or self.program)
        return f"{name} {packaged(name)}"


def _driver(run_by: str, driver: Path, library: str) -> str:
    program = f"{run_by} {shlex.quote(str(driver))}"
    return f"{program} {library} {{issuer}} {{device}} {{token}} {{client_id}}"


def _python(library: str) -> Client:
    command = _driver(_PYTHON, _HERE / "client.py", library)
    return Client(command=command, distribution=library, tls=True)


def _node(library: str, package: str) -> Client:
    command = _driver("node", _NODE / "client.mjs", library)
    return Client(command=command, npm=package, tls=True)


CLIENTS: Final = {
    "deviceflow": Client(
        command=f"{_PYTHON} -m deviceflow login --once --issuer {{issuer}}"
        " --client-id {client_id} --show-token --store memory:",
        distribution="deviceflow",
    ),
    "msal": _python("msal"),
    "requests_oauth2client": _python("requests_oauth2client"),
    "msal-node": _node("msal-node", "@azure/msal-node"),
    "octokit": _node("octokit", "@octokit/auth-oauth-device"),
    "oauth4webapi": _node("oauth4webapi", "oauth4webapi"),
    "openid-client": _node("openid-client", "openid-client"),
    "gh": Client(
        command=f"{_PYTHON} {shlex.quote(str(_HERE / 'through_gh.py'))} {{host}}",
        program="gh",
        tls=True,
    ),
    "oidc-agent": Client(
        command=f"sh {_HERE / 'oidc_agent.sh'} {{issuer}} {{device}} {{client_id}}",
        program="oidc-gen",
        debian="oidc-agent-cli",
        tls=True,
    ),
}
