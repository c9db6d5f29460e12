"""The table of actions, and what we rely on of `transitions`."""

from __future__ import annotations

import gc
import logging
import random
import sys
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from deviceflow.core.actions import (
    ACKNOWLEDGE,
    ACTIONS,
    COLLECT,
    ISSUE_CODE,
    ISSUE_TOKEN,
    LATE_TOKEN,
    LOGIN_TRIGGERS,
    POLL,
    PURGE,
    SLOW_DOWN,
    STORE_EVENTS,
    Action,
    Kind,
    action_of,
    of_kind,
)
from deviceflow.core.machine import _HANDOVER, _LOGIN, fire, fire_grant
from deviceflow.core.states import ENDS, GrantState, Handover, Loss, Reason, State
from deviceflow.errors import IllegalTransitionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(slots=True, weakref_slot=True)
class Light:
    """All that the machine needs of a flow, and nothing more."""

    id: str = "f1"
    state: State = State.INIT
    reason: Reason | None = None
    handover: Handover = Handover.NONE


def test_states_have_the_published_values() -> None:
    assert list(State) == [
        "init",
        "awaiting-user",
        "polling",
        "authorized",
        "expired",
        "failed",
    ]


def test_reasons_are_a_closed_set() -> None:
    assert set(Reason) == {
        "denied",
        "cancelled",
        "rejected",
        "protocol",
        "unreachable",
        "wrong_approver",
        "outcome_unknown",
    }


@pytest.mark.parametrize("state", State)
def test_three_states_are_ends(state: State) -> None:
    assert state.ended == (state in {"authorized", "expired", "failed"})
    assert state.ended == (state in ENDS)


def test_grant_has_states_that_no_login_has() -> None:
    assert list(GrantState) == ["wanted", "active", "refreshing", "in-doubt", "lost", "revoked"]
    assert {*map(str, GrantState)} & {*map(str, State)} == set()
    assert [state.gives_tokens for state in GrantState] == [False, True, True, True, False, False]


def test_reasons_of_a_loss_are_a_closed_set_that_no_login_has() -> None:
    assert set(Loss) == {
        "refused",
        "refresh_unknown",
        "lapsed",
        "invalidated",
        "wrong_subject",
    }
    assert {*map(str, Loss)} & {*map(str, Reason)} == set()


def test_hand_over_has_the_states_of_the_design() -> None:
    assert list(Handover) == ["none", "ready", "collected", "acknowledged", "purged"]
    assert [state.token_kept for state in Handover] == [False, True, True, False, False]


def test_table_is_the_design(
    design: Mapping[str, Mapping[State, State]],
    handover_design: Mapping[str, Mapping[Handover, Handover]],
    beside: Mapping[str, set[State]],
    grant_design: Mapping[str, Mapping[GrantState, GrantState]],
    beside_grant: Mapping[str, set[GrantState]],
) -> None:
    staying = {state: state for state in State}
    declared = {name: (action.kind, action.login) for name, action in ACTIONS.items()}

    assert declared == {
        **{name: (Kind.LOGIN, leads) for name, leads in design.items()},
        **{
            name: (Kind.HANDOVER, {State.AUTHORIZED: State.AUTHORIZED})
            for name in ("collect", "acknowledge", "purge", "refuse_token")
        },
        **{
            name: (Kind.NOTE, {state: staying[state] for state in states})
            for name, states in beside.items()
        },
        **{
            name: (Kind.STORE, {})
            for name in (
                *("open_plaintext", "plain_http", "unverified_tls", "rotate_keys", "prune"),
                *("drive", "stop_driving", "lapse"),
            )
        },
        **{name: (Kind.GRANT, {}) for name in {*grant_design, *beside_grant} - {*beside}},
    }
    assert {name: action.grant for name, action in ACTIONS.items() if action.grant} == {
        **grant_design,
        **{name: {state: state for state in states} for name, states in beside_grant.items()},
    }
    assert {name: ACTIONS[name].handover for name in handover_design} == handover_design
    for action in of_kind(Kind.LOGIN):
        if action not in handover_design:
            assert action.handover == {Handover.NONE: Handover.NONE}
    for action in of_kind(Kind.NOTE):
        assert action.handover == {state: state for state in Handover}


