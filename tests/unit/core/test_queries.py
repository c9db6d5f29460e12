"""What the store in memory answers."""

from __future__ import annotations

from deviceflow import Client
from deviceflow.core import queries
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock
from tests.integration.places import CODE, OAUTH


def test_login_is_pending_until_it_has_ended() -> None:
    store = MemoryStore()
    client = Client(store, clock=VirtualClock(), transport=ScriptedTransport([CODE]))
    assert store.select(queries.pending(), 0.0) == []

    login = client.start(OAUTH)
    assert store.select(queries.pending(), 0.0) == [True]

    client.cancel(login.id)
    assert store.select(queries.pending(), 0.0) == []
