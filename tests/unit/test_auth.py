"""The three documented functions, at the seams that existing users' tests patch.

Such tests replace `requests.post` for the first request, `requests.Session.post` for polls,
`time.sleep` and `webbrowser.open`, by responses that have a status and a `json()` and no more.
"""

from __future__ import annotations

import json
import logging
import ssl
import sys
import time
import webbrowser
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import Mock, call

import pytest
import requests
from requests.exceptions import ChunkedEncodingError, InvalidURL, ProxyError, SSLError
from urllib3.exceptions import LocationParseError, MaxRetryError, NewConnectionError
from urllib3.exceptions import SSLError as LowerSSLError

from deviceflow import DeviceFlowError, auth
from deviceflow.core.flow import Flow
from deviceflow.integrations import studio as studio_login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "https://studio.example.com"
TOKEN_URI = f"{HOST}/api/device-login/token"
ANSWER: dict[str, Any] = {
    "device_code": "random-value",
    "user_code": "MOCKCODE",
    "verification_uri": f"{HOST}/auth/device-login",
    "token_uri": TOKEN_URI,
    "token_name": "random-name",
}
PAGE = f"{HOST}/auth/device-login?code=MOCKCODE"
POLL = call(TOKEN_URI, json={"code": "random-value"}, timeout=5, allow_redirects=False)
NO_JSON: object = ...
WRONG: tuple[Any, ...] = (None, "", 5, [], {})


class Said(NamedTuple):
    """What a server says to one request."""

    status: int
    body: Any

    def response(self) -> requests.Response:
        """Return a response that has a status, and a `json()` to be asked once."""
        response = requests.Response()
        response.status_code = self.status
        says = requests.JSONDecodeError("no", "", 0) if self.body is NO_JSON else self.body
        response.__dict__["json"] = Mock(side_effect=[says])
        return response

    def __str__(self) -> str:
        return f"{self.status} {'HTML' if self.body is NO_JSON else json.dumps(self.body)}"


CODE = Said(200, ANSWER)
PENDING = Said(400, {"detail": "authorization_pending"})
EXPIRED = Said(400, {"detail": "authorization_expired"})
DENIED = Said(400, {"detail": "access_denied"})
GRANTED = Said(200, {"access_token": "isat_token"})


