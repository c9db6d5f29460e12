"""What is done with the trail in a database as a whole: signing digests of it, and pruning it."""

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
    """Return what signs digests; see `deviceflow.credentials.keys.signing`.

    Args:
        store: A SQLite file, beside which the key is made (0600) on first use.

    Raises:
        StoreError: There is no key, or none that can be used.
        ImportError: `cryptography` is missing (extra `seal`).
    """
    return Signer(signing_key(store))


def take_digest(
    store: SQLStore, directory: Path, signer: Signer, *, begin: bool = False
) -> Digest | None:
    """Sign the last event of each flow that had a new one since the last digest, and write that.

    Nothing is written to the store, which may be opened for reading only.

    Args:
        store: The store.
        directory: Where the digests are.
        signer: What signs.
        begin: Write the first digest, into a directory that has none.

    Returns:
        The digest; None where nothing has happened since the last one.

    Raises:
        StoreError: There is no digest yet, and `begin` is not set; or there is, and `begin` is
            set. Or the digest could not be written, or the store or a digest could not be read.
    """
    with _said(directory) as said, store.reading() as rows:
        new = (
            Entry(flow_id, seq, head)
            for flow_id, seq, head in rows("last_events")
            if said.latest(flow_id) != (seq, head)
        )
        return signer.write(directory, text_of(time.time()), new, begin=begin)


class Pruned(NamedTuple):
    """What was dropped from a trail.

    Attributes:
        flows: How many flows lost their events.
        digest: The digest that says so; None where earlier ones did, or there was nothing to drop.
    """

    flows: int
    digest: Digest | None


def prune(store: SQLStore, directory: Path, signer: Signer, before: float) -> Pruned:
    """Drop the events of flows that ended before then, behind a digest that says so.

    The digest is written first: what is interrupted after that is gone on with by the next call.
    What is not as the digests before have it, or cannot have been purged, is left to be found.

    Args:
        store: The store.
        directory: Where the digests are.
        signer: What signs.
        before: In seconds since 1970. Flows that are still in the store keep their events.

    Raises:
        StoreError: There is no digest in the directory: the first one is taken by `take_digest`.
            Or something could not be read or written.
    """
    going: list[str] = []

    def as_signed(flow_id: str) -> bool:
        known = said.latest(flow_id)
        return known is None or known in rows("event", {"id": flow_id, "seq": known[0]})

    def new() -> Iterator[Entry]:
        for flow_id, seq, head in rows(
            "last_events_before", {"until": text_of(before), "store": STORE}
        ):
            if as_signed(flow_id):
                going.append(flow_id)
                if said.latest(flow_id, dropped=True) != (seq, head):
                    yield Entry(flow_id, seq, head, dropped=True)

    with _said(directory) as said, store.reading() as rows:
        digest = signer.write(directory, text_of(time.time()), new())
    if going:
        store.prune(going)
    return Pruned(len(going), digest)


@contextmanager
def _said(directory: Path) -> Iterator[Ledger]:
    """Give what the digests in a directory say."""
    with Ledger() as ledger:
        for number, path in files_of(directory):
            ledger.take(number, read_entries(path, read_digest(path)))
        yield ledger
