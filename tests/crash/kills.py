"""Plays logins whose processes are killed, and checks what is left of them."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from deviceflow import State
from deviceflow.audit.mode import is_summarized
from tests.crash.cases import INTERVAL_OF_SLOW, at_random, named
from tests.crash.checks import (
    Auditor,
    unfolded,
    wrong_with_files,
    wrong_with_history,
    wrong_with_polls,
)
from tests.crash.gate import Rule, WatchedServer
from tests.crash.places import PostgresPlace, SQLitePlace, clock_for
from tests.crash.worker import Login, told
from tests.stored import flows, get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from deviceflow.core.flow import Flow
    from tests.crash.cases import Case, Kill
    from tests.crash.places import Kind, Place
    from tests.crash.zygote import Child, Zygote
    from tests.postgres import PostgresServer

_LIFETIME: Final = 20  # seconds of the codes that nobody approves
_LOGINS: Final = 20  # on one server and one database: the server's log is read whole each time


@dataclass
class Played:
    """What came of a login.

    Attributes:
        kills: The points at which its processes were killed.
        outcome: How it ended.
        events: How many events were verified.
        digests: By how many digests.
        wrong: What must not be so.
    """

    kills: list[str] = field(default_factory=list)
    outcome: str = "none"
    events: int = 0
    digests: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Facts:
    """What is known of a login from outside its processes.

    Attributes:
        flow_id: The flow, once a process has told.
        delivered: The tokens that were handed over.
        lost: Whether a process died with a token that was not stored yet.
    """

    flow_id: str | None = None
    delivered: list[str] = field(default_factory=list)
    lost: bool = False


class Scene:
    """A server and a place for stores, for some logins.

    Args:
        zygote: Whose children drive the logins.
        folder: An empty folder.
        postgres: The server for a database; None for SQLite files, one for each login.
        is_async: Whether by `AsyncClient`.
    """

    def __init__(
        self,
        zygote: Zygote,
        folder: Path,
        postgres: PostgresServer | None,
        *,
        is_async: bool = False,
    ) -> None:
        self._is_async = is_async
        self._zygote = zygote
        self._postgres = postgres
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.clock = self._stack.enter_context(clock_for(folder, postgres))
        self._database = PostgresPlace(postgres, self.clock) if postgres else None
        self._auditor = Auditor(folder / "digests")
        self._server = self._serve()
        self._slow_server = self._serve(interval=INTERVAL_OF_SLOW)
        self._brief_server = self._serve(expires_in=_LIFETIME)
        self._life = 0.1  # seconds

    def play(self, name: str, case: Case) -> Played:
        """Play a login.

        Args:
            name: A name that no other has here.
            case: How it goes.
        """
        with self._place(name, fresh=case.fresh) as place:
            if place is self._database:
                return self._play(name, case, place, self._auditor)
            return self._play(name, case, place, Auditor(self._folder / f"{name}.digests"))

    def _play(self, name: str, case: Case, place: Place, auditor: Auditor) -> Played:
        server = self._slow_server if case.slow else self._server
        if case.decision is None:
            server = self._brief_server
        rule = Rule(decision=case.decision, after=case.after, spoil=dict(case.spoil))
        server.gate.rules[name] = rule
        played, facts = Played(), Facts()
        for number, kill in enumerate((*case.kills, None)):
            rule.hold = kill.point if kill and kill.how == "held" else None  # type: ignore[assignment]
            report = self._folder / f"{name}.{number}"
            job = Login(
                store=place.url,
                keys=place.keys,
                clock=str(self.clock.path),
                report=str(report),
                server=server.url,
                dialect=case.dialect,
                client=name,
                flow_id=None if case.by_key else facts.flow_id,
                waits=case.waits,
                then=case.then,
                traps=kill.traps if kill else [],
                any_point=kill.time if kill and kill.how == "any" else None,
                is_async=self._is_async,
            )
            status = self._live(job, kill, server)
            server.settle()
            place.settle()
            lines = told(report)
            _note(facts, lines)
            if place is not self._database:
                played.wrong += wrong_with_files(place.files())
            if status != -signal.SIGKILL:
                played.wrong += [line["error"] for line in lines if "error" in line]
                if kill and case.expected is not None:
                    played.wrong.append(f"it was not killed {kill.name}")
                break
            assert kill is not None, "it was killed by somebody else"
            played.kills.append(lines[-1]["trapped"] if kill.how == "any" else kill.name)
            facts.lost = facts.lost or _is_lost(name, facts, place, server)
            if facts.flow_id is not None and number % 2:
                # Not each time: what a dead process has left open, the next one is to find so.
                with place.open() as store:
                    auditor.sign(store)
                place.settle()
        self._judge(name, case, place, server, facts, played, auditor)
        return played

    def close(self) -> list[str]:
        """End it; return what is wrong with the database's files."""
        wrong: list[str] = []
        if self._database:
            wrong += wrong_with_files(self._database.files())
            self._database.close()
        self._stack.close()
        return wrong

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        wrong = self.close()
        assert kind is not None or not wrong, wrong

    def _serve(self, **settings: Any) -> WatchedServer:
        return self._stack.enter_context(WatchedServer(self.clock, **settings))

    @contextmanager
    def _place(self, name: str, *, fresh: bool) -> Iterator[Place]:
        if self._database and not fresh:
            yield self._database
        elif self._postgres:
            with contextlib.closing(PostgresPlace(self._postgres, self.clock)) as place:
                yield place
        else:
            yield SQLitePlace(self._folder / name)

    def _live(self, job: Login, kill: Kill | None, server: WatchedServer) -> int:
        begun = time.monotonic()
        child: Child = self._zygote.fork(job)
        if kill and kill.how == "held":
            while not child.has_ended():
                if server.gate.held.wait(0.001):
                    child.send(signal.SIGKILL)
                    break
        elif kill and kill.how == "moment" and not child.has_ended(kill.share * self._life):
            child.send(signal.SIGKILL)
        status = child.wait()
        if status == 0:
            self._life += (time.monotonic() - begun - self._life) / 10
        return status

    def _judge(
        self,
        name: str,
        case: Case,
        place: Place,
        server: WatchedServer,
        facts: Facts,
        played: Played,
        auditor: Auditor,
    ) -> None:
        wrong = played.wrong
        if facts.flow_id is None:
            wrong.append("no flow was ever told of")
            return
        with place.open() as store:
            flow = get(store, facts.flow_id)
            history = unfolded(store.events(facts.flow_id))
            of_name = [one.id for one in flows(store) if one.name == name]
            wrong += auditor.wrong(store)
        played.events, played.digests = auditor.events, auditor.digests
        if of_name != [flow.id]:
            wrong.append(f"of the one key there are the flows {of_name}")
        wrong += wrong_with_history(flow, history)
        asked = [login for login in server.log(name) if login["user_code"] == flow.user_code]
        others = [login for login in server.log(name) if login["user_code"] != flow.user_code]
        if len(asked) != 1:
            wrong.append(f"of the flow's code the server knows {len(asked)} times")
            return
        wrong += wrong_with_polls(asked[0], history, first=case.dialect != "studio")
        if any(login["requests"] for login in others):
            wrong.append("a code was polled that is not the flow's")
        if len(others) > len(played.kills):
            wrong.append(f"{len(others)} codes were asked for besides, by {len(played.kills)} dead")
        played.outcome = "token" if flow.state is State.AUTHORIZED else flow.reason or flow.state
        expected = _expected(case, history, lost=facts.lost)
        if case.expected not in (None, expected):
            wrong.append(f"by the evidence it must be {expected}, by its kills {case.expected}")
        if played.outcome != expected:
            wrong.append(f"it ended as {played.outcome}, not {expected}")
        tokens = [s.token for s in server.gate.seen.values() if s.user_code == flow.user_code]
        wrong += _wrong_with_token(case, flow, history, facts, tokens)


