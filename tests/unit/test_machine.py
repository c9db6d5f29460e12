"""The table, and what we rely on of `transitions`."""

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

from deviceflow.core.machine import _MACHINE, ENDS, TABLE, TRIGGERS, Reason, State, fire
from deviceflow.errors import IllegalTransitionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deviceflow.core.machine import Trigger


@dataclass(slots=True, weakref_slot=True)
class Light:
    """All that the machine needs of a flow, and nothing more."""

    id: str = "f1"
    state: State = State.INIT
    reason: Reason | None = None


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


def test_table_is_the_design(design: Mapping[Trigger, Mapping[State, State]]) -> None:
    table: dict[str, dict[State, State]] = {}
    for row in TABLE:
        table.setdefault(row.trigger, {}).update(dict.fromkeys(row.sources, row.dest))

    assert table == design
    assert list(table) == list(TRIGGERS)


def test_each_legal_trigger_leads_where_the_design_says(
    design: Mapping[Trigger, Mapping[State, State]],
) -> None:
    for trigger, leads in design.items():
        for source, dest in leads.items():
            flow = Light(state=source)
            fire(flow, trigger)
            assert flow.state is dest, (trigger, source)


def test_each_row_says_what_it_means() -> None:
    assert all(row.meaning for row in TABLE)


def test_illegal_trigger_is_our_error_and_names_flow_state_and_trigger() -> None:
    flow = Light("f7", State.EXPIRED)

    with pytest.raises(IllegalTransitionError) as caught:
        fire(flow, "poll")

    error = caught.value
    assert (error.flow_id, error.state, error.trigger) == ("f7", "expired", "poll")
    assert isinstance(error, UsageError)
    assert str(error).startswith("A flow that is expired cannot poll. Look at")
    # Nothing of `transitions` hangs on it.
    assert error.__cause__ is None
    assert error.__context__ is None


def test_illegal_trigger_leaves_the_flow_as_it_was() -> None:
    flow = Light("f7", State.FAILED, Reason.REJECTED)

    with pytest.raises(IllegalTransitionError) as caught:
        fire(flow, "slow_down")

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
            fire(flow, "late_grant")
        assert flow == Light(state=state, reason=reason)
    else:
        fire(flow, "late_grant")
        assert flow.state is State.AUTHORIZED


def test_machine_drives_objects_that_it_was_never_shown() -> None:
    flow = Light()

    fire(flow, "issue_code")
    fire(flow, "poll")

    assert flow.state is State.POLLING
    assert _MACHINE.models == []


def test_machine_forgets_a_flow_that_is_gone() -> None:
    flows = [Light(str(number)) for number in range(100)]
    watched = [weakref.ref(flow) for flow in flows]
    for flow in flows:
        fire(flow, "issue_code")

    del flow
    flows.clear()
    gc.collect()

    assert [ref() for ref in watched if ref() is not None] == []


def test_machine_keeps_nothing_of_flows_that_live() -> None:
    flows = [Light(str(number)) for number in range(2000)]
    fire(Light(), "issue_code")
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for flow in flows:
            fire(flow, "issue_code")
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
    design: Mapping[Trigger, Mapping[State, State]],
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
            trigger = rng.choice(TRIGGERS)
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
                flow.state = State.INIT
        return fired

    with ThreadPoolExecutor(threads) as pool:
        assert min(pool.map(drive, range(threads))) > 100


def test_transitions_own_logging_stays_quiet_at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    flow = Light()

    for trigger in ("issue_code", "poll", "pending", "poll", "grant"):
        fire(flow, trigger)

    assert flow.state is State.AUTHORIZED
    assert caplog.records == []
