"""The pages for those who come from other libraries: both programs run, at the same server."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msal
import pytest
import requests
import requests_oauth2client

import deviceflow
from deviceflow import errors
from deviceflow.transports import requests as transport
from tests.hosts import Hosts

if TYPE_CHECKING:
    from deviceflow.testing import DeviceServer, VirtualClock

HOW_TO: Final = Path(__file__).parents[2] / "docs/how-to"
THEIRS: Final = {
    "from-msal": (msal, msal.PublicClientApplication, msal.exceptions, requests, builtins),
    "from-requests-oauth2client": (
        requests_oauth2client,
        requests_oauth2client.OAuth2Client,
        requests_oauth2client.BearerToken,
        requests_oauth2client.DeviceAuthorizationResponse,
        requests_oauth2client.client,
        requests,
        builtins,
    ),
}
OURS: Final = (
    deviceflow,
    errors,
    deviceflow.Client,
    deviceflow.Token,
    transport,
    requests,
    builtins,
)
PAGES: Final = sorted(HOW_TO.glob("from-*.md"))
_BLOCK: Final = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NOT_OURS: Final = "dvc_studio_client"
"""A library that needs too much to be installed for these tests: its programs are compiled only."""


# The programs run at once, and the loops of other libraries poll before their interval is over.
@pytest.mark.filterwarnings("ignore:Attempted too soon")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_the_programs_of_a_page_run_one_after_the_other(
    page: Path,
    device_server: DeviceServer,
    virtual_clock: VirtualClock,  # nothing waits
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They share a directory, so a program of ours finds what the other library left there."""
    text = page.read_text()
    programs = _BLOCK.findall(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    device_server.auto_approve = True
    with Hosts(device_server.url, tmp_path) as hosts:
        for name, value in hosts.environment.items():
            monkeypatch.setenv(name, value)
        for number, program in enumerate(programs):
            code = compile(program, f"<program {number} of {page.name}>", "exec")
            if _NOT_OURS not in program:
                exec(code, {"__name__": "example"})

    assert len(programs) > 2
    said = capsys.readouterr().out.splitlines()
    assert said.count("generation 2") == text.count('print(f"generation {')
    assert said.count("200") == text.count(".status_code)")


def test_nothing_of_the_old_library_is_left_where_a_grant_continues() -> None:
    """Two programs must not use one refresh token: each page removes the old copy."""
    carrying = [page for page in PAGES if "client.adopt_grant(" in page.read_text()]

    assert len(carrying) == 3
    assert [page.name for page in carrying if ".unlink()" not in page.read_text()] == []


def names_in(cell: str) -> set[str]:
    """Return the names in a table's cell that a library should have: methods and classes."""
    code = " ".join(re.findall(r"`([^`]+)`", cell))
    code = re.sub(r"(['\"]).*?\1", "", code)
    return {*re.findall(r"(\w+)\(", code), *re.findall(r"(?<!-)\b([A-Z]\w*[a-z]\w*)\b(?!-)", code)}


@pytest.mark.parametrize("page", THEIRS)
def test_every_name_in_a_table_is_there(page: str) -> None:
    """In the first column those of the other library, in the second one ours."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (HOW_TO / f"{page}.md").read_text(), re.MULTILINE)
    theirs, ours = (set[str]().union(*map(names_in, column)) for column in zip(*rows, strict=True))

    assert len(theirs) > 10
    assert {name for name in theirs if not any(hasattr(one, name) for one in THEIRS[page])} == set()
    assert {name for name in ours if not any(hasattr(one, name) for one in OURS)} == set()
