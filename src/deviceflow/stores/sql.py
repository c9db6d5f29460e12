"""Flows in a SQL database: one set of statements, which SQLite and PostgreSQL both understand.

Two tables matter. A row of `flows` is a flow as it stands: what queries need as columns, the rest
as JSON, and its secrets sealed, by kind. `audit` has a row for each of its transitions, written in
the transaction that makes it true. The number of its last transition is the flow's version: whoever
moves a flow says which version it was read at, and where that is no longer true, nothing happens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, Self, TypeVar

from deviceflow import providers, record
from deviceflow.audit import log
from deviceflow.audit.chain import STORED, AuditKey, configured, link
from deviceflow.audit.events import FIELDS, LISTS, STORE, Origin, render, render_note
from deviceflow.errors import SealError, StoreError, UnknownFlowError, UsageError
from deviceflow.flow import Flow
from deviceflow.sealing import PLAIN
from deviceflow.secret import Secret
from deviceflow.stores.base import Claim, Held
from deviceflow.untrusted import storable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from deviceflow.providers.base import Provider
    from deviceflow.sealing import Plain, Sealer
    from deviceflow.stores.base import Note

    Mode = Literal["read", "lease", "write"]

_T = TypeVar("_T")

MIGRATIONS: Final = (
    """
    CREATE TABLE {flows} (
        id TEXT {bytewise}PRIMARY KEY,
        seq BIGINT NOT NULL,
        state TEXT NOT NULL,
        live_key TEXT UNIQUE,
        created_at DOUBLE PRECISION NOT NULL,
        ended_at DOUBLE PRECISION,
        wake_at DOUBLE PRECISION,
        lease_owner TEXT,
        lease_until DOUBLE PRECISION,
        left_by TEXT,
        provider TEXT NOT NULL,
        record TEXT NOT NULL,
        code TEXT,
        token TEXT,
        revoke TEXT
    );
    CREATE INDEX flows_wake ON {flows} (wake_at) WHERE wake_at IS NOT NULL;
    CREATE INDEX flows_all ON {flows} (created_at, id);
    CREATE INDEX flows_live ON {flows} (created_at, id) WHERE ended_at IS NULL;
    CREATE INDEX flows_ended ON {flows} (ended_at) WHERE ended_at IS NOT NULL;
    CREATE INDEX flows_token ON {flows} (ended_at) WHERE token IS NOT NULL;
    CREATE INDEX flows_revoke ON {flows} (ended_at) WHERE revoke IS NOT NULL;
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
        "key_id" TEXT NOT NULL,
        "prev_hash" TEXT NOT NULL,
        "hash" TEXT NOT NULL,
        "mac" TEXT NOT NULL,
        PRIMARY KEY ("flow_id", "seq")
    ){clustered};
    """,
)
"""What brings a database from each version of the schema to the next."""

_SELECT: Final = "SELECT id, seq, provider, record, code, token, revoke, {now}"
_COLUMNS: Final = "id, seq, provider, record, code, token, revoke, {now}, left_by"
_LEASE: Final = """
    UPDATE {flows} SET left_by =
            CASE WHEN lease_owner IS NULL OR lease_owner = :owner THEN left_by ELSE lease_owner END,
        lease_owner = :owner, lease_until = {now} + :seconds
"""
_FREE: Final = "(lease_until IS NULL OR lease_until <= {now} OR lease_owner = :owner)"
_MOVE: Final = """
    UPDATE {flows} SET seq = :seq, state = :state, record = :record, wake_at = :wake_at,
        left_by = NULL,
        lease_owner = CASE WHEN lease_owner = :release THEN NULL ELSE lease_owner END,
        lease_until = CASE WHEN lease_owner = :release THEN NULL ELSE lease_until END
"""
# Of its own, since each index that one of these columns is in costs time to keep.
_TURN: Final = ", ended_at = :ended_at, live_key = CASE WHEN :live THEN live_key END, "
# With the provider in the very words that the secrets are bound to.
_SECRETS: Final = "provider = :provider, code = :code, token = :token, revoke = :revoke"
_AT: Final = " WHERE id = :id AND seq = :before"
# All flows that may be those that are asked for; see `deviceflow.stores.query`.
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
_STANDS: Final = "SELECT id, seq, state, record FROM {{flows}} {} ORDER BY id NULLS LAST"
_LASTS: Final = """
    SELECT flow_id, seq, hash FROM {audit}
    JOIN (SELECT flow_id AS name, MAX(seq) AS last FROM {audit} GROUP BY flow_id) AS lasts
        ON flow_id = name AND seq = last
