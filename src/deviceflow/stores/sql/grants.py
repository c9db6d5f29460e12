"""The operations on grants: which statements they run, and in which order, written once.

A grant moves as a login does: a move names the transition at which the grant was read. If the grant
has moved since, nothing happens. A lease is taken by the same statement that records why.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from deviceflow import _forks as forks
from deviceflow.audit.chain import link, row_of
from deviceflow.core.actions import ACTIONS
from deviceflow.core.grant import check_name
from deviceflow.core.ports import StoredGrant
from deviceflow.core.sanitize import storable
from deviceflow.core.secret import Hidden
from deviceflow.errors import DeviceFlowError
from deviceflow.stores import _leases as leases
from deviceflow.stores.sql.grant_rows import GRANT_COLUMNS, GrantRows, uses_of
from deviceflow.stores.sql.operations import ignored, query, worker_of
from deviceflow.stores.sql.rows import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease
    from deviceflow.stores.sql.connection import Operation, Statements
    from deviceflow.stores.sql.operations import Operations
    from deviceflow.stores.sql.rows import Rows

    Values = dict[str, Any]

PAGE: Final = 200
SNOOZE: Final = 3600.0
_ROW: Final = len(GRANT_COLUMNS)
_NAME: Final = GRANT_COLUMNS.index("name")
_SEQ: Final = GRANT_COLUMNS.index("seq")
_MOST_SEEN: Final = 1024


class OvertakenError(Exception):
    """The flow that was to move with a grant was moved by others: nothing is to be committed."""


class SeenGrants:
    """The grants that this process has read, each with its row: the same row need not be opened.

    A forked child begins with none.
    """

    def __init__(self) -> None:
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[Hidden[tuple[Any, ...]], Grant]] = {}

    def __repr__(self) -> str:
        return "<seen grants>"

    def get(self, name: str, row: Sequence[Any]) -> Grant | None:
        """Return the grant of a row, if the row is as it was seen."""
        seen = self._seen.get(name)
        return seen[1].copy() if seen is not None and seen[0].reveal() == row else None

    def put(self, grant: Grant, row: tuple[Any, ...]) -> None:
        """Remember a grant by its row."""
        with self._lock:
            self._seen.pop(grant.name, None)
            self._seen[grant.name] = (Hidden(row), grant.copy())
            if len(self._seen) > _MOST_SEEN:
                del self._seen[next(iter(self._seen))]

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._seen.clear()


class GrantOperations:
    """The operations on the grants of one store.

    Args:
        rows: The rows of its logins.
        audit_key: Authenticates events; None where none may be written.
        operations: The operations on its logins, which move with a grant.
        seen: The grants that this process has read.
    """

    def __init__(
        self, rows: Rows, audit_key: AuditKey | None, operations: Operations, seen: SeenGrants
    ) -> None:
        self._rows = rows
        self._grants = GrantRows(rows)
        self._audit_key = audit_key
        self._operations = operations
        self._seen = seen

    # Looking.

    def stored(self, found: Hidden[Any]) -> StoredGrant:
        """Return the grant of a row of the fragment `grant_row`.

        Raises:
            StoreError: It cannot be read.
        """
        row = tuple(found.reveal()[:_ROW])
        now, used_at, used_by, owner, *lasts = found.reveal()[_ROW:]
        name = name_of(row[_NAME])
        grant = self._seen.get(name, row)
        if grant is None:
            grant = self._grants.grant(Hidden(row))
            self._seen.put(grant, row)
        used_at = used_at if isinstance(used_at, int | float) else None
        owner = owner if isinstance(owner, str) else None
        left, uses = leases.left(*lasts), uses_of(used_by)
        return StoredGrant(grant, now, used_at, left.seconds, owner, uses, left.since)

    def page(self, after: str | None) -> Operation[list[Hidden[Any]]]:
        """Return the rows of the grants behind a name."""
        values = {"limit": PAGE, "name": storable(after or "")}
        return query("grants_first" if after is None else "grants_next", values, secret=True)

    def readable(self, found: Hidden[Any]) -> StoredGrant | str:
        """Return the grant of a row, or its name if it cannot be read."""
        try:
            return self.stored(found)
        except DeviceFlowError:
            return name_of(found.reveal()[_NAME])

    # Moving.

    def commit(
        self,
        grant: Grant,
        event: Values,
        lease: GrantLease | None,
        release: str | None,
        flow: Flow | None,
        flow_event: Values | None,
    ) -> Operation[bool]:
        """Keep a grant as it is after `event`, unless others went on; the flow with it.

        Raises:
            OvertakenError: Others went on with the flow.
        """
        check_name(grant.name)
        columns, noted = self._linked(grant, event)
        row = columns.reveal()
        row |= {"before": grant.seq - 1, "release": release}
        if lease is not None:
            row |= {"owner": lease.owner, "seconds": lease.seconds, "ended": lease.ended}
        statement = "lease_and_move_grant" if lease else "move_grant"
        statement = "add_grant" if grant.seq == 1 else statement
        moving = None
        if flow is not None and flow_event is not None:
            moving, _ = self._operations.commit(flow, flow_event, None, None)

        def attempt(now: float) -> Statements[bool]:
            values = columns.reveal() | leases.times(now)
            if (yield statement, values).rowcount != 1:
                # Done already, if the connection was lost just as it was being done.
                found = (yield "text_of_event", values).fetchone()
                if found is not None and worker_of(found[0]) == event["worker"]:
                    return True
                if lease is None and grant.seq > 1:
                    stored = (yield "get_grant_by_id", values).fetchone()
                    if stored is not None and stored[_SEQ] == values["before"]:
                        raise ignored(grant.id)
                return False
            if (yield "add_event", noted).rowcount != 1:
                raise ignored(grant.id)
            if moving is not None and not (yield from moving(now)):
                raise OvertakenError
            return True

        return attempt

    def delete(self, grant: Grant) -> Operation[bool]:
        """Delete a grant, if it is still at the same transition."""
        values = {"id": grant.id, "seq": grant.seq}

        def attempt(_now: float) -> Statements[bool]:
            return (yield "delete_grant", values).rowcount == 1

        return attempt

    def _linked(self, grant: Grant, event: Values) -> tuple[Hidden[Values], Values]:
        """Make an event the next link of its grant's chain; return the grant's row, and its own."""
        again = event["hash"] is not None
        if not again and (ACTIONS[event["action"]].changes_secrets or grant.as_stored is None):
            self._grants.seal(grant)
        digest, columns = self._grants.columns(grant)
        if not again:
            event["row_digest"] = digest
        text = link(event, grant.head, self._audit_key, grant=grant)
        grant.head = event["hash"]
        self._rows.sign(columns, digest, grant.head)
        return columns, row_of(event, text)


def by_id(row: Any) -> str:
    """Return what rows are sorted by: an id that is not text comes last, as in a database."""
    return row.flow_id if isinstance(row.flow_id, str) else f"\U0010ffff{row.flow_id!r}"
