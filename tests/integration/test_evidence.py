"""The trail as evidence, in real databases and files: manipulated, pruned, replayed, shared.

`python -m tests.evidence --each 2000` does the manipulations more often than is good for a test.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Secret, open_store
from deviceflow._blocking import complete
from deviceflow.audit.chain import HASHED, STORED, AuditKey, link, row_of
from deviceflow.audit.events import STORE
from deviceflow.core.actions import ACTIONS, Kind
from deviceflow.core.encryption import generate_key
from deviceflow.core.omitted import Reservation, is_omissible
from deviceflow.core.states import Handover, State
from deviceflow.credentials.keys import audit as audit_keys
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.errors import StoreError
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sql import SQLStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail.digest import Entry, Signer, files_of, read_digest, read_entries
from deviceflow.trail.jsonl_file import read_lines
from deviceflow.trail.ledger import Ledger
from deviceflow.trail.login_view import Login as Told
from deviceflow.trail.maintenance import Pruned, prune, take_digest
from deviceflow.trail.parallel import PartedVerification
from deviceflow.trail.verify import Verification
from tests.evidence.events import events
from tests.evidence.histories import BEGIN, Login
from tests.evidence.manipulations import MANIPULATIONS, Attack
from tests.evidence.parts import dying, part_of
from tests.evidence.runs import NEEDS_KEY, kinds_of, made, tried
from tests.evidence.trails import Trail
from tests.examples import examples
from tests.integration.racing import line_of, started
from tests.statements import run_statement
from tests.stored import delete_ended, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.trail.ledger import Finding
    from tests.postgres import PostgresServer

SEED: Final = 5
EACH: Final = 12
FEW: Final = examples(20, of=10)
_numbers: Final = count(1)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def trail(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
) -> Iterator[Trail]:
    url = postgres_server.database() if request.param == "postgres" else ""
    with closing(made(request.param, tmp_path_factory.mktemp("trail"), SEED, url)) as trail:
        yield trail
    if url:
        postgres_server.drop(url)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
) -> Iterator[SQLStore]:
    """Open a store, for tests that each use flows of their own."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("store") / "flows.db"
        with SQLiteStore(path, synchronous="NORMAL", trail="each") as store:
            yield store
        return
    url = postgres_server.database()
    with PostgresStore(url, keys=[generate_key()], trail="each") as store:
        yield store
    postgres_server.drop(url)


@pytest.fixture
def signer() -> Signer:
    return Signer(Secret(generate_signing_key()))


@pytest.fixture(params=["sqlite", "postgres"])
def own_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLStore]:
    """Open a store that is one test's own."""
    if request.param == "sqlite":
        with SQLiteStore(tmp_path / "flows.db", synchronous="NORMAL") as store:
            yield store
        return
    url = request.getfixturevalue("postgres_url")
    with PostgresStore(url, keys=[generate_key()]) as store:
        yield store


def found(
    store: SQLStore, digests: Path | None = None, signer: Signer | None = None
) -> list[tuple[str, str | None]]:
    """Verify a store's trail as the command does."""
    with store.snapshot() as snapshot:
        verification = Verification(
            *snapshot,
            digests=digests,
            public_key=None if signer is None else signer.public_key,
        )
        return [(finding.kind, finding.flow_id) for finding in verification.findings()]


# Manipulations.


@pytest.mark.parametrize("kind", MANIPULATIONS)
def test_each_manipulation_is_found_and_rightly_named(trail: Trail, kind: str) -> None:
    (tally,) = tried(trail, EACH, SEED, only=[kind])

    assert tally.misses == []
    assert tally.named == tally.found == tally.tried == EACH


