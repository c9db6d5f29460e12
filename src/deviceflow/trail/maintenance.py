"""Maintenance of a store's trail: sign digests, and prune old events."""

from __future__ import annotations

import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from deviceflow.audit.chain import DAMAGED
from deviceflow.audit.events import STORE, text_of
from deviceflow.credentials.keys.signing import signing_key
from deviceflow.trail.digest import (
    Entry,
    Signer,
    files_of,
    read_digest,
    read_entries,
)
from deviceflow.trail.evidence import FLOW, HASH, SEQ, anchor_of, claimed_by
from deviceflow.trail.ledger import Head, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from deviceflow.stores.sql import SQLStore
    from deviceflow.stores.sql.connection import Query
    from deviceflow.trail.digest import Digest


def signer(store: Path | None) -> Signer:
    """Return the signer for digests; see `deviceflow.credentials.keys.signing`.

    Args:
        store: A SQLite file. Its signing key file is created (0600) on first use.

    Raises:
        StoreError: There is no usable key.
        ImportError: `cryptography` is missing (extra `seal`).
    """
    return Signer(signing_key(store))


def take_digest(
    store: SQLStore, directory: Path, signer: Signer, *, begin: bool = False
) -> Digest | None:
    """Write a digest: the last event of each flow that has new events since the last digest.

    Nothing is written to the store, which may be opened for reading only.

    Args:
        store: The store.
        directory: The directory of the digests.
        signer: The signer.
        begin: Write the first digest, into a directory without digests.

    Returns:
        The digest; None if there are no new events.

    Raises:
        StoreError: The directory has no digest and `begin` is not set, or it has one and `begin`
            is set. Or the digest could not be written, or the store or a digest not be read.
    """
    with _ledger(directory) as ledger, store.reading() as rows:
        new = (
            Entry(flow_id, seq, head)
            for flow_id, seq, head in rows("last_events")
            if ledger.latest(flow_id) != (seq, head)
        )
        return signer.write(directory, text_of(time.time()), new, begin=begin)


class Pruned(NamedTuple):
    """The result of pruning.

    Attributes:
        flows: How many flows were pruned.
        digest: The digest that names them; None if earlier digests did, or nothing was pruned.
        waiting: How many flows that have not ended lost their first events.
    """

    flows: int
    digest: Digest | None
    waiting: int = 0


def prune(
    store: SQLStore, directory: Path, signer: Signer, before: float, *, waiting: bool = False
) -> Pruned:
    """Delete the events of flows that ended long ago, behind a digest that names the flows.

    The digest is written first. If pruning is interrupted after that, the next call continues it.
    Flows that do not match earlier digests, or that cannot have been deleted by a purge, keep their
    events, so that verification finds them.

    Args:
        store: The store.
        directory: The directory of the digests.
        signer: The signer.
        before: The flows ended before this time, in seconds since 1970. Flows that are still in
            the store keep their events.
        waiting: Whether flows that have not ended lose the events before that time, each but the
            last of them. The digest names the event before that one, so verification knows where
            the chain begins.

    Raises:
        StoreError: The directory has no digest (`take_digest` writes the first one), or reading or
            writing failed.
    """
    with _ledger(directory) as ledger, store.reading() as rows:
        pruning = _Pruning(ledger, rows, text_of(before))
        entries = chain(pruning.ended(), pruning.waiting() if waiting else ())
        digest = signer.write(directory, text_of(time.time()), entries)
    if pruning.going or pruning.shortened:
        store.prune(pruning.going, pruning.shortened)
    return Pruned(len(pruning.going), digest, len(pruning.shortened))


class _Pruning:
    """Finds what can be pruned.

    Attributes:
        going: The flows that lose all their events.
        shortened: The flows that keep their events from a number on.
    """

    def __init__(self, ledger: Ledger, rows: Query, until: str) -> None:
        self._ledger = ledger
        self._rows = rows
        self._until = until
        self.going: list[str] = []
        self.shortened: dict[str, int] = {}

    def ended(self) -> Iterator[Entry]:
        """Yield the entries of a digest for flows that the store has deleted."""
        values = {"until": self._until, "store": STORE}
        for flow_id, seq, head in self._rows("last_events_before", values):
            if self._is_as_signed(flow_id):
                self.going.append(flow_id)
                yield from self._up_to(flow_id, (seq, head))

    def waiting(self) -> Iterator[Entry]:
        """Yield the entries of a digest for flows that have not ended."""
        for row in self._rows("open_before", {"until": self._until}):
            flow_id, seq, head = row[FLOW], row[SEQ], row[HASH]
            last = next(self._rows("event_before", {"id": flow_id, "seq": seq}), None)
            if last is None or not _follows(row, last) or not self._is_as_signed(flow_id):
                continue
            self.shortened[flow_id] = seq
            yield from self._up_to(flow_id, last)
            if (self._ledger.latest(flow_id) or (0,))[0] < seq:
                yield Entry(flow_id, seq, head)

    def _up_to(self, flow_id: str, last: tuple[int, str]) -> Iterator[Entry]:
        if self._ledger.latest(flow_id, pruned=True) != last:
            yield Entry(flow_id, last[0], last[1], pruned=True)

    def _is_as_signed(self, flow_id: str) -> bool:
        """Tell whether the flow has the event that the last digest names, or lost it by pruning."""
        known, pruned = (self._ledger.latest(flow_id, pruned=pruned) for pruned in (False, True))
        if known is None or (pruned is not None and known[0] <= pruned[0]):
            return True
        return known in self._rows("event", {"id": flow_id, "seq": known[0]})


def _follows(row: Sequence[Any], last: tuple[int, str]) -> bool:
    """Tell whether an event says that it follows one of this number and this hash."""
    try:
        event = claimed_by(row)
    except DAMAGED:
        return False
    as_pruned = Head(0, last[0], last[1], pruned=True)
    return anchor_of(event, [as_pruned]) == last


@contextmanager
def _ledger(directory: Path) -> Iterator[Ledger]:
    """Yield a ledger with the entries of the digests in a directory."""
    with Ledger() as ledger:
        for number, path in files_of(directory):
            ledger.take(number, read_entries(path, read_digest(path)))
        yield ledger
