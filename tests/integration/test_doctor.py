"""The doctor: at real servers, and at scripted ones with one oddity each."""

from __future__ import annotations

import json
import re
import ssl
import threading
import tomllib
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
import trustme

from deviceflow import OAuth
from deviceflow.cli import main
from deviceflow.core.wire import Failure
from deviceflow.doctor import Check, Recorder, examine
from deviceflow.errors import UsageError
from deviceflow.providers.dialect import read_dialect
from deviceflow.server import LocalServer, Settings
from deviceflow.testing import ScriptedTransport, VirtualClock, answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.core.wire import Response
    from tests.integration.oidc_provider import OIDCProvider

SERVER: Final = "http://127.0.0.1:9"
METADATA: Final[dict[str, Any]] = {
    "issuer": SERVER,
    "device_authorization_endpoint": f"{SERVER}/device",
    "token_endpoint": f"{SERVER}/token",
    "revocation_endpoint": f"{SERVER}/revoke",
}
CODE: Final[dict[str, Any]] = {
    "device_code": "the-device-code",
    "user_code": "WDJB-MJHT",
    "verification_uri": f"{SERVER}/go",
    "verification_uri_complete": f"{SERVER}/go?user_code=WDJB-MJHT",
    "expires_in": 600,
    "interval": 5,
}
PENDING: Final = answer(400, {"error": "authorization_pending"})
TOKEN: Final = answer(200, {"access_token": "the-token", "refresh_token": "the-refresh-token"})
LEFT_BEHIND: Final = "The code WDJB-MJHT remains open"


def at(seconds: float = 0.0) -> dict[str, str]:
    """Return the header of a server whose clock is ahead of the virtual one."""
    return {"Date": formatdate(VirtualClock().time() + seconds, usegmt=True)}


class Looked:
    """What the doctor found at a scripted server."""

    def __init__(
        self,
        *script: Response | Failure,
        issuer: bool = False,
        early_poll: bool = False,
        clock: VirtualClock | None = None,
        **settings: Any,
    ) -> None:
        self.transport = ScriptedTransport(script)
        self.clock = clock or VirtualClock()
        self.checks: list[Check] = []
        recorder = Recorder(self.transport, self.clock)
        where = {"issuer": SERVER} if issuer else {k: METADATA[k] for k in _NAMES}
        provider = OAuth(**{"client_id": "robot"} | where | settings)
        for check in examine(recorder, provider, early_poll=early_poll, clock=self.clock):
            self.checks.append(check)

    def found(self, part: str) -> list[tuple[str, str, str | None]]:
        return [(f.verdict, f.message, f.quirk) for f in self.checks if f.part == part]

    def only(self, part: str, verdict: str) -> tuple[str, str | None]:
        """Return the one check of that kind: what it says, and the quirk."""
        ((said, quirk),) = [(s, q) for v, s, q in self.found(part) if v == verdict]
        return said, quirk

    @property
    def bad(self) -> list[str]:
        return [check.part for check in self.checks if check.verdict == "bad"]


_NAMES: Final = ("device_authorization_endpoint", "token_endpoint", "revocation_endpoint")


def code(**changed: Any) -> Response:
    fields = {name: value for name, value in (CODE | changed).items() if value is not None}
    return answer(200, fields, **at())


def understood(quirk: str | None) -> Any:
    """Return the entry with that line, read as a provider file is."""
    assert quirk is not None
    return read_dialect("mine", tomllib.loads(quirk))


# What is as it should be.


def test_a_server_by_the_book_is_good_in_every_part() -> None:
    looked = Looked(answer(200, METADATA), code(), PENDING, issuer=True)

    assert [(one.part, one.verdict) for one in looked.checks] == [
        ("tls", "note"),  # plain http, on this machine
        ("discovery", "good"),
        ("code", "good"),
        ("practice", "note"),  # the link has the code in it
        ("practice", "note"),  # no scope is asked for
        ("clock", "good"),
        ("poll", "good"),
        ("left behind", "note"),
    ]
    assert not any(one.quirk for one in looked.checks)


