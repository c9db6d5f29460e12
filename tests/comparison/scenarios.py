"""The twenty servers: what each answers to one token request after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

DEVICE_CODE: Final = "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS"
ACCESS_TOKEN: Final = "2YotnFZFEjr1zCsicMWpAA"
REFRESH_TOKEN: Final = "tGzv3JOkF0XXQx2IlKWIA"
SECRETS: Final = {
    "device code": DEVICE_CODE,
    "access token": ACCESS_TOKEN,
    "refresh token": REFRESH_TOKEN,
}

SLOWER: Final = 5.0
"""Seconds that a `slow_down` adds to the interval (RFC 8628 section 3.5)."""

DEFAULT_INTERVAL: Final = 5.0
"""Seconds between polls where the server names none (RFC 8628 section 3.2)."""


class Endpoints(NamedTuple):
    """Where a library is to log in, and as whom."""

    issuer: str
    device_authorization_endpoint: str
    token_endpoint: str
    client_id: str = "comparison"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes of one token request.

    Attributes:
        status: The HTTP status.
        body: The body.
        headers: Headers besides those that every answer has.
        delay: Seconds until it is sent.
        reset: The connection is reset instead: in the `handshake`, or once the request is `read`.
        cut: The connection ends in the middle of the body.
        slow_down: Whether it is one; the interval grows.
        interval: The interval that it names, where it does.
        final: Whether nothing is to be asked after it.
    """

    status: int = 400
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    reset: str | None = None
    cut: bool = False
    slow_down: bool = False
    interval: float = 0.0
    final: bool = False

    @property
    def retry_after(self) -> float:
        """Seconds that it asks to be left alone."""
        return float(dict(self.headers).get("Retry-After", 0))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One server.

    Attributes:
        name: A short name.
        title: What it does, for the table.
        answers: One after the other; the last one is given for ever.
        code: What its device authorization answer has besides the usual.
        without: What of the usual it leaves out.
    """

    name: str
    title: str
    answers: tuple[Answer, ...]
    code: tuple[tuple[str, Any], ...] = ()
    without: tuple[str, ...] = ()

    def device_answer(self, url: str) -> dict[str, Any]:
        """Return the device authorization answer (RFC 8628 section 3.2)."""
        usual = {
            "device_code": DEVICE_CODE,
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{url}/device",
            "verification_uri_complete": f"{url}/device?user_code=WDJB-MJHT",
            "expires_in": 120,
            "interval": 1,
        } | dict(self.code)
        return {name: value for name, value in usual.items() if name not in self.without}

    @property
    def interval(self) -> float:
        """Seconds between polls that it asks for at first."""
        return float(self.device_answer("").get("interval", DEFAULT_INTERVAL))

    @property
    def lifetime(self) -> float:
        """Seconds that its code lives."""
        return float(self.device_answer("")["expires_in"])


_JSON: Final = (("Content-Type", "application/json"),)
_HTML: Final = (("Content-Type", "text/html"),)


def _says(status: int, body: dict[str, Any], **more: Any) -> Answer:
    headers = _JSON + more.pop("headers", ())
    return Answer(status=status, body=json.dumps(body).encode(), headers=headers, **more)


def _page(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    page = f"<html><body><h1>{text}</h1></body></html>".encode()
    return Answer(status=status, body=page, headers=_HTML + headers)


def _error(code: str, **more: Any) -> Answer:
    return _says(more.pop("status", 400), {"error": code} | more.pop("body", {}), **more)


def _token(**differing: Any) -> Answer:
    body = {
        "access_token": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": 3600,
        "refresh_token": REFRESH_TOKEN,
        "scope": "read write",
    }
    return _says(200, body | differing, final=True)


_PENDING: Final = _error("authorization_pending")
_SLOW_DOWN: Final = _error("slow_down", slow_down=True)
_INVALID_GRANT: Final = _error("invalid_grant", final=True)
_TOKEN: Final = _token()
_AGAIN_LATER: Final = (("Retry-After", "4"),)

SCENARIOS: Final = (
    Scenario(
        name="approved",
        title="pending once, then the token",
        answers=(_PENDING, _TOKEN),
    ),
    Scenario(
        name="reset-connection",
        title="one connection is reset before the request is sent, then the token",
        answers=(_PENDING, Answer(reset="handshake"), _TOKEN),
    ),
    Scenario(
        name="lost-answer",
        title="the request is read and the code used up, but the connection is reset;"
        " then `invalid_grant`",
        answers=(_PENDING, Answer(reset="read"), _INVALID_GRANT),
    ),
    Scenario(
        name="unavailable",
        title="503, HTML, `Retry-After: 4`; then the token",
        answers=(_PENDING, _page(503, "Service Unavailable", _AGAIN_LATER), _TOKEN),
    ),
    Scenario(
        name="broken",
        title="500, HTML; then the token",
        answers=(_PENDING, _page(500, "Internal Server Error"), _TOKEN),
    ),
    Scenario(
        name="rate-limit",
        title="429, JSON without `error`, `Retry-After: 4`; then the token",
        answers=(
            _PENDING,
            _says(429, {"message": "API rate limit exceeded"}, headers=_AGAIN_LATER),
            _TOKEN,
        ),
    ),
    Scenario(
        name="slow-down-twice",
        title="`slow_down` twice, then the token",
        answers=(_SLOW_DOWN, _SLOW_DOWN, _TOKEN),
    ),
    Scenario(
        name="slow-down-interval",
        title="`slow_down` with `interval: 8`, as GitHub sends it; then the token",
        answers=(
            _error("slow_down", body={"interval": 8}, slow_down=True, interval=8.0),
            _TOKEN,
        ),
    ),
    Scenario(
        name="no-interval",
        title="no `interval` with the code (so it is 5 s)",
        answers=(_PENDING, _TOKEN),
        without=("interval",),
    ),
    Scenario(
        name="interval-text",
        title='`"interval": "2"`, a text',
        answers=(_PENDING, _TOKEN),
        code=(("interval", "2"),),
    ),
    Scenario(
        name="status-200",
        title="pending with status 200, as GitHub sends it; then the token",
        answers=(_error("authorization_pending", status=200), _TOKEN),
    ),
    Scenario(
        name="odd-status",
        title="pending with status 428, as Google sends it, then with 403; then the token",
        answers=(
            _error("authorization_pending", status=428),
            _error("authorization_pending", status=403),
            _TOKEN,
        ),
    ),
    Scenario(
        name="denied",
        title="`access_denied`, then `invalid_grant` to whoever asks again",
        answers=(_PENDING, _error("access_denied", final=True), _INVALID_GRANT),
    ),
    Scenario(
        name="expired",
        title="`expired_token`, with the device code repeated in `error_description`",
        answers=(
            _PENDING,
            _error(
                "expired_token",
                body={"error_description": f"The device code {DEVICE_CODE} has expired."},
                final=True,
            ),
        ),
    ),
    Scenario(
        name="pending-for-ever",
        title="`expires_in: 8`, but pending for ever",
        answers=(_PENDING,),
        code=(("expires_in", 8),),
    ),
    Scenario(
        name="cut",
        title="the token's answer is cut in the middle of its body; asked again, it is whole",
        answers=(_PENDING, replace(_TOKEN, cut=True, final=False), _TOKEN),
    ),
    Scenario(
        name="captive-portal",
        title="200, a sign-in page in HTML; then the token",
        answers=(_PENDING, _page(200, "Welcome to our Wi-Fi"), _TOKEN),
    ),
    Scenario(
        name="odd-token",
        title="`token_type: bEARER`, `scope` as a list",
        answers=(_PENDING, _token(token_type="bEARER", scope=["read", "write"])),
    ),
    Scenario(
        name="redirect",
        title="307 to another host, once; then the token",
        answers=(_PENDING, Answer(status=307, headers=(("Location", "elsewhere"),)), _TOKEN),
    ),
    Scenario(
        name="slow",
        title="every answer takes 2.5 s, the interval is 1 s",
        answers=tuple(replace(one, delay=2.5) for one in (_PENDING, _PENDING, _TOKEN)),
    ),
)
