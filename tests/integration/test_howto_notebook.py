"""The cells of the how-to, run by IPython: the code is shown once a person is there, then used."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

CELLS: Final = Path(__file__).parents[2] / "docs/how-to/notebook/cells.py"
PATIENCE: Final = 60.0  # seconds, for what takes a few


class Notebook:
    """The cells of the page, and what each of them displays."""

    def __init__(self, server: LocalServer) -> None:
        text = CELLS.read_text().replace("https://login.example.com", server.url)
        self.cells = text.split("# %%\n")[1:]
        made: Any = InteractiveShell.instance  # `display` is that of the one instance
        self.shell = made()
        self.shell.history_manager.enabled = False

    def run(self, cell: str) -> list[dict[str, Any]]:
        with capture_output(stdout=False, stderr=False) as captured:
            self.shell.run_cell(cell).raise_error()
        return [output.data for output in captured.outputs]


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as server:
        yield server


@pytest.fixture
def notebook(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notebook]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = Notebook(server)
    yield notebook
    notebook.run("client.close()")
    InteractiveShell.clear_instance()


def codes(server: LocalServer) -> list[str]:
    log = requests.get(f"{server.url}/control/log", timeout=PATIENCE).json()
    return [login["user_code"] for login in log["logins"]]


def test_a_cell_shows_the_code_until_it_is_approved(
    notebook: Notebook, server: LocalServer
) -> None:
    setup, cell = notebook.cells
    assert notebook.run(setup) == []
    [first] = notebook.run(cell)
    [again] = notebook.run(cell)
    [code] = codes(server)
    for shown in (first, again):
        assert f">{code}</code>" in shown["text/html"]
        assert "<svg" in shown["text/html"]
        assert "<script" not in shown["text/html"]
        assert code not in shown["text/plain"]

    approval = {"user_code": code}
    requests.post(f"{server.url}/control/approve", json=approval, timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while notebook.run(cell):
        assert time.monotonic() < deadline
        time.sleep(0.2)

    bearer = {"Authorization": f"Bearer {notebook.shell.user_ns['token'].access_token.reveal()}"}
    url = f"{server.url}/oauth/resource"
    assert requests.get(url, headers=bearer, timeout=PATIENCE).status_code == 200
    assert codes(server) == [code]


def test_the_last_line_of_a_cell_shows_a_login_that_waits(
    notebook: Notebook, server: LocalServer
) -> None:
    formatted = notebook.shell.display_formatter.format
    notebook.run(f"{notebook.cells[0]}login = client.start(robot, name='notebook')")
    shown, _ = formatted(notebook.shell.user_ns["login"])
    [code] = codes(server)
    assert code in shown["text/html"]

    notebook.run("ended = client.cancel(login.id)")
    shown, _ = formatted(notebook.shell.user_ns["ended"])
    assert shown.keys() == {"text/plain"}
