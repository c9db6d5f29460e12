"""The ledger of a verification: data about the whole trail, on disk to limit the use of memory.

It contains the entries of digests, events that were found at the wrong place, and gaps of missing
events. The last two are matched at the end, because events that are missing in one flow may have
been moved to another one.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from deviceflow.trail.digest import Entry

Kind = Literal[
    "edited",
    "removed",
    "inserted",
    "duplicated",
    "reordered",
    "moved",
    "cut_tail",
    "removed_flow",
    "replaced_chain",
    "missing_digest",
    "forged_digest",
    "wrong_state",
    "edited_row",
    "illegal_transition",
    "clock_backwards",
    "wrong_clock",
]


ALL: Final = 2**53
"""More events than a flow has."""


class Finding(NamedTuple):
    """One thing that verification found wrong.

    Attributes:
        kind: The kind of manipulation, as far as it can be determined. `wrong_clock` is none.
        flow_id: The flow, if the finding is about a flow.
        seq: The number of the event, if the finding is about an event.
        message: The finding in words.
    """

    kind: Kind
    flow_id: str | None
    seq: int | None
    message: str


class Head(NamedTuple):
    """The last event of a flow according to a digest.

    Attributes:
        digest: The digest's number.
        seq: The number of the event.
        hash: The hash of the event.
        pruned: Whether the flow's events up to this one were pruned.
    """

    digest: int
    seq: int
    hash: str
    pruned: bool


class Misplaced(NamedTuple):
    """An event that was found at a wrong place.

    Attributes:
        flow_id: The flow in which it was found.
        seq: Its number there.
        home: The flow that it belongs to, if that is known.
        number: Its number in that flow.
        hash: The hash that is stored with it.
        omitted: How many events before it were left out; `ALL` if its flow begins with it.
    """

    flow_id: str
    seq: int
    home: str | None
    number: int | None
    hash: str
    omitted: int


class Hole(NamedTuple):
    """A gap of missing events in a flow.

    Attributes:
        flow_id: The flow.
        first: The number of the first missing event.
        last: The number of the last missing event.
        hash: The hash of the last missing event, if it is known.
        kind: The kind of the finding if the events are nowhere else.
        message: The finding in words.
    """

    flow_id: str
    first: int
    last: int
    hash: str | None
    kind: Kind
    message: str


_HEADS = """
    SELECT * FROM head WHERE flow >= :first AND (:last IS NULL OR flow < :last)
    ORDER BY flow, digest
"""
_LATEST = """
    SELECT seq, hash FROM head WHERE flow = ? AND pruned = ? ORDER BY digest DESC LIMIT 1
"""
_STRAYS_OF = """
    SELECT number, omitted FROM stray WHERE home = :flow AND number BETWEEN :first AND :last
    UNION SELECT :last, omitted FROM stray WHERE hash = :hash ORDER BY 1
"""
_HOLE_OF = """
    SELECT 1 FROM hole WHERE flow = :home AND :number BETWEEN first AND last OR hash = :hash LIMIT 1
