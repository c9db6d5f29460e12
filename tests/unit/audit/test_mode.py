"""Which events a trail stores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from deviceflow import Secret, Studio
from deviceflow.audit.chain import AuditKey
from deviceflow.audit.events import render
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.audit.mode import VARIABLE, TrailMode, is_summarized
from deviceflow.core.flow import Flow
from deviceflow.errors import UsageError
from deviceflow.logs import flatten
from deviceflow.testing import answer
from deviceflow.trail.jsonl_file import read_lines
from deviceflow.trail.verify import Verification

if TYPE_CHECKING:
    from pathlib import Path

KEY = Secret("an audit key")
CODE = answer(
    200,
    {
        "device_code": "d" * 40,
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://studio.example.com/device",
        "token_uri": "https://studio.example.com/token",
        "token_name": "robot",
        "expires_in": 900,
    },
)


@pytest.mark.parametrize(
    ("said", "environment", "summarized"),
    [
        (None, "each", False),
        (None, "summary", True),
        ("each", "summary", False),
        ("summary", "each", True),
    ],
)
def test_program_decides_and_else_the_environment(
    monkeypatch: pytest.MonkeyPatch, said: Any, environment: str | None, summarized: bool
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if environment is not None:
        monkeypatch.setenv(VARIABLE, environment)

    assert is_summarized(said, "each") is summarized
    assert is_summarized(said, "summary") is summarized


@pytest.mark.parametrize("environment", [None, ""])
def test_nobody_decides(monkeypatch: pytest.MonkeyPatch, environment: str | None) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if environment is not None:
        monkeypatch.setenv(VARIABLE, environment)

    assert not is_summarized(None, "each")
    assert is_summarized(None, "summary")


def test_unknown_mode_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "some")

    with pytest.raises(UsageError, match="no mode 'some'"):
        is_summarized(None, "each")


def written(path: Path, mode: TrailMode) -> tuple[list[dict[str, Any]], list[str]]:
    """Write a login of three pending polls to a file, and return its events and the findings."""
    audit = JSONLinesAudit(path, key=KEY, fsync=False, trail=mode)
    flow = Flow("f1", Studio("https://studio.example.com"), 1e9)
    audit.write(render(flow, flow.receive(CODE, 1e9)), flow)
    for number in range(3):
        now = 1e9 + 10 * (number + 1)
        audit.write(render(flow, flow.poll(now, 1.0)), flow)
        audit.write(
            render(flow, flow.receive(answer(400, {"error": "authorization_pending"}), now)), flow
        )
    audit.write(render(flow, flow.cancel(2e9)), flow)
    return [json.loads(line) for line in path.read_text().splitlines()], findings_in(path)


def findings_in(*paths: Path) -> list[str]:
    with read_lines([*map(str, paths)]) as lines:
        found = Verification(lines.events, None, AuditKey(KEY)).findings()
        return [*lines.problems, *(finding.kind for finding in found)]


def test_file_leaves_pending_polls_out_and_is_whole(tmp_path: Path) -> None:
    each, nothing = written(tmp_path / "each.jsonl", "each")
    events, none = written(tmp_path / "summary.jsonl", "summary")

    assert nothing == none == []
    actions = ["issue_code", *(3 * ["poll", "pending"]), "cancel"]
    assert [event["action"] for event in each] == actions
    assert [event["seq"] for event in events] == [1, 8]
    assert events[-1]["omitted"] == {
        "after": events[0]["hash"],
        "events": 6,
        "polls": 3,
        "since": each[1]["time"],
        "until": each[6]["time"],
    }


def logged(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Write all events of a summarized chain to a file: what its log has."""
    path = tmp_path / "log.jsonl"
    audit = JSONLinesAudit(path, key=KEY, fsync=False, trail="summary")
    flow = Flow("f1", Studio("https://studio.example.com"), 1e9)
    events = []

    def log(event: dict[str, Any]) -> None:
        audit.link(event, flow)
        events.append(event)

    log(render(flow, flow.receive(CODE, 1e9)))
    for number in range(3):
        now = 1e9 + 10 * (number + 1)
        log(render(flow, flow.poll(now, 1.0)))
        log(render(flow, flow.receive(answer(400, {"error": "authorization_pending"}), now)))
    log(render(flow, flow.cancel(2e9)))
    return path, events


def put(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_log_with_all_events_is_checked_against_what_the_trail_says_of_them(
    tmp_path: Path,
) -> None:
    path, events = logged(tmp_path)

    assert findings_in(put(path, events)) == []
    # Without the events that the trail leaves out, it is what is stored.
    assert findings_in(put(path, [events[0], events[-1]])) == []
    assert findings_in(put(path, events[:3] + events[4:])) == ["removed"]
    assert findings_in(put(path, [events[0], *events[2:]])) == ["removed"]
    assert findings_in(put(path, [*events[:6], events[-1]])) == ["removed"]


def test_log_whose_events_are_not_those_that_were_left_out_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    audit = JSONLinesAudit(path, key=KEY, fsync=False)
    flow = Flow("f1", Studio("https://studio.example.com"), 1e9)
    audit.write(render(flow, flow.receive(CODE, 1e9)), flow)
    head = flow.head
    audit.write(render(flow, flow.poll(1e9 + 10, 1.0)), flow)
    time = "2001-09-09T01:46:50.000+00:00"
    event = render(flow, flow.cancel(2e9))
    event["omitted"] = {"after": head, "events": 1, "polls": 1, "since": time, "until": time}
    wrong = event | {"omitted": event["omitted"] | {"polls": 0}}
    for told, found in ((event, []), (wrong, ["illegal_transition"])):
        lines = path.read_text()
        kept = flow.head
        audit.write(told, flow)
        assert findings_in(path) == found
        path.write_text(lines)
        flow.head = kept


def test_run_is_flat_where_fields_are_flattened(tmp_path: Path) -> None:
    _, events = logged(tmp_path)

    flat: Any = flatten(None, "info", dict(events[-1]))
    assert json.loads(flat["omitted"]) == events[-1]["omitted"]
