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
        package: the package of npm, or
        program: the program that has it.
        packaged: The Debian package of the program, if its name is another.
        tls: Whether it takes servers with TLS only.
    """

    command: str
    distribution: str | None = None
    package: str | None = None
    program: str | None = None
    packaged: str | None = None
    tls: bool = False

    def is_installed(self) -> bool:
        """Tell whether it can be run here."""
        if self.package:
            return (_NODE / "node_modules" / self.package).exists()
        return self.program is None or shutil.which(self.program) is not None

    def version(self) -> str:
        """Return its name and version, and when that was published."""
        if self.distribution:
            return released(self.distribution)
        if self.package:
            return released_by_npm(self.package, _NODE)
        name = str(self.packaged or self.program)
        return f"{name} {packaged(name)}"


def _driver(library: str) -> str:
    driver = shlex.quote(str(_HERE / "client.py"))
    return f"{_PYTHON} {driver} {library} {{issuer}} {{device}} {{token}} {{client_id}}"


def _package(name: str, package: str) -> Client:
    client = shlex.quote(str(_NODE / "client.mjs"))
    command = f"node {client} {name} {{issuer}} {{device}} {{token}} {{client_id}}"
    return Client(command=command, package=package, tls=True)


CLIENTS: Final = {
    "deviceflow": Client(
        command=f"{_PYTHON} -m deviceflow login --once --issuer {{issuer}}"
        " --client-id {client_id} --show-token --store memory:",
        distribution="deviceflow",
    ),
    "msal": Client(command=_driver("msal"), distribution="msal", tls=True),
    "requests_oauth2client": Client(
        command=_driver("requests_oauth2client"), distribution="requests_oauth2client", tls=True
    ),
    "msal-node": _package("msal-node", "@azure/msal-node"),
    "octokit": _package("octokit", "@octokit/auth-oauth-device"),
    "oauth4webapi": _package("oauth4webapi", "oauth4webapi"),
    "openid-client": _package("openid-client", "openid-client"),
    "gh": Client(
        command=f"{_PYTHON} {shlex.quote(str(_HERE / 'through_gh.py'))} {{host}}",
        program="gh",
        tls=True,
    ),
    "oidc-agent": Client(
        command=f"sh {_HERE / 'oidc_agent.sh'} {{issuer}} {{device}} {{client_id}}",
        program="oidc-gen",
        packaged="oidc-agent-cli",
        tls=True,
    ),
}
