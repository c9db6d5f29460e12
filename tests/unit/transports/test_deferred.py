"""The transport that is made when something is sent."""

from __future__ import annotations

import subprocess
import sys

from deviceflow.transports.deferred import DeferredTransport
from tests.unit.transports.serving import failure, post, unused_port

_UNUSED = """
import sys
from deviceflow import Client
Client().close()
print("requests" in sys.modules)
"""


def test_a_client_that_sends_nothing_does_not_import_requests() -> None:
    assert subprocess.check_output([sys.executable, "-c", _UNUSED], text=True).strip() == "False"


def test_it_sends_again_after_it_was_closed() -> None:
    transport = DeferredTransport()
    for _ in range(2):
        sent = transport.send(post(f"http://127.0.0.1:{unused_port()}/token"), 5)
        assert failure(sent) == ("connection", False)
        transport.close()