"""

_STATEMENTS: Final = {
    "now": "SELECT {now}",
    "add": """
        INSERT INTO {flows} (id, seq, state, live_key, created_at, ended_at, wake_at, provider,
            record, code, token, revoke)
        VALUES (:id, :seq, :state, :live_key, :created_at, :ended_at, :wake_at, :provider, :record,
            :code, :token, :revoke)
        ON CONFLICT DO NOTHING
    """,
    "get": _SELECT + " FROM {flows} WHERE id = :id",
    "of_key": _SELECT + " FROM {flows} WHERE live_key = :live_key",
    "all": _SELECT
    + """
        FROM {flows} WHERE (created_at, id) < (:created_at, :id)
        ORDER BY created_at DESC, id DESC LIMIT :limit
    """,
    "live": _SELECT
    + """
        FROM {flows} WHERE ended_at IS NULL AND (created_at, id) < (:created_at, :id)
        ORDER BY created_at DESC, id DESC LIMIT :limit
    """,
    "claim": _LEASE + " WHERE id = :id AND " + _FREE + " RETURNING " + _COLUMNS,
    "held": "SELECT lease_until FROM {flows} WHERE id = :id",
    "claim_due": _LEASE
    + """
        WHERE id = (
            SELECT id FROM {flows} WHERE wake_at <= (SELECT {now}) AND """
    + _FREE
    + """
            ORDER BY wake_at LIMIT 1 {skip_locked}
        ) RETURNING """
    + _COLUMNS,
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
                    AND its.action IN ('acknowledge', 'purge', 'bring_in')
            ))
        ORDER BY flow_id
    """,
    "trail_all": _TRAIL.format(""),
    "trail_rest": _TRAIL.format("WHERE flow_id >= :first"),
    "trail_part": _TRAIL.format("WHERE flow_id >= :first AND flow_id < :last"),
    "stands_all": _STANDS.format(""),
    "stands_rest": _STANDS.format("WHERE id >= :first"),
    "stands_part": _STANDS.format(
        "WHERE id >= :first AND id < :last OR id IS NULL AND :first = ''"
    ),
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
        UPDATE {flows} SET lease_owner = NULL, lease_until = NULL, left_by = NULL
        WHERE id = :id AND lease_owner = :owner
    """,
    "leave_alone": """
        UPDATE {flows} SET lease_owner = NULL, lease_until = {now} + :seconds
        WHERE id = :id AND """
    + _FREE,
    "leftover_token": """
        SELECT id FROM {flows} WHERE token IS NOT NULL AND ended_at <= :before
        ORDER BY ended_at LIMIT :limit
    """,
    "leftover_revoke": """
        SELECT id FROM {flows} WHERE revoke IS NOT NULL AND ended_at <= :before
        ORDER BY ended_at LIMIT :limit
    """,
    "forget": """
        DELETE FROM {flows} WHERE ended_at <= :before AND token IS NULL AND revoke IS NULL
    """,
    "other_keys": _SELECT
    + """
        FROM {flows}
        WHERE code NOT LIKE :prefix OR token NOT LIKE :prefix OR revoke NOT LIKE :prefix
        LIMIT :limit
    """,
    "reseal": "UPDATE {flows} SET " + _SECRETS + _AT,
    "meta": "SELECT value FROM {meta} WHERE name = :name",
    "set_meta": """
        INSERT INTO {meta} (name, value) VALUES (:name, :value)
        ON CONFLICT (name) DO UPDATE SET value = :value
    """,
    "has_meta": "{has_meta}",
    "offer_meta": "INSERT INTO {meta} (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING",
    "create_meta": "CREATE TABLE IF NOT EXISTS {meta} (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
}

_MOVES: Final = frozenset({"poll", "pending", "slow_down", "retry", "recover", "take_over"})
"""Actions that neither end a flow nor change its secrets."""

_PAGE: Final = 200

THESE: Final = tuple(f"id{number}" for number in range(50))
"""The names of the values of the query `of_these`: flow ids."""

_NOBODY: Final = Origin()
_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: that takes its time
_LONGEST_KEY: Final = 500  # an index of PostgreSQL's takes 2,700 bytes


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
        flows: Each flow's id, its last event's number, its state, and its record as JSON.
        key: What authenticates the events.
    """

    events: Iterator[tuple[Any, ...]]
    flows: Iterator[tuple[str, int, str, str]]
    key: AuditKey


