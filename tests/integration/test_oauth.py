"""Logins at a real server that nobody here wrote, over the client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from deviceflow import Client, DeniedError, ExpiredError, OAuth, State
from deviceflow.errors import RejectedError, WrongApproverError
from tests.integration.oidc_provider import Hurried
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow import Token
    from deviceflow.core.login import Login
    from deviceflow.testing import Transitions
    from tests.integration.oidc_provider import OIDCProvider

SCOPE = "openid email offline_access"


@pytest.fixture
def client() -> Client:
    return Client(clock=Hurried())


def public(server: OIDCProvider, **settings: Any) -> OAuth:
    return OAuth(issuer=server.issuer, client_id="public", scopes=SCOPE, **settings)


def approve(server: OIDCProvider, flow: Login, login: str = "alice@example.com") -> None:
    assert flow.verification_uri_complete
    assert flow.user_code
    server.approve(flow.verification_uri_complete, flow.user_code, login=login)


def log_in(client: Client, server: OIDCProvider, provider: OAuth, login: str) -> Token:
    flow = client.start(provider)
    approve(server, flow, login)
    return client.wait_for_token(flow.id)


def test_discovery_a_code_an_approval_and_every_kind_of_token(
    client: Client, oidc_provider: OIDCProvider, transitions: Transitions
) -> None:
    flow = client.start(public(oidc_provider))
    assert client.step(flow.id).state is State.AWAITING_USER
    approve(oidc_provider, flow)
    token = client.wait_for_token(flow.id)

    assert oidc_provider.active(token.access_token.reveal())
    assert token.token_type == "Bearer"
    assert token.expires_at is not None
    assert token.refresh_token is not None
    assert token.id_token is not None
    assert set(token.scopes or ()) == set(SCOPE.split())
    assert [event["action"] for event in transitions][-2:] == ["issue_token", "collect"]
    assert set(transitions[-1]["granted_scopes"]) == set(SCOPE.split())
    assert transitions[-1]["issuer"] == oidc_provider.issuer


def test_denied(client: Client, oidc_provider: OIDCProvider) -> None:
    flow = client.start(public(oidc_provider))
    assert flow.verification_uri_complete
    assert flow.user_code
    oidc_provider.deny(flow.verification_uri_complete, flow.user_code)

    with pytest.raises(DeniedError):
        client.wait_for_token(flow.id)


def test_expired_by_the_servers_clock_and_ours(
    start_oidc_provider: Callable[..., OIDCProvider],
) -> None:
    client, server = Client(), start_oidc_provider(DeviceCode=2)

    with pytest.raises(ExpiredError):
        client.wait_for_token(client.start(public(server)).id)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_client_with_a_secret(
    client: Client, oidc_provider: OIDCProvider, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    monkeypatch.setenv("THE_SECRET", oidc_provider.secret)
    provider = OAuth(
        issuer=oidc_provider.issuer,
        client_id=method.rsplit("_", 1)[1],
        client_secret="env:THE_SECRET",
        client_auth=method,
        scopes=SCOPE,
    )

    token = log_in(client, oidc_provider, provider, "alice@example.com")

    assert oidc_provider.active(token.access_token.reveal())


def test_a_wrong_secret_is_refused(
    client: Client, oidc_provider: OIDCProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_SECRET", "not that")

    with pytest.raises(RejectedError, match="invalid_client"):
        client.start(
            OAuth(issuer=oidc_provider.issuer, client_id="basic", client_secret="env:THE_SECRET")
        )


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("form", ["pem", "jwk"])
def test_a_client_that_signs(
    client: Client, oidc_provider: OIDCProvider, tmp_path: Path, algorithm: str, form: str
) -> None:
    key = oidc_provider.keys[algorithm]
    file = tmp_path / "key"
    if form == "pem":
        file.write_bytes(key.as_pem(private=True))
    else:
        file.write_text(json.dumps(key.as_dict(private=True)))
    provider = OAuth(
        issuer=oidc_provider.issuer, client_id="jwt", private_key=f"file:{file}", scopes=SCOPE
    )

    token = log_in(client, oidc_provider, provider, "alice@example.com")

    assert oidc_provider.active(token.access_token.reveal())


def test_a_token_is_refreshed(client: Client, oidc_provider: OIDCProvider) -> None:
    provider = public(oidc_provider)
    token = log_in(client, oidc_provider, provider, "alice@example.com")

    fresh = client.refresh(provider, token)

    assert fresh.access_token != token.access_token
    assert oidc_provider.active(fresh.access_token.reveal())
    assert fresh.refresh_token is not None


@pytest.mark.parametrize(
    "require",
    [
        {"email": "alice@example.com"},
        {"email": "Alice@Example.com"},
        {"sub": "alice"},
        {"email": "alice@example.com", "sub": "alice"},
    ],
)
def test_the_right_persons_approval_is_taken(
    client: Client, oidc_provider: OIDCProvider, require: dict[str, str]
) -> None:
    provider = public(oidc_provider, require=require)

    token = log_in(client, oidc_provider, provider, "alice@example.com")

    assert oidc_provider.active(token.access_token.reveal())


@pytest.mark.parametrize(
    ("require", "login"),
    [
        ({"email": "alice@example.com"}, "mallory@example.com"),
        ({"email": "unverified@example.com"}, "unverified@example.com"),
        ({"sub": "alice"}, "mallory@example.com"),
        ({"tenant": "ours"}, "alice@example.com"),
    ],
)
def test_the_wrong_persons_approval_is_not_and_its_token_is_revoked(
    client: Client,
    oidc_provider: OIDCProvider,
    transitions: Transitions,
    require: dict[str, str],
    login: str,
) -> None:
    flow = client.start(public(oidc_provider, require=require))
    approve(oidc_provider, flow, login)

    refused: list[str] = []
    with pytest.raises(WrongApproverError):
        client.wait_for_token(
            flow.id,
            on_step=lambda _: refused.extend(
                token.reveal() for _, token in get(client._store, flow.id).to_revoke
            ),
        )

    assert [oidc_provider.active(token) for token in refused] == [False, False]
    assert get(client._store, flow.id).token is None
    said = [(event["action"], event["outcome"], event["reason"]) for event in transitions]
    assert ("fail", "failed", "wrong_approver") in said
    assert said[-1] == ("revoke", "revoked", "wrong_approver")


@pytest.mark.parametrize("taken", ["collected", "acknowledged"])
def test_a_token_that_nobody_acknowledged_is_revoked_by_purge(
    client: Client,
    oidc_provider: OIDCProvider,
    transitions: Transitions,
    taken: str,
) -> None:
    flow = client.start(public(oidc_provider), name="nightly")
    approve(oidc_provider, flow)
    token = client.wait_for_token(flow.id)
    if taken == "acknowledged":
        client.acknowledge(flow.id)

    purged = client.purge(tokens_after=0.0)

    assert purged.problems == []
    assert oidc_provider.active(token.access_token.reveal()) == (taken == "acknowledged")
    if taken == "collected":
        assert token.refresh_token is not None
        assert not oidc_provider.active(token.refresh_token.reveal())
        said = [(event["action"], event["outcome"]) for event in transitions]
        assert said[-2:] == [("revoke", "revoked")] * 2


def test_a_policy_that_is_a_function(oidc_provider: OIDCProvider) -> None:
    asked: list[dict[str, Any]] = []

    def approver(claims: dict[str, Any]) -> bool:
        asked.append(claims)
        return bool(claims["email"] == "alice@example.com")

    client = Client(approver=approver, clock=Hurried())
    log_in(client, oidc_provider, public(oidc_provider), "alice@example.com")
    with pytest.raises(WrongApproverError):
        log_in(client, oidc_provider, public(oidc_provider), "mallory@example.com")
    # Once where the token is kept, and once more where it is handed out.
    assert [claims["sub"] for claims in asked] == ["alice", "alice", "mallory"]


def test_without_an_id_token_a_policy_refuses(client: Client, oidc_provider: OIDCProvider) -> None:
    provider = OAuth(
        issuer=oidc_provider.issuer,
        client_id="public",
        scopes="offline_access",
        require={"sub": "alice"},
    )

    with pytest.raises(WrongApproverError, match="id token"):
        log_in(client, oidc_provider, provider, "alice@example.com")


def test_what_was_asked_for_and_not_granted_is_said(
    client: Client, oidc_provider: OIDCProvider
) -> None:
    provider = OAuth(
        issuer=oidc_provider.issuer, client_id="public", scopes="openid profile:none offline_access"
    )

    token = log_in(client, oidc_provider, provider, "alice@example.com")

    assert token.missing_scopes == ("profile:none",)
