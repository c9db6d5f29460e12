"""What a person is shown while a login waits."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from deviceflow import Client
from deviceflow.cli import prompt, streams
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


def test_an_outage_of_the_server_is_told_when_it_begins_and_ends(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", terminal := io.StringIO())
    steps: list[int] = []

    with prompt.waiting(login, lambda step: steps.append(step.failures)) as on_step:
        for failures in (0, 1, 2, 0):
            on_step(replace(login, failures=failures))

    assert steps == [0, 1, 2, 0]
    assert terminal.getvalue().splitlines()[1:] == [
        "The server gives no usable answer, and is asked again.",
        "The server answers again.",
    ]


def test_the_countdown_shows_an_outage_of_the_server(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())

    with prompt.waiting(login) as on_step:
        on_step(replace(login, failures=1))  # the end draws the countdown once more

    assert "The server gives no usable answer, and is asked again · the code" in terminal.getvalue()


@pytest.mark.parametrize(
    ("columns", "wanted", "said"),
    [(20, False, ""), (20, True, "too narrow for the QR code, which has 2"), (80, False, "\u2588")],
)
def test_a_qr_code_is_drawn_where_there_is_room(
    columns: int, wanted: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setattr(streams, "columns", lambda _: columns)

    prompt.show_qr("https://a.example/", wanted=wanted)

    assert said in " ".join(terminal.getvalue().split())  # the narrow terminal wraps it
    assert bool(terminal.getvalue()) == bool(said)
