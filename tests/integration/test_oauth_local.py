"""The OAuth provider at the local server: over real HTTP, with a person on its pages."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, DeniedError, ExpiredError, OAuth, State, Studio, export
from deviceflow.errors import RejectedError
from deviceflow.providers.dialect import read_dialect
from deviceflow.server import LocalServer, Settings
from deviceflow.testing import VirtualClock
from tests.integration.conftest import Remote
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow import Token
    from deviceflow.core.flow import Flow
    from deviceflow.core.login import Login

    Serve = Callable[..., "Server"]

SLACK: Final = 0.02
"""Seconds by which the server's look at the clock may be nearer to the one before than ours."""


class Server(Remote):
    """A server with its witness, which goes by the clock of the test where that has one."""

    def __init__(self, server: LocalServer, clock: VirtualClock) -> None:
        super().__init__(server)
        self.clock = clock

    def polls(self) -> list[dict[str, Any]]:
        [login] = self.get("/control/log").json()["logins"]
        return [dict(request) for request in login["requests"]]

    def answers(self) -> list[str]:
        return [poll["answer"] for poll in self.polls()]

    def spacing(self) -> list[float]:
        return [later["wall"] - earlier["wall"] for earlier, later in pairwise(self.polls())]

    def poll_too_early(self, flow: Flow) -> str:
        """Poll as another program that has the code would, and minds no interval."""
        request = flow.request()
        answer = self.post(request.url, data=request.body, headers=dict(request.headers))
        return str(answer.json().get("error", "issued"))


@pytest.fixture
def serve_oauth() -> Iterator[Serve]:
    """Serve until the test is over, by a clock that the client can share."""
    servers: list[LocalServer] = []

    def start(**settings: Any) -> Server:
        clock = VirtualClock()
        servers.append(LocalServer(Settings(control=True, **settings), clock=clock.time))
        return Server(servers[-1], clock)

    yield start
    for server in servers:
        server.close()


def oauth(server: Remote, **settings: Any) -> OAuth:
    return OAuth(**({"issuer": server.url, "client_id": "robot", "scopes": "read"} | settings))


def code_of(flow: Login) -> str:
    assert flow.user_code
    return flow.user_code


def start(server: Server, **settings: Any) -> tuple[Client, Login]:
    """Start a login by the server's clock, on which waiting takes no time and is no cheating."""
    client = Client(clock=server.clock)
    return client, client.start(oauth(server, **settings))


def step_when_due(server: Server, client: Client, flow: Login) -> State:
    server.clock.advance(client.get(flow.id).wait_seconds)
    return client.step(flow.id).state


# With the system's own clock: an interval that really passes.


