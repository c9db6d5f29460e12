"""Many runs, at stores of each kind."""

from __future__ import annotations

import contextlib
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tests.fuzz_store import attacks
from tests.fuzz_store.places import SECRECIES, place
from tests.fuzz_store.runs import perform
from tests.fuzz_store.servers import Servers
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.fuzz_store.places import Kind, Place
    from tests.fuzz_store.runs import Outcome

_MEMORY: Final = Path("/dev/shm")


@contextlib.contextmanager
def opened(kind: Kind) -> Iterator[list[Place]]:
    """Give a place of each secrecy."""
    where = _MEMORY if _MEMORY.is_dir() else None
    with (
        Servers.running() as servers,
        TemporaryDirectory(prefix="fuzz-", dir=where) as folder,
        PostgresServer() if kind == "postgres" else contextlib.nullcontext() as postgres,
    ):
        places = [
            place(kind, secrecy, Path(folder) / str(number), servers, postgres)
            for number, secrecy in enumerate(SECRECIES)
        ]
        yield places
        for one in places:
            one.close()


def outcomes(places: Sequence[Place], seed: str, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Do the runs of these numbers. Each kind of junk in each column has its turn."""
    turns = [(place, case) for place in places for case in attacks.cases(place)]
    Random(seed).shuffle(turns)
    for number in numbers:
        where, case = turns[number % len(turns)]
        yield perform(where, case, seed, number)


def part(kind: Kind, seed: str, numbers: Sequence[int]) -> list[Outcome]:
    """Do the runs of these numbers, in a process of their own."""
    with opened(kind) as places:
        return list(outcomes(places, seed, numbers))
