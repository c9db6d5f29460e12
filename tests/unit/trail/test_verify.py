"""Verification: what was done to a trail is found, and called by its name.

Here each kind by an example; `tests.evidence` does them by the thousand.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Secret, Studio
from deviceflow.audit.chain import (
    DAMAGED,
    HASHED,
    START,
    STORED,
    AuditKey,
    canonical,
    encode,
    hash_of,
    link,
)
from deviceflow.audit.events import STORE, render, render_store_event
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.codec import open_part
from deviceflow.core.flow import Flow
from deviceflow.core.ports import StoredFlow
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.errors import StoreError
from deviceflow.testing import answer
from deviceflow.trail.digest import DigestId, Entry, Signer, files_of
from deviceflow.trail.ledger import Finding
from deviceflow.trail.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from deviceflow.core.flow import Transition

    Row = dict[str, Any]
    Rows = list[Row]

NOW: Final = 1_800_000_000.0
KEY: Final = AuditKey(Secret("an audit key"))
DIGEST: Final = "ab" * 32
TIME: Final = "2027-01-15T09:00:00.000+00:00"
STUDIO: Final = Studio("https://studio.example.com")
CODE: Final = answer(
    200,
    {
        "device_code": "d" * 30,
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://studio.example.com/login",
        "token_uri": "https://studio.example.com/token",
        "token_name": "robot",
    },
)
PENDING: Final = answer(400, {"detail": "authorization_pending"})
GRANTED: Final = answer(200, {"access_token": "t" * 30})
DENIED: Final = answer(400, {"detail": "access_denied"})


class Trail:
    """Three logins and a store's own chain, to be spoilt.

    Attributes:
        events: The events of each flow, as a database has them.
        flows: Each flow's number of the last event, state and record.
    """

    def __init__(self, key: AuditKey | None = KEY) -> None:
        self.key = key
        self.events: dict[str, Rows] = {}
        self.flows: dict[str, tuple[int, str, dict[str, Any]]] = {}
        self._login("granted", PENDING, GRANTED)
        self._login("denied", PENDING, DENIED)
        self._login("waiting", PENDING)
        for seq in (1, 2, 3):
            before = self.events[STORE][-1]["hash"] if seq > 1 else None
            event = render_store_event(PLAIN_HTTP, NOW + seq, seq, "somewhere")
            link(event, before, key)
            self.events.setdefault(STORE, []).append(event)

    def _login(self, flow_id: str, *said: Any) -> None:
        flow = Flow(flow_id, STUDIO, NOW)
        self.add(flow, flow.receive(CODE, NOW))
        for result in said:
            self.add(flow, flow.poll(flow.due_at, 10.0))
            self.add(flow, flow.receive(result, flow.due_at))

    def add(self, flow: Flow, transition: Transition) -> None:
        event = render(flow, transition)
        event["row_digest"] = DIGEST
        link(event, flow.head, self.key, flow)
        flow.head = event["hash"]
        self.events.setdefault(flow.id, []).append(event)
        self.flows[flow.id] = (flow.seq, flow.state.value, open_part(flow))

    def relink(self, flow_id: str, first: int = 1, key: AuditKey | None = None) -> None:
        """Make the hashes anew from an event on, as somebody does who has the key or has not."""
        rows = self.events[flow_id]
        before = rows[first - 2]["hash"] if first > 1 else START
        for row in rows[first - 1 :]:
            row["prev_hash"] = before
            before = row["hash"] = hash_of(row)
            if key is not None:
                row["mac"] = key.mac(before)

    def adjust(self, flow_id: str) -> None:
        """Make a flow's record fit its last event."""
        last = self.events[flow_id][-1]
        record = self.flows[flow_id][2] | {name: last[name] for name in ("reason", "attempt")}
        record |= {"seq": last["seq"], "state": last["to"], "head": last["hash"]}
        self.flows[flow_id] = (last["seq"], last["to"], record)

    def verification(
        self, *, digests: Path | None = None, key: AuditKey | None = KEY, **how: Any
    ) -> Verification:
        rows = [row for rows in self.events.values() for row in rows]
        order = {name: index for index, name in enumerate(sorted(map(str, self.events)))}
        rows.sort(key=lambda row: (order.get(row["flow_id"], 99), _sortable(row["seq"])))
        flows = [
            StoredFlow(
                flow_id, seq, state, json.dumps(record), record["head"], DIGEST, authentic=True
            )
            for flow_id, (seq, state, record) in sorted(self.flows.items())
        ]
        events = [*map(_stored, rows)]
        return Verification(events, flows, key, digests=digests, **how)

    def found(self, **how: Any) -> list[tuple[str, str | None, int | None]]:
        return [finding[:3] for finding in self.verification(**how).findings()]


