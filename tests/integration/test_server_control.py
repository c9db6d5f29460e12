from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.server import LocalServer
    from tests.integration.conftest import Local


def order(server: Local, what: str, user_code: str) -> tuple[int, dict[str, Any]]:
    answer = server.http.post(f"/control/{what}", json={"user_code": user_code})
    return answer.status_code, dict(answer.get_json())


@pytest.mark.parametrize(
    ("what", "state", "polled", "polled_studio"),
    [
        ("approve", "approved", "issued", "issued"),
        ("deny", "denied", "access_denied", "access_denied"),
        ("expire", "expired", "expired_token", "authorization_expired"),
    ],
)
def test_orders(
    local: Callable[..., Local], what: str, state: str, polled: str, polled_studio: str
) -> None:
    server = local(control=True)
    started, studio = server.start(), server.start_studio()
    typed = started["user_code"].lower().replace("-", " ")
    assert order(server, what, typed) == (
        200,
        {"user_code": started["user_code"], "state": state},
    )
    assert order(server, what, studio["user_code"])[0] == 200
    assert server.poll(started) == polled
    assert server.poll_studio(studio) == polled_studio


def test_too_late(local: Callable[..., Local]) -> None:
    server = local(control=True)
    user_code = server.start()["user_code"]
    assert order(server, "deny", user_code)[0] == 200
    assert order(server, "approve", user_code) == (
        409,
        {"user_code": user_code, "state": "denied"},
    )
    assert order(server, "expire", user_code)[0] == 200
    assert order(server, "expire", user_code)[0] == 409


def test_unknown_code(local: Callable[..., Local]) -> None:
    assert order(local(control=True), "approve", "BCDF-GHJK")[0] == 404


def test_a_form_is_not_read(local: Callable[..., Local]) -> None:
    """A foreign page can send a form anywhere, but JSON only to those who allow it."""
    server = local(control=True)
    started = server.start()
    answer = server.http.post("/control/approve", data={"user_code": started["user_code"]})
    assert answer.status_code == 415
    assert server.poll(started) == "authorization_pending"


def test_over_http(local_server: LocalServer) -> None:
    def post(path: str, body: dict[str, str]) -> dict[str, Any]:
        answer = requests.post(f"{local_server.url}{path}", json=body, timeout=60)
        return dict(answer.json())

    started = post("/api/device-login", {"client_name": "robot"})
    approved = post("/control/approve", {"user_code": started["user_code"]})
    assert approved == {"user_code": started["user_code"], "state": "approved"}
    assert "access_token" in post("/api/device-login/token", {"code": started["device_code"]})


def test_log_is_a_witness_of_the_spacing(local: Callable[..., Local]) -> None:
    server = local(control=True, interval=5)
    before = time.monotonic()
    started, studio = server.start(), server.start_studio()
    server.poll(started)
    server.clock.advance(1)
    server.poll(started)
    server.clock.advance(30)
    order(server, "approve", started["user_code"])
    server.poll(started)
    server.poll(started)
    server.poll_studio(studio)
    after = time.monotonic()

    logins = server.http.get("/control/log").get_json()["logins"]
    assert [login["user_code"] for login in logins] == [
        started["user_code"],
        studio["user_code"],
    ]
    oauth, other = logins
    assert (oauth["dialect"], oauth["client"], oauth["state"]) == ("rfc8628", "robot", "used")
    assert oauth["interval"] == 10
    assert [request["answer"] for request in oauth["requests"]] == [
        "authorization_pending",
        "slow_down",
        "issued",
        "invalid_grant",
    ]
    walls = [request["wall"] - oauth["asked_at"] for request in oauth["requests"]]
    assert walls == [0, 1, 31, 31]
    times = [request["monotonic"] for request in oauth["requests"] + other["requests"]]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    assert (other["dialect"], other["state"]) == ("studio", "waiting")
    assert [request["answer"] for request in other["requests"]] == ["authorization_pending"]


@pytest.mark.parametrize("path", ["approve", "deny", "expire", "log"])
def test_off_unless_asked_for(local: Callable[..., Local], path: str) -> None:
    server = local()
    started = server.start()
    sent = {"user_code": started["user_code"]}
    assert server.http.post(f"/control/{path}", json=sent).status_code == 404
    assert server.http.get(f"/control/{path}").status_code == 404
    assert server.poll(started) == "authorization_pending"
