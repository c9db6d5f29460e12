"""Flows in a SQL database: one set of statements, which SQLite and PostgreSQL both understand.

Two tables matter. A row of `flows` is a flow as it stands (see `deviceflow.stores._rows`). `audit`
has a row for each of its transitions, written in the transaction that makes it true. The number of
its last transition is the flow's version: whoever moves a flow says which version it was read at,
and where that is no longer true, nothing happens.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, Self, TypeVar

from deviceflow.audit import log
from deviceflow.audit.chain import STORED, AuditKey, link
from deviceflow.audit.events import FIELDS, LISTS, STORE, render, render_store_event
from deviceflow.audit.reading import readable
from deviceflow.core.actions import (
    ACTIONS,
    ENDS_HANDOVER,
    IMPORT,
    OPEN_PLAINTEXT,
    PRUNE,
    ROTATE_KEYS,
)
from deviceflow.core.encryption import PLAIN, Keyless
from deviceflow.core.flow import Flow
from deviceflow.core.ports import FIRST_SETBACK, Claim, LeaseHeld, Origin, each, refuse
from deviceflow.core.sanitize import storable
from deviceflow.core.secret import Hidden, Secret, unseen
from deviceflow.core.states import State
from deviceflow.credentials.keys.audit import configured, names_own
from deviceflow.errors import (
    DeviceFlowError,
    FlowBusyError,
    SealError,
    StoreError,
    UnknownFlowError,
    UsageError,
)
from deviceflow.stores._rows import COLUMNS, Rows, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from deviceflow.core.actions import Action
    from deviceflow.core.encryption import Plain, Sealer
    from deviceflow.core.ports import Decide, StoredFlow, StoreEvent

    Mode = Literal["read", "lease", "write"]

_T = TypeVar("_T")

LONGEST_LEASE: Final = 86400.0
"""Seconds that a lease can last at most."""

MIGRATIONS: Final = (
    """
    CREATE TABLE {flows} (
        id TEXT {bytewise}NOT NULL PRIMARY KEY,
        seq BIGINT NOT NULL,
        state TEXT NOT NULL,
        live_name TEXT UNIQUE,
        created_at DOUBLE PRECISION NOT NULL,
        ended_at DOUBLE PRECISION,
        moved_at DOUBLE PRECISION NOT NULL,
        wake_at DOUBLE PRECISION,
        setbacks INTEGER NOT NULL DEFAULT 0,
        lease_owner TEXT,
        leased_at DOUBLE PRECISION,
        lease_until DOUBLE PRECISION,
        previous_owner TEXT,
        provider TEXT NOT NULL,
        record TEXT NOT NULL,
        code TEXT,
        token TEXT,
        revoke TEXT,
        head TEXT NOT NULL,
        mac TEXT NOT NULL
    );
    CREATE INDEX flows_wake ON {flows} (wake_at) WHERE wake_at IS NOT NULL;
    CREATE INDEX flows_all ON {flows} (created_at, id);
    CREATE INDEX flows_live ON {flows} (created_at, id) WHERE ended_at IS NULL;
    CREATE INDEX flows_ended ON {flows} (ended_at) WHERE ended_at IS NOT NULL;
    CREATE INDEX flows_token ON {flows} (ended_at, id) WHERE token IS NOT NULL;
    CREATE INDEX flows_revoke ON {flows} (ended_at, id) WHERE revoke IS NOT NULL;
    CREATE TABLE {audit} (
        "schema" TEXT NOT NULL,
        "event_id" TEXT NOT NULL,
        "time" TEXT NOT NULL,
        "flow_id" TEXT {bytewise}NOT NULL,
        "seq" BIGINT NOT NULL,
        "action" TEXT NOT NULL,
        "from" TEXT,
        "to" TEXT,
        "outcome" TEXT NOT NULL,
        "reason" TEXT,
        "detail" TEXT,
        "dialect" TEXT,
        "issuer" TEXT,
        "client_id" TEXT,
        "client_name" TEXT,
        "scopes" TEXT NOT NULL,
        "granted_scopes" TEXT,
        "purpose" TEXT,
        "attempt" BIGINT,
        "interval" DOUBLE PRECISION,
        "wait" DOUBLE PRECISION,
        "http_status" BIGINT,
        "duration" DOUBLE PRECISION,
        "in_doubt" BOOLEAN NOT NULL,
        "worker" TEXT,
        "host" TEXT,
        "pid" BIGINT,
        "engine" TEXT,
        "task_id" TEXT,
        "actor" TEXT,
        "token_fingerprint" TEXT,
        "code_fingerprint" TEXT,
        "row_digest" TEXT,
        "key_id" TEXT NOT NULL,
        "prev_hash" TEXT NOT NULL,
        "hash" TEXT NOT NULL,
        "mac" TEXT NOT NULL,
        PRIMARY KEY ("flow_id", "seq")
    ){clustered};
    """,
)
"""What brings a database from each version of the schema to the next."""

_ROW: Final = f"{', '.join(COLUMNS)}, {{now}}"
_SELECT: Final = f"SELECT {_ROW} FROM {{flows}} "
_LEASE: Final = """
    UPDATE {flows} SET previous_owner =
            CASE WHEN lease_owner IS NULL OR lease_owner = :owner
                THEN previous_owner ELSE lease_owner END,
        lease_owner = :owner, leased_at = {now}, lease_until = {now} + :seconds
