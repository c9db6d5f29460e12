"""Refreshing at servers that nobody here wrote, and at ours, which must be like them."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, LoginPending, open_store
from deviceflow.core.encryption import generate_key
from deviceflow.core.states import GrantState, Loss
from deviceflow.errors import RejectedError
from deviceflow.transports.requests import RequestsTransport
from tests.integration.oidc_provider import Hurried
from tests.integration.rotating.servers import accepts, serving
from tests.stored import get_grant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow import Token
    from deviceflow.core.access_token import AccessToken
    from tests.integration.rotating.servers import Name, RotatingServer

SERVERS: Final[tuple[Name, ...]] = ("local", "oidc-provider", "django-allauth", "better-auth")
PATIENCE: Final = 60.0


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RotatingServer]:
    with serving(request.param) as running:
        yield running


@pytest.fixture(scope="module", params=SERVERS)
def hasty(request: pytest.FixtureRequest) -> Iterator[RotatingServer]:
    """Run a server whose access tokens live for a second; it tells lost answers again if it can."""
    with serving(request.param, life=1, grace=60) as running:
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


def test_expired_access_token_is_refreshed(client: Client, hasty: RotatingServer) -> None:
    token = log_in(client, hasty)
    until = time.monotonic() + PATIENCE
    while accepts(hasty, token):
        assert time.monotonic() < until
        time.sleep(0.05)

    # A slow machine may need more than the life of one token to show it.
    while not accepts(hasty, token := client.refresh(hasty.provider, token)):
        assert time.monotonic() < until


@pytest.mark.parametrize("hasty", ["local", "better-auth"], indirect=True)
def test_lost_answer_is_told_again_within_the_window(client: Client, hasty: RotatingServer) -> None:
    old = log_in(client, hasty)
    lost = client.refresh(hasty.provider, old)

    found = client.refresh(hasty.provider, old)

    assert found.access_token == lost.access_token
    assert found.refresh_token == lost.refresh_token
    assert client.refresh(hasty.provider, found).access_token != found.access_token


# The same by a grant, which does it for every process.


class Patient(Hurried):
    """A clock that is ahead, and on which waiting takes as long as it does."""

    def __init__(self, ahead: float) -> None:
        super().__init__()
        super().sleep(ahead)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Nightly:
    """A grant at a server, on a clock that can be advanced."""

    def __init__(self, server: RotatingServer, url: str) -> None:
        self.server = server
        self.clock = Hurried()
        self.store: Any = open_store(url, keys=[generate_key()])
        self.client = Client(self.store, clock=self.clock)

    def log_in(self) -> AccessToken:
        with pytest.raises(LoginPending) as caught:
            self.client.get_token("nightly", self.server.provider, mint="now")
        login: Any = caught.value.login
        self.server.approve(login)
        self.clock.sleep(caught.value.wait_seconds)
        return self.client.get_token("nightly", self.server.provider)

    def live(self, token: AccessToken) -> AccessToken:
        """Let a token expire, as this client sees it, and ask for the next one."""
        assert token.expires_at is not None
        self.clock.sleep(token.expires_at - self.clock.time())
        return self.client.get_token("nightly")

    def secrets(self) -> Token:
        """Return the stored tokens, as a thief has them."""
        token = get_grant(self.store, "nightly", self.clock.time()).token
        assert token is not None
        return token

    def count(self, action: str) -> int:
        events = self.store.events(self.client.grant("nightly").id)
        return sum(event["action"] == action for event in events)

    def assert_lost(self) -> None:
        """Show that a person is needed, and is asked once however many programs ask."""
        for _ in range(3):
            with pytest.raises(LoginPending):
                self.client.get_token("nightly")
        view = self.client.grant("nightly")
        assert (view.state, view.reason) == (GrantState.LOST, Loss.REFUSED)
        assert view.need_id is not None
        # The first need was ended by the first login.
        assert (self.count("need"), self.count("lose")) == (2, 1)


@pytest.fixture
def nightly(server: RotatingServer, tmp_path: Path) -> Iterator[Nightly]:
    grant = Nightly(server, f"sqlite:///{tmp_path}/grants.db")
    yield grant
    grant.store.close()


def ask_in_another_process(grant: Nightly, go: Any, told: Any) -> None:
    # No token is in this client's memory, and its clock waits for the other process.
    clock = Patient(grant.clock.time() - time.time())
    client = Client(grant.store, clock=clock)
    go.wait()
    token = client.get_token("nightly")
    told.put((token.generation, token.access_token.reveal()))


def test_grant_serves_for_twenty_lives_of_a_token(nightly: Nightly) -> None:
    token = nightly.log_in()
    seen = {token.access_token.reveal()}
    for generation in range(2, 22):
        token = nightly.live(token)
        assert token.generation == generation
        seen.add(token.access_token.reveal())

    assert len(seen) == 21
    assert accepts(nightly.server, nightly.secrets())
    assert nightly.count("renew") == nightly.count("refresh") == 20
    # Two processes that ask at the same time get the same next token, by one refresh.
    fork = multiprocessing.get_context("fork")
    go, told = fork.Event(), fork.Queue()
    workers = [
        fork.Process(target=ask_in_another_process, args=(nightly, go, told)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    nightly.client.invalidate("nightly", token)
    go.set()
    answers = [told.get(timeout=PATIENCE) for _ in workers]
    for worker in workers:
        worker.join(PATIENCE)

    assert {generation for generation, _ in answers} == {22}
    assert len({*answers}) == 1
    assert nightly.count("renew") == nightly.count("refresh") == 21
    assert accepts(nightly.server, nightly.secrets())


def test_grant_whose_refresh_token_was_revoked_is_lost_and_asks_a_person_once(
    nightly: Nightly,
) -> None:
    token = nightly.log_in()
    refresh_token = nightly.secrets().refresh_token
    assert refresh_token
    request = nightly.server.provider.revocation_request(refresh_token, "refresh_token")
    assert request
    answer: Any = RequestsTransport().send(request, PATIENCE)
    assert answer.status == 200

    with pytest.raises(LoginPending):
        nightly.live(token)

    nightly.assert_lost()
    assert nightly.log_in().generation == 2  # and a login ends the need
    assert nightly.client.grant("nightly").need_id is None


def test_grant_whose_old_refresh_token_somebody_sends_again(nightly: Nightly) -> None:
    token = nightly.log_in()
    old = nightly.secrets()
    token = nightly.live(token)
    with pytest.raises(RejectedError, match="invalid_grant"):
        nightly.client.refresh(nightly.server.provider, old)

    if nightly.server.reuse_revokes:
        with pytest.raises(LoginPending):
            nightly.live(token)
        nightly.assert_lost()
    else:
        assert nightly.live(token).generation == 3
        assert accepts(nightly.server, nightly.secrets())
