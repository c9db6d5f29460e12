"""Events for collectors: what ECS publishes, lines that parse, cells that compute nothing."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow.audit.events import FIELDS, SCHEMA, render, render_store_event
from deviceflow.audit.formats import CSV, ECS, JSONLines, ecs
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.audit.reading import readable
from deviceflow.core.actions import ACTIONS, STORE_EVENTS, Action
from deviceflow.core.flow import Flow, Transition
from deviceflow.core.ports import Origin
from deviceflow.core.states import State
from deviceflow.core.text import trusted
from deviceflow.providers.studio import Studio

if TYPE_CHECKING:
    from pathlib import Path

# From generated/ecs/ecs_flat.yml of https://github.com/elastic/ecs (9.5.0-dev, 2026-05): names and
# types, and what event.* may be.
PUBLISHED: Final[dict[str, type | tuple[type, ...]]] = {
    "@timestamp": str,  # date
    "event.action": str,  # keyword
    "event.category": list,
    "event.dataset": str,
    "event.duration": int,  # long, nanoseconds
    "event.hash": str,
    "event.id": str,
    "event.kind": str,
    "event.module": str,
    "event.outcome": str,
    "event.reason": str,
    "event.sequence": int,  # long
    "event.type": list,
    "host.name": str,
    "http.response.status_code": int,  # long
    "ecs.version": str,
    "log.level": str,
    "log.logger": str,
    "message": str,  # match_only_text
    "process.pid": int,  # long
    "related.user": list,
    "source.address": str,
    "source.ip": str,  # ip
    "url.domain": str,
    "url.full": str,  # wildcard
    "user.name": str,
}
ALLOWED: Final = {
    "event.kind": {"alert", "asset", "enrichment", "event", "metric", "state", "signal"},
    "event.outcome": {"failure", "success", "unknown"},
}
TYPES_IN_CATEGORY: Final = {
    "authentication": {"start", "end", "info"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
}
EVERYTHING: Final = Origin(
    "w1.7.3", "build-17", 7, "celery", "report", "task-1", "alice", "192.0.2.7"
)


def event_of(action: str, **fields: Any) -> dict[str, Any]:
    studio = Studio("https://studio.example.com").with_request(
        client_name="nightly", scopes=["MODELS"]
    )
    flow = Flow("f1", studio, 1_800_000_000.0)
    happened = Transition(
        3,
        1_800_000_001.5,
        ACTIONS[action],
        State.AWAITING_USER,
        State.POLLING,
        200,
        0.25,
        5.0,
        trusted("said"),
    )
    evidence = {"prev_hash": "0" * 64, "hash": "a" * 64, "mac": "b" * 64, "key_id": "c72a3b19"}
    return render(flow, happened, EVERYTHING) | evidence | fields


OF_LOGINS: Final = [action for action in ACTIONS.values() if action not in STORE_EVENTS]


@pytest.mark.parametrize("action", ACTIONS.values(), ids=str)
def test_every_field_is_one_that_ecs_publishes_or_our_own(action: Action) -> None:
    event = (
        render_store_event(action, 1e9, 1, "why", EVERYTHING)
        if action in STORE_EVENTS
        else event_of(action)
    )

    said = ecs(event)

    for name, value in said.items():
        if not name.startswith("deviceflow."):
            assert isinstance(value, PUBLISHED[name]), name
        assert value is not None
    for name, allowed in ALLOWED.items():
        assert said[name] in allowed
    (category,), (kind,) = said["event.category"], said["event.type"]
    assert kind in TYPES_IN_CATEGORY[category]


def test_an_event_of_all_fields_uses_all_that_are_mapped() -> None:
    said = ecs(event_of("fail", reason="rejected"))

    assert {name for name in said if not name.startswith("deviceflow.")} == set(PUBLISHED)
    assert said["event.duration"] == 250_000_000
    assert said["url.domain"] == "studio.example.com"


@pytest.mark.parametrize("seconds", [1e308, 9.3e9, -1.0])
def test_a_duration_that_ecs_has_no_place_for_stays_in_our_own_field(seconds: float) -> None:
    said = ecs(event_of("poll") | {"duration": seconds})

    assert "event.duration" not in said
    assert said["deviceflow.duration"] == seconds


@pytest.mark.parametrize("action", OF_LOGINS)
def test_nothing_is_lost_in_ecs(action: str) -> None:
    event = event_of(action)
    names = {"time": "@timestamp", "event_id": "event.id", "seq": "event.sequence"}
    names |= {"issuer": "url.full", "http_status": "http.response.status_code"}
    names |= {"host": "host.name", "pid": "process.pid", "actor": "user.name"}
    names |= {"address": "source.address"}
    names |= {name: f"event.{name}" for name in ("action", "reason", "hash")}

    said = ecs(event)

    back = {name: said.get(names.get(name, f"deviceflow.{name}")) for name in FIELDS}
    assert back == event


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        ("issue_code", "unknown"),
        ("retry", "unknown"),
        ("issue_token", "success"),
        ("late_token", "success"),
        ("deny", "failure"),
        ("expire", "failure"),
        ("fail", "failure"),
        ("cancel", "failure"),
        ("collect", "unknown"),
    ],
)
def test_only_an_end_says_whether_a_login_succeeded(action: str, outcome: str) -> None:
    assert ecs(event_of(action))["event.outcome"] == outcome


@pytest.mark.parametrize("issuer", [None, "", "http://[::1", "no address", "\ud800"])
def test_an_issuer_that_is_no_address_has_no_domain(issuer: str | None) -> None:
    assert "url.domain" not in ecs(event_of("poll", issuer=issuer))


def test_a_line_of_ecs_begins_as_the_logging_spec_wants_it() -> None:
    line = ECS().line(event_of("poll"))

    said = json.loads(line)
    assert list(said)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    assert said["event"]["sequence"] == 3
    assert said["deviceflow"]["flow_id"] == "f1"
    assert line.isascii()
    assert "\n" not in line


def test_a_line_of_json_is_what_a_trail_in_a_file_has(tmp_path: Path) -> None:
    event = event_of("poll", detail="naïve “détail” \u2028")
    file = tmp_path / "trail.jsonl"
    JSONLinesAudit(file, fsync=False).write(event, Flow("f1", Studio("https://x.example"), 0.0))

    line = JSONLines().line(event)

    assert json.loads(line) == json.loads(file.read_text())
    assert list(json.loads(line)) == list(FIELDS)
    assert line.isascii()


FORMULAS: Final = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "  =1",
    "\u200b=1",
    "\uff1d1",
    '=HYPERLINK("http://x.example","y")',
    "=cmd|' /C calc'!A0",
)


def test_no_cell_is_a_formula_where_a_semicolon_parts_them() -> None:
    assert cells(event_of("poll", detail="x; =1+1;y"))["detail"] == "x;' =1+1;y"


def cells(event: dict[str, Any]) -> dict[str, str]:
    (row,) = csv.reader([CSV().line(event)], strict=True)
    return dict(zip(CSV.header.split(","), row, strict=True))


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_is_a_formula(formula: str) -> None:
    row = cells(event_of("poll", detail=formula, client_name=formula, scopes=[formula, "x"]))

    for name in ("detail", "client_name", "scopes"):
        assert row[name].startswith("'")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_text_is_the_row_is_one_line_with_its_cells(text: str) -> None:
    line = CSV().line(event_of("poll", detail=text, scopes=[text]))

    assert len(line.splitlines()) == 1
    row = cells(event_of("poll", detail=text))
    assert row["detail"].lstrip()[:1] not in ("=", "+", "-", "@")
    assert row["seq"] == "3"


def test_a_row_has_what_the_event_has() -> None:
    row = cells(event_of("poll", detail='a "quoted", word', granted_scopes=["a", "b"]))

    assert row["schema"] == SCHEMA
    assert row["detail"] == 'a "quoted", word'
    assert row["granted_scopes"] == "a b"
    assert row["interval"] == "5.0"
    assert row["task_id"] == "task-1"
    assert row["reason"] == ""


def test_an_event_of_a_damaged_row_can_still_be_written() -> None:
    damaged = dict.fromkeys(FIELDS, b"\xff") | {"scopes": "{[", "seq": float("inf")}

    event = readable(damaged)

    assert json.loads(ECS().line(event))["event"]["action"] == "\ufffd"
    assert json.loads(JSONLines().line(event))["seq"] is None
    assert cells(event)["scopes"] == "{["
