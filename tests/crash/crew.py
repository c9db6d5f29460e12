"""Workers that drive the same store, killed two at a time, and what must be so behind them.

Instead of killing them, they may be suspended for longer than their leases last, or told to end.

The workers are those of `deviceflow worker`, by a clock that runs faster. Who has to be polled
when, and who was given a token, is known to the server alone.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import signal
import socketserver
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs

from deviceflow import Client, OAuth, State
from deviceflow.client.context import DEADLINE
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.core import queries
from deviceflow.core.states import Reason
from deviceflow.errors import UnreachableError
from tests.crash.checks import (
    Auditor,
    unfolded,
    wrong_with_files,
    wrong_with_history,
    wrong_with_polls,
)
from tests.crash.clock import CrowdClock
from tests.crash.gate import CANARY
from tests.crash.places import time_and_place
from tests.crash.worker import Crew, told
from tests.crash.zygote import PATIENCE
from tests.stored import flows as all_flows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from deviceflow.core.flow import Flow
    from deviceflow.stores.sql import SQLStore
    from tests.crash.clock import SharedClock
    from tests.crash.places import Place
    from tests.crash.zygote import Child, Zygote
    from tests.postgres import PostgresServer

WORKERS: Final = 4
KILLED_AT_ONCE: Final = 2

_SLOWEST: Final = 0.02  # real seconds that an answer takes
_BETWEEN_KILLS: Final = (0.2, 0.8)  # real seconds
_NEVER: Final = 0.1  # of all persons
_LEASE: Final = DEADLINE + LEASE_MARGIN  # seconds by the clock

Trouble = Literal["killed", "suspended", "told to end"]
"""What happens to workers."""


@dataclass
class _Asked:
    """A login as the server knows it.

    Attributes:
        client: The client that asked.
        asked_at: When, by the clock.
        decides_at: When the person decides.
        approves: What the person decides.
        requests: The token requests, in the form of the local server's log.
        token: The token that was issued.
        at_work: How many requests are being answered.
    """

    client: str
    asked_at: float
    decides_at: float
    approves: bool
    requests: list[dict[str, Any]] = field(default_factory=list)
    token: str | None = None
    at_work: int = 0


class Server:
    """A small authorization server, whose people decide at random moments.

    Attributes:
        url: Where it is.
        logins: The logins, by their device codes.
        wrong: What a server must not see.
    """

    def __init__(self, clock: SharedClock, rng: Random, interval: float, expires_in: float) -> None:
        self._clock = clock
        self._rng = rng
        self._interval = interval
        self._expires_in = expires_in
        self._lock = threading.Lock()
        self.logins: dict[str, _Asked] = {}
        self.wrong: list[str] = []
        answer = self._answer

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                try:
                    while line := self.rfile.readline():
                        length = 0
                        while (header := self.rfile.readline()) not in (b"\r\n", b""):
                            name, _, value = header.partition(b":")
                            if name.lower() == b"content-length":
                                length = int(value)
                        form = parse_qs(self.rfile.read(length).decode())
                        status, fields = answer(line.split()[1], form)
                        sent = json.dumps(fields).encode()
                        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
                        head += f"Content-Length: {len(sent)}\r\n\r\n"
                        self.wfile.write(head.encode() + sent)
                except OSError:
                    return  # whoever asked was killed

        class TCPServer(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = TCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _answer(self, path: bytes, form: dict[str, list[str]]) -> tuple[str, dict[str, Any]]:
        if path == b"/device":
            return "200 OK", self._issue_code(form["client_id"][0])
        arrived = self._clock.time()
        with self._lock:
            login = self.logins[form["device_code"][0]]
            login.at_work += 1
            if login.at_work > 1:
                self.wrong.append(f"{login.client} was polled twice at the same time")
            delay = self._rng.uniform(0, _SLOWEST)
        time.sleep(delay)
        with self._lock:
            error = self._decide(login)
            login.requests.append({"wall": arrived, "answer": error or "issued"})
            login.at_work -= 1
        if error:
            return "400 Bad Request", {"error": error}
        return "200 OK", {"access_token": login.token, "token_type": "bearer"}

    def _issue_code(self, client: str) -> dict[str, Any]:
        code, now = CANARY + secrets.token_urlsafe(24), self._clock.time()
        with self._lock:
            chance = self._rng.random()
            # Most decide while the code lives; some too late, and some never.
            decides_at = now + self._rng.uniform(0, self._expires_in * 1.1)
            if chance < _NEVER:
                decides_at = float("inf")
            self.logins[code] = _Asked(client, now, decides_at, chance < 0.9)
        return {
            "device_code": code,
            "user_code": secrets.token_hex(4),
            "verification_uri": f"{self.url}/page",
            "expires_in": self._expires_in,
            "interval": self._interval,
        }

    def _decide(self, login: _Asked) -> str | None:
        """Return the error that a poll is answered; None if it is given the token."""
        now = self._clock.time()
        if login.token is not None:
            return "invalid_grant"
        if now >= login.asked_at + self._expires_in:
            return "expired_token"
        if now < login.decides_at:
            return "authorization_pending"
        if not login.approves:
            return "access_denied"
        login.token = CANARY + secrets.token_urlsafe(24)
        return None

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Killed:
    """What came of it.

    Attributes:
        kills: How many workers were killed, suspended or told to end.
        outcomes: How the logins ended.
        polls: How many token requests the server saw.
        issued: How many tokens it issued.
        unknown: How many of these the store says to be unknown.
        recoveries: How many polls were cut off by a kill.
        take_overs: How many logins went on with another worker.
        events: How many events the trail has.
        digests: How many digests verify it.
        wrong: What must not be so.
        seconds: How long it took.
    """

    kills: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    polls: int = 0
    issued: int = 0
    unknown: int = 0
    recoveries: int = 0
    take_overs: int = 0
    events: int = 0
    digests: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def kill_workers(
    zygote: Zygote,
    folder: Path,
    postgres: PostgresServer | None,
    rng: Random,
    *,
    kills: int,
    logins: int,
    pace: int,
    interval: float,
    expires_in: float,
    trouble: Trouble = "killed",
) -> Killed:
    """Kill so many workers while so many logins wait, then let the last ones end all logins.

    Args:
        zygote: Whose children the workers are.
        folder: An empty folder.
        postgres: The server for a database; None for a SQLite file.
        rng: What chance goes by.
        kills: How many workers to kill.
        logins: How many logins to start.
        pace: How many seconds by the clock pass in a real one.
        interval: Seconds between two polls.
        expires_in: Seconds that a code lives.
        trouble: What happens to the workers.
    """
    done, begun = Killed(), time.monotonic()
    with time_and_place(folder, postgres, pace) as (clock, place):
        server = Server(clock, rng, interval, expires_in)
        try:
            auditor = Auditor(folder / "digests")
            crew = _Crew(zygote, folder, place, clock)
            with place.open() as store, _starting(store, clock, server, logins) as started:
                while done.kills < kills:
                    time.sleep(rng.uniform(*_BETWEEN_KILLS))
                    done.kills += crew.have(trouble, rng)
                    auditor.sign(store)
                started.join()
                crew.finish(store, expires_in / pace)
                done.wrong += [_with_history(finding, store) for finding in auditor.wrong(store)]
                done.wrong += crew.wrong()
                _judge(done, store, server, logins)
        finally:
            server.close()
        done.wrong += server.wrong
        done.events, done.digests = auditor.events, auditor.digests
        place.settle()
        done.wrong += wrong_with_files(place.files())
    done.seconds = time.monotonic() - begun
    return done


@contextmanager
def _starting(
    store: SQLStore, clock: SharedClock, server: Server, logins: int
) -> Iterator[threading.Thread]:
    """Start logins beside what is done in the block."""

    def start() -> None:
        with (
            closing(CrowdClock(clock.path)) as own,
            Client(store, clock=own) as client,
        ):
            for number in range(logins):
                for attempt in itertools.count():
                    name = f"robot-{number}.{attempt}"
                    provider = OAuth(
                        client_id=name,
                        device_authorization_endpoint=f"{server.url}/device",
                        token_endpoint=f"{server.url}/token",
                    )
                    with suppress(UnreachableError):  # the machine was too slow for the clock
                        client.start(provider, name=name)
                        break

    thread = threading.Thread(target=start)
    thread.start()
    yield thread
    thread.join()


class _Crew:
    """The workers that live, and the reports of all that ever did."""

    def __init__(self, zygote: Zygote, folder: Path, place: Place, clock: SharedClock) -> None:
        self._zygote = zygote
        self._folder = folder
        self._place = place
        self._clock = clock
        self._number = 0
        self._ended: list[Child] = []
        self._living = [self._begin() for _ in range(WORKERS)]

    def _begin(self) -> Child:
        self._number += 1
        job = Crew(
            store=self._place.url,
            keys=self._place.keys,
            clock=str(self._clock.path),
            report=str(self._report(self._number)),
        )
        return self._zygote.fork(job)

    def _report(self, number: int) -> Path:
        return self._folder / f"worker-{number}"

    def have(self, trouble: Trouble, rng: Random) -> int:
        """Have some in trouble at once, and begin as many as are gone."""
        chosen = rng.sample(self._living, KILLED_AT_ONCE)
        if trouble == "suspended":
            for child in chosen:
                child.send(signal.SIGSTOP)
                child.wait_until_stopped()
            time.sleep(rng.uniform(1.1, 2.0) * _LEASE / self._clock.pace)
            for child in chosen:
                child.send(signal.SIGCONT)
            return len(chosen)
        for child in chosen:
            child.send(signal.SIGKILL if trouble == "killed" else signal.SIGTERM)
        for child in chosen:
            child.wait()
            self._living.remove(child)
            self._ended += [child] if trouble == "told to end" else []
        self._living += [self._begin() for _ in chosen]
        return len(chosen)

    def finish(self, store: SQLStore, seconds: float) -> None:
        """Wait until no login is pending, and have the workers end."""
        until = time.monotonic() + seconds + PATIENCE
        while store.select(queries.pending(), 0.0) and time.monotonic() < until:
            time.sleep(0.05)
        for child in self._living:
            child.send(signal.SIGTERM)
        for child in self._living:
            child.wait()

    def wrong(self) -> Iterator[str]:
        for child in self._living + self._ended:
            if child.status != 0:
                yield f"a worker ended with {child.status}"
        for number in range(1, self._number + 1):
            for line in told(self._report(number)):
                for what in ("error", "problem"):
                    if what in line:
                        yield f"worker {number}: {line[what]}"


def _with_history(finding: str, store: SQLStore) -> str:
    """Return a finding with the history that it is about, if it names a login."""
    if (named := re.search("flow_id='([^']+)'", finding)) is None:
        return finding
    events = [f"{e['time']} {e['action']} {e['worker']}" for e in store.events(named[1])]
    return "\n  ".join([finding, *events])


def _judge(done: Killed, store: SQLStore, server: Server, logins: int) -> None:
    flows = {flow.name: flow for flow in all_flows(store) if flow.reason is not Reason.UNREACHABLE}
    if len(flows) != logins:
        done.wrong.append(f"of {logins} logins there are {len(flows)}")
    with Client(store) as client:
        for login in server.logins.values():
            if login.client not in flows:  # its code never arrived
                done.wrong += [f"{login.client}: it was polled"] if login.requests else []
                continue
            flow = flows[login.client]
            history = unfolded(store.events(flow.id))
            done.polls += len(login.requests)
            done.outcomes[str(flow.reason or flow.state)] += 1
            actions = Counter(event["action"] for event in history)
            done.recoveries += actions["recover"]
            done.take_overs += actions["take_over"]
            asked = {
                "asked_at": login.asked_at,
                "interval": server._interval,
                "requests": login.requests,
            }
            found = [*wrong_with_polls(asked, history), *wrong_with_history(flow, history)]
            found += _wrong_with_end(done, client, flow, login)
            done.wrong += [f"{login.client}: {problem}" for problem in found]


def _wrong_with_end(done: Killed, client: Client, flow: Flow, login: _Asked) -> Iterator[str]:
    unknown = flow.reason is Reason.OUTCOME_UNKNOWN
    if not flow.state.ended:
        yield f"it has not ended, but is {flow.state}"
    elif login.token is None:
        if flow.state is State.AUTHORIZED:
            yield "it is authorized, and no token was issued"
        return
    done.issued += 1
    if flow.state is State.AUTHORIZED:
        if client.collect_token(flow.id).access_token.reveal() != login.token:
            yield "its token is another one"
    elif unknown:
        done.unknown += 1
    else:
        yield f"its token is lost, and it is said to be {flow.reason or flow.state}"
