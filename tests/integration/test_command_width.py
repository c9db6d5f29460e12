"""Tables and messages on terminals of several widths, each a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import subprocess
import termios
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow import Client, Studio
from deviceflow.cli import exits
from deviceflow.stores.sqlite import SQLiteStore
from tests.grant_lives import GrantLife
from tests.integration.command import COMMAND, PATIENCE

if TYPE_CHECKING:
    from deviceflow.server import LocalServer
    from tests.integration.command import Command

TITLES: Final = ("NAME", "STATE", "EXPIRES IN", "AGE", "ID", "HAND-OVER", "CLIENT")
GIVE_WAY: Final = ("CLIENT", "HAND-OVER", "ID", "AGE", "EXPIRES IN")
LONG: Final = "studio.of-a-department.of-a-company.example.com"


def on_terminal(deviceflow: Command, columns: int, *args: str) -> tuple[int, list[str]]:
    """Run the command on a terminal; return its exit code, and the lines that it has shown."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    settings = termios.tcgetattr(theirs)
    settings[1] &= ~termios.ONLCR
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    environment = deviceflow.environment | {"TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [*COMMAND, *args],
        cwd=deviceflow.home,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        while select.select([ours], [], [], PATIENCE)[0]:
            try:
                read = os.read(ours, 65536)
            except OSError:  # Linux says so of a terminal that nobody has open
                break
            if not read:
                break
            seen += read
        code = process.wait(PATIENCE)
    os.close(ours)
    text = seen.decode()
    assert "Traceback" not in text
    return code, text.splitlines()


@pytest.fixture
def filled(kept: SQLiteStore) -> SQLiteStore:
    """Return a store with a name, a login in progress, and one with a very long name."""
    GrantLife(kept, "nightly").log_in()
    GrantLife(kept, LONG).log_in()
    client = Client(kept)
    client.create(Studio("https://studio.example.com"), name="weekly", client_name="x" * 60)
    return kept


def titles_at(columns: int) -> list[str]:
    """Return the titles that a terminal has room for."""
    widths = {"NAME": 26, "STATE": 18, "EXPIRES IN": 10, "AGE": 5, "ID": 16}
    widths |= {"HAND-OVER": 12, "CLIENT": 30}
    shown = [*TITLES]
    for title in GIVE_WAY:
        if sum(widths[one] for one in shown) + 2 * (len(shown) - 1) > columns:
            shown.remove(title)
    return shown


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("command", ["list", "status"])
@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (40, ["NAME", "STATE"]),
        (60, ["NAME", "STATE", "EXPIRES IN"]),
        (80, ["NAME", "STATE", "EXPIRES IN", "AGE"]),
        (90, ["NAME", "STATE", "EXPIRES IN", "AGE", "ID"]),
        (120, ["NAME", "STATE", "EXPIRES IN", "AGE", "ID", "HAND-OVER"]),
        (160, [*TITLES]),
    ],
)
def test_list_is_as_wide_as_the_terminal_at_most(
    deviceflow: Command, command: str, columns: int, shown: list[str]
) -> None:
    code, lines = on_terminal(deviceflow, columns, command)

    assert code == 0
    header, *rows = lines
    assert header.split("  ")[0] == "NAME"
    assert [title for title in TITLES if f" {title} " in f" {header} "] == shown
    assert len(rows) == 3
    assert max(map(len, lines)) <= columns
    names = [row[: header.index("STATE")].strip() for row in rows]
    assert names[0] == "weekly"
    assert "nightly" in names
    [cut] = {*names} - {"weekly", "nightly"}
    assert cut.endswith("…")
    assert LONG.startswith(cut.removesuffix("…"))
    states = [row[header.index("STATE") :].split("  ")[0].strip() for row in rows]
    assert states == ["init", "active", "active"]


@pytest.mark.usefixtures("filled")
def test_pipe_gets_each_text_whole(deviceflow: Command) -> None:
    done = deviceflow("list", COLUMNS="40")
    code, lines = on_terminal(deviceflow, 40, "list", "--json")

    assert LONG in done.out
    assert f"{'x' * 60} at https://studio.example.com\n" in done.out
    assert "…" not in done.out
    assert code == 0
    assert {json.loads(line)["name"] for line in lines} == {"weekly", "nightly", LONG}


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("columns", [30, 40, 80])
@pytest.mark.parametrize(
    ("arguments", "advised"),
    [
        (["token", "nobody"], "deviceflow login nobody PROVIDER"),
        (["token", "a, b. c"], "deviceflow login 'a, b. c' PROVIDER"),
        (["logout"], "deviceflow login PROVIDER"),
        (["login", "gihub"], "deviceflow login gihub --issuer URL"),
        (["login", "github", "--show-token"], "deviceflow token NAME"),
    ],
)
def test_message_is_wrapped_at_words_and_the_command_is_whole(
    deviceflow: Command, columns: int, arguments: list[str], advised: str
) -> None:
    code, lines = on_terminal(deviceflow, columns, *arguments)
    whole = deviceflow(*arguments)

    assert code == whole.code == exits.USAGE
    if len(whole.err.strip()) <= columns:
        assert lines == whole.err.splitlines()
        return
    assert advised in lines
    store = str(deviceflow.store)
    others = [line for line in lines if line != advised and store not in line]
    assert max(map(len, others)) <= columns
    # Nothing is lost but the point behind the command.
    assert " ".join(lines).split() == whole.err.replace(f"{advised}.", advised).split()


def test_command_for_another_shell_is_whole_however_long_it_is(
    deviceflow: Command,
) -> None:
    url = f"sqlite:///{deviceflow.home}/a store. And more.db"
    with SQLiteStore(url.removeprefix("sqlite:///")) as store:
        life = GrantLife(store, "the nightly report, and what is behind it")
        life.log_in()
        life.client.log_out(life.name)

    code, lines = on_terminal(deviceflow, 40, "token", life.name, "--store", url)

    assert code == exits.PENDING
    [command] = [line for line in lines if line.startswith("deviceflow login")]
    assert shlex.split(command) == ["deviceflow", "login", "--store", url, life.name]
    assert max(len(line) for line in lines if line != command) <= 40


def test_prompt_is_wrapped_but_its_link_and_code_are_whole(
    deviceflow: Command, local_server: LocalServer
) -> None:
    url = local_server.url
    name = ("--client-name", "a program with a rather long name")

    code, lines = on_terminal(deviceflow, 40, "start", "studio", url, *name)

    pending = on_terminal(deviceflow, 40, "token", lines[-1])[1]
    named = on_terminal(deviceflow, 40, "start", "work", "studio", url)[1][-1]
    needed = on_terminal(deviceflow, 40, "token", "work")[1]

    assert code == 0
    assert f"[flow {lines[-1]}]" in " ".join(pending)
    assert needed[-1] == "deviceflow login work"
    assert f"[flow {named}]" in " ".join(needed)
    [link] = [line for line in lines if line.startswith(url)]
    assert link.split("=")[-1] in lines
    [command] = [line for line in lines if line.startswith("deviceflow ")]
    assert command == f"deviceflow wait {lines[-1]}"
    assert max(len(line) for line in lines if line != link) <= 40
