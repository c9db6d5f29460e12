"""Doing manipulations many times over, and counting what a verification made of each."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.core.encryption import generate_key
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from tests.evidence.manipulations import MANIPULATIONS, OF_SUMMARIES, Attack
from tests.evidence.trails import Trail
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deviceflow.audit.mode import TrailMode

WHOLE: Final = 5
"""Of so many verifications one is of the whole store."""

NEEDS_KEY: Final = frozenset(
    {"illegal transition", "clock backwards", "made-up row"}
    | {"edited open run", "forged open run"}
)
"""What is done where no digest is, and so is not looked for without the key."""


_ALL: Final = {**MANIPULATIONS, **OF_SUMMARIES}


class Tally(NamedTuple):
    """How often a manipulation was found, and called what it was."""

    kind: str
    tried: int
    found: int
    named: int
    seconds: float
    misses: list[str]

    def __str__(self) -> str:
        return (
            f"{self.kind:<30} {self.tried:>7} {self.found:>7} {self.named:>7} {self.seconds:>8.1f}"
        )


def tried(
    trail: Trail,
    each: int,
    seed: int,
    *,
    keyed: bool = True,
    only: Sequence[str] = tuple(MANIPULATIONS),
) -> Iterator[Tally]:
    """Do manipulations of each kind so often, and yield what came of it."""
    assert trail.findings(trail.key if keyed else None) == []
    with TemporaryDirectory() as scratch:
        for kind in only:
            if not keyed and kind in NEEDS_KEY:
                continue
            begun = time.perf_counter()
            found = named = 0
            misses: list[str] = []
            for number in range(each):
                random = Random(f"{seed} {kind} {number}")
                attack = Attack(trail, random, Path(scratch), keyed=keyed)
                with trail.undone():
                    done = _ALL[kind](attack)
                    whole = done.digests is not None or number % WHOLE == 0
                    findings = trail.findings(
                        trail.key if keyed else None, None if whole else done.flows, done.digests
                    )
                found += bool(findings)
                if done.is_named_by(findings):
                    named += 1
                else:
                    misses.append(f"{trail.kind} {kind} {number}: {done}\n  {findings}")
            yield Tally(kind, each, found, named, time.perf_counter() - begun, misses)
    assert trail.findings(trail.key if keyed else None) == []


def made(kind: str, folder: Path, seed: int, url: str = "", mode: TrailMode = "each") -> Trail:
    """Make a trail in a store of a kind."""
    digests = folder / "digests"
    digests.mkdir()
    if kind == "sqlite":
        store = SQLiteStore(folder / "flows.db", synchronous="NORMAL", trail=mode)
        return Trail(store, digests, Random(seed))
    return Trail(PostgresStore(url, keys=[generate_key()], trail=mode), digests, Random(seed))


def kinds_of(mode: TrailMode) -> tuple[str, ...]:
    """Return what can be done to a trail in a mode."""
    return tuple(_ALL if mode == "summary" else MANIPULATIONS)


def tally(kind: str, each: int, seed: int, keyed: bool, mode: TrailMode) -> list[Tally]:
    with TemporaryDirectory() as folder:
        if kind == "sqlite":
            trail = made(kind, Path(folder), seed, mode=mode)
            tallies = list(tried(trail, each, seed, keyed=keyed, only=kinds_of(mode)))
            trail.close()
            return tallies
        with PostgresServer() as server:
            trail = made(kind, Path(folder), seed, server.database(), mode)
            tallies = list(tried(trail, each, seed, keyed=keyed, only=kinds_of(mode)))
            trail.close()
            return tallies