class Seams:
    """What users' tests patch, patched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first, self.poll, self.sleep = Mock(), Mock(), Mock()
        self.browser = Mock(return_value=True)
        monkeypatch.setattr(requests, "post", self.first)
        monkeypatch.setattr(requests.Session, "post", self.poll)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(webbrowser, "open", self.browser)
        self.starts(CODE)
        self.polls()

    def starts(self, *says: Said | BaseException) -> None:
        self.first.side_effect = list(map(_response, says))

    def polls(self, *says: Said | BaseException) -> None:
        self.poll.side_effect = list(map(_response, says))

    @property
    def slept(self) -> list[float]:
        return [one.args[0] for one in self.sleep.call_args_list]


def _response(says: Said | BaseException) -> requests.Response | BaseException:
    return says.response() if isinstance(says, Said) else says


class Log:
    """What the library has logged, at any level."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "deviceflow")
        self._caplog = caplog

    def events(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        found = [r for r in self._caplog.records if r.name == "deviceflow" and r.msg == "%s %s"]
        found = [r for r in found if isinstance(r.args, tuple) and r.args[0] == name]
        return [(record.levelno, record.__dict__["deviceflow"]) for record in found]

    @property
    def transitions(self) -> list[dict[str, Any]]:
        return [event for _, event in self.events("deviceflow.transition")]

    @property
    def actions(self) -> list[str]:
        return [event["action"] for event in self.transitions]

    @property
    def flows(self) -> set[str]:
        return {event["flow_id"] for event in self.transitions}


class Clocks:
    """Both clocks, standing still until they are told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.steady = 1_800_000_000.0, 1000.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.steady)

    def advance(self, seconds: float, *, set_back: float = 0.0) -> None:
        self.wall += seconds - set_back
        self.steady += seconds


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    return Seams(monkeypatch)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Let no login of one test be gone on with by the next."""
    yield
    for flow_id in list(studio_login._STORE._entries[Flow]):
        studio_login._forget(flow_id)


def kept() -> tuple[int, int]:
    """Return how many flows the process keeps, and how many codes it would know again."""
    return len(studio_login._STORE), len(studio_login._flow_of_code)


def start(**given: Any) -> auth.DeviceLoginResponse:
    return auth.start_device_login(**{"client_name": "dvc", "base_url": HOST} | given)


def check(**given: Any) -> str | None:
    given = {"uri": TOKEN_URI, "device_code": "random-value"} | given
    return auth.check_token_authentication(**given)


def get(**given: Any) -> tuple[str, str]:
    return auth.get_access_token(**{"hostname": HOST} | given)


NOT_SENT = [
    requests.ConnectionError(
        MaxRetryError(Mock(), "/", NewConnectionError(Mock(host="h"), "refused"))
    ),
    requests.ConnectTimeout("connecting"),
    ProxyError("proxy"),
    SSLError(MaxRetryError(Mock(), "/", LowerSSLError(ssl.SSLCertVerificationError("who?")))),
]
LOST = [
    requests.ConnectionError("reset"),
    requests.ReadTimeout("reading"),
    ChunkedEncodingError("cut"),
    SSLError(MaxRetryError(Mock(), "/", LowerSSLError(ssl.SSLEOFError("gone")))),
]
TROUBLE = [*NOT_SENT, *LOST]


def kind(trouble: BaseException) -> str:
    return type(trouble).__name__


class TestStart:
    @pytest.mark.parametrize(
        ("given", "body"),
        [
            ({}, {}),
            ({"token_name": None, "scopes": None}, {}),
            ({"token_name": "", "scopes": [], "team_names": []}, {}),
            ({"token_name": "ci"}, {"token_name": "ci"}),
            ({"scopes": ["EXPERIMENTS"]}, {"scopes": ["EXPERIMENTS"]}),
            ({"scopes": ("models", "DataSets")}, {"scopes": ["models", "DataSets"]}),
            ({"team_names": ["a", "b"]}, {"team_names": ["a", "b"]}),
            ({"all_teams": True}, {"all_teams": True}),
            ({"all_teams": False, "team_names": ["a"]}, {"all_teams": False, "team_names": ["a"]}),
            ({"expires_in_days": 0}, {"expires_in_days": 0}),
            ({"expires_in_days": 30}, {"expires_in_days": 30}),
            ({"never_expires": False}, {"never_expires": False}),
            ({"never_expires": True}, {"never_expires": True}),
        ],
    )
    def test_sends_what_is_given_and_nothing_else(
        self, seams: Seams, given: dict[str, Any], body: dict[str, Any]
    ) -> None:
        start(**given)

        assert seams.first.call_args_list == [
            call(
                url=f"{HOST}/api/device-login",
                json={"client_name": "dvc"} | body,
                headers={"Content-type": "application/json"},
                timeout=5,
            )
        ]

    @pytest.mark.parametrize(
        ("base_url", "url"),
        [
            (None, "https://studio.datachain.ai/api/device-login"),
            ("", "https://studio.datachain.ai/api/device-login"),
            ("https://example.com/", "https://example.com/api/device-login"),
            ("https://example.com:8443", "https://example.com:8443/api/device-login"),
            ("https://example.com/studio/", "https://example.com/studio/api/device-login"),
            ("https://example.com/?from=docs#top", "https://example.com/api/device-login"),
        ],
    )
    def test_asks_at_the_base_url(self, seams: Seams, base_url: str | None, url: str) -> None:
        start(base_url=base_url)

        assert seams.first.call_args.kwargs["url"] == url

    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"expires_in": 1500},
            {"expires_in": "soon", "interval": None, "token_name": None, "new": [1, {}]},
            {"token_uri": "https://elsewhere.example.com/token"},
            {"verification_uri": "http://example.com/verify"},
            {"verification_uri": "http://[no address"},
        ],
        ids=str,
    )
    def test_returns_the_answer_unchanged(self, seams: Seams, more: dict[str, Any]) -> None:
        seams.starts(Said(200, ANSWER | more))

        assert start() == ANSWER | more

    @pytest.mark.parametrize(
        ("scopes", "unknown"),
        [
            (["INVALID!"], ["INVALID!"]),
            (["experiments", "live", "Models", "x y"], ["live", "x y"]),
            ([""], [""]),
            ("experiments,live", ["live"]),
        ],
    )
    def test_refuses_unknown_scopes_by_name_before_anything_is_sent(
        self, seams: Seams, log: Log, scopes: Any, unknown: list[str]
    ) -> None:
        with pytest.raises(auth.InvalidScopesError) as caught:
            start(scopes=scopes)

        assert isinstance(caught.value, auth.StudioAuthError)
        assert isinstance(caught.value, ValueError)
        assert all(repr(scope) in str(caught.value) for scope in unknown)
        assert "'experiments'" not in str(caught.value)
        assert not seams.first.called
        assert (log.actions, kept()) == ([], (0, 0))

    @pytest.mark.parametrize("team_names", [None, []])
    def test_refuses_a_token_for_no_team(self, seams: Seams, team_names: list[str] | None) -> None:
        with pytest.raises(ValueError, match="team_names"):
            start(all_teams=False, team_names=team_names)

        assert not seams.first.called

    @pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 404, 408, 429, 500, 502, 503])
    @pytest.mark.parametrize("body", [{"detail": "because"}, {}, [], NO_JSON], ids=str)
    def test_raises_http_error_for_another_status(
        self, seams: Seams, log: Log, status: int, body: Any
    ) -> None:
        seams.starts(Said(status, body))

        with pytest.raises(requests.HTTPError, match=str(status)) as caught:
            start()

        assert caught.value.response.status_code == status
        assert ("because" in str(caught.value)) == (body == {"detail": "because"})
        assert seams.first.call_count == 1
        assert log.transitions[-1]["to"] == "failed"
        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        "trouble", [*TROUBLE, requests.TooManyRedirects("30"), InvalidURL("bad")], ids=kind
    )
    def test_raises_what_requests_raised_where_no_answer_came(
        self, seams: Seams, trouble: requests.RequestException
    ) -> None:
        seams.starts(trouble)

        with pytest.raises(type(trouble)) as caught:
            start()

        assert str(caught.value) == str(trouble)
        assert seams.first.call_count == 1
        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        "trouble",
        [
            OSError("no CA bundle"),
            ValueError("Invalid IPv6 URL"),
            LocationParseError("a..b"),
            requests.JSONDecodeError("made otherwise than its kin", "", 0),
        ],
        ids=kind,
    )
    def test_raises_request_exception_for_what_slips_through_requests(
        self, seams: Seams, trouble: Exception
    ) -> None:
        seams.starts(trouble)

        with pytest.raises(requests.RequestException):
            start()

        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        "body",
        [
            NO_JSON,
            None,
            [],
            "text",
            5,
            {},
            *(ANSWER | {key: wrong} for key in list(ANSWER)[:4] for wrong in WRONG),
            *({k: v for k, v in ANSWER.items() if k != key} for key in list(ANSWER)[:4]),
            ANSWER | {"device_code": "half a character: \ud800"},
            ANSWER | {"token_uri": "/api/device-login/token"},
            ANSWER | {"token_uri": "ftp://example.com/token"},
            ANSWER | {"token_uri": "https://[bad"},
            ANSWER | {"token_uri": "https://user:password@example.com/"},
        ],
        ids=lambda body: str(Said(200, body)),
    )
    def test_raises_request_exception_for_what_is_no_device_code(
        self, seams: Seams, body: Any
    ) -> None:
        seams.starts(Said(200, body))

        with pytest.raises(requests.RequestException, match="no device code") as caught:
            start()

        assert not isinstance(caught.value, requests.HTTPError)
        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        "given",
        [
            {"scopes": 5},
            {"scopes": [5]},
            {"scopes": [None]},
            {"team_names": 5},
            {"team_names": [b"a"]},
            {"client_name": ...},
            {"client_name": ["dvc"]},
            {"token_name": {"a": 1}},
            {"expires_in_days": [1]},
            {"expires_in_days": float("nan")},
            {"all_teams": ...},
            {"never_expires": ()},
            {"base_url": 5},
            {"base_url": b"https://example.com"},
            {"base_url": "studio.example.com"},
            {"base_url": "ftp://studio.example.com"},
            {"base_url": "https://"},
            {"base_url": "https://[bad"},
            {"base_url": "https://studio.example.com:port"},
            {"base_url": "https://user:password@studio.example.com"},
            {"base_url": "https://studio.example.com/a b"},
        ],
        ids=lambda given: next(f"{key}-{value!r:.30}" for key, value in given.items()),
    )
    def test_raises_value_error_for_an_argument_that_cannot_work(
        self, seams: Seams, given: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=r".") as caught:
            start(**given)

        assert "password" not in str(caught.value).replace("name or password", "")
        assert not seams.first.called
        assert kept() == (0, 0)

    @pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
    def test_interrupted_is_cancelled_and_forgotten(
        self, seams: Seams, log: Log, stop: type[BaseException]
    ) -> None:
        seams.starts(stop())

        with pytest.raises(stop):
            start()

        assert log.actions[-1] == "cancel"
        assert kept() == (0, 0)

    def test_forgets_a_login_that_nobody_asked_for_in_a_day(
        self, seams: Seams, clocks: Clocks
    ) -> None:
        seams.starts(*(Said(200, ANSWER | {"device_code": f"code-{n}"}) for n in range(3)))
        start()
        clocks.advance(23 * 3600)
        start()
        assert kept() == (2, 2)
        clocks.advance(2 * 3600)
        start()

        assert kept() == (2, 2)

    def test_does_not_forget_a_login_that_is_old_and_still_asked_for(
        self, seams: Seams, clocks: Clocks, log: Log
    ) -> None:
        for _ in range(2):
            seams.polls(Said(500, {}))
            with pytest.raises(requests.HTTPError):
                check(device_code="adopted")
            clocks.advance(23 * 3600)
        start()

        seams.polls(PENDING, GRANTED)
        assert check(device_code="adopted") == "isat_token"
        assert len(log.flows) == 2


