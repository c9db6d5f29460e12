"""What somebody who can write to the database, or to the digests' directory, may do there.

Each function does one thing, at a place and in a way that the dice decide, and returns what a
verification should call it. Where a name depends on how it was done, it says so:

* An edited `flow_id` is a row that was `moved`; an edited `seq` is `reordered`, or `edited` where
  the row stands in the same order as before.
* A row with another content and the right hash, but no `mac`: `edited` in the middle of a chain;
  for the last event of a flow it is no other than a chain that was replaced from there on.
* A copy beside its original: which of them is the copy cannot be told, so the flow alone counts.
* Where a digest is missing or forged that says which flows were pruned on purpose, their removal
  is not behind a digest any more: `removed_flow` is right as well.

Some of it nobody could see, or tell from something else, and is not done here: what is beyond the
last digest, where neither a later event nor the flow's record speaks against it; without the audit
key also a row behind all that digests know, and an edited `mac`.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow import OAuth, Secret
from deviceflow.audit.chain import HASHED, START, AuditKey, canonical, hash_of
from deviceflow.audit.events import STORE, text_of
from deviceflow.core.actions import ENDS_HANDOVER, LOGIN_TRIGGERS
from deviceflow.core.flow import Flow
from deviceflow.core.omitted import Omitted
from deviceflow.core.provider import Token
from deviceflow.core.states import State
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.stores.sql.rows import LOGINS
from deviceflow.testing import answer
from deviceflow.trail.digest import Signer, files_of, read_digest, read_entries
from tests.evidence.trails import (
    RESERVED,
    WORKER,
    columns_of,
    first_of,
    follow,
    left_out,
    rechain,
)
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from random import Random

    from deviceflow.trail.verify import Finding, Kind
    from tests.evidence.trails import Trail

_THEIRS: Final = AuditKey(Secret("somebody else's"))
_PLACE: Final = ("flow_id", "seq", "event_id")
_PROOF: Final = ("prev_hash", "hash", "mac")
_CONTENT: Final = tuple(name for name in HASHED if name not in (*_PLACE, *_PROOF))
_ABOUT_HOLDS: Final = ("illegal_transition", "clock_backwards")
_PENDING: Final = answer(400, {"error": "authorization_pending"})
_NULLABLE: Final = frozenset(
    {*_CONTENT} - {"schema", "time", "action", "outcome", "scopes", "in_doubt", "key_id"}
)


class Done(NamedTuple):
    """What was done.

    Attributes:
        kinds: What it may be called.
        flows: The flows that it was done to.
        at: The flow and the number where it must be found, if that can be told.
        digests: Where the digests are, if they are what it was done to.
    """

    kinds: tuple[Kind, ...]
    flows: tuple[str, ...] = ()
    at: tuple[str, int] | None = None
    digests: Path | None = None

    def is_named_by(self, findings: Sequence[Finding]) -> bool:
        """Tell whether the findings say what was done, where, and nothing else."""
        if STORE in self.flows:
            # Nobody knows then who has begun to hold logins, and who has stopped.
            findings = [found for found in findings if found.kind not in _ABOUT_HOLDS]
        if not findings or not {finding.kind for finding in findings} <= {*self.kinds}:
            return False
        if not {finding.flow_id for finding in findings} <= {*self.flows, None}:
            return "removed_flow" in self.kinds
        return self.at is None or self.at in {(found.flow_id, found.seq) for found in findings}


class Attack:
    """The dice, and what they decide.

    Attributes:
        trail: What is manipulated.
        random: The dice.
        keyed: Whether the trail is verified with the audit key.
        scratch: An empty directory.
    """

    def __init__(self, trail: Trail, random: Random, scratch: Path, *, keyed: bool) -> None:
        self.trail = trail
        self.random = random
        self.scratch = scratch
        self.keyed = keyed

    def victim(self, least: int = 1, *, of: Sequence[str] | None = None) -> str:
        """Return a flow with so many events."""
        trail = self.trail
        known = [*trail.covered, *trail.fresh] if self.keyed else trail.covered
        return self.random.choice([id_ for id_ in of or known if len(trail.rows[id_]) >= least])

    def rows(self, flow_id: str) -> list[dict[str, Any]]:
        """Return copies of its events."""
        return [dict(row) for row in self.trail.rows[flow_id]]

    def any_row(self) -> dict[str, Any]:
        """Return an event of any flow."""
        return self.random.choice(self.rows(self.random.choice(list(self.trail.rows))))

    def flip(self) -> bool:
        """Return yes or no."""
        return self.random.random() < 0.5

    def hex(self) -> str:
        """Return what could be a hash."""
        return f"{self.random.getrandbits(256):064x}"

    def alter(self, row: dict[str, Any], names: Sequence[str] = _CONTENT) -> None:
        """Give one of these columns another value, of the right type."""
        while True:
            name = self.random.choice(names)
            value = self._value(name, row)
            if value != row[name] or type(value) is not type(row[name]):
                break
        row[name] = value

    def _value(self, name: str, row: Mapping[str, Any]) -> Any:
        if name in _NULLABLE and self.random.random() < 0.2:
            return None
        if self.flip():
            return self.any_row()[name]
        if name in _PROOF:
            return self.hex()
        if name in ("scopes", "granted_scopes"):
            return self.random.choice([[], ["WRITE"], ["MODELS", "x"]])
        if name in ("attempt", "generation", "http_status", "pid"):
            return self.random.randrange(1000)
        if name in ("interval", "wait", "duration", "clock_ahead"):
            number = round(self.random.random() * 100, self.random.randrange(5))
            return int(number) if number.is_integer() else number
        if name == "in_doubt":
            return not row[name]
        if name == "omitted":
            return self._run(row[name])
        return self.random.choice(["", "x", "x" * 50, "ü", f"{row[name]} ", f"{row[name]}".upper()])

    def _run(self, run: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return a run of events that were left out, or one that is like it but for a field."""
        time = "2026-01-31T12:00:00.000+00:00"
        made = {"after": self.hex(), "events": 2, "polls": 1, "since": time, "until": time}
        if run is None:
            return made
        name = self.random.choice([*made])
        number = self.random.randrange(run["polls"], 99)
        return {**run, name: number if name in ("events", "polls") else made[name]}

    def room(self, flow_id: str) -> int:
        """Return a number behind a flow's events, or one that was made free between them."""
        rows = self.trail.rows[flow_id]
        seq: int = self.random.choice([rows[-1]["seq"] + 1, self.random.choice(rows)["seq"]])
        if seq <= rows[-1]["seq"]:
            self.trail.shift(flow_id, seq, 1, renamed=self.flip())
        return seq

    def forge_mac(self, row: dict[str, Any]) -> None:
        """Give an event whose hash is a new one a `mac`, without the key."""
        row["mac"] = self.random.choice([row["mac"], self.hex(), _THEIRS.mac(row["hash"])])


