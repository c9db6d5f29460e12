"""Every path through both machines to a depth, and every step that is not a path."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from deviceflow import export
from deviceflow.core.actions import ACTIONS, LATE_TOKEN, ORPHAN_TOKEN, Action, Kind, of_kind
from deviceflow.core.flow import Flow
from deviceflow.core.machine import fire, fire_grant
from deviceflow.core.provider import DeviceCode, Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Handover, Loss, Reason, State
from deviceflow.core.text import trusted
from deviceflow.core.wire import Failure
from deviceflow.errors import IllegalTransitionError
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deviceflow.core.flow import Transition
    from deviceflow.core.wire import Response

    Design = Mapping[str, Mapping[State, State]]
    Handovers = Mapping[str, Mapping[Handover, Handover]]

DEPTH: Final = 8
REASON_OF: Final = {
    "deny": Reason.DENIED,
    "cancel": Reason.CANCELLED,
    "fail": Reason.REJECTED,
}
"""The machine tells only denied and cancelled from the other reasons."""
MOVING: Final = (*of_kind(Kind.LOGIN), *of_kind(Kind.HANDOVER))
"""What leaves both machines as they are makes no path."""


@dataclass(slots=True)
class Light:
    id: str = "f1"
    state: State = State.INIT
    reason: Reason | None = None
    handover: Handover = Handover.NONE


class Moved(NamedTuple):
    trigger: Action
    source: tuple[State, Handover]
    dest: tuple[State, Handover]


Path = tuple[Moved, ...]


def standing(flow: Light | Flow) -> tuple[State, Handover]:
    return flow.state, flow.handover


def tried(flow: Light, trigger: Action) -> Light | None:
    """Return what `trigger` makes of a copy of the flow; None if it is refused."""
    after = replace(flow)
    try:
        fire(after, trigger)
    except IllegalTransitionError:
        assert after == flow
        return None
    if trigger.kind is Kind.LOGIN:
        after.reason = REASON_OF.get(trigger)
    return after


def explore(flow: Light, path: Path = ()) -> Iterator[tuple[Path, Light]]:
    """Yield each path from here, none left out, with the flow at its end."""
    yield path, flow
    if len(path) < DEPTH:
        for trigger in MOVING:
            after = tried(flow, trigger)
            if after is not None:
                moved = Moved(trigger, standing(flow), standing(after))
                yield from explore(after, (*path, moved))


@pytest.fixture(scope="module")
def paths() -> list[tuple[Path, Light]]:
    return list(explore(Light()))


def joint(design: Design, handovers: Handovers) -> set[tuple[str, Any, Any]]:
    """Return each step of both machines together, by the design."""
    none, authorized = Handover.NONE, State.AUTHORIZED
    steps = set()
    for trigger, leads in design.items():
        for source, dest in leads.items():
            after = handovers.get(trigger, {none: none})[none]
            steps.add((trigger, (source, none), (dest, after)))
    for trigger, handed in handovers.items():
        if trigger not in design:
            for before, then in handed.items():
                steps.add((trigger, (authorized, before), (authorized, then)))
    return steps


def walks(steps: set[tuple[str, Any, Any]], depth: int) -> int:
    """Count the paths up to `depth` by arithmetic: how many lead to each state, step by step."""
    at: Counter[tuple[Any, bool]] = Counter({((State.INIT, Handover.NONE), True): 1})
    total = 1
    for _ in range(depth):
        following: Counter[tuple[Any, bool]] = Counter()
        for (where, takes_late_token), count in at.items():
            for trigger, source, dest in steps:
                if source == where and (trigger != "late_token" or takes_late_token):
                    following[dest, trigger not in {"deny", "cancel"}] += count
        at = following
        total += at.total()
    return total


def test_no_path_is_left_out(
    paths: list[tuple[Path, Light]], design: Design, handover_design: Handovers
) -> None:
    assert len(paths) == walks(joint(design, handover_design), DEPTH)
    assert {flow.state for _, flow in paths} == set(State)
    assert {flow.handover for _, flow in paths} == set(Handover)
    assert len({path for path, _ in paths}) == len(paths)
    assert max(len(path) for path, _ in paths) == DEPTH


def test_each_step_of_each_path_is_the_designs(
    paths: list[tuple[Path, Light]], design: Design, handover_design: Handovers
) -> None:
    steps = {step for path, _ in paths for step in path}

    assert steps == joint(design, handover_design)


def test_log_of_each_path_replays_to_the_same_state(paths: list[tuple[Path, Light]]) -> None:
    for path, flow in paths:
        again = Light()
        for step in path:
            assert standing(again) == step.source
            fire(again, step.trigger)
            if step.trigger.kind is Kind.LOGIN:
                again.reason = REASON_OF.get(step.trigger)
            assert standing(again) == step.dest
        assert again == flow


def test_no_path_leaves_an_end_but_by_a_late_token(paths: list[tuple[Path, Light]]) -> None:
    out_of_ends = {
        (step.trigger.name, step.source[0], step.dest[0])
        for path, _ in paths
        for step in path
        if step.source[0].ended and step.dest[0] is not step.source[0]
    }

    assert out_of_ends == {
        ("late_token", State.EXPIRED, State.AUTHORIZED),
        ("late_token", State.FAILED, State.AUTHORIZED),
    }


def test_token_is_handed_over_only_where_it_was_issued_and_not_once_it_is_gone(
    paths: list[tuple[Path, Light]],
) -> None:
    for path, flow in paths:
        names = [step.trigger.name for step in path]
        issued = {"issue_token", "late_token"} & {*names}
        assert (flow.handover is not Handover.NONE) == (flow.state is State.AUTHORIZED)
        assert bool(issued) == (flow.state is State.AUTHORIZED)
        for index, name in enumerate(names):
            if name in ("collect", "acknowledge", "purge", "refuse_token"):
                assert issued & {*names[:index]}
                assert not {"acknowledge", "purge", "refuse_token"} & {*names[:index]}


def test_no_path_leaves_denied_or_cancelled_at_all(paths: list[tuple[Path, Light]]) -> None:
    for path, _ in paths:
        assert all(step.trigger not in {"deny", "cancel"} for step in path[:-1])


def test_each_state_can_reach_an_end() -> None:
    for state in State:
        seen, front = {state}, [Light(state=state)]
        while front:
            flow = front.pop()
            for after in filter(None, (tried(flow, trigger) for trigger in MOVING)):
                if after.state not in seen:
                    seen.add(after.state)
                    front.append(after)
        assert any(reached.ended for reached in seen), state


STANDINGS: Final = [*itertools.product(State, Handover)]
"""Each state of the login with each of the hand-over, those too that nothing leads to."""


@pytest.mark.parametrize("reason", [None, *Reason])
@pytest.mark.parametrize("action", ACTIONS.values(), ids=str)
def test_each_action_is_refused_wherever_it_is_not_allowed_and_changes_nothing(
    action: Action, reason: Reason | None
) -> None:
    refused = 0
    said_no = reason in {Reason.DENIED, Reason.CANCELLED}
    for state, handover in STANDINGS:
        flow = Light("f9", state, reason, handover)
        if (
            state in action.login
            and handover in action.handover
            and not (action == "late_token" and said_no)
        ):
            fire(flow, action)
            assert standing(flow) == (action.login[state], action.handover[handover])
            continue
        with pytest.raises(IllegalTransitionError) as caught:
            fire(flow, action)
        error = caught.value
        assert (error.flow_id, error.state, error.trigger) == ("f9", state, action)
        assert error.reason == reason
        assert flow == Light("f9", state, reason, handover)
        refused += 1
    assert refused or action in ("import", "reseal")


# A grant, by its own machine.


@dataclass(slots=True)
class LightGrant:
    id: str = "g1"
    state: GrantState = GrantState.WANTED
    reason: Loss | None = None


def grant_paths(depth: int) -> Iterator[tuple[tuple[str, ...], GrantState]]:
    """Yield each path of a grant's actions that change its state, with the state at its end."""
    front: list[tuple[tuple[str, ...], GrantState]] = [((), GrantState.WANTED)]
    for _ in range(depth + 1):
        yield from front
        following = []
        for path, state in front:
            for action in of_kind(Kind.GRANT):
                grant = LightGrant(state=state)
                try:
                    fire_grant(grant, action)
                except IllegalTransitionError:
                    assert grant == LightGrant(state=state)
                    continue
                if grant.state is not state:
                    following.append(((*path, action.name), grant.state))
        front = following