def _stored(row: Row) -> tuple[Any, ...]:
    """Return an event as a trail stores it, with columns of its own if it has some."""
    try:
        text = canonical(row).decode()
    except DAMAGED:
        text = json.dumps({name: row[name] for name in HASHED}, default=str, separators=(",", ":"))
    columns = {**row, "text": text, **row.get("columns", {})}
    return tuple(columns[name] for name in STORED)


def _sortable(seq: Any) -> tuple[bool, Any]:
    return not isinstance(seq, int), seq


@pytest.fixture
def trail() -> Trail:
    return Trail()


@pytest.fixture
def signer() -> Signer:
    return Signer(Secret(generate_signing_key()))


def sign(trail: Trail, signer: Signer, directory: Path) -> None:
    lasts = [rows[-1] for rows in trail.events.values()]
    entries = [Entry(e["flow_id"], e["seq"], e["hash"]) for e in lasts]
    signer.write(directory, TIME, entries, begin=not files_of(directory))


def last_of(trail: Trail) -> tuple[int, str]:
    last = trail.events["denied"][-1]
    return last["seq"], last["hash"]


# Nothing is wrong.


def test_untouched_trail_is_clean(trail: Trail, signer: Signer, tmp_path: Path) -> None:
    sign(trail, signer, tmp_path)
    seen: list[int] = []
    verification = trail.verification(digests=tmp_path)

    assert list(verification.findings(seen.append)) == []
    assert (verification.events, verification.flows, verification.digests) == (16, 4, 1)
    assert (verification.covered_until, verification.signed_by) == (TIME, signer.public_key)
    assert seen[-1] == 16
    assert trail.found(key=None) == []


def test_nothing_at_all_is_clean() -> None:
    verification = Verification([], [], KEY)

    assert list(verification.findings()) == []
    assert (verification.covered_until, verification.signed_by) == (None, None)


def test_flow_that_came_from_elsewhere_is_clean(trail: Trail) -> None:
    flow = Flow("brought", STUDIO, NOW)
    flow.receive(CODE, NOW)
    flow.poll(NOW, 10.0)
    trail.add(flow, flow.record_import(NOW))
    trail.add(flow, flow.cancel(NOW))

    assert trail.found() == []


def test_late_token_is_clean_where_it_may_be_taken(trail: Trail) -> None:
    token = STUDIO.read_token(GRANTED, NOW).token
    assert token is not None
    flow = Flow("late", STUDIO, NOW)
    trail.add(flow, flow.receive(CODE, NOW))
    trail.add(flow, flow.poll(NOW, 10.0))
    trail.add(flow, flow.receive(answer(400, {"detail": "expired_token"}), NOW))
    trail.add(flow, flow.late_token(token, 1, NOW))

    assert trail.found() == []


def test_time_may_go_back_a_little(trail: Trail) -> None:
    row, after = trail.events["waiting"][:2]
    after["time"] = row["time"].replace(":00.000", ":59.100").replace("T08:00", "T07:59")
    trail.relink("waiting", 2, KEY)
    trail.adjust("waiting")

    assert trail.found() == []


def test_ended_flow_that_the_store_has_dropped_is_clean(trail: Trail) -> None:
    del trail.flows["denied"]

    assert trail.found() == []


# Each manipulation.