def test_it_polls_once_when_the_interval_is_over_and_says_how_long_that_was() -> None:
    looked = Looked(code(interval=7), PENDING)

    assert len(looked.transport.requests) == 2
    assert looked.clock.slept == [pytest.approx(7.1)]
    said, _ = looked.only("poll", "good")
    assert "status 400" in said
    assert "7.1 seconds after the code" in said


def test_the_code_that_stays_open_is_mentioned_and_for_how_long() -> None:
    said, _ = Looked(code(interval=10), PENDING).only("left behind", "note")

    assert said.startswith("The code WDJB-MJHT remains open at the server for another 590 seconds.")
    assert "Do not approve it" in said


# What is odd, and what takes care of it.


def test_no_interval() -> None:
    said, quirk = Looked(code(interval=None), PENDING).only("code", "note")

    assert "5 seconds are used" in said
    assert understood(quirk).interval == 5


@pytest.mark.parametrize(
    ("interval", "kind", "read"), [("7", "str", 7), (2.5, "float", 2.5), (True, "bool", 5)]
)
def test_an_interval_that_is_no_whole_number(interval: Any, kind: str, read: float) -> None:
    said, quirk = Looked(code(interval=interval), PENDING).only("code", "note")

    assert said == f"The interval is a {kind}; {read:g} seconds are used."
    assert quirk is None


def test_an_interval_of_another_name_is_looked_at_by_that_name() -> None:
    quirks = read_dialect("mine", {"answer_names": {"interval": "pause"}})

    looked = Looked(code(interval=None, pause=3), PENDING, quirks=quirks)

    assert [one.verdict for one in looked.checks if one.part == "code"] == ["good"]


def test_verification_url() -> None:
    page = {"verification_uri": None, "verification_url": f"{SERVER}/go"}

    said, quirk = Looked(code(**page), PENDING).only("code", "note")

    assert "verification_url" in said
    assert understood(quirk).answer_names == {"verification_uri": "verification_url"}


def test_no_complete_address() -> None:
    _, quirk = Looked(code(verification_uri_complete=None), PENDING).only("code", "note")

    assert understood(quirk).complete_parameter == "user_code"


SOUND: Final = {"verification_uri_complete": None}


def test_a_server_that_keeps_to_the_practice() -> None:
    assert Looked(code(**SOUND, expires_in=900), PENDING, scopes="repo").found("practice") == []