def test_no_path_of_a_grant_is_left_out_and_each_is_the_designs(
    grant_design: Mapping[str, Mapping[GrantState, GrantState]],
) -> None:
    depth = 6
    paths = list(grant_paths(depth))
    at, total = Counter({GrantState.WANTED: 1}), 1
    for _ in range(depth):
        following: Counter[GrantState] = Counter()
        for state, count in at.items():
            for leads in grant_design.values():
                if leads.get(state, state) is not state:
                    following[leads[state]] += count
        at, total = following, total + following.total()

    assert len(paths) == len({path for path, _ in paths}) == total
    for path, end in paths:
        state = GrantState.WANTED
        for name in path:
            state = grant_design[name][state]
        assert state is end


def test_no_path_of_a_grant_sends_twice_without_an_answer_or_a_doubt_between() -> None:
    for path, _ in grant_paths(6):
        for one, following in itertools.pairwise(path):
            if one in ("refresh", "replay"):
                assert following in {
                    *("renew", "postpone", "lose_answer", "recover_refresh"),
                    *("use_late_answer", "lose", "log_out"),
                }
            if following == "replay":
                assert one in ("lose_answer", "recover_refresh", "doubt")


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
        "late token": lambda flow, now: flow.late_token(late, flow.attempt, now),
        "take over": lambda flow, now: flow.take_over(now, "w1"),
        "collect": lambda flow, now: flow.collect(now),
        "acknowledge": lambda flow, now: flow.acknowledge(now),
        "purge": lambda flow, now: flow.purge(now),
        "refuse_token": lambda flow, now: flow.refuse_token(trusted("why"), now),
        "abandon revocation": lambda flow, now: flow.abandon_revocation(now),
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
        flow.handover,
    )


