"""Any history that is legal, written through a store: what is kept of it replays to what is there.

As in `tests/unit/test_fuzz.py` the examples are drawn anew in each run, but not in CI.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow.audit.events import render, schema
from deviceflow.core.actions import ACTIONS, LOGIN_TRIGGERS
from deviceflow.core.ports import Origin
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.core.wire import Failure
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from tests.examples import examples
from tests.integration.places import (
    CODE,
    DENIED,
    EXPIRED,
    GRANTED,
    LOST,
    PENDING,
    REVOKED,
    SLOW_DOWN,
    UNKNOWN_CODE,
    everything,
    new,
)
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deviceflow.core.flow import Flow, Transition

    Step = Callable[[Flow, float], Transition]

CODES: Final = [CODE, answer(503, "busy"), answer(400, {"error": "invalid_client"}), LOST]
POLLS: Final = [
    *(PENDING, SLOW_DOWN, DENIED, EXPIRED, GRANTED, UNKNOWN_CODE, LOST),
    *(answer(200, "<html>"), answer(503, "busy"), Failure("connection", sent=False)),
]
REVOCATIONS: Final = [REVOKED, answer(503, "busy"), answer(400, {"error": "no"})]
LEGAL: Final = {(name, *move) for name in LOGIN_TRIGGERS for move in name.login.items()}
BESIDES: Final = {*ACTIONS.values()} - {*LOGIN_TRIGGERS}
numbers: Final = itertools.count(1)


def received(result: Any) -> Step:
    return lambda flow, now: flow.receive(result, now, duration=0.1)


def late(flow: Flow, now: float) -> Transition:
    return flow.late_token(Token(Secret(f"LATE-{now}")), flow.attempt, now)


def possible(flow: Flow) -> list[Step]:
    """Return what may happen to a flow next."""
    steps: dict[State, list[Step]] = {
        State.INIT: [received(code) for code in CODES],
        State.AWAITING_USER: [lambda flow, now: flow.poll(now, 10), type(flow).expire, late],
        State.POLLING: [*map(received, POLLS), type(flow).recover, late],
    }
    if not flow.state.ended:
        return [*steps[flow.state], type(flow).cancel]
    ended: list[Step] = [late] if flow.attempt or flow.reason else []
    if flow.token is not None:
        ended += [type(flow).collect, type(flow).acknowledge, type(flow).purge]
    if flow.to_revoke:
        ended += [type(flow).abandon_revocation, *map(received, REVOCATIONS)]
    return ended


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteStore]:
    path = tmp_path_factory.mktemp("histories") / "flows.db"
    with SQLiteStore(path, synchronous="NORMAL", trail="each") as opened:
        yield opened


def replayed(history: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Return where a flow stands by its history alone, which must be a legal one."""
    stands: dict[str, Any] = {"seq": 0, "state": "init", "reason": None, "attempt": 0}
    for event in history:
        assert event["seq"] == stands["seq"] + 1
        assert event["from"] == stands["state"]
        if event["action"] in BESIDES:
            assert event["to"] == event["from"]
        else:
            assert (event["action"], event["from"], event["to"]) in LEGAL
        assert event["attempt"] == stands["attempt"] + (event["action"] == "poll")
        stands = {name: event[name] for name in ("seq", "reason", "attempt")}
        stands["state"] = event["to"]
    return stands


@examples(50, of=3)
@given(choices=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100)), max_size=25))
def test_history_replays_to_what_is_kept(
    store: SQLiteStore, choices: list[tuple[int, float]]
) -> None:
    now = 1_800_000_000.0
    flow = store.add(new(f"f{next(numbers)}", at=now))
    events = []
    for choice, later in choices:
        now += later
        steps = possible(flow)
        if not steps:
            break
        before = get(store, flow.id)
        moved = steps[choice % len(steps)](flow, now)
        events.append(render(flow, moved, Origin("w1")))
        assert store.commit(flow, events[-1])
        # Whoever comes with the same, and has not seen this, comes too late.
        assert not store.commit(before, events[-1] | {"worker": "w2"})
        assert everything(get(store, flow.id)) == everything(flow)

    history = store.events(flow.id)

    assert json.dumps(history) == json.dumps(events)
    checker = jsonschema.Draft202012Validator(schema())
    for event in history:
        checker.validate(event)
    kept = get(store, flow.id)
    assert replayed(history) == {
        "seq": kept.seq,
        "state": kept.state,
        "reason": kept.reason,
        "attempt": kept.attempt,
    }
