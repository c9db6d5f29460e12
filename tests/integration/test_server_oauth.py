from __future__ import annotations

import logging
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.server import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Local, Remote

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:device_code"


def start(remote: Remote, client_id: str = "robot", **fields: str) -> dict[str, Any]:
    answer = remote.post("/oauth/device_authorization", data={"client_id": client_id} | fields)
    assert answer.status_code == 200
    return dict(answer.json())


def form(started: dict[str, Any], **fields: str) -> dict[str, str]:
    return {
        "grant_type": GRANT_TYPE,
        "client_id": "robot",
        "device_code": started["device_code"],
    } | fields


def poll(remote: Remote, started: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = remote.post("/oauth/token", data=form(started))
    return answer.status_code, answer.json()


def test_metadata_leads_to_the_endpoints(serve: Callable[..., Remote]) -> None:
    remote = serve()
    metadata = remote.get("/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == remote.url
    assert metadata["grant_types_supported"] == [GRANT_TYPE, "refresh_token"]
    assert "none" in metadata["token_endpoint_auth_methods_supported"]
    started = remote.post(metadata["device_authorization_endpoint"], data={"client_id": "x"})
    assert started.status_code == 200
    polled = remote.post(metadata["token_endpoint"], data=form(started.json(), client_id="x"))
    assert polled.json() == {"error": "authorization_pending"}


def test_device_authorization_answer(serve: Callable[..., Remote]) -> None:
    remote = serve(expires_in=120, interval=7)
    answer = remote.post("/oauth/device_authorization", data={"client_id": "robot"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert len(body.pop("device_code")) >= 40
    user_code = body.pop("user_code")
    assert set(user_code.replace("-", "")) <= set("BCDFGHJKLMNPQRSTVWXZ")
    assert [len(part) for part in user_code.split("-")] == [4, 4]
    assert body == {
        "verification_uri": f"{remote.url}/device",
        "verification_uri_complete": f"{remote.url}/device?user_code={user_code}",
        "expires_in": 120,
        "interval": 7,
    }


def test_approved_in_the_page(serve: Callable[..., Remote]) -> None:
    remote = serve(rate_check="off")
    started = start(remote, scope="read write")
    assert poll(remote, started) == (400, {"error": "authorization_pending"})
    assert remote.person.approve(started["user_code"]).title.startswith("Approved")
    answer = remote.post("/oauth/token", data=form(started))
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    token = answer.json()
    assert len(token.pop("access_token")) >= 40
    assert token == {"token_type": "Bearer", "expires_in": 3600, "scope": "read write"}
    status, again = poll(remote, started)
    assert (status, again["error"]) == (400, "invalid_grant")


def test_denied_in_the_page(serve: Callable[..., Remote]) -> None:
    remote = serve(rate_check="off")
    started = start(remote)
    assert remote.person.deny(started["user_code"]).title.startswith("Denied")
    status, answer = poll(remote, started)
    assert (status, answer["error"]) == (400, "access_denied")


def test_expired(local: Callable[..., Local]) -> None:
    server = local(expires_in=60)
    started = server.start()
    server.clock.advance(59.9)
    assert server.poll(started) == "authorization_pending"
    server.clock.advance(0.1)
    assert server.poll(started) == "expired_token"


def test_approval_too_late_to_be_fetched(local: Callable[..., Local]) -> None:
    server = local(expires_in=60)
    started = server.start()
    server.person.approve(started["user_code"])
    server.clock.advance(60)
    assert server.poll(started) == "expired_token"


def test_code_of_yesterday_is_forgotten(local: Callable[..., Local]) -> None:
    server = local(expires_in=60)
    started = server.start()
    server.clock.advance(86400 + 61)
    server.start()
    assert server.poll(started) == "invalid_grant"


def test_one_token_however_many_ask_at_once(serve: Callable[..., Remote]) -> None:
    remote = serve(rate_check="off")
    started = start(remote)
    remote.person.approve(started["user_code"])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: poll(remote, started), range(16)))
    assert sorted(status for status, _ in answers) == [200] + [400] * 15
    assert {body["error"] for status, body in answers if status == 400} == {"invalid_grant"}


class TestSlowDown:
    def test_first_poll_is_never_too_early(self, local: Callable[..., Local]) -> None:
        server = local(interval=5)
        assert server.poll(server.start()) == "authorization_pending"

    def test_grows_by_five_seconds_each_time(self, local: Callable[..., Local]) -> None:
        server = local(interval=5)
        started = server.start()
        server.poll(started)
        server.clock.advance(4.9)
        assert server.poll(started) == "slow_down"
        server.clock.advance(9.9)
        assert server.poll(started) == "slow_down"
        server.clock.advance(15)
        assert server.poll(started) == "authorization_pending"
        server.clock.advance(14.9)
        assert server.poll(started) == "slow_down"

    def test_grows_for_that_code_only(self, local: Callable[..., Local]) -> None:
        server = local(interval=5)
        hasty, calm = server.start(), server.start()
        for started in (hasty, hasty, calm):
            server.poll(started)
        server.clock.advance(5)
        assert server.poll(hasty) == "slow_down"
        assert server.poll(calm) == "authorization_pending"

    def test_counts_from_the_request_before_though_it_was_too_early(
        self, local: Callable[..., Local]
    ) -> None:
        server = local(interval=5, rate_check="before")
        started = server.start()
        server.poll(started)
        server.person.approve(started["user_code"])
        for wait in (4, 9, 14):
            server.clock.advance(wait)
            assert server.poll(started) == "slow_down"
        server.clock.advance(20)
        assert server.poll(started) == "issued"

    @pytest.mark.parametrize(
        ("rate_check", "answer"), [("before", "slow_down"), ("after", "issued"), ("off", "issued")]
    )
    def test_order_of_rate_and_approval(
        self, local: Callable[..., Local], rate_check: str, answer: str
    ) -> None:
        server = local(rate_check=rate_check)
        started = server.start()
        server.poll(started)
        server.person.approve(started["user_code"])
        assert server.poll(started) == answer

    @pytest.mark.parametrize(
        ("rate_check", "answer"), [("before", "slow_down"), ("after", "access_denied")]
    )
    def test_order_of_rate_and_denial(
        self, local: Callable[..., Local], rate_check: str, answer: str
    ) -> None:
        server = local(rate_check=rate_check)
        started = server.start()
        server.poll(started)
        server.person.deny(started["user_code"])
        assert server.poll(started) == answer

    @pytest.mark.parametrize("rate_check", ["before", "after", "off"])
    def test_expiry_comes_before_all(self, local: Callable[..., Local], rate_check: str) -> None:
        server = local(expires_in=2, rate_check=rate_check)
        started = server.start()
        server.poll(started)
        server.clock.advance(2)
        assert server.poll(started) == "expired_token"

    def test_off(self, local: Callable[..., Local]) -> None:
        server = local(rate_check="off")
        started = server.start()
        assert {server.poll(started) for _ in range(5)} == {"authorization_pending"}

    @pytest.mark.parametrize("rate_check", ["before", "after"])
    def test_over_http(self, serve: Callable[..., Remote], rate_check: str) -> None:
        remote = serve(rate_check=rate_check, interval=600)
        started = start(remote)
        assert poll(remote, started) == (400, {"error": "authorization_pending"})
        assert poll(remote, started) == (400, {"error": "slow_down"})
        remote.person.approve(started["user_code"])
        assert poll(remote, started)[0] == (400 if rate_check == "before" else 200)


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"device_code": "no-such-code"}, "invalid_grant"),
            ({"client_id": "another"}, "invalid_grant"),
            ({"device_code": ""}, "invalid_request"),
            ({"grant_type": ""}, "invalid_request"),
            ({"grant_type": "password"}, "unsupported_grant_type"),
        ],
    )
    def test_token_request(
        self, serve: Callable[..., Remote], fields: dict[str, str], error: str
    ) -> None:
        remote = serve()
        answer = remote.post("/oauth/token", data=form(start(remote), **fields))
        assert (answer.status_code, answer.json()["error"]) == (400, error)
        assert answer.headers["Cache-Control"] == "no-store"

    def test_another_client_does_not_use_the_code_up(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start(client_id="another")
        server.person.approve(started["user_code"])
        assert server.poll(started) == "invalid_grant"
        assert server.poll(started, "another") == "issued"

    def test_no_client_id(self, serve: Callable[..., Remote]) -> None:
        answer = serve().post("/oauth/device_authorization")
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")

    def test_no_code_in_the_query(self, serve: Callable[..., Remote]) -> None:
        remote = serve()
        answer = remote.post(
            "/oauth/token",
            params={"device_code": start(remote)["device_code"]},
            data={"grant_type": GRANT_TYPE, "client_id": "robot"},
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")

    def test_a_parameter_twice(self, serve: Callable[..., Remote]) -> None:
        answer = serve().post(
            "/oauth/device_authorization", data=[("client_id", "one"), ("client_id", "two")]
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")

    def test_get(self, serve: Callable[..., Remote]) -> None:
        answer = serve().get("/oauth/token")
        assert (answer.status_code, answer.json()["error"]) == (405, "invalid_request")
        assert "POST" in answer.headers["Allow"]

    def test_endless_body(self, serve: Callable[..., Remote]) -> None:
        answer = serve().post("/oauth/device_authorization", data={"client_id": "x" * 100_000})
        assert answer.status_code == 413

    def test_codes_of_the_other_dialect(self, local: Callable[..., Local]) -> None:
        server = local()
        assert server.poll(server.start_studio()) == "invalid_grant"


class TestConfidentialClients:
    settings: Final[dict[str, Any]] = {"client_secrets": {"robot": "s3cret/:"}}

    def test_basic(self, serve: Callable[..., Remote]) -> None:
        remote = serve(**self.settings)
        answer = remote.post("/oauth/device_authorization", auth=("robot", "s3cret%2F%3A"))
        assert answer.status_code == 200
        fields = form(answer.json())
        del fields["client_id"]
        polled = remote.post("/oauth/token", data=fields, auth=("robot", "s3cret%2F%3A"))
        assert polled.json() == {"error": "authorization_pending"}

    def test_in_the_form(self, serve: Callable[..., Remote]) -> None:
        remote = serve(**self.settings)
        started = start(remote, client_secret="s3cret/:")
        polled = remote.post("/oauth/token", data=form(started, client_secret="s3cret/:"))
        assert polled.json() == {"error": "authorization_pending"}

    @pytest.mark.parametrize("fields", [{}, {"client_secret": "wrong"}])
    def test_refused(self, serve: Callable[..., Remote], fields: dict[str, str]) -> None:
        remote = serve(**self.settings)
        answer = remote.post("/oauth/device_authorization", data={"client_id": "robot"} | fields)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        started = start(remote, client_secret="s3cret/:")
        answer = remote.post("/oauth/token", data=form(started, **fields))
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")

    def test_unreadable_header(self, serve: Callable[..., Remote]) -> None:
        unreadable = b64encode(b"\xff:\xff").decode()
        answer = serve().post(
            "/oauth/device_authorization", headers={"Authorization": f"Basic {unreadable}"}
        )
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert answer.headers["WWW-Authenticate"].startswith("Basic")

    def test_others_are_public_whatever_they_send(self, serve: Callable[..., Remote]) -> None:
        remote = serve(**self.settings)
        assert start(remote, "another", client_secret="needless")["user_code"]

    def test_others_refused_where_only_known_ones_are_let_in(
        self, serve: Callable[..., Remote]
    ) -> None:
        remote = serve(**self.settings, any_client=False)
        answer = remote.post("/oauth/device_authorization", data={"client_id": "another"})
        assert answer.json()["error"] == "invalid_client"
        assert start(remote, client_secret="s3cret/:")["user_code"]


def test_secrets_are_not_logged(
    serve: Callable[..., Remote], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    remote = serve(control=True, client_secrets={"known": "swordfish"})
    started = start(remote, client_id="known", client_secret="swordfish")
    remote.post("/control/approve", json={"user_code": started["user_code"]})
    fields = form(started, client_id="known", client_secret="swordfish")
    token = remote.post("/oauth/token", data=fields).json()["access_token"]
    witness = remote.get("/control/log").text
    assert "Authenticate known" in caplog.text
    for secret in ("swordfish", started["device_code"], token):
        assert secret not in caplog.text
        assert secret not in witness


def test_secrets_are_in_no_repr() -> None:
    assert "swordfish" not in repr(Settings(client_secrets={"known": "swordfish"}))