"""
# A lease that is longer than any can be is void.
_FREE: Final = f"""(lease_until IS NULL OR lease_until <= {{now}} OR lease_owner = :owner
    OR lease_until > {{now}} + {LONGEST_LEASE})"""
_MOVE: Final = """
    UPDATE {flows} SET seq = :seq, state = :state, moved_at = :moved_at, record = :record,
        head = :head, mac = :mac, wake_at = :wake_at, setbacks = 0, previous_owner = NULL,
        lease_owner = CASE WHEN lease_owner = :release THEN NULL ELSE lease_owner END,
        lease_until = CASE WHEN lease_owner = :release THEN NULL ELSE lease_until END
"""
_BACKED_OFF: Final = "CASE WHEN setbacks BETWEEN 0 AND 5 THEN setbacks ELSE 6 END"
_PAGED: Final = "ORDER BY created_at DESC, id DESC LIMIT :limit"
_BEFORE: Final = "(created_at, id) < (:created_at, :id)"
_LEFT_OVER: Final = """
    SELECT id FROM {flows}
    WHERE %s IS NOT NULL AND ended_at <= :before AND (setbacks = 0 OR wake_at <= {now})
    ORDER BY ended_at, id LIMIT :limit OFFSET :skip
"""
# Of its own, since each index that one of these columns is in costs time to keep.
_TURN: Final = ", ended_at = :ended_at, live_name = :live_name, "
# With the provider in the very words that the secrets are bound to.
_SECRETS: Final = "provider = :provider, code = :code, token = :token, revoke = :revoke"
_AT: Final = " WHERE id = :id AND seq = :before"
# All flows that may be those that are asked for; see `deviceflow.trail.query`.
_BEGUN: Final = """
    SELECT flow_id, MIN("time") AS begun FROM {audit} WHERE flow_id <> :store GROUP BY flow_id
    HAVING (CAST(:since AS TEXT) IS NULL OR MIN("time") >= :since)
        AND (CAST(:until AS TEXT) IS NULL OR MIN("time") < :until)
        AND (CAST(:state AS TEXT) IS NULL OR MAX(CASE WHEN "to" = :state THEN 1 END) = 1)
        AND (CAST(:reason AS TEXT) IS NULL OR MAX(CASE WHEN reason = :reason THEN 1 END) = 1)
        AND (CAST(:actor AS TEXT) IS NULL OR MAX(CASE WHEN actor = :actor THEN 1 END) = 1)
        AND (CAST(:client AS TEXT) IS NULL
            OR MAX(CASE WHEN client_id = :client OR client_name = :client THEN 1 END) = 1)
    ORDER BY begun """

_TRAIL: Final = "SELECT {{stored}} FROM {{audit}} {} ORDER BY flow_id, seq"
_STANDS: Final = f"SELECT {', '.join(COLUMNS)} FROM {{{{flows}}}} {{}} ORDER BY id"
_LASTS: Final = """
    SELECT flow_id, seq, hash FROM {audit}
    JOIN (SELECT flow_id AS name, MAX(seq) AS last FROM {audit} GROUP BY flow_id) AS lasts
        ON flow_id = name AND seq = last