def test_each_action_is_the_name_that_events_have() -> None:
    for name, action in ACTIONS.items():
        assert action == name == action.name
        assert action_of(name) is action


@pytest.mark.parametrize("name", ["probed", "", None])
def test_name_of_no_action_is_read_as_one_of_which_nothing_is_known(name: str | None) -> None:
    read = action_of(name)

    assert (read, read.words, read.outcome) == (str(name), str(name), "unknown")
    facts = (read.login, read.handover, read.issues_token, read.ends_handover, read.ends_login)
    assert facts == ({}, {}, False, False, None)
    assert name not in ACTIONS


def test_facts_that_follow_from_the_states() -> None:
    def named(has: Callable[[Action], object]) -> set[str]:
        return {name for name, action in ACTIONS.items() if has(action)}

    assert named(lambda action: action.issues_token) == {"issue_token", "late_token"}
    assert named(lambda action: action.ends_handover) == {
        "acknowledge",
        "purge",
        "refuse_token",
    }
    assert named(lambda action: action.ends_login is State.AUTHORIZED) == {
        "issue_token",
        "late_token",
    }
    assert named(lambda action: action.ends_login is State.FAILED) == {"deny", "fail", "cancel"}
    assert named(lambda action: action.ends_login is State.EXPIRED) == {"expire"}
    assert named(lambda action: action.wipes) == {
        "acknowledge",
        "purge",
        "refuse_token",
        "revoke",
        "abandon_revocation",
        "renew",
        "use_late_answer",
        "lose",
        "log_out",
    }


def test_each_action_says_what_it_means() -> None:
    assert all(action.words and action.outcome for action in ACTIONS.values())


def test_each_legal_trigger_leads_where_the_design_says(
    design: Mapping[str, Mapping[State, State]],
) -> None:
    for trigger, leads in design.items():
        for source, dest in leads.items():
            flow = Light(state=source)
            fire(flow, ACTIONS[trigger])
            assert flow.state is dest, (trigger, source)


def test_illegal_trigger_is_our_error_and_names_flow_state_and_trigger() -> None:
    flow = Light("f7", State.EXPIRED)

    with pytest.raises(IllegalTransitionError) as caught:
        fire(flow, POLL)

    error = caught.value
    assert (error.flow_id, error.state, error.trigger) == ("f7", "expired", "poll")
    assert isinstance(error, UsageError)
    assert str(error).startswith(
        "The action 'poll' is not allowed: the login is expired. Check the login's state"
    )
    # Nothing of `transitions` hangs on it.
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize("action", [COLLECT, ACKNOWLEDGE, PURGE])
@pytest.mark.parametrize("gone", [Handover.ACKNOWLEDGED, Handover.PURGED])
def test_refusal_says_where_the_token_is(action: Action, gone: Handover) -> None:
    flow = Light("f7", State.AUTHORIZED, handover=gone)

    with pytest.raises(IllegalTransitionError) as caught:
        fire(flow, action)

    assert caught.value.trigger == action
    assert str(caught.value).startswith(
        f"The action {action!r} is not allowed: the login is authorized and its token {gone}. Check"
    )
    assert flow == Light("f7", State.AUTHORIZED, handover=gone)


@pytest.mark.parametrize("action", STORE_EVENTS)
def test_event_of_the_store_cannot_happen_to_a_flow(action: Action) -> None:
    flow = Light()

    with pytest.raises(IllegalTransitionError):
        fire(flow, action)

    assert flow == Light()


@dataclass(slots=True)
class LightGrant:
    """All that the machine needs of a grant."""

    state: GrantState
    id: str = "g1"
    reason: Loss | None = None


@pytest.mark.parametrize("action", ACTIONS.values(), ids=str)
@pytest.mark.parametrize("state", GrantState)
def test_action_on_a_grant_leads_where_the_table_says_or_is_refused(
    action: Action, state: GrantState
) -> None:
    grant = LightGrant(state)

    if state in action.grant:
        fire_grant(grant, action)
        assert grant.state is action.grant[state]
        return
    with pytest.raises(
        IllegalTransitionError, match=f"not allowed: the grant is {state}"
    ) as caught:
        fire_grant(grant, action)

    assert grant == LightGrant(state)
    error = caught.value
    assert (error.flow_id, error.state, error.trigger) == ("g1", state, action)
    assert (error.__cause__, error.__context__) == (None, None)


