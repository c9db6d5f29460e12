"""A grant that continues with a refresh token which another program obtained."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest

from deviceflow import AsyncClient, Client, LoginPending, OAuth, Secret, Studio, errors
from deviceflow.core.encryption import generate_key
from deviceflow.core.states import GrantState
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    Transitions,
    VirtualClock,
    answer,
)
from tests.listed import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.typing import Store

SERVER: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
    scopes="read",
)
BROUGHT: Final = Secret("REFRESH-OF-ANOTHER-PROGRAM")
RENEWED: Final = answer(
    200, {"access_token": "ACCESS-1", "refresh_token": "REFRESH-1", "expires_in": 1000}
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with SQLiteStore(tmp_path / "grants.db", keys=[generate_key()]) as kept:
        yield kept


def client_of(store: Store, *answers: Any, **parts: Any) -> tuple[Client, ScriptedTransport]:
    transport = ScriptedTransport(list(answers))
    return Client(store, transport=transport, clock=VirtualClock(NOW), **parts), transport


def test_the_first_use_refreshes_and_nothing_is_sent_before(store: Store) -> None:
    client, transport = client_of(store, RENEWED)

    view = client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT)
    assert (view.state, view.generation, view.login_id) == (GrantState.ACTIVE, 1, None)
    assert transport.requests == []

    token = client.get_token("nightly", SERVER)
    assert (token.access_token.reveal(), token.generation) == ("ACCESS-1", 2)
    sent = parse_qs(transport.requests[0].body.decode())
    assert sent["refresh_token"] == [BROUGHT.reveal()]
    assert client.get_token("nightly").generation == 2
    transport.assert_finished()


def test_it_is_on_record_without_the_token(store: Store, transitions: Transitions) -> None:
    client, _ = client_of(store, RENEWED)
    client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT.reveal(), purpose="the report")
    client.get_token("nightly")

    assert transitions.actions == ["adopt_grant", "refresh", "renew"]
    adopted = transitions.events[0]
    assert (adopted["outcome"], adopted["purpose"]) == ("imported", "the report")
    assert adopted["token_fingerprint"] is None
    assert BROUGHT.reveal() not in repr(transitions.events)


def test_a_need_ends_with_it_and_the_program_is_told(store: Store) -> None:
    told: list[str] = []
    client, _ = client_of(store, RENEWED, notify=lambda need: told.append(need.kind))
    with pytest.raises(LoginPending):
        client.get_token("nightly", SERVER)

    client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT)

    assert len(told) == 2
    assert told[0] != told[1]
    assert client.grant("nightly").need_id is None


def test_a_refresh_token_that_the_server_refuses_loses_the_grant(store: Store) -> None:
    client, _ = client_of(store, answer(400, {"error": "invalid_grant"}))
    client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT)

    with pytest.raises(LoginPending):
        client.get_token("nightly", SERVER)
    assert client.grant("nightly").state is GrantState.LOST


def test_a_grant_that_gives_tokens_keeps_them(store: Store) -> None:
    client, transport = client_of(store, RENEWED)
    client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT)

    with pytest.raises(errors.UsageError, match="gives tokens already"):
        client.adopt_grant("nightly", SERVER, refresh_token="ANOTHER")
    client.get_token("nightly")
    assert BROUGHT.reveal().encode() in transport.requests[0].body


def test_log_out_revokes_what_there_is(store: Store) -> None:
    client, transport = client_of(store, answer(200, {}))
    client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT)

    assert client.log_out("nightly").state is GrantState.REVOKED
    (revocation,) = transport.requests
    assert parse_qs(revocation.body.decode())["token"] == [BROUGHT.reveal()]


@pytest.mark.parametrize(
    ("provider", "token", "why"),
    [
        (Studio("https://studio.example.com"), "R", "does not refresh tokens"),
        (SERVER, "", "must be a Secret or a str, and not empty"),
        (SERVER, None, "must be a Secret or a str, and not empty"),
    ],
)
def test_what_cannot_be_refreshed_is_refused(provider: Any, token: Any, why: str) -> None:
    client, transport = client_of(MemoryStore())

    with pytest.raises(errors.UsageError, match=why):
        client.adopt_grant("nightly", provider, refresh_token=token)
    assert [*client.grants()] == []
    assert transport.requests == []


def test_whoever_accepts_some_people_only_takes_no_token_of_unknown_people() -> None:
    required = replace(SERVER, require={"email": "alice@example.com"})
    for client, provider in (
        (client_of(MemoryStore())[0], required),
        (client_of(MemoryStore(), approver=lambda claims: True)[0], SERVER),
    ):
        with pytest.raises(errors.UsageError, match="nobody knows who approved it"):
            client.adopt_grant("nightly", provider, refresh_token=BROUGHT)
        assert [*client.grants()] == []


def test_the_endpoints_come_from_the_servers_metadata() -> None:
    metadata = {
        "issuer": "https://as.example.com",
        "token_endpoint": "https://as.example.com/token",
        "device_authorization_endpoint": "https://as.example.com/device",
    }
    client, transport = client_of(MemoryStore(), answer(200, metadata), RENEWED)
    by_issuer = OAuth(issuer="https://as.example.com", client_id="robot")

    client.adopt_grant("nightly", by_issuer, refresh_token=BROUGHT, scopes="read")
    client.get_token("nightly", by_issuer, scopes="read")

    assert transport.requests[-1].url == "https://as.example.com/token"


class Failing(MemoryStore):
    """A store that cannot write."""

    def commit(self, *_: Any, **__: Any) -> bool:
        raise errors.StoreError("The disk is full.")


@pytest.mark.parametrize(
    ("store", "scopes"), [(Failing(), "read"), (MemoryStore(), 7)], ids=["store", "argument"]
)
def test_no_traceback_shows_the_token(store: Store, scopes: Any) -> None:
    client, _ = client_of(store)
    with pytest.raises(errors.DeviceFlowError) as raised:
        client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT.reveal(), scopes=scopes)

    frames = raised.value.__traceback__
    bare = raised.value.with_traceback(frames and frames.tb_next)  # this test reveals it itself
    told = "".join(traceback.TracebackException.from_exception(bare, capture_locals=True).format())
    assert "adopt_grant" in told
    assert BROUGHT.reveal() not in told


def test_an_async_client_does_the_same() -> None:
    async def adopt_and_use() -> str:
        transport = AsyncScriptedTransport([RENEWED])
        async with AsyncClient(transport=transport) as client:
            await client.adopt_grant("nightly", SERVER, refresh_token=BROUGHT)
            token = await client.get_token("nightly", SERVER)
        return token.access_token.reveal()

    assert asyncio.run(adopt_and_use()) == "ACCESS-1"