@pytest.mark.parametrize("kind", sorted({*MANIPULATIONS} - NEEDS_KEY))
def test_what_digests_know_is_found_without_the_key(trail: Trail, kind: str) -> None:
    (tally,) = tried(trail, EACH // 2, SEED, keyed=False, only=[kind])

    assert tally.misses == []
    assert tally.named == tally.tried


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """Make a trail that leaves pending polls out."""
    with closing(made("sqlite", tmp_path_factory.mktemp("summary"), SEED, mode="summary")) as trail:
        yield trail


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("kind", kinds_of("summary"))
def test_each_manipulation_of_a_summarized_trail_is_found_and_rightly_named(
    summary: Trail, kind: str, keyed: bool
) -> None:
    for tally in tried(summary, EACH // 2, SEED, keyed=keyed, only=[kind]):
        assert tally.misses == []
        assert tally.named == tally.tried


def test_summarized_trail_has_no_pending_polls_but_tells_of_them(summary: Trail) -> None:
    events = [row for rows in summary.rows.values() for row in rows]
    runs = [row["omitted"] for row in events if row["omitted"] is not None]
    waiting = [summary.record(flow_id) for flow_id in summary.rows]

    omissible = [event for event in events if is_omissible(event)]
    assert [event for event in omissible if Reservation.of(event) is None] == []
    assert len(omissible) > 10
    assert len(runs) > 100
    assert any(record and record.get("omitted") for record in waiting)
    assert found(summary.store, summary.digests) == []


def test_trail_of_many_flows_is_clean(trail: Trail) -> None:
    assert len(trail.covered) > 200
    assert len(trail.signed) >= 5
    assert len(trail.pruned) >= 5
    assert found(trail.store, trail.digests) == []


def test_flows_came_to_all_kinds_of_ends(trail: Trail) -> None:
    last = [(rows[-1]["action"], rows[-1]["to"]) for rows in trail.rows.values()]
    actions = {row["action"] for rows in trail.rows.values() for row in rows}

    assert {"acknowledge", "deny", "expire", "cancel", "recover", "late_token"} <= actions
    assert {"orphan_token", "revoke", "purge", "import", "slow_down", "retry"} <= actions
    assert {state for _, state in last} >= {"awaiting-user", "polling", "authorized", "failed"}


# The canonical form.


@FEW
@given(event=events())
def test_event_comes_back_from_the_database_in_the_rfcs_form(
    store: SQLStore, event: dict[str, Any]
) -> None:
    if event["flow_id"] == STORE:
        event["flow_id"] = "noted"
    row = row_of(event, link(event, None, store.inner.audit_key))
    run_statement(store, "delete_events", {"id": event["flow_id"]})
    run_statement(store, "add_event", row)

    with store.snapshot() as snapshot:
        rows = [row for row in snapshot.events if row[STORED.index("flow_id")] == event["flow_id"]]
    run_statement(store, "delete_events", {"id": event["flow_id"]})
    assert [row[STORED.index("text")].encode() for row in rows] == [
        rfc8785.dumps({name: event[name] for name in HASHED})
    ]


# Histories.


def replayed(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Go through what happened, by the machine's table and nothing else."""
    first = events[0]
    brought = first["action"] == "import"
    state = first["from"] if brought else "init"
    attempt = first["attempt"] if brought else 0
    ended_at = first["time"] if brought and state in ("authorized", "expired", "failed") else None
    handover = Handover.NONE
    for event in events:
        action = ACTIONS[event["action"]]
        dest = action.login[State(state)]
        assert event["from"] == state
        if action.kind is Kind.LOGIN:
            state = dest.value
            ended_at = event["time"] if dest.ended else None
        attempt += action == "poll"
        handover = action.handover[handover]
        assert event["to"] == state
        assert event["attempt"] == attempt
    last = events[-1]
    return {
        "state": state,
        "attempt": attempt,
        "seq": last["seq"],
        "head": last["hash"],
        "reason": last["reason"],
        "in_doubt": last["in_doubt"],
        "interval": last["interval"],
        "ended": ended_at is not None,
        "handover": handover,
    }


@FEW
@given(random=st.randoms(use_true_random=False), most=st.integers(1, 40))
def test_trail_replays_to_the_flows_record(store: SQLStore, random: Random, most: int) -> None:
    login = Login(random, f"f{next(_numbers)}")
    login.begin_in(store)
    login.keep(store, most)

    flow = get(store, login.flow.id, secrets=False)
    assert replayed(store.events(flow.id)) == {
        "state": flow.state.value,
        "attempt": flow.attempt,
        "seq": flow.seq,
        "head": flow.head,
        "reason": flow.reason and flow.reason.value,
        "in_doubt": flow.in_doubt,
        "interval": round(flow.interval, 4),
        "ended": flow.ended_at is not None,
        "handover": flow.handover,
    }


@FEW
@given(random=st.randoms(use_true_random=False), most=st.integers(1, 40))
def test_time_in_each_state_sums_to_the_flows_life(
    store: SQLStore, random: Random, most: int
) -> None:
    login = Login(random, f"f{next(_numbers)}")
    store.add(login.flow)
    login.keep(store, most)

    flow = get(store, login.flow.id, secrets=False)
    told = Told.of(flow.id, store.events(flow.id))
    spells = list(told.spells())
    over = told.times[-1] if flow.ended_at is None else flow.ended_at
    life = pytest.approx(over - told.times[0], abs=0.002)
    assert sum(spell.until - spell.since for spell in spells) == life
    assert told.seconds == life
    assert all(one.until == next_.since for one, next_ in pairwise(spells))


def test_stores_in_which_all_that_happened_are_clean(store: SQLStore) -> None:
    for number in range(20):
        login = Login(Random(number), f"g{number}")
        login.begin_in(store)
        login.keep(store, 30)

    assert found(store) == []


# Retention.


def fill(store: SQLStore, name: str, at: float) -> list[str]:
    """Put flows into a store that end by themselves; return those that it would drop."""
    logins = [Login(Random(f"{name}{number}"), f"{name}{number}", at) for number in range(40)]
    for login in logins:
        login.begin_in(store)
        login.keep(store, 25)
    return [login.flow.id for login in logins if login.over_by(at + 1e6)]


def last_dropped(digests: Path) -> set[str]:
    path = files_of(digests)[-1][1]
    return {entry.flow_id for entry in read_entries(path, read_digest(path)) if entry.pruned}


def test_pruned_trail_is_clean_before_in_between_and_after(
    own_store: SQLStore, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (digests := tmp_path / "digests").mkdir()
    old = fill(own_store, "old", BEGIN - 1e8)
    fill(own_store, "new", BEGIN)
    take_digest(own_store, digests, signer, begin=True)
    assert delete_ended(own_store, BEGIN - 1e7) == len(old) > 5
    assert found(own_store, digests, signer) == []

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(own_store), "prune", die)
        with pytest.raises(KeyboardInterrupt):
            prune(own_store, digests, signer, BEGIN - 1e7)
    assert last_dropped(digests) == {*old}
    assert own_store.events(old[0])
    assert found(own_store, digests, signer) == []

    # The digest says it already.
    assert prune(own_store, digests, signer, BEGIN - 1e7) == Pruned(len(old), None)
    assert not any(own_store.events(flow_id) for flow_id in old)
    assert own_store.events(STORE)[-1]["action"] == "prune"
    assert found(own_store, digests, signer) == []

    assert prune(own_store, digests, signer, BEGIN - 1e7) == Pruned(0, None)
    assert take_digest(own_store, digests, signer) is not None
    fill(own_store, "newer", BEGIN)
    assert take_digest(own_store, digests, signer) is not None
    assert take_digest(own_store, digests, signer) is None
    assert found(own_store, digests, signer) == []


def test_what_is_dropped_without_a_digest_is_missed(
    own_store: SQLStore, signer: Signer, tmp_path: Path
) -> None:
    (digests := tmp_path / "digests").mkdir()
    old = fill(own_store, "old", BEGIN - 1e8)
    take_digest(own_store, digests, signer, begin=True)
    delete_ended(own_store, BEGIN)

    own_store.prune(old[:1])

    assert found(own_store, digests, signer) == [("removed_flow", old[0])]


def test_flows_that_the_store_still_has_keep_their_events(
    own_store: SQLStore, signer: Signer, tmp_path: Path
) -> None:
    (digests := tmp_path / "digests").mkdir()
    old = fill(own_store, "old", BEGIN - 1e8)

    take_digest(own_store, digests, signer, begin=True)

    assert prune(own_store, digests, signer, BEGIN) == Pruned(0, None)
    assert [path.name for path in digests.iterdir()] == ["digest-000001.jsonl"]
    assert all(own_store.events(flow_id) for flow_id in old)


def test_what_is_not_as_it_was_signed_or_was_not_purged_stays_to_be_found(
    own_store: SQLStore, signer: Signer, tmp_path: Path
) -> None:
    (digests := tmp_path / "digests").mkdir()
    old = fill(own_store, "old", BEGIN - 1e8)
    take_digest(own_store, digests, signer, begin=True)
    behind(own_store, "DELETE FROM {flows}")
    cut, replaced = [name for name in old if len(own_store.events(name)) > 2][:2]
    behind(own_store, f"DELETE FROM {{audit}} WHERE flow_id = '{cut}' AND seq > 1")
    behind(own_store, f"UPDATE {{audit}} SET hash = '{'f' * 64}' WHERE flow_id = '{replaced}'")
    before = found(own_store, digests, signer)
    assert {("cut_tail", cut), ("edited", replaced)} <= {*before}

    prune(own_store, digests, signer, BEGIN - 1e7)

    assert found(own_store, digests, signer) == before


def behind(store: SQLStore, statement: str) -> None:
    """Do something behind the store's back."""
    names = ("flows", "audit", "meta")
    statement = statement.format(
        **{name: store._connection.statements.table(name) for name in names}
    )
    if isinstance(store, SQLiteStore):
        with closing(sqlite3.connect(store.path, isolation_level=None)) as database:
            database.execute(statement)
        return
    assert isinstance(store, PostgresStore)
    with psycopg.connect(store._connection._url.reveal(), autocommit=True) as connection:
        connection.execute(statement)


def test_what_ended_later_keeps_its_events(
    own_store: SQLStore, signer: Signer, tmp_path: Path
) -> None:
    (digests := tmp_path / "digests").mkdir()
    old, new = fill(own_store, "old", BEGIN - 1e8), fill(own_store, "new", BEGIN)
    delete_ended(own_store, BEGIN + 1e7)
    with pytest.raises(StoreError, match="There is no digest"):
        prune(own_store, digests, signer, BEGIN - 1e7)
    assert all(own_store.events(flow_id) for flow_id in old)
    take_digest(own_store, digests, signer, begin=True)

    flows, digest, _ = prune(own_store, digests, signer, BEGIN - 1e7)

    assert digest is not None
    assert flows == digest.flows == len(old)
    assert last_dropped(digests) == {*old}
    assert all(own_store.events(flow_id) for flow_id in new)
    assert found(own_store, digests, signer) == []


# Several processes.


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_processes_find_what_one_finds(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = "" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    where, keys = url or f"sqlite:///{tmp_path / 'flows.db'}", [generate_key().reveal()]
    (digests := tmp_path / "digests").mkdir()
    store = open_store(where, keys=keys)
    assert isinstance(store, SQLStore)
    with closing(Trail(store, digests, Random(7))) as trail:

        def parted(processes: int = 3) -> tuple[list[Finding], int, int]:
            bounds = trail.store.bounds(processes)
            assert len(bounds) == processes - 1
            verification = PartedVerification(
                partial(part_of, where, keys),
                bounds,
                digests=digests,
                public_key=trail.public_key,
            )
            found = sorted(verification.findings(), key=repr)
            return found, verification.events, verification.flows

        events = sum(map(len, trail.rows.values()))
        assert parted() == ([], events, len(trail.rows))
        attack = Attack(trail, Random(9), tmp_path, keyed=True)
        for name in ("moved row", "moved flow", "removed flow", "cut tail", "wrong state"):
            MANIPULATIONS[name](attack)
        (digests / "digest-000003.jsonl").unlink()

        found, *_ = parted()
        assert found == sorted(trail.findings(trail.key), key=repr)
        kinds = {finding.kind for finding in found}
        assert {"moved", "removed_flow", "missing_digest", "wrong_state"} <= kinds


def test_process_that_is_killed_is_an_error() -> None:
    with pytest.raises(StoreError, match="was terminated"):
        list(PartedVerification(dying, ["f"]).findings())


ORPHANING: Final = """
import sys
from functools import partial
from deviceflow.trail.parallel import PartedVerification
from tests.evidence.parts import stuck

if __name__ == "__main__":
    list(PartedVerification(partial(stuck, sys.argv[1]), ["f"]).findings())
"""


def test_processes_end_with_the_one_that_they_work_for(tmp_path: Path) -> None:
    (script := tmp_path / "verify.py").write_text(ORPHANING)
    (told := tmp_path / "told").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen([sys.executable, script, told], env=environment, cwd=ROOT)
    while len(list(told.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.01)

    process.kill()
    process.wait(60)

    for path in told.iterdir():
        ended = Path(f"/proc/{path.name}")
        until = time.monotonic() + 60
        while ended.exists():
            assert time.monotonic() < until, "it goes on"
            time.sleep(0.01)


def test_process_that_cannot_open_the_trail_is_an_error(
    own_store: SQLStore, tmp_path: Path
) -> None:
    fill(own_store, "new", BEGIN)
    (tmp_path / "file").touch()
    verification = PartedVerification(
        partial(part_of, f"sqlite:///{tmp_path}/file/where.db", [generate_key().reveal()]),
        own_store.bounds(2),
    )

    with pytest.raises(StoreError):
        list(verification.findings())


# The key that authenticates events.


@pytest.mark.parametrize(
    ("keys", "clean"),
    [
        ("", False),
        ("one,store:", False),
        ("other,store:", False),
        ("other,one", False),
        ("other,one,store:", True),
        ("store: one other", True),
    ],
)
def test_trail_is_verified_with_all_keys_that_were_ever_in_use(
    own_store: SQLStore, monkeypatch: pytest.MonkeyPatch, keys: str, clean: bool
) -> None:
    for name in ("", "one,store:", "other,one,store:"):
        monkeypatch.setenv(audit_keys.VARIABLE, name)
        complete(own_store.inner.open(own_store._connection))
        fill(own_store, name[:3] or "own", BEGIN)
        assert found(own_store) == []
    monkeypatch.setenv(audit_keys.VARIABLE, keys)
    complete(own_store.inner.open(own_store._connection))

    assert (found(own_store) == []) is clean


# A trail in a file.

WRITER: Final = """
import sys
from random import Random
from deviceflow import Secret
from deviceflow.audit.events import render
from deviceflow.audit.jsonl import JSONLinesAudit
from tests.evidence.histories import Login, origin

path, name = sys.argv[1:]
audit = JSONLinesAudit(path, key=Secret("an audit key"), fsync=False)
random = Random(name)
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    login = Login(random, f"{name}-{number}")
    for transition in login.happen(30):
        audit.write(render(login.flow, transition, origin(random)), login.flow)
    if number == 19:
        print("halfway", flush=True)
"""
ROOT: Final = Path(__file__).parents[2]


def found_in(*paths: Path) -> tuple[list[tuple[str, str | None]], int, list[str]]:
    """Verify a trail in files; return the findings, how many events there are, and odd lines."""
    with read_lines([str(path) for path in paths]) as lines:
        verification = Verification(lines.events, None, AuditKey(Secret("an audit key")))
        findings: list[tuple[str, str | None]] = [
            (finding.kind, finding.flow_id) for finding in verification.findings()
        ]
        return findings, verification.events, list(lines.problems)


def written(path: Path, names: str, halfway: Callable[[], object] = lambda: None) -> None:
    """Let several processes write to one file at once."""
    writers = started(WRITER, ([str(path), name] for name in names))
    for writer in writers:
        assert line_of(writer) == "halfway\n"
    halfway()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0


def test_file_that_processes_write_at_once_is_clean(tmp_path: Path) -> None:
    written(path := tmp_path / "audit.jsonl", "abcd")

    findings, events, strange = found_in(path)
    assert (findings, strange) == ([], [])
    assert events == len(path.read_bytes().splitlines()) > 500


def test_file_that_is_moved_away_meanwhile_is_clean_with_what_came_after(tmp_path: Path) -> None:
    path, before = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    written(path, "abcd", lambda: path.rename(before))

    assert found_in(path, before)[0] == found_in(before, path)[0] == []
    assert found_in(path, before)[1] > found_in(before)[1] > 0
    # A flow whose beginning was moved away is no whole chain.
    assert {kind for kind, _ in found_in(path)[0]} <= {"removed"}


def write_some(path: Path) -> list[bytes]:
    written(path, "a")
    return path.read_bytes().splitlines(keepends=True)


def test_line_that_was_cut_in_half_is_told_and_the_one_behind_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write_some(path)
    at = next(n for n, line in enumerate(lines) if json.loads(line)["seq"] == 2)
    flow_id = json.loads(lines[at])["flow_id"]
    lines[at] = lines[at][:200]
    path.write_bytes(b"".join(lines))

    findings, events, strange = found_in(path)
    assert strange == [f"line {at + 1} of audit.jsonl is not an event"]
    assert findings == [("removed", flow_id)]
    assert events == len(lines) - 1


def test_last_line_that_was_cut_in_half_is_told(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write_some(path)
    path.write_bytes(b"".join(lines)[:-100])

    findings, events, strange = found_in(path)
    assert (findings, events) == ([], len(lines) - 1)
    assert strange == [f"line {len(lines)} of audit.jsonl is not an event"]


@pytest.mark.parametrize("kind", ["edited", "removed", "duplicated", "reordered in the file"])
def test_manipulated_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write_some(path)
    at = next(n for n, line in enumerate(lines) if json.loads(line)["seq"] == 2)
    event = json.loads(lines[at])
    if kind == "edited":
        lines[at] = json.dumps(event | {"actor": "somebody else"}).encode() + b"\n"
    elif kind == "removed":
        del lines[at]
    elif kind == "duplicated":
        lines.append(lines[at])
    else:
        lines.reverse()
    path.write_bytes(b"".join(lines))

    # Processes write as they come: an event's place is its number, and not the line's.
    expected = [] if kind == "reordered in the file" else [(kind, event["flow_id"])]
    assert found_in(path)[0] == expected


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"actor":', '"actor":"mallory","actor":'),
        ('"in_doubt":false', '"in_doubt":0'),
        ('"attempt":1,', '"attempt":true,'),
        ('"duration":null', '"duration":NaN'),
    ],
)
def test_line_that_says_two_things_is_no_event(tmp_path: Path, written: str, instead: str) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write_some(path)
    at = next(n for n, line in enumerate(lines) if json.loads(line)["seq"] == 2)
    flow_id = json.loads(lines[at])["flow_id"]
    lines[at] = re.sub(r'"attempt":\d+,', '"attempt":1,', lines[at].decode()).encode()
    assert written.encode() in lines[at]
    lines[at] = lines[at].replace(written.encode(), instead.encode())
    path.write_bytes(b"".join(lines))

    findings, _, strange = found_in(path)
    assert strange == [f"line {at + 1} of audit.jsonl is not an event"]
    assert findings == [("removed", flow_id)]


def test_line_in_another_encoding_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write_some(path)
    at = next(n for n, line in enumerate(lines) if json.loads(line)["seq"] == 2)
    flow_id = json.loads(lines[at])["flow_id"]
    path.write_bytes(b"".join([*lines[:at], *lines[at + 1 :], lines[at].decode().encode("utf-16")]))

    findings, _, strange = found_in(path)
    assert findings == [("removed", flow_id)]
    assert strange


def test_files_that_overlap_are_clean(tmp_path: Path) -> None:
    lines = write_some(tmp_path / "audit.jsonl")
    (one := tmp_path / "one.jsonl").write_bytes(b"".join(lines[:-20]))
    (other := tmp_path / "other.jsonl").write_bytes(b"".join(lines[20:]))

    assert found_in(one, other) == ([], len(lines), [])
    other.write_bytes(b"\r\n".join(line.strip() for line in lines))
    assert found_in(one, other) == ([], len(lines), [])
    other.write_bytes(b"".join([*lines, lines[7]]))
    assert found_in(one, other)[0] == [("duplicated", json.loads(lines[7])["flow_id"])]
    assert found_in(other, one)[0] == [("duplicated", json.loads(lines[7])["flow_id"])]


def test_where_there_is_no_room_for_the_order_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    write_some(path)
    limited = sqlite3.connect("", isolation_level=None)
    limited.execute("PRAGMA max_page_count = 3")
    monkeypatch.setattr("deviceflow.trail.jsonl_file.sqlite3.connect", lambda *_, **__: limited)

    with pytest.raises(StoreError, match="temporary file could not be written"):
        found_in(path)


def test_where_there_is_no_room_to_remember_the_error_says_so() -> None:
    entries = [Entry("f1", 1, "a" * 64)] * 1000
    with Ledger() as ledger:
        ledger._database.execute("PRAGMA max_page_count = 8")
        with pytest.raises(StoreError, match="temporary file could not be written"):
            ledger.take(1, entries)