def edited_field(attack: Attack) -> Done:
    names = (*_CONTENT, "event_id", "prev_hash", "hash", *(("mac",) if attack.keyed else ()))
    row = attack.random.choice(attack.rows(attack.victim()))
    was = columns_of(row)
    attack.alter(row, names)
    changed = {name: value for name, value in columns_of(row).items() if value != was[name]}
    attack.trail.set(row["flow_id"], row["seq"], changed)
    return Done(("edited",), (row["flow_id"],), (row["flow_id"], row["seq"]))


def edited_text(attack: Attack) -> Done:
    """Write a text in another form: it says the same, and its hash may be the right one."""
    flow_id = attack.victim(of=attack.trail.fresh if attack.keyed else None)
    rows = attack.rows(flow_id)
    at = attack.random.randrange(len(rows))
    row = rows[at]
    text = attack.random.choice(_OTHER_FORMS)(canonical(row).decode())
    attack.trail.drop(flow_id, row["seq"])
    if attack.keyed and attack.flip():
        # As somebody does who has the key.
        row["hash"] = sha256(text.encode()).hexdigest()
        row["mac"] = attack.trail.key.mac(row["hash"], row["key_id"])
        for follower in rows[at + 1 : at + 2]:
            follow(follower, row)
        rechain(rows[at + 1 :], attack.trail.key)
    attack.trail.put(row, text=text)
    for follower in rows[at + 1 :]:
        attack.trail.put(follower)
    if attack.keyed:
        attack.trail.adjust(flow_id, rows[-1])
    return Done(("edited",), (flow_id,), (flow_id, row["seq"]))


_OTHER_FORMS: Final[tuple[Callable[[str], str], ...]] = (
    lambda text: text.replace(":", ": ", 1),
    lambda text: f"{text} ",
    lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
    lambda text: text.replace('"actor":', '"actor":"mallory","actor":'),
    lambda text: re.sub(r'"attempt":(\d+)', r'"attempt":\1.0', text),
    lambda text: text.replace('"schema":"d', '"schema":"\\u0064'),
    lambda text: f'{text[:-1]},"zone":null}}',
)


def column_unlike_text(attack: Attack) -> Done:
    """Edit what an event says twice in one place only."""
    row = attack.random.choice(attack.rows(attack.victim()))
    said = dict(row)
    name = attack.random.choice(("flow_id", "seq", "time"))
    said[name] = row["seq"] + 90 if name == "seq" else attack.hex()
    if name == "time" and attack.flip():
        changed = {"time": said["time"]}
    else:
        changed = {"text": columns_of(said)["text"]}
    attack.trail.set(row["flow_id"], row["seq"], changed)
    return Done(("edited",), (row["flow_id"],), (row["flow_id"], row["seq"]))


def edited_seq(attack: Attack) -> Done:
    flow_id = attack.victim()
    rows = attack.rows(flow_id)
    row = attack.random.choice(rows)
    beyond = attack.random.choice([rows[-1]["seq"] + attack.random.randrange(1, 9), 0, -1])
    text = columns_of(row | {"seq": beyond})["text"]
    attack.trail.set(
        flow_id, row["seq"], {"seq": beyond} | ({"text": text} if attack.flip() else {})
    )
    stays = row is (rows[-1] if beyond > 0 else rows[0])
    return Done(("edited" if stays else "reordered",), (flow_id,))


def edited_with_its_hash(attack: Attack) -> Done:
    flow_id = attack.victim(2)
    row = attack.random.choice(attack.rows(flow_id)[:-1])
    attack.alter(row)
    row["hash"] = hash_of(row)
    attack.forge_mac(row)
    attack.trail.drop(flow_id, row["seq"], row["seq"])
    attack.trail.put(row)
    return Done(("edited",), (flow_id,), (flow_id, row["seq"]))


def removed(attack: Attack) -> Done:
    flow_id = attack.victim(2)
    row = attack.random.choice(attack.rows(flow_id)[:-1])
    attack.trail.drop(flow_id, row["seq"], row["seq"])
    if attack.flip():
        attack.trail.shift(flow_id, row["seq"] + 1, -1, renamed=attack.flip())
    at = None if row["action"] == "import" else (flow_id, first_of(row))
    return Done(("removed",), (flow_id,), at)


