"""What has to be remembered of a whole trail, on disk, so that memory stays flat.

Three things: what digests say of each flow's last event; events that were found where they do not
belong; and events that are not where they should be. The last two meet at the end, since what is
missing in one flow may have been put into another, long before or after it in the trail.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

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
]


class Finding(NamedTuple):
    """Something that should not be so.

    Attributes:
        kind: What was done, as far as it can be told.
        flow_id: The flow, where it is about one.
        seq: The event's number in it, where it is about one.
        said: The same in words.
    """

    kind: Kind
    flow_id: str | None
    seq: int | None
    said: str


class Head(NamedTuple):
    """What a digest says of a flow.

    Attributes:
        digest: The digest's number.
        seq: The flow's last event by then.
        hash: The hash of that.
        dropped: Whether the flow was dropped from the trail on purpose.
    """

    digest: int
    seq: int
    hash: str
    dropped: bool


class Stray(NamedTuple):
    """An event that was found where it does not belong.

    Attributes:
        flow_id: Where it was found.
        seq: The number that it has there.
        home: The flow that it is an event of, where that can be told.
        number: Its number in that.
        hash: The hash that is stored with it.
        begins: Whether it is the first event of that flow.
    """

    flow_id: str
    seq: int
    home: str | None
    number: int | None
    hash: str
    begins: bool


class Hole(NamedTuple):
    """Events that are not where they should be.

    Attributes:
        flow_id: The flow that they were of.
        first: The number of the first.
        last: The number of the last.
        hash: The hash that the last one had, where it is known.
        kind: What it is that they are not there, if they are nowhere else.
        said: The same in words.
    """

    flow_id: str
    first: int
    last: int
    hash: str | None
    kind: Kind
    said: str


_HEADS = """
    SELECT * FROM head WHERE flow >= :first AND (:last IS NULL OR flow < :last)
    ORDER BY flow, digest
"""
_LATEST = """
    SELECT seq, hash FROM head WHERE flow = ? AND dropped = ? ORDER BY digest DESC LIMIT 1
"""
_STRAYS_OF = """
    SELECT number, begins FROM stray WHERE home = :flow AND number BETWEEN :first AND :last
    UNION SELECT :last, begins FROM stray WHERE hash = :hash ORDER BY 1
"""
_HOLE_OF = """
    SELECT 1 FROM hole WHERE flow = :home AND :number BETWEEN first AND last OR hash = :hash LIMIT 1
"""


@contextmanager
def room() -> Iterator[None]:
    """Say what it means that there is no room for a temporary database."""
    problem = None
    try:
        yield
    except sqlite3.Error as error:
        problem = f"A temporary file could not be written: {error}."
    if problem is not None:
        raise StoreError(problem, hint="See that there is room, or set SQLITE_TMPDIR.")


class Ledger:
    """Remembers all that, for as long as the `with` block."""

    def __enter__(self) -> Self:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            """
            PRAGMA journal_mode = OFF;
            CREATE TABLE head (digest, flow, seq, hash, dropped);
            CREATE INDEX head_flow ON head (flow, digest);
            CREATE TABLE stray (flow, seq, home, number, hash, begins);
            CREATE INDEX stray_home ON stray (home, number);
            CREATE INDEX stray_hash ON stray (hash);
            CREATE TABLE hole (flow, first, last, hash, kind, said);
            CREATE INDEX hole_flow ON hole (flow);
            CREATE INDEX hole_hash ON hole (hash);
            """
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def take(self, number: int, entries: Iterable[Entry]) -> None:
        """Take in what a digest says: all of it, or nothing if it cannot be read to its end.

        Args:
            number: The digest's number.
            entries: What it says.

        Raises:
            StoreError: As for the entries.
        """
        before = self._database.execute("SELECT COALESCE(MAX(rowid), 0) FROM head").fetchone()
        values = ((number, *entry) for entry in entries)
        with room():
            try:
                self._database.executemany("INSERT INTO head VALUES (?, ?, ?, ?, ?)", values)
            except StoreError:
                self._database.execute("DELETE FROM head WHERE rowid > ?", before)
                raise

    def latest(self, flow_id: str, *, dropped: bool = False) -> tuple[int, str] | None:
        """Return what the last digest that says anything of a flow says: number and hash.

        Args:
            flow_id: The flow.
            dropped: Whether it is to say that the flow was dropped.
        """
        found = self._database.execute(_LATEST, (flow_id, dropped)).fetchone()
        return found and (found[0], found[1])

    def heads(self, first: str, last: str | None) -> Iterator[tuple[str, list[Head]]]:
        """Yield what the digests say of each flow, in the order of the flows' ids.

        Args:
            first: From which id on.
            last: Before which id; None for all that there are.
        """
        found = self._database.execute(_HEADS, {"first": first, "last": last})
        for flow_id, rows in groupby(found, itemgetter(1)):
            yield flow_id, [Head(digest, seq, hash_, bool(d)) for digest, _, seq, hash_, d in rows]

    def stray(self, stray: Stray) -> None:
        """Remember an event that does not belong where it was found."""
        with room():
            self._database.execute("INSERT INTO stray VALUES (?, ?, ?, ?, ?, ?)", stray)

    def hole(self, hole: Hole) -> None:
        """Remember events that are not where they should be."""
        with room():
            self._database.execute("INSERT INTO hole VALUES (?, ?, ?, ?, ?, ?)", hole)

    def strays(self) -> Iterator[Stray]:
        """Yield all events that do not belong where they were found."""
        return (Stray(*row) for row in self._database.execute("SELECT * FROM stray"))

    def holes(self) -> Iterator[Hole]:
        """Yield all that is not where it should be."""
        return (Hole(*row) for row in self._database.execute("SELECT * FROM hole"))

    def settle(self, dropped: Callable[[], Container[str]]) -> Iterator[Finding]:
        """Say what became of all that: what was moved, and what is nowhere.

        Args:
            dropped: Tells which flows were dropped from the trail while it was being read.
        """
        yield from map(self._came, self.strays())
        gone: Container[str] | None = None
        for hole in self.holes():
            if hole.kind == "removed_flow":
                gone = dropped() if gone is None else gone
                if hole.flow_id in gone:
                    continue
            yield from self._went(hole)

    def _came(self, stray: Stray) -> Finding:
        gone = self._database.execute(_HOLE_OF, stray._asdict()).fetchone()
        if stray.home is None:
            kind: Kind = "moved" if gone else "inserted"
            said = "this event was never written here"
        elif gone:
            kind = "moved"
            said = f"event {stray.number} of the flow {stray.home} was put here"
        else:
            kind = "duplicated"
            said = f"event {stray.number} of the flow {stray.home} is here once more"
        return Finding(kind, stray.flow_id, stray.seq, said)

    def _went(self, hole: Hole) -> Iterator[Finding]:
        values = {"flow": hole.flow_id, "first": hole.first, "last": hole.last, "hash": hole.hash}
        missing = hole.first
        for number, begins in self._database.execute(_STRAYS_OF, values):
            if number == missing or begins:
                missing = number + 1
        if missing <= hole.last:
            yield Finding(hole.kind, hole.flow_id, missing, hole.said)
