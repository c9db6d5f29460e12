"""Kill the processes of logins a thousand times, or have many step the same ones for a minute.

python -m tests.crash --kills 1000 [--trail summary] [--client async]
python -m tests.crash --handovers 500
python -m tests.crash --refreshes 1000
python -m tests.crash --concurrency
python -m tests.crash --workers 200
"""

# ruff: noqa: T201  # printing is its work

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from deviceflow.audit.mode import MODES, VARIABLE
from tests.crash.commands import hand_over
from tests.crash.crew import kill_workers
from tests.crash.crowd import FLOWS, WORKERS, compete
from tests.crash.kills import campaign
from tests.crash.places import KINDS
from tests.crash.refreshes import campaign as refresh_campaign
from tests.crash.zygote import Zygote
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.crash.commands import Handovers
    from tests.crash.crew import Killed
    from tests.crash.crowd import Competition
    from tests.crash.kills import Tally
    from tests.crash.refreshes import RefreshTally

_SHOWN: Final = 10


def asked_for() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=1000, help="how many, for each store")
    parser.add_argument(
        "--handovers",
        type=int,
        metavar="KILLS",
        help="kill commands while they hand a token over instead, so often for each store",
    )
    parser.add_argument(
        "--refreshes",
        type=int,
        metavar="KILLS",
        help="kill processes while they refresh a grant instead, so often for each store",
    )
    parser.add_argument(
        "--concurrency", action="store_true", help="8 processes step 40 flows instead, in real time"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="KILLS",
        help="kill workers that drive a whole store instead, two of four at a time, so often for"
        " each store",
    )
    parser.add_argument("--logins", type=int, default=2000, help="how many, for --workers")
    parser.add_argument(
        "--client", choices=("sync", "async"), default="sync", help="which one drives, for --kills"
    )
    parser.add_argument("--store", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--trail", choices=MODES, default="each", help="what the trail stores")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what chance goes by")
    return parser.parse_args()


def main() -> int:
    """Do as the command line says; return 1 if anything was wrong."""
    asked = asked_for()
    os.environ[VARIABLE] = asked.trail  # for all processes
    kinds = KINDS if asked.store == "both" else (asked.store,)
    wrong: list[str] = []
    tallies: dict[str, Tally] = {}
    crowds: dict[str, Competition] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-")))
        zygote = stack.enter_context(Zygote(asked.trail))
        for kind in kinds:
            postgres = stack.enter_context(PostgresServer()) if kind == "postgresql" else None
            rng = Random(f"{asked.seed} {kind}")
            if asked.handovers is not None:
                (folder / kind).mkdir()
                played = hand_over(zygote, folder / kind, postgres, rng, asked.handovers)
                print_handovers(kind, played)
                wrong += [f"{kind}: {problem}" for problem in played.wrong]
            elif asked.refreshes is not None:
                refreshed = refresh_campaign(kind, asked.refreshes, rng, zygote, folder, postgres)
                print_refreshes(kind, refreshed)
                wrong += [f"{kind}: {problem}" for problem in refreshed.wrong]
            elif asked.workers is not None:
                (folder / kind).mkdir()
                killed = kill_workers(
                    zygote,
                    folder / kind,
                    postgres,
                    rng,
                    kills=asked.workers,
                    logins=asked.logins,
                    pace=10,
                    interval=60.0,
                    expires_in=900.0,
                )
                print_killed(kind, killed)
                wrong += [f"{kind}: {problem}" for problem in killed.wrong]
            elif asked.concurrency:
                (folder / kind).mkdir()
                crowds[kind] = compete(zygote, folder / kind, postgres, rng, pace=1, interval=1.0)
            else:
                is_async = asked.client == "async"
                tallies[kind] = campaign(
                    kind, asked.kills, rng, zygote, folder, postgres, is_async=is_async
                )
    if asked.concurrency:
        print_crowds(crowds)
    elif asked.handovers is None and asked.workers is None and asked.refreshes is None:
        print_tallies(tallies)
    print(f"seed {asked.seed}")
    wrong += [f"{kind}: {problem}" for kind, t in tallies.items() for problem in t.wrong]
    wrong += [f"{kind}: {problem}" for kind, c in crowds.items() for problem in c.wrong]
    for problem in wrong[:_SHOWN]:
        print(problem, file=sys.stderr)
    return int(bool(wrong))


