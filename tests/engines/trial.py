"""What every engine goes through: a person is awaited, workers are killed, a token runs out."""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import pytest
import requests

from deviceflow import Client, LoginPending, OAuth, open_store
from deviceflow.trail.verify import Verification
from tests.engines.environments import ROOT
from tests.integration.celery_brokers import wait_until
from tests.integration.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.login import Login
    from deviceflow.server import LocalServer

LIFETIME: Final = 5
"""Of an access token, in seconds."""

_PATIENCE: Final = 180.0
_MARK: Final = "DEVICEFLOW_TRIAL"
_PAGES: Final = "http://127.0.0.1:9/logins"
_RAISING: Final = ROOT / "tests/engines/raising"


class Engine:
    """One engine: how its services and workers are started, and how a job gets to them.

    Attributes:
        name: Of its folder in the how-to, and of its environment.
        title: What the command calls this way of waiting; by default the name.
        package: Whose version is shown.
        requirements: What pip installs.
        runs_again: Whether the engine itself runs a job again whose worker was killed at work.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    package: ClassVar[str]
    requirements: ClassVar[tuple[str, ...]]
    runs_again: ClassVar[bool] = True

    def settings(self, trial: Trial) -> dict[str, str]:
        """Return the engine's part of the environment."""
        return {}

    def prepare(self, trial: Trial) -> None:
        """Start what the engine needs, and what is not killed."""

    def start(self, trial: Trial) -> None:
        """Start the worker, also once more after it was killed."""
        raise NotImplementedError

    def kill(self, trial: Trial) -> None:
        """Kill the worker with all its children, as a power cut does."""
        trial.kill("worker")

    def submit(self, trial: Trial, number: int) -> None:
        """Ask for the job once."""
        raise NotImplementedError

    def raise_it(self, trial: Trial) -> None:
        """Run a job that lets the exception out."""
        raise NotImplementedError

    def shown(self, trial: Trial) -> bytes:
        """Return what the engine shows and keeps outside its folder."""
        return b""

    def close(self) -> None:
        """Stop what `prepare` started in this process."""


