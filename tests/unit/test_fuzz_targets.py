"""The targets of the fuzzing engine hold for their seeds, and for bytes that are nearly those."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.fuzz.seeds import CORPUS, near, seeds
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

MUTANTS: Final = int(os.environ.get("DEVICEFLOW_FUZZ", "12"))


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        pytest.param(name, file, id=f"{name}-{file.name}")
        for name in TARGETS
        for file in seeds(name)
    ],
)
def test_a_target_holds_for_a_seed_and_its_mutants(target: str, seed: Path) -> None:
    others = [file.read_bytes() for file in seeds(target)]

    for data in (seed.read_bytes(), *near(seed.read_bytes(), others, MUTANTS)):
        try:
            TARGETS[target](data)
        except Exception as error:
            error.add_note(f"The bytes: {data!r}")
            raise


def test_each_folder_of_seeds_has_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == TARGETS.keys()