def print_handovers(kind: str, played: Handovers) -> None:
    """Print what came of it in one store."""
    print(kind)
    for point, times in sorted(played.kills.items()):
        print(f"{point:<52}{times:>8}")
    print(f"{'all':<52}{played.kills.total():>8}")
    print(f"{'logins whose token was delivered':<52}{played.done:>8}")
    print(f"{'violations':<52}{len(played.wrong):>8}\n")


def print_refreshes(kind: str, tally: RefreshTally) -> None:
    """Print what came of it in one store."""
    print(kind)
    for point, times in sorted(tally.kills.items()):
        print(f"{point:<52}{times:>8}")
    print(f"{'processes killed':<52}{tally.kills.total():>8}")
    print(f"{'answers cut':<52}{tally.cuts:>8}")
    for ended, times in sorted(tally.ended.items()):
        print(f"{f'grants: {ended}':<52}{times:>8}")
    print(f"{'events verified':<52}{tally.events:>8}")
    print(f"{'violations':<52}{len(tally.wrong):>8}")
    print(f"{'seconds':<52}{tally.seconds:>8.1f}\n")


def print_killed(kind: str, killed: Killed) -> None:
    """Print what came of it in one store."""
    print(kind)
    print(f"{'workers killed':<52}{killed.kills:>8}")
    for outcome, times in sorted(killed.outcomes.items()):
        print(f"{f'logins: {outcome}':<52}{times:>8}")
    for what in ("polls", "recoveries", "take_overs", "issued", "unknown", "events", "digests"):
        print(f"{what:<52}{getattr(killed, what):>8}")
    print(f"{'violations':<52}{len(killed.wrong):>8}")
    print(f"{'seconds':<52}{killed.seconds:>8.1f}\n")


def print_crowds(crowds: Mapping[str, Competition]) -> None:
    """Print what came of it, a column for each store."""
    print(f"{WORKERS} processes, {FLOWS} flows".ljust(44) + "".join(f"{c:>12}" for c in crowds))
    for outcome in sorted({outcome for crowd in crowds.values() for outcome in crowd.outcomes}):
        print(f"{outcome:<44}" + "".join(f"{c.outcomes[outcome]:>12}" for c in crowds.values()))
    for what in ("polls", "held", "delivered", "events", "digests"):
        print(f"{what:<44}" + "".join(f"{getattr(c, what):>12}" for c in crowds.values()))
    print(f"{'violations':<44}" + "".join(f"{len(c.wrong):>12}" for c in crowds.values()))
    print(f"{'seconds':<44}" + "".join(f"{c.seconds:>12.1f}" for c in crowds.values()))


def print_tallies(tallies: Mapping[str, Tally]) -> None:
    """Print what came of it, a column for each store."""
    print(f"{'killed':<44}" + "".join(f"{kind:>12}" for kind in tallies))
    points = {point for tally in tallies.values() for point in tally.kills}
    for point in sorted(points):
        print(f"{point:<44}" + "".join(f"{t.kills[point]:>12}" for t in tallies.values()))
    print(f"{'all':<44}" + "".join(f"{t.kills.total():>12}" for t in tallies.values()))
    print(f"\n{'logins that ended as':<44}")
    for outcome in sorted({outcome for tally in tallies.values() for outcome in tally.outcomes}):
        print(f"{outcome:<44}" + "".join(f"{t.outcomes[outcome]:>12}" for t in tallies.values()))
    print(f"\n{'events verified':<44}" + "".join(f"{t.events:>12}" for t in tallies.values()))
    print(f"{'by digests':<44}" + "".join(f"{t.digests:>12}" for t in tallies.values()))
    print(f"{'violations':<44}" + "".join(f"{len(t.wrong):>12}" for t in tallies.values()))
    print(f"{'seconds':<44}" + "".join(f"{t.seconds:>12.1f}" for t in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