class TestCheck:
    def test_polls_until_the_token_is_there_and_sleeps_five_seconds_per_pending_answer(
        self, seams: Seams
    ) -> None:
        seams.polls(PENDING, PENDING, GRANTED)

        assert check() == "isat_token"
        assert seams.poll.call_args_list == [POLL] * 3
        assert seams.sleep.call_args_list == [call(5)] * 2
        assert kept() == (0, 0)

    def test_does_not_sleep_where_the_first_answer_is_the_last(self, seams: Seams) -> None:
        seams.polls(GRANTED)

        assert check() == "isat_token"
        assert not seams.sleep.called

    @pytest.mark.parametrize("lifetime", [{}, {"expires_in": 1500}], ids=str)
    def test_does_not_spin_where_sleeping_takes_no_time_and_the_clocks_stand_still(
        self, seams: Seams, clocks: Clocks, lifetime: dict[str, int]
    ) -> None:
        seams.starts(Said(200, ANSWER | lifetime))
        seams.polls(*[PENDING] * 40, GRANTED)

        assert check(device_code=start()["device_code"]) == "isat_token"
        assert seams.sleep.call_args_list == [call(5)] * 40

    @pytest.mark.parametrize("detail", ["authorization_expired", "expired_token"])
    @pytest.mark.parametrize("waits", [0, 1])
    def test_returns_none_once_the_authorization_has_expired(
        self, seams: Seams, log: Log, detail: str, waits: int
    ) -> None:
        seams.polls(*[PENDING] * waits, Said(400, {"detail": detail}))

        assert check() is None
        assert seams.sleep.call_args_list == [call(5)] * waits
        assert log.transitions[-1]["to"] == "expired"
        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        "final",
        [
            Said(500, {"detail": "unexpected_error"}),
            Said(500, NO_JSON),
            Said(502, None),
            Said(503, NO_JSON),
            Said(429, {}),
            Said(401, {"detail": "who are you?"}),
            Said(403, {}),
            Said(404, NO_JSON),
            Said(400, NO_JSON),
            Said(400, []),
            Said(400, {"detail": "no such code"}),
            Said(400, {"detail": {"authorization": "pending"}}),
            Said(400, {"detail": None}),
            Said(422, {"detail": [{"loc": ["code"], "msg": "missing"}]}),
            Said(400, {"access_token": "isat_token"}),
            DENIED,
        ],
        ids=str,
    )
    @pytest.mark.parametrize("waits", [0, 2])
    def test_raises_http_error_at_once_for_another_status(
        self, seams: Seams, final: Said, waits: int
    ) -> None:
        seams.polls(*[PENDING] * waits, final)

        with pytest.raises(requests.HTTPError, match=str(final.status)) as caught:
            check()

        assert caught.value.response.status_code == final.status
        assert seams.poll.call_count == waits + 1
        assert seams.sleep.call_args_list == [call(5)] * waits

    @pytest.mark.parametrize(
        "final",
        [
            *(Said(200, body) for body in ({}, [], None, "isat_token", NO_JSON)),
            *(Said(200, {"access_token": token}) for token in (None, "", 5, ["isat"], {"a": "b"})),
            Said(200, {"token": "isat_token"}),
            Said(201, {"access_token": "isat_token"}),
            Said(204, NO_JSON),
            *(Said(status, NO_JSON) for status in (301, 302, 303, 304, 307, 308)),
            Said(302, {"access_token": "isat_token"}),
        ],
        ids=str,
    )
    def test_raises_http_error_for_a_200_or_a_redirect_that_brings_no_token(
        self, seams: Seams, final: Said
    ) -> None:
        seams.polls(final)

        with pytest.raises(requests.HTTPError, match="neither a code nor a token") as caught:
            check()

        assert caught.value.response.status_code == final.status
        assert seams.poll.call_count == 1

    def test_an_http_error_says_what_the_server_said_but_not_the_code(self, seams: Seams) -> None:
        seams.polls(Said(403, {"detail": "no: random-value is of another team", "why": "x"}))

        with pytest.raises(requests.HTTPError) as caught:
            check()

        assert "no: <secret> is of another team" in str(caught.value)
        assert caught.value.response.json() == {"detail": "no: <secret> is of another team"}
        assert caught.value.response.reason == "Forbidden"
        assert isinstance(caught.value.request, requests.PreparedRequest)
        assert (caught.value.request.url, caught.value.request.body) == (TOKEN_URI, None)

    @pytest.mark.parametrize("trouble", TROUBLE, ids=kind)
    def test_bears_trouble_three_times_in_a_row_then_raises_it(
        self, seams: Seams, trouble: requests.RequestException
    ) -> None:
        seams.polls(*[trouble] * 9)

        with pytest.raises(type(trouble)) as caught:
            check()

        assert str(caught.value) == str(trouble)
        assert seams.poll.call_args_list == [POLL] * 4
        assert seams.slept == sorted(seams.slept)
        assert seams.slept[0] >= 5

    def test_bears_trouble_again_after_an_answer(self, seams: Seams) -> None:
        lost = requests.ConnectionError("reset")
        seams.polls(lost, lost, lost, PENDING, lost, lost, lost, GRANTED)

        assert check() == "isat_token"

    @pytest.mark.parametrize(
        "unhappy",
        [[requests.ConnectionError("reset")] * 4, [Said(500, {})], [Said(302, NO_JSON)]],
        ids=["trouble", "500", "redirect"],
    )
    def test_called_again_after_an_error_goes_on_with_the_same_login(
        self, seams: Seams, log: Log, unhappy: list[Any]
    ) -> None:
        seams.polls(*unhappy)
        with pytest.raises(requests.RequestException):
            check()
        seams.polls(PENDING, GRANTED)

        assert check() == "isat_token"
        assert log.actions == [
            "issue_code",
            *["poll", "retry"] * len(unhappy),
            *["poll", "pending", "poll", "issue_token", "collect"],
        ]
        assert len(log.flows) == 1
        assert kept() == (0, 0)

    def test_called_again_keeps_the_distance_to_the_poll_before(self, seams: Seams) -> None:
        seams.polls(Said(500, {}))
        with pytest.raises(requests.HTTPError):
            check()
        seams.polls(GRANTED)
        check()

        assert sum(seams.slept) >= 5

    def test_goes_on_with_the_login_that_start_began(self, seams: Seams, log: Log) -> None:
        begun = start(scopes=["experiments"])
        seams.polls(PENDING, GRANTED)

        assert check(uri=begun["token_uri"], device_code=begun["device_code"]) == "isat_token"
        assert log.actions == ["issue_code", "poll", "pending", "poll", "issue_token", "collect"]
        assert [event["seq"] for event in log.transitions] == [1, 2, 3, 4, 5, 6]
        assert {event["client_name"] for event in log.transitions} == {"dvc"}
        assert [event["scopes"] for event in log.transitions] == [["experiments"]] * 6
        assert len(log.flows) == 1
        assert kept() == (0, 0)

    def test_adopts_a_code_of_another_process(self, seams: Seams, log: Log) -> None:
        seams.polls(PENDING, GRANTED)

        assert check() == "isat_token"
        assert log.actions == ["issue_code", "poll", "pending", "poll", "issue_token", "collect"]
        assert {event["issuer"] for event in log.transitions} == {HOST}
        assert len(log.flows) == 1

    def test_two_logins_at_once_are_two_flows(self, seams: Seams, log: Log) -> None:
        seams.starts(CODE, Said(200, ANSWER | {"device_code": "other"}))
        start()
        start()
        assert kept() == (2, 2)
        seams.polls(EXPIRED, GRANTED)

        assert (check(), check(device_code="other")) == (None, "isat_token")
        assert len(log.flows) == 2
        assert kept() == (0, 0)

    def test_polls_where_it_is_told_to_and_ends_the_login_begun_elsewhere(
        self, seams: Seams, log: Log
    ) -> None:
        begun = start()
        elsewhere = "https://proxy.example.com/token"
        seams.polls(GRANTED)

        assert check(uri=elsewhere, device_code=begun["device_code"]) == "isat_token"
        assert seams.poll.call_args.args == (elsewhere,)
        assert log.actions == [
            "issue_code",
            "cancel",
            "issue_code",
            *["poll", "issue_token", "collect"],
        ]
        assert kept() == (0, 0)

    def test_asked_again_after_the_end_asks_the_server(self, seams: Seams, log: Log) -> None:
        seams.polls(GRANTED, EXPIRED)

        assert (check(), check()) == ("isat_token", None)
        assert len(log.flows) == 2

    def test_waits_for_an_adopted_code_as_long_as_the_server_does(self, seams: Seams) -> None:
        seams.polls(*[PENDING] * 2000, GRANTED)

        assert check() == "isat_token"

    @pytest.mark.parametrize(("last", "result"), [(PENDING, None), (GRANTED, "isat_token")])
    def test_polls_once_more_after_the_code_s_lifetime(
        self, seams: Seams, clocks: Clocks, last: Said, result: str | None
    ) -> None:
        seams.starts(Said(200, ANSWER | {"expires_in": 60}))
        start()
        clocks.advance(3600)
        seams.polls(last)

        assert check() == result
        assert seams.poll.call_count == 1
        assert kept() == (0, 0)

    def test_a_wall_clock_that_is_set_back_while_sleeping_does_not_end_the_login(
        self, seams: Seams, clocks: Clocks
    ) -> None:
        seams.starts(Said(200, ANSWER | {"expires_in": 900}))
        start()
        seams.sleep.side_effect = lambda seconds: clocks.advance(seconds, set_back=3600)
        seams.polls(PENDING, PENDING, GRANTED)

        assert check() == "isat_token"

    @pytest.mark.parametrize("seconds", [0, -1])
    def test_no_time_to_sleep_is_no_sleep(self, seams: Seams, seconds: float) -> None:
        studio_login._CLOCK.sleep(seconds)

        assert not seams.sleep.called

    @pytest.mark.parametrize("where", ["sleep", "poll"])
    def test_ctrl_c_cancels_and_goes_on(self, seams: Seams, log: Log, where: str) -> None:
        seams.polls(PENDING, KeyboardInterrupt())
        if where == "sleep":
            seams.sleep.side_effect = KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            check()

        assert log.actions[-1] == "cancel"
        assert log.transitions[-1]["reason"] == "cancelled"
        assert kept() == (0, 0)

    @pytest.mark.parametrize("trouble", LOST, ids=kind)
    def test_says_that_the_outcome_is_unknown_where_an_answer_was_lost(
        self, seams: Seams, trouble: requests.RequestException
    ) -> None:
        seams.polls(trouble, EXPIRED)

        with pytest.raises(auth.StudioAuthError, match="revoke") as caught:
            check()

        assert caught.value.reason == "outcome_unknown"
        assert not isinstance(caught.value, auth.AuthorizationExpiredError)
        assert kept() == (0, 0)

    @pytest.mark.parametrize("trouble", NOT_SENT, ids=kind)
    def test_is_in_no_doubt_where_the_poll_was_never_sent(
        self, seams: Seams, trouble: requests.RequestException
    ) -> None:
        seams.polls(trouble, EXPIRED)

        assert check() is None

    @pytest.mark.parametrize("trouble", [OSError("CA"), ValueError("Location")], ids=kind)
    def test_bears_what_slips_through_requests_and_raises_it_as_request_exception(
        self, seams: Seams, trouble: Exception
    ) -> None:
        seams.polls(*[trouble] * 4)

        with pytest.raises(requests.RequestException):
            check()

        assert seams.poll.call_count == 4

    def test_a_login_that_another_thread_has_ended_is_an_error_of_ours(self, seams: Seams) -> None:
        start()
        seams.polls(PENDING)
        seams.sleep.side_effect = lambda _: studio_login._forget(
            next(iter(studio_login._STORE._entries[Flow]))
        )

        with pytest.raises(auth.StudioAuthError, match="Another call with the same code"):
            check()

    @pytest.mark.parametrize(
        "uri",
        [
            None,
            5,
            b"https://example.com/token",
            "",
            "example.com",
            "ftp://example.com/token",
            "https://",
            "https://[bad",
            "https://example.com:port/",
            "https://example.com/a b",
            "https://example.com\\@evil.example.com/",
            "https://user:password@example.com/",
        ],
    )
    def test_raises_value_error_for_what_is_no_address(self, seams: Seams, uri: Any) -> None:
        with pytest.raises(ValueError, match=r"."):
            check(uri=uri)

        assert not seams.poll.called
        assert kept() == (0, 0)

    @pytest.mark.parametrize("code", [None, 5, b"code", "", "\ud800"], ids=repr)
    def test_raises_value_error_for_what_is_no_code(self, seams: Seams, code: Any) -> None:
        with pytest.raises(ValueError, match="device_code") as caught:
            check(device_code=code)

        assert not seams.poll.called
        assert kept() == (0, 0)
        assert not isinstance(caught.value, UnicodeError)  # which would carry the code


