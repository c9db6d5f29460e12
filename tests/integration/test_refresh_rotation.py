"""Refreshing at servers that nobody here wrote, and at ours, which must be like them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client
from deviceflow.errors import RejectedError
from deviceflow.transports.requests import RequestsTransport
from tests.integration.oidc_provider import Hurried
from tests.integration.rotating.servers import accepts, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow import Token
    from tests.integration.rotating.servers import Name, RotatingServer

SERVERS: Final[tuple[Name, ...]] = ("local", "oidc-provider", "django-allauth", "better-auth")
PATIENCE: Final = 60.0


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RotatingServer]:
    with serving(request.param) as running:
        yield running


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(clock=Hurried()) as client:
        yield client


def log_in(client: Client, server: RotatingServer) -> Token:
    login = client.start(server.provider)
    server.approve(login)
    return client.wait_for_token(login.id)


def test_twenty_refreshes(client: Client, server: RotatingServer) -> None:
    tokens = [log_in(client, server)]
    for _ in range(20):
        tokens.append(client.refresh(server.provider, tokens[-1]))

    refresh_tokens = {token.refresh_token.reveal() for token in tokens if token.refresh_token}
    assert len(refresh_tokens) == 21
    assert len({token.access_token.reveal() for token in tokens}) == 21
    assert accepts(server, tokens[-1])


def test_refresh_token_that_comes_again(client: Client, server: RotatingServer) -> None:
    old = log_in(client, server)
    new = client.refresh(server.provider, old)
    assert accepts(server, new)

    with pytest.raises(RejectedError, match="invalid_grant"):
        client.refresh(server.provider, old)

    assert accepts(server, new) != server.reuse_revokes
    if server.reuse_revokes:
        with pytest.raises(RejectedError, match="invalid_grant"):
            client.refresh(server.provider, new)
    else:
        assert accepts(server, client.refresh(server.provider, new))


def test_revoked_refresh_token_ends_the_grant(client: Client, server: RotatingServer) -> None:
    token = client.refresh(server.provider, log_in(client, server))
    assert token.refresh_token
    request = server.provider.revocation_request(token.refresh_token, "refresh_token")
    assert request
    answer: Any = RequestsTransport().send(request, PATIENCE)

    assert answer.status == 200
    assert not accepts(server, token)
    with pytest.raises(RejectedError, match="invalid_grant"):
        client.refresh(server.provider, token)


@pytest.mark.parametrize("name", SERVERS)
def test_expired_access_token_is_refreshed(client: Client, name: Name) -> None:
    with serving(name, life=1) as server:
        token = log_in(client, server)
        until = time.monotonic() + PATIENCE
        while accepts(server, token):
            assert time.monotonic() < until
            time.sleep(0.05)

        # A slow machine may need more than the life of one token to show it.
        while not accepts(server, token := client.refresh(server.provider, token)):
            assert time.monotonic() < until


@pytest.mark.parametrize("name", ["local", "better-auth"])
def test_lost_answer_is_told_again_within_the_window(client: Client, name: Name) -> None:
    with serving(name, grace=60) as server:
        old = log_in(client, server)
        lost = client.refresh(server.provider, old)

        found = client.refresh(server.provider, old)

        assert found.access_token == lost.access_token
        assert found.refresh_token == lost.refresh_token
        assert accepts(server, client.refresh(server.provider, found))