def test_whatever_happens_to_a_flow_keeps_its_record_whole(
    studio_flow: Flow,
    code_answer: Callable[..., Response],
    design: Design,
    handover_design: Handovers,
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
            if moved.action.kind is Kind.LOGIN:
                assert design[moved.action][before.state] is flow.state
            else:
                assert flow.state is before.state
            handed = handover_design.get(moved.action, {before.handover: before.handover})
            assert flow.handover is handed[before.handover]
            came = moved.action in ("orphan_token", "purge", "refuse_token")
            assert flow.orphaned_tokens == before.orphaned_tokens + came
            assert (flow.token is not None) == flow.handover.token_kept
            assert (flow.handover is Handover.NONE) == (flow.state is not State.AUTHORIZED)
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
    assert {handover for *_, handover in seen} == set(Handover)


@pytest.fixture
def studio_flow(waiting: Callable[..., Flow]) -> Flow:
    return Flow("f1", waiting().provider, 1_800_000_000.0)


# Each action in each state, by the flow's own methods, whatever secrets the flow has.

CODE: Final = DeviceCode(
    device_code=Secret("CODE-CANARY"),
    user_code=None,
    token_endpoint="https://studio.example.com/token",
    verification_uri=None,
)
ORPHAN: Final = (("access_token", Secret("ORPHAN-CANARY")),)
BY_METHOD: Final[dict[str, Callable[[Flow, float], Transition]]] = {
    "issue_code": lambda flow, now: flow.adopt(CODE, now),
    "poll": lambda flow, now: flow.poll(now, 10.0),
    "recover": lambda flow, now: flow.recover(now, "w1"),
    "expire": lambda flow, now: flow.expire(now),
    "cancel": lambda flow, now: flow.cancel(now, "why"),
    "late_token": lambda flow, now: flow.late_token(Token(Secret("LATE-CANARY")), 1, now),
    "orphan_token": lambda flow, now: flow.orphan_token(ORPHAN, now),
    "collect": lambda flow, now: flow.collect(now),
    "acknowledge": lambda flow, now: flow.acknowledge(now),
    "purge": lambda flow, now: flow.purge(now),
    "refuse_token": lambda flow, now: flow.refuse_token(trusted("why"), now),
    "abandon_revocation": lambda flow, now: flow.abandon_revocation(now),
    "take_over": lambda flow, now: flow.take_over(now, "w1"),
    "let_go": lambda flow, now: flow.let_go(now),
    "import": lambda flow, now: flow.record_import(now),
    "reseal": lambda flow, now: flow.reseal(now),
}


def everything(flow: Flow) -> dict[str, Any]:
    return {name: getattr(flow, name) for name in Flow.__slots__}


def forged(waiting: Callable[..., Flow], state: State, handover: Handover, *, bare: bool) -> Flow:
    """Return a flow in these states with all the secrets that a flow can have, or with none."""
    flow = waiting()
    flow.state, flow.handover = state, handover
    flow.reason = Reason.REJECTED if state is State.FAILED else None
    flow.token = None if bare else Token(Secret("TOKEN-CANARY"))
    flow.to_revoke = () if bare else ORPHAN
    flow.revocations = len(flow.to_revoke)
    if bare:
        flow.device_code = None
    return flow


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("action", ACTIONS.values(), ids=str)
def test_each_method_is_refused_wherever_its_action_is_not_allowed_and_changes_nothing(
    waiting: Callable[..., Flow], action: Action, bare: bool
) -> None:
    needs_secret = action.kind is Kind.HANDOVER or action == "abandon_revocation"
    either = {action, ORPHAN_TOKEN} if action == LATE_TOKEN else {action}

    def fired(flow: Flow, now: float) -> Transition:
        return flow._fire(action, now)

    refused = 0
    for happen in filter(None, (fired, BY_METHOD.get(action))):
        for state, handover in STANDINGS:
            flow = forged(waiting, state, handover, bare=bare)
            before, now = everything(flow), flow.moved_at + 1
            if happen is fired:
                allowed = action.allowed(flow)
            else:
                allowed = any(one.allowed(flow) for one in either) and not (needs_secret and bare)
            if allowed:
                done = happen(flow, now)
                assert done.action in either
                assert (done.source, done.dest) == (state, flow.state)
                assert flow.seq == before["seq"] + 1
                continue
            with pytest.raises(IllegalTransitionError):
                happen(flow, now)
            assert everything(flow) == before
            refused += 1
    assert refused or action in ("import", "reseal")