@pytest.mark.parametrize("name", ["client_name", "event_id", "prev_hash", "hash", "mac", "key_id"])
@pytest.mark.parametrize("seq", [1, 3, 5])
def test_edited_field(trail: Trail, name: str, seq: int) -> None:
    trail.events["granted"][seq - 1][name] = "f" * 64

    assert trail.found() == [("edited", "granted", seq)]


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("name", ["flow_id", "seq", "time"])
def test_text_that_says_something_else_than_its_column(
    trail: Trail, name: str, key: AuditKey | None
) -> None:
    row = trail.events["granted"][2]
    other = row | {name: 9 if name == "seq" else "else"}
    row["columns"] = {"text": canonical(other).decode()}

    assert trail.found(key=key) == [("edited", "granted", 3)]


@pytest.mark.parametrize("seq", [3, 5])
@pytest.mark.parametrize("key", [KEY, None])
def test_column_that_says_something_else_than_its_text(
    trail: Trail, key: AuditKey | None, seq: int
) -> None:
    trail.events["granted"][seq - 1]["columns"] = {"time": "2027-01-15T08:00:00.001+00:00"}

    assert trail.found(key=key) == [("edited", "granted", seq)]


@pytest.mark.parametrize("seq", [1, 3, 5])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(":", ": ", 1),
        lambda text: text.replace('"pid":null', '"pid":null,"pid":null'),
        lambda text: text.replace('"pid":null', '"pid":null,"pie":null'),
        lambda text: text.replace('"interval":5', '"interval":5.0'),
        lambda text: text.replace("studio", "\\u0073tudio"),
        lambda text: encode(dict(reversed(json.loads(text).items()))).decode(),
    ],
)
def test_text_in_another_form_was_edited_even_by_whoever_has_the_key(
    trail: Trail, change: Callable[[str], str], seq: int
) -> None:
    rows = trail.events["granted"]
    text = change(canonical(rows[seq - 1]).decode())
    digest = hashlib.sha256(text.encode()).hexdigest()
    rows[seq - 1] |= {"columns": {"text": text}, "hash": digest, "mac": KEY.mac(digest)}
    trail.relink("granted", seq + 1, KEY)
    trail.adjust("granted")

    assert text != canonical(rows[seq - 1]).decode()
    assert trail.found() == [("edited", "granted", seq)]


def test_edited_event_whose_own_hash_was_made_anew(trail: Trail) -> None:
    row = trail.events["granted"][2]
    row["actor"] = "somebody else"
    row["hash"] = hash_of(row)

    assert trail.found() == [("edited", "granted", 3)]
    assert trail.found(key=None) == [("edited", "granted", 3)]


@pytest.mark.parametrize("seq", [1, 3])
def test_removed_event(trail: Trail, seq: int) -> None:
    del trail.events["granted"][seq - 1]

    assert trail.found() == [("removed", "granted", seq)]


def test_removed_events_are_told_by_one_finding(trail: Trail) -> None:
    del trail.events["granted"][1:4]
    (finding,) = trail.verification().findings()

    assert finding == Finding("removed", "granted", 2, "events 2 to 4 are missing")


def test_removed_event_behind_which_the_others_closed_up(trail: Trail) -> None:
    del trail.events["granted"][1]
    for row in trail.events["granted"][1:]:
        row["seq"] -= 1
        row["event_id"] = f"granted.{row['seq']}"

    assert trail.found() == [("removed", "granted", 2)]


def test_inserted_event_behind_the_last(trail: Trail) -> None:
    last = trail.events["waiting"][-1]
    place = {"seq": 4, "event_id": "waiting.4", "prev_hash": last["hash"]}
    trail.events["waiting"].append(last | place | {"action": "cancel", "to": "failed"})
    trail.relink("waiting", 4)

    assert trail.found() == [("inserted", "waiting", 4)]


def test_inserted_event_for_which_the_others_made_room(trail: Trail) -> None:
    rows = trail.events["granted"]
    for row in rows[2:]:
        row["seq"] += 1
    rows.insert(2, rows[1] | {"seq": 3, "event_id": "granted.3", "actor": "somebody else"})

    assert trail.found() == [("inserted", "granted", 3)]