@pytest.mark.parametrize(
    ("answered", "settings", "words"),
    [
        (SOUND | {"expires_in": None}, {}, "no expires_in"),
        (SOUND | {"expires_in": 901}, {}, "valid for 901 seconds"),
        ({}, {}, "verification_uri_complete contains the code"),
        (SOUND, {"scopes": ""}, "requests no scope"),
        (SOUND, {"revocation_endpoint": None}, "No revocation_endpoint is known"),
    ],
)
def test_what_departs_from_the_practice_is_a_note_with_its_source(
    answered: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    looked = Looked(code(**answered), PENDING, **{"scopes": "repo"} | settings)

    said, quirk = looked.only("practice", "note")

    assert words in said
    assert "RFC" in said
    assert quirk is None
    assert looked.bad == []


def test_a_link_that_the_entry_makes_counts_as_well() -> None:
    quirks = read_dialect("mine", {"complete_parameter": "user_code"})

    looked = Looked(code(**SOUND), PENDING, scopes="repo", quirks=quirks)

    assert "verification_uri_complete contains the code" in looked.only("practice", "note")[0]


def test_names_of_its_own_for_what_it_answers() -> None:
    camel = {
        "deviceCode": "the-device-code",
        "userCode": "WDJB-MJHT",
        "verificationUri": f"{SERVER}/go",
        "expiresIn": 600,
    }

    looked = Looked(answer(200, camel, **at()))

    said, quirk = looked.only("code", "bad")
    assert "deviceCode" in said
    assert "the-device-code" not in said
    names = understood(quirk).answer_names
    assert names["device_code"] == "deviceCode"
    assert names["expires_in"] == "expiresIn"
    # And with that set, it goes on.
    quirks = read_dialect("mine", {"answer_names": dict(names)})
    assert Looked(answer(200, camel, **at()), PENDING, quirks=quirks).bad == []


@pytest.mark.parametrize(
    ("refusal", "words", "quirk"),
    [
        (answer(400, {"error": "unauthorized_client"}), "enable the device grant", None),
        (answer(401, {"error": "invalid_client"}), "the client id, the client secret", None),
        (answer(400, {"error": "invalid_scope"}), "not allowed to request one of the scopes", None),
        (answer(400, {"message": "no such app"}), "no such app", 'error_fields = ["message"]'),
        (answer(404, {}), "a required field is missing", None),
        (answer(415, "<html>"), "does not accept a form", 'request = "json"'),
        (answer(200, {"device_code": "d"}), "a required field is missing", None),
    ],
)
def test_a_refusal_of_the_code_is_explained_with_its_status(
    refusal: Response, words: str, quirk: str | None
) -> None:
    script = [refusal] * (3 if refusal.body == b"<html>" else 1)

    said, named = Looked(*script).only("code", "bad")

    assert f"Status {refusal.status}: " in said
    assert words in said
    assert named == quirk


def test_a_server_that_gives_no_answer() -> None:
    said, _ = Looked(*[Failure("timeout", sent=True)] * 3).only("code", "bad")

    assert said == f"No response from {SERVER}/device: timeout, 3 attempts."


def test_pending_with_another_status_is_understood() -> None:
    looked = Looked(code(), answer(403, {"error": "authorization_pending"}))

    said, quirk = looked.only("poll", "note")
    assert "403" in said
    assert quirk is None
    assert looked.bad == []


@pytest.mark.parametrize(
    ("pending", "quirk"),
    [
        (answer(403, {}), 'statuses = { "403" = "authorization_pending" }'),
        (answer(428, ""), 'statuses = { "428" = "authorization_pending" }'),
        (answer(400, {"error": "wait"}), 'errors = { "wait" = "authorization_pending" }'),
        (answer(400, {"message": "authorization_pending"}), 'error_fields = ["message"]'),
    ],
)
def test_pending_in_other_words_is_a_line_of_the_entry(pending: Response, quirk: str) -> None:
    looked = Looked(code(), pending)

    said, named = looked.only("poll", "bad")
    assert f"Status {pending.status}: " in said
    assert named == quirk
    assert LEFT_BEHIND in looked.only("left behind", "note")[0]
    # And with that set, it is right.
    assert Looked(code(), pending, quirks=understood(quirk)).bad == []


def test_an_error_that_is_final_is_not_taken_for_pending() -> None:
    looked = Looked(code(), answer(400, {"error": "invalid_grant"}))

    said, quirk = looked.only("poll", "bad")
    assert "Are both endpoints of one server?" in said
    assert quirk is None
    assert LEFT_BEHIND in looked.only("left behind", "note")[0]


def test_a_first_poll_that_is_too_fast_already() -> None:
    said, quirk = Looked(code(), answer(400, {"error": "slow_down"})).only("poll", "note")

    assert "status 400" in said
    assert understood(quirk).margin == 1


@pytest.mark.parametrize("result", [Failure("timeout", sent=True), answer(503, "<html>")])
def test_a_poll_without_a_usable_answer(result: Response | Failure) -> None:
    looked = Looked(code(), result)

    assert looked.bad == ["poll"]
    assert looked.only("poll", "bad")[1] is None
    assert LEFT_BEHIND in looked.only("left behind", "note")[0]


def test_a_code_that_is_denied_at_once_is_over() -> None:
    looked = Looked(code(), answer(400, {"error": "access_denied"}))

    assert looked.bad == ["poll"]
    assert looked.only("left behind", "note")[0] == "The code WDJB-MJHT is not valid any more."


def test_a_code_that_lives_shorter_than_the_interval() -> None:
    looked = Looked(code(expires_in=3, interval=5))

    assert "before the first poll" in looked.only("poll", "bad")[0]


# An early poll, if it is asked for.


@pytest.mark.parametrize(
    ("early", "words"),
    [
        (
            answer(400, {"error": "slow_down"}),
            "slow_down, with status 400, 0.0 seconds after the previous",
        ),
        (answer(400, {"error": "slow_down", "interval": 10}), "The new interval is 10 seconds"),
        (answer(429, ""), "slow_down, with status 429"),
        (PENDING, "tolerates early polls"),
    ],
)
def test_an_early_poll_is_answered_well(early: Response, words: str) -> None:
    looked = Looked(code(), PENDING, early, early_poll=True)

    assert words in looked.only("early poll", "good")[0]
    assert LEFT_BEHIND in looked.only("left behind", "note")[0]


def test_an_early_poll_in_other_words_is_a_line_of_the_entry() -> None:
    looked = Looked(code(), PENDING, answer(400, {"error": "calm_down"}), early_poll=True)

    _, quirk = looked.only("early poll", "note")
    assert understood(quirk).errors == {"calm_down": "slow_down"}


def test_an_early_poll_without_an_answer() -> None:
    looked = Looked(code(), PENDING, Failure("connection", sent=True), early_poll=True)

    assert "connection" in looked.only("early poll", "note")[0]


def test_every_poll_shows_who_the_client_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "secret")

    looked = Looked(
        *(code(), PENDING, PENDING),
        early_poll=True,
        client_secret="env:THE_SECRET",
        client_auth="client_secret_post",
    )

    assert [b"client_secret=secret" in one.body for one in looked.transport.requests] == [True] * 3


