"""Refreshes of a grant whose processes are killed and whose answers are cut, and what is left.

A grant may be lost in one way only: the server has issued a successor that nobody received, and
refuses the old refresh token.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import requests

from deviceflow import Client, LoginPending, OAuth
from deviceflow.core.states import GrantState
from deviceflow.errors import UnreachableError
from deviceflow.providers.dialect import RFC8628
from deviceflow.server import LocalServer, Settings
from tests.crash.cases import Kill
from tests.crash.checks import Auditor, wrong_with_files
from tests.crash.gate import PATIENCE
from tests.crash.places import PostgresPlace, SQLitePlace, clock_for
from tests.crash.relay import CUTS, Relay
from tests.crash.worker import Use, told
from tests.stored import load_grant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from random import Random

    from tests.crash.places import Kind, Place
    from tests.crash.relay import Cut
    from tests.crash.traps import Trap
    from tests.crash.zygote import Child, Zygote
    from tests.postgres import PostgresServer

Passes = Literal["nothing", "lease", "window", "life"]

LIFE: Final = 1000  # seconds of an access token
WINDOW: Final = 10.0  # seconds for which one of the servers answers the same refresh again
PASSED: Final[dict[Passes, float]] = {
    "nothing": 0.0,
    "lease": 14.5,
    "window": WINDOW + 1,
    "life": LIFE + 1.0,
}
LEASE_IN_WINDOW: Final = 7.5  # the lease of a refresh fits into the window
_DEADLINE: Final = 0.4  # seconds, where the client's own has to pass: that is in real time
_GRANTS: Final = 20  # on one server and one database
_POINTS: Final = 18  # about as many are reached by a refresh


@dataclass(frozen=True, kw_only=True)
class RefreshCase:
    """One grant, and how often a process is killed that refreshes it before one is left alone.

    Attributes:
        kills: One for each life but the last; None where nobody is killed.
        cuts: What becomes of the first answer in each life.
        passes: What time passes behind each.
        grace: Whether the server answers the same refresh again for a while.
        busy: Whether the first request is answered 503.
        is_async: Whether by `AsyncClient`.
        exact: Whether each life has to end as the case says.
    """

    kills: tuple[Kill | None, ...]
    cuts: tuple[Cut | None, ...] = ()
    passes: tuple[Passes, ...] = ()
    grace: bool = False
    busy: bool = False
    is_async: bool = False
    exact: bool = True

    @property
    def name(self) -> str:
        """What to call it."""
        lives = []
        for number, kill in enumerate(self.kills):
            cut = self.cuts[number] if number < len(self.cuts) else None
            done = [kill.name] if kill else []
            done += [f"answer: {cut}"] if cut else []
            lives.append(", ".join(done) or "nothing")
        which = [word for word in ("grace", "busy", "is_async") if getattr(self, word)]
        return f"{' then '.join(lives)} [{' '.join([*which, *self.passes])}]"


def passed_by(what: Passes, *, grace: bool) -> float:
    """Return the seconds until what is to pass has passed."""
    return LEASE_IN_WINDOW if grace and what == "lease" else PASSED[what]


def _around(action: str) -> list[Kill]:
    where = ("before", "between the rows of", "inside", "after")
    return [Kill("point", f"{one} commit: {action}") for one in where]


def named() -> list[RefreshCase]:
    """Return one grant for each named point, at a server with a grace window and one without."""
    sent = [
        *_around("refresh"),
        Kill("point", "before request: token"),
        Kill("held", "issued"),
        Kill("point", "after answer: token"),
        *_around("renew"),
    ]
    in_code = [Kill("point", "before connecting"), Kill("point", "before reading")]
    dead = Kill("point", "after answer: token")
    cases = list[RefreshCase]()
    for grace in (False, True):
        own: dict[str, Any] = {"grace": grace}
        cases += [
            *(
                RefreshCase(kills=(kill,), is_async=is_async, grace=grace)
                for is_async in (False, True)
                for kill in sent
            ),
            *(RefreshCase(kills=(kill,), **own) for kill in in_code),
            *(RefreshCase(kills=(None,), cuts=(cut,), **own) for cut in CUTS),
            *(RefreshCase(kills=(kill,), cuts=("half",), **own) for kill in _around("lose_answer")),
            *(RefreshCase(kills=(kill,), busy=True, **own) for kill in _around("postpone")),
            *(
                RefreshCase(kills=(dead, kill), passes=("lease",), **own)
                for kill in _around("recover_refresh")
            ),
            *(
                RefreshCase(kills=(dead, kill), passes=("lease" if grace else "life",), **own)
                for kill in (*_around("replay"), dead)
            ),
        ]
    lost = Kill("point", "before commit: renew")
    cases += [
        RefreshCase(kills=(lost, kill), passes=("life",))
        for action in ("lose", "need")
        for kill in _around(action)
    ]
    return cases


def at_random(rng: Random) -> RefreshCase:
    """Return a grant whose refreshes go as chance has it."""
    lives = rng.randint(1, 4)
    kinds: tuple[Passes, ...] = ("nothing", "lease", "window", "life")
    cuts: list[Cut | None] = [
        rng.choice(CUTS) if rng.random() < 0.3 else None for _ in range(lives)
    ]
    return RefreshCase(
        kills=tuple(_any_kill(rng) for _ in range(lives)),
        cuts=tuple(cut if cut != "late" or rng.random() < 0.3 else "nothing" for cut in cuts),
        passes=tuple(rng.choices(kinds, (3, 5, 1, 1))[0] for _ in range(lives)),
        grace=rng.random() < 0.5,
        busy=rng.random() < 0.1,
        is_async=rng.random() < 0.3,
        exact=False,
    )


def _any_kill(rng: Random) -> Kill:
    match rng.choices(("any", "moment", "held"), (60, 30, 10))[0]:
        case "any":
            return Kill("any", time=rng.randint(1, _POINTS))
        case "moment":
            return Kill("moment", share=rng.random())
        case _:
            return Kill("held", "issued")


@dataclass
class Outcome:
    """What came of one grant.

    Attributes:
        kills: The points at which its processes were killed.
        ended: `renewed` or `lost`.
        cuts: How many answers were spoilt.
        events: How many events were verified.
        wrong: What must not be so.
    """

    kills: list[str] = field(default_factory=list)
    ended: str = "none"
    cuts: int = 0
    events: int = 0
    wrong: list[str] = field(default_factory=list)


class RefreshScene:
    """Two servers, each behind a proxy, and a place for stores, for some grants.

    Args:
        zygote: Whose children refresh.
        folder: An empty folder.
        postgres: The server for a database; None for SQLite files, one for each grant.

    Attributes:
        clock: The time.
        relays: The proxies before the servers, with a grace window and without.
    """

    def __init__(self, zygote: Zygote, folder: Path, postgres: PostgresServer | None) -> None:
        self._zygote = zygote
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.clock = self._stack.enter_context(clock_for(folder, postgres))
        self._database = PostgresPlace(postgres, self.clock) if postgres else None
        self._life = 0.1  # seconds
        self._playing: tuple[str, Place] | None = None
        self._servers = {grace: self._serve(WINDOW if grace else 0.0) for grace in (False, True)}
        self.relays = {
            grace: self._stack.enter_context(Relay(server.url, self._watch))
            for grace, server in self._servers.items()
        }

    def play(self, name: str, case: RefreshCase) -> Outcome:
        """Play a grant.

        Args:
            name: A name that no other has here.
            case: How it goes.
        """
        relay, played = self.relays[case.grace], Outcome()
        place, user_code = self.begin(name, grace=case.grace)
        if case.busy:
            self.post(case.grace, "spoil", user_code=user_code, status=503)
        self.clock.advance(LIFE * 0.6)
        for number, kill in enumerate(case.kills):
            self._live(name, number, kill, case, place, played)
            if number < len(case.passes):
                self.clock.advance(passed_by(case.passes[number], grace=case.grace))
        self._end(name, place, case, user_code, played)
        played.wrong += relay.wrong
        if place is not self._database:
            played.wrong += wrong_with_files(place.files())
        played.wrong += wrong_with_files(self._folder.glob(f"{name}.*.log"))
        return played

    def begin(self, name: str, *, grace: bool) -> tuple[Place, str]:
        """Log in for a grant; return where it is kept, and what the server calls it."""
        place: Place = self._database or SQLitePlace(self._folder / name)
        self._playing = (name, place)
        self.relays[grace].wrong.clear()
        self.relays[grace].cuts.clear()
        return place, self._log_in(name, place, grace)

    def use(
        self,
        name: str,
        life: str,
        place: Place,
        *,
        traps: Sequence[Trap] = (),
        any_point: int | None = None,
        deadline: float = 10.0,
        is_async: bool = False,
    ) -> Child:
        """Have a process use a grant.

        Args:
            name: The grant's name.
            life: A name for the process.
            place: Where the grant is kept.
            traps: Where it dies, or stops.
            any_point: The number of the point at which it dies.
            deadline: Seconds for a request, which are real ones.
            is_async: Whether by `AsyncClient`.
        """
        return self._zygote.fork(
            Use(
                store=place.url,
                keys=place.keys,
                clock=str(self.clock.path),
                report=str(self._report(life)),
                log=str(self._folder / f"{life}.log"),
                name=name,
                min_ttl=LIFE,
                deadline=deadline,
                traps=list(traps),
                any_point=any_point,
                is_async=is_async,
            )
        )

    def told(self, life: str) -> list[dict[str, Any]]:
        """Return what a process has reported."""
        return told(self._report(life))

    def _report(self, life: str) -> Path:
        return self._folder / f"{life}.report"

    def close(self) -> tuple[list[str], int]:
        """End it; return what is wrong with the database, and how many events of it are verified.

        What is in a file of its own is verified with each grant.
        """
        wrong: list[str] = []
        events = 0
        if self._database:
            auditor = Auditor(self._folder / "digests")
            with self._database.open() as store:
                wrong += auditor.wrong(store)
            events = auditor.events
            wrong += wrong_with_files(self._database.files())
            self._database.close()
        self._stack.close()
        return wrong, events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        wrong = self.close()[0]
        assert kind is not None or not wrong, wrong

    def _serve(self, grace: float) -> LocalServer:
        settings = Settings(
            control=True,
            interval=0,
            access_token_lifetime=LIFE,
            reuse_grace=grace,
            open_logins=100_000,
        )
        return self._stack.enter_context(LocalServer(settings, clock=self.clock.time))

    def _watch(self, refresh: str) -> str | None:
        """Check what is stored while a refresh token is on its way to the server."""
        assert self._playing is not None
        name, place = self._playing
        with place.open() as store:
            stored = load_grant(store, name, self.clock.time())
        token = None if stored is None else stored.record.token
        if stored is None or token is None or token.refresh_token is None:
            return "a refresh token was sent that is not stored"
        if token.refresh_token.reveal() != refresh:
            return "an old refresh token was sent while a newer one is stored"
        if stored.record.state is not GrantState.REFRESHING or stored.held <= 0:
            return f"a refresh was sent in {stored.record.state}, with {stored.held} s of a lease"
        return None

    def post(self, grace: bool, what: str, **body: Any) -> None:
        """Have a server do something."""
        url = f"{self._servers[grace].url}/control/{what}"
        assert requests.post(url, json=body, timeout=PATIENCE).status_code == 200

    def log(self, grace: bool, user_code: str) -> dict[str, Any]:
        """Return what the server says of a grant."""
        url = f"{self._servers[grace].url}/control/grants"
        grants = requests.get(url, timeout=PATIENCE).json()["grants"]
        return next(dict(one) for one in grants if one["user_code"] == user_code)

    def _accepts(self, grace: bool, token: str) -> bool:
        bearer = {"Authorization": f"Bearer {token}", "Connection": "close"}
        url = f"{self.relays[grace].url}/oauth/resource"
        return requests.get(url, headers=bearer, timeout=PATIENCE).status_code == 200

    def _log_in(self, name: str, place: Place, grace: bool) -> str:
        url = self.relays[grace].url
        provider = OAuth(
            client_id=name,
            device_authorization_endpoint=f"{url}/oauth/device_authorization",
            token_endpoint=f"{url}/oauth/token",
            scopes="offline_access",
            quirks=replace(RFC8628, replay_window=WINDOW if grace else 0.0),
        )
        with place.open() as store, Client(store, clock=self.clock) as client:
            try:
                client.get_token(name, provider, mint="now")
            except LoginPending as pending:
                login: Any = pending.login
            self.post(grace, "approve", user_code=login.user_code)
            client.wait(login.id)
            client.get_token(name)
        return str(login.user_code)

    def _live(
        self,
        name: str,
        number: int,
        kill: Kill | None,
        case: RefreshCase,
        place: Place,
        played: Outcome,
    ) -> None:
        """Have a process use the grant."""
        relay, life = self.relays[case.grace], f"{name}.{number}"
        cut = case.cuts[number] if number < len(case.cuts) else None
        if kill is not None and kill.how == "held":
            cut = "held"
        relay.cuts = [cut] if cut else []
        begun = time.monotonic()
        child = self.use(
            name,
            life,
            place,
            traps=kill.traps if kill else [],
            any_point=kill.time if kill and kill.how == "any" else None,
            deadline=_DEADLINE if cut == "late" else 10.0,
            is_async=case.is_async,
        )
        status = self._watched(child, kill, relay, begun)
        relay.settle()
        place.settle()
        played.cuts += bool(cut and not relay.cuts)
        lines = self.told(life)
        if status == -signal.SIGKILL:
            assert kill is not None, "it was killed by somebody else"
            played.kills.append(lines[-1]["trapped"] if kill.how == "any" else kill.name)
        else:
            played.wrong += [line["error"] for line in lines if "error" in line]
            if kill is not None and case.exact:
                played.wrong.append(f"it was not killed {kill.name}")
            for token in (line["token"] for line in lines if "token" in line):
                if not self._accepts(case.grace, token):
                    played.wrong.append("it was given a token that the server does not accept")

    def _watched(self, child: Child, kill: Kill | None, relay: Relay, begun: float) -> int:
        if kill and kill.how == "held":
            while not child.has_ended():
                if relay.held.wait(0.001):
                    child.send(signal.SIGKILL)
                    break
        elif kill and kill.how == "moment" and not child.has_ended(kill.share * self._life):
            child.send(signal.SIGKILL)
        status = child.wait()
        if status == 0:
            self._life += (time.monotonic() - begun - self._life) / 10
        return status

    def _end(
        self,
        name: str,
        place: Place,
        case: RefreshCase,
        user_code: str,
        played: Outcome,
    ) -> None:
        """Go on until the grant is renewed or lost, and judge that."""
        self.relays[case.grace].cuts.clear()
        given: list[str | None] = []
        with place.open() as store:
            for seconds in (0.0, passed_by("lease", grace=case.grace), float(LIFE), 1.0):
                self.clock.advance(seconds)
                with Client(store, clock=self.clock) as client:
                    given.append(self._token(client, name))
                    if given[-1] is not None and not self._accepts(case.grace, given[-1]):
                        played.wrong.append("the server does not accept the token")
            with Client(store, clock=self.clock) as client:
                view = client.grant(name)
            server = self.log(case.grace, user_code)
            history = store.events(view.id)
            if place is not self._database:
                auditor = Auditor(self._folder / f"{name}.digests")
                played.wrong += auditor.wrong(store)
                played.events = auditor.events
        place.settle()
        self.relays[case.grace].settle()
        if given[-1] is None:
            played.ended = "lost"
            played.wrong += _wrong_with_loss(case, view, server, history)
        else:
            played.ended = "renewed"
            played.wrong += _wrong_with_renewal(view, server, history)

    def _token(self, client: Client, name: str) -> str | None:
        while True:
            try:
                return client.get_token(name, min_ttl=LIFE).access_token.reveal()
            except LoginPending:
                return None
            except UnreachableError:
                self.clock.advance(1.0)


def _wrong_with_loss(
    case: RefreshCase, view: Any, server: dict[str, Any], history: list[dict[str, Any]]
) -> Iterator[str]:
    actions = Counter(event["action"] for event in history)
    if view.state is not GrantState.LOST:
        yield f"a person is asked for, and the grant is {view.state}"
    if server["generation"] <= view.generation:
        yield f"it was lost with generation {view.generation}, which the server issued last"
    if case.grace and server["state"] == "active":
        lost = next(event["time"] for event in history if event["action"] == "lose")
        left = _issued(server) + WINDOW - datetime.fromisoformat(lost).timestamp()
        if left > 0:
            yield f"it was lost, and the server would have answered again for {left:.3f} s"
    if server["reuses"] > 1:
        yield f"an old refresh token came {server['reuses']} times"
    if view.need_id is None or (actions["need"], actions["lose"]) != (2, 1):
        yield f"it was lost {actions['lose']} times, with {actions['need'] - 1} needs"


def _issued(server: dict[str, Any]) -> float:
    return max(float(r["wall"]) for r in server["requests"] if r["answer"] == "issued")


def _wrong_with_renewal(
    view: Any, server: dict[str, Any], history: list[dict[str, Any]]
) -> Iterator[str]:
    actions = Counter(event["action"] for event in history)
    if view.state is not GrantState.ACTIVE or server["state"] != "active":
        yield f"it is {view.state}, and {server['state']} at the server"
    if server["reuses"]:
        yield f"an old refresh token came {server['reuses']} times"
    if not view.generation == server["generation"] == server["refreshes"] + 1:
        yield (
            f"the generation is {view.generation}; the server knows {server['generation']} and"
            f" {server['refreshes']} refreshes"
        )
    if (actions["need"], actions["lose"]) != (1, 0):
        yield f"it was lost {actions['lose']} times"


@dataclass
class RefreshTally:
    """What came of many grants."""

    kills: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    cuts: int = 0
    events: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, name: str, case: RefreshCase, played: Outcome) -> None:
        """Count one more."""
        self.kills.update(played.kills)
        window = "with" if case.grace else "without"
        self.ended[f"{played.ended}, {window} a grace window"] += 1
        self.cuts += played.cuts
        self.events += played.events
        self.wrong += [f"{name} ({case.name}): {problem}" for problem in played.wrong]


def campaign(
    kind: Kind,
    kills: int,
    rng: Random,
    zygote: Zygote,
    folder: Path,
    postgres: PostgresServer | None,
) -> RefreshTally:
    """Kill so many processes: at every named point first, then at random."""
    tally, begun = RefreshTally(), time.monotonic()
    cases, number = named(), 0
    while cases or tally.kills.total() < kills:
        inside = folder / f"{kind}-{number}"
        inside.mkdir()
        scene = RefreshScene(zygote, inside, postgres)
        try:
            for _ in range(_GRANTS):
                number += 1
                case = cases.pop() if cases else at_random(rng)
                tally.add(f"{kind}-{number}", case, scene.play(f"grant-{number}", case))
                if not cases and tally.kills.total() >= kills:
                    break
        finally:
            wrong, events = scene.close()
            tally.wrong += wrong
            tally.events += events
    tally.seconds = time.monotonic() - begun
    return tally