def test_duplicated_event(trail: Trail) -> None:
    trail.events["waiting"].append(trail.events["waiting"][1] | {"seq": 4})

    assert trail.found() == [("duplicated", "waiting", 4)]


def test_reordered_events(trail: Trail) -> None:
    one, other = trail.events["granted"][1], trail.events["granted"][3]
    one["seq"], other["seq"] = other["seq"], one["seq"]

    found = trail.found()
    assert {kind for kind, *_ in found} == {"reordered"}
    assert {seq for *_, seq in found} == {2, 4}


def test_number_that_changes_no_order_was_edited(trail: Trail) -> None:
    trail.events["granted"][-1]["seq"] = 9

    assert trail.found() == [("edited", "granted", 9)]


@pytest.mark.parametrize("left", [1, 4])
def test_cut_tail(trail: Trail, left: int) -> None:
    del trail.events["granted"][left:]

    assert trail.found() == [("cut_tail", "granted", left + 1)]


def test_cut_tail_that_the_flow_was_made_to_fit(
    trail: Trail, signer: Signer, tmp_path: Path
) -> None:
    sign(trail, signer, tmp_path)
    del trail.events["granted"][3:]
    trail.adjust("granted")

    assert trail.found() == []
    assert trail.found(digests=tmp_path) == [("cut_tail", "granted", 4)]
    assert trail.found(digests=tmp_path, key=None) == [("cut_tail", "granted", 4)]


def test_removed_flow(trail: Trail, signer: Signer, tmp_path: Path) -> None:
    sign(trail, signer, tmp_path)
    del trail.events["granted"]

    assert trail.found() == [("removed_flow", "granted", 1)]
    del trail.flows["granted"]
    assert trail.found() == []
    assert trail.found(digests=tmp_path) == [("removed_flow", "granted", 1)]


def test_cut_tail_of_the_stores_own_chain(trail: Trail, signer: Signer, tmp_path: Path) -> None:
    sign(trail, signer, tmp_path)
    del trail.events[STORE][-1]

    assert trail.found(digests=tmp_path) == [("cut_tail", STORE, 3)]


@pytest.mark.parametrize("seq", [1, 3, 5])
def test_moved_event_is_not_missed_where_it_was(trail: Trail, seq: int) -> None:
    row = trail.events["granted"].pop(seq - 1)
    trail.events["denied"].append(row | {"flow_id": "denied", "seq": 6})

    assert trail.found() == [("moved", "denied", 6)]


def test_moved_flow(trail: Trail) -> None:
    rows = trail.events.pop("granted")
    trail.events["elsewhere"] = [row | {"flow_id": "elsewhere"} for row in rows]

    assert trail.found() == [("moved", "elsewhere", seq) for seq in range(1, 6)]


def test_event_that_is_in_two_flows_was_duplicated(trail: Trail) -> None:
    row = trail.events["granted"][1]
    trail.events["denied"].append(row | {"flow_id": "denied", "seq": 6})

    assert trail.found() == [("duplicated", "denied", 6)]


@pytest.mark.parametrize("first", [1, 3, 5])
def test_replaced_chain_without_the_key(
    trail: Trail, signer: Signer, tmp_path: Path, first: int
) -> None:
    sign(trail, signer, tmp_path)
    trail.events["granted"][first - 1]["actor"] = "somebody else"
    trail.relink("granted", first)

    assert trail.found() == [("replaced_chain", "granted", first)]
    trail.adjust("granted")
    assert trail.found(digests=tmp_path) == [("replaced_chain", "granted", first)]
    assert trail.found(digests=tmp_path, key=None) == [("replaced_chain", "granted", 5)]


def test_chain_under_another_key_names_it(trail: Trail) -> None:
    other = AuditKey(Secret("another"))
    trail.events["granted"] = Trail(other).events["granted"]
    (finding,) = trail.verification().findings()

    assert finding[:3] == ("replaced_chain", "granted", 1)
    assert f"their key_id is {other.name}, not {KEY.name}" in finding.message


