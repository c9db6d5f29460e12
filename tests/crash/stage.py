"""A store, a server and a clock, for a few processes that are directed one by one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from tests.crash.checks import Auditor
from tests.crash.gate import Rule, WatchedServer
from tests.crash.places import time_and_place
from tests.crash.worker import Command, Login, told
from tests.stored import get

if TYPE_CHECKING:
    from pathlib import Path

    from deviceflow.core.flow import Flow
    from tests.crash.traps import Trap
    from tests.crash.worker import Then
    from tests.crash.zygote import Child, Zygote
    from tests.postgres import PostgresServer

CLIENT = "robot"


class Stage:
    """One login, and what is known of it from outside its processes.

    Args:
        zygote: Whose children the processes are.
        folder: An empty folder.
        postgres: The server for a database; None for a SQLite file.

    Attributes:
        clock: The time.
        server: The server.
        rule: What is to happen to the login there.
        flow_id: The flow, once it is started.
    """

    def __init__(self, zygote: Zygote, folder: Path, postgres: PostgresServer | None) -> None:
        self._zygote = zygote
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.clock, self._place = self._stack.enter_context(time_and_place(folder, postgres))
        self.server = self._stack.enter_context(WatchedServer(self.clock))
        self.rule = self.server.gate.rules[CLIENT] = Rule()
        self.flow_id: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Have a process start the login, and end."""
        assert self.fork("starter", then="start").wait() == 0
        self.flow_id = self.told("starter", "flow_id")

    def fork(
        self,
        name: str,
        *traps: Trap,
        then: Then = "collect",
        deadline: float = 10.0,
        waits: bool = False,
    ) -> Child:
        """Have a process go on with the login.

        Args:
            name: The process's name.
            traps: Where it dies, or stops.
            then: What it does with the token.
            deadline: Seconds for a request, which are real ones.
            waits: Whether by `wait`; else by `step`.
        """
        return self._zygote.fork(
            Login(
                store=self._place.url,
                keys=self._place.keys,
                clock=str(self.clock.path),
                report=str(self._folder / name),
                server=self.server.url,
                client=CLIENT,
                flow_id=self.flow_id,
                then=then,
                deadline=deadline,
                waits=waits,
                traps=list(traps),
            )
        )

    def command(self, name: str, *traps: Trap, args: list[str]) -> Child:
        """Have a process run the command `deviceflow`; as `fork`."""
        folder = self._folder / f"home of {name}" / "home"
        folder.mkdir(parents=True)
        return self._zygote.fork(
            Command(
                args=args,
                folder=str(folder),
                store=self._place.url,
                keys=self._place.keys,
                clock=str(self.clock.path),
                report=str(self._folder / name),
                traps=list(traps),
            )
        )

    def told(self, name: str, what: str) -> Any:
        """Return what a process has reported of that last; None if nothing."""
        found = [line[what] for line in told(self._folder / name) if what in line]
        return found[-1] if found else None

    def stored(self) -> tuple[Flow, list[dict[str, Any]]]:
        """Return the flow and its history."""
        assert self.flow_id is not None
        with self._place.open() as store:
            return get(store, self.flow_id), store.events(self.flow_id)

    def wrong(self) -> list[str]:
        """Return what a verification of the trail finds."""
        with self._place.open() as store:
            return Auditor(self._folder / "digests").wrong(store)

    def login(self) -> dict[str, Any]:
        """Return the server's own log of the login."""
        (login,) = self.server.log(CLIENT)
        return login

    def issued(self) -> str | None:
        """Return the token that the server has issued."""
        (seen,) = self.server.gate.seen.values()
        return seen.token
