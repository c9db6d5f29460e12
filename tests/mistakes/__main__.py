"""Write the answers to the mistakes anew: `python -m tests.mistakes`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.mistakes import ANSWERS, answered, commands

with tempfile.TemporaryDirectory() as folder:
    lines = answered(Path(folder))
ANSWERS.write_text("\n".join(lines) + "\n", "utf-8")
sys.stdout.write(f"{len([*commands(lines)])} mistakes\n")
