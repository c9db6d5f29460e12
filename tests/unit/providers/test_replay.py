"""Logins at each provider that is known to differ: what is sent, what comes, what follows.

A `Server` says what it is asked with and what code it gives; a `Script` is one login there, with
each answer's status, headers and body as that provider sends them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

import pytest

from deviceflow import errors, export
from deviceflow.client._sync import Client
from deviceflow.core.explain import instructions
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure, Response
from deviceflow.providers.dialect import Dialect
from deviceflow.providers.known import provider as known_provider
from deviceflow.providers.oauth import GRANT_TYPE, OAuth
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Request

    Actions = Callable[[], list[str]]

SECRET: Final = "s3cret & more"
NO_STORE: Final = {"Cache_Control": "no-store", "Content_Type": "application/json"}
HTML: Final = "<!DOCTYPE html><html><h1>Bad Gateway</h1></html>"
FORM_TYPE: Final = "application/x-www-form-urlencoded"
LOST: Final = Failure("timeout", sent=True)
UNSENT: Final = Failure("connection", sent=False)

Range = tuple[float, float]
Sent = dict[str, Any]


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", SECRET)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A provider as it is.

    Attributes:
        provider: What a program says of it.
        metadata: Where its metadata is, and what it says.
        code_at: Where a code is asked for.
        code_sent: The fields that go there.
        code: What it answers.
        page: The page that the person is sent to, complete or not.
        token_at: Where it is polled.
        token_sent: The fields that go there.
        basic: Whether the client authenticates by HTTP Basic when it polls.
        encoding: How requests are encoded.
        first: Seconds until the first poll.
    """

    provider: Provider
    code_at: str
    code_sent: Sent
    code: Sent
    page: str
    token_at: str
    token_sent: Sent
    metadata: tuple[str, Sent] | None = None
    basic: bool = False
    encoding: str = FORM_TYPE
    first: float = 5.1


@dataclass(frozen=True)
class Script:
    """One login: each answer to a poll with what it leads to and the seconds until the next.

    Attributes:
        polls: The answers, each with the action, and the wait after it; none at the end.
        reason: Why it failed, where it did.
        token: What the token is, where one comes: type, lifetime, scopes.
        said: What of the server's words is kept.
    """

    polls: list[tuple[Response | Failure, str, float | Range | None]]
    reason: Reason | None = None
    state: State = State.FAILED
    token: Sent = field(default_factory=dict)
    said: str | None = None


def approved(**kept: Any) -> dict[str, Any]:
    return {"state": State.AUTHORIZED, "token": kept}


def oauth(**settings: Any) -> OAuth:
    ours: dict[str, Any] = {
        "client_id": "robot",
        "device_authorization_endpoint": "https://as.example.com/device_authorization",
        "token_endpoint": "https://as.example.com/token",
        "scopes": "read write",
    }
    return OAuth(**(ours | settings))


RFC_CODE: Final[Sent] = {
    "device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://example.com/device",
    "verification_uri_complete": "https://example.com/device?user_code=WDJB-MJHT",
    "expires_in": 1800,
    "interval": 5,
}
RFC_TOKEN: Final[Sent] = {
    "access_token": "2YotnFZFEjr1zCsicMWpAA",
    "token_type": "Bearer",
    "expires_in": 3600,
    "refresh_token": "tGzv3JOkF0XG5Qx2TlKWIA",
    "scope": "read write",
}


def rfc(**settings: Any) -> Server:
    return Server(
        provider=oauth(**settings),
        code_at="https://as.example.com/device_authorization",
        code_sent={"client_id": "robot", "scope": "read write"},
        code=RFC_CODE,
        page="https://example.com/device?user_code=WDJB-MJHT",
        token_at="https://as.example.com/token",
        token_sent={
            "client_id": "robot",
            "grant_type": GRANT_TYPE,
            "device_code": RFC_CODE["device_code"],
        },
    )


def error(status: int, code: str, **more: Any) -> Response:
    return answer(status, {"error": code} | more, **NO_STORE)


PENDING: Final = error(400, "authorization_pending")
SLOW_DOWN: Final = error(400, "slow_down")
DENIED: Final = error(400, "access_denied", error_description="The person said no.")
EXPIRED: Final = error(400, "expired_token")
UNKNOWN: Final = error(400, "invalid_grant")
GRANTED: Final = answer(200, RFC_TOKEN, **NO_STORE)