# What must not be left behind.


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [(200, "note", "the doctor revoked it"), (503, "bad", "revoke it at the server")],
)
def test_a_token_that_was_approved_meanwhile_is_revoked(
    early: bool, status: int, verdict: str, words: str
) -> None:
    polls = [PENDING, TOKEN] if early else [TOKEN]
    revocations = [answer(status, "")] * 2

    looked = Looked(code(), *polls, *revocations, early_poll=early)

    sent = [one.body for one in looked.transport.requests if one.purpose == "revoke"]
    assert b"token=the-refresh-token" in sent[0]
    assert b"token=the-token" in sent[1]
    said = [said for kind, said, _ in looked.found("left behind") if kind == verdict]
    assert words in said[0]
    assert not any("the-token" in check.message for check in looked.checks)


class Interrupting(VirtualClock):
    def sleep(self, seconds: float) -> None:
        raise KeyboardInterrupt


def test_interrupted_it_still_mentions_the_code() -> None:
    clock = Interrupting()
    recorder = Recorder(ScriptedTransport([code()]), clock)
    provider = OAuth(client_id="robot", **{name: METADATA[name] for name in _NAMES})
    found: list[Check] = []

    with pytest.raises(KeyboardInterrupt):
        found.extend(examine(recorder, provider, clock=clock))

    assert LEFT_BEHIND in found[-1].message


# Discovery.


def test_what_metadata_lacks_is_said_and_what_it_has() -> None:
    metadata = METADATA | {
        "revocation_endpoint": None,
        "grant_types_supported": ["authorization_code"],
        "code_challenge_methods_supported": ["plain", "S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
    }

    looked = Looked(answer(200, metadata), code(), PENDING, issuer=True)

    notes = {said: quirk for verdict, said, quirk in looked.found("discovery") if verdict == "note"}
    assert [quirk for quirk in notes.values() if quirk] == ["pkce = true"]
    assert any("does not list the device grant" in said for said in notes)
    assert any("by hand" in said for _, said, _ in looked.found("practice"))
    assert "does not list the authentication method none" in looked.only("client", "note")[0]


def test_another_way_to_authenticate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "secret")
    metadata = METADATA | {"token_endpoint_auth_methods_supported": ["client_secret_post"]}

    looked = Looked(
        answer(200, metadata), code(), PENDING, issuer=True, client_secret="env:THE_SECRET"
    )

    _, quirk = looked.only("client", "note")
    assert understood(quirk).client_auth == "client_secret_post"


def test_no_device_grant() -> None:
    metadata = {"issuer": SERVER, "token_endpoint": f"{SERVER}/token"}

    looked = Looked(*[answer(200, metadata)] * 2, issuer=True)

    said, quirk = looked.only("discovery", "bad")
    assert "does not offer the device grant" in said
    assert quirk is not None
    assert quirk.startswith("device_authorization_endpoint = ")


