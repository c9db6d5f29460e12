"""Reading a trail: the logins that somebody asks for, one after another, and what is in none.

When a login began, who asked and what became of it are said by its events only: the row of the
flow itself is gone some day, and its events stay. So the database goes once through all events,
groups them by flow, and returns the ids of those that may be meant, in the order of their first
event; then their events are read by the primary key, some flows at a time. An index on the time
would make the first part faster, which takes half a second for a million events as it is; but each
event would have to be put into it, and an index of first events only would leave out the login
whose first event somebody has removed, which is the last one that an auditor should miss.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from deviceflow.audit.chain import STORED, encode
from deviceflow.audit.events import STORE, text_of
from deviceflow.audit.reading import event_of
from deviceflow.core.sanitize import storable
from deviceflow.errors import UnknownFlowError
from deviceflow.stores.sql.statements import IDS
from deviceflow.trail.login_view import Login, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.stores.sql import SQLStore
    from deviceflow.stores.sql.connection import Query


@dataclass(frozen=True, slots=True)
class Filters:
    """Which logins are meant: those for which all of it holds. None leaves it open.

    Attributes:
        since: They began then or later, in seconds since 1970.
        until: They began before then.
        state: They are in this state.
        client: Their client's id or name.
        actor: Who did something in them.
        reason: Why they failed.
    """

    since: float | None = None
    until: float | None = None
    state: str | None = None
    client: str | None = None
    actor: str | None = None
    reason: str | None = None

    def values(self) -> dict[str, Any]:
        """Return what a statement needs to find those that may be meant: times, and what to find.

        In a canonical text a field with its value is one piece, which is in no other place of it:
        a quotation mark in a value is written with a backslash before it.
        """
        return {
            "store": STORE,
            "since": None if self.since is None else text_of(self.since),
            "until": None if self.until is None else text_of(self.until),
            "state": _piece("to", self.state),
            "client_id": _piece("client_id", self.client),
            "client_name": _piece("client_name", self.client),
            "actor": _piece("actor", self.actor),
            "reason": _piece("reason", self.reason),
        }

    def take(self, login: Login) -> bool:
        """Tell whether a login that may be meant is: whether what it was once still holds."""
        return self.state in (None, login.state) and self.reason in (None, login.reason)

    def only_times(self) -> bool:
        """Tell whether nothing but the time is asked for."""
        return (self.state, self.client, self.actor, self.reason) == (None,) * 4


def _piece(name: str, value: str | None) -> str | None:
    return None if value is None else encode({name: storable(value)})[1:-1].decode()


ALL = Filters()


@contextmanager
def logins(
    store: SQLStore, filters: Filters = ALL, *, oldest_first: bool = False
) -> Iterator[Iterator[Login]]:
    """Give the logins that are meant, the newest first or the oldest, as of one moment.

    However many there are, only some of them are in memory.

    Raises:
        StoreError: They cannot be read.
    """
    with store.reading() as rows:
        yield filter(filters.take, _logins(rows, filters, oldest_first=oldest_first))


def one(store: SQLStore, flow_id: str) -> Login:
    """Return a login by its id; that of `deviceflow.audit.events.STORE` is what is in none.

    Raises:
        UnknownFlowError: It has no events.
        StoreError: They cannot be read.
    """
    with store.reading() as rows:
        events = _events(rows, flow_id)
    if not events:
        raise UnknownFlowError("There are no events of this login.", flow_id=flow_id)
    return Login.of(flow_id, events)


def notes(store: SQLStore, filters: Filters = ALL) -> list[dict[str, Any]]:
    """Return the events that belong to no login, of that time, in their order.

    Raises:
        StoreError: They cannot be read.
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
    """Return how many events there are.

    Raises:
        StoreError: They cannot be read.
    """
    with store.reading() as rows:
        return int(next(rows("count_events"))[0])


def _logins(rows: Query, filters: Filters, *, oldest_first: bool) -> Iterator[Login]:
    begun = rows("begun_oldest" if oldest_first else "begun_newest", filters.values())
    while some := [row[0] for row in islice(begun, len(IDS))]:
        # An id that is none stands for each place that is left over.
        values = dict.fromkeys(IDS, "") | dict(zip(IDS, some, strict=False))
        found = {
            flow_id: [event_of(row) for row in events]
            for flow_id, events in groupby(rows("histories", values), lambda row: row[_FLOW])
        }
        for flow_id in some:
            # An id that is not UTF-8 cannot be asked for. It is not ours: verification finds it.
            if events := found.get(flow_id):
                yield Login.of(events[0]["flow_id"], events)


def _events(rows: Query, flow_id: str) -> list[dict[str, Any]]:
    return [event_of(row) for row in rows("history", {"id": storable(flow_id)})]


_FLOW = STORED.index("flow_id")
