"""Mistakes that people type at the command, and the answers to them: `answers.txt`.

Each line `$ deviceflow …` there is run, and what follows it is the answer: the exit code, and what
the command says. SERVER is a local server, TROUBLE one that answers as its path says, and nobody
listens at CLOSED. A test compares them; `python -m tests.mistakes` writes the answers anew, for a
person to read.
"""

from __future__ import annotations

import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.server import LocalServer, Settings
from tests.integration.command import Command, decide
from tests.mistakes.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.command import Done

ANSWERS: Final = Path(__file__).with_name("answers.txt")

_PROMPT: Final = "$ "
_HEADING: Final = "=== "
_LOGGED_IN: Final = {"one": ["work"], "several": ["work", "home"]}
_STORE: Final = re.compile(r"=== .*\(in store: (\w+)\)")
_CONFIG: Final = """
[profiles.work]
issuer = "https://login.example.com"
client_id = "robot"
scopes = "read write"
scope_ceiling = "read"

[profiles.secret]
provider = "google"
client_id = "robot"
client_secret = "in-clear"
"""
_VARYING: Final = (
    (re.compile(r"\b[0-9a-f]{8}\b"), "KEY-ID"),
    (re.compile(r"\b[A-Z]{4}-[A-Z]{4}\b"), "USER-CODE"),
    (re.compile(r"(?<![\w-])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{16}(?![\w-])"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "TIME"),
    (re.compile(r"\bin \d+ (minute|second)s?\b"), r"in N \1s"),
    (re.compile(r"\b1[345]m\b"), "15m"),
    (re.compile(r"\b\d+s\b"), "Ns"),
    (re.compile(r'(_at|_since|wait_seconds)": \d+(\.\d+)?'), r'\1": N'),
)
"""What is another text each time, and what stands for it."""


def read() -> list[str]:
    """Return the lines of the table."""
    return ANSWERS.read_text("utf-8").splitlines()


def answered(folder: Path) -> list[str]:
    """Return the lines of the table, with the answers that the command gives now."""
    lines = [line for line in read() if line.startswith((_HEADING, _PROMPT))]
    settings = Settings(control=True, interval=0, access_token_lifetime=86400)
    with LocalServer(settings) as server, Servers() as servers, ThreadPoolExecutor() as pool:
        # One home after the other line by line, and all homes at once.
        names = servers.names | {"SERVER": server.url}
        asked = {
            home: pool.submit(_answers, folder, home, names, server, lines)
            for home in _homes(lines)
        }
        answers = {
            number: said for home in asked.values() for number, said in home.result().items()
        }
    written: list[str] = []
    for number, line in enumerate(lines):
        if line.startswith(_HEADING) or number in answers:
            written.append("")
        written += [line, *answers.get(number, [])]
    return written


def _homes(lines: list[str]) -> dict[str, None]:
    return dict.fromkeys(found[1] for line in lines if (found := _STORE.match(line)))


def _answers(
    folder: Path, home: str, names: dict[str, str], server: LocalServer, lines: list[str]
) -> dict[int, list[str]]:
    """Return the answers to the lines of one home, by their numbers."""
    (folder / home).mkdir()
    place = _Home(Command(folder / home), names)
    at = ("--issuer", server.url, "--client-id", "x", "--scopes", "read offline_access")
    for name in _LOGGED_IN.get(home, ()):
        _expect(place.command("login", name, *at, act=decide(server, "approve")))
    if home == "several":
        _expect(place.command("start", "nightly", *at))
        place.names["WAITING"] = _expect(place.command("start", "weekly", *at)).out.strip()
        place.names["ENDED"] = _expect(place.command("start", *at)).out.strip()
        _expect(place.command("cancel", place.names["ENDED"]))
    answers, here = {}, False
    for number, line in enumerate(lines):
        if (heading := _STORE.match(line)) is not None:
            here = heading[1] == home
        elif here and line.startswith(_PROMPT):
            answers[number] = place.answer(line)
    return answers


def _expect(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


class _Home:
    def __init__(self, command: Command, names: dict[str, str]) -> None:
        self.command = command
        self.names = dict(names)
        command.configure(_CONFIG)
        (command.home / "broken.toml").write_text("[profiles\n")
        (command.home / "readable.db").write_text("this is no database")
        (command.home / "readable.db").chmod(0o600)
        (command.home / "folder").mkdir()

    def answer(self, line: str) -> list[str]:
        """Run a line, and return its answer."""
        words = [self._filled(word) for word in shlex.split(line.removeprefix(_PROMPT))]
        environment: dict[str, Any] = {}
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        assert words[0] == "deviceflow"
        done = self.command(*words[1:], act=None, **environment)
        said = [*done.out.splitlines(), *done.err.splitlines()]
        return [self._told(text) for text in (f"[{done.code}]", *said)]

    def _filled(self, word: str) -> str:
        for name, value in self.names.items():
            word = word.replace(name, value)
        return word

    def _told(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace(value, name).replace(value.removeprefix("http://"), name)
        text = text.replace(str(self.command.store.parent.parent), "~/state")
        text = text.replace(str(self.command.home), "~")
        for pattern, name in _VARYING:
            text = pattern.sub(name, text)
        return text.rstrip()


def commands(lines: list[str]) -> Iterator[str]:
    """Yield the commands of the table."""
    yield from (line for line in lines if line.startswith(_PROMPT))
