"""The doctor's conformance checks: at servers of others, at ours, and at one that does it wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest

from deviceflow import OAuth
from deviceflow.cli import main
from deviceflow.core.wire import Failure
from deviceflow.doctor import Check, Recorder, conformance
from deviceflow.errors import UsageError
from deviceflow.providers.dialect import Dialect
from deviceflow.testing import DeviceServer, VirtualClock, answer
from deviceflow.transports.requests import RequestsTransport
from tests.conformance.servers import check_of

if TYPE_CHECKING:
    from deviceflow.core.wire import Request, Response
    from tests.integration.rotating.servers import Name

SERVER: Final = "http://127.0.0.1:9"

# What servers of others do although a standard says otherwise, as the docs' table has it.
BROKEN: Final[dict[Name, set[str]]] = {
    "oidc-provider": set(),
    "django-allauth": {
        "In a request, parameters without a value are ignored (RFC 8628 3.1).",
        "A request with client_id twice gets invalid_request (RFC 8628 3.1).",
        "An unknown client gets invalid_client or unauthorized_client (RFC 8628 3.2).",
        "A request without grant_type gets invalid_request (RFC 6749 5.2).",
        "A poll with device_code twice gets invalid_request (RFC 6749 3.2).",
    },
}


def check(provider: OAuth, **how: Any) -> list[Check]:
    return list(conformance(Recorder(RequestsTransport()), provider, **how))


def broken(checks: list[Check]) -> list[str]:
    came = (one.message for one in checks if one.verdict == "bad")
    return [message.removeprefix("Expected: ").partition(" Came: ")[0] for message in came]


def test_our_server_keeps_all_rules(
    device_server: DeviceServer, virtual_clock: VirtualClock
) -> None:
    approved: list[str] = []

    def approve(user_code: str, page: str) -> None:
        approved.append(page)
        device_server.approve(user_code)

    checks = check(device_server.oauth(scopes=["offline_access"]), approve=approve)

    assert broken(checks) == []
    assert [one.message for one in checks if one.verdict == "note"] == [
        "The server takes any client id.",
        "Not checked: the code lives for more than 60 seconds.",
    ]
    assert approved[0].startswith(f"{device_server.url}/device?user_code=")
    said = "\n".join(one.message for one in checks)
    for rule in (
        "An early poll gets slow_down",
        "After slow_down, the interval is 5 seconds longer",
        "The answer with the token has Cache-Control: no-store",
        "A used device_code gets invalid_grant",
        "To revoke the refresh_token gets status 200",
        "An unknown token_type_hint is ignored",
    ):
        assert rule in said


@pytest.mark.deviceflow(expires_in=30, interval=1)
def test_the_command_waits_for_the_end_of_a_short_code(
    device_server: DeviceServer, virtual_clock: VirtualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--issuer", device_server.url, "--client-id", "robot"]

    assert main(["doctor", *where, "--conformance"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == (
        "✓ expiry: A poll after the code's lifetime gets expired_token (RFC 8628 3.5)."
    )
    assert lines[-1] == "41 rules kept, 0 broken, 1 notes."


def test_the_command_has_a_person_approve(
    device_server: DeviceServer,
    virtual_clock: VirtualClock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pressed = SimpleNamespace(readline=lambda: _approve_the_last(device_server))
    monkeypatch.setattr("sys.stdin", pressed)
    where = ["--issuer", device_server.url, "--client-id", "robot"]

    assert main(["doctor", *where, "--conformance", "--with-approval", "--json"]) == 0

    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["healthy"]
    assert "An approval gets a token, with status 200 (RFC 6749 5.1)." in [
        one["message"] for one in facts["checks"]
    ]
    assert f"Approve this login on the page {device_server.url}/device?user_code=" in err


def _approve_the_last(server: DeviceServer) -> str:
    server.approve(server.user_codes[-1])
    return "\n"


@pytest.mark.parametrize("name", BROKEN)
def test_servers_of_others(name: Name) -> None:
    checks = check_of(name)

    assert {*broken(checks)} <= BROKEN[name]  # a later version may have mended some
    assert sum(one.verdict == "good" for one in checks) > 30
    assert "An approval gets a token, with status 200 (RFC 6749 5.1)." in [
        one.message for one in checks
    ]


# A server that does everything wrong that a server can do and still issue codes.


class Sloppy:
    """Answers each request in its own way."""

    def __init__(self, **code: Any) -> None:
        self.codes = 0
        self._code = {
            "device_code": "short",
            "user_code": "1234",
            "verification_uri": "http://login.example.com",
            "verification_uri_complete": "http://login.example.com/go",
            "expires_in": "600",
            "interval": True,
        } | code

    def send(self, request: Request, timeout: float) -> Response | Failure:
        if request.url.endswith("device") or "/device?" in request.url:
            return answer(200, self._code)
        if "/revoke" in request.url:
            return answer(200 if request.method == "GET" else 503, "<html>")
        sent = parse_qs(request.body.decode())
        if sent.get("grant_type") == ["deviceflow-conformance-unknown"]:
            return Failure("timeout", sent=True)
        return answer(200, {"error": "authorization_pending"})

    def close(self) -> None: ...


def sloppy(transport: Any, clock: VirtualClock, **settings: Any) -> list[Check]:
    ours: dict[str, Any] = {
        "client_id": "robot",
        "device_authorization_endpoint": f"{SERVER}/device",
        "token_endpoint": f"{SERVER}/token",
        "revocation_endpoint": f"{SERVER}/revoke",
    }
    provider = OAuth(**(ours | settings))
    return list(conformance(Recorder(transport, clock), provider, clock=clock))


def test_a_server_that_keeps_no_rule(virtual_clock: VirtualClock) -> None:
    checks = sloppy(Sloppy(), virtual_clock)

    came = {one.message.partition(" Came: ")[::2] for one in checks if one.verdict == "bad"}
    for expected, what in (
        ("verification_uri is an https URL, or on this machine (RFC 8628 5.4).", "another."),
        ("expires_in is a number of seconds (RFC 8628 3.2).", "str."),
        ("interval is a number of seconds (RFC 8628 3.2).", "bool."),
        ("The device code is too long to guess (RFC 8628 5.2).", "5 characters."),
        ("Each login has codes of its own (RFC 8628 3.2).", "the same."),
        ("A GET gets no code (RFC 8628 3.1).", "a code."),
        (
            "A request with client_id twice gets invalid_request (RFC 8628 3.1).",
            "status 200.",
        ),
        (
            "A poll before the approval gets authorization_pending (RFC 8628 3.5).",
            "status 200 authorization_pending.",
        ),
        ("A GET is not a poll (RFC 6749 3.2).", "status 200 authorization_pending."),
        (
            "An unknown grant_type gets unsupported_grant_type (RFC 6749 5.2).",
            "no response (timeout).",
        ),
        (
            "An unknown token gets status 200 (RFC 7009 2.2).",
            "status 503 without a JSON object.",
        ),
        ("A GET revokes nothing (RFC 7009 2.1).", "200."),
    ):
        assert (f"Expected: {expected}", what) in came, came
    notes = {one.message for one in checks if one.verdict == "note"}
    assert "The server takes any client id." in notes
    assert any(note.startswith("Expected: The user code has 8 characters") for note in notes)
    assert any("the server counts no time" in note for note in notes)


def test_a_server_without_codes_or_metadata(virtual_clock: VirtualClock) -> None:
    def refuse(request: Request, timeout: float) -> Response | Failure:
        return answer(404, {"error": "not_found"})

    refusing = SimpleNamespace(send=refuse, close=lambda: None)

    (code,) = sloppy(refusing, virtual_clock)
    assert code.message.endswith("Came: status 404 not_found.")
    nothing = sloppy(refusing, virtual_clock, issuer=SERVER, token_endpoint=None)
    assert [one.message for one in nothing[:2]] == [
        f"No metadata at {SERVER}/.well-known/{name}: status 404 not_found."
        for name in ("openid-configuration", "oauth-authorization-server")
    ]
    assert nothing[-1].message.endswith("no endpoint is known.")


def test_metadata_of_another_issuer(virtual_clock: VirtualClock) -> None:
    def other(request: Request, timeout: float) -> Response | Failure:
        return answer(200, {"issuer": "https://other.example.com"}, Content_Type="text/html")

    serving_it = SimpleNamespace(send=other, close=lambda: None)
    checks = sloppy(serving_it, virtual_clock, issuer=SERVER, token_endpoint=None)

    assert "Came: https://other.example.com." in checks[1].message
    assert "Came: text/html." in checks[0].message
    assert checks[-1].message.endswith("no endpoint is known.")


def test_a_code_that_is_unknown_at_its_end(virtual_clock: VirtualClock) -> None:
    class Forgetful(Sloppy):
        def send(self, request: Request, timeout: float) -> Response | Failure:
            if request.purpose == "token":
                return answer(400, {"error": "invalid_grant"})
            return super().send(request, timeout)

    checks = sloppy(Forgetful(expires_in=20, interval=1), virtual_clock)

    assert checks[-1].message.startswith("After its lifetime the code is unknown (invalid_grant)")
    assert sum(virtual_clock.slept) > 20


def test_requests_of_no_standard_are_not_checked(virtual_clock: VirtualClock) -> None:
    with pytest.raises(UsageError, match="has requests of its own"):
        sloppy(Sloppy(), virtual_clock, quirks=Dialect(title="Trakt", request="json"))
