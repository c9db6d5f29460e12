"""Lines for people, on terminals and streams of every kind."""

from __future__ import annotations

import io

import pytest

from deviceflow.cli import streams


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "bold"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
    ids=str,
)
def test_a_code_is_bold_where_a_terminal_can_show_that(
    environment: dict[str, str], bold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())

    streams.say("WDJB-MJHT", strong=True)

    assert terminal.getvalue() == ("\x1b[1mWDJB-MJHT\x1b[0m\n" if bold else "WDJB-MJHT\n")


def test_a_link_is_one_for_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())

    streams.say("https://as.example.com/\x1b]8;;x", link=True)

    page = "https://as.example.com/"
    assert terminal.getvalue() == f"\x1b]8;;{page}\x1b\\{page}\x1b]8;;\x1b\\\n"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "init -> polling ... \\u20ac"), ("cp1252", "init -> polling ... €")],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_every_line_can_be_printed_in_every_encoding(
    encoding: str, shown: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(f"sys.{stream}", out)

    (streams.show if stream == "stdout" else streams.say)("init → polling … €")

    out.seek(0)
    assert out.read() == f"{shown}\n"