def test_replaced_chain_with_the_key(trail: Trail, signer: Signer, tmp_path: Path) -> None:
    sign(trail, signer, tmp_path)
    trail.events["granted"][1]["actor"] = "somebody else"
    trail.relink("granted", 2, KEY)
    trail.adjust("granted")

    assert trail.found() == []
    assert trail.found(digests=tmp_path) == [("replaced_chain", "granted", 5)]


def test_replaced_chain_with_the_key_and_an_empty_key_id(signer: Signer, tmp_path: Path) -> None:
    key = AuditKey(Secret("an audit key"), store="this one")
    trail = Trail(key)
    sign(trail, signer, tmp_path)
    rows = trail.events["granted"]
    rows[1]["key_id"] = ""
    trail.relink("granted", 2, key)
    rows[1]["mac"] = key.mac(rows[1]["hash"], "")
    trail.adjust("granted")

    assert trail.found(digests=tmp_path, key=key) == [("replaced_chain", "granted", 5)]


def lose_the_head(trail: Trail) -> None:
    trail.flows["granted"][2]["head"] = "f" * 64


def roll_back(trail: Trail) -> None:
    last = trail.events["granted"].pop()
    trail.adjust("granted")
    trail.events["granted"].append(last)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trail: trail.flows.update(granted=(5, "failed", trail.flows["granted"][2])),
        lambda trail: trail.flows.update(granted=(4, "authorized", trail.flows["granted"][2])),
        lambda trail: trail.flows.update(granted=(6, "authorized", trail.flows["granted"][2])),
        lambda trail: trail.flows["granted"][2].update(state="failed"),
        lambda trail: trail.flows["granted"][2].update(in_doubt=True),
        lambda trail: trail.flows["granted"][2].update(head=None),
        lose_the_head,
        roll_back,
    ],
)
def test_wrong_state(trail: Trail, spoil: Callable[[Trail], object]) -> None:
    spoil(trail)

    assert trail.found() == [("wrong_state", "granted", 5)]


def test_flow_under_way_that_is_gone(trail: Trail) -> None:
    del trail.flows["waiting"]

    assert trail.found() == [("wrong_state", "waiting", 3)]


def test_flow_that_is_gone_with_its_token(trail: Trail) -> None:
    del trail.flows["granted"]

    assert trail.found() == [("wrong_state", "granted", 5)]


@pytest.mark.parametrize("action", ["acknowledge", "purge"])
def test_flow_whose_token_was_wiped_may_be_gone(trail: Trail, action: str) -> None:
    flow = Flow("safe", STUDIO, NOW)
    trail.add(flow, flow.receive(CODE, NOW))
    trail.add(flow, flow.poll(NOW, 10.0))
    trail.add(flow, flow.receive(GRANTED, NOW))
    trail.add(flow, getattr(flow, action)(NOW))
    del trail.flows["safe"]

    assert trail.found() == []


def test_record_without_end_is_damage(trail: Trail) -> None:
    verification = trail.verification()
    verification._flows = [
        row._replace(record="[" * 100_000) if row.flow_id == "denied" else row
        for row in verification._flows or ()
    ]

    assert [finding[:2] for finding in verification.findings()] == [("wrong_state", "denied")]


def test_flow_under_another_name(trail: Trail) -> None:
    trail.flows["another"] = trail.flows.pop("denied")

    assert trail.found() == [("wrong_state", "another", None)]


@pytest.mark.parametrize(
    ("changes", "seq"),
    [
        ({2: {"action": "issue_token"}}, 2),
        ({1: {"from": "polling"}}, 1),
        ({1: {"action": "collect"}}, 1),
        ({3: {"to": "expired"}}, 3),
        ({3: {"action": "import", "from": "awaiting-user"}}, 3),
        ({5: {"action": "plain_http"}}, 5),
        ({5: {"to": None}}, 5),
    ],
)
def test_illegal_transition(trail: Trail, changes: Mapping[int, Row], seq: int) -> None:
    for at, change in changes.items():
        trail.events["granted"][at - 1] |= change
    trail.relink("granted", 1, KEY)
    trail.adjust("granted")

    assert ("illegal_transition", "granted", seq) in trail.found()
    assert {kind for kind, *_ in trail.found()} == {"illegal_transition"}


