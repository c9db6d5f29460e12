"""Each command in a Python that is started for it, and that has imported nothing but for it.

Other tests run the command in processes that are forked from a Python that has imported the library
(`warm`): in those, nobody would find an import that is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.cli.commands import COMMANDS
from tests.integration.command import begun, decide, granted

if TYPE_CHECKING:
    from deviceflow.server import LocalServer
    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command

RUNS: Final = (
    "login work studio URL",
    "login --once studio URL --show-token",
    "login --once BEGUN --show-token",
    "start studio URL",
    "step APPROVED",
    "wait APPROVED",
    "status GRANTED",
    "cancel BEGUN",
    "token GRANTED",
    "export-env GRANTED",
    "list",
    "doubt",
    "sweep",
    "worker --until-idle",
    "purge",
    "keys rotate",
    "audit verify",
    "audit list",
    "audit export --format csv",
    "audit report --output report.html",
    "doctor --issuer URL --client-id robot",
    "providers list",
    "config show",
    "diagram mermaid",
    "completion bash",
)
ELSEWHERE: Final = {
    "check",
    "demo",
    "invalidate",
    "logout",
    "serve",
}  # in `test_command`, `test_command_names` and `test_command_validity`


@pytest.mark.parametrize("line", RUNS)
def test_a_command_imports_what_it_needs(
    deviceflow: Command, kept: SQLiteStore, local_server: LocalServer, line: str
) -> None:
    words = {
        "URL": lambda: local_server.url,
        "BEGUN": lambda: begun(kept, local_server).id,
        "APPROVED": lambda: begun(kept, local_server, "approve").id,
        "GRANTED": lambda: granted(kept, local_server).id,
    }
    args = [words[word]() if word in words else word for word in line.split()]

    done = deviceflow.fresh(*args, act=decide(local_server, "approve"))

    assert done.code == 0, done.err


def test_no_command_is_left_out() -> None:
    assert {line.split()[0] for line in RUNS} | ELSEWHERE == {*COMMANDS}


@pytest.mark.parametrize(
    "line", ["config show", "status nobody", "purge --keep nonsense", "diagram dot", "--help"]
)
def test_a_forked_run_is_as_one_of_its_own_python(deviceflow: Command, line: str) -> None:
    args = line.split()
    given: dict[str, Any] = {
        "DEVICEFLOW_STORE": "sqlite:///here.db",
        "COLUMNS": "70",
        "GIVEN": "\udcff",
    }

    forked, fresh = (run(*args, **given) for run in (deviceflow, deviceflow.fresh))

    assert (forked.code, forked.out, forked.err) == (fresh.code, fresh.out, fresh.err)
    assert forked.out + forked.err
