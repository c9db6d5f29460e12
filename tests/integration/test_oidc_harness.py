"""What the server that nobody here wrote answers, without our client in between."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import KeySet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.oidc_provider import OIDCProvider

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Program:
    """Asks the server for things, in the name of one client."""

    def __init__(self, server: OIDCProvider, client: str = "public") -> None:
        self.server = server
        self.client = client

    def ask(self, endpoint: str, **form: str) -> requests.Response:
        return requests.post(
            self.server.metadata[f"{endpoint}_endpoint"],
            data=form | self._authentication(),
            auth=self.server.basic_auth() if self.client == "basic" else None,
            timeout=60,
        )

    def start(self) -> dict[str, Any]:
        answer = self.ask("device_authorization", scope="openid email offline_access")
        assert answer.status_code == 200
        return dict(answer.json())

    def poll(self, started: dict[str, Any]) -> requests.Response:
        return self.ask("token", grant_type=GRANT_TYPE, device_code=started["device_code"])

    def refresh(self, token: str) -> requests.Response:
        return self.ask("token", grant_type="refresh_token", refresh_token=token)

    def log_in(self, **who: str) -> dict[str, Any]:
        started = self.start()
        self.server.approve(started["verification_uri"], started["user_code"], **who)
        answer = self.poll(started)
        assert answer.status_code == 200
        return dict(answer.json())

    def _authentication(self) -> dict[str, str]:
        match self.client:
            case "public":
                return {"client_id": "public"}
            case "basic":
                return {}
            case "post":
                return {"client_id": "post", "client_secret": self.server.secret}
            case algorithm:
                return {
                    "client_assertion_type": ASSERTION_TYPE,
                    "client_assertion": self._assertion(algorithm),
                }

    def _assertion(self, algorithm: str) -> str:
        key = self.server.keys[algorithm]
        claims = {
            "iss": "jwt",
            "sub": "jwt",
            "aud": self.server.issuer,
            "exp": int(time.time()) + 60,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key)


def refusal(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


def claims_of(server: OIDCProvider, id_token: str) -> dict[str, Any]:
    keys = KeySet.import_key_set(requests.get(server.metadata["jwks_uri"], timeout=60).json())
    return jwt.decode(id_token, keys).claims


@pytest.mark.parametrize("name", ["openid-configuration", "oauth-authorization-server"])
def test_discovery(oidc_provider: OIDCProvider, name: str) -> None:
    answer = requests.get(f"{oidc_provider.issuer}/.well-known/{name}", timeout=60)
    found = answer.json()
    assert found["issuer"] == oidc_provider.issuer
    assert found["device_authorization_endpoint"].startswith(oidc_provider.issuer)
    assert GRANT_TYPE in found["grant_types_supported"]


@pytest.mark.parametrize("address", ["verification_uri", "verification_uri_complete"])
def test_approved(oidc_provider: OIDCProvider, address: str) -> None:
    program = Program(oidc_provider)
    started = program.start()
    assert "interval" not in started
    assert refusal(program.poll(started)) == (400, "authorization_pending")

    oidc_provider.approve(started[address], started["user_code"])
    tokens = program.poll(started).json()

    assert tokens["token_type"] == "Bearer"
    assert tokens["scope"] == "openid email offline_access"
    assert oidc_provider.active(tokens["access_token"])
    assert oidc_provider.active(tokens["refresh_token"])
    claims = claims_of(oidc_provider, tokens["id_token"])
    assert (claims["iss"], claims["aud"]) == (oidc_provider.issuer, "public")


@pytest.mark.parametrize(
    ("subject", "verified"), [("alice", True), ("mallory", True), ("unverified", False)]
)
def test_who_logged_in(oidc_provider: OIDCProvider, subject: str, verified: bool) -> None:
    email = f"{subject}@example.com"
    tokens = Program(oidc_provider).log_in(login=email)
    expected = {"sub": subject, "email": email, "email_verified": verified}

    assert expected.items() <= claims_of(oidc_provider, tokens["id_token"]).items()
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    userinfo = oidc_provider.metadata["userinfo_endpoint"]
    assert requests.get(userinfo, headers=bearer, timeout=60).json() == expected


def test_a_second_use_of_the_code_revokes_what_the_first_one_got(
    oidc_provider: OIDCProvider,
) -> None:
    program = Program(oidc_provider)
    started = program.start()
    oidc_provider.approve(started["verification_uri"], started["user_code"])
    tokens = program.poll(started).json()

    assert refusal(program.poll(started)) == (400, "invalid_grant")
    assert not oidc_provider.active(tokens["access_token"])


@pytest.mark.parametrize("login", [None, "alice@example.com"])
def test_denied(oidc_provider: OIDCProvider, login: str | None) -> None:
    program = Program(oidc_provider)
    started = program.start()
    oidc_provider.deny(started["verification_uri_complete"], started["user_code"], login=login)

    assert refusal(program.poll(started)) == (400, "access_denied")
    assert refusal(program.poll(started)) == (400, "invalid_grant")


def test_expired(start_oidc_provider: Callable[..., OIDCProvider]) -> None:
    program = Program(start_oidc_provider(DeviceCode=1))
    started = program.start()
    time.sleep(started["expires_in"] + 0.1)

    assert refusal(program.poll(started)) == (400, "expired_token")


def test_a_code_that_nobody_was_given(oidc_provider: OIDCProvider) -> None:
    unknown = {"device_code": "unknown"}
    assert refusal(Program(oidc_provider).poll(unknown)) == (400, "invalid_grant")


@pytest.mark.parametrize("client", ["basic", "post", "ES256", "RS256"])
def test_clients_that_authenticate(oidc_provider: OIDCProvider, client: str) -> None:
    tokens = Program(oidc_provider, client).log_in()
    assert oidc_provider.active(tokens["access_token"])


@pytest.mark.parametrize("endpoint", ["device_authorization", "token"])
def test_wrong_secrets(oidc_provider: OIDCProvider, endpoint: str) -> None:
    url = oidc_provider.metadata[f"{endpoint}_endpoint"]
    basic = requests.post(url, auth=("basic", "wrong"), timeout=60)
    form = {"client_id": "post", "client_secret": "wrong"}
    post = requests.post(url, data=form, timeout=60)

    assert refusal(basic) == refusal(post) == (401, "invalid_client")
    assert basic.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_secret_that_is_not_encoded(oidc_provider: OIDCProvider) -> None:
    url = oidc_provider.metadata["device_authorization_endpoint"]
    answer = requests.post(url, auth=("basic", oidc_provider.secret), timeout=60)
    assert refusal(answer) == (400, "invalid_request")


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
def test_either_token_revokes_both(oidc_provider: OIDCProvider, which: str) -> None:
    program = Program(oidc_provider)
    tokens = program.log_in()
    answer = program.ask("revocation", token=tokens[which])

    assert (answer.status_code, answer.text) == (200, "")
    assert not oidc_provider.active(tokens["access_token"])
    assert not oidc_provider.active(tokens["refresh_token"])


def test_a_public_clients_refresh_token_is_good_once(oidc_provider: OIDCProvider) -> None:
    program = Program(oidc_provider)
    old = program.log_in()
    new = program.refresh(old["refresh_token"]).json()
    assert new["refresh_token"] != old["refresh_token"]
    assert claims_of(oidc_provider, new["id_token"])["sub"] == "alice"
    assert oidc_provider.active(new["access_token"])

    assert refusal(program.refresh(old["refresh_token"])) == (400, "invalid_grant")
    assert not oidc_provider.active(new["access_token"])


def test_a_confidential_clients_refresh_token_stays(oidc_provider: OIDCProvider) -> None:
    program = Program(oidc_provider, "basic")
    old = program.log_in()
    new = program.refresh(old["refresh_token"]).json()
    assert new["refresh_token"] == old["refresh_token"]


def test_it_ends_when_it_is_closed(start_oidc_provider: Callable[..., OIDCProvider]) -> None:
    server = start_oidc_provider()
    server.close()
    with pytest.raises(requests.ConnectionError):
        requests.get(server.issuer, timeout=60)