def test_interval_is_kept_by_the_servers_own_clock(
    serve_oauth: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalServer(Settings(control=True, interval=1, rate_check="before")) as running:
        server = Server(running, VirtualClock())
        client = Client()
        flow = client.start(oauth(server))
        seen: list[State] = []

        def approve_after_two(step: Any) -> None:
            seen.append(step.state)
            if len([poll for poll in server.polls() if poll["answer"]]) == 2:
                server.post("/control/approve", json={"user_code": flow.user_code})

        token = client.wait_for_token(flow.id, on_step=approve_after_two)

        assert token.access_token.reveal()
        assert server.answers() == ["authorization_pending", "authorization_pending", "issued"]
        assert min(server.spacing()) >= 1
        assert max(server.spacing()) < 3
        assert set(seen[:-1]) == {State.AWAITING_USER}


# By the server's clock.


def test_pending_then_approved_on_the_page(serve_oauth: Serve) -> None:
    server = serve_oauth()
    client, flow = start(server)
    assert step_when_due(server, client, flow) is State.AWAITING_USER

    page = server.person.approve(code_of(flow))
    token = client.wait_for_token(flow.id)

    assert page.title.startswith("Approved")
    assert token.token_type == "Bearer"
    assert token.scopes == ("read",)
    assert token.expires_at is not None
    assert token.expires_at > server.clock.time()
    assert server.answers() == ["authorization_pending", "issued"]
    assert min(server.spacing()) >= 5


def test_complete_address_leads_to_the_page_with_the_code(serve_oauth: Serve) -> None:
    server = serve_oauth()
    client, flow = start(server)
    assert flow.verification_uri_complete

    page = server.person.open(flow.verification_uri_complete)
    server.person.press(server.person.press(page, "Continue"), "Approve")

    assert client.wait_for_token(flow.id).access_token.reveal()


def test_denied_on_the_page(serve_oauth: Serve) -> None:
    server = serve_oauth()
    client, flow = start(server)
    server.person.deny(code_of(flow))

    with pytest.raises(DeniedError):
        client.wait_for_token(flow.id)

    assert server.answers() == ["access_denied"]


def test_nobody_comes_and_the_last_poll_is_made_before_the_end(serve_oauth: Serve) -> None:
    server = serve_oauth(expires_in=30)
    client, flow = start(server)
    assert flow.expires_at is not None

    with pytest.raises(ExpiredError):
        client.wait_for_token(flow.id)

    assert set(server.answers()) == {"authorization_pending"}
    assert 0 < flow.expires_at - server.polls()[-1]["wall"] <= 2
    assert min(server.spacing()) >= 5


def test_expired_by_the_server_is_expired(serve_oauth: Serve) -> None:
    server = serve_oauth()
    client, flow = start(server)
    server.post("/control/expire", json={"user_code": flow.user_code})

    with pytest.raises(ExpiredError):
        client.wait_for_token(flow.id)

    assert server.answers() == ["expired_token"]


@pytest.mark.parametrize("order", ["before", "after"])
def test_slow_down_grows_the_interval_and_the_approval_is_seen(
    serve_oauth: Serve, order: str
) -> None:
    server = serve_oauth(rate_check=order)
    client, flow = start(server)
    server.clock.advance(flow.wait_seconds)
    assert server.poll_too_early(get(client._store, flow.id)) == "authorization_pending"
    assert client.step(flow.id).state is State.AWAITING_USER
    assert client.get(flow.id).interval == 10

    server.person.approve(code_of(flow))
    client.wait_for_token(flow.id)

    assert server.answers() == ["authorization_pending", "slow_down", "issued"]
    # Twice the interval by now, and a margin against clocks that run fast.
    assert server.spacing()[1] == pytest.approx(10 + 0.1 + 1, abs=SLACK)


@pytest.mark.parametrize(
    ("order", "answers"),
    [
        # GitHub's way: who is too early does not learn of the approval.
        ("before", ["authorization_pending", "slow_down", "issued"]),
        ("after", ["authorization_pending", "issued"]),
        ("off", ["authorization_pending", "issued"]),
    ],
)
def test_approval_is_told_to_who_is_too_early_or_only_later(
    serve_oauth: Serve, order: str, answers: list[str]
) -> None:
    server = serve_oauth(rate_check=order)
    client, flow = start(server)
    server.clock.advance(flow.wait_seconds)
    server.poll_too_early(get(client._store, flow.id))
    server.person.approve(code_of(flow))

    client.wait_for_token(flow.id)

    assert server.answers() == answers


def test_slow_downs_add_up(serve_oauth: Serve) -> None:
    server = serve_oauth(rate_check="before")
    client, flow = start(server)
    for _ in range(2):
        server.clock.advance(client.get(flow.id).wait_seconds)
        server.poll_too_early(get(client._store, flow.id))
        client.step(flow.id)
    server.person.approve(code_of(flow))

    client.wait_for_token(flow.id)

    assert client.get(flow.id).interval == 15
    assert server.answers()[-2:] == ["slow_down", "issued"]
    assert server.spacing()[-1] >= 15


def test_interval_of_the_server_is_kept(serve_oauth: Serve) -> None:
    server = serve_oauth(interval=17, rate_check="before")
    client, flow = start(server)
    assert flow.interval == 17
    step_when_due(server, client, flow)
    step_when_due(server, client, flow)
    server.person.approve(code_of(flow))

    client.wait_for_token(flow.id)

    assert "slow_down" not in server.answers()
    assert min(server.spacing()) >= 17


# Who the client is.


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_client_with_a_secret(
    serve_oauth: Serve, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    monkeypatch.setenv("THE_SECRET", "p@ss:w+rd/% é")
    server = serve_oauth(client_secrets={"robot": "p@ss:w+rd/% é"}, any_client=False)
    client, flow = start(server, client_secret="env:THE_SECRET", client_auth=method)
    server.person.approve(code_of(flow))

    assert client.wait_for_token(flow.id).access_token.reveal()


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "none"])
def test_client_without_the_right_secret_is_refused(
    serve_oauth: Serve, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    monkeypatch.setenv("THE_SECRET", "another")
    server = serve_oauth(client_secrets={"robot": "s3cret"})

    with pytest.raises(RejectedError, match="invalid_client"):
        start(server, client_secret="env:THE_SECRET", client_auth=method)


def test_unknown_client_is_refused(serve_oauth: Serve) -> None:
    with pytest.raises(RejectedError, match="invalid_client"):
        start(serve_oauth(any_client=False))


# What the server does not know, it passes over.


def test_proof_key_is_passed_over(serve_oauth: Serve) -> None:
    server = serve_oauth()
    client, flow = start(server, pkce="on")
    assert get(client._store, flow.id).verifier is not None
    server.person.approve(code_of(flow))

    assert client.wait_for_token(flow.id).access_token.reveal()


def test_parameters_are_passed_over_beside_audience_and_resource(serve_oauth: Serve) -> None:
    server = serve_oauth()
    client, flow = start(
        server, audience="a", resource=["https://r1", "https://r2"], parameters={"x": "y"}
    )
    server.person.approve(code_of(flow))

    assert client.wait_for_token(flow.id).scopes == ("read",)


# Refreshing.


def log_in(server: Server, **settings: Any) -> tuple[Client, OAuth, Token]:
    client, flow = start(server, **settings)
    server.person.approve(code_of(flow))
    return client, oauth(server, **settings), client.wait_for_token(flow.id)


def grant(server: Server) -> dict[str, Any]:
    [found] = server.get("/control/grants").json()["grants"]
    return dict(found)


def accepts(server: Server, token: Token) -> bool:
    bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
    return server.get("/oauth/resource", headers=bearer).status_code == 200


@pytest.mark.parametrize("how", ["rotate", "repeat", "keep"])
def test_refreshed_whatever_the_server_does_to_the_refresh_token(
    serve_oauth: Serve, how: str
) -> None:
    server = serve_oauth(refresh_tokens=how, access_token_lifetime=2)
    client, provider, token = log_in(server, scopes="read offline_access")
    for _ in range(3):
        server.clock.advance(2)
        assert not accepts(server, token)
        former, token = token, client.refresh(provider, token)
        assert accepts(server, token)
        assert token.scopes == ("read", "offline_access")
        assert (token.refresh_token == former.refresh_token) == (how != "rotate")

    assert (grant(server)["generation"], grant(server)["state"]) == (4, "active")


def test_refresh_token_that_comes_again_is_refused(serve_oauth: Serve) -> None:
    server = serve_oauth(refresh_scope="")
    client, provider, token = log_in(server)
    fresh = client.refresh(provider, token)

    with pytest.raises(RejectedError, match="invalid_grant"):
        client.refresh(provider, token)

    assert not accepts(server, fresh)


def test_refresh_repeats_the_resource_and_what_the_dialect_says(serve_oauth: Serve) -> None:
    server = serve_oauth(refresh_scope="")
    resource = ["https://r1.example.com/", "https://r2.example.com/"]
    quirks = read_dialect("ours", {"refresh_fields": ["resource", "audience", "scope"]})
    client, provider, token = log_in(server, resource=resource, audience="api", quirks=quirks)

    assert accepts(server, client.refresh(provider, token))

    [request] = grant(server)["requests"]
    assert (request["resource"], request["audience"]) == (resource, "api")
    assert request["scopes"] == ["read"]


def test_token_that_nobody_acknowledged_is_revoked(serve_oauth: Serve) -> None:
    server = serve_oauth(refresh_scope="")
    client, _, token = log_in(server)
    server.clock.advance(60)

    client.purge(tokens_after=30)

    assert not accepts(server, token)
    assert grant(server)["state"] == "revoked"


# The other dialect of the same server.


def log_in_to_studio(server: Server, provider: Any) -> tuple[Token, Login]:
    client = Client(clock=server.clock)
    flow = client.start(provider)
    assert step_when_due(server, client, flow) is State.AWAITING_USER
    server.person.approve(code_of(flow))
    return client.wait_for_token(flow.id), flow


def test_studios_dialect_of_the_same_server(serve_oauth: Serve) -> None:
    server = serve_oauth()
    studio = Studio(server.url).with_request(client_name="robot", token_name="t", scopes=["models"])

    token, flow = log_in_to_studio(server, studio)

    assert token.access_token.reveal().startswith("isat_")
    assert dict(flow.extra)["token_name"] == "t"
    assert server.answers() == ["authorization_pending", "issued"]


def test_studios_dialect_can_be_told_as_data(serve_oauth: Serve) -> None:
    """All that is peculiar there, in an entry of a provider file."""
    server = serve_oauth()
    entry = read_dialect(
        "our-studio",
        {
            "title": "Our Studio",
            "request": "json",
            "request_names": {"device_code": "code"},
            "code_parameters": {"client_name": "robot"},
            "sends_grant_type": False,
            "error_fields": ["detail"],
            "errors": {"authorization_expired": "expired_token"},
            "complete_parameter": "code",
        },
    )
    told = OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{server.url}/api/device-login",
        token_endpoint=token_uri_of(server),
        quirks=entry,
        name="our-studio",
    )

    token, flow = log_in_to_studio(server, told)

    assert token.access_token.reveal().startswith("isat_")
    assert flow.verification_uri_complete == f"{flow.verification_uri}?code={flow.user_code}"


def token_uri_of(server: Server) -> str:
    """Return where the server's other dialect is polled, from a login of another server."""
    with LocalServer() as other:
        flow = Client().start(Studio(other.url))
        assert flow.token_endpoint
        return flow.token_endpoint.replace(other.url, server.url)


# A login that moves.


def test_login_goes_on_in_another_process(serve_oauth: Serve) -> None:
    server = serve_oauth()
    client, flow = start(server, pkce="on")
    step_when_due(server, client, flow)
    written = json.dumps(export.to_dict(get(client._store, flow.id), secrets=True))
    server.person.approve(code_of(flow))

    moved = export.from_dict(json.loads(written))
    other = Client(clock=server.clock)
    other._store.add(moved)

    assert other.wait_for_token(flow.id).access_token.reveal()
    assert server.answers() == ["authorization_pending", "issued"]
    assert min(server.spacing()) >= 5
