"""The pages' own examples, run against a real server; and that the pages are current."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
import structlog

from deviceflow import logs, typing
from deviceflow.audit.events import schema
from deviceflow.cli import main
from deviceflow.core.actions import ACTIONS, Kind
from deviceflow.core.states import Loss, Reason
from deviceflow.providers.known import known
from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [
    pytest.param(block[1], id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    if not page.name.startswith("from-")  # test_howto_migrate.py runs these
    for number, block in enumerate(
        re.finditer(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


STANDING_FOR_ANOTHER: Final = (
    "https://studio.example.com",
    "https://login.example.com",
    "https://api.example.com",
    "http://127.0.0.1:8628",
)


@pytest.fixture
def approving() -> Iterator[LocalServer]:
    """Have a person approve whatever is asked for, at once."""
    over = threading.Event()

    def approve() -> None:
        while not over.wait(0.05):
            log = requests.get(f"{server.url}/control/log", timeout=60).json()
            for login in log["logins"]:
                if login["state"] == "waiting":
                    code = {"user_code": login["user_code"]}
                    requests.post(f"{server.url}/control/approve", json=code, timeout=60)

    with LocalServer(Settings(control=True, interval=1)) as server:
        person = threading.Thread(target=approve)
        person.start()
        yield server
        over.set()
        person.join()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(
    example: str, approving: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    monkeypatch.setenv("ROBOT_SECRET", "")  # an example sets it: put back what was there
    logger = logging.getLogger("deviceflow")
    handlers, level = logger.handlers[:], logger.level
    for address in STANDING_FOR_ANOTHER:
        if "ScriptedTransport" not in example:
            example = example.replace(address, approving.url)
    try:
        exec(compile(example, "<example>", "exec"), {"__name__": "example"})
    finally:
        structlog.reset_defaults()
        logger.handlers[:], logger.level = handlers, level


TABLES: Final = [
    pytest.param(block[1], id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.finditer(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("table", TABLES)
def test_an_example_of_a_file_is_read(
    table: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "example.toml"
    file.write_text(table)
    if "[profiles." in table:
        monkeypatch.setenv("DEVICEFLOW_CONFIG", str(file))
        command = ["config", "show", "--profile", "work"]
    else:
        command = ["providers", "check", str(file)]

    assert main(command) == 0
    assert "example.toml" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["login"],
        ["token"],
        ["status"],
        ["list"],
        ["logout"],
        ["check"],
        ["invalidate"],
        ["export-env"],
        ["start"],
        ["step"],
        ["wait"],
        ["cancel"],
        ["sweep"],
        ["worker"],
        ["purge"],
        ["doubt"],
        ["keys", "generate"],
        ["keys", "rotate"],
        ["doctor"],
        ["config", "show"],
        ["providers", "list"],
        ["providers", "show"],
        ["demo"],
        ["serve"],
        ["diagram"],
    ],
    ids=" ".join,
)
def test_the_page_on_the_command_has_every_option(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/reference/command.md").read_text()
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    options = {*re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)} - {"--help"}

    assert {option for option in options if f"`{option}" not in page} == set()


def test_the_readme_counts_the_providers_that_there_are() -> None:
    page = (ROOT / "README.md").read_text()

    assert re.findall(r"\[(\d+) providers\]", page) == [str(len(known()))]


def test_the_messages_that_have_help_are_messages() -> None:
    page = (ROOT / "docs/how-to/troubleshooting.md").read_text().partition("## By message")[2]
    code = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))

    messages = re.findall(r"^\*\*([^.…*]+)", page, re.MULTILINE)
    assert len(messages) > 10
    assert [message for message in messages if message.strip() not in code] == []


def test_the_diagrams_are_current() -> None:
    assert main(["diagram", "--check", str(ROOT / "docs/explanation/machine.md")]) == 0


def test_the_page_on_events_has_every_field_as_the_schema_explains_it() -> None:
    page = (ROOT / "docs/reference/events.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", page, re.MULTILINE))

    assert {name: rows.get(name) for name in schema()["properties"]} == {
        name: field["description"] for name, field in schema()["properties"].items()
    }
    reasons = page.partition("## Reasons")[2]
    assert re.findall(r"^\| `(\w+)` \|", reasons, re.MULTILINE) == [*Reason, *Loss]


def test_the_page_on_events_has_every_action_with_its_outcome() -> None:
    page = (ROOT / "docs/reference/events.md").read_text()
    _, *tables = re.split(
        r"\| action (?:of a grant )?\| outcome \|", page.partition("## Reasons")[0]
    )
    of_others = {Kind.GRANT, Kind.STORE}

    for table, kinds in zip(tables, [{*Kind} - of_others, {Kind.GRANT}, {Kind.STORE}], strict=True):
        assert sorted(actions_in(table)) == sorted(
            (action.name, action.outcome) for action in ACTIONS.values() if action.kind in kinds
        )


def actions_in(tables: str) -> Iterator[tuple[str, str]]:
    for names, outcome in re.findall(r"^\| (`.+?`) \| `(\w+)` \|", tables, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            yield name, outcome


@pytest.mark.parametrize("module", [logs, typing], ids=lambda module: str(module.__name__))
def test_the_page_on_a_module_has_every_name(module: Any) -> None:
    page = (ROOT / f"docs/reference/{module.__name__.rpartition('.')[2]}.md").read_text()

    named = {*re.findall(rf":: {module.__name__}\.(\w+)$", page, re.MULTILINE)}
    named |= {*re.findall(r"`(\w+)`", page)}
    assert {name for name in module.__all__ if name not in named} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", page.read_text())
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "docs").rglob("test_*.py")]
    texts = {name: [one.read_text() for one in files if one.name == name] for name, _ in named}

    assert [(f, t) for f, t in named if not any(f"def {t}" in text for text in texts[f])] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_included_code_has_a_link_above_it(page: Path) -> None:
    # A forge shows the Markdown as it is, without what is included.
    included = re.findall(r"(.*)\n\n```\{literalinclude\} (\S+)", page.read_text())

    assert page.read_text().count("{literalinclude}") == len(included)
    assert [file for above, file in included if f"`]({file})" not in above] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_has_run_are_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"\btests/[\w/]+\.py\b", text)
    named += [name.replace(".", "/") for name in re.findall(r"python -m (tests\.\w+)", text)]

    assert [name for name in named if not (ROOT / name).exists()] == []