SERVERS: Final[dict[str, Server]] = {
    "RFC 8628": rfc(),
    "DVC Studio": Server(
        provider=Studio("https://studio.example.com").with_request(
            client_name="robot", token_name="nightly", scopes=["experiments", "MODELS"]
        ),
        code_at="https://studio.example.com/api/device-login",
        code_sent={
            "client_name": "robot",
            "token_name": "nightly",
            "scopes": ["experiments", "MODELS"],
        },
        code={
            "device_code": "stdo-device",
            "user_code": "MNBV-CXZL",
            "verification_uri": "https://studio.example.com/auth/device-login",
            "token_uri": "https://studio.example.com/api/device-login/token",
            "token_name": "nightly",
            "expires_in": 900,
        },
        page="https://studio.example.com/auth/device-login?code=MNBV-CXZL",
        token_at="https://studio.example.com/api/device-login/token",
        token_sent={"code": "stdo-device"},
        encoding="application/json",
        first=0,
    ),
    "GitHub": Server(
        provider=known_provider("github", client_id="Iv1.0123", scopes="repo gist"),
        code_at="https://github.com/login/device/code",
        code_sent={"client_id": "Iv1.0123", "scope": "repo gist"},
        code={
            "device_code": "3584d83530557fdd1f46af8289938c8ef79f9dc5",
            "user_code": "WDJB-MJHT",
            "verification_uri": "https://github.com/login/device",
            "expires_in": 900,
            "interval": 5,
        },
        page="https://github.com/login/device",
        token_at="https://github.com/login/oauth/access_token",
        token_sent={
            "client_id": "Iv1.0123",
            "grant_type": GRANT_TYPE,
            "device_code": "3584d83530557fdd1f46af8289938c8ef79f9dc5",
        },
    ),
    "Google": Server(
        provider=known_provider(
            "google", client_id="g.apps", client_secret="env:THE_SECRET", scopes="openid email"
        ),
        metadata=(
            "https://accounts.google.com/.well-known/openid-configuration",
            {
                "issuer": "https://accounts.google.com",
                "device_authorization_endpoint": "https://oauth2.googleapis.com/device/code",
                "token_endpoint": "https://oauth2.googleapis.com/token",
                "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
            },
        ),
        code_at="https://oauth2.googleapis.com/device/code",
        code_sent={"client_id": "g.apps", "scope": "openid email"},
        code={
            "device_code": "4/4-GMMhmHCXhWEzkobqIHGG_EnNYYsAkukHspeYUk9E8",
            "user_code": "GQVQ-JKEC",
            "verification_url": "https://www.google.com/device",
            "expires_in": 1800,
            "interval": 5,
        },
        page="https://www.google.com/device",
        token_at="https://oauth2.googleapis.com/token",
        token_sent={
            "client_id": "g.apps",
            "client_secret": SECRET,
            "grant_type": GRANT_TYPE,
            "device_code": "4/4-GMMhmHCXhWEzkobqIHGG_EnNYYsAkukHspeYUk9E8",
        },
    ),
    "Microsoft Entra": Server(
        provider=known_provider("microsoft", client_id="6731de76", scopes="user.read"),
        metadata=(
            "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
            {
                "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0",
                "device_authorization_endpoint": (
                    "https://login.microsoftonline.com/common/oauth2/v2.0/devicecode"
                ),
                "token_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            },
        ),
        code_at="https://login.microsoftonline.com/common/oauth2/v2.0/devicecode",
        code_sent={"client_id": "6731de76", "scope": "user.read"},
        code={
            "device_code": "GAQABAAEAAAAm-06blBE1TpVMil8KPQ41",
            "user_code": "AD9QZ4MSR",
            "verification_uri": "https://microsoft.com/devicelogin",
            "expires_in": "900",
            "interval": "5",
            "message": "To sign in, use a web browser to open the page …",
        },
        page="https://microsoft.com/devicelogin",
        token_at="https://login.microsoftonline.com/common/oauth2/v2.0/token",
        token_sent={
            "client_id": "6731de76",
            "grant_type": GRANT_TYPE,
            "device_code": "GAQABAAEAAAAm-06blBE1TpVMil8KPQ41",
        },
    ),
    "Auth0": Server(
        provider=known_provider(
            "auth0",
            domain="acme.eu.auth0.com",
            client_id="nat1ve",
            scopes="openid offline_access",
            audience="https://api.acme.example",
        ),
        metadata=(
            "https://acme.eu.auth0.com/.well-known/openid-configuration",
            {
                "issuer": "https://acme.eu.auth0.com/",
                "device_authorization_endpoint": "https://acme.eu.auth0.com/oauth/device/code",
                "token_endpoint": "https://acme.eu.auth0.com/oauth/token",
                "revocation_endpoint": "https://acme.eu.auth0.com/oauth/revoke",
            },
        ),
        code_at="https://acme.eu.auth0.com/oauth/device/code",
        code_sent={
            "client_id": "nat1ve",
            "scope": "openid offline_access",
            "audience": "https://api.acme.example",
        },
        code={
            "device_code": "Ag_EE28FfVR4oI",
            "user_code": "QTZL-MCBW",
            "verification_uri": "https://acme.eu.auth0.com/activate",
            "verification_uri_complete": "https://acme.eu.auth0.com/activate?user_code=QTZL-MCBW",
            "expires_in": 900,
            "interval": 5,
        },
        page="https://acme.eu.auth0.com/activate?user_code=QTZL-MCBW",
        token_at="https://acme.eu.auth0.com/oauth/token",
        token_sent={
            "client_id": "nat1ve",
            "grant_type": GRANT_TYPE,
            "device_code": "Ag_EE28FfVR4oI",
        },
    ),
    "Trakt": Server(
        provider=known_provider("trakt", client_id="tr4kt", client_secret="env:THE_SECRET"),
        code_at="https://api.trakt.tv/oauth/device/code",
        code_sent={"client_id": "tr4kt"},
        code={
            "device_code": "d9c126a7706328d808914cfd1e40274b6e009f684b1aca271b9b3f90b3630d64",
            "user_code": "5055CC52",
            "verification_url": "https://trakt.tv/activate",
            "expires_in": 600,
            "interval": 5,
        },
        page="https://trakt.tv/activate",
        token_at="https://api.trakt.tv/oauth/device/token",
        token_sent={
            "client_id": "tr4kt",
            "client_secret": SECRET,
            "code": "d9c126a7706328d808914cfd1e40274b6e009f684b1aca271b9b3f90b3630d64",
        },
        encoding="application/json",
    ),
    "Twitch": Server(
        provider=known_provider("twitch", client_id="tw1tch", scopes="user:read:chat bits:read"),
        code_at="https://id.twitch.tv/oauth2/device",
        code_sent={"client_id": "tw1tch", "scopes": "user:read:chat bits:read"},
        code={
            "device_code": "ike3GM8QIdYZs43KdrWPIO36LofILoCyFEzjlQ91",
            "user_code": "ABCDEFGH",
            "verification_uri": "https://www.twitch.tv/activate?device-code=ABCDEFGH",
            "expires_in": 1800,
            "interval": 5,
        },
        page="https://www.twitch.tv/activate?device-code=ABCDEFGH",
        token_at="https://id.twitch.tv/oauth2/token",
        token_sent={
            "client_id": "tw1tch",
            "scopes": "user:read:chat bits:read",
            "grant_type": GRANT_TYPE,
            "device_code": "ike3GM8QIdYZs43KdrWPIO36LofILoCyFEzjlQ91",
        },
    ),
    "PingAM": Server(
        provider=known_provider(
            "ping",
            base="https://am.example.com/am/oauth2/realms/root/realms/alpha",
            client_id="p1ng",
            scopes="write",
            pkce="off",
            parameters={"response_type": "token"},
        ),
        code_at="https://am.example.com/am/oauth2/realms/root/realms/alpha/device/code",
        code_sent={"client_id": "p1ng", "scope": "write", "response_type": "token"},
        code={
            "interval": 5,
            "device_code": "7a95a0a4-6f13-42e3-ac3e-d3d159c94c55",
            "verification_uri": "https://am.example.com:443/am/oauth2/device/user",
            "user_code": "VAL12e0v",
            "expires_in": 300,
        },
        page="https://am.example.com:443/am/oauth2/device/user?user_code=VAL12e0v",
        token_at="https://am.example.com/am/oauth2/realms/root/realms/alpha/access_token",
        token_sent={
            "client_id": "p1ng",
            "grant_type": GRANT_TYPE,
            "device_code": "7a95a0a4-6f13-42e3-ac3e-d3d159c94c55",
        },
    ),
    "Oracle IDCS": Server(
        provider=known_provider(
            "oracle-idcs",
            domain="idcs-1.identity.oraclecloud.com",
            client_id="0racle",
            scopes="openid offline_access",
        ),
        code_at="https://idcs-1.identity.oraclecloud.com/oauth2/v1/device",
        code_sent={
            "client_id": "0racle",
            "scope": "openid offline_access",
            "response_type": "device_code",
        },
        code={
            "device_code": "4d037ff8-7d7f-4fab-a7c7-d42f64a8e77f",
            "user_code": "SDFGHJKL",
            "verification_uri": "https://idcs-1.identity.oraclecloud.com/ui/v1/device",
            "expires_in": 300,
        },
        page="https://idcs-1.identity.oraclecloud.com/ui/v1/device",
        token_at="https://idcs-1.identity.oraclecloud.com/oauth2/v1/token",
        token_sent={
            "client_id": "0racle",
            "grant_type": GRANT_TYPE,
            "device_code": "4d037ff8-7d7f-4fab-a7c7-d42f64a8e77f",
        },
    ),
    "WSO2": Server(
        provider=known_provider(
            "wso2", base="https://is.example.com:9443", client_id="ws0two", scopes="openid"
        ),
        code_at="https://is.example.com:9443/oauth2/device_authorize",
        code_sent={"client_id": "ws0two", "scope": "openid"},
        code={
            "device_code": "d8c1fb39-bad4-4d63-8c48-5dfb8e30e1a3",
            "user_code": "uUSDPs",
            "verification_uri": "https://is.example.com:9443/authenticationendpoint/device.do",
            "verification_uri_complete": (
                "https://is.example.com:9443/authenticationendpoint/device.do?user_code=uUSDPs"
            ),
            "expires_in": 3600,
            "interval": 5,
        },
        page="https://is.example.com:9443/authenticationendpoint/device.do?user_code=uUSDPs",
        token_at="https://is.example.com:9443/oauth2/token",
        token_sent={
            "client_id": "ws0two",
            "grant_type": GRANT_TYPE,
            "device_code": "d8c1fb39-bad4-4d63-8c48-5dfb8e30e1a3",
        },
    ),
    "Dex": Server(
        provider=known_provider(
            "dex",
            base="https://dex.example.com/dex",
            client_id="d3x",
            client_secret="env:THE_SECRET",
            scopes="openid",
            pkce="off",
        ),
        metadata=(
            "https://dex.example.com/dex/.well-known/openid-configuration",
            {
                "issuer": "https://dex.example.com/dex",
                "device_authorization_endpoint": "https://dex.example.com/dex/device/code",
                "token_endpoint": "https://dex.example.com/dex/token",
            },
        ),
        code_at="https://dex.example.com/dex/device/code",
        code_sent={"client_id": "d3x", "client_secret": SECRET, "scope": "openid"},
        code={
            "device_code": "tovvkdqcapfjrhhbtnyfdcxgdmqygx",
            "user_code": "DTLG-VTLQ",
            "verification_uri": "https://dex.example.com/dex/device",
            "verification_uri_complete": "https://dex.example.com/dex/device?user_code=DTLG-VTLQ",
            "expires_in": 300,
            "interval": 5,
        },
        page="https://dex.example.com/dex/device?user_code=DTLG-VTLQ",
        token_at="https://dex.example.com/dex/token",
        token_sent={
            "client_id": "d3x",
            "client_secret": SECRET,
            "grant_type": GRANT_TYPE,
            "device_code": "tovvkdqcapfjrhhbtnyfdcxgdmqygx",
        },
    ),
    "HTTP Basic": Server(
        provider=oauth(client_secret="env:THE_SECRET"),
        code_at="https://as.example.com/device_authorization",
        code_sent={"client_id": "robot", "scope": "read write"},
        code=RFC_CODE,
        page="https://example.com/device?user_code=WDJB-MJHT",
        token_at="https://as.example.com/token",
        token_sent={"grant_type": GRANT_TYPE, "device_code": RFC_CODE["device_code"]},
        basic=True,
    ),
    "no interval": Server(
        provider=oauth(),
        code_at="https://as.example.com/device_authorization",
        code_sent={"client_id": "robot", "scope": "read write"},
        # Its complete address has the code in a parameter of its own choice.
        code={
            "device_code": "0ddball",
            "user_code": "BCDF-GHJK",
            "verification_uri": "https://example.com/link",
            "verification_uri_complete": "https://example.com/link?code=BCDF-GHJK",
            "expires_in": "600.0",
        },
        page="https://example.com/link?code=BCDF-GHJK",
        token_at="https://as.example.com/token",
        token_sent={"client_id": "robot", "grant_type": GRANT_TYPE, "device_code": "0ddball"},
    ),
}

STUDIO_PENDING: Final = answer(400, {"detail": "authorization_pending"})
GH_PENDING: Final = answer(
    200,
    {
        "error": "authorization_pending",
        "error_description": "The authorization request is still pending.",
        "error_uri": "https://docs.github.com/developers/apps/authorizing-oauth-apps",
    },
    Content_Type="application/json; charset=utf-8",
)
GH_TOKEN: Final = answer(
    200,
    {"access_token": "gho_16C7e42F292c6912E7710c83", "token_type": "bearer", "scope": "repo,gist"},
    Content_Type="application/json; charset=utf-8",
)


def gh(code: str, **more: Any) -> Response:
    return answer(200, {"error": code, "error_description": "…"} | more)


def form(status: int, **fields: str) -> Response:
    return answer(status, urlencode(fields), Content_Type=f"{FORM_TYPE}; charset=utf-8")


def entra(code: str, number: int) -> Response:
    return answer(
        400,
        {
            "error": code,
            "error_description": f"AADSTS{number}: OAuth 2.0 device flow error.",
            "error_codes": [number],
            "timestamp": "2026-11-24 09:00:00Z",
            "trace_id": "4c5b0d0c",
            "correlation_id": "d2a7",
        },
    )


def twitch(message: str) -> Response:
    return answer(400, {"status": 400, "message": message})


RFC_END: Final = approved(token_type="Bearer", life=3600, scopes=("read", "write"))

SCRIPTS: Final[dict[str, Script]] = {
    "RFC 8628: pending, then approved": Script(
        [(PENDING, "pending", 5.1), (PENDING, "pending", 5.1), (GRANTED, "issue_token", None)],
        **RFC_END,
    ),
    # Five seconds more for this and all later requests (section 3.5), and a growing margin.
    "RFC 8628: slow_down twice": Script(
        [
            (SLOW_DOWN, "slow_down", 10 + 0.1 + 1),
            (PENDING, "pending", 10 + 0.1 + 1),
            (SLOW_DOWN, "slow_down", 15 + 0.1 + 3),
            (PENDING, "pending", 15 + 0.1 + 3),
            (GRANTED, "issue_token", None),
        ],
        **RFC_END,
    ),
    # Exponential back-off on connection timeouts (section 3.5), which a pending ends.
    "RFC 8628: connection timeouts": Script(
        [
            (UNSENT, "retry", (10, 12.5)),
            (UNSENT, "retry", (20, 25)),
            (UNSENT, "retry", (40, 50)),
            (UNSENT, "retry", (60, 75)),
            (UNSENT, "retry", (60, 75)),
            (PENDING, "pending", 5.1),
            (GRANTED, "issue_token", None),
        ],
        **RFC_END,
    ),
    "RFC 8628: denied": Script([(DENIED, "deny", None)], Reason.DENIED),
    "RFC 8628: expired": Script(
        [(PENDING, "pending", 5.1), (EXPIRED, "expire", None)], state=State.EXPIRED
    ),
    "RFC 8628: refused": Script(
        [(error(401, "invalid_client"), "fail", None)], Reason.REJECTED, said="invalid_client"
    ),
    "DVC Studio: pending, then approved": Script(
        [
            (STUDIO_PENDING, "pending", 5.0),
            (STUDIO_PENDING, "pending", 5.0),
            (answer(200, {"access_token": "isat_0123456789"}), "issue_token", None),
        ],
        **approved(token_type="Bearer", life=None, scopes=None),
    ),
    "DVC Studio: expired": Script(
        [(answer(400, {"detail": "authorization_expired"}), "expire", None)], state=State.EXPIRED
    ),
    "GitHub: errors with status 200, then approved": Script(
        [(GH_PENDING, "pending", 5.1), (GH_TOKEN, "issue_token", None)],
        **approved(token_type="bearer", life=None, scopes=("repo", "gist")),
    ),
    "GitHub: slow_down names the new interval": Script(
        [
            (gh("slow_down", interval=10), "slow_down", 10 + 0.1 + 1),
            (gh("slow_down", interval=30), "slow_down", 30 + 0.1 + 6),
            (GH_TOKEN, "issue_token", None),
        ],
        **approved(token_type="bearer", life=None, scopes=("repo", "gist")),
    ),
    "GitHub: form-encoded although JSON was asked for": Script(
        [
            (form(200, error="authorization_pending", error_uri="https://x"), "pending", 5.1),
            (form(200, error="slow_down", interval="12"), "slow_down", 12 + 0.1 + 1.2),
            (
                form(200, access_token="gho_1", scope="repo,gist", token_type="bearer"),
                "issue_token",
                None,
            ),
        ],
        **approved(token_type="bearer", life=None, scopes=("repo", "gist")),
    ),
    "GitHub: the code is not found at the moment of approval": Script(
        [
            (GH_PENDING, "pending", 5.1),
            (gh("incorrect_device_code"), "retry", (10, 12.5)),
            (GH_TOKEN, "issue_token", None),
        ],
        **approved(token_type="bearer", life=None, scopes=("repo", "gist")),
    ),
    "GitHub: the code is not found, and again not": Script(
        [
            (gh("incorrect_device_code"), "retry", (10, 12.5)),
            (gh("incorrect_device_code"), "fail", None),
        ],
        Reason.REJECTED,
        said="invalid_grant: …",
    ),
    "GitHub: expired_token": Script([(gh("expired_token"), "expire", None)], state=State.EXPIRED),
    "GitHub: token_expired": Script([(gh("token_expired"), "expire", None)], state=State.EXPIRED),
    "GitHub: denied": Script([(gh("access_denied"), "deny", None)], Reason.DENIED),
    "GitHub: device_flow_disabled": Script(
        [(gh("device_flow_disabled"), "fail", None)], Reason.REJECTED, said="unauthorized_client: …"
    ),
    "GitHub: unsupported_grant_type": Script(
        [(gh("unsupported_grant_type"), "fail", None)],
        Reason.REJECTED,
        said="unsupported_grant_type: …",
    ),
    "GitHub: incorrect_client_credentials": Script(
        [(gh("incorrect_client_credentials"), "fail", None)],
        Reason.REJECTED,
        said="invalid_client: …",
    ),
    "Google: 428 while pending": Script(
        [
            (
                error(428, "authorization_pending", error_description="Precondition Required"),
                "pending",
                5.1,
            ),
            (
                answer(
                    200,
                    {
                        "access_token": "1/fFAGRNJru1FTz70BzhT3Zg",
                        "expires_in": 3920,
                        "scope": "openid https://www.googleapis.com/auth/userinfo.email",
                        "token_type": "Bearer",
                        "refresh_token": "1/xEoDL4iW3cxlI7yDbSRFYNG01kVKM2C",
                    },
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(
            token_type="Bearer",
            life=3920,
            scopes=("openid", "https://www.googleapis.com/auth/userinfo.email"),
        ),
    ),
    "Google: 403 for too fast and for denied": Script(
        [
            (error(403, "slow_down", error_description="Forbidden"), "slow_down", 11.1),
            (error(403, "access_denied", error_description="Forbidden"), "deny", None),
        ],
        Reason.DENIED,
    ),
    "Google: out of quota while polling": Script(
        [
            (answer(403, {"error_code": "rate_limit_exceeded"}), "retry", (10, 12.5)),
            (error(428, "authorization_pending"), "pending", 5.1),
            (error(400, "invalid_grant"), "fail", None),
        ],
        Reason.REJECTED,
        said="invalid_grant",
    ),
    "Microsoft Entra: approved": Script(
        [
            (entra("authorization_pending", 70016), "pending", 5.1),
            (
                answer(
                    200,
                    {
                        "token_type": "Bearer",
                        "scope": "User.Read profile openid email",
                        "expires_in": "3599",
                        "ext_expires_in": "3599",
                        "access_token": "eyJ0eXAiOiJKV1Q",
                    },
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(
            token_type="Bearer", life=3599, scopes=("User.Read", "profile", "openid", "email")
        ),
    ),
    "Microsoft Entra: declined": Script(
        [(entra("authorization_declined", 70018), "deny", None)], Reason.DENIED
    ),
    "Microsoft Entra: bad_verification_code": Script(
        [(entra("bad_verification_code", 70019), "fail", None)],
        Reason.REJECTED,
        said="invalid_grant: AADSTS70019: OAuth 2.0 device flow error.",
    ),
    "Microsoft Entra: expired": Script(
        [(entra("expired_token", 70020), "expire", None)], state=State.EXPIRED
    ),
    "Auth0: 403 while pending, 429 for too fast": Script(
        [
            (error(403, "authorization_pending"), "pending", 5.1),
            (error(429, "slow_down"), "slow_down", 11.1),
            (
                answer(
                    200,
                    {
                        "access_token": "eyJz93a",
                        "refresh_token": "GEbRxBN",
                        "token_type": "Bearer",
                        "expires_in": 86400,
                    },
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(token_type="Bearer", life=86400, scopes=None),
    ),
    # Only once: after it there is invalid_grant, which nobody may come to see.
    "Auth0: expired once": Script(
        [(error(403, "expired_token"), "expire", None)], state=State.EXPIRED
    ),
    "Auth0: denied": Script([(error(403, "access_denied"), "deny", None)], Reason.DENIED),
    "Auth0: expired said into the void, then invalid_grant": Script(
        [(LOST, "retry", (10, 12.5)), (error(403, "invalid_grant"), "fail", None)],
        Reason.OUTCOME_UNKNOWN,
    ),
    "Trakt: 400 pending, 429 slow down, 200 approved": Script(
        [
            (answer(400, ""), "pending", 5.1),
            (answer(429, ""), "slow_down", 11.1),
            (answer(400, ""), "pending", 11.1),
            (
                answer(
                    200,
                    {
                        "access_token": "dbaf9757982a9e738f05d249b7b5b4a266b3a139049317c4909f",
                        "token_type": "bearer",
                        "expires_in": 7200,
                        "refresh_token": "76ba4c5c75c96f6087f58a4de10be6c00b29ea1ddc3b2022ee20",
                        "scope": "public",
                        "created_at": 1487889741,
                    },
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(token_type="bearer", life=7200, scopes=("public",)),
    ),
    "Trakt: 404 unknown": Script(
        [(answer(404, ""), "fail", None)], Reason.REJECTED, said="invalid_grant"
    ),
    "Trakt: 409 used": Script(
        [(answer(409, ""), "fail", None)], Reason.REJECTED, said="invalid_grant"
    ),
    "Trakt: 410 expired": Script([(answer(410, ""), "expire", None)], state=State.EXPIRED),
    "Trakt: 418 denied": Script([(answer(418, ""), "deny", None)], Reason.DENIED),
    "Twitch: error text in message, scope as a list": Script(
        [
            (twitch("authorization_pending"), "pending", 5.1),
            (
                answer(
                    200,
                    {
                        "access_token": "rfx2uswqe8l4g1mkagrvg5tv0ks3",
                        "expires_in": 14124,
                        "refresh_token": "5b93chm6hdve3mycz05zfzatkfdenfspp1h1ar2xxdalen01",
                        "scope": ["user:read:chat", "bits:read"],
                        "token_type": "bearer",
                    },
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(token_type="bearer", life=14124, scopes=("user:read:chat", "bits:read")),
    ),
    "Twitch: unknown code": Script(
        [(twitch("invalid device code"), "fail", None)], Reason.REJECTED, said="invalid_grant"
    ),
    "PingAM: 403 while pending": Script(
        [
            (
                error(403, "authorization_pending", error_description="User has yet to authorize"),
                "pending",
                5.1,
            ),
            (
                answer(
                    200,
                    {
                        "access_token": "sbQZuveFumUDV5R1vVBl6QAGNB8",
                        "scope": "write",
                        "token_type": "Bearer",
                        "expires_in": 3599,
                    },
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(token_type="Bearer", life=3599, scopes=("write",)),
    ),
    "PingAM: expired is 401": Script(
        [(error(401, "expired_token"), "expire", None)], state=State.EXPIRED
    ),
    "PingAM: declined": Script(
        [(error(403, "authorization_declined"), "deny", None)], Reason.DENIED
    ),
    "Oracle IDCS: approved": Script(
        [
            (error(400, "authorization_pending"), "pending", 5.1),
            (
                answer(
                    200, {"access_token": "eyJ4NXQ", "token_type": "Bearer", "expires_in": 3600}
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(token_type="Bearer", life=3600, scopes=None),
    ),
    "WSO2: as it is today": Script(
        [
            (error(400, "authorization_pending"), "pending", 5.1),
            (error(400, "slow_down"), "slow_down", 11.1),
            (error(400, "expired_token"), "expire", None),
        ],
        state=State.EXPIRED,
    ),
    # Nothing can be made of it: pending cannot be told from used or denied.
    "WSO2: invalid_grant for everything": Script(
        [(error(400, "invalid_grant"), "fail", None)], Reason.REJECTED, said="invalid_grant"
    ),
    "Dex: pending was 401": Script(
        [
            (error(401, "authorization_pending"), "pending", 5.1),
            (error(400, "slow_down"), "slow_down", 11.1),
            (
                answer(
                    200, {"access_token": "eyJhbG", "token_type": "bearer", "expires_in": 86399}
                ),
                "issue_token",
                None,
            ),
        ],
        **approved(token_type="bearer", life=86399, scopes=None),
    ),
    "Dex: unknown code": Script(
        [(error(400, "invalid_request"), "fail", None)], Reason.REJECTED, said="invalid_request"
    ),
    "HTTP Basic: approved": Script(
        [(PENDING, "pending", 5.1), (GRANTED, "issue_token", None)], **RFC_END
    ),
    "no interval: five seconds": Script(
        [(PENDING, "pending", 5.1), (GRANTED, "issue_token", None)], **RFC_END
    ),
    "no interval: 404 with a vendor's name for an unknown code": Script(
        [(error(404, "AuthorizationRequestNotFound"), "fail", None)],
        Reason.REJECTED,
        said="AuthorizationRequestNotFound",
    ),
    "no interval: HTML with status 500": Script(
        [
            (answer(500, HTML, Content_Type="text/html"), "retry", (10, 12.5)),
            (answer(502, HTML, Content_Type="text/html"), "retry", (20, 25)),
            (PENDING, "pending", 5.1),
            (GRANTED, "issue_token", None),
        ],
        **RFC_END,
    ),
}


def fields_of(request: Request) -> Sent:
    """Return the fields that were sent, in whatever encoding; none of them twice."""
    if request.headers.get("Content-Type", request.headers.get("Content-type")) == FORM_TYPE:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True)
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)
    read: Sent = json.loads(request.body)
    return read


def check_sent(request: Request, url: str, fields: Sent, encoding: str) -> None:
    assert (request.method, request.url) == ("POST", url)
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["content-type"] == encoding
    assert headers["accept"] == "application/json"
    assert fields_of(request) == fields


def within(wait: float, expected: float | Range) -> bool:
    low, high = expected if isinstance(expected, tuple) else (expected, expected)
    return low - 1e-5 <= wait <= high + 1e-5


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_has_a_script(name: str) -> None:
    assert any(title.startswith(f"{name}: ") for title in SCRIPTS)


@pytest.mark.parametrize("title", SCRIPTS)
def test_login(title: str, clock: VirtualClock, actions: Actions) -> None:
    server, script = SERVERS[title.partition(": ")[0]], SCRIPTS[title]
    found = [answer(200, server.metadata[1])] if server.metadata else []
    transport = ScriptedTransport(
        [*found, answer(200, server.code), *(said for said, _, _ in script.polls)]
    )
    client = Client(transport=transport, clock=clock)
    begun = clock.time()

    # The code.
    flow = client.start(server.provider)
    if server.metadata:
        asked = transport.requests.pop(0)
        assert (asked.method, asked.url) == ("GET", server.metadata[0])
        assert asked.headers == {"Accept": "application/json"}
    [asked] = transport.requests
    check_sent(asked, server.code_at, server.code_sent, server.encoding)
    assert (flow.state, flow.user_code) == (State.AWAITING_USER, server.code["user_code"])
    assert (flow.verification_uri_complete or flow.verification_uri) == server.page
    assert any(server.page in line for line in instructions(flow))
    assert flow.expires_at == begun + float(server.code["expires_in"])
    assert within(flow.wait_seconds, server.first)

    # The polls: each when it is due, and none before.
    clock.advance(flow.wait_seconds)
    for number, (_, _, wait) in enumerate(script.polls, 2):
        done = client.step(flow.id)
        assert len(transport.requests) == number
        check_sent(transport.requests[-1], server.token_at, server.token_sent, server.encoding)
        assert ("Authorization" in transport.requests[-1].headers) == server.basic
        assert done.state.ended == (wait is None)
        if wait is not None:
            assert within(done.wait_seconds, wait)
            clock.advance(done.wait_seconds - 0.01)
            assert client.step(flow.id).state is State.AWAITING_USER
            assert len(transport.requests) == number
            clock.advance(0.01 + 1e-6)

    # The end, and the silence after it.
    ended = client.get(flow.id)
    assert (ended.state, ended.reason, ended.detail) == (
        script.state,
        script.reason,
        ended.detail if script.said is None else script.said,
    )
    expected = [step for _, action, _ in script.polls for step in ("poll", action)]
    assert actions() == ["issue_code", *expected]
    assert client.step(flow.id).wait_seconds == 0
    assert len(transport.requests) == 1 + len(script.polls)
    if script.state is State.AUTHORIZED:
        token = client.collect_token(flow.id)
        life = token.expires_at and token.expires_at - clock.time()
        assert (token.token_type, token.scopes) == (
            script.token["token_type"],
            script.token["scopes"],
        )
        assert life == (script.token["life"] and pytest.approx(script.token["life"]))


def test_client_that_authenticates_by_basic_encodes_each_part(clock: VirtualClock) -> None:
    server = SERVERS["HTTP Basic"]
    transport = ScriptedTransport([answer(200, RFC_CODE), GRANTED])
    client = Client(transport=transport, clock=clock)

    client.login(server.provider, open_browser=False)

    for request in transport.requests:
        kind, _, pair = request.headers["Authorization"].partition(" ")
        assert (kind, base64.b64decode(pair)) == ("Basic", b"robot:s3cret%20%26%20more")


# Before the code.


@pytest.mark.parametrize(
    ("name", "said", "kept"),
    [
        ("RFC 8628", error(401, "invalid_client"), "invalid_client"),
        ("RFC 8628", error(400, "invalid_scope"), "invalid_scope"),
        ("GitHub", gh("device_flow_disabled"), "unauthorized_client: …"),
        ("GitHub", answer(404, {"error": "Not Found"}), "Not Found"),
        ("GitHub", form(200, error="device_flow_disabled"), "unauthorized_client"),
        ("Google", error(401, "invalid_client"), "invalid_client"),
        ("Google", error(400, "org_internal"), "unauthorized_client"),
        (
            "Microsoft Entra",
            entra("unauthorized_client", 700016),
            "unauthorized_client: AADSTS700016: OAuth 2.0 device flow error",
        ),
        ("Auth0", error(403, "unauthorized_client"), "unauthorized_client"),
        ("Twitch", twitch("invalid client"), "invalid_client"),
        ("Trakt", answer(400, {"error": "invalid_client"}), "invalid_client"),
    ],
)
def test_refusal_of_a_code_is_told_in_the_servers_words(
    clock: VirtualClock, name: str, said: Response, kept: str
) -> None:
    server = SERVERS[name]
    found = [answer(200, server.metadata[1])] if server.metadata else []
    client = Client(transport=ScriptedTransport([*found, said]), clock=clock)

    with pytest.raises(errors.RejectedError, match=re.escape(f"The server's message: {kept}.")):
        client.start(server.provider)


def test_secrets_in_the_servers_words_are_hidden(clock: VirtualClock) -> None:
    server = SERVERS["RFC 8628"]
    code = server.code["device_code"]
    told = error(400, "invalid_client", error_description=f"No client waits for {code}.")
    client = Client(transport=ScriptedTransport([answer(200, server.code), told]), clock=clock)
    login = client.start(server.provider)

    with pytest.raises(errors.RejectedError, match="invalid_client: ") as refused:
        client.wait_for_token(login.id)

    assert code not in str(refused.value)


def test_google_out_of_quota_for_a_code_is_asked_again(clock: VirtualClock) -> None:
    server = SERVERS["Google"]
    assert server.metadata
    quota = answer(403, {"error_code": "rate_limit_exceeded"})
    script = [answer(200, server.metadata[1]), quota, quota, answer(200, server.code)]
    client = Client(transport=ScriptedTransport(script), clock=clock)

    assert client.start(server.provider).state is State.AWAITING_USER
    assert within(sum(clock.slept), (3, 3.75))


def test_trakts_statuses_mean_nothing_before_the_code(clock: VirtualClock) -> None:
    """A 400 there is no pending: nothing was asked that could be."""
    client = Client(transport=ScriptedTransport([answer(400, "")]), clock=clock)

    with pytest.raises(errors.ProtocolError):
        client.start(SERVERS["Trakt"].provider)


@pytest.mark.parametrize("name", ["google", "trakt"])
def test_secret_that_a_provider_needs_is_asked_for_before_anything_is_sent(name: str) -> None:
    with pytest.raises(errors.UsageError, match="client secret"):
        known_provider(name, client_id="robot")


def test_oracle_wants_a_scope_before_anything_is_sent(clock: VirtualClock) -> None:
    client = Client(transport=ScriptedTransport([]), clock=clock)
    idcs = known_provider("oracle-idcs", domain="idcs-1.identity.oraclecloud.com", client_id="c")

    with pytest.raises(errors.UsageError, match="needs scope"):
        client.start(idcs)


# Keycloak: the proof key survives a restart.


def test_keycloaks_verifier_survives_a_restart(clock: VirtualClock) -> None:
    keycloak = known_provider(
        "keycloak", base="https://sso.example.com", realm="acme", client_id="k3y", scopes="openid"
    )
    metadata = {
        "issuer": "https://sso.example.com/realms/acme",
        "device_authorization_endpoint": (
            "https://sso.example.com/realms/acme/protocol/openid-connect/auth/device"
        ),
        "token_endpoint": "https://sso.example.com/realms/acme/protocol/openid-connect/token",
    }
    before = ScriptedTransport([answer(200, metadata), answer(200, RFC_CODE), PENDING])
    client = Client(transport=before, clock=clock)
    flow = client.start(keycloak)
    clock.advance(client.step(flow.id).wait_seconds)
    clock.advance(client.step(flow.id).wait_seconds)
    written = json.dumps(export.to_dict(get(client._store, flow.id), secrets=True))

    store = MemoryStore()
    store.add(export.from_dict(json.loads(written)))
    after = ScriptedTransport([SLOW_DOWN, GRANTED])
    Client(store, transport=after, clock=clock).wait_for_token(flow.id)

    assert before.requests[0].url == f"{metadata['issuer']}/.well-known/openid-configuration"
    code = fields_of(before.requests[1])
    assert code["code_challenge_method"] == "S256"
    polls = [fields_of(request) for request in (before.requests[2], *after.requests)]
    [verifier] = {sent["code_verifier"] for sent in polls}
    assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier)
    digest = hashlib.sha256(verifier.encode()).digest()
    assert code["code_challenge"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert verifier not in json.dumps(export.to_dict(get(client._store, flow.id)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ping", {"base": "https://am.example.com/am/oauth2"}),
        ("dex", {"base": "https://dex.e.org"}),
    ],
)
def test_where_the_server_takes_pkce_it_is_used(name: str, settings: Mapping[str, str]) -> None:
    provider = known_provider(name, client_id="c", **settings)

    assert provider.uses_pkce


# The rules that follow, on a server that is otherwise as RFC 8628 has it.


def replay(clock: VirtualClock, *polls: Response | Failure, **settings: Any) -> Flow:
    """Step a login through these answers and return it."""
    transport = ScriptedTransport([answer(200, RFC_CODE), *polls])
    client = Client(transport=transport, clock=clock)
    flow = client.start(oauth(**settings))
    for _ in polls:
        clock.advance(client.get(flow.id).wait_seconds)
        client.step(flow.id)
    assert len(transport.requests) == 1 + len(polls)
    return get(client._store, flow.id)


ENDS: Final[dict[str, tuple[State, Reason | None]]] = {
    "authorization_pending": (State.AWAITING_USER, None),
    "slow_down": (State.AWAITING_USER, None),
    "access_denied": (State.FAILED, Reason.DENIED),
    "expired_token": (State.EXPIRED, None),
    "invalid_grant": (State.FAILED, Reason.REJECTED),
    "invalid_client": (State.FAILED, Reason.REJECTED),
}


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 428, 429, 500, 503])
@pytest.mark.parametrize("code", ENDS)
@pytest.mark.parametrize("encoding", ["json", "form"])
def test_recognised_error_wins_over_the_status(
    clock: VirtualClock, status: int, code: str, encoding: str
) -> None:
    said = error(status, code) if encoding == "json" else form(status, error=code)

    flow = replay(clock, said)

    assert (flow.state, flow.reason) == ENDS[code]
    assert flow.interval == (10 if code == "slow_down" else 5)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
@pytest.mark.parametrize("body", ["", HTML, {"error": "busy"}, {"message": "wait"}, "null"])
def test_transient_status_never_ends_a_login(clock: VirtualClock, status: int, body: Any) -> None:
    flow = replay(clock, *[answer(status, body)] * 6, PENDING, GRANTED)

    assert flow.state is State.AUTHORIZED


def test_retry_after_is_honoured(clock: VirtualClock) -> None:
    flow = replay(clock, answer(429, "", Retry_After="77"))

    assert flow.wait_seconds(clock.time()) == 77


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404])
@pytest.mark.parametrize("body", ["", HTML, '{"error": "authorization_pend', "[]"])
def test_unreadable_is_no_answer_and_the_third_ends_the_login(
    clock: VirtualClock, status: int, body: str
) -> None:
    flow = replay(clock, answer(status, body), answer(status, body))
    assert flow.state is State.AWAITING_USER

    flow = replay(clock, *[answer(status, body)] * 3)
    assert (flow.state, flow.reason) == (State.FAILED, Reason.PROTOCOL)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 418])
def test_unrecognised_error_is_final_if_it_came_as_json(clock: VirtualClock, status: int) -> None:
    flow = replay(clock, answer(status, {"error": "vendor_specific"}))

    assert (flow.state, flow.reason, flow.detail) == (
        State.FAILED,
        Reason.REJECTED,
        "vendor_specific",
    )


@pytest.mark.parametrize(
    ("sent", "scope"),
    [
        ("a b", ("a", "b")),
        ("a,b", ("a", "b")),
        ("a, b", ("a", "b")),
        (" a  b ", ("a", "b")),
        ("a,", ("a",)),
        (",", None),
        (" ", None),
        ("", None),
        (["a", "b"], ("a", "b")),
        (["a", "", 7, None], ("a",)),
        ([], ()),
        ({"a": True}, None),
        (7, None),
        (None, None),
    ],
)
def test_scope_is_a_text_with_spaces_or_commas_or_a_list(
    clock: VirtualClock, sent: Any, scope: tuple[str, ...] | None
) -> None:
    flow = replay(clock, answer(200, {"access_token": "t", "scope": sent}))

    assert flow.token
    assert flow.token.scopes == scope


@pytest.mark.parametrize(
    ("sent", "life"),
    [
        (3600, 3600),
        ("3600", 3600),
        (3600.5, 3600.5),
        (0, 0),
        (-1, None),
        ("soon", None),
        (True, None),
        ([3600], None),
        (None, None),
        (1e300, 100 * 365 * 86400),
    ],
)
def test_tokens_life_is_read_liberally_and_unknown_where_it_makes_no_sense(
    clock: VirtualClock, sent: Any, life: float | None
) -> None:
    flow = replay(clock, answer(200, {"access_token": "t", "expires_in": sent}))

    assert flow.token
    assert flow.token.expires_at == (None if life is None else clock.time() + life)


@pytest.mark.parametrize(
    ("sent", "kind"),
    [("Bearer", "Bearer"), ("BEARER", "BEARER"), ("mac", "mac"), ("", "Bearer"), (7, "Bearer")],
)
def test_type_of_a_token_may_be_missing_and_in_any_case(
    clock: VirtualClock, sent: Any, kind: str
) -> None:
    flow = replay(clock, answer(200, {"access_token": "t", "token_type": sent}))

    assert flow.token
    assert flow.token.token_type == kind


@pytest.mark.parametrize(
    ("final", "state"),
    [
        (GRANTED, State.AUTHORIZED),
        (DENIED, State.FAILED),
        (EXPIRED, State.EXPIRED),
        (UNKNOWN, State.FAILED),
    ],
)
def test_after_a_final_answer_there_is_silence(
    clock: VirtualClock, final: Response, state: State
) -> None:
    transport = ScriptedTransport([answer(200, RFC_CODE), final])
    client = Client(transport=transport, clock=clock)
    flow = client.start(oauth())
    clock.advance(flow.wait_seconds)

    for _ in range(3):
        assert client.step(flow.id).state is state
        clock.advance(3600)

    assert len(transport.requests) == 2


@pytest.mark.parametrize("second", [UNKNOWN, DENIED, EXPIRED])
def test_contradiction_after_a_lost_answer_is_an_unknown_outcome(
    clock: VirtualClock, second: Response
) -> None:
    """A used code is `invalid_grant` at some servers, `access_denied` or expired at others."""
    flow = replay(clock, LOST, second)

    assert (flow.state, flow.reason) == (State.FAILED, Reason.OUTCOME_UNKNOWN)


def test_second_token_after_a_lost_answer_is_taken(clock: VirtualClock) -> None:
    flow = replay(clock, answer(200, '{"access_token": "2Yot'), GRANTED)

    assert (flow.state, flow.in_doubt) == (State.AUTHORIZED, False)


def test_unknown_code_is_believed_at_once_where_the_dialect_does_not_say_otherwise(
    clock: VirtualClock,
) -> None:
    flow = replay(clock, UNKNOWN)

    assert (flow.state, flow.reason) == (State.FAILED, Reason.REJECTED)


def test_code_that_is_found_again_may_go_missing_once_more(clock: VirtualClock) -> None:
    retry_unknown_code = Dialect(retry_unknown_code=True)
    flow = replay(clock, UNKNOWN, PENDING, UNKNOWN, GRANTED, quirks=retry_unknown_code)

    assert flow.state is State.AUTHORIZED


@pytest.mark.parametrize(
    ("missing", "other"),
    [
        ("device_code", {}),
        ("user_code", {}),
        ("verification_uri", {}),
        ("user_code", {"user_code": 12345678}),
        ("device_code", {"device_code": ""}),
    ],
)
def test_code_with_a_part_missing_is_no_code(
    clock: VirtualClock, missing: str, other: Sent
) -> None:
    sent = {name: value for name, value in RFC_CODE.items() if name != missing} | other
    client = Client(transport=ScriptedTransport([answer(200, sent)]), clock=clock)

    with pytest.raises(errors.ProtocolError, match="a part of the code is missing"):
        client.start(oauth())


@pytest.mark.parametrize("status", [200, 201])
def test_code_comes_form_encoded_as_well(clock: VirtualClock, status: int) -> None:
    sent = form(status, **{name: str(value) for name, value in RFC_CODE.items()})
    client = Client(transport=ScriptedTransport([sent]), clock=clock)

    flow = client.start(oauth())

    assert (flow.user_code, flow.interval) == ("WDJB-MJHT", 5)
    assert flow.verification_uri_complete == RFC_CODE["verification_uri_complete"]
    assert flow.expires_at == clock.time() + 1800


# AWS and its like: names in camel case can be told by data.


def test_names_of_a_servers_own_are_read_in_every_answer(clock: VirtualClock) -> None:
    camel = Dialect(
        request="json",
        request_names={"client_id": "clientId", "device_code": "deviceCode"},
        answer_names={
            "device_code": "deviceCode",
            "user_code": "userCode",
            "verification_uri": "verificationUri",
            "expires_in": "expiresIn",
            "access_token": "accessToken",
            "refresh_token": "refreshToken",
            "token_type": "tokenType",
        },
    )
    code = {
        "deviceCode": "d",
        "userCode": "u",
        "verificationUri": "https://example.com/",
        "expiresIn": 60,
        "interval": 1,
    }
    token = {"accessToken": "a", "refreshToken": "r", "tokenType": "Bearer", "expiresIn": 28800}
    transport = ScriptedTransport([answer(200, code), answer(200, token | {"region": "eu"})])
    client = Client(transport=transport, clock=clock)
    flow = client.start(oauth(quirks=camel))

    got = client.wait_for_token(flow.id)

    assert flow.expires_at == clock.time() - 1.1 + 60
    assert got.access_token.reveal() == "a"
    assert got.refresh_token is not None
    assert got.refresh_token.reveal() == "r"
    assert got.expires_at == pytest.approx(clock.time() + 28800)
    assert got.extra.as_dict() == {"region": "eu"}
    assert fields_of(transport.requests[1])["deviceCode"] == "d"
