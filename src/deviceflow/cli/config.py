"""`deviceflow config show`: which settings a login would have, and where each comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deviceflow import config
from deviceflow.cli import target

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> int:
    """Print the settings. Secrets are references, and are printed as such.

    Raises:
        UsageError: The file or the profile cannot be used.
    """
    settled = target.settled(args)
    if args.json:
        facts = {k: {"value": s.value, "source": s.source} for k, s in settled.items()}
        print(json.dumps(facts))
        return 0
    for name, setting in settled.items():
        print(f"{name} = {setting.value!r}  # {setting.source}")
    if not settled:
        print("# nothing is set")
    if not args.profile:
        there = config.load()
        print(f"# profiles in {there.path}: {', '.join(there.profiles()) or 'none'}")
    return 0