"""

_STATEMENTS: Final = {
    "now": "SELECT {now}",
    "add": f"""
        INSERT INTO {{flows}} ({", ".join(COLUMNS)}, wake_at)
        VALUES ({", ".join(f":{name}" for name in COLUMNS)}, :wake_at)
        ON CONFLICT DO NOTHING
    """,
    "get": _SELECT + "WHERE id = :id",
    "of_name": _SELECT + "WHERE live_name = :live_name",
    "all_first": _SELECT + _PAGED,
    "all_next": f"{_SELECT} WHERE {_BEFORE} {_PAGED}",
    "live_first": f"{_SELECT} WHERE ended_at IS NULL {_PAGED}",
    "live_next": f"{_SELECT} WHERE ended_at IS NULL AND {_BEFORE} {_PAGED}",
    "claim": f"{_LEASE} WHERE id = :id AND {_FREE} RETURNING {_ROW}, previous_owner",
    "held": "SELECT lease_until, leased_at FROM {flows} WHERE id = :id",
    "end_lease": "UPDATE {flows} SET lease_until = {now} WHERE id = :id AND leased_at = :since",
    "leases_taken_after": """
        SELECT id, leased_at FROM {flows}
        WHERE wake_at <= {now} AND lease_until > {now} AND leased_at > {now} + 1
    """,
    "claim_due": f"""{_LEASE}
        WHERE id = (
            SELECT id FROM {{flows}} WHERE wake_at <= (SELECT {{now}}) AND {_FREE}
            ORDER BY wake_at LIMIT 1 {{skip_locked}}
        ) RETURNING {_ROW}, previous_owner
    """,
    "wake_after_clock_change": """
        UPDATE {flows} SET wake_at = {now} WHERE wake_at > {now} AND moved_at > {now} + 1
    """,
    "move": _MOVE + _AT,
    "turn": _MOVE + _TURN + _SECRETS + _AT,
    "note": "INSERT INTO {audit} ({fields}) VALUES ({values})",
    "noted_by": "SELECT worker FROM {audit} WHERE flow_id = :id AND seq = :seq",
    "drop": "DELETE FROM {audit} WHERE flow_id = :id",
    "lasts": _LASTS + "ORDER BY flow_id",
    "over": _LASTS
    + """
        WHERE "time" < :until AND flow_id <> :store
            AND NOT EXISTS (SELECT 1 FROM {flows} WHERE id = flow_id)
            AND ("to" IN ('expired', 'failed') OR "to" = 'authorized' AND EXISTS (
                SELECT 1 FROM {audit} AS its WHERE its.flow_id = name
                    AND its.action IN ({token_gone})
            ))
        ORDER BY flow_id
    """,
    "trail_all": _TRAIL.format(""),
    "trail_rest": _TRAIL.format("WHERE flow_id >= :first"),
    "trail_part": _TRAIL.format("WHERE flow_id >= :first AND flow_id < :last"),
    "stands_all": _STANDS.format(""),
    "stands_rest": _STANDS.format("WHERE id >= :first"),
    "stands_part": _STANDS.format("WHERE id >= :first AND id < :last"),
    "event_at": "SELECT flow_id FROM {audit} ORDER BY flow_id, seq LIMIT 1 OFFSET :place",
    "last": "SELECT seq, hash FROM {audit} WHERE flow_id = :id ORDER BY seq DESC LIMIT 1",
    "event_of": "SELECT seq, hash FROM {audit} WHERE flow_id = :id AND seq = :seq",
    "lock": "UPDATE {meta} SET value = value WHERE name = 'version'",
    "history": "SELECT {fields} FROM {audit} WHERE flow_id = :id ORDER BY seq",
    "begun_oldest": _BEGUN + "ASC, flow_id ASC",
    "begun_newest": _BEGUN + "DESC, flow_id DESC",
    "of_these": "SELECT {fields} FROM {audit} WHERE flow_id IN ({these}) ORDER BY flow_id, seq",
    "events": "SELECT COUNT(*) FROM {audit}",
    "release": """
        UPDATE {flows} SET lease_owner = NULL, lease_until = NULL
        WHERE id = :id AND lease_owner = :owner
    """,
    "snooze": f"""
        UPDATE {{flows}} SET lease_owner = NULL, lease_until = NULL,
            wake_at = {{now}} + {FIRST_SETBACK} * (1 << {_BACKED_OFF}), setbacks = {_BACKED_OFF} + 1
        WHERE lease_owner = :owner OR id = :id AND {_FREE}
    """,
    "reschedule": """
        UPDATE {flows} SET lease_owner = NULL, lease_until = NULL, wake_at = :wake_at, setbacks = 0
        WHERE id = :id AND seq = :seq AND lease_owner = :owner
    """,
    "with_token": _LEFT_OVER % "token",
    "with_revoke": _LEFT_OVER % "revoke",
    "forgettable": _SELECT
    + """
        WHERE ended_at <= :before AND token IS NULL AND revoke IS NULL
        ORDER BY ended_at, id LIMIT :limit OFFSET :skip
    """,
    "delete_ended": "DELETE FROM {flows} WHERE id = :id AND mac = :mac",
    "other_keys": """
        SELECT id FROM {flows}
        WHERE mac NOT LIKE :prefix
            OR code NOT LIKE :prefix OR token NOT LIKE :prefix OR revoke NOT LIKE :prefix
        ORDER BY id LIMIT :limit OFFSET :skip
    """,
    "any": "SELECT 1 FROM {flows} UNION ALL SELECT 1 FROM {audit} LIMIT 1",
    "meta": "SELECT value FROM {meta} WHERE name = :name",
    "set_meta": """
        INSERT INTO {meta} (name, value) VALUES (:name, :value)
        ON CONFLICT (name) DO UPDATE SET value = :value
    """,
    "has_meta": "{has_meta}",
    "offer_meta": "INSERT INTO {meta} (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING",
    "create_meta": "CREATE TABLE IF NOT EXISTS {meta} (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
}

_PAGE: Final = 200

THESE: Final = tuple(f"id{number}" for number in range(50))
"""The names of the values of the query `of_these`: flow ids."""

_NOBODY: Final = Origin()
_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: that takes its time
_CREATED_AT: Final = COLUMNS.index("created_at")
_RECORD: Final = COLUMNS.index("record")
_SEQ: Final = COLUMNS.index("seq")
_MAC: Final = COLUMNS.index("mac")
_NOW: Final = len(COLUMNS)
_HIGHEST: Final = 2**53
_TRIES: Final = 3
_VERSION: Final = re.compile(r"[0-9]{1,9}")
_RESEALING: Final = 10.0
_LONGEST_NAME: Final = 500  # an index of PostgreSQL's takes 2,700 bytes


class _Rows(Protocol):
    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Execute(Protocol):
    """Runs a statement, by its name, within the transaction that is open."""

    def __call__(self, name: str, values: Mapping[str, Any]) -> _Rows: ...


class Query(Protocol):
    """Yields the rows of a query, by its name."""

    def __call__(self, name: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]: ...


class Snapshot(NamedTuple):
    """What a store holds at one moment, in the order of the flows' ids, byte by byte.

    Attributes:
        events: All events of all flows, each flow's by their numbers, as tuples in the order of
            `deviceflow.audit.chain.STORED`.
        flows: Each flow's row.
        key: What authenticates the events; None where the store is only read, and has none.
    """

    events: Iterator[tuple[Any, ...]]
    flows: Iterator[StoredFlow]
    key: AuditKey | None


class Resealed(NamedTuple):
    """What sealing with the first key came to.

    Attributes:
        flows: How many flows were sealed with it.
        problems: What kept others from that.
    """

    flows: int
    problems: list[DeviceFlowError]


class SQLStore(ABC):
    """What `SQLiteStore` and `PostgresStore` have in common: all but the connection.

    Attributes:
        durable: True: flows outlive the process.
        keeps_trail: True: each flow's events are kept beside it.
    """

    durable = True
    keeps_trail = True

    def __init__(
        self,
        *,
        now: str,
        has_meta: str,
        skip_locked: str = "",
        namespace: str = "",
        clustered: str = "",
        bytewise: str = "",
    ) -> None:
        """Remember how this database says it.

        Args:
            now: The SQL for the time of day, in seconds since 1970.
            has_meta: The SQL that finds a row if there is a table `meta`.
            skip_locked: The SQL for passing over rows that others have locked.
            namespace: The schema in which the tables are, with a dot behind it.
            clustered: What makes a table be kept in the order of its key.
            bytewise: What makes a column be compared byte by byte, as Python does.
        """
        names = {name: f"{namespace}{name}" for name in ("flows", "audit", "meta")}
        self._words = names | {
            "now": now,
            "skip_locked": skip_locked,
            "clustered": clustered,
            "bytewise": bytewise,
            "has_meta": has_meta,
            "fields": ", ".join(f'"{name}"' for name in FIELDS),
            "stored": ", ".join(f'"{name}"' for name in STORED),
            "values": ", ".join(f":{name}" for name in FIELDS),
            "these": ", ".join(f":{name}" for name in THESE),
            "token_gone": ", ".join(f"'{name}'" for name in (*ENDS_HANDOVER, IMPORT)),
        }
        self._sql = {name: self._worded(text) for name, text in _STATEMENTS.items()}
        self._rows: Rows
        self._audit_key: AuditKey | None
        self._read_only = False

    @property
    def keyed(self) -> bool:
        """Whether there is a key to check the events' MACs with; always, if it may be written."""
        return self._audit_key is not None

    def _key_to_write(self) -> AuditKey:
        if self._audit_key is None:
            raise _only_read()
        return self._audit_key

    def _transact(self, work: Callable[[Execute], _T], mode: Mode = "write") -> _T:
        """Do what `_attempt` does; what goes wrong comes without frames that show a row."""
        if self._read_only and mode != "read":
            raise _only_read()
        return unseen(lambda: self._attempt(work, mode))

    def _again(
        self, work: Callable[[Execute], _T | None], flow_id: str, mode: Mode = "write"
    ) -> _T:
        """Do what `_transact` does, a few times, until something comes of it."""
        for _ in range(_TRIES):
            if (found := self._transact(work, mode)) is not None:
                return found
        raise _ignored(flow_id)

    @abstractmethod
    def _attempt(self, work: Callable[[Execute], _T], mode: Mode) -> _T:
        """Do `work`, and in mode `write` in one transaction: all of it, or nothing and an error.

        Args:
            work: May be called more than once, if the connection is lost meanwhile.
            mode: `read` changes nothing; `lease` changes something by one statement, whose rows
                are all fetched, and that need not survive a power cut.

        Raises:
            StoreError: It could not be done; a person can tell from it why.
        """

    @abstractmethod
    @contextmanager
    def reading(self) -> Iterator[Query]:
        """Give what yields the rows of a query by its name, however many, all of one moment."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The protocol.

    def now(self, client_now: float) -> float:
        """Return what time it is for this store: the database's, where that has a clock."""
        return float(
            self._transact(lambda do: do("now", {"now": client_now}).fetchone()[0], "read")
        )

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        """Keep a new flow, or return the open one of the same name instead."""
        _check_names(flow)
        event = None
        if flow.seq:
            # Its events so far are elsewhere: the chain here begins with saying so.
            event = render(flow, flow.record_import(self.now(time.time())))
        self._rows.seal(flow)
        digest, columns = self._rows.columns(flow)
        if event is None:
            head = self._key_to_write().mark(digest)
        else:
            event["row_digest"] = digest
            head = flow.head = link(event, None, self._audit_key, flow)
        self._rows.sign(columns, digest, head)

        def work(do: Execute) -> Flow | Hidden[Any] | None:
            values = columns.reveal()
            if do("add", values).rowcount == 1:
                self._put(do, event and _columns(event), store_event)
                return flow
            looked = values | {"now": 0.0}
            found = do("get", looked).fetchone() or do("of_name", looked).fetchone()
            return found and Hidden(found)

        # The name's flow may end between two statements.
        kept: Any = self._again(work, flow.id)
        if not isinstance(kept, Flow):
            found = self._rows.flow(kept)
            if found.id != flow.id:
                return found
            if kept.reveal()[_RECORD] != columns.reveal()["record"]:
                raise UsageError("A flow of this id is in the store already.", flow_id=flow.id)
            # Added already, and the connection was lost just then.
            flow.as_stored = found.as_stored
        if event is not None:
            log.emit(log.TRANSITION, event)
        return flow

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of the flow, with its secrets or without.

        Raises:
            UnknownFlowError: There is none of that id.
        """
        values = {"id": _key(flow_id), "now": 0.0}
        row = self._transact(lambda do: _hidden(do("get", values).fetchone()), "read")
        if row is None:
            raise UnknownFlowError(flow_id=flow_id)
        return self._rows.flow(row, secrets=secrets)

    def flows(
        self, *, live: bool = False, on_problem: Callable[[DeviceFlowError], object] = refuse
    ) -> Iterator[Flow]:
        """Yield all flows, or those that have not ended, the newest first, without secrets."""
        name, after = "live" if live else "all", {"limit": _PAGE, "now": 0.0}
        page = "first"
        while rows := self._page(f"{name}_{page}", after):
            for row in rows:
                try:
                    flow = self._rows.flow(row, secrets=False)
                except DeviceFlowError as problem:
                    on_problem(problem)
                else:
                    yield flow
            after |= {"created_at": rows[-1].reveal()[_CREATED_AT], "id": rows[-1].reveal()[0]}
            page = "next"

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take the flow's lease for so many seconds, or say who has it."""
        values = {"id": _key(flow_id), "owner": owner, "now": client_now, "seconds": seconds}
        kept = _Kept()

        def work(do: Execute) -> Claim | LeaseHeld | None:
            if taken := do("claim", values).fetchall():
                return self._decided(do, Hidden(taken[0]), decide, kept)
            row, held = do("get", values).fetchone(), do("held", values).fetchone()
            if row is None:
                raise UnknownFlowError(flow_id=flow_id)
            until, since = held or (None, None)
            left = (until or 0.0) - row[_NOW]
            if left <= 0:
                return None
            return LeaseHeld(self._rows.flow(Hidden(row), secrets=False), left, _time(since))

        # It may be given back just then. One that cannot be read is not kept from others either,
        # who may be able to: the error undoes the lease.
        done: Any = self._again(work, flow_id)
        kept_or_held: Claim | LeaseHeld = done
        return kept_or_held

    def claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None = None
    ) -> Claim | None:
        """Take the lease of the flow that has been due the longest, if one is due and free."""
        values = {"owner": owner, "now": client_now, "seconds": seconds}
        kept = _Kept()

        def work(do: Execute) -> Claim | DeviceFlowError | None:
            taken = [*map(Hidden, do("claim_due", values).fetchall())]
            if not taken:
                return None
            try:
                self._rows.flow(taken[0])
            except DeviceFlowError as problem:
                return problem  # and the lease is kept
            return self._decided(do, taken[0], decide, kept)

        done = self._transact(work)
        if isinstance(done, DeviceFlowError):
            raise done
        return done

    def _decided(self, do: Execute, row: Hidden[Any], decide: Decide | None, kept: _Kept) -> Claim:
        """Return the claim of a row, moved and kept as `decide` says.

        Args:
            do: Runs a statement.
            row: The row, whose lease was taken.
            decide: As for `claim`.
            kept: What an attempt before this one has kept, if its answer was lost.
        """
        claim = self._claimed(row)
        if kept.claim is not None and row.reveal()[_MAC] == kept.mac:
            return kept.claim
        event = None if decide is None else decide(claim)
        if event is None:
            return claim
        moved, columns = self._written(claim.flow, event)
        values = columns.reveal() | {"release": None}
        if do(moved, values).rowcount != 1:
            raise _ignored(claim.flow.id)
        self._put(do, _columns(event), None)
        kept.claim, kept.mac = claim._replace(event=event), values["mac"]
        return kept.claim

    def end_lease(self, flow_id: str, since: float, client_now: float) -> None:
        """End the lease that was taken then, and no other."""
        values = {"id": _key(flow_id), "since": since, "now": client_now}
        self._transact(lambda do: do("end_lease", values), "lease")

    def leases_taken_after(self, client_now: float) -> list[tuple[str, float]]:
        """Return flows that are due and under a lease that seems to be taken after `client_now`."""
        values = {"now": client_now}
        found = self._transact(lambda do: do("leases_taken_after", values).fetchall(), "read")
        return [(flow_id, at) for flow_id, since in found if (at := _time(since)) is not None]

    def wake_after_clock_change(self, client_now: float) -> None:
        """Wake what waits for a time that was written before the clock was set back."""
        self._transact(lambda do: do("wake_after_clock_change", {"now": client_now}), "lease")

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        """Keep the flow as it is after `event`, and that with it, unless others went on."""
        statement, columns = self._written(flow, event)
        columns.reveal().update(release=release)
        noted = _columns(event)

        def work(do: Execute) -> bool:
            values = columns.reveal()
            changed = do(statement, values).rowcount
            if changed == 1:
                self._put(do, noted, store_event)
                return True
            # Done already, if the connection was lost just as it was being done.
            noted_by = do("noted_by", values).fetchone()
            if noted_by is not None and noted_by[0] == event["worker"]:
                return True
            stored = do("get", values | {"now": 0.0}).fetchone()
            if changed or (stored is not None and stored[_SEQ] == values["before"]):
                raise _ignored(flow.id)
            if release is not None:
                do("release", {"id": flow.id, "owner": release})
            return False

        done = self._transact(work)
        if done and ACTIONS[event["action"]].wipes and self._rows.sealer.prefix == PLAIN:
            self._leave_no_trace()
        return done

    def _written(self, flow: Flow, event: dict[str, Any]) -> tuple[str, Hidden[dict[str, Any]]]:
        """Link the event, and return which statement keeps the flow, and the values of its row."""
        # Tried again, it is the very same row: the event names its digest.
        again = event["hash"] is not None
        moved = not ACTIONS[event["action"]].changes_secrets and flow.as_stored is not None
        if not (moved or again):
            self._rows.seal(flow)
        digest, columns = self._rows.columns(flow)
        if not again:
            event["row_digest"] = digest
        flow.head = link(event, flow.head, self._audit_key, flow)
        self._rows.sign(columns, digest, flow.head)
        columns.reveal().update(before=event["seq"] - 1)
        return "move" if moved else "turn", columns

    def _leave_no_trace(self) -> None:  # noqa: B027  # not every database has such a thing
        """Overwrite what was wiped in what the database keeps besides, if that can be done."""

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""
        self._transact(lambda do: do("release", {"id": flow_id, "owner": owner}), "lease")

    def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        """Give the lease back, if `owner` has it, and have no sweep find the flow for a while."""
        values = {"id": _key(flow_id), "owner": owner, "now": client_now}
        self._transact(lambda do: do("snooze", values), "lease")

    def reschedule(self, flow: Flow, owner: str) -> None:
        """Give the lease back, and have sweeps find the flow when it is due."""
        values = {"id": flow.id, "seq": flow.seq, "owner": owner, "wake_at": flow.wake_at}
        self._transact(lambda do: do("reschedule", values), "lease")

    def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        """Return the ids of flows that ended before then and hold such secrets, some at a time."""
        values = {"before": ended_before, "now": client_now, "limit": _PAGE, "skip": skip}
        found = self._transact(lambda do: do(f"with_{kind}", values).fetchall(), "read")
        return [name_of(flow_id) for (flow_id,) in found]

    def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = refuse,
    ) -> int:
        """Drop the flows that ended before then and hold no secret; return how many."""
        dropped = skip = 0
        values = {"before": ended_before, "limit": _PAGE, "now": 0.0}
        while rows := self._page("forgettable", values | {"skip": skip}):
            over = list[dict[str, Any]]()
            for row in rows:
                try:
                    self._rows.flow(row, secrets=False)
                except DeviceFlowError as problem:
                    on_problem(problem)
                else:
                    over.append(dict(zip(COLUMNS, row.reveal(), strict=False)))
            gone = self._transact(partial(_forget, over))
            dropped += gone
            skip += len(rows) - gone
        return dropped

    def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        """Put on record what belongs to no flow."""
        self._transact(lambda do: self._note(do, action, client_now, detail, origin))

    def _put(
        self, do: Execute, event: dict[str, Any] | None, store_event: StoreEvent | None
    ) -> None:
        if event is not None and do("note", event).rowcount != 1:
            raise _ignored(event["flow_id"])
        if store_event is not None:
            self._note(do, *store_event)

    def _note(
        self, do: Execute, action: Action, client_now: float, detail: str, origin: Origin = _NOBODY
    ) -> None:
        do("lock", {})  # one at a time: each is the next link of one chain
        seq, head = do("last", {"id": STORE}).fetchone() or (0, None)
        if not (isinstance(seq, int) and 0 <= seq < _HIGHEST and isinstance(head, str | None)):
            raise StoreError(
                "The store's own events are damaged, so that none can be added.",
                hint="See what was done to them: deviceflow audit verify",
            )
        now = do("now", {"now": client_now}).fetchone()[0]
        event = render_store_event(action, now, seq + 1, detail, origin)
        link(event, head, self._audit_key)
        self._put(do, _columns(event), None)

    # What only a database has.

    def history(self, flow_id: str) -> list[dict[str, Any]]:
        """Return the events of a flow, as they were logged, in their order.

        Each field is of its type or null, whatever somebody has put into the database.
        """
        values = {"id": _key(flow_id)}
        rows = self._transact(lambda do: do("history", values).fetchall(), "read")
        return [readable(dict(zip(FIELDS, row, strict=True))) for row in rows]

    @contextmanager
    def snapshot(self, first: str = "", last: str | None = None) -> Iterator[Snapshot]:
        """Give the trail and the flows, as they are at one moment.

        Args:
            first: From which flow's id on.
            last: Before which one's; None for all that there are.
        """
        values = {"first": first, "last": last}
        part = "all" if (first, last) == ("", None) else "rest" if last is None else "part"
        with self.reading() as rows:
            events, flows = rows(f"trail_{part}", values), rows(f"stands_{part}", values)
            yield Snapshot(events, map(self._rows.stands, flows), self._audit_key)

    def bounds(self, parts: int) -> list[str]:
        """Return the ids that part the flows into so many parts, or fewer, of as many events."""
        with self.reading() as rows:
            whole = next(rows("events"))[0]
            found = {
                flow_id
                for part in range(1, parts)
                for (flow_id,) in rows("event_at", {"place": whole * part // parts})
            }
        # What is no text comes behind all that is: in the last part.
        return sorted(flow_id for flow_id in found if isinstance(flow_id, str) and flow_id)

    def prune(self, flow_ids: Collection[str]) -> None:
        """Drop all events of these flows, and note it; a digest must say so by then."""

        def work(do: Execute) -> None:
            for flow_id in flow_ids:
                do("drop", {"id": flow_id})
            self._note(do, PRUNE, time.time(), f"the events of {len(flow_ids)} flows")

        self._transact(work)

    def reseal(self) -> Resealed:
        """Seal with the first key what another key has sealed.

        Interrupted, it can be done again at any time. A flow that somebody is at work on is not
        waited for: its problem says when to try again.
        """
        done, problems = 0, list[DeviceFlowError]()
        values = {"prefix": f"{self._rows.sealer.prefix}%", "limit": _PAGE}

        def page(skip: int) -> list[Any]:
            found = values | {"skip": skip}
            return self._transact(lambda do: do("other_keys", found).fetchall(), "read")

        for (flow_id,) in each(page, set()):
            try:
                done += self._reseal(flow_id)
            except DeviceFlowError as problem:
                problems.append(problem)
        kept = str(self._sealing())
        if not problems and not kept.startswith(self._rows.sealer.prefix):
            mark = self._mark(self._open_mark(kept))

            def work(do: Execute) -> None:
                do("set_meta", mark)
                self._note(do, ROTATE_KEYS, time.time(), "resealed with another key")

            self._transact(work)
        return Resealed(done, problems)

    def _reseal(self, flow_id: object) -> bool:
        owner = f"{secrets.token_hex(6)}.{os.getpid()}"
        origin = Origin(worker=owner, pid=os.getpid())
        claim = self.claim(name_of(flow_id), owner, time.time(), _RESEALING)
        if isinstance(claim, LeaseHeld):
            raise FlowBusyError(flow_id=claim.flow.id, wait_seconds=claim.seconds)
        flow = claim.flow
        try:
            if claim.previous_owner is not None and flow.state is not State.POLLING:
                self._keep(
                    flow, render(flow, flow.take_over(claim.now, claim.previous_owner), origin)
                )
            return self._keep(flow, render(flow, flow.reseal(claim.now), origin))
        finally:
            self.release(flow.id, owner)

    def _keep(self, flow: Flow, event: dict[str, Any]) -> bool:
        """Commit what the store itself has done to a flow, and log it."""
        if kept := self.commit(flow, event):
            log.emit(log.TRANSITION, event)
        return kept

    # For the two heirs.

    @abstractmethod
    def _migrate_if_needed(self) -> None:
        """Bring the schema up to date."""

    def _start(
        self, find_sealer: Callable[[], Sealer | Plain | Keyless], *, read_only: bool
    ) -> None:
        """Open the store, or leave nothing open.

        Args:
            find_sealer: Finds what seals its secrets, once the schema is there.
            read_only: Whether nothing may be written to it, not even the schema.
        """
        self._read_only = read_only
        try:
            self._migrate_if_needed()
            self._rows = Rows(self._store_id(), find_sealer)
            self._open_audit_key(time.time())
        except BaseException:
            self.close()
            raise

    def _store_id(self) -> str:
        """Return the store's own name, made at random when the store was."""
        made = {"name": "store_id", "value": secrets.token_hex(8)}

        def work(do: Execute) -> None:
            # Without its name nothing in it could be verified any more; so that is not made anew.
            if do("any", {}).fetchone() is None:
                do("offer_meta", made)

        if (found := self._transact(_meta("store_id"), "read")) is None:
            self._transact(work)
            found = self._transact(_meta("store_id"), "read")
        if found is None:
            raise StoreError(
                "The store's own id is gone from its table `meta`: somebody has removed it.",
                hint="Nothing was sent. Restore the store from a backup.",
            )
        return found

    def _is_current(self, do: Execute) -> bool:
        """Tell whether the schema is of this version.

        Raises:
            StoreError: A newer deviceflow made it; or it is not, and may not be written.
        """
        current = self._version(do) == len(MIGRATIONS)
        if self._read_only and not current:
            raise StoreError(
                "There is no store here yet, or it is of an older version.",
                hint="Open it once as a user who may write it: deviceflow list",
            )
        return current

    def _migrate(self, do: Execute, run: Callable[[str], object]) -> None:
        """Bring the schema up to date, under a lock that keeps others from doing the same.

        Args:
            do: Runs a statement by its name.
            run: Runs a statement as it is.
        """
        do("create_meta", {})
        for script in MIGRATIONS[self._version(do) :]:
            for statement in filter(str.strip, self._worded(script).split(";")):
                run(statement)
        do("set_meta", {"name": "version", "value": str(len(MIGRATIONS))})

    def _version(self, do: Execute) -> int:
        found = _meta("version")(do) if do("has_meta", {}).fetchone() else None
        if found is not None and not _VERSION.fullmatch(found):
            raise StoreError(
                "The version of the store's schema, in its table `meta`, is not a number: somebody"
                " has changed it.",
                hint="Nothing was changed. Restore the store from a backup.",
            )
        version = int(found or 0)
        if version > len(MIGRATIONS):
            raise StoreError(
                f"This store was made by a newer deviceflow: its schema is version {version}, and"
                f" this one knows {len(MIGRATIONS)}.",
                hint="Upgrade deviceflow here. Nothing was changed.",
            )
        return version

    def _sealing(self) -> str | None:
        """Return the audit key as it is sealed in the store; None in a store that is new.

        It is also the mark of the sealing key: whoever opens it has the right one.
        """
        return self._transact(_meta("audit_key"), "read")

    def _open_audit_key(self, client_now: float) -> None:
        """Get the audit key, and with it the proof that the sealing key is the store's own.

        Args:
            client_now: What time it is.

        Raises:
            SealError: It is another one.
            StoreError: It is gone.
        """
        plain = self._rows.sealer.prefix == PLAIN
        if self._sealing() is None:
            if self._read_only:
                raise _audit_key_gone()
            self._make_audit_key(client_now, plain=plain)
        if isinstance(self._rows.sealer, Keyless):
            # Where the store's own key is one of those that are meant, the others are not enough.
            keys = [] if names_own() else configured()
            self._audit_key = AuditKey(*keys, store=self._rows.store_id) if keys else None
            return
        if plain:
            log.emit(log.PLAINTEXT, {"store": repr(self)}, logging.WARNING)
        own = self._open_mark(str(self._sealing()))
        self._audit_key = AuditKey(*configured(own), store=self._rows.store_id)

    def _make_audit_key(self, client_now: float, *, plain: bool) -> None:
        own = Secret(secrets.token_urlsafe(32))
        mark = self._mark(own)
        self._audit_key = AuditKey(*configured(own), store=self._rows.store_id)

        def work(do: Execute) -> bool:
            if _meta("audit_key")(do) is not None:
                return True  # others have made the store just now
            if do("any", {}).fetchone() is not None:
                return False
            do("offer_meta", mark)
            if plain:
                self._note(do, OPEN_PLAINTEXT, client_now, "secrets are kept in clear")
            return True

        if not self._transact(work):
            raise _audit_key_gone()

    def _mark(self, audit_key: Secret) -> dict[str, str]:
        sealed = self._rows.sealer.seal(audit_key.reveal(), "audit key", self._rows.store_id)
        return {"name": "audit_key", "value": sealed}

    def _open_mark(self, sealed: str) -> Secret:
        try:
            return Secret.of(self._rows.open(sealed, "audit key", self._rows.store_id))
        except TypeError:
            problem = SealError(
                "The store's audit key is damaged in its table `meta`: somebody has changed it.",
                hint="Nothing was changed. Restore the store from a backup.",
            )
        raise problem

    def _worded(self, text: str) -> str:
        """Return a statement in this database's words."""
        return re.sub(r"\{(\w+)\}", lambda word: self._words[word[1]], text)

    def _page(self, name: str, after: Mapping[str, Any]) -> list[Hidden[Any]]:
        return self._transact(lambda do: [*map(Hidden, do(name, after).fetchall())], "read")

    def _claimed(self, row: Hidden[Any]) -> Claim:
        now, previous_owner = row.reveal()[_NOW:]
        return Claim(self._rows.flow(row), now, previous_owner)


class _Kept:
    """What was kept with a lease, for the case that only the answer to that was lost."""

    def __init__(self) -> None:
        self.claim: Claim | None = None
        self.mac = ""


def _only_read() -> StoreError:
    return StoreError("This store was opened for reading only: nothing can be written to it.")


def _audit_key_gone() -> StoreError:
    return StoreError(
        "The store's audit key is gone from its table `meta`: somebody has removed it.",
        hint="Nothing was changed. Restore the store from a backup, or verify what is left"
        " in it with the key from there.",
    )


def _ignored(flow_id: str) -> StoreError:
    return StoreError(
        "The database did not do what it was told, and gave no error.",
        flow_id=flow_id,
        hint="See whether its tables have triggers or rules, or lack their primary keys. Restore"
        " the store from a backup.",
    )


def _forget(rows: list[dict[str, Any]], do: Execute) -> int:
    return sum(do("delete_ended", {"id": row["id"], "mac": row["mac"]}).rowcount for row in rows)


def _check_names(flow: Flow) -> None:
    name = flow.name
    if flow.id == STORE:
        raise UsageError("No flow can have this id.", flow_id=flow.id)
    if name is not None and (len(name) > _LONGEST_NAME or storable(name) != name):
        raise UsageError(
            f"A login's name is a text of at most {_LONGEST_NAME} characters, without the"
            " character NUL, in proper Unicode."
        )


def _meta(name: str) -> Callable[[Execute], str | None]:
    def read(do: Execute) -> str | None:
        row = do("meta", {"name": name}).fetchone()
        return None if row is None else str(row[0])

    return read


def _key(flow_id: str) -> str:
    """Return an id as every database takes it, also one that was found in a damaged row."""
    return storable(name_of(flow_id))


def _time(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _hidden(row: Any) -> Hidden[Any] | None:
    return None if row is None else Hidden(row)


def _columns(event: Mapping[str, Any]) -> dict[str, Any]:
    columns = dict(event)
    for name in LISTS:
        if columns[name] is not None:
            columns[name] = _json(columns[name])
    return columns
