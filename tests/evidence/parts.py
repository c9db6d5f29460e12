"""Parts of a trail, as a process that verifies one opens it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow import Secret, open_store
from deviceflow.audit.chain import AuditKey
from deviceflow.stores.sql import Snapshot, SQLStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def part_of(where: str, keys: list[str], first: str, last: str | None) -> Iterator[Snapshot]:
    """Open a part of a store's trail."""
    store = open_store(where, keys=keys)
    assert isinstance(store, SQLStore)
    with store, store.snapshot(first, last) as snapshot:
        yield snapshot


@contextmanager
def dying(_first: str, _last: str | None) -> Iterator[Snapshot]:
    """Die as a process does that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield _NOTHING


@contextmanager
def stuck(told: str, _first: str, _last: str | None) -> Iterator[Snapshot]:
    """Tell who this is by a file of that name, and go on for long."""
    Path(told, str(os.getpid())).touch()
    time.sleep(600)
    yield _NOTHING


_NOTHING = Snapshot(iter(()), iter(()), AuditKey(Secret("")), iter(()))
