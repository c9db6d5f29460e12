"""Verify a trail in several processes.

Each process reads and verifies a part of the flows. Events that were moved from one part to another
are matched here.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any, NamedTuple

from deviceflow.errors import StoreError
from deviceflow.trail.ledger import Ledger
from deviceflow.trail.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.ports import StoredFlow
    from deviceflow.trail.digest import DigestId
    from deviceflow.trail.ledger import Finding, Hole, Misplaced

    Rows = Iterable[tuple[Any, ...]]
    Snapshot = tuple[Rows, Iterable[StoredFlow], AuditKey | None, Rows]
    OpenPart = Callable[[str, str | None], AbstractContextManager[Snapshot]]


class _Seen(NamedTuple):
    """The results of one process."""

    findings: list[Finding]
    strays: list[Misplaced]
    holes: list[Hole]
    events: int
    flows: int


class PartedVerification(Verification):
    """A verification of a trail in several processes.

    Args:
        open_part: Opens a part of the trail in another process. It is called with the first flow
            id and the id behind the last one, must be picklable, and returns the events, the flows,
            the key and the store's own events.
        bounds: The flow ids that separate the parts.
        digests: As for `Verification`.
        public_key: As for `Verification`.
        last: As for `Verification`.
    """

    def __init__(
        self,
        open_part: OpenPart,
        bounds: Sequence[str],
        *,
        digests: Path | None = None,
        public_key: str | None = None,
        last: DigestId | None = None,
    ) -> None:
        super().__init__((), (), None, digests=digests, public_key=public_key, last=last)
        self._open_part = open_part
        self._parts = list(zip(["", *bounds], [*bounds, None], strict=True))

    def examine(self, ledger: Ledger, progress: Callable[[int], object]) -> Iterator[Finding]:
        """Yield findings of single flows, and put into the ledger what concerns several."""
        try:
            for seen in self._seen():
                for stray in seen.strays:
                    ledger.stray(stray)
                for hole in seen.holes:
                    ledger.hole(hole)
                self.events += seen.events
                self.flows += seen.flows
                progress(self.events)
                yield from seen.findings
        except BrokenProcessPool:
            raise StoreError(
                "A process that verified a part of the trail was terminated.",
                hint="Try again with fewer processes.",
            ) from None

    def _seen(self) -> Iterator[_Seen]:
        # Spawned, because forked processes would share open connections.
        spawn = get_context("spawn")
        with ProcessPoolExecutor(len(self._parts), spawn, _dies_with_its_parent) as pool:
            doing = [
                pool.submit(_see, self._open_part, part, self._directory, self.signed_by)
                for part in self._parts
            ]
            for done in as_completed(doing):
                yield done.result()


def _see(
    open_part: OpenPart, part: tuple[str, str | None], digests: Path | None, public_key: str | None
) -> _Seen:
    with open_part(*part) as snapshot, Ledger() as ledger:
        verification = Verification(*snapshot, digests=digests, public_key=public_key, part=part)
        for _ in verification.read_digests(ledger):
            pass  # the parent process reports findings of digests
        findings = list(verification.examine(ledger, lambda _: None))
        seen = verification.events, verification.flows
        return _Seen(findings, list(ledger.strays()), list(ledger.holes()), *seen)


def _dies_with_its_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = parent_process()
    assert parent is not None  # noqa: S101  # spawned
    parent.join()
    os._exit(1)
