"""Pending answers that are recognised, and what must not be taken for one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core import pending_answers
from deviceflow.core.pending_answers import LONGEST, MOST, read_token
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio
from deviceflow.testing import answer

if TYPE_CHECKING:
    import pytest

    from deviceflow.core.wire import Response

STUDIO: Final = Studio("https://studio.example.com")
OAUTH: Final = OAuth(
    client_id="client",
    device_authorization_endpoint="https://auth.example.com/code",
    token_endpoint="https://auth.example.com/token",
)
PENDING: Final = answer(400, {"detail": "authorization_pending"})


def count_parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    parsed: list[bytes] = []
    kind = type(PENDING)
    fields = kind.fields

    def counted(response: Response) -> Any:
        parsed.append(response.body)
        return fields(response)

    monkeypatch.setattr(kind, "fields", counted)
    return parsed


def test_answer_that_is_pending_again_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pending_answers._known.clear()
    parsed = count_parsed(monkeypatch)

    answers = [read_token(STUDIO, PENDING, 0.0) for _ in range(3)]

    assert [one.outcome for one in answers] == ["pending"] * 3
    assert len(parsed) == 1


def test_answer_means_what_its_own_server_means_by_it() -> None:
    for _ in range(2):
        assert read_token(STUDIO, PENDING, 0.0).outcome == "pending"
        assert read_token(OAUTH, PENDING, 0.0).outcome != "pending"


def test_whatever_else_differs_is_parsed() -> None:
    body = json.loads(PENDING.body)
    for _ in range(2):
        assert read_token(STUDIO, PENDING, 0.0).outcome == "pending"
        assert read_token(STUDIO, answer(200, body), 0.0).outcome == "pending"
        assert read_token(STUDIO, answer(400, {"detail": "access_denied"}), 0.0).outcome == "denied"
        issued = read_token(STUDIO, answer(200, {"access_token": "T"}), 0.0)
        assert issued.token is not None
        assert issued.token.access_token.reveal() == "T"


def test_what_is_kept_has_no_body_and_an_end() -> None:
    for number in range(3 * MOST):
        said = answer(400, {"detail": "authorization_pending", "code": f"CANARY-{number}"})
        assert read_token(STUDIO, said, 0.0).outcome == "pending"
        assert len(pending_answers._known) <= MOST

    assert "CANARY" not in repr(pending_answers._known)


def test_long_answer_is_parsed_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    said = answer(400, {"detail": "authorization_pending", "more": "x" * LONGEST})
    parsed = count_parsed(monkeypatch)

    assert [read_token(STUDIO, said, 0.0).outcome for _ in range(2)] == ["pending"] * 2
    assert len(parsed) == 2
