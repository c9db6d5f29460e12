"""What used a grant lately: how often that is noted, and for how many tasks."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from deviceflow.core.ports import Origin
from deviceflow.core.uses import (
    MOST_USES,
    NOTED_EACH,
    TASK_NOTED_EACH,
    Use,
    noted,
    of_json,
    to_json,
)

NOW = 1_800_000_000.0
TASKS = st.sampled_from([f"task {number}" for number in range(MOST_USES + 4)])
CALLS = st.lists(st.tuples(TASKS, st.floats(0, 30)), max_size=300)


@given(CALLS)
@example([(f"task {number}", 1.0) for number in range(MOST_USES + 1)])
def test_writes_are_one_a_minute_and_a_few_an_hour_more(calls: list[tuple[str, float]]) -> None:
    uses: tuple[Use, ...] = ()
    writes, now, last = list[float](), NOW, {}
    for task, passed in calls:
        now += passed
        used_at = writes[-1] if writes else None
        changed = noted(uses, used_at, Origin(engine="celery", task=task), now)
        if changed is not None:
            uses, last[task] = changed, now
            writes.append(now)
        assert used_at is None or now - writes[-1] < NOTED_EACH
        if task in last and len(last) <= MOST_USES:
            assert now - last[task] < TASK_NOTED_EACH
    assert len(uses) == min(len(last), MOST_USES)
    assert [use.at for use in uses] == sorted((use.at for use in uses), reverse=True)
    hours = (now - NOW) / TASK_NOTED_EACH + 1
    assert len(writes) <= (now - NOW) / NOTED_EACH + 1 + MOST_USES * hours


def test_a_task_that_always_runs_just_after_another_is_noted() -> None:
    night = Use(NOW - 86400, engine="cron", task="second")
    first = noted((night,), NOW - 86400, Origin(engine="cron", task="first"), NOW)
    assert first is not None

    second = noted(first, NOW, Origin(engine="cron", task="second", task_id="7"), NOW + 5)

    assert second is not None
    assert [(use.task, use.task_id, use.at) for use in second] == [
        ("second", "7", NOW + 5),
        ("first", None, NOW),
    ]


def test_a_clock_that_was_set_back_does_not_end_the_notes() -> None:
    assert noted((Use(NOW + 500),), NOW + 500, Origin(), NOW) is not None


@given(st.recursive(st.none() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=20))
def test_junk_is_no_use(junk: object) -> None:
    for use in of_json([junk, [1.0, "a", None, None, "b", None]]):
        assert of_json(json.loads(json.dumps(to_json((use,))))) == (use,)


def test_a_use_at_no_time_is_no_use() -> None:
    for at in (-1, 2**53, "1", None, True, float("nan")):
        assert of_json([[at, None, None, None, None, None, None][: len(Use._fields)]]) == ()