class TestGet:
    def test_returns_the_token_s_name_and_the_token(self, seams: Seams, log: Log) -> None:
        seams.polls(PENDING, GRANTED)

        assert get(scopes="experiments", token_name="mine") == ("random-name", "isat_token")
        assert seams.first.call_args_list == [
            call(
                url=f"{HOST}/api/device-login",
                json={"client_name": "client", "token_name": "mine", "scopes": ["experiments"]},
                headers={"Content-type": "application/json"},
                timeout=5,
            )
        ]
        assert seams.poll.call_args_list == [POLL] * 2
        assert seams.sleep.call_args_list == [call(5)]
        assert log.actions == ["issue_code", "poll", "pending", "poll", "issue_token", "collect"]
        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        ("scopes", "sent"),
        [
            (None, None),
            ("", None),
            ("EXPERIMENTS", ["EXPERIMENTS"]),
            ("experiments,Models", ["experiments", "Models"]),
            ("experiments, models", ["experiments", "models"]),
        ],
    )
    def test_sends_the_scopes_that_are_named_between_commas(
        self, seams: Seams, scopes: str | None, sent: list[str] | None
    ) -> None:
        seams.polls(GRANTED)
        get(scopes=scopes)

        assert seams.first.call_args.kwargs["json"].get("scopes") == sent

    def test_sends_for_which_teams_and_how_long(self, seams: Seams) -> None:
        asked = {
            "team_names": ["a"],
            "all_teams": False,
            "expires_in_days": 7,
            "never_expires": False,
        }
        seams.polls(GRANTED)
        get(client_name="dvc", **asked)

        assert seams.first.call_args.kwargs["json"] == {"client_name": "dvc"} | asked

    @pytest.mark.parametrize(
        ("given", "opens"),
        [
            ({}, True),
            ({"open_browser": False}, False),
            ({"use_device_code": True}, False),
            ({"open_browser": True, "use_device_code": True}, False),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("message", [None, "", "Tschüss!"])
    def test_says_where_to_go_on_stdout_and_opens_it_unless_told_not_to(
        self,
        seams: Seams,
        capsys: pytest.CaptureFixture[str],
        given: dict[str, bool],
        opens: bool,
        message: str | None,
    ) -> None:
        seams.polls(PENDING, GRANTED)
        get(post_login_message=message, **given)

        lead = "Opening this page to log in" if opens else "Log in on this page"
        default = "Approve the login there, then come back: this program goes on by itself."
        said = capsys.readouterr()
        assert said.out == (
            f"{lead}. Please check that it shows the code:\n\n{PAGE}\nMOCKCODE\n\n"
            f"{message or default}\n"
        )
        assert said.err == ""
        assert seams.browser.call_args_list == [call(PAGE)] * opens

    @pytest.mark.parametrize(
        "fails", [{"return_value": False}, {"side_effect": webbrowser.Error}], ids=str
    )
    def test_says_on_stderr_that_no_browser_could_be_opened(
        self, seams: Seams, capsys: pytest.CaptureFixture[str], fails: dict[str, Any]
    ) -> None:
        seams.browser.configure_mock(**fails)
        seams.polls(GRANTED)

        assert get() == ("random-name", "isat_token")
        said = capsys.readouterr()
        assert f"\n{PAGE}\n" in said.out
        assert said.err == (
            "\nNo web browser could be opened here. Open the page above on any device.\n"
        )

    @pytest.mark.parametrize(
        ("page", "code", "opened"),
        [
            ("http://h.example/verify", "AB-CD", "http://h.example/verify?code=AB-CD"),
            ("https://h.example/v?next=a", "AB", "https://h.example/v?next=a&code=AB"),
            (
                "https://h.example/v?next=%2Fa%2Fb",
                "AB",
                "https://h.example/v?next=%2Fa%2Fb&code=AB",
            ),
            ("https://h.example/v#top", "AB", "https://h.example/v?code=AB#top"),
            ("https://h.example/v", "A&b=c d", "https://h.example/v?code=A%26b%3Dc+d"),
            ("https://h.example/v", "grün", "https://h.example/v?code=gr%C3%BCn"),
        ],
    )
    def test_adds_the_code_to_whatever_query_the_page_has(
        self, seams: Seams, page: str, code: str, opened: str
    ) -> None:
        seams.starts(Said(200, ANSWER | {"verification_uri": page, "user_code": code}))
        seams.polls(GRANTED)
        get()

        assert seams.browser.call_args_list == [call(opened)]

    @pytest.mark.parametrize(
        "page",
        [
            "javascript:alert(1)",
            "JavaScript://h.example/%0aalert(1)",
            "file:///etc/passwd",
            "data:text/html,<script>",
            "/relative",
            "http://[bad",
            "https://h.example/a b",
            "https://h.example/\x1b]0;gone\x07",
            "https://h.example\\@evil.example/",
            "--help",
        ],
    )
    def test_never_opens_what_is_no_web_address(
        self, seams: Seams, capsys: pytest.CaptureFixture[str], page: str
    ) -> None:
        seams.starts(Said(200, ANSWER | {"verification_uri": page}))
        seams.polls(GRANTED)

        assert get() == ("random-name", "isat_token")
        assert not seams.browser.called
        said = capsys.readouterr()
        assert "MOCKCODE" in said.out
        assert "No web browser could be opened" in said.err
        assert "\x1b" not in said.out + said.err

    @pytest.mark.parametrize("name", [None, 5, "", []])
    def test_the_token_is_returned_even_where_its_name_is_none(
        self, seams: Seams, name: Any
    ) -> None:
        seams.starts(Said(200, ANSWER | {"token_name": name}))
        seams.polls(GRANTED)

        assert get() == ("", "isat_token")

    def test_expiry_is_an_error_that_tells_a_person_what_to_do(
        self, seams: Seams, log: Log
    ) -> None:
        seams.polls(PENDING, EXPIRED)

        with pytest.raises(auth.AuthorizationExpiredError, match="Start the login again") as caught:
            get()

        assert isinstance(caught.value, auth.StudioAuthError)
        assert isinstance(caught.value, DeviceFlowError)
        assert caught.value.flow_id in log.flows
        assert caught.value.state == "expired"
        assert kept() == (0, 0)

    @pytest.mark.parametrize("lifetime", [{}, {"expires_in": 60}], ids=str)
    def test_gives_up_when_the_code_s_lifetime_is_over(
        self, seams: Seams, lifetime: dict[str, int]
    ) -> None:
        seams.starts(Said(200, ANSWER | lifetime))
        seams.poll.side_effect = lambda *_, **__: PENDING.response()

        begun = time.monotonic()
        with pytest.raises(auth.AuthorizationExpiredError):
            get()
        spent = sum(seams.slept) + time.monotonic() - begun

        assert spent == pytest.approx(lifetime.get("expires_in", 1800), abs=5)

    @pytest.mark.parametrize("detail", ["access_denied", "authorization_denied"])
    def test_denial_is_an_error_that_says_so(self, seams: Seams, detail: str) -> None:
        seams.polls(PENDING, Said(400, {"detail": detail}))

        with pytest.raises(auth.StudioAuthError, match="denied") as caught:
            get()

        assert not isinstance(caught.value, auth.AuthorizationExpiredError)
        assert caught.value.reason == "denied"
        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        "passing",
        [
            *(
                Said(status, body)
                for status in (500, 502, 503, 504, 429, 408)
                for body in ({}, NO_JSON)
            ),
            Said(404, NO_JSON),
            Said(200, NO_JSON),
            Said(200, {}),
            Said(302, NO_JSON),
            Said(400, {"error": "slow_down"}),
            *TROUBLE,
            OSError("CA"),
            ValueError("Location"),
        ],
        ids=lambda passing: str(passing) if isinstance(passing, Said) else kind(passing),
    )
    def test_waits_through_what_passes(self, seams: Seams, passing: Said | Exception) -> None:
        seams.polls(PENDING, passing, passing, PENDING, GRANTED)

        assert get() == ("random-name", "isat_token")
        assert min(seams.slept) >= 5

    @pytest.mark.parametrize("passing", [Said(503, NO_JSON), LOST[0]], ids=["503", "lost"])
    def test_waits_through_trouble_for_as_long_as_the_code_lives(
        self, seams: Seams, passing: Any
    ) -> None:
        seams.polls(*[passing] * 20, GRANTED)

        assert get() == ("random-name", "isat_token")

    @pytest.mark.parametrize(
        ("refusal", "said"),
        [
            (Said(400, {"detail": "random-value is unknown"}), "<secret> is unknown"),
            (Said(401, {}), "Unauthorized"),
            (Said(403, {"detail": ["not", "you"]}), "Forbidden"),
        ],
    )
    def test_raises_http_error_where_studio_refuses_for_good(
        self, seams: Seams, refusal: Said, said: str
    ) -> None:
        seams.polls(PENDING, refusal)

        with pytest.raises(requests.HTTPError, match=said) as caught:
            get()

        assert caught.value.response.status_code == refusal.status
        assert seams.poll.call_count == 2
        assert kept() == (0, 0)

    def test_three_unreadable_answers_in_a_row_are_an_error_that_says_so(
        self, seams: Seams
    ) -> None:
        seams.polls(*[Said(404, NO_JSON)] * 3)

        with pytest.raises(auth.StudioAuthError, match="do not conform to the protocol") as caught:
            get()

        assert caught.value.reason == "protocol"
        assert kept() == (0, 0)

    @pytest.mark.parametrize("where", ["first", "browser", "poll", "sleep"])
    def test_ctrl_c_cancels_and_goes_on(self, seams: Seams, log: Log, where: str) -> None:
        seams.poll.side_effect = [PENDING.response()]
        getattr(seams, where).side_effect = KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            get()

        assert log.actions[-1] == "cancel"
        assert log.transitions[-1]["reason"] == "cancelled"
        assert kept() == (0, 0)

    def test_nothing_is_kept_of_a_login_that_could_not_be_shown(
        self, seams: Seams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdout", Mock(write=Mock(side_effect=BrokenPipeError)))

        with pytest.raises(BrokenPipeError):
            get()

        assert not seams.poll.called
        assert kept() == (0, 0)

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"scopes": "experiments,nonsense"}, auth.InvalidScopesError),
            ({"all_teams": False}, ValueError),
            ({"hostname": "studio.example.com"}, ValueError),
            ({"hostname": 5}, ValueError),
            ({"scopes": 5}, ValueError),
        ],
        ids=str,
    )
    def test_refuses_what_cannot_work_before_anything_is_sent_or_said(
        self,
        seams: Seams,
        capsys: pytest.CaptureFixture[str],
        given: dict[str, Any],
        error: type[Exception],
    ) -> None:
        with pytest.raises(error):
            get(**given)

        assert not seams.first.called
        assert capsys.readouterr() == ("", "")