def test_token_is_ready_once_it_is_issued_and_can_be_collected_again() -> None:
    flow = Light(state=State.POLLING)
    seen = []

    for action in (ISSUE_TOKEN, COLLECT, COLLECT, ACKNOWLEDGE):
        fire(flow, action)
        seen.append(flow.handover)

    assert seen == ["ready", "collected", "collected", "acknowledged"]
    assert flow.state is State.AUTHORIZED


def test_illegal_trigger_leaves_the_flow_as_it_was() -> None:
    flow = Light("f7", State.FAILED, Reason.REJECTED)

    with pytest.raises(IllegalTransitionError) as caught:
        fire(flow, SLOW_DOWN)

    assert flow == Light("f7", State.FAILED, Reason.REJECTED)
    assert caught.value.reason == "rejected"


@pytest.mark.parametrize("reason", [None, *Reason])
@pytest.mark.parametrize("state", [State.AWAITING_USER, State.POLLING, State.EXPIRED, State.FAILED])
def test_late_token_is_taken_unless_denied_or_cancelled(
    state: State, reason: Reason | None
) -> None:
    flow = Light(state=state, reason=reason)

    if reason in {Reason.DENIED, Reason.CANCELLED}:
        with pytest.raises(IllegalTransitionError):
            fire(flow, LATE_TOKEN)
        assert flow == Light(state=state, reason=reason)
    else:
        fire(flow, LATE_TOKEN)
        assert flow.state is State.AUTHORIZED


def test_machine_drives_objects_that_it_was_never_shown() -> None:
    flow = Light()

    fire(flow, ISSUE_CODE)
    fire(flow, POLL)

    assert flow.state is State.POLLING
    assert _LOGIN.models == _HANDOVER.models == []


def test_machine_forgets_a_flow_that_is_gone() -> None:
    flows = [Light(str(number)) for number in range(100)]
    watched = [weakref.ref(flow) for flow in flows]
    for flow in flows:
        fire(flow, ISSUE_CODE)

    del flow
    flows.clear()
    gc.collect()

    assert [ref() for ref in watched if ref() is not None] == []


def test_machine_keeps_nothing_of_flows_that_live() -> None:
    flows = [Light(str(number)) for number in range(2000)]
    fire(Light(), ISSUE_CODE)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for flow in flows:
            fire(flow, ISSUE_CODE)
        gc.collect()
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()

    ours = [tracemalloc.Filter(True, "*/transitions/*"), tracemalloc.Filter(True, "*/machine.py")]
    grown = after.filter_traces(ours).compare_to(before.filter_traces(ours), "filename")
    assert sum(line.size_diff for line in grown) < len(flows)  # less than a byte for each


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads interrupt each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switching")
def test_threads_drive_their_flows_through_the_one_machine_without_mixing_them_up(
    design: Mapping[str, Mapping[State, State]],
) -> None:
    threads = 8
    barrier = threading.Barrier(threads)

    def drive(seed: int) -> int:
        rng = random.Random(seed)
        flows = [Light(f"{seed}.{number}") for number in range(20)]
        barrier.wait()
        fired = 0
        for _ in range(1500):
            flow = rng.choice(flows)
            trigger = rng.choice(LOGIN_TRIGGERS)
            dest = design[trigger].get(flow.state)
            if dest is None:
                with pytest.raises(IllegalTransitionError) as caught:
                    fire(flow, trigger)
                assert (caught.value.flow_id, caught.value.state) == (flow.id, flow.state)
            else:
                fire(flow, trigger)
                assert flow.state is dest
                fired += 1
            if flow.state is State.AUTHORIZED:
                assert flow.handover is Handover.READY
                flow.state, flow.handover = State.INIT, Handover.NONE
        return fired

    with ThreadPoolExecutor(threads) as pool:
        assert min(pool.map(drive, range(threads))) > 100


def test_a_level_silences_the_records_of_transitions(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    flow = Light()
    fire(flow, ISSUE_CODE)
    assert {record.name for record in caplog.records} == {"transitions.core"}
    caplog.clear()

    caplog.set_level(logging.WARNING, "transitions")
    fire(flow, POLL)

    assert flow.state is State.POLLING
    assert caplog.records == []