def inserted(attack: Attack) -> Done:
    flow_id = attack.victim()
    rows = attack.rows(flow_id)
    row = dict(attack.any_row() if attack.random.random() < 0.2 else attack.random.choice(rows))
    attack.alter(row)
    seq = attack.room(flow_id)
    without_traceback = not attack.keyed and flow_id in attack.trail.forgotten
    row |= {"flow_id": flow_id, "seq": seq}
    if attack.flip():
        row["event_id"] = f"{flow_id}.{seq}"
    if attack.flip() and not without_traceback:
        before = [other for other in rows if other["seq"] < seq]
        row["prev_hash"] = before[-1]["hash"] if before else START
        row["hash"] = hash_of(row)
    attack.forge_mac(row)
    attack.trail.put(row)
    # One behind polls that nobody counted names the event before them, which is another one.
    uncounted = "counted" in (row["omitted"] or ()) and not attack.keyed
    kinds: tuple[Kind, ...] = ("inserted", "replaced_chain") if uncounted else ("inserted",)
    return Done(kinds, (flow_id,), (flow_id, seq))


def duplicated(attack: Attack) -> Done:
    flow_id = attack.victim()
    rows = attack.rows(flow_id)
    row = attack.random.choice(rows)
    seq = attack.room(flow_id)
    renamed = {"event_id": f"{flow_id}.{seq}"} if attack.flip() else {}
    copy = row | {"seq": seq} | renamed
    attack.trail.put(copy, attack.random.choice([copy, row]))
    return Done(("duplicated",), (flow_id,))


def reordered(attack: Attack) -> Done:
    flow_id = attack.victim(2)
    one, other = attack.random.sample(attack.rows(flow_id), 2)
    renamed = attack.flip()
    for row in (one, other):
        attack.trail.drop(flow_id, row["seq"], row["seq"])
    for row, place in ((one, other), (other, one)):
        name = {"event_id": place["event_id"]} if renamed else {}
        there = row | {"seq": place["seq"]} | name
        attack.trail.put(there, there if renamed else attack.random.choice([there, row]))
    return Done(("reordered",), (flow_id,))


def cut_tail(attack: Attack) -> Done:
    flow_id = attack.victim(2)
    rows = attack.rows(flow_id)
    left = attack.random.randrange(1, len(rows))
    attack.trail.drop(flow_id, rows[left]["seq"])
    if attack.flip() and flow_id in attack.trail.covered:
        attack.trail.adjust(flow_id, rows[left - 1])
    return Done(("cut_tail",), (flow_id,), (flow_id, first_of(rows[left])))


def removed_flow(attack: Attack) -> Done:
    flow_id = attack.victim()
    attack.trail.drop(flow_id)
    if attack.flip() and flow_id in attack.trail.covered:
        attack.trail.do("DELETE FROM {flows} WHERE id = ?", flow_id)
    return Done(("removed_flow",), (flow_id,))


def moved_row(attack: Attack) -> Done:
    flow_id = attack.victim()
    row = attack.random.choice(attack.rows(flow_id))
    attack.trail.drop(flow_id, row["seq"], row["seq"])
    there = attack.victim() if attack.random.random() < 0.8 else "elsewhere"
    seq = row["seq"]
    if there == flow_id:
        there = "elsewhere"
    if there != "elsewhere":
        seq = attack.room(there)
    renamed = {"event_id": f"{there}.{seq}"} if attack.flip() else {}
    moved = row | {"flow_id": there, "seq": seq} | renamed
    attack.trail.put(moved, attack.random.choice([moved, row]))
    return Done(("moved",), (flow_id, there), (there, seq))


def moved_flow(attack: Attack) -> Done:
    flow_id = attack.victim()
    there = attack.victim() if attack.flip() else "elsewhere"
    by = 0
    if there == flow_id:
        there = "elsewhere"
    if there != "elsewhere":
        by = attack.rows(there)[-1]["seq"]
    rewritten = attack.flip()
    attack.trail.drop(flow_id)
    for row in attack.rows(flow_id):
        moved = row | {"flow_id": there, "seq": row["seq"] + by}
        attack.trail.put(moved, moved if rewritten else row)
    return Done(("moved",), (flow_id, there))


def _replace(attack: Attack, flow_id: str, first: int, key: AuditKey | None) -> Done:
    """Make a flow's events anew from one on, each with another content."""
    rows = attack.rows(flow_id)[first:]
    summarized = any(map(left_out, rows))
    attack.trail.drop(flow_id, rows[0]["seq"])
    attack.alter(rows[0])
    for row in rows[1:]:
        if attack.flip():
            attack.alter(row)
    rechain(rows, key)
    for row in rows:
        if key is None:
            attack.forge_mac(row)
        attack.trail.put(row)
    at = (flow_id, rows[0]["seq"]) if attack.keyed and key is None else None
    # Where the MACs do not tell, it may be said as well that nothing was left out, or that the
    # event does not say what was.
    consistent = key is not None or not attack.keyed
    also: tuple[Kind, ...] = (("removed", "edited") if consistent else ("edited",)) * summarized
    return Done(("replaced_chain", *also), (flow_id,), at)


def replaced_chain(attack: Attack) -> Done:
    flow_id = attack.victim()
    rows = attack.rows(flow_id)
    first = attack.random.choice([0, attack.random.randrange(len(rows))])
    done = _replace(attack, flow_id, first, None)
    if attack.flip() and (flow_id in attack.trail.covered or first < len(rows) - 1):
        _adjust(attack, flow_id)
    return done


def replaced_chain_with_the_key(attack: Attack) -> Done:
    flow_id = attack.victim(of=attack.trail.covered)
    first = attack.random.randrange(len(attack.rows(flow_id)))
    done = _replace(attack, flow_id, first, attack.trail.key)
    if attack.flip():
        _adjust(attack, flow_id)
    return done