class TestPlainHttp:
    @pytest.mark.parametrize(
        ("host", "warns"),
        [
            ("http://10.0.0.5:3000", True),
            ("http://studio.internal", True),
            ("http://localhost:8000", False),
            ("http://127.0.0.1:8000", False),
            ("http://[::1]:8000", False),
            ("https://studio.example.com", False),
        ],
    )
    @pytest.mark.parametrize("function", ["start", "check", "get"])
    def test_is_allowed_with_a_warning_where_it_leaves_this_machine(
        self, seams: Seams, log: Log, host: str, warns: bool, function: str
    ) -> None:
        uri = f"{host}/token"
        seams.starts(Said(200, ANSWER | {"token_uri": uri}))
        seams.polls(GRANTED)
        calls: dict[str, Callable[[], object]] = {
            "start": lambda: start(base_url=host),
            "check": lambda: check(uri=uri),
            "get": lambda: get(hostname=host),
        }
        calls[function]()

        warnings = log.events("deviceflow.plain_http")
        assert bool(warnings) == warns
        assert all(level == logging.WARNING for level, _ in warnings)
        assert {event["url"] for _, event in warnings} <= {host, uri}
        assert {event["flow_id"] for _, event in warnings} <= log.flows

    def test_is_warned_of_where_only_the_token_would_cross_in_clear(
        self, seams: Seams, log: Log
    ) -> None:
        seams.starts(Said(200, ANSWER | {"token_uri": "http://10.0.0.5/token"}))
        start()

        (warning,) = log.events("deviceflow.plain_http")
        assert warning[1]["url"] == "http://10.0.0.5"