@pytest.mark.parametrize(
    ("issuer", "quirk"),
    [
        (f"{SERVER}/", f'issuer = "{SERVER}/"'),
        (f"{SERVER}/{{tenantid}}", "issuer_template = true"),
    ],
)
def test_another_issuer(issuer: str, quirk: str) -> None:
    looked = Looked(*[answer(200, METADATA | {"issuer": issuer})] * 2, issuer=True)

    said, named = looked.only("discovery", "bad")
    assert "another issuer" in said
    assert named == quirk


def test_discovery_that_redirects() -> None:
    target = "https://sso.example.com/.well-known/openid-configuration"

    looked = Looked(answer(302, "", Location=target), answer(404, "<html>"), issuer=True)

    redirected, missing = looked.found("discovery")
    assert "status 302" in redirected[1]
    assert understood(redirected[2]).issuer == "https://sso.example.com"
    assert "status 404" in missing[1]
    assert looked.bad == ["discovery", "discovery"]


def test_discovery_without_an_answer_or_without_sense() -> None:
    looked = Looked(Failure("connection", sent=False), answer(200, "<html>"), issuer=True)

    assert ": connection" in looked.found("discovery")[0][1]
    assert "not a JSON object" in looked.found("discovery")[1][1]


# Clocks.


@pytest.mark.parametrize(
    ("ahead", "scope", "verdict", "words"),
    [
        (29, "", "good", "agree"),
        (-29, "openid", "good", "agree"),
        (90, "openid", "note", "90 seconds ahead of"),
        (-300, "", "note", "300 seconds behind"),
        (300, "openid", "bad", "would be rejected"),
    ],
)
def test_the_servers_clock_is_compared(ahead: int, scope: str, verdict: str, words: str) -> None:
    looked = Looked(answer(200, CODE, **at(ahead)), PENDING, scopes=scope)

    assert words in looked.only("clock", verdict)[0]


def test_a_server_that_does_not_tell_the_time() -> None:
    assert "no Date header" in Looked(answer(200, CODE), PENDING).only("clock", "note")[0]


