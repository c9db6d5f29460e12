from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from deviceflow.server.pending import Asked, PendingLogins, Status
from deviceflow.server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.integration.conftest import Local

ASKED = Asked(dialect="studio", client="robot")


def test_user_codes_are_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = itertools.chain("B" * 8, "B" * 8, "C" * 8)
    monkeypatch.setattr(secrets, "choice", lambda _: next(letters))
    logins = PendingLogins(Settings(), lambda: 0.0)
    logins.add(ASKED, "one", logins.new_user_code())
    assert logins.new_user_code() == "CCCC-CCCC"


def test_two_requests_that_saw_the_same_approval() -> None:
    logins = PendingLogins(Settings(), lambda: 0.0)
    user_code = logins.add(ASKED, "one", logins.new_user_code()).user_code
    logins.decide(user_code, Status.APPROVED)
    first, second = logins.poll("one", "studio"), logins.poll("one", "studio")
    assert first is not None
    assert second is not None
    assert (logins.redeem(first), logins.redeem(second)) == (True, False)


def test_the_slower_one_gets_no_token(
    local: Callable[..., Local], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = local(rate_check="off")
    started, studio = server.start(), server.start_studio()
    server.person.approve(started["user_code"])
    server.person.approve(studio["user_code"])
    monkeypatch.setattr(PendingLogins, "redeem", lambda *_: False)
    assert server.poll(started) == "invalid_grant"
    assert server.poll_studio(studio) == "authorization_expired"


def test_device_codes_are_in_no_repr() -> None:
    logins = PendingLogins(Settings(), lambda: 0.0)
    login = logins.add(ASKED, "the-device-code", logins.new_user_code())
    poll = logins.poll("the-device-code", "studio")
    assert "the-device-code" not in repr(login) + repr(poll) + repr(logins.log())
