"""Put junk into a store's tables, use the store in every way, and say what did not hold.

    python -m tests.fuzz_store --runs 12000 --seed 1 --store both

Each run puts a store back as it was (18 logins at all stages), changes it behind its back, verifies
it, does one thing with it, and then sees that all other logins go on. What is changed: any column
of any table, to any kind of junk; or rows and events are deleted, copied, swapped, rewound, forged.
The stores: SQLite and PostgreSQL, sealed and in clear, with the audit key in the store or
elsewhere. What is done: every command, and every method of a client and of a store; some commands
as processes of their own. What must hold, in each run:

1. only errors of ours are raised, and a command ends with a documented exit code and its reason;
2. each operation ends within 30 seconds, and does not wait for ever;
3. nothing is sent from a row that no key holder wrote, and no variable or file of the worker is
   read or sent;
4. all other logins are stepped, listed and purged;
5. `deviceflow audit verify` finds the change, and names nobody else;
6. no output has a secret in it, or what steers a terminal; and with what was there put back, each
   login is as it was and gets its token.

Exits 1 where something did not hold, and prints how to repeat that run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from tests.fuzz_store.campaign import part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz_store.places import Kind
    from tests.fuzz_store.runs import Outcome

_SHOWN: Final = 20


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=12_000, help="how many, of all stores")
    parser.add_argument("--run", type=int, help="repeat the run of this number only")
    parser.add_argument("--store", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--seed", default="1", help="what chance goes by")
    parser.add_argument("--processes", type=int, default=2, help="for each store, at once")
    asked = parser.parse_args()
    kinds: list[Kind] = ["sqlite", "postgres"] if asked.store == "both" else [asked.store]
    numbers = (
        range(asked.runs // len(kinds)) if asked.run is None else range(asked.run, asked.run + 1)
    )
    begun = time.monotonic()
    work = [
        (kind, asked.seed, numbers[first :: asked.processes])
        for kind in kinds
        for first in range(min(asked.processes, len(numbers)))
    ]
    with ProcessPoolExecutor(len(work), get_context("spawn")) as pool:
        results = list(pool.map(part, *zip(*work, strict=True)))
    found = [(kind, one) for (kind, _, _), done in zip(work, results, strict=True) for one in done]
    _print([one for _, one in found])
    print(f"{time.monotonic() - begun:.0f} seconds, seed {asked.seed}")
    wrong = [(kind, one) for kind, one in found if one.problems]
    for kind, one in wrong[:_SHOWN]:
        print(f"\n{one.secrecy}: {one.said}; then {one.operation}", file=sys.stderr)
        for problem in one.problems:
            print(f"  {problem}", file=sys.stderr)
        again = f"--store {kind} --seed {asked.seed} --run {one.number}"
        print(f"  again: python -m tests.fuzz_store {again}", file=sys.stderr)
    return int(bool(wrong))


def _print(done: Sequence[Outcome]) -> None:
    columns = [f"{one.case.table}.{one.case.column}" if one.case.column else "" for one in done]
    _table("column", [(name, one) for name, one in zip(columns, done, strict=True) if name])
    kinds = [(one.case.kind + ", signed" * one.case.signed, one) for one in done]
    _table("junk", [(kind, one) for kind, one in kinds if one.case.column])
    _table("attack", [(kind, one) for kind, one in kinds if not one.case.column])
    _table("store", [(one.secrecy, one) for one in done])
    _table("then", [(one.operation, one) for one in done])
    _table("", [("all", one) for one in done])


def _table(title: str, rows: Sequence[tuple[str, Outcome]]) -> None:
    """Print how many runs there were, how many a database refused, and what came of the rest."""
    runs, refused, found, wrong = (Counter[str]() for _ in range(4))
    for name, one in rows:
        runs[name] += 1
        refused[name] += not one.done
        found[name] += one.found
        wrong[name] += bool(one.problems)
    print(f"{title:<34} {'runs':>7} {'refused':>8} {'found':>7} {'failed':>7}")
    for name in sorted(runs):
        print(f"{name:<34} {runs[name]:>7} {refused[name]:>8} {found[name]:>7} {wrong[name]:>7}")
    print()


if __name__ == "__main__":
    sys.exit(main())