def test_late_token_after_somebody_said_no_is_illegal(trail: Trail) -> None:
    last = trail.events["denied"][-1]
    late = {"action": "late_token", "from": "failed", "to": "authorized", "reason": None}
    trail.events["denied"].append(last | late | {"seq": 6, "event_id": "denied.6"})
    trail.relink("denied", 6, KEY)
    trail.adjust("denied")

    assert trail.found() == [("illegal_transition", "denied", 6)]


def test_chain_that_begins_in_its_middle_is_illegal(trail: Trail) -> None:
    del trail.events["granted"][:2]
    trail.relink("granted", 1, KEY)
    trail.adjust("granted")

    assert ("illegal_transition", "granted", 3) in trail.found()


def test_stores_own_chain_holds_what_happens_to_a_store_only(trail: Trail) -> None:
    trail.events[STORE][1]["action"] = "issue_token"
    trail.relink(STORE, 1, KEY)

    assert trail.found() == [("illegal_transition", STORE, 2)]


@pytest.mark.parametrize("time", ["2027-01-15T07:59:00.000+00:00", "", "2027"])
def test_clock_that_went_backwards(trail: Trail, time: str) -> None:
    trail.events["granted"][2]["time"] = time
    trail.relink("granted", 1, KEY)
    trail.adjust("granted")

    assert trail.found() == [("clock_backwards", "granted", 3)]


@pytest.mark.parametrize("ahead", [30.0, 3600.0, 3e8])
def test_clock_that_was_wrong_is_a_note_where_the_event_says_so(trail: Trail, ahead: float) -> None:
    """The process that wrote event 2 was ahead; the next one found that, and recorded it."""
    events = trail.events["granted"]
    was = datetime.fromisoformat(events[1]["time"])
    events[1]["time"] = (was + timedelta(seconds=ahead)).isoformat(timespec="milliseconds")
    after = datetime.fromisoformat(events[2]["time"])
    said = (datetime.fromisoformat(events[1]["time"]) - after).total_seconds()
    events[2]["clock_ahead"] = said
    trail.relink("granted", 1, KEY)
    trail.adjust("granted")

    verification = trail.verification()
    assert list(verification.findings()) == []
    (note,) = verification.notes
    assert note[:3] == ("wrong_clock", "granted", 3)
    most = (was - datetime.fromisoformat(events[0]["time"])).total_seconds() + ahead
    assert f"at least {said:.0f} s and at most {most:.0f} s ahead" in note.message

    events[2]["clock_ahead"] = said + 2
    trail.relink("granted", 1, KEY)
    trail.adjust("granted")
    assert trail.found() == [("clock_backwards", "granted", 3)]


# Without the key.


def test_event_behind_the_last_is_told_by_the_flow_alone(trail: Trail) -> None:
    last = trail.events["waiting"][-1]
    place = {"seq": 4, "event_id": "waiting.4"}
    trail.events["waiting"].append(last | place | {"action": "poll", "to": "polling"})
    trail.relink("waiting", 4)

    assert trail.found(key=None) == [("inserted", "waiting", 4)]


# What no event can hold.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("detail", b"bytes"),
        ("scopes", "nothing"),
        ("time", b"bytes"),
        ("in_doubt", 2),
        ("action", None),
        ("pid", float("inf")),
        ("event_id", None),
        ("event_id", "granted." + "9" * 400),
        ("prev_hash", b"bytes"),
        ("hash", None),
        ("mac", b"bytes"),
    ],
)
@pytest.mark.parametrize("key", [KEY, None])
def test_value_of_another_type_was_edited(
    trail: Trail, name: str, value: Any, key: AuditKey | None
) -> None:
    trail.events["granted"][2][name] = value

    only_the_key_tells = name == "mac" and key is None
    found = [] if only_the_key_tells else [("edited", "granted", 3)]
    assert trail.found(key=key) == found


def test_number_that_is_none(trail: Trail) -> None:
    trail.events["granted"][4]["seq"] = "many"

    assert {kind for kind, *_ in trail.found()} == {"edited"}


