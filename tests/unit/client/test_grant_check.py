"""`Client.check`: what a client makes of what a server says of a token."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest

from deviceflow import Client, LoginPending, OAuth
from deviceflow.client.grant_check import GrantCheck
from deviceflow.core.wire import Failure
from deviceflow.errors import UnreachableError
from deviceflow.testing import ScriptedTransport, VirtualClock, answer

if TYPE_CHECKING:
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.wire import Request, Response

ISSUER: Final = "https://as.example.com"
LOST: Final = Failure("timeout", sent=True)
METADATA: Final = {
    "issuer": ISSUER,
    "device_authorization_endpoint": f"{ISSUER}/device",
    "token_endpoint": f"{ISSUER}/token",
}
INTROSPECTION: Final = {"introspection_endpoint": f"{ISSUER}/introspect"}
USERINFO: Final = {"userinfo_endpoint": f"{ISSUER}/userinfo"}


class Server:
    """A server by its answers.

    Attributes:
        metadata: What its metadata has.
        said: How it answers questions about a token, by their purpose: for each token.
        refreshes: Whether it refreshes.
    """

    def __init__(self, metadata: dict[str, str], refreshable: bool = True) -> None:
        self.metadata = METADATA | metadata
        self.said: dict[str, list[Response | Failure]] = {}
        self.refreshes, self.refreshable = 0, refreshable

    def answer(self, request: Request) -> Response | Failure:
        if request.purpose == "metadata":
            return answer(200, self.metadata)
        if request.purpose in ("introspect", "userinfo"):
            return self.said[request.purpose].pop(0)
        if request.purpose == "code":
            code = {"device_code": "d", "user_code": "WDJB-MJHT", "interval": 1}
            return answer(200, code | {"verification_uri": f"{ISSUER}/go"})
        self.refreshes += parse_qs(request.body.decode())["grant_type"] == ["refresh_token"]
        token: dict[str, Any] = {"access_token": f"T{self.refreshes}", "expires_in": 3600}
        return answer(200, token | ({"refresh_token": "R"} if self.refreshable else {}))


def logged_in(server: Server, told: list[LoginNeed]) -> Client:
    client = Client(
        transport=ScriptedTransport(repeat(server.answer)),
        clock=VirtualClock(),
        notify=told.append,
        browser=lambda _: True,
        output=lambda _: None,
    )
    client.log_in("nightly", OAuth(client_id="robot", issuer=ISSUER, scopes="openid"))
    return client


ACTIVE, INACTIVE = answer(200, {"active": True}), answer(200, {"active": False})
MAY_NOT, GOOD, DEAD = answer(401), answer(200, {}), answer(401)


@pytest.mark.parametrize(
    ("metadata", "said", "found", "refreshes"),
    [
        (INTROSPECTION, {"introspect": [ACTIVE]}, {"valid": True, "asked": "introspect"}, 0),
        (
            INTROSPECTION,
            {"introspect": [INACTIVE, ACTIVE]},
            {"valid": True, "asked": "introspect", "replaced": True},
            1,
        ),
        (
            INTROSPECTION,
            {"introspect": [INACTIVE, INACTIVE]},
            {"valid": False, "asked": "introspect", "replaced": True},
            1,
        ),
        (
            INTROSPECTION | USERINFO,
            {"introspect": [MAY_NOT], "userinfo": [GOOD]},
            {"valid": True, "asked": "userinfo"},
            0,
        ),
        (
            INTROSPECTION | USERINFO,
            {"introspect": [LOST], "userinfo": [GOOD]},
            {"valid": True, "asked": "userinfo"},
            0,
        ),
        (
            USERINFO,
            {"userinfo": [DEAD, GOOD]},
            {"valid": True, "asked": "userinfo", "replaced": True},
            1,
        ),
        (
            USERINFO,
            {"userinfo": [DEAD, DEAD]},
            {"valid": None, "why": "its userinfo endpoint refuses new tokens as well"},
            1,
        ),
        (
            INTROSPECTION,
            {"introspect": [MAY_NOT]},
            {"valid": None, "why": "introspection answered HTTP 401"},
            0,
        ),
        (
            {},
            {},
            {
                "valid": None,
                "why": "its metadata names no introspection, and no userinfo endpoint for this"
                " token",
            },
            0,
        ),
    ],
)
def test_what_the_server_says_and_what_comes_of_it(
    metadata: dict[str, str], said: Any, found: dict[str, Any], refreshes: int
) -> None:
    server, told = Server(metadata), list[Any]()
    client = logged_in(server, told)
    server.said = {purpose: [*answers] for purpose, answers in said.items()}

    assert client.check("nightly") == GrantCheck("nightly", **found)
    assert (server.refreshes, client.grant("nightly").used_at, told) == (refreshes, None, [])
    assert not any(server.said.values())


@pytest.mark.parametrize(
    ("metadata", "purpose", "refreshes"),
    [(INTROSPECTION, "introspect", 2), (USERINFO, "userinfo", 1)],
)
def test_a_second_check_refreshes_so_soon_only_if_the_issuer_says_so(
    metadata: dict[str, str], purpose: str, refreshes: int
) -> None:
    server = Server(metadata)
    client = logged_in(server, [])
    server.said = {"introspect": [INACTIVE] * 4, "userinfo": [DEAD] * 3}

    client.check("nightly")
    again = client.check("nightly")
    assert (again.valid, again.asked, again.replaced) == (False, purpose, refreshes > 1)
    assert server.refreshes == refreshes


def test_a_token_that_is_not_valid_and_cannot_be_refreshed_needs_a_person_at_once() -> None:
    server, told = Server(INTROSPECTION, refreshable=False), list[Any]()
    client = logged_in(server, told)
    server.said = {"introspect": [INACTIVE]}

    with pytest.raises(LoginPending):
        client.check("nightly")

    assert [need.kind for need in told] == ["needed"]
    assert client.grant("nightly").reason == "invalidated"


def test_a_server_that_cannot_be_reached_says_nothing_of_the_token() -> None:
    server = Server(INTROSPECTION)
    client = logged_in(server, [])
    server.said = {"introspect": [LOST]}

    with pytest.raises(UnreachableError, match=r"could not be asked about the token.*timeout"):
        client.check("nightly")
    assert not client.grant("nightly").invalid