class SQLStore(ABC):
    """What `SQLiteStore` and `PostgresStore` have in common: all but the connection.

    Attributes:
        persistent: True: flows outlive the process.
    """

    persistent = True

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
        }
        self._sql = {name: self._worded(text) for name, text in _STATEMENTS.items()}
        self._find_sealer: Callable[[], Sealer | Plain]
        self._sealer: Sealer | Plain
        self._audit_key: AuditKey

    @abstractmethod
    def _transact(self, work: Callable[[Execute], _T], mode: Mode = "write") -> _T:
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

    def now(self, given: float) -> float:
        """Return what time it is for this store: the database's, where that has a clock."""
        return float(self._transact(lambda do: do("now", {"now": given}).fetchone()[0], "read"))

    def add(self, flow: Flow, *, note: Note | None = None) -> Flow:
        """Keep a new flow, or return the live one of the same key instead."""
        _check_names(flow)
        event = None
        if flow.seq:
            # Its events so far are elsewhere: the chain here begins with saying so.
            event = render(flow, flow.bring_in(self.now(time.time())))
            flow.head = link(event, None, self._audit_key, flow)
        values = self._values(flow) | self._sealed(flow)
        values |= {"created_at": flow.created_at, "live_key": flow.key if flow.live else None}

        def work(do: Execute) -> Any:
            if do("add", values).rowcount == 1:
                self._put(do, event and _columns(event), note)
                return flow
            looked = values | {"now": 0.0}
            return do("get", looked).fetchone() or do("of_key", looked).fetchone()

        while (kept := self._transact(work)) is None:
            pass  # the key's flow has ended between two statements
        if not isinstance(kept, Flow):
            if kept[0] != flow.id:
                return self._flow(kept)
            if kept[3] != values["record"]:
                raise UsageError("A flow of this id is in the store already.", flow_id=flow.id)
            # Added already, and the connection was lost just then.
        if event is not None:
            log.emit(log.TRANSITION, event)
        return flow

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of the flow, with its secrets or without.

        Raises:
            UnknownFlowError: There is none of that id.
        """
        values = {"id": storable(flow_id), "now": 0.0}
        row = self._transact(lambda do: do("get", values).fetchone(), "read")
        if row is None:
            raise UnknownFlowError(flow_id=flow_id)
        return self._flow(row, secrets=secrets)

    def flows(self, *, live: bool = False) -> Iterator[Flow]:
        """Yield all flows, or those that have not ended, the newest first, without secrets."""
        after = {"created_at": 1e300, "id": "", "limit": _PAGE, "now": 0.0}
        while rows := self._page("live" if live else "all", after):
            for row in rows:
                flow = self._flow(row, secrets=False)
                yield flow
            after |= {"created_at": flow.created_at, "id": flow.id}

    def claim(self, flow_id: str, owner: str, given: float, seconds: float) -> Claim | Held:
        """Take the flow's lease for so many seconds, or say who has it."""
        values = {"id": storable(flow_id), "owner": owner, "now": given, "seconds": seconds}

        def work(do: Execute) -> tuple[Any, float | None]:
            if taken := do("claim", values).fetchall():
                return taken[0], None
            row, held = do("get", values).fetchone(), do("held", values).fetchone()
            return row, (held and held[0]) or 0.0

        row, until = self._transact(work, "lease")
        if row is None:
            raise UnknownFlowError(flow_id=flow_id)
        if until is None:
            return self._claimed(row)
        return Held(self._flow(row, secrets=False), max(0.0, until - row[7]))

    def claim_due(self, owner: str, given: float, seconds: float) -> Claim | None:
        """Take the lease of the flow that has been due the longest, if one is due and free."""
        values = {"owner": owner, "now": given, "seconds": seconds}
        taken = self._transact(lambda do: do("claim_due", values).fetchall(), "lease")
        return self._claimed(taken[0]) if taken else None

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        note: Note | None = None,
    ) -> bool:
        """Keep the flow as it is after `event`, and that with it, unless others went on."""
        flow.head = link(event, flow.head, self._audit_key, flow)
        moves = event["action"] in _MOVES
        values = self._values(flow) | {"before": event["seq"] - 1, "release": release}
        if not moves:
            values |= self._sealed(flow) | {"live": flow.live}
        noted = _columns(event)

        def work(do: Execute) -> bool:
            if do("move" if moves else "turn", values).rowcount == 1:
                self._put(do, noted, note)
                return True
            # Done already, if the connection was lost just as it was being done.
            noted_by = do("noted_by", values).fetchone()
            if noted_by is not None and noted_by[0] == event["worker"]:
                return True
            if release is not None:
                do("release", {"id": flow.id, "owner": release})
            return False

        return self._transact(work)

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""
        self._transact(lambda do: do("release", {"id": flow_id, "owner": owner}), "lease")

    def leave_alone(self, flow_id: str, owner: str, given: float, seconds: float) -> None:
        """Give the lease back, if `owner` has it, and let nobody take it for so many seconds."""
        values = {"id": flow_id, "owner": owner, "now": given, "seconds": seconds}
        self._transact(lambda do: do("leave_alone", values), "lease")

    def leftover(self, kind: Literal["token", "revoke"], ended_before: float) -> list[str]:
        """Return the ids of flows that ended before then and hold such secrets, some at a time."""
        values = {"before": ended_before, "limit": _PAGE}
        found = self._transact(lambda do: do(f"leftover_{kind}", values).fetchall(), "read")
        return [row[0] for row in found]

    def forget(self, ended_before: float) -> int:
        """Drop the flows that ended before then and hold no secret; return how many."""
        return self._transact(lambda do: do("forget", {"before": ended_before}).rowcount)

    def note(self, action: str, given: float, detail: str, origin: Origin) -> None:
        """Put on record what belongs to no flow."""
        self._transact(lambda do: self._note(do, action, given, detail, origin))

    def _put(self, do: Execute, event: dict[str, Any] | None, note: Note | None) -> None:
        if event is not None:
            do("note", event)
        if note is not None:
            self._note(do, *note)

    def _note(
        self, do: Execute, action: str, given: float, detail: str, origin: Origin = _NOBODY
    ) -> None:
        do("lock", {})  # one at a time: each is the next link of one chain
        last = do("last", {"id": STORE}).fetchone() or (0, None)
        now = do("now", {"now": given}).fetchone()[0]
        event = render_note(action, now, last[0] + 1, detail, origin)
        link(event, last[1], self._audit_key)
        do("note", _columns(event))

    # What only a database has.

    def history(self, flow_id: str) -> list[dict[str, Any]]:
        """Return the events of a flow, as they were logged, in their order."""
        values = {"id": storable(flow_id)}
        rows = self._transact(lambda do: do("history", values).fetchall(), "read")
        return [
            {name: _event_value(name, value) for name, value in zip(FIELDS, row, strict=True)}
            for row in rows
        ]

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
            yield Snapshot(events, flows, self._audit_key)

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
            self._note(do, "prune", time.time(), f"the events of {len(flow_ids)} flows")

        self._transact(work)

    def reseal(self, limit: int = _PAGE) -> int:
        """Seal with the first key what another key has sealed.

        To be called until it returns 0; interrupted, it can be gone on with at any time.

        Args:
            limit: How many flows to look at.

        Returns:
            How many flows were found.

        Raises:
            SealError: A key that is still needed is not among those given.
        """
        values = {"prefix": f"{self._sealer.prefix}%", "limit": limit, "now": 0.0}
        rows = self._transact(lambda do: do("other_keys", values).fetchall(), "read")
        for row in rows:
            flow = self._flow(row)
            sealed = self._sealed(flow) | {"id": flow.id, "before": flow.seq}
            self._transact(lambda do, sealed=sealed: do("reseal", sealed))  # type: ignore[misc]
        kept = str(self._sealing())
        if not rows and not kept.startswith(self._sealer.prefix):
            mark = self._mark(Secret(self._unseal(kept, "meta", "audit key")))

            def work(do: Execute) -> None:
                do("set_meta", mark)
                self._note(do, "rotate_keys", time.time(), "sealed anew with another key")

            self._transact(work)
        return len(rows)

    # For the two heirs.

    @abstractmethod
    def _migrate_if_needed(self) -> None:
        """Bring the schema up to date."""

    def _start(self, find_sealer: Callable[[], Sealer | Plain]) -> None:
        """Open the store, or leave nothing open.

        Args:
            find_sealer: Finds what seals its secrets, once the schema is there.
        """
        self._find_sealer = find_sealer
        try:
            self._migrate_if_needed()
            self._sealer = find_sealer()
            self._open_audit_key(time.time())
        except BaseException:
            self.close()
            raise

    def _is_current(self, do: Execute) -> bool:
        """Tell whether the schema is of this version.

        Raises:
            StoreError: A newer deviceflow made it.
        """
        return self._version(do) == len(MIGRATIONS)

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

    def _open_audit_key(self, given: float) -> None:
        """Get the audit key, and with it the proof that the sealing key is the store's own.

        Args:
            given: What time it is.

        Raises:
            SealError: It is another one.
        """
        plain = self._sealer.prefix == PLAIN
        if self._sealing() is None:
            self._make_audit_key(given, plain=plain)
        if plain:
            log.emit(log.PLAINTEXT, {"store": repr(self)}, logging.WARNING)
        own = Secret(self._unseal(str(self._sealing()), "meta", "audit key"))
        self._audit_key = AuditKey(*configured(own))

    def _make_audit_key(self, given: float, *, plain: bool) -> None:
        own = Secret(secrets.token_urlsafe(32))
        mark = self._mark(own)
        self._audit_key = AuditKey(*configured(own))

        def work(do: Execute) -> None:
            # Others may have made the store just now, and put it on record.
            if do("offer_meta", mark).rowcount == 1 and plain:
                self._note(do, "open_plaintext", given, "secrets are kept in clear")

        self._transact(work)

    def _mark(self, audit_key: Secret) -> dict[str, str]:
        sealed = self._sealer.seal(audit_key.reveal(), "meta", "audit key")
        return {"name": "audit_key", "value": sealed}

    def _worded(self, text: str) -> str:
        """Return a statement in this database's words."""
        return re.sub(r"\{(\w+)\}", lambda word: self._words[word[1]], text)

    # Rows and flows.

    def _page(self, name: str, after: Mapping[str, Any]) -> list[Any]:
        return self._transact(lambda do: do(name, after).fetchall(), "read")

    def _claimed(self, row: Any) -> Claim:
        *_, now, left_by = row
        return Claim(self._flow(row[:8]), now, left_by)

    def _flow(self, row: Any, *, secrets: bool = True) -> Flow:
        flow_id, seq, provider, text, *sealed, _ = row
        try:
            flow = Flow(flow_id, _provider(provider), 0.0)
            record.fill(flow, json.loads(text))
            whole = (flow.id, flow.seq) == (flow_id, seq)
            if whole and secrets:
                bound = _bound(provider, flow)
                for kind, kept in zip(record.KINDS, sealed, strict=True):
                    if kept is not None:
                        record.fill_hidden(flow, kind, self._unseal(kept, kind, flow_id, bound))
        except (SealError, UsageError) as problem:
            problem.flow_id = flow_id
            raise
        except (LookupError, ValueError, TypeError, AttributeError, OverflowError):
            whole = False
        if not whole:
            raise StoreError(
                "The record of this flow is damaged.",
                flow_id=flow_id,
                hint="Nothing was sent. Restore the store from a backup, or start a new login.",
            )
        return flow

    def _unseal(self, kept: str, *context: str) -> Any:
        with suppress(SealError):
            return self._sealer.open(kept, *context)
        # The keys may have been rotated since this store was opened.
        self._sealer = self._find_sealer()
        return self._sealer.open(kept, *context)

    def _values(self, flow: Flow) -> dict[str, Any]:
        return {
            "id": flow.id,
            "seq": flow.seq,
            "state": flow.state.value,
            "wake_at": flow.wake_at,
            "ended_at": flow.ended_at,
            "record": _json(record.open_part(flow)),
        }

    def _sealed(self, flow: Flow) -> dict[str, str | None]:
        provider = _text_of(flow.provider)
        bound = _bound(provider, flow)
        sealed: dict[str, str | None] = {"provider": provider}
        for kind in record.KINDS:
            hidden = record.hidden_part(flow, kind)
            sealed[kind] = hidden and self._sealer.seal(hidden, kind, flow.id, bound)
        return sealed


