"""A sample of `python -m tests.fuzz_store`, and that it reports a guard that is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.cli import streams
from deviceflow.client import _sync as client
from deviceflow.client.purge import Purged
from deviceflow.core.encryption import Plain, Sealer
from deviceflow.credentials import secret_refs
from deviceflow.stores.sql import rows
from deviceflow.trail.verify import Verification
from tests.fuzz_store import runs
from tests.fuzz_store.attacks import Case
from tests.fuzz_store.campaign import opened, outcomes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz_store.places import Kind, Place

SEED: Final = os.environ.get("DEVICEFLOW_FUZZ_SEED", "sample")
SAMPLE: Final[dict[Kind, int]] = {"sqlite": 60, "postgres": 20}
TRIES: Final = 40
"""How many runs there are to notice a missing guard in."""


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Place]]:
    with opened("sqlite") as found:
        yield {place.secrecy: place for place in found}


@pytest.mark.parametrize("kind", SAMPLE)
def test_store_with_junk_in_it(kind: Kind) -> None:
    with opened(kind) as found:
        done = list(outcomes(found, SEED, range(SAMPLE[kind])))

    assert [
        (one.number, one.said, one.operation, one.problems) for one in done if one.problems
    ] == []
    assert sum(one.done for one in done) > SAMPLE[kind] / 2
    assert sum(one.found for one in done) > SAMPLE[kind] / 3


def accept(*_: object) -> None:
    return None


GUARDS: Final[dict[str, tuple[list[tuple[Any, str, Any]], str, Case, str | None, str]]] = {
    "the MAC of a row": (
        [(Sealer, "check", accept)],
        "sealed",
        Case("structure", "", "row rewound"),
        "Client.step",
        "sent to the attacker",
    ),
    "the digest of a row in clear": (
        [(Plain, "check", accept)],
        "plaintext",
        Case("structure", "", "row inserted"),
        "deviceflow step",
        "sent to the attacker",
    ),
    "the list of references": (
        [(secret_refs, "check", accept)],
        "plaintext",
        Case("flows", "provider", "attacker's", signed=True),
        "Client.step",
        "something of the worker's was sent",
    ),
    "what a damaged row raises": (
        [(rows, "DAMAGED", ())],
        "plaintext",
        Case("flows", "record", "3000 brackets", signed=True),
        None,
        "raw JSONDecodeError",
    ),
    "the verification": (
        [(Verification, "findings", lambda *_: iter(()))],
        "sealed",
        Case("audit", "mac", "text"),
        None,
        "verify: not found",
    ),
    "what steers a terminal": (
        [(streams, "_cleaned", lambda line: line)],
        "plaintext",
        Case("flows", "id", "escapes", signed=True),
        "deviceflow list --all",
        "steers the terminal",
    ),
    "an end": (
        [(client.Client, "sweep", lambda *_: runs._Hurried().sleep(1e9)), (runs, "PATIENCE", 0.5)],
        "sealed",
        Case("flows", "previous_owner", "text"),
        None,
        "waits without end",
    ),
    "the other logins": (
        [(client.Client, "purge", lambda *_, **__: Purged(0, 0, []))],
        "sealed",
        Case("flows", "previous_owner", "text"),
        None,
        "then, purge: ",
    ),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_missing_guard_is_reported(
    monkeypatch: pytest.MonkeyPatch, places: dict[str, Place], guard: str
) -> None:
    instead, secrecy, case, operation, problem = GUARDS[guard]
    for where, name, new in instead:
        monkeypatch.setattr(where, name, new)

    for number in range(TRIES):
        done = runs.perform(places[secrecy], case, SEED, number, operation)
        if any(problem in one for one in done.problems):
            return

    pytest.fail(f"nothing was reported without {guard}")