def test_flow_id_that_is_none(trail: Trail) -> None:
    trail.events["granted"][4]["flow_id"] = b"bytes"

    assert {kind for kind, *_ in trail.found()} == {"moved"}


@pytest.mark.parametrize("record", ["", "[]", "null", "{", '{"seq":5}'])
def test_record_that_is_none(trail: Trail, record: str) -> None:
    verification = trail.verification()
    verification._flows = [
        row._replace(record=record) if row.flow_id == "granted" else row
        for row in verification._flows or ()
    ]

    assert [finding[:3] for finding in verification.findings()] == [("wrong_state", "granted", 5)]


@pytest.mark.parametrize("changed", [{"digest": "cd" * 32}, {"digest": None}, {"authentic": False}])
def test_row_that_is_not_as_its_last_event_says(trail: Trail, changed: dict[str, Any]) -> None:
    verification = trail.verification()
    verification._flows = [
        row._replace(**changed if row.flow_id == "granted" else {})
        for row in verification._flows or ()
    ]

    assert [finding[:3] for finding in verification.findings()] == [("edited_row", "granted", 5)]


@pytest.mark.parametrize(
    ("changed", "keyed", "found"),
    [
        ({}, True, False),
        ({}, False, False),
        ({"head": f"{KEY.name}:{KEY.mac(DIGEST)[:-1]}"}, True, True),
        ({"head": "made up"}, True, True),
        ({"head": "made up"}, False, False),
        ({"head": 5}, False, True),
        ({"digest": "cd" * 32}, True, True),
        ({"digest": None}, True, True),
        ({"authentic": False}, True, True),
    ],
)
def test_row_of_no_event_is_one_that_the_key_has_marked(
    trail: Trail, changed: dict[str, Any], keyed: bool, found: bool
) -> None:
    verification = trail.verification(key=KEY if keyed else None)
    new = StoredFlow("new", 0, "init", "{}", KEY.mark(DIGEST), DIGEST, authentic=True)
    rows = [*(verification._flows or ()), new._replace(**changed)]
    verification._flows = sorted(rows)

    findings = [finding[:3] for finding in verification.findings()]
    assert findings == ([("edited_row", "new", None)] if found else [])


def test_absurd_numbers_take_no_time(trail: Trail) -> None:
    trail.events["granted"][4]["seq"] = 2**62
    trail.flows["denied"] = (2**62, "failed", trail.flows["denied"][2] | {"seq": 2**62})

    assert trail.found() == [("wrong_state", "denied", 5), ("edited", "granted", 2**62)]


# Digests.


def test_missing_digests_are_told_by_one_finding(
    trail: Trail, signer: Signer, tmp_path: Path
) -> None:
    for _ in range(4):
        sign(trail, signer, tmp_path)
    for number in (1, 3):
        (tmp_path / f"digest-00000{number}.jsonl").unlink()
    sign(trail, signer, tmp_path)
    (tmp_path / "digest-000005.jsonl").rename(tmp_path / "digest-999999999999.jsonl")

    findings = list(trail.verification(digests=tmp_path).findings())
    assert [finding.message for finding in findings if finding.kind == "missing_digest"] == [
        "digest 1 is missing",
        "digest 3 is missing",
        "digests 5 to 999999999998 are missing",
    ]
    assert [finding.message for finding in findings if finding.kind == "forged_digest"] == [
        "digest-999999999999.jsonl: the file contains digest 5"
    ]


def test_no_digest_where_there_should_be_some_is_a_finding(tmp_path: Path) -> None:
    verification = Verification([], [], KEY, digests=tmp_path)

    assert [finding.kind for finding in verification.findings()] == ["missing_digest"]
    assert (verification.digests, verification.newest) == (0, None)


