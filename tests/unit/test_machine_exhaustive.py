"""Every path through the machine to a depth, and every step that is not a path."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from deviceflow import export
from deviceflow.core.flow import Flow
from deviceflow.core.machine import TRIGGERS, Reason, State, fire
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.wire import Failure
from deviceflow.errors import IllegalTransitionError
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deviceflow.core.flow import Transition
    from deviceflow.core.machine import Trigger
    from deviceflow.core.wire import Response

    Design = Mapping[Trigger, Mapping[State, State]]

DEPTH: Final = 8
REASON_OF: Final = {
    "deny": Reason.DENIED,
    "cancel": Reason.CANCELLED,
    "fail": Reason.REJECTED,
}
"""The machine tells only denied and cancelled from the other reasons."""


@dataclass(slots=True)
class Light:
    id: str = "f1"
    state: State = State.INIT
    reason: Reason | None = None


class Moved(NamedTuple):
    trigger: Trigger
    source: State
    dest: State


Path = tuple[Moved, ...]


def tried(flow: Light, trigger: Trigger) -> Light | None:
    """Return what `trigger` makes of a copy of the flow; None if it is refused."""
    after = replace(flow)
    try:
        fire(after, trigger)
    except IllegalTransitionError:
        assert after == flow
        return None
    after.reason = REASON_OF.get(trigger)
    return after


def explore(flow: Light, path: Path = ()) -> Iterator[tuple[Path, Light]]:
    """Yield each path from here, none left out, with the flow at its end."""
    yield path, flow
    if len(path) < DEPTH:
        for trigger in TRIGGERS:
            after = tried(flow, trigger)
            if after is not None:
                yield from explore(after, (*path, Moved(trigger, flow.state, after.state)))


@pytest.fixture(scope="module")
def paths() -> list[tuple[Path, Light]]:
    return list(explore(Light()))


def walks(design: Design, depth: int) -> int:
    """Count the paths up to `depth` by arithmetic: how many lead to each state, step by step."""
    at: Counter[tuple[State, bool]] = Counter({(State.INIT, True): 1})
    total = 1
    for _ in range(depth):
        following: Counter[tuple[State, bool]] = Counter()
        for (state, takes_late_token), count in at.items():
            for trigger, leads in design.items():
                if state in leads and (trigger != "late_grant" or takes_late_token):
                    following[leads[state], trigger not in {"deny", "cancel"}] += count
        at = following
        total += at.total()
    return total


def test_no_path_is_left_out(paths: list[tuple[Path, Light]], design: Design) -> None:
    assert len(paths) == walks(design, DEPTH)
    assert {flow.state for _, flow in paths} == set(State)
    assert len({path for path, _ in paths}) == len(paths)
    assert max(len(path) for path, _ in paths) == DEPTH


def test_each_step_of_each_path_is_the_designs(
    paths: list[tuple[Path, Light]], design: Design
) -> None:
    steps = {step for path, _ in paths for step in path}

    assert steps == {
        Moved(trigger, source, dest)
        for trigger, leads in design.items()
        for source, dest in leads.items()
    }


def test_log_of_each_path_replays_to_the_same_state(paths: list[tuple[Path, Light]]) -> None:
    for path, flow in paths:
        again = Light()
        for step in path:
            assert again.state is step.source
            fire(again, step.trigger)
            again.reason = REASON_OF.get(step.trigger)
            assert again.state is step.dest
        assert again == flow


def test_no_path_leaves_an_end_but_by_a_late_grant(paths: list[tuple[Path, Light]]) -> None:
    out_of_ends = {step for path, _ in paths for step in path if step.source.ended}

    assert out_of_ends == {
        Moved("late_grant", State.EXPIRED, State.AUTHORIZED),
        Moved("late_grant", State.FAILED, State.AUTHORIZED),
    }


def test_no_path_leaves_denied_or_cancelled_at_all(paths: list[tuple[Path, Light]]) -> None:
    for path, _ in paths:
        assert all(step.trigger not in {"deny", "cancel"} for step in path[:-1])


def test_each_state_can_reach_an_end() -> None:
    for state in State:
        seen, front = {state}, [Light(state=state)]
        while front:
            flow = front.pop()
            for after in filter(None, (tried(flow, trigger) for trigger in TRIGGERS)):
                if after.state not in seen:
                    seen.add(after.state)
                    front.append(after)
        assert any(reached.ended for reached in seen), state


@pytest.mark.parametrize("reason", [None, *Reason])
@pytest.mark.parametrize("state", State)
def test_each_illegal_trigger_raises_and_changes_nothing(
    state: State, reason: Reason | None, design: Design
) -> None:
    refused = []
    for trigger in TRIGGERS:
        flow = Light("f9", state, reason)
        said_no = reason in {Reason.DENIED, Reason.CANCELLED}
        if state in design[trigger] and not (trigger == "late_grant" and said_no):
            continue
        with pytest.raises(IllegalTransitionError) as caught:
            fire(flow, trigger)
        error = caught.value
        assert (error.flow_id, error.state, error.trigger) == ("f9", state, trigger)
        assert error.reason == reason
        assert flow == Light("f9", state, reason)
        refused.append(trigger)
    assert refused


# The same with whole flows: all that can happen to one, in every order.

ANSWERS: Final[Mapping[str, Response | Failure]] = {
    "pending": answer(400, {"detail": "authorization_pending"}),
    "slow_down": answer(400, {"detail": "slow_down"}),
    "denied": answer(400, {"detail": "access_denied"}),
    "expired": answer(400, {"detail": "authorization_expired"}),
    "refused": answer(400, {"detail": "invalid_grant"}),
    "token": answer(200, {"access_token": "TOKEN-CANARY"}),
    "busy": answer(503, "busy"),
    "crashed": answer(500, "crashed"),
    "page": answer(404, "<html>"),
    "cut": answer(200, '{"access_tok'),
    "lost": Failure("timeout", sent=True),
    "unsent": Failure("connection", sent=False),
}


def happenings(
    code_answer: Callable[..., Response],
) -> dict[str, Callable[[Flow, float], Transition]]:
    def receive(result: Response | Failure) -> Callable[[Flow, float], Transition]:
        return lambda flow, now: flow.receive(result, now)

    late = Token(Secret("LATE-CANARY"))
    return {
        "code": receive(code_answer(expires_in=40)),
        **{name: receive(result) for name, result in ANSWERS.items()},
        "poll": lambda flow, now: flow.poll(now, 10.0),
        "recover": lambda flow, now: flow.recover(now, "w1"),
        "expire": lambda flow, now: flow.expire(now),
        "cancel": lambda flow, now: flow.cancel(now),
        "late token": lambda flow, now: flow.late_grant(late, flow.attempt, now),
    }


def again(flow: Flow) -> Flow:
    return export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=True))))


def kind(flow: Flow) -> tuple[Any, ...]:
    """Return what decides the rules, so that flows that cannot behave differently count once."""
    return (
        flow.state,
        flow.reason,
        flow.in_doubt,
        min(flow.unreadable, 3),
        min(flow.failures, 3),
        flow.last_poll_owed,
        flow.token is None,
    )


def test_whatever_happens_to_a_flow_keeps_its_record_whole(
    studio_flow: Flow, code_answer: Callable[..., Response], design: Design
) -> None:
    moves = happenings(code_answer)
    seen = {kind(studio_flow)}
    front = [studio_flow]
    refused = 0
    for depth in itertools.count(1):
        following = []
        for (name, happen), before in itertools.product(moves.items(), front):
            flow, now = again(before), before.created_at + depth
            try:
                moved = happen(flow, now)
            except IllegalTransitionError:
                refused += 1
                assert export.to_dict(flow, secrets=True) == export.to_dict(before, secrets=True), (
                    name
                )
                continue
            assert (moved.seq, moved.source, moved.dest) == (flow.seq, before.state, flow.state)
            assert flow.seq == before.seq + 1
            if moved.action == "stray_token":
                assert flow.state is before.state
                assert flow.stray_tokens == before.stray_tokens + 1
            else:
                leads = {trigger: dict(rows) for trigger, rows in design.items()}
                assert leads[moved.action][before.state] is flow.state  # type: ignore[index]
            assert (flow.token is not None) == (flow.state is State.AUTHORIZED)
            assert (flow.reason is not None) == (flow.state is State.FAILED)
            assert (flow.device_code is not None) == (
                flow.state in {State.AWAITING_USER, State.POLLING}
            )
            assert export.to_dict(again(flow), secrets=True) == export.to_dict(flow, secrets=True)
            if kind(flow) not in seen:
                seen.add(kind(flow))
                following.append(flow)
        front = following
        if not front:
            break
    assert depth > 6
    assert refused > 100
    assert {state for state, *_ in seen} == set(State)


@pytest.fixture
def studio_flow(waiting: Callable[..., Flow]) -> Flow:
    return Flow("f1", waiting().provider, 1_800_000_000.0)
