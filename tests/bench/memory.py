"""The memory of flows that wait for a person."""

from __future__ import annotations

import gc
import secrets
import tracemalloc
from typing import TYPE_CHECKING

from deviceflow import Client, Studio
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.bench.size import size
from tests.bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.wire import Response

FLOWS = size(10_000, 1_000)
GOAL = 600.0


def _codes() -> Iterator[Response]:
    while True:
        yield answer(
            200,
            {
                "device_code": secrets.token_urlsafe(32),
                "user_code": secrets.token_hex(4).upper(),
                "verification_uri": "https://studio.example.com/auth/device-login",
                "token_uri": "https://studio.example.com/api/device-login/token",
                "token_name": f"nightly-{secrets.token_hex(4)}",
                "expires_in": 900,
            },
        )


def rows() -> Iterator[Row]:
    client = Client(transport=_Forgetful(_codes()), clock=VirtualClock())
    studio = Studio("https://studio.example.com")
    client.start(studio, client_name="nightly", scopes=["experiments"])
    gc.collect()
    tracemalloc.start()
    for _ in range(FLOWS):
        client.start(studio, client_name="nightly", scopes=["experiments"])
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] / FLOWS
    tracemalloc.stop()
    yield Row(f"memory of a waiting flow, of {FLOWS:,} (goal in bytes)", used, GOAL, 1.0, "B")


class _Forgetful(ScriptedTransport):
    """Keeps no requests, whose memory is not the flows'."""

    def send(self, request: object, timeout: float) -> Response:
        return next(self._script)  # type: ignore[return-value]