def test_last_digest_that_was_kept_must_be_there(
    trail: Trail, signer: Signer, tmp_path: Path
) -> None:
    for _ in range(3):
        sign(trail, signer, tmp_path)
    verification = trail.verification(digests=tmp_path)
    assert list(verification.findings()) == []
    last = verification.newest
    assert last is not None
    assert trail.found(digests=tmp_path, last=last) == []
    assert trail.found(digests=tmp_path, last=DigestId(2, "f" * 64)) == [
        ("forged_digest", None, None)
    ]

    (tmp_path / "digest-000003.jsonl").unlink()
    (finding,) = trail.verification(digests=tmp_path, last=last).findings()
    assert finding[:2] == ("missing_digest", None)
    assert finding.message == "digest 3 is missing"

    (tmp_path / "digest-000002.jsonl").unlink()
    (finding,) = trail.verification(digests=tmp_path, last=last).findings()
    assert finding.message == "digests 2 to 3 are missing"


def test_digest_of_another_key_is_forged(trail: Trail, signer: Signer, tmp_path: Path) -> None:
    sign(trail, signer, tmp_path)
    sign(trail, Signer(Secret(generate_signing_key())), tmp_path)

    assert trail.found(digests=tmp_path) == [("forged_digest", None, None)]
    other = Signer(Secret(generate_signing_key())).public_key
    found = trail.found(digests=tmp_path, public_key=other)
    assert found == 2 * [("forged_digest", None, None)]


def test_digest_that_does_not_follow_on_the_one_before_is_forged(
    trail: Trail, signer: Signer, tmp_path: Path
) -> None:
    sign(trail, signer, tmp_path)
    sign(trail, signer, tmp_path)
    (tmp_path / "digest-000001.jsonl").unlink()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    entries = [Entry("denied", *last_of(trail))]
    signer.write(elsewhere, "2026-11-25T12:00:00.000+00:00", entries, begin=True)
    (elsewhere / "digest-000001.jsonl").rename(tmp_path / "digest-000001.jsonl")

    assert trail.found(digests=tmp_path) == [("forged_digest", None, None)]


def test_first_digest_that_names_no_key_is_not_believed(
    trail: Trail, signer: Signer, tmp_path: Path
) -> None:
    sign(trail, signer, tmp_path)
    sign(trail, signer, tmp_path)
    path = tmp_path / "digest-000001.jsonl"
    path.write_text(path.read_text().replace(signer.public_key, "x" * 44))
    verification = trail.verification(digests=tmp_path)

    assert [finding.kind for finding in verification.findings()] == ["forged_digest"]
    assert verification.signed_by == signer.public_key


def test_public_key_that_is_none_is_an_error(trail: Trail, signer: Signer, tmp_path: Path) -> None:
    sign(trail, signer, tmp_path)

    with pytest.raises(StoreError, match="public key"):
        trail.found(digests=tmp_path, public_key="x")


def test_directory_that_cannot_be_read_is_an_error(trail: Trail, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        trail.found(digests=tmp_path / "gone")


def test_flow_that_was_dropped_on_purpose_is_clean(
    trail: Trail, signer: Signer, tmp_path: Path
) -> None:
    sign(trail, signer, tmp_path)
    signer.write(tmp_path, TIME, [Entry("denied", *last_of(trail), pruned=True)])
    del trail.flows["denied"]

    assert trail.found(digests=tmp_path) == []
    del trail.events["denied"]
    assert trail.found(digests=tmp_path) == []


def test_flow_that_is_dropped_meanwhile_is_clean(
    trail: Trail, signer: Signer, tmp_path: Path
) -> None:
    sign(trail, signer, tmp_path)
    last = last_of(trail)
    del trail.events["denied"], trail.flows["denied"]
    verification = trail.verification(digests=tmp_path)
    events = list(verification._events)

    def reading() -> Iterator[tuple[Any, ...]]:
        # The digests are read by now, and this one comes too late.
        signer.write(tmp_path, TIME, [Entry("denied", *last, pruned=True)])
        yield from events

    verification._events = reading()
    assert list(verification.findings()) == []


# A trail in a file.


def test_trail_alone_is_verified_without_flows(trail: Trail) -> None:
    verification = trail.verification()
    verification._flows = None
    assert list(verification.findings()) == []

    trail.events["granted"][2]["actor"] = "somebody else"
    verification = trail.verification()
    verification._flows = None
    assert [finding[:3] for finding in verification.findings()] == [("edited", "granted", 3)]
