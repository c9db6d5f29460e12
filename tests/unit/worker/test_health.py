"""The health file: written by progress, and what a probe makes of it."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from deviceflow.worker import _health
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


def test_a_file_that_cannot_be_written_is_told_of_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_health, "_WRITE_EACH", 0.0)
    path = tmp_path / "later" / "health"
    file = HealthFile(path)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            file.progress(lambda: COUNTS)
        file.progress(lambda: COUNTS)
        file.remove()
        path.parent.mkdir()
        file.progress(lambda: COUNTS)
        assert check(path)
        file.remove()
        path.parent.rmdir()


def test_a_worker_that_has_not_got_on_is_unhealthy(tmp_path: Path) -> None:
    path = tmp_path / "health"
    path.write_text(json.dumps({"at": time.time() - 100}))
    with pytest.raises(UnhealthyError, match="not got on for 100 seconds"):
        check(path)
    assert check(path, max_age=200)


def test_a_worker_that_is_stuck_since_the_clock_was_set_back_is_unhealthy(tmp_path: Path) -> None:
    path = tmp_path / "health"
    path.write_text(json.dumps({"at": time.time() + 3600}))
    with pytest.raises(UnhealthyError, match="set back"):
        check(path)
    path.write_text(json.dumps({"at": time.time() + 5}))
    assert check(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"at": "now"}', "\0"])
def test_what_is_no_health_file_is_unhealthy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "health"
    path.write_text(text)
    with pytest.raises(UnhealthyError, match="health"):
        check(path)