def _wrong_with_token(
    case: Case, flow: Flow, history: list[dict[str, Any]], facts: Facts, tokens: list[str | None]
) -> Iterator[str]:
    done = Counter(event["action"] for event in history)
    granted = flow.state is State.AUTHORIZED
    if done["issue_token"] != granted or done["late_token"]:
        yield f"it was granted {done['grant']} times, and late {done['late_token']} times"
    end = {"collect": "acknowledge", "purge": "purge"}.get(case.then, "")
    for action in ("acknowledge", "purge"):
        if done[action] != (granted and action == end):
            yield f"{action} is on record {done[action]} times"
    if flow.token is not None:
        yield "the token is still in the store"
    if case.then == "collect" and granted and not facts.delivered:
        yield "the token was not handed over"
    if facts.delivered and {*facts.delivered} != {*tokens}:
        yield "another token was handed over than was issued"
    if facts.delivered and done["collect"] < len(facts.delivered):
        yield f"{len(facts.delivered)} tokens were handed over, {done['collect']} on record"


def _expected(case: Case, history: list[dict[str, Any]], *, lost: bool) -> str:
    if case.then == "cancel":
        return "cancelled"
    if case.decision == "approve":
        return "outcome_unknown" if lost else "token"
    actions = [event["action"] for event in history]
    last = {action: number for number, action in enumerate(actions)}
    if last.get("recover", -1) > last.get("pending", -1):
        return "outcome_unknown"  # for all that can be known, the lost answer was a token
    return "denied" if case.decision == "deny" else "expired"


def _is_lost(name: str, facts: Facts, place: Place, server: WatchedServer) -> bool:
    """Tell whether the server has issued a token that is not in the store."""
    requests = (request for login in server.log(name) for request in login["requests"])
    if not any(request["answer"] == "issued" for request in requests):
        return False
    if facts.flow_id is None:
        return True
    with place.open() as store:
        stored = store.events(facts.flow_id)
    place.settle()
    return not any(event["action"] == "issue_token" for event in stored)


def _note(facts: Facts, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        facts.flow_id = line.get("flow_id", facts.flow_id)
        if "delivered" in line:
            facts.delivered.append(line["delivered"])


@dataclass
class Tally:
    """What came of many logins."""

    kills: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    events: int = 0
    digests: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, name: str, case: Case, played: Played) -> None:
        self.kills.update(played.kills)
        self.outcomes[played.outcome] += 1
        self.events += played.events
        self.digests += played.digests
        self.wrong += [f"{name} ({case}): {problem}" for problem in played.wrong]


def campaign(
    kind: Kind,
    kills: int,
    rng: Random,
    zygote: Zygote,
    folder: Path,
    postgres: PostgresServer | None,
    *,
    is_async: bool = False,
) -> Tally:
    """Kill so many processes: at every named point first, then at random."""
    tally, begun = Tally(), time.monotonic()
    cases, number = named(summarized=is_summarized(None, "summary")), 0
    while cases or tally.kills.total() < kills:
        inside = folder / f"{kind}-{number}"
        inside.mkdir()
        server = postgres if kind == "postgresql" else None
        scene = Scene(zygote, inside, server, is_async=is_async)
        try:
            for _ in range(_LOGINS):
                number += 1
                case = cases.pop() if cases else at_random(rng)
                tally.add(f"{kind}-{number}", case, scene.play(f"login-{number}", case))
                if not cases and tally.kills.total() >= kills:
                    break
        finally:
            tally.wrong += scene.close()
    tally.seconds = time.monotonic() - begun
    return tally
