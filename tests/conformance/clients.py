"""The clients that the docs' table compares, each by its command."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.released import packaged, released

_HERE: Final = Path(__file__).parent
_PYTHON: Final = shlex.quote(sys.executable)


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client.

    Attributes:
        command: Its command, for the kit.
        distribution: The Python distribution that has it, or
        program: the program that has it.
        package: The Debian package of the program, if its name is another.
        tls: Whether it takes servers with TLS only.
    """

    command: str
    distribution: str | None = None
    program: str | None = None
    package: str | None = None
    tls: bool = False

    def is_installed(self) -> bool:
        """Tell whether it can be run here."""
        return self.program is None or shutil.which(self.program) is not None

    def version(self) -> str:
        """Return its name and version, and when that was published."""
        if self.distribution:
            return released(self.distribution)
        return f"{self.package or self.program} {packaged(str(self.package or self.program))}"


def _driver(library: str) -> str:
    driver = shlex.quote(str(_HERE / "client.py"))
    return f"{_PYTHON} {driver} {library} {{issuer}} {{device}} {{token}} {{client_id}}"


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
    "gh": Client(
        command=f"{_PYTHON} {shlex.quote(str(_HERE / 'through_gh.py'))} {{host}}",
        program="gh",
        tls=True,
    ),
    "oidc-agent": Client(
        command=f"sh {_HERE / 'oidc_agent.sh'} {{issuer}} {{device}} {{client_id}}",
        program="oidc-gen",
        package="oidc-agent-cli",
        tls=True,
    ),
}
