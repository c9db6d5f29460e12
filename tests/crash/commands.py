"""Commands that are killed while they hand a token over, and run again: `deviceflow …`.

What must be so: the person is asked once, and the token is where it was told to go.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

from tests.crash.checks import unfolded, wrong_with_history
from tests.crash.gate import CANARY, Rule, WatchedServer
from tests.crash.places import PostgresPlace, SQLitePlace, clock_for
from tests.crash.worker import Command, Login, told
from tests.stored import flows as all_flows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from deviceflow.core.flow import Flow
    from tests.crash.places import Place
    from tests.crash.worker import Then
    from tests.crash.zygote import Zygote
    from tests.postgres import PostgresServer

Verb = Literal["login", "newest", "token", "export-env"]

_LOGINS: Final = 20  # on one server and one database: the server's log is read whole each time
COLLECT_LEASE: Final = 61.0  # seconds; nobody else collects while whoever died at it has that
_COLLECTING: Final[tuple[Verb, ...]] = ("token", "export-env")
_POINTS: Final = 20  # about as many are reached by a command that hands a token over


@dataclass(frozen=True)
class Handover:
    """One login, and the commands that bring its token home.

    Attributes:
        verbs: The commands, one after another; the last one again and again until it is done.
        kills: Where each is killed but the last: a named point, or the number of any.
        begun: How far a program has brought the login before; None where the first command does.
    """

    verbs: tuple[Verb, ...]
    kills: tuple[str | int, ...]
    begun: Then | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        kills = ", ".join(str(kill) for kill in self.kills)
        return f"{' then '.join(self.verbs)}, killed {kills}"


def named() -> list[Handover]:
    """Return a case for each command and each named point at which its token can get lost."""
    collect, acknowledge = (
        [f"{where} commit: {action}" for where in ("before", "between the rows of", "inside")]
        for action in ("collect", "acknowledge")
    )
    around = [*collect, "after commit: collect"]
    file = [*around, "before the sink", "inside the sink", "after the sink", *acknowledge]
    shown = [*around, "before stdout", "after stdout", *acknowledge]
    return [
        *(Handover(("login", "login"), (kill,)) for kill in file),
        *(Handover(("login", "newest"), (kill,)) for kill in file),
        *(Handover(("newest", "newest"), (kill,), "start") for kill in file),
        *(Handover(("token", "token"), (kill,), "leave") for kill in file),
        *(Handover(("export-env", "export-env"), (kill,), "leave") for kill in shown),
    ]


def at_random(rng: Random) -> Handover:
    """Return a case in which the token is granted, and chance has it from then on."""
    kills = tuple(rng.randint(1, _POINTS) for _ in range(rng.randint(1, 4)))
    verb: Verb = rng.choice(("login", "newest", "token", "export-env"))
    again: tuple[Verb, ...] = (verb,) * (len(kills) + 1)
    if verb == "login" or (verb == "newest" and rng.random() < 0.5):
        return Handover(("login", *again), ("after commit: issue_token", *kills))
    return Handover(again, kills, "leave")


@dataclass
class Handovers:
    """What came of some of them.

    Attributes:
        kills: How often a command was killed, by the point.
        done: How many logins whose token was delivered, and nobody asked twice.
        wrong: What must not be so.
    """

    kills: Counter[str] = field(default_factory=Counter)
    done: int = 0
    wrong: list[str] = field(default_factory=list)


class Desk:
    """A server and a place for stores, where commands are run.

    Args:
        zygote: Whose children the commands are.
        folder: An empty folder.
        postgres: The server for a database; None for SQLite files, one for each login.
    """

    def __init__(self, zygote: Zygote, folder: Path, postgres: PostgresServer | None) -> None:
        self._zygote = zygote
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._clock = self._stack.enter_context(clock_for(folder, postgres))
        self._database = None
        if postgres:
            database = PostgresPlace(postgres, self._clock)
            self._database = self._stack.enter_context(contextlib.closing(database))
        self._server = self._stack.enter_context(WatchedServer(self._clock))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, name: str, case: Handover) -> Handovers:
        """Play a case.

        Args:
            name: A name that no other has here.
            case: How it goes.
        """
        folder = self._folder / name
        (folder / "home").mkdir(parents=True)
        place: Place = self._database or SQLitePlace(folder / "store")
        self._server.gate.rules[name] = Rule(decision="approve")
        played = Handovers()
        if case.begun is not None:
            self._begin(name, place, case.begun)
        for number, (verb, kill) in enumerate(zip(case.verbs, (*case.kills, None), strict=True)):
            report = folder / f"report-{number}"
            child = self._zygote.fork(
                Command(
                    args=self._arguments(verb, name, place),
                    folder=str(folder / "home"),
                    store=place.url,
                    keys=place.keys,
                    clock=str(self._clock.path),
                    report=str(report),
                    traps=[(kill, 1, signal.SIGKILL)] if isinstance(kill, str) else [],
                    any_point=kill if isinstance(kill, int) else None,
                )
            )
            status = child.wait()
            self._server.settle()
            place.settle()
            shown = [(folder / stream).read_text() for stream in ("out", "err")]
            played.wrong += _wrong_with_output(verb, *shown)
            lines = told(report)
            if status != -signal.SIGKILL:
                codes = [line.get("code", line.get("error")) for line in lines]
                if codes != [0]:
                    played.wrong.append(f"{verb} ended with {codes}: {shown[1]}")
                if isinstance(kill, str):
                    played.wrong.append(f"{verb} was not killed {kill}")
                break
            played.kills[f"{verb}: {lines[-1]['trapped']}"] += 1
            flow = self._flow(name, place)
            if flow is not None and flow.handover == "acknowledged":
                break  # run again it would begin anew, as it should
            self._clock.advance(COLLECT_LEASE)
        played.wrong += self._judge(name, case, place, folder)
        return played

    def _begin(self, name: str, place: Place, then: Then) -> None:
        child = self._zygote.fork(
            Login(
                store=place.url,
                keys=place.keys,
                clock=str(self._clock.path),
                report=str(self._folder / name / "begun"),
                server=self._server.url,
                client=name,
                then=then,
            )
        )
        assert child.wait() == 0
        self._server.settle()
        place.settle()

    def _arguments(self, verb: Verb, name: str, place: Place) -> list[str]:
        put = ["--output", "token.txt"]
        if verb == "login":
            url = f"{self._server.url}/oauth"
            ends = ["--device-authorization-endpoint", f"{url}/device_authorization"]
            ends += ["--token-endpoint", f"{url}/token", "--client-id", name]
            return ["login", "--once", *ends, "--no-browser", *put]
        if verb == "newest":
            return ["login", "--once", "--no-browser", *put]
        flow = self._flow(name, place)
        assert flow is not None
        if verb == "token":
            return ["token", flow.id, *put, "--acknowledge"]
        return ["export-env", flow.id, "--variable", "TOKEN", "--acknowledge"]

    def _flow(self, name: str, place: Place) -> Flow | None:
        """Return the login's flow; the newest, should there be more."""
        with place.open() as store:
            flows = [one for one in all_flows(store) if one.provider.client_id == name]
        place.settle()
        return flows[0] if flows else None

    def _judge(self, name: str, case: Handover, place: Place, folder: Path) -> Iterator[str]:
        with place.open() as store:
            flows = [one for one in all_flows(store) if one.provider.client_id == name]
            history = unfolded(store.events(flows[0].id)) if flows else []
        if [flow.handover for flow in flows] != ["acknowledged"]:
            yield f"there are the logins {[(flow.id, flow.handover) for flow in flows]}"
            return
        yield from wrong_with_history(flows[0], history)
        asked = self._server.log(name)
        if len(asked) != 1:
            yield f"the person was asked {len(asked)} times"
        token = next(s.token for s in self._server.gate.seen.values() if s.client == name)
        if case.verbs[-1] == "export-env":
            where = (folder / "out").read_text()
            expected = f"export TOKEN={token}\n"
        else:
            file = folder / "home" / "token.txt"
            where = file.read_text() if file.exists() else "nothing"
            expected = f"{token}\n"
        if where != expected:
            yield f"the token is not where it was told to go: {where!r}"


def _wrong_with_output(verb: Verb, out: str, err: str) -> Iterator[str]:
    if CANARY in err or (CANARY in out and verb != "export-env"):
        yield f"{verb} has shown a secret"


def hand_over(
    zygote: Zygote, folder: Path, postgres: PostgresServer | None, rng: Random, kills: int
) -> Handovers:
    """Kill so many commands: at every named point first, then at random."""
    tally, cases, number = Handovers(), named(), 0
    while cases or tally.kills.total() < kills:
        inside = folder / f"desk-{number}"
        inside.mkdir()
        with Desk(zygote, inside, postgres) as desk:
            for _ in range(_LOGINS):
                number += 1
                case = cases.pop() if cases else at_random(rng)
                played = desk.play(f"login-{number}", case)
                tally.kills += played.kills
                tally.done += not played.wrong
                tally.wrong += [f"{case.name}: {problem}" for problem in played.wrong]
    return tally
