from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from tests.integration.conftest import Local, Remote


def login(remote: Remote, **asked: object) -> requests.Response:
    return remote.post("/api/device-login", json={"client_name": "robot"} | asked)


def poll(remote: Remote, started: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = remote.post(started["token_uri"], json={"code": started["device_code"]})
    return answer.status_code, answer.json()


def test_answer(serve: Callable[..., Remote]) -> None:
    remote = serve(expires_in=120)
    answer = login(remote, token_name="mine")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert len(body.pop("device_code")) >= 40
    assert len(body.pop("user_code")) == 9
    assert body == {
        "verification_uri": f"{remote.url}/auth/device-login",
        "token_uri": f"{remote.url}/api/device-login/token",
        "token_name": "mine",
        "expires_in": 120,
    }


def test_token_name_is_made_up_where_none_is_given(serve: Callable[..., Remote]) -> None:
    remote = serve()
    names = {login(remote, **asked).json()["token_name"] for asked in ({}, {"token_name": None})}
    assert len(names) == 2
    assert all(names)


def test_approved_in_the_page(serve: Callable[..., Remote]) -> None:
    remote = serve()
    started = login(remote).json()
    assert poll(remote, started) == (400, {"detail": "authorization_pending"})
    page = remote.person.open(f"{started['verification_uri']}?code={started['user_code']}")
    page = remote.person.press(page, "Continue")
    assert remote.person.press(page, "Approve").title.startswith("Approved")
    status, answer = poll(remote, started)
    assert status == 200
    assert list(answer) == ["access_token"]
    assert answer["access_token"].startswith("isat_")
    assert len(answer["access_token"]) >= 40
    assert poll(remote, started) == (400, {"detail": "authorization_expired"})


def test_denied_in_the_page(serve: Callable[..., Remote]) -> None:
    remote = serve()
    started = login(remote).json()
    remote.person.deny(started["user_code"])
    assert poll(remote, started) == (400, {"detail": "access_denied"})


@pytest.mark.parametrize("approve", [True, False])
def test_expired(local: Callable[..., Local], approve: bool) -> None:
    server = local(expires_in=60)
    started = server.start_studio()
    if approve:
        server.person.approve(started["user_code"])
    server.clock.advance(60)
    assert server.poll_studio(started) == "authorization_expired"


def test_unknown_code(serve: Callable[..., Remote]) -> None:
    answer = serve().post("/api/device-login/token", json={"code": "no-such-code"})
    assert (answer.status_code, answer.json()) == (400, {"detail": "authorization_expired"})


def test_codes_of_the_other_dialect(local: Callable[..., Local]) -> None:
    server = local()
    started = server.start() | {"token_uri": "/api/device-login/token"}
    assert server.poll_studio(started) == "authorization_expired"


@pytest.mark.parametrize("rate_check", ["before", "after"])
def test_never_slows_down(local: Callable[..., Local], rate_check: str) -> None:
    server = local(rate_check=rate_check)
    started = server.start_studio()
    assert {server.poll_studio(started) for _ in range(5)} == {"authorization_pending"}
    server.person.approve(started["user_code"])
    assert server.poll_studio(started) == "issued"


def test_everything_asked_for_is_shown(local: Callable[..., Local]) -> None:
    server = local()
    started = server.start_studio(
        client_name="nightly",
        token_name="for the robot",
        scopes=["experiments", "Models"],
        team_names=["Vision", "Search"],
        all_teams=False,
        expires_in_days=1,
    )
    text = server.person.enter(started["user_code"]).text
    for shown in ("nightly", "for the robot", "EXPERIMENTS", "MODELS", "Vision, Search", "1 day"):
        assert shown in text
    assert "DATASETS" not in text


def test_wide_requests_are_shown_as_such(local: Callable[..., Local]) -> None:
    server = local()
    started = server.start_studio(all_teams=True, never_expires=True)
    text = server.person.enter(started["user_code"]).text
    assert "All your teams" in text
    assert "Never expires" in text


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"client_name": None}, "client_name"),
        ({"client_name": " \x1b[2J "}, "client_name"),
        ({"client_name": 7}, "client_name"),
        ({"token_name": ["x"]}, "token_name"),
        ({"scopes": ["experiments", "everything"]}, "EVERYTHING"),
        ({"scopes": "experiments"}, "scopes"),
        ({"scopes": [1]}, "scopes"),
        ({"team_names": "Vision"}, "team_names"),
        ({"all_teams": "yes"}, "all_teams"),
        ({"all_teams": False}, "team_names"),
        ({"all_teams": False, "team_names": []}, "team_names"),
        ({"expires_in_days": "30"}, "expires_in_days"),
        ({"expires_in_days": True}, "expires_in_days"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"never_expires": 1}, "never_expires"),
    ],
)
def test_refused(serve: Callable[..., Remote], asked: dict[str, Any], named: str) -> None:
    answer = login(serve(), **asked)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/api/device-login", "/api/device-login/token"])
@pytest.mark.parametrize(
    "how", [{}, {"data": {"client_name": "x", "code": "x"}}, {"data": b"{"}, {"json": ["code"]}]
)
def test_not_a_json_object(serve: Callable[..., Remote], path: str, how: dict[str, Any]) -> None:
    answer = serve().post(path, **how)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["detail"]


def test_poll_without_a_code(serve: Callable[..., Remote]) -> None:
    answer = serve().post("/api/device-login/token", json={})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("code")


def test_secrets_are_not_logged(
    serve: Callable[..., Remote], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    remote = serve(control=True)
    started = login(remote).json()
    remote.person.approve(started["user_code"])
    token = poll(remote, started)[1]["access_token"]
    witness = remote.get("/control/log").text
    for secret in (started["device_code"], token):
        assert secret not in caplog.text
        assert secret not in witness
