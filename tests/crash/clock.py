"""One time for many processes, and for their server and their database: it stands in a file."""

from __future__ import annotations

import fcntl
import mmap
import struct
import time
from typing import TYPE_CHECKING, Final, Self

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from pathlib import Path

_WORD: Final = 8
_FIELDS: Final = 3


class SharedClock:
    """A `Clock` that goes as real time does, times `pace`, and some seconds ahead.

    Attributes:
        path: The file it stands in.
        origin: When it was made, in seconds since 1970.
        pace: How many of its seconds pass in a real one; with 0 time passes by `advance` alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("r+b")
        self._shared = mmap.mmap(self._file.fileno(), _WORD * _FIELDS)
        # Big-endian, since that is how SQL can read it; each is written by one move of a word.
        words = struct.unpack(">3q", self._shared[:])
        self.origin: float = words[1] / 1e6
        self.pace: int = words[2]

    @classmethod
    def make(cls, path: Path, *, pace: int = 1) -> Self:
        """Make the file."""
        path.write_bytes(struct.pack(">3q", 0, round(time.time() * 1e6), pace))
        path.chmod(0o644)  # the database is somebody else's process
        return cls(path)

    def time(self) -> float:
        """Return the wall clock's time, in seconds since 1970."""
        return self.origin + (time.time() - self.origin) * self.pace + self._ahead()

    def monotonic(self) -> float:
        """Return the monotonic clock's time, in seconds."""
        return time.monotonic() * self.pace + self._ahead()

    def sleep(self, seconds: float) -> None:
        """Move the time on, instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move the time on, for everybody."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        ahead = round((self._ahead() + seconds) * 1e6) + 1
        self._shared[:_WORD] = struct.pack(">q", ahead)
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._shared.close()
        self._file.close()

    def _ahead(self) -> float:
        (ahead,) = struct.unpack(">q", self._shared[:_WORD])
        return float(ahead) / 1e6


class CrowdClock(SharedClock):
    """The same for many who sleep at once: a sleep is a real one, shorter by the clock's pace."""

    def sleep(self, seconds: float) -> None:
        """Wait until so much of its time has passed."""
        time.sleep(seconds / self.pace)


_DATABASE_CLOCK: Final = """
    CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
        SELECT to_timestamp(
            {origin}::float8
            + {pace}::float8
                * (extract(epoch FROM pg_catalog.clock_timestamp())::float8 - {origin}::float8)
            + ('x' || encode(pg_read_binary_file({path}, 0, 8), 'hex'))::bit(64)::bigint / 1e6
        )
    $$
"""


def set_database_clock(url: str, clock: SharedClock) -> str:
    """Have a database tell the shared time; return the URL by which it does.

    Names are looked up in the schema `fake` first, and there is another `clock_timestamp` in it.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA fake")
        connection.execute(
            sql.SQL(_DATABASE_CLOCK).format(
                origin=clock.origin, pace=clock.pace, path=str(clock.path)
            )
        )
    return f"{url}?options=-csearch_path%3Dfake,pg_catalog"
