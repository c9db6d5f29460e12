"""Answers of the local server that are lost, late or refused, over real HTTP."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Remote

DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"


class Program:
    """A client with one grant, whose answers a test spoils."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        started = remote.post("/oauth/device_authorization", data={"client_id": "robot"}).json()
        self.user_code = started["user_code"]
        self.order("approve")
        self.token = self._ask(grant_type=DEVICE_CODE, device_code=started["device_code"]).json()

    def order(self, what: str, **how: Any) -> requests.Response:
        return self.remote.post(f"/control/{what}", json={"user_code": self.user_code} | how)

    def refresh(self, timeout: float = 60) -> requests.Response:
        refresh_token = self.token["refresh_token"]
        return self._ask(timeout, grant_type="refresh_token", refresh_token=refresh_token)

    def grant(self) -> dict[str, Any]:
        [grant] = self.remote.get("/control/grants").json()["grants"]
        return dict(grant)

    def wait_for_refresh(self) -> None:
        while not self.grant()["refreshes"]:
            time.sleep(0.01)

    def _ask(self, timeout: float = 60, **form: str) -> requests.Response:
        data = {"client_id": "robot"} | form
        return requests.post(f"{self.remote.url}/oauth/token", data=data, timeout=timeout)


@pytest.fixture
def program(serve: Callable[..., Remote]) -> Callable[..., Program]:
    return lambda **settings: Program(serve(control=True, refresh_scope="", **settings))


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_cut_answer_is_lost_and_the_refresh_is_done(
    program: Callable[..., Program], cut: int
) -> None:
    ours = program()
    assert ours.order("spoil", cut=cut).json()["state"] == "active"

    with pytest.raises(requests.RequestException):
        ours.refresh().json()

    assert (ours.grant()["refreshes"], ours.grant()["generation"]) == (1, 2)
    # Without a grace window, the old refresh token is all that the program has, and is refused.
    assert ours.refresh().status_code == 400
    assert ours.grant()["state"] == "reused"


def test_lost_answer_is_told_again_within_the_grace_window(
    program: Callable[..., Program],
) -> None:
    ours = program(reuse_grace=60)
    ours.order("spoil", cut=0)
    with pytest.raises(requests.ConnectionError):
        ours.refresh()

    assert ours.refresh().status_code == 200
    assert (ours.grant()["refreshes"], ours.grant()["replays"]) == (1, 1)


def test_late_answer_comes_when_the_test_says(program: Callable[..., Program]) -> None:
    ours = program()
    ours.order("spoil", delay=300)
    answers: list[requests.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(ours.refresh()))
    waiting.start()
    ours.wait_for_refresh()
    assert not answers

    ours.remote.post("/control/release")
    waiting.join(60)

    assert [answer.status_code for answer in answers] == [200]


def test_late_answer_comes_in_the_end(program: Callable[..., Program]) -> None:
    ours = program()
    ours.order("spoil", delay=0.2)
    begun = time.monotonic()

    assert ours.refresh().status_code == 200
    assert time.monotonic() - begun >= 0.2


def test_answer_that_is_too_late_is_lost(program: Callable[..., Program]) -> None:
    ours = program()
    ours.order("spoil", delay=300, cut=0)

    with pytest.raises(requests.Timeout):
        ours.refresh(timeout=0.5)

    ours.wait_for_refresh()
    ours.remote.post("/control/release")


def test_refusal_for_now_refreshes_nothing(program: Callable[..., Program]) -> None:
    ours = program()
    ours.order("spoil", status=503, times=2)

    for _ in range(2):
        answer = ours.refresh()
        assert answer.status_code == 503
        assert answer.json()["error"] == "temporarily_unavailable"
    assert ours.grant()["generation"] == 1
    assert ours.refresh().status_code == 200


@pytest.mark.parametrize("expires_in", [0, -1, "soon", None])
def test_fields_of_an_answer_are_replaced_or_left_out(
    program: Callable[..., Program], expires_in: object
) -> None:
    ours = program()
    ours.order("spoil", fields={"expires_in": expires_in, "refresh_token": None, "more": [1]})

    answer = ours.refresh()

    assert answer.json().get("expires_in") == expires_in
    assert "refresh_token" not in answer.json()
    assert answer.json()["more"] == [1]
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert ours.remote.get("/oauth/resource", headers=bearer).status_code == 200


def test_fields_of_a_refusal_stay(program: Callable[..., Program]) -> None:
    ours = program()
    ours.refresh()
    ours.order("spoil", fields={"error": "none", "access_token": "x"})

    assert ours.refresh().json()["error"] == "invalid_grant"


def test_faults_are_of_one_grant_and_in_order(serve: Callable[..., Remote]) -> None:
    remote = serve(control=True, refresh_scope="", refresh_tokens="repeat")
    ours, other = Program(remote), Program(remote)
    ours.order("spoil", status=500)
    ours.order("spoil", status=429)

    assert other.refresh().status_code == 200
    assert [ours.refresh().status_code for _ in range(3)] == [500, 429, 200]


@pytest.mark.parametrize(
    ("order", "access_token", "refresh"),
    [("invalidate", 401, 200), ("revoke", 401, 400)],
)
def test_tokens_end_without_their_owner(
    program: Callable[..., Program], order: str, access_token: int, refresh: int
) -> None:
    ours = program()
    bearer = {"Authorization": f"Bearer {ours.token['access_token']}"}
    assert ours.remote.get("/oauth/resource", headers=bearer).status_code == 200

    typed = ours.user_code.lower().replace("-", "")
    done = ours.remote.post(f"/control/{order}", json={"user_code": typed})

    assert (done.status_code, done.json()["user_code"]) == (200, ours.user_code)
    assert ours.remote.get("/oauth/resource", headers=bearer).status_code == access_token
    assert ours.refresh().status_code == refresh


@pytest.mark.parametrize("order", ["invalidate", "revoke"])
def test_what_has_ended_cannot_be_ended(program: Callable[..., Program], order: str) -> None:
    ours = program()
    ours.order("revoke")

    again = ours.order(order)

    assert (again.status_code, again.json()["state"]) == (409, "revoked")


@pytest.mark.parametrize("order", ["invalidate", "revoke", "spoil"])
def test_unknown_code(serve: Callable[..., Remote], order: str) -> None:
    remote = serve(control=True)

    assert remote.post(f"/control/{order}", json={"user_code": "BCDF-GHJK"}).status_code == 404
    assert remote.post(f"/control/{order}", json=[]).status_code == 404


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"status": 200}, "status: Must be an integer between 400 and 599."),
        ({"status": "503"}, "status: Must be an integer"),
        ({"delay": -1}, "delay: Must be a number between 0 and 600"),
        ({"cut": 0.5}, "cut: Must be an integer"),
        ({"fields": []}, "fields: Must be an object."),
        ({"times": True}, "times: Must be an integer"),
        ({"times": 0}, "times: Must be an integer between 1 and"),
    ],
    ids=str,
)
def test_fault_that_makes_no_sense(
    program: Callable[..., Program], how: dict[str, Any], said: str
) -> None:
    ours = program()

    answer = ours.order("spoil", **how)

    assert answer.status_code == 400
    assert said in answer.json()["detail"]
    assert ours.refresh().status_code == 200


@pytest.mark.parametrize("path", ["invalidate", "revoke", "spoil", "release", "grants"])
def test_off_unless_asked_for(serve: Callable[..., Remote], path: str) -> None:
    remote = serve()

    assert remote.post(f"/control/{path}", json={}).status_code == 404
    assert remote.get(f"/control/{path}").status_code == 404
