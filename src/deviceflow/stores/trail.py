"""What is done with the trail in a database as a whole: signing digests of it, and pruning it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import STORED
from deviceflow.audit.digest import Signer, files_of, generate_signing_key, read_digest
from deviceflow.audit.events import STORE, Origin
from deviceflow.errors import StoreError
from deviceflow.secret import Secret
from deviceflow.stores.keys import read_keys, write_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deviceflow.audit.digest import Digest
    from deviceflow.stores.sql import SQLStore

    Heads = Mapping[str, tuple[int, str]]

KEY_VARIABLE: Final = "DEVICEFLOW_AUDIT_SIGNING_KEY"

_FLOW, _SEQ, _HASH, _TIME, _TO = (
    STORED.index(name) for name in ("flow_id", "seq", "hash", "time", "to")
)


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
    signed, _ = _signed(directory)
    with store.snapshot() as snapshot:
        heads = {
            flow_id: (last[_SEQ], last[_HASH])
            for flow_id, rows in groupby(snapshot.events, itemgetter(_FLOW))
            if (last := _last(rows)) and signed.get(flow_id) != (last[_SEQ], last[_HASH])
        }
    return signer.write(directory, _now(), heads) if heads else None


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
    _, dropped = _signed(directory)
    until = datetime.fromtimestamp(before, UTC).isoformat(timespec="milliseconds")
    going: dict[str, tuple[int, str]] = {}
    with store.snapshot() as snapshot:
        kept = {row[0] for row in snapshot.flows}
        for flow_id, rows in groupby(snapshot.events, itemgetter(_FLOW)):
            last = _last(rows)
            if flow_id not in kept and flow_id != STORE and last[_TIME] < until:
                going[flow_id] = (last[_SEQ], last[_HASH])
    new = {flow_id: head for flow_id, head in going.items() if dropped.get(flow_id) != head}
    digest = signer.write(directory, _now(), {}, new) if new else None
    if going:
        store.drop_events(going)
        store.note("prune", time.time(), f"the events of {len(going)} flows", Origin())
    return digest


def _signed(directory: Path) -> tuple[Heads, Heads]:
    heads: dict[str, tuple[int, str]] = {}
    dropped: dict[str, tuple[int, str]] = {}
    for _, path in files_of(directory):
        digest = read_digest(path)
        heads.update(digest.heads)
        dropped.update(digest.dropped)
    return heads, dropped


def _last(rows: Iterator[tuple[Any, ...]]) -> tuple[Any, ...]:
    *_, last = rows
    return last


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
