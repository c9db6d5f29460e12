"""The snapshot of a login that callers are given: frozen, without secrets, and nothing left out."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.pretty import pretty_repr

from deviceflow.core.flow import Flow
from deviceflow.core.login import Login
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.providers.studio import Studio
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_800_000_000.0
STUDIO = Studio("https://studio.example.com").with_request(client_name="robot")


@pytest.fixture
def flow(waiting: Callable[..., Flow]) -> Flow:
    return waiting(NOW)


def test_every_field_is_taken_from_the_flow(flow: Flow) -> None:
    login = Login.of(flow, 0.0)

    assert list(vars(login)) == [field.name for field in fields(Login)]
    for name in vars(login).keys() - {"wait_seconds"}:
        assert getattr(login, name) == getattr(flow, name)


def test_wait_is_counted_from_the_snapshot(flow: Flow) -> None:
    flow.poll(NOW, 10.0)
    flow.receive(answer(400, {"detail": "authorization_pending"}), NOW)

    assert Login.of(flow, 0.5).wait_seconds == 0.5


def test_snapshot_stays_as_it_was(flow: Flow) -> None:
    login = Login.of(flow, 0.0)

    flow.cancel(NOW)

    assert login.state is State.AWAITING_USER
    assert Login.of(flow, 0.0).reason is Reason.CANCELLED


def test_snapshot_cannot_be_changed(flow: Flow) -> None:
    login: Any = Login.of(flow, 0.0)

    with pytest.raises(FrozenInstanceError):
        login.state = State.FAILED
    with pytest.raises(AttributeError):
        login.cancel(NOW)


def test_equal_snapshots_are_equal(flow: Flow) -> None:
    login = Login.of(flow, 0.0)

    assert login == Login.of(flow, 0.0)
    assert hash(login) == hash(Login.of(flow, 0.0))
    assert login != replace(login, attempt=1)


def test_no_secret_is_in_it(flow: Flow) -> None:
    flow.verifier = Secret("VERIFIER-CANARY")
    flow.token = Token(Secret("TOKEN-CANARY"))
    flow.to_revoke = (("access_token", Secret("LATE-CANARY")),)

    login = Login.of(flow, 0.0)

    assert not any(isinstance(value, Secret | Token) for value in vars(login).values())
    shown = json.dumps(asdict(login), default=str)
    assert "CANARY" not in shown.replace("USER-CANARY", "")


def test_what_is_for_the_person_is_in_no_repr_and_not_for_a_queue(flow: Flow) -> None:
    login = Login.of(flow, 0.0)

    assert login.user_code == "USER-CANARY"
    assert repr(login) == f"<Login {flow.id} awaiting-user>"
    for shown in (pretty_repr(login), pretty_repr({"login": login}), json.dumps(login.to_dict())):
        assert "CANARY" not in shown
        assert "studio.example.com/login" not in shown


def test_dict_is_of_json_types() -> None:
    flow = Flow("f1", STUDIO, NOW, name="nightly", purpose="publish the report")
    flow.cancel(NOW, "enough")

    record = Login.of(flow, 0.0).to_dict()

    assert json.loads(json.dumps(record)) == record
    assert record["name"] == "nightly"
    assert record["state"] == "failed"
    assert record["reason"] == "cancelled"
    assert record["server"] == "https://studio.example.com"
    assert record["client"] == "robot"
    assert type(record["state"]) is str


@pytest.mark.parametrize("gone", ["acknowledge", "purge"])
def test_token_is_there_until_it_is_acknowledged_or_purged(flow: Flow, gone: str) -> None:
    assert not Login.of(flow, 0.0).has_token
    flow.poll(NOW, 10.0)
    flow.receive(answer(200, {"access_token": "TOKEN-CANARY"}), NOW)
    assert Login.of(flow, 0.0).has_token

    flow.collect(NOW)
    assert Login.of(flow, 0.0).has_token

    getattr(flow, gone)(NOW)
    assert not Login.of(flow, 0.0).has_token
