"""Many processes that step the same flows, and what must be so whoever comes first."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from deviceflow import State
from tests.crash.checks import (
    Auditor,
    unfolded,
    wrong_with_files,
    wrong_with_history,
    wrong_with_polls,
)
from tests.crash.gate import Rule, WatchedServer
from tests.crash.places import time_and_place
from tests.crash.worker import Shift, told
from tests.crash.zygote import PATIENCE
from tests.stored import flows as all_flows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from deviceflow.core.flow import Flow
    from tests.crash.clock import SharedClock
    from tests.crash.gate import Decision
    from tests.crash.places import Place
    from tests.crash.zygote import Child, Zygote
    from tests.postgres import PostgresServer

WORKERS: Final = 8
FLOWS: Final = 40

_STARTERS: Final = 3  # of each flow, at the same time
_LIFETIME: Final = 50  # seconds
_LAST_DECISION: Final = 38.0  # seconds
_DIGEST_EACH: Final = 0.5  # seconds
_SECONDS: Final = 90.0  # for a minute's work, at the most


@dataclass
class Competition:
    """What came of it.

    Attributes:
        outcomes: How the flows ended.
        polls: How many token requests were sent.
        held: How often a worker found another one at a flow.
        delivered: How many tokens were handed over.
        events: How many events the trail has.
        digests: How many digests of it were signed meanwhile.
        wrong: What must not be so.
        seconds: How long it took.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    polls: int = 0
    held: int = 0
    delivered: int = 0
    events: int = 0
    digests: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def compete(
    zygote: Zygote,
    folder: Path,
    postgres: PostgresServer | None,
    rng: Random,
    *,
    pace: int,
    interval: float,
) -> Competition:
    """Have all workers step all flows, to their end.

    Args:
        zygote: Whose children the workers are.
        folder: An empty folder.
        postgres: The server for a database; None for a SQLite file.
        rng: What chance goes by.
        pace: How many seconds by the clock pass in a real one.
        interval: Seconds between two polls.
    """
    done, begun = Competition(), time.monotonic()
    with (
        time_and_place(folder, postgres, pace) as (clock, place),
        WatchedServer(clock, interval=interval, expires_in=_LIFETIME) as server,
    ):
        decisions, auditor = _decisions(), Auditor(folder / "digests")
        _work(zygote, folder, rng, place, server, clock, decisions, auditor)
        reports = [told(_report(folder, number)) for number in range(WORKERS)]
        for line in (line for lines in reports for line in lines):
            done.held += line.get("held", 0)
            done.wrong += [str(line[what]) for what in ("error", "problem") if line.get(what)]
            done.wrong += [f"{flow_id} was not ended" for flow_id in line.get("left", ())]
        delivered = [line for lines in reports for line in lines if "delivered" in line]
        done.delivered = len(delivered)
        with place.open() as store:
            flows = list(all_flows(store))
            histories = {flow.id: unfolded(store.events(flow.id)) for flow in flows}
            done.wrong += auditor.wrong(store)
        done.events, done.digests = auditor.events, auditor.digests
        if sorted(str(flow.name) for flow in flows) != sorted(decisions):
            done.wrong.append(f"of {len(decisions)} keys there are {len(flows)} flows")
        for flow in flows:
            tokens = [line["delivered"] for line in delivered if line["flow_id"] == flow.id]
            problems = _wrong(flow, histories[flow.id], server, decisions[str(flow.name)], tokens)
            done.wrong += [f"{flow.name}: {problem}" for problem in problems]
            done.outcomes[flow.reason or flow.state] += 1
            done.polls += flow.attempt
        done.wrong += wrong_with_files(place.files())
    done.seconds = time.monotonic() - begun
    return done


def _decisions() -> dict[str, Decision | None]:
    decided: tuple[Decision | None, ...] = ("approve", "approve", "approve", "deny", None)
    return {f"job-{number}": decided[number % len(decided)] for number in range(FLOWS)}


def _report(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}"


def _work(
    zygote: Zygote,
    folder: Path,
    rng: Random,
    place: Place,
    server: WatchedServer,
    clock: SharedClock,
    decisions: dict[str, Decision | None],
    auditor: Auditor,
) -> None:
    """Start the workers; once each flow has a code, have its person decide at a random time.

    Meanwhile one digest after the other is signed.
    """
    rules = {name: Rule(decision=None) for name in decisions}
    server.gate.rules |= rules
    names, go = list(decisions), folder / "go"
    children = [
        zygote.fork(
            Shift(
                store=place.url,
                keys=place.keys,
                clock=str(clock.path),
                report=str(_report(folder, number)),
                server=server.url,
                clients=[
                    name
                    for index, name in enumerate(names)
                    if (index + number) % WORKERS < _STARTERS
                ],
                go=str(go),
                seconds=_SECONDS,
                seed=f"{rng.random()}",
            )
        )
        for number in range(WORKERS)
    ]
    _wait_for_all(children, folder)
    for seen in server.gate.seen.values():
        rule = rules[seen.client]
        rule.after = clock.time() - seen.issued_at + rng.uniform(0.0, _LAST_DECISION)
        rule.decision = decisions[seen.client]
    go.touch()
    until = time.monotonic() + _SECONDS / clock.pace + PATIENCE
    with place.open() as store:
        for child in children:
            while not child.has_ended(_DIGEST_EACH):
                assert time.monotonic() < until, "a worker does not end"
                auditor.sign(store)


def _wait_for_all(children: list[Child], folder: Path) -> None:
    until = time.monotonic() + PATIENCE
    for number, child in enumerate(children):
        while not any("started" in line for line in told(_report(folder, number))):
            assert not child.has_ended(0.02), told(_report(folder, number))
            assert time.monotonic() < until, "a worker does not start"


def _wrong(
    flow: Flow,
    history: list[dict[str, Any]],
    server: WatchedServer,
    decision: Decision | None,
    tokens: list[str],
) -> Iterator[str]:
    yield from wrong_with_history(flow, history)
    asked = server.log(str(flow.name))
    if [login["user_code"] for login in asked] != [flow.user_code]:
        yield f"{len(asked)} codes were asked for"
        return
    yield from wrong_with_polls(asked[0], history)
    if flow.attempt != len(asked[0]["requests"]):
        yield f"{flow.attempt} polls are on record, {len(asked[0]['requests'])} came"
    done = Counter(event["action"] for event in history)
    ends = {"approve": State.AUTHORIZED.value, "deny": "denied", None: State.EXPIRED.value}
    if (flow.reason or flow.state) != ends[decision]:
        yield f"it ended as {flow.reason or flow.state}"
    approved = decision == "approve"
    counts = (done["issue_token"], done["acknowledge"], len(tokens))
    if counts != (approved, approved, approved):
        yield "it was granted {} times, acknowledged {} times, delivered {} times".format(*counts)
    if any(done[action] for action in ("late_token", "orphan_token", "recover", "take_over")):
        yield "somebody lost its lease"
    if tokens and tokens != [s.token for s in server.gate.seen.values() if s.client == flow.name]:
        yield "another token was delivered than was issued"
    if decision is None and flow.attempt < _LIFETIME / (2 * flow.interval):
        yield f"in all its life it was polled {flow.attempt} times"
