"""A real PgBouncer before a PostgreSQL, pooling by transaction."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.postgres import PATIENCE, as_somebody_else, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres import PostgresServer

_SETTINGS: Final = """\
[databases]
* = host=127.0.0.1 port={postgres} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
logfile = {folder}/log
"""


class PgBouncer:
    """One pooler. It has no user's passwords, and asks for none.

    Args:
        server: The server behind it.
    """

    def __init__(self, server: PostgresServer) -> None:
        program = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin:{os.environ['PATH']}")
        if program is None:
            missing = "No PgBouncer to test with: install the package pgbouncer."
            pytest.skip(missing)
        self.folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._port = free_port()
        how = as_somebody_else(self.folder)
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            _SETTINGS.format(postgres=urlsplit(server.url).port, own=self._port, folder=self.folder)
        )
        settings.chmod(0o644)
        self._process = subprocess.Popen(
            [program, "--quiet", str(settings)], stdin=subprocess.DEVNULL, process_group=0, **how
        )
        until = time.monotonic() + PATIENCE
        while not self._is_ready():
            assert self._process.poll() is None, "PgBouncer has ended"
            assert time.monotonic() < until, "PgBouncer does not start"
            time.sleep(0.02)

    def url(self, database: str) -> str:
        """Return the address of one of the server's databases by way of the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database.rpartition('/')[2]}"

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have the pooler suspended for some time."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