def _check_names(flow: Flow) -> None:
    key = flow.key
    if flow.id == STORE:
        raise UsageError("No flow can have this id.", flow_id=flow.id)
    if key is not None and (len(key) > _LONGEST_KEY or storable(key) != key):
        raise UsageError(
            f"A key is a text of at most {_LONGEST_KEY} characters, without the character NUL,"
            " in proper Unicode."
        )


def _meta(name: str) -> Callable[[Execute], str | None]:
    def read(do: Execute) -> str | None:
        row = do("meta", {"name": name}).fetchone()
        return None if row is None else str(row[0])

    return read


def _bound(provider: str, flow: Flow) -> str:
    """Return a digest of where a flow's secrets may be sent, for whom, and on what conditions."""
    return hashlib.sha256(f"{provider}\n{flow.token_endpoint}".encode()).hexdigest()[:32]


@lru_cache(256)
def _text_of(provider: Provider) -> str:
    return json.dumps(provider.to_dict(), sort_keys=True, separators=(",", ":"))


@lru_cache(256)
def _provider(text: str) -> Provider:
    return providers.from_dict(json.loads(text))


def _columns(event: Mapping[str, Any]) -> dict[str, Any]:
    columns = dict(event)
    for name in LISTS:
        if columns[name] is not None:
            columns[name] = _json(columns[name])
    return columns


def _event_value(name: str, value: Any) -> Any:
    if name in LISTS:
        return value and json.loads(value)
    return bool(value) if name == "in_doubt" else value
