"""The seeds of the targets, and bytes that are nearly those, the same ones each time."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CORPUS: Final = Path(__file__).parent / "corpus"

_PIECES: Final = (
    *(b'"', b"{", b"[", b"}", b"\\ud800", b"\x1b[31m", b"\r\n", b"\0", b"\xff", b"%", b"="),
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 700, b"Dv1ce-0123456789-SECRET"),
)
"""What parsers and printers stumble over."""


def seeds(target: str) -> list[Path]:
    """Return the files of a target's seeds."""
    return sorted((CORPUS / target).iterdir())


def near(seed: bytes, others: Sequence[bytes], count: int) -> Iterator[bytes]:
    """Yield mutants of a seed.

    Args:
        seed: The seed.
        others: What a mutant may get parts of.
        count: How many there are.
    """
    chance = Random(seed)
    for _ in range(count):
        mutant = bytearray(seed)
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(mutant) + 1)
            match chance.randrange(5):
                case 0:
                    del mutant[at:]
                case 1:
                    del mutant[at : at + chance.randint(1, 8)]
                case 2:
                    mutant[at : at + 1] = chance.choice(_PIECES)
                case 3:
                    other = chance.choice(others)
                    mutant[at:] = other[chance.randrange(len(other) + 1) :]
                case _ if at < len(mutant):
                    mutant[at] ^= 1 << chance.randrange(8)
        yield bytes(mutant)