STATUSES = (
    *(0, 100, 200, 201, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 405, 408, 409, 410),
    *(418, 421, 422, 425, 428, 429, 451, 499, 500, 501, 502, 503, 504, 520, 599, 999),
)
BODIES: tuple[Any, ...] = (
    NO_JSON,
    None,
    [],
    [[]],
    "authorization_pending",
    5,
    True,
    {},
    {"detail": None},
    {"detail": ""},
    {"detail": 5},
    {"detail": []},
    {"detail": {"error": "authorization_pending"}},
    {"detail": "\x1b[31m\u202e\x00"},
    {"detail": "\ud800"},
    {"detail": "x" * 100_000},
    {"error": {}},
    {"error": "server_error"},
    {"access_token": None},
    {"access_token": "\ud800"},
    {"access_token": {"detail": "authorization_pending"}},
)


class TestWhatComesOut:
    @pytest.mark.parametrize("function", [start, check, get])
    @pytest.mark.parametrize("status", STATUSES)
    def test_whatever_a_server_says_only_the_documented_errors_come_out(
        self, seams: Seams, status: int, function: Callable[[], object]
    ) -> None:
        for body in BODIES:
            says = Said(status, body)
            seams.starts(says if function is start else Said(200, ANSWER | {"expires_in": 60}))
            seams.polls(*[says] * 20)

            with pytest.raises((auth.StudioAuthError, requests.RequestException)) as caught:
                function()

            assert "\x1b" not in str(caught.value), says
            assert len(str(caught.value)) < 1000, says
            assert kept() == (0, 0) or function is check, says

    def test_errors_hang_together_with_nothing_else(self, seams: Seams) -> None:
        seams.polls(requests.ConnectionError("reset"), EXPIRED)

        with pytest.raises(auth.StudioAuthError) as caught:
            get()

        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
