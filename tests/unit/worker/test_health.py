"""The health file: written by progress, and what a probe makes of it."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from deviceflow.worker._health import HealthFile, UnhealthyError, check
from deviceflow.worker._worker import Counts

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = Counts(3, 1, 2, 0.25, 17, 0, False)


def test_progress_writes_the_counts_and_a_probe_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "health"
    file = HealthFile(path)
    file.progress(lambda: COUNTS)
    file.progress(lambda: COUNTS._replace(steps=18))  # within the same second

    said = check(path)
    assert said["pid"] == os.getpid()
    assert {name: said[name] for name in Counts._fields} == COUNTS._asdict()
    assert [entry.name for entry in tmp_path.iterdir()] == ["health"]
    file.remove()
    file.remove()
    with pytest.raises(UnhealthyError, match="has not begun, or has ended"):
        check(path)


def test_a_worker_that_has_not_got_on_is_unhealthy(tmp_path: Path) -> None:
    path = tmp_path / "health"
    path.write_text(json.dumps({"at": time.time() - 100}))
    with pytest.raises(UnhealthyError, match="not got on for 100 seconds"):
        check(path)
    assert check(path, max_age=200)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"at": "now"}', "\0"])
def test_what_is_no_health_file_is_unhealthy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "health"
    path.write_text(text)
    with pytest.raises(UnhealthyError, match="health"):
        check(path)
