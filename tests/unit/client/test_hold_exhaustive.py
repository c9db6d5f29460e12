"""Two drivers of one login that is held, and all that can happen to them, in every order.

One driver waits for the login; the other one is a worker. Both are real clients over one SQLite
store. An operation stops where it sends a request, and goes on when the request is answered: so
anything can happen in between. What has happened is a path of moves. Each path is played from the
beginning, up to a number of moves, with at most two faults. `HOLD_DEPTH=3` makes paths longer: that
takes a minute or two.

**What counts once.** Two paths that lead to the same state are continued once. The state has all
that decides what follows: what the store has, what each driver remembers, what is in flight, what
the server knows, and the clocks. Times count from now, and names by their order. Hashes do not
decide anything, nor does the code's end, which is far away.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs

import pytest

from deviceflow import errors
from deviceflow.client import sweep, wait
from deviceflow.client._sync import Client, _SyncWorld
from deviceflow.client.context import DEADLINE
from deviceflow.client.driver import LOOK
from deviceflow.client.hold import Hold, lease_to_hold
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.client.world import Exchange, or_else
from deviceflow.core import queries
from deviceflow.core.actions import POLL
from deviceflow.core.flow import Flow
from deviceflow.core.states import Reason
from deviceflow.core.wire import Failure, Response
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from deviceflow.trail.verify import Verification
from deviceflow.worker import _drive
from deviceflow.worker._schedule import GRACE, LOOK_AHEAD
from tests.integration.places import DENIED, OAUTH, PENDING, SLOW_DOWN, UNKNOWN_CODE
from tests.stored import get
from tests.tapped import Tapped, suspend

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    Move = tuple[Any, ...]

INTERVAL: Final = 7.0
COVERED: Final = DEADLINE + LEASE_MARGIN / 2
"""Seconds after its sending for which a request is covered by a lease at least."""

CODE: Final = {
    "device_code": "D",
    "user_code": "U",
    "verification_uri": "https://as.example.com/device",
    "interval": INTERVAL,
    "expires_in": 10**7,
}
RETRY_AFTER: Final = 30.0
ANSWERS: Final[dict[str, Response | Failure]] = {
    "pending": PENDING,
    "slow down": SLOW_DOWN,
    "token": answer(200, {"access_token": "TOKEN", "token_type": "Bearer"}),
    "denied": DENIED,
    "busy": answer(503, "", Retry_After="30"),
    "none": Failure("timeout", sent=True),
    "lost token": Failure("timeout", sent=True),
    "used code": UNKNOWN_CODE,
}
STORE: Final = frozenset(
    (
        *("claim", "commit", "drive", "stop_driving", "select"),
        *("load", "load_login", "release", "restart_lease", "put_off"),
    )
)
FIELDS: Final = (
    *("state", "reason", "interval", "attempt", "reserved", "seq", "failures", "unreadable"),
    *("slow_downs", "in_doubt", "last_poll_owed", "token", "handover", "driver"),
    *("orphaned_tokens", "revocations"),
)
ROW: Final = """
SELECT lease_owner, previous_owner, leased_at, lease_until, lease_clock, wake_at, held_by, snoozes
FROM flows
"""


class Clock(VirtualClock):
    """The clock of a machine, and the true time."""

    def __init__(self) -> None:
        super().__init__(WALL)
        self.true, self.name = 0.0, "first"

    def boot(self) -> tuple[str, float | None]:
        return self.name, super().boot()[1]

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.true += seconds

    def suspend(self, seconds: float) -> None:
        super().suspend(seconds)
        self.true += seconds

    def reboot(self) -> None:
        self.advance(60)
        self._hands.steady, self.name = 5.0, "second"


class Sent(NamedTuple):
    """When a token request was sent, by the true clock and by the steady one."""

    true: float
    steady: float


class Party:
    """A client, whose operations stop where they send a request for a token."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.clock = world, name, world.clock
        self.client = Client(world.store, clock=self.clock, transport=ScriptedTransport(()))
        self.client._context.identity._prefix = f"{name}."
        self.alive, self.dying = True, False
        self.operation: Coroutine[Any, Any, Any] | None = None
        self.sent: Sent | None = None
        self.answer: Response | Failure | None = None
        self.fault: tuple[int, str] | None = None
        self.flow: Flow | None = None

    def begin(self, operation: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        self.operation = operation(Tapped(_SyncWorld(self.client), self.around))
        self.go_on()

    def go_on(self) -> None:
        assert self.operation is not None
        try:
            self.operation.send(None)
        except (StopIteration, errors.StoreError):
            self.operation = None
        if self.dying:
            self.die()

    def die(self) -> None:
        if self.operation is not None:
            self.operation.close()
        if self.sent is not None:
            self.world.ghosts.append(self.sent)
            self.world.ended_at = max(self.world.ended_at, self.sent.true + DEADLINE)
        if self.alive and self.client._context.unsaved.of(self.world.flow_id):
            self.world.delivered = False  # lost with the process
        self.operation, self.sent, self.alive = None, None, False

    async def around(self, name: str, method: Any, *args: Any, **how: Any) -> Any:  # noqa: C901
        if name == "send":
            return await self.send(*args)
        after = False
        if name in STORE and self.fault is not None:
            left, kind = self.fault
            self.fault = (left - 1, kind) if left > 1 else None
            if left == 1:
                if kind == "die":
                    self.dying = True
                    await suspend()
                if kind == "before":
                    raise errors.StoreError("The store is down.")
                after = True
        done = await method(*args, **how)
        if name == "claim" and getattr(done, "event", None) is not None:
            self.flow = done.flow
            self.world.stored(self, done.flow, done.event)
        elif name == "claim":
            self.flow = getattr(done, "flow", None)
        elif name == "commit" and done:
            self.flow = args[0]
            self.world.stored(self, *args)
        elif name == "leave_out" and args[1]["action"] == POLL:
            self.world.announced[self.name] = "held"
        if after:
            raise errors.StoreError("The store is down.")
        return done

    async def send(self, request: Any, timeout: float) -> Exchange:
        if request.purpose == "revoke":
            self.world.revoked.add(parse_qs(request.body.decode())["token"][0])
            return Exchange(answer(200, ""), self.clock.monotonic())
        assert (request.purpose, timeout) == ("token", DEADLINE)
        self.world.is_sent(self)
        self.sent = Sent(self.clock.true, self.clock.monotonic())
        await suspend()
        result, self.answer, self.sent = self.answer, None, None
        assert result is not None
        return Exchange(result, self.clock.monotonic())


class Waiter(Party):
    """A driver that waits for the login, while its client holds another one as well."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.hold = Hold(self.world.flow_id)
        self.hold._may_hold = True
        self.client._context.driver.enter("another login")

    async def step(self, ports: Any) -> None:
        await lease_to_hold(ports)
        hold = self.hold
        try:
            await or_else(hold.step(ports), partial(hold.end, ports))
        except errors.StoreError:
            self.hold = Hold(self.world.flow_id)
            self.hold._may_hold = True
            raise

    async def stop(self, ports: Any) -> None:
        hold, self.hold = self.hold, Hold(self.world.flow_id)
        await hold.end(ports)

    @property
    def remembers(self) -> tuple[Any, ...]:
        return self.hold._may_hold, self.hold.flow


class WorkerLike(Party):
    """A driver that does what a worker does."""

    seq: int | None = None

    async def step(self, ports: Any) -> None:
        if self.seq is None:
            await _drive.tidy(ports)
            now = ports.clocks().now
            found = await ports.store.select(queries.upcoming(LOOK_AHEAD, GRACE), now)
            found += await ports.store.select(queries.lapsed(), now)
            if not found:
                return
            self.seq = found[0].seq
        driven = await _drive.drive(ports, self.world.flow_id, self.seq)
        assert driven.problem is None, driven.problem
        self.seq = None if driven.next is None else driven.next.seq

    async def stop(self, ports: Any) -> None:
        self.seq = None
        for flow_id in list(self.client._context.driver.flows):
            await _drive.give_back(ports, flow_id)
        await _drive.stop(ports)

    @property
    def remembers(self) -> tuple[Any, ...]:
        return self.seq, *self.client._context.driver.flows.values()


class World:
    """The store, the server, two drivers, and who cancels; and what may never be."""

    def __init__(self, store: SQLiteStore, flow_id: str, kinds: tuple[str, str]) -> None:
        self.store, self.flow_id, self.clock = store, flow_id, Clock()
        makes = {"wait": Waiter, "work": WorkerLike}
        self.drivers = {
            name: makes[kind](self, name) for name, kind in zip("AB", kinds, strict=True)
        }
        self.other = Party(self, "C")
        self.faults = 0
        self.clock.advance(9)
        # What the server knows.
        self.interval, self.retry_at, self.ended_at, self.was_set = INTERVAL, 0.0, -100.0, False
        self.ghosts: list[Sent] = []
        self.issued = self.delivered = self.used_again = False
        self.revoked = set[str]()
        self.cancelled: float | None = None
        # What is to be on record.
        self.announced: dict[str, str] = {}
        self.unstored, self.last = 0, ""
        self.hashes = set[str]()

    # What must never be.

    def is_sent(self, by: Party) -> None:
        """Check that a request may be sent, and was on record before."""
        way = self.announced.pop(by.name)
        self.unstored += way == "held" and self.last == by.name
        if self.cancelled is not None:
            assert self.clock.monotonic() - self.cancelled < LOOK
        for sent in [one.sent for one in self.drivers.values() if one.sent] + self.ghosts:
            assert self.clock.monotonic() - sent.steady >= COVERED, "two requests in flight"
        if not self.was_set:
            assert self.clock.true > max(self.ended_at + self.interval, self.retry_at) - 0.01, (
                "too early"
            )
        self.was_set, self.used_again = False, self.used_again or self.issued

    def stored(self, by: Party, flow: Flow, event: dict[str, Any]) -> None:
        """Check what an event that was stored just now says of those that were not."""
        if event["hash"] in self.hashes:
            return
        self.hashes.add(event["hash"])
        if event["action"] == "slow_down":
            self.interval += 5
        if event["action"] == "retry" and event["http_status"] == 503:
            self.retry_at = self.ended_at + RETRY_AFTER
        if flow.omitted is not None:
            if event["action"] == POLL:
                self.announced[by.name] = "row"
                self.unstored += 1
            return
        told = event["omitted"] or {"polls": 0}
        if told.get("counted", True):
            assert told["polls"] == self.unstored, "the record is not true"
        else:
            assert told["polls"] >= self.unstored
        self.unstored, self.last = 0, by.name
        if event["action"] == POLL:
            self.announced[by.name] = "stored"

    def check(self) -> None:
        """Check what must be true at any time."""
        with self.store.snapshot() as seen:
            assert not list(Verification(*seen).findings())
        flow = get(self.store, self.flow_id)
        if self.cancelled is not None:
            assert flow.reason is Reason.CANCELLED
        if self.delivered:
            kept = [flow.token, *(secret for _, secret in flow.to_revoke)]
            unsaved = [
                one
                for who in self.drivers.values()
                for one in who.client._context.unsaved.of(flow.id)
            ]
            assert (
                any(kept)
                or self.revoked
                or unsaved
                or any(one.operation for one in self.drivers.values())
            ), "lost"
        if flow.token is not None and self.used_again:
            assert flow.token.possibly_revoked

    # What can happen.

    def moves(self) -> Iterator[Move]:  # noqa: C901
        flow = get(self.store, self.flow_id)
        faulty = self.faults < FAULTS
        for name, one in self.drivers.items():
            if not one.alive:
                continue
            if one.sent is not None:
                answers = [*ANSWERS][:-1] if not self.issued else ["used code", "none"]
                for said in answers:
                    yield "answer", name, said, None
                    for fault in FAULTS_OF_STORE if faulty else ():
                        yield "answer", name, said, fault
            else:
                yield "go", name, None
                for fault in FAULTS_OF_STORE if faulty else ():
                    yield "go", name, fault
                yield "stop", name
            if faulty:
                yield "die", name
        if not flow.state.ended:
            yield ("cancel",)
        flying = [self.clock.true - one.sent.true for one in self.drivers.values() if one.sent]
        for seconds in (9.0, 31.0):
            if faulty or all(age + seconds <= DEADLINE for age in flying):
                yield "pass", seconds
        if faulty:
            yield from (("suspend",), ("reboot",), ("set", 1000.0), ("set", -1000.0))

    def do(self, move: Move) -> bool:  # noqa: C901
        """Make a move, and tell whether it was possible."""
        match move:
            case "go" | "answer", name, *said, fault:
                one = self.drivers[name]
                one.fault, self.faults = fault, self.faults + (fault is not None)
                if said:
                    self.answers(one, said[0])
                    one.go_on()
                else:
                    one.begin(one.step)
                possible, one.fault = one.fault is None, None
                return possible
            case "stop", name:
                self.drivers[name].begin(self.drivers[name].stop)
            case "die", name:
                self.faults += 1
                self.drivers[name].die()
            case ("cancel",):
                self.other.begin(lambda ports: wait.cancel(ports, self.flow_id, None))
                self.cancelled = self.clock.monotonic()
            case "pass", seconds:
                late = any(
                    one.sent and self.clock.true + seconds - one.sent.true > DEADLINE
                    for one in self.drivers.values()
                )
                self.faults += bool(late)
                self.clock.advance(seconds)
            case ("suspend",):
                self.faults += 1
                self.clock.suspend(100)
            case ("reboot",):
                self.faults += 1
                for one in self.drivers.values():
                    one.die()
                self.clock.reboot()
                self.ghosts, self.other = [], Party(self, "D")
                self.cancelled = None if self.cancelled is None else -LOOK
            case "set", seconds:
                self.faults += 1
                self.clock.set_wall(seconds)
                self.was_set = True
        return True

    def answers(self, one: Party, said: str) -> None:
        assert one.sent is not None
        one.answer, self.ended_at = (
            ANSWERS[said],
            max(self.ended_at, min(self.clock.true, one.sent.true + DEADLINE)),
        )
        self.issued |= said in ("token", "lost token")
        self.delivered |= said == "token"

    def key(self) -> str:  # noqa: C901
        """Return all that decides what follows."""

        def ago(at: float | None, base: float = 0.0) -> Any:
            return None if at is None else round(at - base - self.clock.true, 3)

        def of_flow(flow: Flow | None) -> Any:
            if flow is None:
                return None
            times = [ago(at, WALL) for at in (flow.due_at, flow.moved_at)]
            omitted = flow.omitted and (
                flow.omitted.events,
                flow.omitted.polls,
                flow.omitted.counted,
            )
            return [
                *times,
                *(getattr(flow, name) for name in FIELDS),
                omitted,
                flow.skipped and flow.skipped[1],
                flow.as_stored and flow.as_stored.seq,
            ]

        ask = self.store._connection.connected().execute
        said: list[Any] = [of_flow(get(self.store, self.flow_id))]
        for owner, previous, since, until, clock, wake, held, snoozes in ask(ROW):
            said += [
                owner,
                previous,
                ago(since, STEADY),
                ago(until, STEADY),
                clock,
                ago(wake, WALL),
                held,
                snoozes,
            ]
        for name, since, until, clock in ask("SELECT * FROM drivers ORDER BY driver"):
            said += [name, ago(since, STEADY), ago(until, STEADY), clock]
        said += ask("SELECT driver FROM taken").fetchall()
        said += [ago(self.clock.time(), WALL), ago(self.clock.monotonic(), STEADY), self.clock.name]
        for one in self.drivers.values():
            if not one.alive:
                said.append("dead")
                continue
            driver, line = one.client._context.driver, one.client._timeline
            said += [of_flow(it) if isinstance(it, Flow) else it for it in one.remembers]
            if (lease := driver.lease) is not None:
                said += [
                    lease.owner,
                    lease.seconds,
                    ago(lease.now, WALL),
                    ago(lease.taken.steady, STEADY),
                    ago(lease.taken.wall, WALL),
                ]
            said += [driver.renewing, sorted(driver.taken), sorted(driver._flow_ids)]
            said += [
                min(LOOK, self.clock.monotonic() - driver._looked),
                line._added,
                round(line._wall - line._steady, 3),
                line._set_at and ago(line._set_at, WALL),
            ]
            said += [
                (of_flow(kept.flow), kept.event["action"])
                for _, kept in one.client._context.unsaved.of(self.flow_id)
            ]
            if one.sent is not None:
                said += [ago(one.sent.true), ago(one.sent.steady, STEADY), of_flow(one.flow)]
        said += [ago(sent.true) for sent in self.ghosts]
        said += [
            self.interval,
            max(0.0, self.retry_at - self.clock.true),
            max(-60, self.ended_at - self.clock.true),
            self.was_set,
        ]
        said += [
            self.issued,
            self.delivered,
            self.used_again,
            bool(self.revoked),
            self.unstored,
            self.last,
            self.announced,
            self.faults,
        ]
        if self.cancelled is not None:
            said.append(min(LOOK, self.clock.monotonic() - self.cancelled))
        text = repr(said)
        names = sorted(
            set(re.findall(r"\b[ABCD]\.\d+", text)), key=lambda name: (name[0], int(name[2:]))
        )
        order = {name: f"{name[0]}.{number}" for number, name in enumerate(names)}
        return re.sub(r"\b[ABCD]\.\d+", lambda found: order[found[0]], text)

    def end(self, alone: bool) -> None:
        """Check that the login comes to its end once nothing hinders it any more."""
        for one in self.drivers.values():
            if one.sent is not None:
                self.answers(one, "used code" if self.issued else "pending")
                one.go_on()
            if alone and one.alive:
                one.begin(one.stop)
        for _ in range(40):
            if get(self.store, self.flow_id).state.ended:
                return
            self.clock.advance(9)
            drivers = [one for one in self.drivers.values() if one.alive and not alone]
            for one in drivers:
                one.begin(one.step)
            if not drivers:
                self.other.begin(self.sweep)
            for one in (*drivers, self.other):
                if one.sent is not None:
                    self.answers(one, "used code" if self.issued else "token")
                    one.go_on()
        raise AssertionError("stuck")

    async def sweep(self, ports: Any) -> None:
        await _drive.tidy(ports)
        _, works = await sweep.due(ports)
        for work in works:
            await work.item(ports)


DEPTH: Final = int(os.environ.get("HOLD_DEPTH", "2"))
FAULTS: Final = 2
FAULTS_OF_STORE: Final = [
    (count, kind) for kind in ("before", "after", "die") for count in (1, 2, 3)
]
WALL: Final = 1_800_000_000.0
STEADY: Final = 1000.0


class Explorer:
    """Plays paths, each from the beginning, and looks at where they lead."""

    def __init__(self, folder: Path, kinds: tuple[str, str]) -> None:
        self.store = SQLiteStore(
            folder / "flows.db", plaintext=True, trail="summary", synchronous="NORMAL"
        )
        client = Client(
            self.store, clock=VirtualClock(), transport=ScriptedTransport([answer(200, CODE)])
        )
        self.flow_id = client.start(OAUTH).id
        self.ask = self.store._connection.connected().execute
        self.rows = {
            name: self.ask(f"SELECT * FROM {name}").fetchall()
            for name in ("flows", "audit", "drivers", "taken")
        }
        self.kinds = kinds

    def play(self, path: tuple[Move, ...]) -> World | None:
        self.ask("BEGIN")
        for table, rows in self.rows.items():
            self.ask(f"DELETE FROM {table}")
            for row in rows:
                self.ask(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
        self.ask("COMMIT")
        world = World(self.store, self.flow_id, self.kinds)
        for move in path:
            if not world.do(move):
                return None
        return world

    def explore(self, depth: int) -> dict[str, tuple[Move, ...]]:
        world = self.play(())
        assert world is not None
        seen: dict[str, tuple[Move, ...]] = {world.key(): ()}
        front: list[tuple[tuple[Move, ...], list[Move]]] = [((), [*world.moves()])]
        for _ in range(depth):
            following: list[tuple[tuple[Move, ...], list[Move]]] = []
            for path, moves in front:
                for move in moves:
                    longer = (*path, move)
                    try:
                        world = self.play(longer)
                        if world is None:
                            continue
                        key = world.key()
                        if key in seen:
                            continue
                        seen[key] = longer
                        following.append((longer, list(world.moves())))
                        world.check()
                        world.end(alone=len(seen) % 2 == 0)
                    except BaseException as wrong:
                        wrong.add_note("\n".join(map(repr, longer)))
                        raise
            front = following
        return seen


@pytest.mark.parametrize("kinds", [("wait", "work"), ("wait", "wait"), ("work", "work")])
def test_nothing_that_happens_to_two_drivers_breaks_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, str]
) -> None:
    monkeypatch.setattr("deviceflow.client.step.RESERVED", 3)
    seen = Explorer(tmp_path, kinds).explore(DEPTH)
    assert len(seen) > 100