def _adjust(attack: Attack, flow_id: str) -> None:
    """Make a flow's record fit the last of its events as they are by now."""
    attack.trail.adjust(flow_id, attack.trail.end_of(flow_id))


def wrong_state(attack: Attack) -> Done:
    trail, random = attack.trail, attack.random
    known = {*trail.covered, *trail.fresh} if attack.keyed else {*trail.covered}
    flow_id = random.choice(sorted(known - {*trail.forgotten}))
    rows = attack.rows(flow_id)
    record = trail.record(flow_id)
    assert record is not None
    other = random.choice([state.value for state in State if state != record["state"]])
    by = random.choice([-1, 1, 7])
    ways: list[Callable[[], object]] = [
        lambda: trail.set_flow(flow_id, record, state=other),
        lambda: trail.set_flow(flow_id, record | {"state": other}),
        lambda: trail.set_flow(flow_id, record | {"state": other}, state=other),
        lambda: trail.set_flow(flow_id, record, seq=record["seq"] + by),
        lambda: trail.set_flow(flow_id, record | {"seq": record["seq"] + by}),
        lambda: trail.set_flow(
            flow_id, record | {"seq": record["seq"] + by}, seq=record["seq"] + by
        ),
        lambda: trail.set_flow(flow_id, record | {"head": attack.hex()}),
        lambda: trail.set_flow(flow_id, record | {"head": ""}),
        lambda: trail.set_flow(flow_id, record | {"attempt": record["attempt"] + 1}),
        lambda: trail.set_flow(flow_id, record | {"in_doubt": not record["in_doubt"]}),
        lambda: (
            trail.set_flow(flow_id, record | {"reason": "protocol"})
            if record["reason"] != "protocol"
            else trail.set_flow(flow_id, record | {"reason": None})
        ),
        lambda: trail.do("UPDATE {flows} SET progress = '[]' WHERE id = ?", flow_id),
    ]
    if not State(record["state"]).ended:
        ways.append(lambda: trail.do("DELETE FROM {flows} WHERE id = ?", flow_id))
    if len(rows) > 1:
        ways.append(lambda: trail.adjust(flow_id, random.choice(rows[:-1])))
    random.choice(ways)()
    # The hash of an event that was left out is nowhere else.
    also: tuple[Kind, ...] = ("edited_row",) if record.get("omitted") else ()
    return Done(("wrong_state", *also), (flow_id,))


# The logins' rows.


def _victim_with_row(attack: Attack) -> str:
    trail = attack.trail
    known = {*trail.covered, *trail.fresh} if attack.keyed else {*trail.covered}
    return attack.random.choice(sorted(known - {*trail.forgotten}))


def edited_row(attack: Attack) -> Done:
    flow_id = _victim_with_row(attack)
    row = attack.trail.row(flow_id)
    name = attack.random.choice([name for name in LOGINS.columns if name not in ("id", "name")])
    attack.trail.set_row(flow_id, {name: _edited(attack, name, row[name])})
    return Done(("wrong_state", "edited_row"), (flow_id,))


def _edited(attack: Attack, name: str, value: Any) -> Any:
    if name in ("record", "progress"):
        record = json.loads(value)
        field = attack.random.choice(sorted(record))
        edited: Any = attack.random.choice([None, 7, "x", [], attack.hex()])
        return json.dumps(record | {field: edited if edited != record[field] else "y"})
    if name == "state":
        return attack.random.choice([state.value for state in State if state != value])
    if isinstance(value, int | float):
        return value + attack.random.choice([-1, 1, 3600])
    if value is None:
        return attack.random.choice([0, 1]) if name == "ended_at" else attack.hex()
    return attack.random.choice([f"{value} ", value[:-1], attack.hex()])


def spliced_row(attack: Attack) -> Done:
    flow_id, other = _victim_with_row(attack), _victim_with_row(attack)
    while other == flow_id:
        other = _victim_with_row(attack)
    row, theirs = attack.trail.row(flow_id), attack.trail.row(other)
    names = [
        name for name in LOGINS.columns if name not in ("id", "name") and row[name] != theirs[name]
    ]
    spliced = attack.random.choice([names, attack.random.sample(names, 1)])
    attack.trail.set_row(flow_id, {name: theirs[name] for name in spliced})
    return Done(("wrong_state", "edited_row"), (flow_id,))


def forged_row(attack: Attack) -> Done:
    """Change a row as somebody does who has the sealing key, and not the audit key."""
    flow_id = _victim_with_row(attack)
    flow = get(attack.trail.store, flow_id)
    ways: list[Callable[[], object]] = [
        lambda: setattr(flow, "interval", flow.interval + 1),
        lambda: setattr(flow, "user_code", f"{flow.user_code}X"),
        lambda: setattr(flow, "verification_uri", "https://elsewhere.example.com/"),
        lambda: setattr(flow, "expires_at", (flow.expires_at or 0.0) + 1),
        lambda: setattr(flow, "token", Token(Secret(attack.hex()))),
        lambda: setattr(flow, "device_code", Secret(attack.hex())),
        lambda: setattr(flow, "provider", _ELSEWHERE),
    ]
    attack.random.choice(ways)()
    attack.trail.forge(flow)
    return Done(("wrong_state", "edited_row"), (flow_id,))


_ELSEWHERE: Final = OAuth(
    client_id="theirs",
    device_authorization_endpoint="https://elsewhere.example.com/device",
    token_endpoint="https://elsewhere.example.com/token",
)


