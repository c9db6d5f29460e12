"""The changes that a driven command tells of, without a server and in no time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema

from deviceflow import Client, OAuth
from deviceflow.cli import changes
from deviceflow.core.wire import Failure
from deviceflow.testing import ScriptedTransport, VirtualClock, answer

if TYPE_CHECKING:
    import pytest

CODE = {
    "device_code": "a-device-code",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://as.example.com/device",
    "expires_in": 900,
    "interval": 5,
}
AT = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/code",
    token_endpoint="https://as.example.com/token",
)


def told(*answers: Any, capsys: pytest.CaptureFixture[str], durable: bool = True) -> list[Any]:
    """Return what is told of a login whose polls are answered so."""
    transport = ScriptedTransport([answer(200, CODE), *answers])
    client = Client(transport=transport, clock=VirtualClock(1_800_000_000.0))
    said = changes.Changes(lambda login: ["deviceflow", "login", login.id] if durable else None)
    login = client.start(AT)
    said.begin(login)
    client.wait(login.id, on_step=said.step)
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one in objects:
        jsonschema.validate(one, changes.schema())
    return objects


def refusal(error: str) -> Any:
    return answer(400, {"error": error})


def test_each_change_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    pending = refusal("authorization_pending")
    objects = told(
        *(pending, pending, refusal("slow_down"), pending),
        *(Failure("connection", sent=False), pending),
        answer(200, {"access_token": "t", "token_type": "bearer"}),
        capsys=capsys,
    )

    assert [one["event"] for one in objects] == [
        *("code", "waiting", "slow_down", "waiting", "retry", "waiting", "authorized")
    ]
    assert objects[2]["wait_seconds"] >= 10
    assert objects[-1]["resume"] is None
    assert objects[-2]["resume"] == ["deviceflow", "login", objects[0]["flow_id"]]


def test_a_failure_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    *_, last = told(refusal("invalid_client"), capsys=capsys, durable=False)

    assert (last["event"], last["state"], last["reason"]) == ("failed", "failed", "rejected")
    assert "invalid_client" in last["error"]


def test_a_login_that_nothing_can_continue_has_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    objects = told(refusal("access_denied"), capsys=capsys, durable=False)

    assert [one["event"] for one in objects][-1] == "denied"
    assert {one["resume"] for one in objects} == {None}
