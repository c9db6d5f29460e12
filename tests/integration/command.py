"""The command as a process of its own, and somebody who acts on what it asks."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import pytest
import requests

from deviceflow import Client, Studio
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.integration.warm import Run, Warm
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from deviceflow.core.flow import Flow
    from deviceflow.core.login import Login
    from deviceflow.core.ports import Store
    from deviceflow.server import LocalServer

    Act = Callable[[str, str], object]

_Process = TypeVar("_Process", bound=subprocess.Popen[str] | Run)

COMMAND: Final = [sys.executable, "-m", "deviceflow"]
PROMPT: Final = re.compile(r"the code:\n\n(\S+)\n(\S+)\n")
DEVICE_CODE: Final = "device-canary-0123456789"
PATIENCE: Final = 60.0


class Command:
    """Runs the command at a place of its own, with nothing set but what the test sets.

    Attributes:
        home: Its home, in which it runs; empty.
        config: Where its configuration is, if it has one.
        store: Where its logins are kept.
        environment: Its environment.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.config = self.home / ".config" / "deviceflow" / "config.toml"
        self.store = folder / "state" / "deviceflow" / "flows.db"
        self.environment = _environment() | {
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(folder / "state"),
        }

    def __call__(self, *args: str, act: Act | None = None, **environment: str) -> Done:
        """Run it to its end; when it asks, `act` is called with the page and the code."""
        wanted = self.environment | environment
        if not _warm().can_run(wanted):
            return self.fresh(*args, act=act, **environment)
        with (
            _warm().start([*args], self.home, wanted) as process,
            _at_work(process, act) as running,
        ):
            return running.end()

    def fresh(self, *args: str, act: Act | None = None, **environment: str) -> Done:
        """Run it as a user does, in a Python that is started for it."""
        with self.running(*args, act=act, environment=environment) as running:
            return running.end()

    @contextmanager
    def running(
        self,
        *args: str,
        act: Act | None = None,
        stdout: int = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Running]:
        """Have it at work, and killed at last if it still is."""
        with (
            subprocess.Popen(
                [*COMMAND, *args],
                stdout=stdout,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=self.home,
                env=self.environment | dict(environment or {}),
                process_group=0,
            ) as process,
            _at_work(process, act) as running,
        ):
            yield running

    def shell(self, script: str, shell: str = "sh", **environment: str) -> Done:
        """Run a script that uses the command by its name."""
        programs = self.home.parent / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "deviceflow").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
        (programs / "deviceflow").chmod(0o700)
        path = {"PATH": f"{programs}:{self.environment['PATH']}"}
        done = subprocess.run(
            [shell, "-c", script],
            capture_output=True,
            check=False,
            cwd=self.home,
            env=self.environment | path | environment,
            text=True,
            timeout=PATIENCE,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def configure(self, text: str, mode: int = 0o600) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)
        self.config.chmod(mode)


def _environment() -> dict[str, str]:
    left_out: tuple[str, ...] = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "DEVICEFLOW_", "XDG_")
    left_out += ("PG", "PYTHONUNBUFFERED")  # with which nothing is left to write at the end
    return {k: v for k, v in os.environ.items() if not k.startswith(left_out)}


@functools.cache
def _warm() -> Warm:
    return Warm(_environment())


@contextmanager
def _at_work(process: _Process, act: Act | None) -> Iterator[AtWork[_Process]]:
    killer = threading.Timer(PATIENCE, process.kill)
    killer.start()
    running = AtWork(process, act)
    try:
        yield running
    finally:
        killer.cancel()
        process.kill()
        running.person.join(PATIENCE)


class AtWork(Generic[_Process]):
    """The command at work, with a person who reads its stderr and acts on what it asks.

    Attributes:
        process: The process.
        person: The thread that reads.
        asked: Set once it has asked.
        page: Where it has sent the person.
        user_code: The code it has shown.
    """

    def __init__(self, process: _Process, act: Act | None) -> None:
        self.process = process
        self.asked = threading.Event()
        self.page = self.user_code = self._err = ""
        self._act = act
        self.person = threading.Thread(target=self._read)
        self.person.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        read = 0
        for line in self.process.stderr:
            self._err += line
            if asked := PROMPT.search(self._err, read):
                read = asked.end()
                self.page, self.user_code = asked.groups()
                if self._act is not None:
                    self._act(self.page, self.user_code)
                self.asked.set()

    def when_asked(self) -> str:
        """Wait until it has shown a code, and return that."""
        assert self.asked.wait(PATIENCE), self._err
        return self.user_code

    def end(self) -> Done:
        """Wait for its end."""
        out = self.process.stdout.read() if self.process.stdout else ""
        code = self.process.wait(PATIENCE)
        self.person.join(PATIENCE)
        return Done(code, out, self._err)


Running: TypeAlias = AtWork[subprocess.Popen[str]]


class Done:
    """How a command ended, and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err
        assert "Traceback" not in err, err

    @property
    def said(self) -> dict[str, Any]:
        said = json.loads(self.out)
        assert isinstance(said, dict)
        return said


@pytest.fixture
def deviceflow(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def kept(deviceflow: Command) -> Iterator[SQLiteStore]:
    """Open the command's own store with the library."""
    deviceflow.store.parent.mkdir(parents=True)
    deviceflow.store.parent.chmod(0o700)
    with SQLiteStore(deviceflow.store) as store:
        yield store


def begun(store: Store, server: LocalServer, *decisions: str, **asked: Any) -> Login:
    """Return a login that was begun at the server, and decided on."""
    flow = Client(store).start(Studio(server.url), **asked)
    for decision in decisions:
        decide(server, decision)("", str(flow.user_code))
    return flow


def granted(store: Store, server: LocalServer, **asked: Any) -> Flow:
    """Return a login that was approved, with its token."""
    flow = begun(store, server, "approve", **asked)
    Client(store).step(flow.id)
    return get(store, flow.id)


def answered(
    store: Store,
    *answers: Mapping[str, Any],
    at: float | None = None,
    server: str = "https://studio.example.com",
) -> Flow:
    """Return a login as it is after a server has sent these answers; the first one has the code.

    Args:
        store: Where it is kept.
        answers: What is sent; with a `detail` in it, as a refusal.
        at: When, in seconds since 1970.
        server: Whose login it is.
    """
    code = {
        "device_code": DEVICE_CODE,
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://studio.example.com/device",
        "token_uri": f"{server}/token",
    }
    script = [answer(200, code | dict(answers[0]))]
    script += [answer(400 if "detail" in more else 200, more) for more in answers[1:]]
    clock = VirtualClock(at or time.time())
    client = Client(store, transport=ScriptedTransport(script), clock=clock)
    flow = client.start(Studio(server))
    for _ in answers[1:]:
        clock.advance(client.step(flow.id).wait_seconds)
    return get(store, flow.id)


def decide(server: LocalServer, decision: str) -> Act:
    """Return what makes the person approve or deny, or the code expire."""

    def act(_: str, user_code: str) -> None:
        code = {"user_code": user_code}
        answer = requests.post(f"{server.url}/control/{decision}", json=code, timeout=60)
        answer.raise_for_status()

    return act


def asked_of(server: LocalServer) -> int:
    """Return how many codes the server was asked for."""
    return len(requests.get(f"{server.url}/control/log", timeout=60).json()["logins"])