def old_row(attack: Attack) -> Done:
    flow_id, row = attack.random.choice(attack.trail.old_rows)
    attack.trail.set_row(flow_id, {name: row[name] for name in LOGINS.columns if name != "name"})
    return Done(("wrong_state",), (flow_id,))


def made_up_row(attack: Attack) -> Done:
    """Put in a new login, with the sealing key or without."""
    flow = Flow(f"made-up-{attack.hex()[:8]}", _ELSEWHERE, 1e9)
    attack.trail.insert(flow, sealed=attack.flip())
    return Done(("edited_row",), (flow.id,))


def _rewritten(attack: Attack, least: int, change: Callable[[list[dict[str, Any]]], None]) -> str:
    """Rewrite a flow that no digest knows as somebody does who has the key."""
    flow_id = attack.victim(least, of=attack.trail.fresh)
    rows = attack.rows(flow_id)
    change(rows)
    rechain(rows, attack.trail.key)
    attack.trail.drop(flow_id)
    for row in rows:
        attack.trail.put(row)
    _adjust(attack, flow_id)
    return flow_id


def illegal_transition(attack: Attack) -> Done:
    at = 0

    def change(rows: list[dict[str, Any]]) -> None:
        nonlocal at
        ways = [_with_another_end, _with_another_action]
        if _moving(rows) and rows[0]["action"] != "import":
            ways.append(_with_one_less)
        if rows[-1]["reason"] in ("denied", "cancelled"):
            ways.append(_with_a_late_token)
        if any(row["action"] in ENDS_HANDOVER for row in rows):
            ways.append(_with_a_token_that_is_gone)
        at = attack.random.choice(ways)(attack, rows)

    flow_id = _rewritten(attack, 2, change)
    return Done(("illegal_transition", "edited_row"), (flow_id,), (flow_id, at))


def _with_another_end(attack: Attack, rows: list[dict[str, Any]]) -> int:
    at = attack.random.randrange(len(rows))
    row = rows[at]
    row["to"] = attack.random.choice([state.value for state in State if state != row["to"]])
    for follower in rows[at + 1 : at + 2]:
        follower["from"] = row["to"]
    return int(row["seq"])


def _with_another_action(attack: Attack, rows: list[dict[str, Any]]) -> int:
    row = attack.random.choice(rows[1:])
    move = (row["from"], row["to"])
    fitting = {name for name in LOGIN_TRIGGERS if move in name.login.items()}
    row["action"] = attack.random.choice(sorted({*LOGIN_TRIGGERS} - fitting)).name
    return int(row["seq"])


