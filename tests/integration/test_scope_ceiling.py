"""A ceiling for scopes: what a login may ask for at most."""

from __future__ import annotations

import json
import threading
from argparse import ArgumentParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow.cli import options
from deviceflow.cli.target import Target
from deviceflow.credentials.profiles import settle
from deviceflow.server import LocalServer, Settings
from tests.integration.command import asked_of, decide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.command import Command, Done

PROFILE: Final = """
[profiles.work]
{whom}
scope_ceiling = "repo read:org"
"""


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as one:
        yield one


@pytest.fixture
def work(deviceflow: Command, server: LocalServer) -> Command:
    """Have a profile with a ceiling."""
    whom = f'issuer = "{server.url}"\nclient_id = "robot"'
    deviceflow.configure(PROFILE.format(whom=whom))
    return deviceflow


LOGIN: Final = ("login", "--once", "--profile", "work", "--show-token", "--json")
START: Final = ("start", "--profile", "work")
DOCTOR: Final = ("doctor", "--profile", "work")


@pytest.mark.parametrize("command", [LOGIN, START, DOCTOR], ids=lambda command: command[0])
@pytest.mark.parametrize("scope", ["admin", "repo admin:org", "REPO", "repo,read:org"])
def test_a_login_that_asks_for_more_is_refused_and_nothing_is_sent(
    work: Command, server: LocalServer, command: tuple[str, ...], scope: str
) -> None:
    done = work(*command, "--scopes", scope)

    assert done.code == 2
    assert f"does not allow {scope.rsplit(maxsplit=1)[-1]}" in done.out + done.err
    assert "repo, read:org" in done.out + done.err
    assert "profile work" in done.out + done.err
    assert asked_of(server) == 0


def test_a_login_that_leaves_it_to_the_server_is_refused(
    work: Command, server: LocalServer
) -> None:
    done = work(*START)

    assert (done.code, done.out) == (2, "")
    assert "the server would choose the scopes" in done.err
    assert asked_of(server) == 0


@pytest.mark.parametrize("scope", ["repo", "read:org repo"])
def test_a_login_within_it_goes_on(work: Command, server: LocalServer, scope: str) -> None:
    done = work(*LOGIN, "--scopes", scope, act=decide(server, "approve"))

    assert done.code == 0, done.err
    assert "ceiling" not in done.out + done.err


def test_neither_the_command_line_nor_the_environment_lifts_it(
    work: Command, server: LocalServer
) -> None:
    def start(scope: str) -> Done:
        return work(*START, "--scopes", scope, DEVICEFLOW_SCOPE_CEILING="admin repo")

    refused, lower, both = start("admin"), start("read:org"), start("repo")

    assert (refused.code, lower.code, both.code) == (2, 2, 0)
    assert "the environment (DEVICEFLOW_SCOPE_CEILING), and profile work" in lower.err
    assert asked_of(server) == 1


def test_ceilings_with_nothing_in_common_allow_nothing(work: Command) -> None:
    done = work(*START, "--scopes", "repo", DEVICEFLOW_SCOPE_CEILING="admin")

    assert done.code == 2
    assert "No scope is allowed by both scope ceilings" in done.err


def test_the_environment_alone_sets_one(
    deviceflow: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = deviceflow(
        *("start", "--issuer", server.url, "--client-id", "robot", "--scopes", "admin"),
        DEVICEFLOW_SCOPE_CEILING="repo",
    )

    assert done.code == 2
    assert asked_of(server) == 0
    monkeypatch.setenv("DEVICEFLOW_SCOPE_CEILING", "repo")
    assert settle({}, None).settings["scope_ceiling"].value == "repo"


def test_studio_takes_scopes_in_any_case(deviceflow: Command, server: LocalServer) -> None:
    deviceflow.configure(
        f'[profiles.work]\nprovider = "{server.url}"\nscope_ceiling = ["experiments"]\n'
    )

    assert deviceflow(*START, "--scopes", "EXPERIMENTS").code == 0
    assert deviceflow(*START, "--scopes", "experiments,models").code == 2
    assert asked_of(server) == 1


class Generous(BaseHTTPRequestHandler):
    """An authorization server that approves by itself, and grants more than it is asked for."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        url = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        answer: dict[str, object] = {"access_token": "the-token", "scope": "repo admin\x1b[2J"}
        if self.path == "/device":
            answer = {"device_code": "d", "user_code": "WDJB-MJHT", "verification_uri": url}
            answer |= {"interval": 1, "expires_in": 60}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def generous() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Generous) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_grants_more_is_told_of(deviceflow: Command, generous: str) -> None:
    whom = (
        f'device_authorization_endpoint = "{generous}/device"\n'
        f'token_endpoint = "{generous}/token"\nclient_id = "robot"'
    )
    deviceflow.configure(PROFILE.format(whom=whom))

    done = deviceflow(*LOGIN, "--scopes", "repo")
    kept = deviceflow("login", "--profile", "work", "--scopes", "repo")

    assert (done.code, kept.code) == (0, 0), done.err + kept.err
    assert done.said["beyond_ceiling"] == ["admin"]
    for said in (done, kept):
        assert "granted scopes above the scope ceiling: admin.\n" in said.err
    assert json.loads(deviceflow("audit", "stats", "--json").out)["practice"]["granted_more"] == 2


def test_config_show_has_it(work: Command) -> None:
    out = work("config", "show", "--profile", "work").out
    said = json.loads(work("config", "show", "--profile", "work", "--json").out)

    assert 'scope_ceiling = "repo read:org"  # profile work in' in out
    assert said["settings"]["scope_ceiling"]["value"] == "repo read:org"


@pytest.mark.parametrize("empty", ['""', "[]", "5", "[1]"])
def test_an_empty_ceiling_is_no_ceiling_that_was_meant(deviceflow: Command, empty: str) -> None:
    deviceflow.configure(f"[profiles.work]\nscope_ceiling = {empty}\n")

    done = deviceflow("config", "show", "--profile", "work")

    assert done.code == 2
    assert (
        "scope_ceiling must be a string or a list of strings, with at least one scope" in done.err
    )


@pytest.mark.parametrize(
    ("ceiling", "scopes"),
    [("repo", ("repo",)), ("repo offline_access", ("repo", "offline_access"))],
)
def test_ceiling_goes_before_what_a_refresh_token_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ceiling: str, scopes: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("DEVICEFLOW_SCOPE_CEILING", ceiling)
    parser = ArgumentParser()
    options.add_target(parser)
    given = ["zitadel", "--set", "domain=login.example.com", "--client-id", "c", "--scopes", "repo"]
    args = parser.parse_args(given, options.TargetOptions())

    provider = Target(args).provider()

    assert provider.scopes == ("repo",)
    assert provider.for_grant().scopes == scopes
