"""Manipulate a trail very often, and say what a verification made of it.

    python -m tests.evidence --each 2000 --store both --seed 1 [--without-key] [--trail summary]

Each manipulation is done in a transaction that is taken back. The verification is of the flows that
it was done to; each fifth one is of the whole store, and so is each of digests. Exits 1
where something was not found, or not called what it was.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from deviceflow.audit.mode import MODES
from tests.evidence.runs import tally


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.evidence", description=__doc__)
    parser.add_argument("--each", type=int, default=2000, help="how often each is done")
    parser.add_argument("--store", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-key", action="store_true", help="verify by the digests alone")
    parser.add_argument("--trail", choices=MODES, default="each", help="what the trail stores")
    asked = parser.parse_args()
    kinds = ["sqlite", "postgres"] if asked.store == "both" else [asked.store]
    work = [(kind, asked.each, asked.seed, not asked.without_key, asked.trail) for kind in kinds]
    with ProcessPoolExecutor(len(kinds), get_context("spawn")) as pool:
        results = list(pool.map(tally, *zip(*work, strict=True)))
    missed = 0
    for kind, tallies in zip(kinds, results, strict=True):
        print(f"\n{kind:<30} {'tried':>7} {'found':>7} {'named':>7} {'seconds':>8}")
        for line in tallies:
            print(line)
            missed += len(line.misses)
        for line in tallies:
            for miss in line.misses[:3]:
                print(miss, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
