"""The checks: what a server answers to one poll after the other, and what a client must make of it.

Each has a server of its own. The last answer of a script is given for ever.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICE_CODE: Final = "Gm+RhmhcxhwAzkoEqiMEg/DnyEysNkuNh=&szIySk9eS%20"
ACCESS_TOKEN: Final = "2YotnFZFEjr1zCsicMWpAA-conformance"  # noqa: S105  # nobody's
CLIENT_ID: Final = "conformance"

MARKS: Final = ("\x1b]0;owned", "\x9b31m", "\u202e")
"""Texts that must not reach a terminal: a title, a colour, a change of direction."""

DEFAULT_INTERVAL: Final = 5.0
SLOWER: Final = 5.0
SILENCE: Final = 20.0
"""Seconds for which a silent server keeps a connection open."""

Level = Literal["must", "should", "robust", "hostile"]
Expected = Literal["token", "end", "either"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes of one poll.

    Attributes:
        status: The HTTP status.
        body: The body.
        headers: Headers besides those that each answer has.
        fault: What happens instead: `refused` resets the connection before the request is read,
            `reset` after that, `cut` sends half of the body, `silent` sends nothing for a while.
        filler: So many bytes come before the body.
        slow_down: Whether the interval grows by 5 s.
        interval: The interval that the answer names.
        final: Whether the client must not poll any more.
    """

    status: int = 400
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Literal["refused", "reset", "cut", "silent"] | None = None
    filler: int = 0
    slow_down: bool = False
    interval: float = 0.0
    final: bool = False

    @property
    def retry_after(self) -> float:
        """Seconds for which the client is asked not to come again."""
        return float(self.headers.get("Retry-After", 0))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        name: A short name.
        level: `must` and `should` as the RFCs say; `robust`: networks do this, and a client that
            survives is better; `hostile`: a client must not do harm.
        title: What the server does.
        source: Where it is written.
        answers: The answers to the polls.
        code: Fields of the answer with the codes that are not the usual; None leaves one out.
        expected: Whether the client must get the token, must end without one, or may do either.
        slow: Whether the check takes long by its nature.
    """

    name: str
    level: Level
    title: str
    source: str = ""
    answers: tuple[Answer, ...]
    code: Mapping[str, Any] = field(default_factory=dict)
    expected: Expected = "token"
    slow: bool = False

    def device_answer(self, url: str) -> dict[str, Any]:
        """Return the answer with the codes (RFC 8628 section 3.2)."""
        usual: dict[str, Any] = {
            "device_code": DEVICE_CODE,
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{url}/device",
            "verification_uri_complete": f"{url}/device?user_code=WDJB-MJHT",
            "expires_in": 300,
            "interval": 1,
        }
        return {k: v for k, v in (usual | dict(self.code)).items() if v is not None}

    @property
    def interval(self) -> float:
        """Seconds between polls that the server asks for at first."""
        return float(self.device_answer("").get("interval", DEFAULT_INTERVAL))

    @property
    def lifetime(self) -> float:
        """Seconds that the code lives."""
        return float(self.device_answer("").get("expires_in", 1e9))


_JSON: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}
_HTML: Final = {"Content-Type": "text/html"}
_PAGE: Final = b"<!DOCTYPE html><html><body><h1>Welcome to our Wi-Fi</h1></body></html>"
_BUSY: Final = {"Retry-After": "3"}
_MANY: Final = 100_000


def _error(code: str, status: int = 400, **more: Any) -> Answer:
    final = code not in ("authorization_pending", "slow_down")
    interval = float(more.get("interval", 0))
    return Answer(
        status=status,
        body=json.dumps({"error": code} | more).encode(),
        headers=_JSON,
        slow_down=code == "slow_down",
        interval=interval,
        final=final,
    )


def _token(**differing: Any) -> Answer:
    body = {"access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 3600}
    sent = {name: value for name, value in (body | differing).items() if value is not None}
    return Answer(status=200, body=json.dumps(sent).encode(), headers=_JSON, final=True)


def _page(status: int, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status=status, body=_PAGE, headers=_HTML | dict(headers or {}))


_PENDING: Final = _error("authorization_pending")
_SLOW_DOWN: Final = _error("slow_down")
_INVALID: Final = _error("invalid_grant")
_TOKEN: Final = _token()
_HOSTILE_TEXT: Final = "".join(MARKS)

CHECKS: Final = (
    # What the RFCs say.
    Check(
        name="approved",
        level="must",
        title="pending, then the token",
        source="RFC 8628 3.4, 3.5",
        answers=(_PENDING, _TOKEN),
    ),
    Check(
        name="request",
        level="must",
        title="the requests have all parameters, form-encoded",
        source="RFC 8628 3.1, 3.4",
        answers=(_TOKEN,),
    ),
    Check(
        name="interval",
        level="must",
        title="`interval: 2`",
        source="RFC 8628 3.2, 3.5",
        answers=(_PENDING, _PENDING, _TOKEN),
        code={"interval": 2},
    ),
    Check(
        name="default-interval",
        level="must",
        title="no `interval`: 5 s",
        source="RFC 8628 3.2",
        answers=(_PENDING, _TOKEN),
        code={"interval": None},
    ),
    Check(
        name="slow-down",
        level="must",
        title="`slow_down`: 5 s more, for all further polls",
        source="RFC 8628 3.5",
        answers=(_SLOW_DOWN, _PENDING, _TOKEN),
    ),
    Check(
        name="denied",
        level="must",
        title="`access_denied`",
        source="RFC 8628 3.5",
        answers=(_PENDING, _error("access_denied"), _INVALID),
        expected="end",
    ),
    Check(
        name="expired",
        level="must",
        title="`expired_token`",
        source="RFC 8628 3.5",
        answers=(_PENDING, _error("expired_token"), _INVALID),
        expected="end",
    ),
    Check(
        name="refused",
        level="must",
        title="another error (`unauthorized_client`)",
        source="RFC 8628 3.5",
        answers=(_error("unauthorized_client"),),
        expected="end",
    ),
    Check(
        name="optional-fields",
        level="must",
        title="no `verification_uri_complete`; unknown fields in both answers",
        source="RFC 8628 3.2, RFC 6749 5.1",
        answers=(_PENDING, _token(unknown={"a": [1]}, expires_in=None)),
        code={"verification_uri_complete": None, "unknown": {"a": [1]}, "message": "x"},
    ),
    Check(
        name="token-type",
        level="must",
        title="`token_type: bEARER`",
        source="RFC 6749 5.1",
        answers=(_PENDING, _token(token_type="bEARER")),  # noqa: S106  # no secret
    ),
    Check(
        name="lifetime",
        level="should",
        title="`expires_in: 5`, but pending for ever",
        source="RFC 8628 3.2",
        answers=(_PENDING,),
        code={"expires_in": 5},
        expected="end",
    ),
    # What networks and well-known servers do.
    Check(
        name="silent",
        level="robust",
        title=f"no answer for {SILENCE:.0f} s: a client that gives up waits longer than usual",
        source="RFC 8628 3.5",
        answers=(Answer(fault="silent"), _TOKEN),
        slow=True,
    ),
    Check(
        name="reset-early",
        level="robust",
        title="a connection is reset before the request is read",
        answers=(_PENDING, Answer(fault="refused"), _TOKEN),
    ),
    Check(
        name="reset-late",
        level="robust",
        title="a connection is reset after the request was read",
        answers=(_PENDING, Answer(fault="reset"), _TOKEN),
    ),
    Check(
        name="lost-token",
        level="robust",
        title="the answer with the token is lost; then `invalid_grant`",
        answers=(_PENDING, Answer(fault="reset"), _INVALID),
        expected="end",
    ),
    Check(
        name="cut",
        level="robust",
        title="the answer with the token is cut in the middle",
        answers=(_PENDING, replace(_TOKEN, fault="cut", final=False), _TOKEN),
    ),
    Check(
        name="sign-in-page",
        level="robust",
        title="200, HTML of a captive portal",
        answers=(_PENDING, _page(200), _TOKEN),
    ),
    Check(
        name="broken",
        level="robust",
        title="500, HTML",
        answers=(_PENDING, _page(500), _TOKEN),
    ),
    Check(
        name="unavailable",
        level="robust",
        title="503, HTML, `Retry-After: 3`",
        source="RFC 9110 10.2.3",
        answers=(_PENDING, _page(503, _BUSY), _TOKEN),
    ),
    Check(
        name="rate-limit",
        level="robust",
        title="429, JSON without `error`, `Retry-After: 3`",
        source="RFC 6585 4",
        answers=(
            _PENDING,
            Answer(status=429, body=b'{"message": "slow"}', headers=_JSON | _BUSY),
            _TOKEN,
        ),
    ),
    Check(
        name="empty",
        level="robust",
        title="200, an empty body",
        answers=(_PENDING, Answer(status=200, headers=_JSON), _TOKEN),
    ),
    Check(
        name="status-200",
        level="robust",
        title="errors with status 200, as GitHub sends them",
        answers=(_error("authorization_pending", 200), _TOKEN),
    ),
    Check(
        name="status-428",
        level="robust",
        title="pending with 428, as Google sends it, then with 403",
        answers=(
            _error("authorization_pending", 428),
            _error("authorization_pending", 403),
            _TOKEN,
        ),
    ),
    Check(
        name="slow-down-interval",
        level="robust",
        title="`slow_down` with `interval: 8`, as GitHub sends it",
        answers=(_error("slow_down", interval=8), _TOKEN),
    ),
    Check(
        name="interval-text",
        level="robust",
        title='`"interval": "2"`, a string',
        answers=(_PENDING, _TOKEN),
        code={"interval": "2"},
    ),
    Check(
        name="scope-list",
        level="robust",
        title="`scope` is a list",
        answers=(_PENDING, _token(scope=["read", "write"])),
    ),
    # What a hostile server does.
    Check(
        name="redirect",
        level="hostile",
        title="307 to another host: the device code must not go there",
        answers=(_PENDING, Answer(status=307, headers={"Location": "elsewhere"}), _TOKEN),
        expected="either",
    ),
    Check(
        name="echo",
        level="hostile",
        title="the device code in `error_description`: must not be shown",
        answers=(_error("access_denied", error_description=f"Not {DEVICE_CODE}."),),
        expected="end",
    ),
    Check(
        name="escapes",
        level="hostile",
        title="terminal escapes in the user code, the link and the error",
        answers=(_error("access_denied", error_description=f"no {_HOSTILE_TEXT}"),),
        code={
            "user_code": f"WDJB{_HOSTILE_TEXT}",
            "verification_uri": f"https://login.example.com/{_HOSTILE_TEXT}",
            "verification_uri_complete": f"https://login.example.com/?{_HOSTILE_TEXT}",
        },
        expected="end",
    ),
    Check(
        name="unsafe-link",
        level="hostile",
        title="`verification_uri` is `javascript:…`: must not be opened",
        answers=(_TOKEN,),
        code={
            "verification_uri": "javascript:alert(1)",
            "verification_uri_complete": "javascript:alert(1)",
        },
        expected="either",
    ),
    Check(
        name="long",
        level="hostile",
        title="a user code of 100,000 characters",
        answers=(_TOKEN,),
        code={"user_code": "W" * _MANY},
        expected="either",
    ),
    Check(
        name="huge",
        level="hostile",
        title="an answer of 300 MB",
        answers=(replace(_PENDING, filler=300 << 20), _TOKEN),
        expected="either",
    ),
    Check(
        name="nested",
        level="hostile",
        title="JSON of 100,000 levels",
        answers=(
            Answer(
                body=b'{"error": "authorization_pending", "x": '
                + b"[" * _MANY
                + b"]" * _MANY
                + b"}",
                headers=_JSON,
            ),
            _TOKEN,
        ),
        expected="either",
    ),
    Check(
        name="duplicate-keys",
        level="hostile",
        title="`error` twice: denied, then pending",
        answers=(
            Answer(
                body=b'{"error": "access_denied", "error": "authorization_pending"}', headers=_JSON
            ),
            _TOKEN,
        ),
        expected="either",
    ),
)