"""


@contextmanager
def temporary_database() -> Iterator[None]:
    """Convert errors of a temporary database to a `StoreError`."""
    problem = None
    try:
        yield
    except sqlite3.Error as error:
        problem = f"A temporary file could not be written: {error}."
    if problem is not None:
        raise StoreError(problem, hint="Free space on the disk, or set SQLITE_TMPDIR.")


class Ledger:
    """The ledger. It exists for the duration of the `with` block."""

    def __enter__(self) -> Self:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            """
            PRAGMA journal_mode = OFF;
            CREATE TABLE head (digest, flow, seq, hash, pruned);
            CREATE INDEX head_flow ON head (flow, digest);
            CREATE TABLE stray (flow, seq, home, number, hash, omitted);
            CREATE INDEX stray_home ON stray (home, number);
            CREATE INDEX stray_hash ON stray (hash);
            CREATE TABLE hole (flow, first, last, hash, kind, message);
            CREATE INDEX hole_flow ON hole (flow);
            CREATE INDEX hole_hash ON hole (hash);
            """
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def take(self, number: int, entries: Iterable[Entry]) -> None:
        """Add the entries of a digest: all of them, or none if reading them fails.

        Args:
            number: The digest's number.
            entries: The digest's entries.

        Raises:
            StoreError: Reading the entries failed.
        """
        before = self._database.execute("SELECT COALESCE(MAX(rowid), 0) FROM head").fetchone()
        values = ((number, *entry) for entry in entries)
        with temporary_database():
            try:
                self._database.executemany("INSERT INTO head VALUES (?, ?, ?, ?, ?)", values)
            except StoreError:
                self._database.execute("DELETE FROM head WHERE rowid > ?", before)
                raise

    def latest(self, flow_id: str, *, pruned: bool = False) -> tuple[int, str] | None:
        """Return the flow's last event, number and hash, in the last digest that has the flow.

        Args:
            flow_id: The flow.
            pruned: Whether to return the entry that says that the flow was pruned.
        """
        found = self._database.execute(_LATEST, (flow_id, pruned)).fetchone()
        return found and (found[0], found[1])

    def heads(self, first: str, last: str | None) -> Iterator[tuple[str, list[Head]]]:
        """Yield the digests' entries for each flow, sorted by flow id.

        Args:
            first: The first flow id.
            last: The id behind the last one; None for no limit.
        """
        found = self._database.execute(_HEADS, {"first": first, "last": last})
        for flow_id, rows in groupby(found, itemgetter(1)):
            yield flow_id, [Head(digest, seq, hash_, bool(d)) for digest, _, seq, hash_, d in rows]

    def stray(self, stray: Misplaced) -> None:
        """Add an event that was found at a wrong place."""
        with temporary_database():
            self._database.execute("INSERT INTO stray VALUES (?, ?, ?, ?, ?, ?)", stray)

    def hole(self, hole: Hole) -> None:
        """Add a gap of missing events."""
        with temporary_database():
            self._database.execute("INSERT INTO hole VALUES (?, ?, ?, ?, ?, ?)", hole)

    def strays(self) -> Iterator[Misplaced]:
        """Yield all events that were found at a wrong place."""
        return (Misplaced(*row) for row in self._database.execute("SELECT * FROM stray"))

    def holes(self) -> Iterator[Hole]:
        """Yield all gaps of missing events."""
        return (Hole(*row) for row in self._database.execute("SELECT * FROM hole"))

    def settle(self, pruned: Callable[[], Mapping[str, int]]) -> Iterator[Finding]:
        """Match misplaced events with gaps, and yield findings: moved, inserted, missing.

        Args:
            pruned: Returns the flows that were pruned while the trail was read, each with the
                number of the last event that is gone.
        """
        yield from map(self._came, self.strays())
        gone: Mapping[str, int] | None = None
        for hole in self.holes():
            if hole.kind == "removed_flow" or hole.first == 1:
                gone = pruned() if gone is None else gone
                if hole.last <= gone.get(hole.flow_id, 0):
                    continue
            yield from self._went(hole)

    def _came(self, stray: Misplaced) -> Finding:
        gone = self._database.execute(_HOLE_OF, stray._asdict()).fetchone()
        if stray.home is None:
            kind: Kind = "moved" if gone else "inserted"
            message = "deviceflow never wrote this event to this flow"
        elif gone:
            kind = "moved"
            message = f"event {stray.number} of the flow {stray.home} was moved here"
        else:
            kind = "duplicated"
            message = f"event {stray.number} of the flow {stray.home} was copied here"
        return Finding(kind, stray.flow_id, stray.seq, message)

    def _went(self, hole: Hole) -> Iterator[Finding]:
        values = {"flow": hole.flow_id, "first": hole.first, "last": hole.last, "hash": hole.hash}
        missing = hole.first
        for number, omitted in self._database.execute(_STRAYS_OF, values):
            if number - omitted <= missing:
                missing = number + 1
        if missing <= hole.last:
            yield Finding(hole.kind, hole.flow_id, missing, hole.message)
