"""A token with life left, by `get_token`: from memory, and from SQLite beside its bare row."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from deviceflow import Client, LoginPending, OAuth
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.bench.size import size
from tests.bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = size(20)
CALLS = size(1_000, 10)
PROVIDER = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
    scopes="offline_access",
)
CODE = {
    "device_code": "c" * 40,
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://as.example.com/device",
    "expires_in": 900,
}
TOKEN = {"access_token": "a" * 40, "refresh_token": "r" * 40, "expires_in": 3600}


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "grants.db")
        clock = VirtualClock()
        script = ScriptedTransport([answer(200, CODE), answer(200, TOKEN)])
        with (
            Client(f"sqlite:///{file}", transport=script, clock=clock) as client,
            closing(sqlite3.connect(file)) as bare,
        ):
            try:
                client.get_token("nightly", PROVIDER, mint="now")
            except LoginPending as pending:
                if pending.login is not None:
                    client.wait(pending.login.id)
            client.get_token("nightly")

            def read() -> None:
                bare.execute("SELECT * FROM grants WHERE name = ?", ("nightly",)).fetchone()

            def from_memory() -> None:
                client.get_token("nightly")

            def from_store() -> None:
                client._context.tokens.discard("nightly")
                client.get_token("nightly")

            memory, store, row = _each([from_memory, from_store, read])
    yield Row("get_token from memory (goal in µs)", memory, 15.0, 1.0, "µs")
    yield Row("get_token from SQLite, unsealed before / its bare row", store, row, 2.0, "µs")


def _each(calls: list[Callable[[], None]]) -> list[float]:
    """Return what each call takes in microseconds, the least of interleaved rounds."""
    least = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for number, call in enumerate(calls):
            begun = perf_counter()
            for _ in range(CALLS):
                call()
            least[number] = min(least[number], (perf_counter() - begun) / CALLS * 1e6)
    return least
