"""The manual page, made as docs/CONTRIBUTING.md says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow.cli.commands import COMMANDS

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[3]


def test_the_manual_page_is_made_and_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from argparse_manpage.cli import main  # noqa: PLC0415  # a tool of contributors

    text = (ROOT / "docs" / "CONTRIBUTING.md").read_text()
    (command,) = re.findall(r"^```sh\n(argparse-manpage .*?)^```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", shlex.split(command.replace("\\\n", " ")))

    main()

    page = (tmp_path / "deviceflow.1").read_text()
    parts = re.findall(r'^\.SS "?\\fBdeviceflow ([a-z-]+)', page.replace("\\-", "-"), re.MULTILINE)
    assert [name for name in COMMANDS if name not in parts] == []
    assert ".SH EXIT STATUS\n0 authorized or done" in page
    assert "deviceflow wait nightly --timeout 60" in page.replace("\\-", "-")
    if groff := shutil.which("groff"):
        warnings = ["-Wbreak", "-wchar", "-wescape", "-wmac", "-wsyntax"]
        done = subprocess.run(
            [groff, "-k", "-man", "-Tutf8", "-P-cbou", *warnings, "deviceflow.1"],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "EXIT STATUS" in done.stdout