class Trial:
    """A folder with the recipe, the engine's files, a server behind a gate, and the processes.

    Attributes:
        folder: Where the engine and its processes keep their files.
        client: A client of the same store, for a person or to look.
        problems: What was wrong.
    """

    def __init__(self, engine: Engine, folder: Path, server: LocalServer, programs: Path) -> None:
        self.engine, self.server, self.programs = engine, server, programs
        self.folder = folder / "engine"
        shutil.copytree(ROOT / "docs/how-to" / engine.name, self.folder)
        shutil.copy(_RAISING / f"{engine.name}.py", self.folder / "raising.py")
        self.gate = Gate(server)
        self.store = f"sqlite:///{folder / 'grants.db'}"
        self._mark = secrets.token_hex(8)
        self.environment = {
            "DEVICEFLOW_KEYS": os.environ["DEVICEFLOW_KEYS"],
            "DEVICEFLOW_PUBLIC_URL": _PAGES,
            "DEVICEFLOW_STORE": self.store,
            "HOME": str(self.folder),
            "ISSUER": self.gate.url,
            "LANG": "C.UTF-8",
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONUNBUFFERED": "1",
        }
        self.environment |= engine.settings(self)
        store = open_store(self.environment["DEVICEFLOW_STORE"])
        self.client = Client(store, public_url=_PAGES)
        self.robot = OAuth(issuer=self.gate.url, client_id="robot", scopes="read offline_access")
        self.problems: list[str] = []
        password = urlsplit(self.environment["DEVICEFLOW_STORE"]).password
        self._secrets = {self.environment["DEVICEFLOW_KEYS"], *filter(None, [password])}

    def run(self) -> None:
        """Go through all of it."""
        engine = self.engine
        engine.prepare(self)
        engine.start(self)
        engine.submit(self, 1)
        wait_until(self.needs, "the need is on record", _PATIENCE)
        self._note_link("report")
        self._say("somebody must log in, and the job waits")
        time.sleep(5)  # by then the engine has noted that

        engine.kill(self)
        engine.start(self)
        login = self.client.start(self.robot, name="report")
        held = self.gate.hold("device_code")
        self._say("the worker was killed while the job waited; somebody asks for a code")
        wait_until(held.is_set, "the job asks for the token", _PATIENCE)

        engine.kill(self)
        engine.start(self)
        if not engine.runs_again:
            engine.submit(self, 2)
        polls = self.gate.polls
        wait_until(lambda: self.gate.polls > polls, "the job asks once more", _PATIENCE)
        self._say("the worker was killed at work; the job asks again")

        self._approve(login)
        wait_until(lambda: self.made(1), "the report is made", _PATIENCE)
        self._say("somebody approved; the job is done")

        time.sleep(LIFETIME)
        engine.submit(self, 3)
        wait_until(lambda: self.made(2), "the report is made with the next token", _PATIENCE)
        self._say("the token had run out; the next job refreshed it")

        engine.raise_it(self)
        self._note_link("raising")
        self._secrets |= self.gate.secrets
        self._check()

    def _check(self) -> None:
        grants = requests.get(f"{self.server.url}/control/grants", timeout=60).json()["grants"]
        [grant] = grants or [{}]
        leaks = self._leaks()
        self._say(f"{len(self._secrets)} secrets searched for, {len(leaks)} found")
        checks = {
            "a person was needed more or less than once": len(self.needs()) != 1,
            "the server has not one active grant": grant.get("state") != "active",
            "the token was not refreshed": not grant.get("refreshes"),
            "the trail does not verify": list(self._findings()),
            f"secrets are in the engine's files: {leaks}": leaks,
        }
        self.problems += [problem for problem, is_so in checks.items() if is_so]

    def needs(self, name: str = "report") -> list[dict[str, Any]]:
        """Return the events on record that say that a person must log in."""
        store: Any = self.client._store
        found = [grant.id for grant in self.client.grants() if grant.name == name]
        return [event for one in found for event in store.events(one) if event["action"] == "need"]

    def made(self, generation: int) -> bool:
        """Tell whether a job has said that it is done, with a token of at least that generation."""
        said = re.findall(rb"made with the token of generation (\d+)", self._kept())
        return any(int(one) >= generation for one in said)

    def command(self, *command: str) -> list[str]:
        """Return a command with the path of its program in the engine's environment."""
        return [str(self.programs / command[0]), *command[1:]]

    def do(self, *command: str, fails: bool | None = False) -> str:
        """Run a command of the engine to its end, and return what it said.

        Args:
            command: The command.
            fails: Whether it has to fail; None if it may.
        """
        done = subprocess.run(
            self.command(*command),
            cwd=self.folder,
            env=self.environment | {_MARK: f"{self._mark}-command"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        said = done.stdout + done.stderr
        with (self.folder / "commands.log").open("a") as log:
            log.write(said)
        assert fails is None or bool(done.returncode) == fails, said[-3000:]
        return said

    def launch(self, role: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process of a role, which goes on to run."""
        with (self.folder / f"{role}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(*command),
                cwd=self.folder,
                env=self.environment | {_MARK: f"{self._mark}-{role}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, role: str = "") -> None:
        """Kill the processes of a role, or all of the trial's: those that they started too."""
        while found := [*self.processes(role)]:
            for pid, _ in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def processes(self, role: str = "") -> Iterator[tuple[int, bytes]]:
        """Give the processes of a role that run, with their command lines."""
        mark = f"{_MARK}={self._mark}-{role}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                marked = any(one.startswith(mark) for one in _words(path / "environ"))
                if marked and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    yield int(path.name), (path / "cmdline").read_bytes()

    def log(self, role: str = "worker") -> str:
        """Return what the processes of a role have printed."""
        path = self.folder / f"{role}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Kill what still runs."""
        self.kill()
        self.engine.close()
        self.client.close()
        self.client._store.close()
        self.gate.close()

    def _say(self, what: str) -> None:
        print(f"{self.engine.title or self.engine.name}: {what}", flush=True)

    def _approve(self, login: Login) -> None:
        url = f"{self.server.url}/control/approve"
        requests.post(url, json={"user_code": login.user_code}, timeout=60).raise_for_status()

    def _findings(self) -> Iterator[Any]:
        store: Any = self.client._store
        with store.snapshot() as seen:
            yield from Verification(*seen).findings()

    def _kept(self) -> bytes:
        """Return what is in the engine's files."""
        kept = []
        for path in sorted(self.folder.rglob("*")):
            with suppress(OSError):  # some are gone at once
                if path.is_file():
                    kept.append(path.read_bytes())
        return b"\n".join(kept)

    def _note_link(self, name: str) -> None:
        """Note the link of a need, which must not be in the engine: it gives out codes."""
        with pytest.raises(LoginPending) as pending:
            self.client.get_token(name)
        assert pending.value.link is not None
        self._secrets.add(pending.value.link.reveal().rpartition("/")[2])

    def _leaks(self) -> list[str]:
        texts = self._kept(), self.engine.shown(self)
        seen = b"\n".join(map(with_decoded, texts))
        assert b"A person must log in" in seen, "the engine keeps no error: nothing was searched"
        spellings = {one: {one, one.replace("-", "")} for one in self._secrets}
        return [one for one, said in spellings.items() if any(s.encode() in seen for s in said)]


def with_decoded(text: bytes) -> bytes:
    """Return a text, and behind it what is in base64 in it, wherever that begins."""
    decoded = [text]
    for found in re.findall(rb"[A-Za-z0-9+/_-]{16,}", text):
        plain = found.translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            with suppress(binascii.Error):
                whole = plain[start:][: (len(plain) - start) // 4 * 4]
                decoded.append(base64.b64decode(whole))
    return b"\n".join(decoded)


def _words(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\0")