# TLS.


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        pass  # of clients that do not trust it


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def https(authority: trustme.CA) -> Iterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with Quiet(("127.0.0.1", 0), NotFound) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def look(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any]]:
    """Run the command with `--json`."""
    exit_code = main(["doctor", *args, "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    said = json.loads(out)
    assert isinstance(said, dict)
    return exit_code, said


def parts(said: dict[str, Any]) -> list[tuple[str, str]]:
    return [(check["part"], check["verdict"]) for check in said["checks"]]


def test_a_certificate_that_is_not_trusted(
    https: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)

    exit_code, said = look(capsys, "--issuer", https, "--client-id", "robot")

    assert exit_code == 5
    assert parts(said) == [("tls", "bad")]
    assert "does not trust the certificate" in said["checks"][0]["message"]
    assert "REQUESTS_CA_BUNDLE" in said["checks"][0]["message"]


def test_it_trusts_whom_requests_trusts(
    https: str,
    authority: trustme.CA,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))

    exit_code, said = look(capsys, "--issuer", https, "--client-id", "robot")

    assert exit_code == 5
    assert parts(said) == [("tls", "good"), ("discovery", "bad"), ("discovery", "bad")]
    assert "TLSv1.3" in said["checks"][0]["message"]
    assert "status 404" in said["checks"][1]["message"]


def test_a_server_behind_a_proxy_is_not_looked_at_past_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    _, said = look(capsys, "--issuer", "https://sso.example.com", "--client-id", "robot")

    assert said["checks"][0]["verdict"] == "note"
    assert "through a proxy" in said["checks"][0]["message"]


def test_a_port_that_nobody_listens_on(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, said = look(capsys, "--issuer", "https://localhost:9", "--client-id", "robot")

    assert exit_code == 5
    assert parts(said) == [("tls", "bad")]


# Real servers, by the command.


@pytest.fixture(scope="module")
def quick() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as server:
        yield server


def test_the_local_server_is_well(quick: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = main(["doctor", "--issuer", quick.url, "--client-id", "robot", "--early-poll"])

    out, err = capsys.readouterr()
    log = requests.get(f"{quick.url}/control/log", timeout=60).json()["logins"][-1]
    assert (exit_code, err) == (0, "")
    assert [one["answer"] for one in log["requests"]] == ["authorization_pending", "slow_down"]
    assert re.search(r"✓ poll: Pending, with status 400, \d+\.\d seconds after the code", out)
    assert "✓ early poll: slow_down, with status 400" in out
    assert f"• left behind: The code {log['user_code']} remains open" in out
    assert out.splitlines()[-1] == "A login would work."


def test_the_real_server_is_well(
    oidc_provider: OIDCProvider,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'[real]\nissuer = "{oidc_provider.issuer}"\ninterval = 1\n')
    monkeypatch.setenv("DEVICEFLOW_PROVIDERS", str(file))
    monkeypatch.setenv("THE_SECRET", oidc_provider.secret)

    exit_code, said = look(
        capsys,
        *("real", "--client-id", "basic", "--client-secret", "env:THE_SECRET"),
        *("--scopes", "openid", "--early-poll"),
    )

    assert exit_code == 0
    assert said["healthy"] is True
    assert (said["provider"], said["server"]) == ("real", oidc_provider.issuer)
    assert {part for part, verdict in parts(said) if verdict == "good"} == {
        "discovery",
        "code",
        "clock",
        "poll",
        "early poll",
    }
    assert parts(said)[-1] == ("left behind", "note")
    assert oidc_provider.secret not in json.dumps(said)


def test_a_client_that_the_real_server_refuses_is_a_login_that_would_fail(
    oidc_provider: OIDCProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code = main(["doctor", "--issuer", oidc_provider.issuer, "--client-id", "nobody"])

    out, _ = capsys.readouterr()
    assert exit_code == 5
    assert "✗ code: The server issued no code. Status 401: invalid_client: the client id" in out
    assert out.splitlines()[-1] == "A login would fail."


def test_what_takes_care_of_an_oddity_is_printed_below_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ScriptedTransport([code(interval=None), PENDING])
    monkeypatch.setattr("deviceflow.cli.commands.doctor.RequestsTransport", lambda: transport)
    monkeypatch.setattr("deviceflow.cli.commands.doctor.default_clock", VirtualClock)
    names = {f"--{name.replace('_', '-')}": METADATA[name] for name in _NAMES}

    main(["doctor", "--client-id", "robot", *[text for pair in names.items() for text in pair]])

    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("• code: The response has no interval: 5 seconds are used.") + 1] == (
        "    in a provider entry: interval = 5"
    )


@pytest.mark.parametrize(
    "args",
    [
        ["github"],
        ["nobody-knows", "--client-id", "x"],
        ["studio.example.com"],
        ["trakt", "--client-id", "x", "--client-secret", "env:NOT_THERE"],
    ],
)
def test_what_cannot_be_looked_at_is_wrong_usage(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *args, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("deviceflow: ")


def test_a_secret_that_is_gone_by_the_first_poll_leaves_no_code_unmentioned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THE_SECRET", "secret")
    quirks = read_dialect("mine", {"secret_with": "token"})
    provider = OAuth(
        client_id="robot",
        client_secret="env:THE_SECRET",
        quirks=quirks,
        **{name: METADATA[name] for name in _NAMES},
    )
    clock = VirtualClock()
    recorder = Recorder(ScriptedTransport([code()]), clock)
    found: list[Check] = []

    monkeypatch.delenv("THE_SECRET")
    with pytest.raises(UsageError, match="env:THE_SECRET"):
        found.extend(examine(recorder, provider, clock=clock))

    assert LEFT_BEHIND in found[-1].message


@pytest.mark.parametrize("name", ["error", "message", "the-device-code"])
@pytest.mark.parametrize(
    "said", ["the-device-code", "bad the%2Ddevice%2Dcode", b"the-device-code".hex()]
)
def test_device_code_that_a_server_echoes_is_not_said(name: str, said: str) -> None:
    looked = Looked(code(), answer(400, {name: said}))

    shown = repr(looked.checks)
    assert not [spelled for spelled in ("the-device-code", said) if spelled in shown]
