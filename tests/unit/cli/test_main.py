from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import deviceflow
from deviceflow import Client, Studio, errors
from deviceflow.cli import exits, main
from deviceflow.cli.commands import COMMANDS
from deviceflow.cli.parser import parse
from deviceflow.client import identity
from deviceflow.core import diagram

if TYPE_CHECKING:
    from pathlib import Path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])

    assert stop.value.code == 0
    assert capsys.readouterr().out == f"deviceflow {deviceflow.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ExpiredError(), exits.EXPIRED),
        (errors.DeniedError(), exits.DENIED),
        (errors.WaitTimeoutError(), exits.PENDING),
        (errors.UsageError(), exits.USAGE),
        (errors.InsecureURLError(), exits.USAGE),
        (errors.InvalidScopesError(), exits.USAGE),
        (errors.AuthorizationExpiredError(), exits.EXPIRED),
        (errors.StudioAuthError(), exits.FAILED),
        (errors.OutcomeUnknownError(), exits.FAILED),
        (errors.RejectedError(), exits.FAILED),
        (errors.StoreError(), exits.STORE),
        (errors.SealError(), exits.STORE),
        (errors.LoginBusyError(), exits.PENDING),
        (errors.UnknownLoginError(), exits.USAGE),
        (errors.TokenGoneError(), exits.USAGE),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exits.of(error) == code


@pytest.mark.parametrize("format_", ["mermaid", "dot"])
@pytest.mark.parametrize(
    ("options", "drawing"),
    [([], diagram.LOGIN), (["--machine", "hand-over"], diagram.HANDOVER)],
)
def test_a_diagram_is_printed(
    format_: str, options: list[str], drawing: diagram.Drawing, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagram", format_, *options]) == 0
    assert capsys.readouterr().out.strip() == diagram.FORMATS[format_](drawing)


@pytest.mark.parametrize("drawing", diagram.DRAWINGS.values(), ids=[*diagram.DRAWINGS])
def test_a_diagram_out_of_date_is_found_and_renewed(
    tmp_path: Path, drawing: diagram.Drawing, capsys: pytest.CaptureFixture[str]
) -> None:
    begin, end = drawing.marks
    page = tmp_path / "page.md"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")

    assert main(["diagram", "--check", str(page)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main(["diagram", "--write", str(page)]) == 0
    assert main(["diagram", "--check", str(page)]) == 0
    assert diagram.mermaid(drawing) in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")


def test_a_page_without_a_place_for_the_diagram_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")

    assert main(["diagram", "--check", str(page)]) == exits.USAGE
    assert diagram.LOGIN.marks[0] in capsys.readouterr().err


def test_a_page_that_is_not_there_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagram", "--check", str(tmp_path / "none.md")]) == exits.USAGE
    assert "cannot be read" in capsys.readouterr().err


def test_a_format_beside_a_page_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagram", "dot", "--check", str(tmp_path / "page.md")]) == exits.USAGE
    assert "Omit the format" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_a_missing_extra_is_named(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("deviceflow.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"deviceflow.cli.commands.{command}", raising=False)
    monkeypatch.setitem(sys.modules, "flask", None)

    assert main([command]) == exits.USAGE
    assert "deviceflow[server]" in capsys.readouterr().err


def test_a_timeout_that_is_no_number_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["login", "--once", "--timeout", "soon", "--show-token"])

    assert "must be a number of seconds, at least 0, not 'soon'" in capsys.readouterr().err


def test_a_flows_id_is_never_taken_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["-abcdefghijklmno", "--all", "a-bcdefghijklmno"])
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: next(ids))

    assert Client().create(Studio()).id == "a-bcdefghijklmno"


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr("getpass.getuser", nobody)

    assert identity.user_name() == str(os.getuid())


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", nowhere)
    for name in ("DEVICEFLOW_STORE", "DEVICEFLOW_CONFIG", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_no_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == exits.STORE
    assert "no home directory for the store. Use a writable store" in capsys.readouterr().err


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_no_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "# no settings"


# Help, and what is said about mistakes.


def test_help_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["help"])

    assert stop.value.code == 0
    shown = re.findall(r"^  ([a-z][a-z-]+) +[a-z]", capsys.readouterr().out, re.MULTILINE)
    assert shown == [*COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_on_a_command_has_examples_that_the_command_accepts(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["help", name])

    lines = capsys.readouterr().out.partition("\nexamples:\n")[2].partition("\n\n")[0].splitlines()
    examples = [shlex.split(line)[1:] for line in lines]
    assert examples
    for example in examples:
        assert parse(example).command == name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["logn"], "Did you mean login?"),
        (
            ["start", "--scoeps", "x"],
            "'--scoeps' is not an argument of this command. Did you mean --scopes?",
        ),
        (["audit", "list", "--sinse=2d"], "Did you mean --since?"),
        (["audit", "shwo"], "Did you mean show?"),
        (["list", "--state", "pending"], "'pending' is not one of init,"),
        (["providers", "show", "gihtub"], "Did you mean github?"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_with_what_may_have_been_meant(
    given: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(given)
    except SystemExit as stop:
        code = stop.code

    assert code == exits.USAGE
    assert says in capsys.readouterr().err


def test_a_shell_is_told_what_may_follow(tmp_path: Path) -> None:
    told = tmp_path / "told"
    line = "deviceflow audit list --si"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    subprocess.run(
        [sys.executable, "-m", "deviceflow"],
        env=os.environ
        | asked
        | {"_ARGCOMPLETE_STDOUT_FILENAME": str(told), "_ARGCOMPLETE_IFS": "\n"},
        check=True,
    )

    assert told.read_text().split() == ["--since"]
