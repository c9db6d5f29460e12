"""Follow four calls and `deviceflow login`, and check them against a budget.

`python -m tests.walks` does it.

A *stay* is a time in one module, from when control enters it by a call, a return or a coroutine's
resumption until control leaves it. A *climb* is a call from a package to one above it (the order of
`[tool.importlinter]`). A walk with few stays in few modules can be read from top to bottom.

The command prints each walk, and exits with 1 if one exceeds its budget. `--stays WALK` prints the
modules of a walk in their order.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest import mock

import deviceflow
from deviceflow import Client, OAuth, cli, open_store
from deviceflow.client import _sync
from deviceflow.testing import VirtualClock, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from deviceflow.core.wire import Request, Response

PACKAGE: Final = Path(deviceflow.__file__).parent
KEY: Final = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
)
CODE: Final = {
    "device_code": "D",
    "user_code": "U",
    "verification_uri": "https://as.example.com/device",
    "expires_in": 6000,
}


class Budget(NamedTuple):
    """The most stays, and the most modules."""

    stays: int
    modules: int


BUDGETS: Final = {
    "poll": Budget(397, 47),
    "answer": Budget(159, 36),
    "get_token": Budget(149, 35),
    "refresh": Budget(615, 48),
    "login": Budget(2609, 93),
}


class Walk:
    """What control passes through while a function runs."""

    def __init__(self) -> None:
        self.stays: list[str] = []
        self.climbs: list[str] = []
        self._layers = _layers()

    def follow(self, function: Callable[[], object]) -> None:
        """Run a function, and note its modules."""
        sys.setprofile(self._event)
        try:
            function()
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        here = _module(frame)
        there = _module(frame.f_back)
        if event == "call" and here and there:
            self._note_climb(there, here)
        now = here if event == "call" else there
        if now is not None and (not self.stays or self.stays[-1] != now):
            self.stays.append(now)

    def _note_climb(self, there: str, here: str) -> None:
        if self._layers.get(_package(here), 0) < self._layers.get(_package(there), 0):
            self.climbs.append(f"{there} -> {here}")


def _module(frame: FrameType | None) -> str | None:
    if frame is None:
        return None
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return None
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def _package(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def _layers() -> dict[str, int]:
    """Return the number of each package's layer; 0 is the highest."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return {
        name.strip(): number for number, layer in enumerate(layers) for name in layer.split("|")
    }


class Server:
    """Answers as it is told to, and starts or ends a walk with an answer."""

    def __init__(self) -> None:
        self.answer: Response = answer(200, CODE)
        self.then: Callable[[], object] = lambda: None

    def send(self, request: Request, timeout: float) -> Response:
        self.then()
        return self.answer

    def close(self) -> None:
        pass


def walks(folder: Path) -> dict[str, Walk]:
    """Take the four walks, each for the second time: the first one imports and prepares."""
    clock, server = VirtualClock(), Server()
    taken = {name: Walk() for name in BUDGETS if name != "login"}
    with open_store(f"sqlite:///{folder / 'logins.db'}", keys=[KEY]) as store:  # type: ignore[attr-defined]
        client = Client(store, clock=clock, transport=server)
        login = client.start(OAUTH, name="nightly")
        server.answer = answer(400, {"error": "authorization_pending"})
        for walk in (Walk(), taken["poll"]):
            clock.advance(6)
            walk.follow(lambda: client.step(login.id))
        clock.advance(6)
        server.then = lambda: sys.setprofile(taken["answer"]._event)
        client.step(login.id)
        sys.setprofile(None)
        server.then = lambda: None
        clock.advance(6)
        tokens = {"access_token": "A", "refresh_token": "R", "expires_in": 1000}
        server.answer = answer(200, tokens)
        client.get_token("nightly", OAUTH)
        for walk in (Walk(), taken["get_token"]):
            clock.advance(2)
            walk.follow(lambda: client.get_token("nightly"))
        for walk in (Walk(), taken["refresh"]):
            clock.advance(1000)
            walk.follow(lambda: client.get_token("nightly"))
    return taken


def follow_login(folder: Path) -> Walk:
    """Follow `deviceflow login`, for the second time, to a server that approves at once."""

    class Approves(Server):
        def send(self, request: Request, timeout: float) -> Response:
            tokens = {"access_token": "A", "refresh_token": "R", "expires_in": 1000}
            return answer(200, CODE if request.purpose == "code" else tokens)

    arguments = [
        *("--client-id", "robot", "--no-browser", "--store", f"sqlite:///{folder / 'kept.db'}"),
        *("--device-authorization-endpoint", "https://as.example.com/device"),
        *("--token-endpoint", "https://as.example.com/token"),
    ]
    with (
        mock.patch.dict(os.environ, {"DEVICEFLOW_KEYS": KEY}),
        mock.patch.object(_sync, "DeferredTransport", Approves),
        mock.patch.object(_sync, "default_clock", VirtualClock),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        for name in ("first", "second"):
            walk = Walk()
            walk.follow(partial(cli.main, ["login", name, *arguments]))
    walk.stays = [stay for stay in walk.stays if not stay.startswith("testing.")]
    return walk


def main() -> int:
    """Print the walks, and return whether one is too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.walks")
    parser.add_argument("--stays", choices=BUDGETS)
    parser.add_argument("--climbs", choices=BUDGETS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        taken = walks(Path(folder)) | {"login": follow_login(Path(folder))}
    if asked.stays or asked.climbs:
        print(*(taken[asked.stays].stays if asked.stays else taken[asked.climbs].climbs), sep="\n")
        return 0
    failed = False
    print(f"{'walk':<12} {'stays':>12} {'modules':>12} {'climbs':>8}")
    for name, budget in BUDGETS.items():
        walk = taken[name]
        stays, modules = len(walk.stays), len({*walk.stays})
        failed = failed or stays > budget.stays or modules > budget.modules
        print(
            f"{name:<12} {stays:>5} of {budget.stays:>3} {modules:>6} of {budget.modules:>2}"
            f" {len(walk.climbs):>8}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
