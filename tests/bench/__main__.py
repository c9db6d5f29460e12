"""What deviceflow costs, beside what it is compared with: `python -m tests.bench`.

Each figure is a ratio taken in one run, by interleaved rounds, since only ratios travel from one
machine to another. Nothing here fails on time: the output is to be read.

With `DEVICEFLOW_BENCH_SMOKE=1` each benchmark runs once, on little data. That shows that the
benchmarks work, and no more: such figures mean nothing.
"""

from __future__ import annotations

from tests.bench import evidence, imports, memory, persist, polling, tokens

print(f"{'what':<58} {'ours':>12} {'compared':>12} {'ratio':>7} {'goal':>7}")
for part in (imports, memory, polling, persist, tokens, evidence):
    for row in part.rows():
        print(row)
