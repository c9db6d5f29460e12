"""A grant as a client leads it, at a server that is a function, on a clock under a test's hand."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest

from deviceflow import Client, LoginPending, OAuth
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.logins import ALICE, BEGIN

if TYPE_CHECKING:
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import Store
    from deviceflow.core.wire import Failure, Request, Response

HOUR: Final = 3600.0
DAY: Final = 86_400.0


class GrantLife:
    """One grant's life.

    Attributes:
        provider: Where it is.
        clock: The clock of all that happens.
        told: The needs that the program was told of.
        refresh_answers: What the next refreshes are answered with, before they succeed again.
    """

    def __init__(self, store: Store, name: str = "nightly", **parts: Any) -> None:
        self.name = name
        self.provider = OAuth(
            client_id="robot",
            device_authorization_endpoint="https://login.example.com/device",
            token_endpoint="https://login.example.com/token",
            revocation_endpoint="https://login.example.com/revoke",
            scopes="read offline_access",
        )
        self.clock = VirtualClock(BEGIN)
        self.told: list[LoginNeed] = []
        self.refresh_answers: list[Response | Failure] = []
        self.revocation_status = 200
        self._approved = False
        self._issued = 0
        self.client = Client(
            store,
            transport=ScriptedTransport(repeat(self._answer)),
            clock=self.clock,
            origin=ALICE,
            **({"notify": self.told.append} | parts),
        )

    def _answer(self, request: Request) -> Response | Failure:
        asked = parse_qs((request.body or b"").decode())
        if request.purpose == "revoke":
            return answer(self.revocation_status, {})
        if request.purpose == "code":
            page = "https://login.example.com/activate"
            code: dict[str, Any] = {"device_code": "DEVICE-CANARY", "user_code": "WDJB-MJHT"}
            return answer(200, code | {"verification_uri": page, "expires_in": 600, "interval": 5})
        if asked["grant_type"] == ["refresh_token"] and self.refresh_answers:
            return self.refresh_answers.pop(0)
        if asked["grant_type"] != ["refresh_token"] and not self._approved:
            return answer(400, {"error": "authorization_pending"})
        self._approved = False
        self._issued += 1
        number = f"{self.name}-{self._issued}"
        tokens = {"access_token": f"ACCESS-{number}", "refresh_token": f"REFRESH-{number}"}
        return answer(200, tokens | {"token_type": "Bearer", "expires_in": HOUR})

    def ask(self) -> None:
        """Ask for a token in vain."""
        with pytest.raises(LoginPending):
            self.client.get_token(self.name, self.provider, purpose="the nightly report")

    def log_in(self) -> AccessToken:
        """Have a person approve a minute after the code is shown."""
        login = self.client.start(self.provider, name=self.name, purpose="the nightly report")
        self.clock.advance(60)
        self._approved = True
        self.client.step(login.id)
        return self.client.get_token(self.name, self.provider)

    def refresh(self, times: int = 1) -> AccessToken:
        """Refresh so many times, each when the token has expired."""
        for _ in range(times):
            self.clock.advance(HOUR)
            token = self.client.get_token(self.name)
        return token

    def lose(self) -> None:
        """Have the server refuse the refresh token, so that a person must log in."""
        self.refresh_answers.append(answer(400, {"error": "invalid_grant"}))
        self.clock.advance(HOUR)
        self.ask()
