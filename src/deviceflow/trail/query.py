"""Query a trail: the logins and grants that match filters, and the events of the store.

Only the events tell when a login began, who asked for it and how it ended, because the flow's row
is deleted some day. So the database scans all events once, groups them by flow, and returns the ids
of the flows that may match, in the order of their first events. Then the events of these flows are
read by primary key, some flows at a time.

There is no index on the time. The scan takes half a second for a million events. An index would
make every write slower, and an index of first events only would miss a login whose first event
somebody removed, which an auditor must see.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from deviceflow.audit.chain import DAMAGED, STORED, decode, encode
from deviceflow.audit.events import STORE, text_of
from deviceflow.audit.reading import event_of
from deviceflow.core.omitted import Omitted
from deviceflow.core.sanitize import storable
from deviceflow.core.states import AWAITING_USER, POLLING
from deviceflow.errors import UnknownLoginError
from deviceflow.stores.sql.rows import uses_of
from deviceflow.stores.sql.statements import IDS
from deviceflow.trail.evidence import is_of_grant
from deviceflow.trail.grant_view import Grant
from deviceflow.trail.login_view import Login, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deviceflow.stores.sql import SQLStore
    from deviceflow.stores.sql.connection import Query


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters for logins and grants. One must match all of them; None matches every one.

    Attributes:
        since: The login or grant began at this time or later, in seconds since 1970.
        until: The login or grant began before this time.
        state: The login or grant is in this state.
        client: The client's id or name.
        actor: The actor of at least one event.
        reason: Why the login failed, or the grant was lost.
        name: The name of the login or the grant.
    """

    since: float | None = None
    until: float | None = None
    state: str | None = None
    client: str | None = None
    actor: str | None = None
    reason: str | None = None
    name: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the parameters of the statement that selects candidates: times and substrings.

        In a canonical text, a field and its value are one substring that occurs nowhere else,
        because quotation marks within values are escaped.
        """
        return {
            "store": STORE,
            "since": None if self.since is None else text_of(self.since),
            "until": None if self.until is None else text_of(self.until),
            # A poll that is in flight may be left out of the trail.
            "state": None if self.state == POLLING else _piece("to", self.state),
            "client_id": _piece("client_id", self.client),
            "client_name": _piece("client_name", self.client),
            "actor": _piece("actor", self.actor),
            "reason": _piece("reason", self.reason),
            "name": _piece("name", self.name),
        }

    def take(self, login: Login) -> bool:
        """Tell whether a candidate matches: it may have been in the state earlier only."""
        return self.state in (None, login.state) and self.reason in (None, login.reason)

    def only_times(self) -> bool:
        """Tell whether there is no filter but the times."""
        return (self.state, self.client, self.actor, self.reason, self.name) == (None,) * 5


def _piece(name: str, value: str | None) -> str | None:
    return None if value is None else encode({name: storable(value)})[1:-1].decode()


ALL = Filters()


@contextmanager
def logins(
    store: SQLStore, filters: Filters = ALL, *, oldest_first: bool = False
) -> Iterator[Iterator[Login]]:
    """Read the logins that match, newest or oldest first, from one snapshot.

    Only a few logins are in memory at a time.

    Raises:
        StoreError: The trail cannot be read.
    """
    with chains(store, filters, oldest_first=oldest_first) as found:
        yield (one for one in found if not isinstance(one, Grant))


@contextmanager
def chains(
    store: SQLStore, filters: Filters = ALL, *, oldest_first: bool = False
) -> Iterator[Iterator[Login]]:
    """Read the logins and grants that match, each a `Login` or a `Grant`, as `logins` does.

    Raises:
        StoreError: The trail cannot be read.
    """
    with store.reading() as rows:
        yield filter(filters.take, _chains(rows, filters, oldest_first=oldest_first))


def one(store: SQLStore, flow_id: str) -> Login:
    """Return a login or a grant by its id or its name.

    Of several with the name, it is the grant that the store has, else the newest grant, else the
    newest login. The id `deviceflow.audit.events.STORE` returns the store events.

    Raises:
        UnknownLoginError: The trail has no events of the login.
        StoreError: The trail cannot be read.
    """
    with store.reading() as rows:
        found, events = flow_id, _events(rows, flow_id)
        if not events:
            for (grant_id,) in list(rows("grant_id", {"name": storable(flow_id)})):
                found, events = grant_id, _events(rows, grant_id)
        if not events:
            return _newest_named(rows, flow_id)
        return replace(_views(rows, {found: events})[found], id=found)


def _newest_named(rows: Query, name: str) -> Login:
    newest = None
    for login in _chains(rows, Filters(name=name)):
        if login.name == storable(name):
            if isinstance(login, Grant):
                return login
            newest = newest or login
    if newest is None:
        raise UnknownLoginError("The trail has no events of this login.", flow_id=name)
    return newest


def some(store: SQLStore, flow_ids: Sequence[str]) -> dict[str, Login]:
    """Return those logins that the trail has events of, by their ids.

    Raises:
        StoreError: The trail cannot be read.
    """
    found = dict[str, Login]()
    with store.reading() as rows:
        for begin in range(0, len(flow_ids), len(IDS)):
            found |= _views(rows, _histories(rows, flow_ids[begin : begin + len(IDS)]))
    return found


def notes(store: SQLStore, filters: Filters = ALL) -> list[dict[str, Any]]:
    """Return the store events within the filters' times, in their order.

    Raises:
        StoreError: The trail cannot be read.
    """
    since, until = filters.since, filters.until
    with store.reading() as rows:
        return [
            event
            for event in _events(rows, STORE)
            if (at := seconds_of(event["time"])) is None
            or ((since is None or at >= since) and (until is None or at < until))
        ]


def count(store: SQLStore) -> int:
    """Return the number of events in the trail.

    Raises:
        StoreError: The trail cannot be read.
    """
    with store.reading() as rows:
        return int(next(rows("count_events"))[0])


def _views(rows: Query, found: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Login]:
    """Return the views of chains, by the ids that they were found by."""
    runs, views = _open_runs(rows, found), dict[str, Login]()
    grants = [flow_id for flow_id, events in found.items() if is_of_grant(events[0])]
    used = rows("uses", _ids(grants)) if grants else ()
    uses = {flow_id: uses_of(used_by) for flow_id, used_by in used}
    for flow_id, events in found.items():
        if is_of_grant(events[0]):
            grant = Grant.of(events[0]["flow_id"], events)
            views[flow_id] = replace(grant, uses=uses.get(flow_id, ()))
        else:
            views[flow_id] = Login.of(events[0]["flow_id"], events, runs.get(flow_id))
    return views


def _ids(flow_ids: Sequence[object]) -> dict[str, Any]:
    """Return the parameters of a statement about some flows.

    Unused parameters are filled with the empty id, which no flow has.
    """
    texts = [storable(flow_id) for flow_id in flow_ids if isinstance(flow_id, str)]
    return dict.fromkeys(IDS, "") | dict(zip(IDS, texts, strict=False))


def _histories(rows: Query, flow_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    return {
        flow_id: [event_of(row) for row in events]
        for flow_id, events in groupby(rows("histories", _ids(flow_ids)), lambda row: row[_FLOW])
    }


def _chains(rows: Query, filters: Filters, *, oldest_first: bool = False) -> Iterator[Login]:
    begun = rows("begun_oldest" if oldest_first else "begun_newest", filters.values())
    while some := [row[0] for row in islice(begun, len(IDS))]:
        views = _views(rows, _histories(rows, some))
        # An id that is not UTF-8 cannot be queried. Verification reports such an event.
        yield from (views[flow_id] for flow_id in some if flow_id in views)


def _open_runs(rows: Query, found: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Omitted]:
    """Return the runs of events that were left out after the last ones of logins."""
    waiting = [
        flow_id for flow_id, events in found.items() if events[-1]["to"] in (AWAITING_USER, POLLING)
    ]
    runs = dict[str, Omitted]()
    if waiting:
        for flow_id, progress in rows("progress", _ids(waiting)):
            # Nobody verifies here what the row has.
            with suppress(*DAMAGED, AttributeError):
                if (run := Omitted.of(decode(progress).get("omitted"))) is not None:
                    runs[flow_id] = run
    return runs


def _events(rows: Query, flow_id: str) -> list[dict[str, Any]]:
    return [event_of(row) for row in rows("history", {"id": storable(flow_id)})]


_FLOW = STORED.index("flow_id")
