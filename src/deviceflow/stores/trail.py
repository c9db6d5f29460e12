"""What is done with the trail in a database as a whole: signing digests of it, and pruning it."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from deviceflow.audit.digest import (
    Entry,
    Signer,
    files_of,
    generate_signing_key,
    read_digest,
    read_entries,
)
from deviceflow.audit.events import STORE, Origin
from deviceflow.audit.ledger import Ledger
from deviceflow.errors import StoreError
from deviceflow.secret import Secret
from deviceflow.stores.keys import read_keys, write_keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.audit.digest import Digest
    from deviceflow.stores.sql import SQLStore

KEY_VARIABLE: Final = "DEVICEFLOW_AUDIT_SIGNING_KEY"


def signer(store: Path | None) -> Signer:
    """Return what signs digests: by `DEVICEFLOW_AUDIT_SIGNING_KEY`, or a file beside the store.

    Args:
        store: A SQLite file, beside which the key is made (0600) on first use.

    Raises:
        StoreError: There is no key, or none that can be used.
        ImportError: `cryptography` is missing (extra `seal`).
    """
    if configured := os.environ.get(KEY_VARIABLE, "").strip():
        return Signer(Secret(configured))
    if store is None:
        raise StoreError(
            "There is no key to sign digests with.",
            hint=f"Set {KEY_VARIABLE}: deviceflow audit keygen",
        )
    path = key_file(store)
    if not path.exists():
        write_keys(path, [Secret(generate_signing_key())], new=True)
    return Signer(read_keys(path)[0])


def key_file(store: Path) -> Path:
    """Return where a SQLite file's own key to sign with is."""
    return store.with_name(f"{store.name}.signing-key")


def take_digest(store: SQLStore, directory: Path, signer: Signer) -> Digest | None:
    """Sign and write what each flow's last event is that had a new one since the last digest.

    Returns:
        The digest; None where nothing has happened since.

    Raises:
        StoreError: It could not be written, or the store or a digest not be read.
    """
    with _said(directory) as said, store.reading() as rows:
        new = (
            Entry(flow_id, seq, head)
            for flow_id, seq, head in rows("lasts")
            if said.latest(flow_id) != (seq, head)
        )
        return signer.write(directory, _now(), new)


def prune(store: SQLStore, directory: Path, signer: Signer, before: float) -> Digest | None:
    """Drop the events of flows that ended before then, behind a digest that says so.

    The digest is written first: what is interrupted after that is gone on with by the next call.

    Args:
        store: The store.
        directory: Where the digests are.
        signer: What signs.
        before: In seconds since 1970. Flows that are still in the store keep their events.

    Returns:
        The digest that lists what was dropped; None where there was nothing to drop.

    Raises:
        StoreError: Something could not be read or written.
    """
    until = datetime.fromtimestamp(before, UTC).isoformat(timespec="milliseconds")
    going: list[str] = []

    def new() -> Iterator[Entry]:
        for flow_id, seq, head in rows("over", {"until": until, "store": STORE}):
            going.append(flow_id)
            if said.latest(flow_id, dropped=True) != (seq, head):
                yield Entry(flow_id, seq, head, dropped=True)

    with _said(directory) as said, store.reading() as rows:
        digest = signer.write(directory, _now(), new())
    if going:
        store.drop_events(going)
        store.note("prune", time.time(), f"the events of {len(going)} flows", Origin())
    return digest


@contextmanager
def _said(directory: Path) -> Iterator[Ledger]:
    """Give what the digests in a directory say."""
    with Ledger() as ledger:
        for number, path in files_of(directory):
            ledger.take(number, read_entries(path, read_digest(path)))
        yield ledger


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