def _moving(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the places of events, but for the last, without which the next one is illegal."""
    before = [rows[0]["from"], *(row["to"] for row in rows)]
    return [n for n, row in enumerate(rows[:-1]) if before[n] != row["to"]]


def _with_one_less(attack: Attack, rows: list[dict[str, Any]]) -> int:
    at = attack.random.choice(_moving(rows))
    gone = 1 + left_out(rows.pop(at))
    for row in rows[at:]:
        row["seq"] -= gone
        row["event_id"] = f"{row['flow_id']}.{row['seq']}"
    rows[0]["prev_hash"] = START
    return int(rows[at]["seq"])


def _with_a_late_token(attack: Attack, rows: list[dict[str, Any]]) -> int:
    last = rows[-1]
    seq = last["seq"] + 1
    late = {"action": "late_token", "outcome": "token_issued", "from": "failed", "to": "authorized"}
    place = {"seq": seq, "event_id": f"{last['flow_id']}.{seq}"}
    rows.append(last | late | place | {"reason": None, "omitted": None})
    return int(seq)


def _with_a_token_that_is_gone(attack: Attack, rows: list[dict[str, Any]]) -> int:
    last = rows[-1]
    seq = last["seq"] + 1
    action = attack.random.choice(["collect", "acknowledge", "purge"])
    place = {"seq": seq, "event_id": f"{last['flow_id']}.{seq}"}
    rows.append(last | {"action": action, "from": last["to"], "omitted": None} | place)
    return int(seq)


def clock_backwards(attack: Attack) -> Done:
    at = 0

    def change(rows: list[dict[str, Any]]) -> None:
        nonlocal at
        index = attack.random.randrange(1, len(rows))
        parted = timedelta(seconds=attack.random.choice([1.001, 60, 3600, 86400 * 365]))
        before, after = rows[index - 1], rows[index]
        if attack.flip():
            after["time"] = _time(before["time"], -parted)
        else:
            before["time"] = _time(after["time"], parted)
        at = after["seq"]

    flow_id = _rewritten(attack, 2, change)
    # What nobody counted begins when the event before it was stored.
    return Done(("clock_backwards", "edited_row", "illegal_transition"), (flow_id,), (flow_id, at))


def _time(text: str, moved: timedelta) -> str:
    return (datetime.fromisoformat(text) + moved).isoformat(timespec="milliseconds")


# The digests.


def _copied(attack: Attack) -> list[Path]:
    """Return the digests' files in a directory where they can be manipulated."""
    copy = attack.scratch / "digests"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(attack.trail.digests, copy)
    return [path for _, path in files_of(copy)]


def _about_digests(kind: Kind, *paths: Path) -> Done:
    also: tuple[Kind, ...] = ("removed_flow",) if any(_drops(path) for path in paths) else ()
    return Done((kind, *also), digests=paths[0].parent)


def _drops(path: Path) -> bool:
    return any(entry.pruned for entry in read_entries(path, read_digest(path)))


def missing_digest(attack: Attack) -> Done:
    """Remove a digest, or all from one on, as an old copy of the directory does."""
    paths = _copied(attack)
    at = attack.random.randrange(len(paths))
    gone = paths[at:] if attack.flip() else [paths[at]]
    done = _about_digests("missing_digest", *gone)
    for path in gone:
        path.unlink()
    return done


def forged_digest(attack: Attack) -> Done:
    paths = _copied(attack)
    path = attack.random.choice(paths)
    done = _about_digests("forged_digest", path)
    first, *entries = path.read_text().splitlines(keepends=True)
    fields = json.loads(first)
    text = first + "".join(entries)
    ways: list[Callable[[], str]] = [
        lambda: text.replace(first, _dumped(_with_other_content(attack, fields))),
        lambda: first + "".join(_with_other_entries(attack, entries)),
        lambda: _with_its_hash(fields, _with_other_entries(attack, entries)),
        lambda: _dumped(fields | {"signature": base64.b64encode(bytes(64)).decode()}),
        lambda: text.replace(fields["signature"], fields["signature"][1:]),
        lambda: text.replace(first, _resigned(path, named=True)),
        lambda: text.replace(first, _resigned(path, named=False)),
        lambda: text.replace(",", ", ", 1),
        lambda: text.replace("{", '{"note":"","', 1).replace('""', '"', 1),
        lambda: text[: attack.random.randrange(len(text))],
    ]
    path.write_text(attack.random.choice(ways)())
    return done


def swapped_digests(attack: Attack) -> Done:
    one, other = attack.random.sample(_copied(attack), 2)
    done = _about_digests("forged_digest", one, other)
    texts = one.read_bytes(), other.read_bytes()
    other.write_bytes(texts[0])
    one.write_bytes(texts[1])
    return done


def _with_other_content(attack: Attack, fields: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "number": fields["number"] + 1,
        "time": "2020-01-01T00:00:00.000+00:00",
        "previous": attack.hex(),
        "flows": fields["flows"] + 1,
        "entries": attack.hex(),
    }
    name = attack.random.choice([*changes])
    return fields | {name: changes[name]}


def _with_other_entries(attack: Attack, entries: Sequence[str]) -> list[str]:
    random, changed = attack.random, [*entries]
    at = random.randrange(len(changed))
    flow_id, seq, digest, *pruned = json.loads(changed.pop(at))
    others = [
        [flow_id, seq + 1, digest, *pruned],
        [flow_id, seq, attack.hex(), *pruned],
        [flow_id, seq, digest, *([] if pruned else [True])],
        ["flow-000", 1, attack.hex()],
        None,
    ]
    if (other := random.choice(others)) is not None:
        changed.insert(at, _dumped(other))
    return changed


def _with_its_hash(fields: Mapping[str, Any], entries: Sequence[str]) -> str:
    body = "".join(entries)
    found = {"flows": len(entries), "entries": sha256(body.encode()).hexdigest()}
    return _dumped({**fields, **found}) + body


def _dumped(said: object) -> str:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n"


def _resigned(path: Path, *, named: bool) -> str:
    theirs, digest = Signer(Secret(generate_signing_key())), read_digest(path)
    if named:
        digest = replace(digest, public_key=theirs.public_key)
    return theirs.sign(digest).line().decode()


# What a summarized trail says of the events that it leaves out.


def _summary(attack: Attack) -> dict[str, Any]:
    """Return an event that says what was left out before it."""
    trail = attack.trail
    known = [*trail.covered, *trail.fresh] if attack.keyed else trail.covered
    rows = [row for id_ in known for row in attack.rows(id_) if row["omitted"] is not None]
    return attack.random.choice(rows)


def _rewritten_summary(attack: Attack, row: dict[str, Any], run: dict[str, Any] | None) -> Done:
    """Have an event say something else of what was left out, perhaps with the hash of that."""
    row["omitted"] = run
    flow_id, seq = row["flow_id"], row["seq"]
    is_last = row["hash"] == attack.rows(flow_id)[-1]["hash"]
    if attack.flip() and not is_last:
        row["hash"] = hash_of(row)
        attack.forge_mac(row)
    attack.trail.drop(flow_id, seq, seq)
    attack.trail.put(row)
    return Done(("edited",), (flow_id,), (flow_id, seq))


def edited_summary(attack: Attack) -> Done:
    row = _summary(attack)
    was, run = row["omitted"], dict(row["omitted"])
    while run == was:
        name = attack.random.choice([*was])
        by = attack.random.choice([-1, 1, 2])
        if name == "after":
            run[name] = attack.hex()
        elif name in ("since", "until"):
            run[name] = _time(was[name], timedelta(seconds=by))
        else:
            run[name] = max(was["polls"] if name == "events" else 0, was[name] + by)
    return _rewritten_summary(attack, row, run)


def dropped_summary(attack: Attack) -> Done:
    return _rewritten_summary(attack, _summary(attack), None)


def _waiting(attack: Attack, *, with_run: bool = True) -> tuple[str, dict[str, Any]]:
    """Return a login whose last events were left out, or one that waits, and its record."""
    trail = attack.trail
    ids = [*trail.covered, *trail.fresh] if attack.keyed else trail.covered
    records = [(id_, trail.record(id_)) for id_ in ids]
    return attack.random.choice(
        [
            (id_, record)
            for id_, record in records
            if record is not None
            and record["state"] in ("awaiting-user", "polling")
            and bool(record.get("omitted")) >= with_run
        ]
    )


def edited_open_run(attack: Attack) -> Done:
    flow_id, record = _waiting(attack)
    run, ways = record["omitted"], attack.random.choice(("number", "time", "hash", "dropped"))
    if ways == "number":
        run["events"] += attack.random.choice([1, 2])
        run["polls"] += 1
    elif ways == "time":
        run["since"] = _time(run["since"], timedelta(seconds=-1))
    elif ways == "hash":
        run["after"] = attack.hex()
    else:
        del record["omitted"]
    attack.trail.set_flow(flow_id, record)
    return Done(("wrong_state", "edited_row"), (flow_id,))


def forged_open_run(attack: Attack) -> Done:
    """Have a login poll on, as somebody does who has the sealing key, and not the audit key."""
    flow_id, _ = _waiting(attack, with_run=False)
    flow = get(attack.trail.store, flow_id)
    last = attack.rows(flow_id)[-1]
    run = flow.omitted or Omitted(last["hash"], 0, 0, last["time"], last["time"])
    flow.omitted = run._replace(events=run.events + 2, polls=run.polls + 1)
    flow.seq += 2
    flow.attempt += 1
    flow.head = attack.hex()
    if attack.flip():
        flow.head += f" {_THEIRS.mark(flow.head)}"
    attack.trail.forge(flow)
    return Done(("edited_row", "wrong_state"), (flow_id,))


# Holds.


def _held(attack: Attack, *, still: bool, of: Sequence[str] | None = None) -> str:
    """Return a login that is held still, or one that was held once by who has stopped since."""
    held = attack.trail.held
    known = [*attack.trail.covered, *attack.trail.fresh] if of is None else of
    ended = {STORE, *attack.trail.forgotten}
    return attack.random.choice(
        [
            id_
            for id_ in known
            if id_ in held and id_ not in ended and (held[id_].until is None) == still
            if still or held[id_].driver != WORKER
        ]
    )


def _rewind(attack: Attack, flow_id: str) -> Flow:
    """Put a login and its trail back to where it was held, as they were then."""
    trail = attack.trail
    row = trail.held[flow_id].row
    trail.drop(flow_id, row["seq"] + 1)
    trail.set_row(flow_id, {name: row[name] for name in LOGINS.columns if name != "name"})
    return trail.flow(flow_id)


def forged_hold(attack: Attack) -> Done:
    """Hold a login as somebody who has all keys, by a driver that has not begun or has stopped."""
    trail, flow_id = attack.trail, _held(attack, still=True)
    flow = trail.flow(flow_id)
    gone = [held.driver for held in trail.held.values() if held.until and held.driver != WORKER]
    flow.driver = attack.random.choice([attack.random.choice(gone), f"{attack.hex()[:12]}.7.1"])
    flow.receive(_PENDING, flow.moved_at + 1)
    at = text_of(flow.moved_at)
    flow.omitted, flow.head = Omitted(str(flow.head), 1, 0, at, at), attack.hex()
    trail.commit(flow, flow.poll(flow.due_at, 10.0, attack.random.choice([1, 5, 1000])))
    return Done(("illegal_transition", "clock_backwards"), (flow_id,), (flow_id, flow.seq))


def unreserved_gap(attack: Attack) -> Done:
    """Recover, as somebody who has all keys, behind more polls than were reserved, or fewer."""
    trail, flow_id = attack.trail, _held(attack, still=True)
    flow, held = trail.flow(flow_id), trail.held[flow_id]
    flow.reserved += attack.random.choice([-1, 1, 1000])
    trail.commit(flow, flow.recover(flow.moved_at + 3600, held.driver))
    return Done(("illegal_transition",), (flow_id,), (flow_id, flow.seq))


def hasty_gap(attack: Attack) -> Done:
    """Count more polls, as somebody who has all keys, than there was time for."""
    trail, flow_id = attack.trail, _held(attack, still=True)
    flow = trail.flow(flow_id)
    flow.driver, at = trail.held[flow_id].driver, flow.moved_at
    polls = attack.random.choice([2, 5, RESERVED])
    until = at + (polls - 1) * flow.interval - attack.random.choice([1.1, flow.interval])
    flow.receive(_PENDING, max(at, until))
    flow.omitted = Omitted(
        str(flow.head), 2 * polls + 1, polls, text_of(at), text_of(flow.moved_at)
    )
    flow.seq, flow.attempt, flow.head = flow.seq + 2 * polls, flow.attempt + polls, attack.hex()
    let_go = flow.let_go(flow.moved_at)
    flow.end_hold()
    trail.commit(flow, let_go)
    return Done(("illegal_transition",), (flow_id,), (flow_id, flow.seq))


def inserted_in_gap(attack: Attack) -> Done:
    """Insert an event with a number that was reserved."""
    trail, random = attack.trail, attack.random
    keyed = attack.keyed
    flow_id = _held(attack, still=keyed and attack.flip(), of=None if keyed else trail.covered)
    rows, first = attack.rows(flow_id), trail.held[flow_id].row["seq"]
    hold, *behind = [row for row in rows if row["seq"] >= first]
    last = behind[0]["seq"] - 1 if behind else first + 2 * RESERVED
    if last <= first:
        trail.drop(flow_id, first + 1)
        for row in behind:
            moved = row["seq"] + 2
            trail.put(row | {"seq": moved})
        last = first + 2
    seq = random.randrange(first + 1, last + 1)
    row = dict(random.choice(rows)) | {"seq": seq, "event_id": f"{flow_id}.{seq}"}
    attack.alter(row)
    row["prev_hash"] = hold["hash"]
    row["hash"] = hash_of(row)
    attack.forge_mac(row)
    trail.put(row)
    # It cannot be told from one that was left out there, and edited.
    return Done(("inserted", "edited", "removed"), (flow_id,))


def rewound_hold(attack: Attack) -> Done:
    """Put a held login and its trail back, and let it be recovered, or cancelled, or be.

    Who held it has stopped since then.
    """
    flow_id = _held(attack, still=False, of=None if attack.keyed else attack.trail.covered)
    held = attack.trail.held[flow_id]
    flow = _rewind(attack, flow_id)
    later = (held.until or 0) + attack.random.choice([2, 60, 86400])
    what = attack.random.choice(["recover", "cancel", "nothing"])
    if what == "recover":
        attack.trail.commit(flow, flow.recover(later, held.driver))
    elif what == "cancel":
        attack.trail.commit(flow, flow.cancel(later))
    kinds: tuple[Kind, ...] = ("clock_backwards", "illegal_transition")
    return Done((*kinds, "replaced_chain", "cut_tail"), (flow_id,))


def rewound_hold_of_killed(attack: Attack) -> Done:
    """Put a held login and its trail back, kill who held it, and let it be recovered."""
    trail = attack.trail
    flow_id = attack.random.choice(
        [
            id_
            for id_ in trail.covered
            if id_ in trail.held and id_ not in trail.forgotten
            if trail.held[id_].until and trail.held[id_].driver == WORKER
            if trail.known_until(id_) > trail.held[id_].row["seq"]
        ]
    )
    until = trail.held[flow_id].until or 0
    flow = _rewind(attack, flow_id)
    trail.commit(flow, flow.recover(until + attack.random.choice([2, 60, 86400]), WORKER))
    return Done(("replaced_chain", "cut_tail"), (flow_id,))


def other_holder(attack: Attack) -> Done:
    """Say that somebody else holds a login, or nobody, whereupon it is recovered."""
    trail, flow_id = attack.trail, _held(attack, still=True)
    drivers = {held.driver for held in trail.held.values()} - {trail.held[flow_id].driver}
    holder = attack.random.choice([None, "nobody.1.1", *sorted(drivers)])
    trail.do("UPDATE {flows} SET held_by = ? WHERE id = ?", holder, flow_id)
    flow = trail.flow(flow_id)
    trail.commit(flow, flow.recover(flow.moved_at + 60, holder))
    kinds: tuple[Kind, ...] = ("illegal_transition", "clock_backwards")
    return Done(kinds, (flow_id,), (flow_id, flow.seq))


def forged_driver(attack: Attack) -> Done:
    """Forge, edit or remove what the store's own events say of a driver."""
    trail, random = attack.trail, attack.random
    rows = [row for row in attack.rows(STORE) if row["action"] in ("drive", "stop_driving")]
    row = random.choice(rows)
    # Without the key, nothing speaks against an event behind all that digests know.
    what = random.choice(["edited", "removed", *(["inserted"] if attack.keyed else [])])
    if what == "inserted":
        last = trail.end_of(STORE)
        row = row | {"seq": last["seq"] + 1, "event_id": f"{STORE}.{last['seq'] + 1}"}
        row |= {"detail": f"{attack.hex()[:12]}.7.1", "time": last["time"]}
        row |= {"prev_hash": last["hash"]}
        row["hash"] = hash_of(row)
        attack.forge_mac(row)
        trail.put(row)
        return Done(("inserted",), (STORE,), (STORE, row["seq"]))
    if what == "removed":
        trail.drop(STORE, row["seq"], row["seq"])
    else:
        alike = row | {"action": "lapse"}
        other = row | {"detail": random.choice([f"{attack.hex()[:12]}.7.1", WORKER + "1"])}
        changed = columns_of(random.choice([alike, other]))
        trail.set(STORE, row["seq"], {"text": changed["text"]})
    # Of the last one, nothing else says that it was there.
    return Done(("removed", "edited", "inserted", "cut_tail"), (STORE,))


OF_HOLDS: Final[Mapping[str, Callable[[Attack], Done]]] = {
    "forged hold, with all keys": forged_hold,
    "unreserved gap, with all keys": unreserved_gap,
    "hasty gap, with all keys": hasty_gap,
    "inserted in a gap": inserted_in_gap,
    "rewound hold": rewound_hold,
    "rewound hold of a killed one": rewound_hold_of_killed,
    "other holder": other_holder,
    "forged driver": forged_driver,
}
"""Those of logins that are held, which only a trail in the mode `summary` has."""

OF_SUMMARIES: Final[Mapping[str, Callable[[Attack], Done]]] = {
    "edited summary": edited_summary,
    "dropped summary": dropped_summary,
    "edited open run": edited_open_run,
    **OF_HOLDS,
}
"""Those of a trail in the mode `summary` only."""

MANIPULATIONS: Final[Mapping[str, Callable[[Attack], Done]]] = {
    "edited field": edited_field,
    "edited text": edited_text,
    "column unlike text": column_unlike_text,
    "edited number": edited_seq,
    "edited with its hash": edited_with_its_hash,
    "removed row": removed,
    "inserted row": inserted,
    "duplicated row": duplicated,
    "reordered rows": reordered,
    "cut tail": cut_tail,
    "removed flow": removed_flow,
    "moved row": moved_row,
    "moved flow": moved_flow,
    "replaced chain": replaced_chain,
    "replaced chain, with the key": replaced_chain_with_the_key,
    "missing digest": missing_digest,
    "forged digest": forged_digest,
    "swapped digests": swapped_digests,
    "wrong state": wrong_state,
    "edited row": edited_row,
    "spliced row": spliced_row,
    "forged row": forged_row,
    "old row": old_row,
    "made-up row": made_up_row,
    "forged open run": forged_open_run,
    "illegal transition": illegal_transition,
    "clock backwards": clock_backwards,
}
"""All of them, by what a person would say was done."""
