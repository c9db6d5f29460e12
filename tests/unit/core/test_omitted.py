"""Runs of events that a summarized trail leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from deviceflow.core.actions import ACTIONS, OMISSIBLE
from deviceflow.core.omitted import Omitted, is_omissible, with_event
from deviceflow.core.states import State

TIME = "2026-01-31T12:00:00.000+00:00"
RUN: Any = {"after": "a" * 64, "events": 3, "polls": 2, "since": TIME, "until": TIME}


def run_of(*actions: str) -> Omitted:
    run = None
    for number, action in enumerate(actions):
        run = with_event(run, {"action": action, "time": f"t{number}"}, f"hash {number}")
    assert run is not None
    return run


def test_run_counts_its_events() -> None:
    assert run_of("poll", "pending", "poll") == Omitted("hash 0", 3, 2, "t0", "t2")
    assert run_of("pending") == Omitted("hash 0", 1, 0, "t0", "t0")
    assert run_of("poll", "pending", "poll").answers == 1


@pytest.mark.parametrize(
    ("actions", "begins", "ends"),
    [
        (["poll"], State.AWAITING_USER, State.POLLING),
        (["poll", "pending"], State.AWAITING_USER, State.AWAITING_USER),
        (["pending"], State.POLLING, State.AWAITING_USER),
        (["pending", "poll"], State.POLLING, State.POLLING),
    ],
)
def test_run_leads_where_its_events_do(actions: list[str], begins: State, ends: State) -> None:
    run = run_of(*actions)

    assert run.leads_from(begins) == ends
    assert run._replace(polls=run.polls + 7).leads_from(begins) is None
    assert run.leads_from("authorized") is None
    assert run.leads_from(None) is None


def test_run_comes_back_from_json() -> None:
    assert Omitted.of(None) is None
    assert Omitted.of(RUN) == Omitted(**RUN)
    assert list(RUN) == sorted(RUN), "the canonical form has the fields in this order"


def test_run_that_nobody_counted_says_so_and_others_do_not() -> None:
    unknown = dict(sorted({**RUN, "counted": False}.items()))

    assert Omitted.of(unknown) == Omitted(**RUN)._replace(counted=False)
    assert Omitted(**RUN)._replace(counted=False).as_fields() == unknown
    assert list(Omitted(**RUN)._replace(counted=False).as_fields()) == sorted(unknown)
    assert Omitted(**RUN).as_fields() == RUN


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        "x",
        {},
        dict(reversed(RUN.items())),
        RUN | {"more": 1},
        RUN | {"events": "3"},
        RUN | {"polls": True},
        RUN | {"after": None},
        RUN | {"events": 0},
        RUN | {"polls": 4},
        RUN | {"polls": -1},
        RUN | {"events": 2**53},
        dict(sorted({**RUN, "counted": True}.items())),
        dict(sorted({**RUN, "counted": 0}.items())),
    ],
)
def test_what_is_no_run_is_refused(wrong: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Omitted.of(wrong)


def test_only_polls_and_their_pending_answers_are_left_out() -> None:
    assert OMISSIBLE == ("poll", "pending")
    events = [{"action": name, "clock_ahead": None} for name in ACTIONS]
    assert [event["action"] for event in events if is_omissible(event)] == [*OMISSIBLE]
    assert not is_omissible({"action": "poll", "clock_ahead": 2.0})
