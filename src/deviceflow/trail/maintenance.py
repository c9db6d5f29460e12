"""Maintenance of a store's trail: sign digests, and prune old events."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from deviceflow.audit.events import STORE, text_of
from deviceflow.credentials.keys.signing import signing_key
from deviceflow.trail.digest import (
    Entry,
    Signer,
    files_of,
    read_digest,
    read_entries,
)
from deviceflow.trail.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.stores.sql import SQLStore
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
    """

    flows: int
    digest: Digest | None


def prune(store: SQLStore, directory: Path, signer: Signer, before: float) -> Pruned:
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

    Raises:
        StoreError: The directory has no digest (`take_digest` writes the first one), or reading or
            writing failed.
    """
    going: list[str] = []

    def as_signed(flow_id: str) -> bool:
        known = ledger.latest(flow_id)
        return known is None or known in rows("event", {"id": flow_id, "seq": known[0]})

    def new() -> Iterator[Entry]:
        for flow_id, seq, head in rows(
            "last_events_before", {"until": text_of(before), "store": STORE}
        ):
            if as_signed(flow_id):
                going.append(flow_id)
                if ledger.latest(flow_id, pruned=True) != (seq, head):
                    yield Entry(flow_id, seq, head, pruned=True)

    with _ledger(directory) as ledger, store.reading() as rows:
        digest = signer.write(directory, text_of(time.time()), new())
    if going:
        store.prune(going)
    return Pruned(len(going), digest)


@contextmanager
def _ledger(directory: Path) -> Iterator[Ledger]:
    """Yield a ledger with the entries of the digests in a directory."""
    with Ledger() as ledger:
        for number, path in files_of(directory):
            ledger.take(number, read_entries(path, read_digest(path)))
        yield ledger
