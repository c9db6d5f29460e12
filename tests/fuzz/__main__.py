"""Have a fuzzing engine look for bytes that a target stumbles over, until it is interrupted.

    pip install atheris
    python -m tests.fuzz device_answer -max_total_time=600

What follows the target is passed on to libFuzzer, which atheris runs. It begins with the seeds, and
puts what it finds into `artifacts/fuzz/TARGET`. To see what a file does, name the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fuzz.seeds import CORPUS


def main() -> None:
    """Run the command."""
    try:
        import atheris
    except ImportError:
        sys.exit("The engine is missing: pip install atheris")
    with atheris.instrument_imports(include=["deviceflow"]):
        from tests.fuzz.targets import TARGETS
    name, *options = sys.argv[1:] or [""]
    if name not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [OPTION...] [FILE...]")
    if not any(Path(option).is_file() for option in options):
        found = Path("artifacts/fuzz") / name
        found.mkdir(parents=True, exist_ok=True)
        options += [f"-artifact_prefix={found}/crash-", str(found), str(CORPUS / name)]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
