"""What a person is shown while a login waits."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import pytest

from deviceflow import Client
from deviceflow.cli import prompt
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.unit.cli.test_changes import AT, CODE

if TYPE_CHECKING:
    from deviceflow import Login


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def login() -> Login:
    transport = ScriptedTransport([answer(200, CODE)])
    return Client(transport=transport, clock=VirtualClock(time.time())).start(AT)


def test_a_long_wait_says_each_minute_what_is_left(
    login: Login, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 3

    prompt.remind(login, wait)

    assert waits == [60.0] * 3
    assert (
        capsys.readouterr().err.splitlines()
        == ["Still waiting for the approval; the code expires in 15 minutes."] * 2
    )


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_dumb_terminal_gets_whole_lines(
    login: Login, term: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())

    with prompt.waiting(login):
        pass

    said = terminal.getvalue()
    assert said == "Waiting for the approval; the code expires in 15 minutes.\n"
