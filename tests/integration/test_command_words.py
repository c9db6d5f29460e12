"""The words of the command: a name, and where to log in; what is there when nothing is named."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
import requests

from deviceflow import Client, OAuth
from deviceflow.cli import exits
from deviceflow.server import LocalServer, Settings
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.integration.command import PROMPT, asked_of, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command, Done

SCOPES: Final = "read offline_access"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=0)) as one:
        yield one


def at(server: LocalServer) -> tuple[str, ...]:
    """Return where to log in: the server's OAuth side."""
    return ("--issuer", server.url, "--client-id", "robot", "--scopes", SCOPES)


def log_in(deviceflow: Command, server: LocalServer, *names: str) -> None:
    for name in names:
        done = deviceflow("login", name, *at(server), act=decide(server, "approve"))
        assert done.code == 0, done.err


def listed(deviceflow: Command, *options: str) -> list[tuple[str, str | None, str]]:
    """Return what `list` has: the kind, the name and the state of each."""
    lines = map(json.loads, deviceflow("list", "--json", *options).out.splitlines())
    return [(one["kind"], one["name"], one["state"]) for one in lines]


def accepts(server: LocalServer, token: str) -> bool:
    bearer = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{server.url}/oauth/resource", headers=bearer, timeout=30).ok


def code_in(done: Done) -> str:
    """Return the code that a command has shown."""
    shown = PROMPT.search(done.err)
    assert shown, done.err
    return shown[2]


# The words.


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("work studio URL", "work"),
        ("studio URL", "HOST"),
        ("--issuer URL --client-id robot", "HOST"),
        ("work --issuer URL --client-id robot", "work"),
        ("--issuer URL --client-id robot -- -v", "-v"),
        ("mine --client-id robot", "mine"),
        ("work mine --client-id robot", "work"),
        ("--profile report", "report"),
        ("work --profile report", "work"),
    ],
)
def test_login_is_kept_under_its_name(
    deviceflow: Command, server: LocalServer, words: str, name: str
) -> None:
    deviceflow.configure(f'[profiles.report]\nissuer = "{server.url}"\nclient_id = "robot"\n')
    providers = deviceflow.home / "providers.toml"
    providers.write_text(f'[mine]\ntitle = "Mine"\nissuer = "{server.url}"\n')
    given = {"DEVICEFLOW_PROVIDERS": str(providers)}
    name = name.replace("HOST", urlsplit(server.url).netloc)

    done = deviceflow(
        "login", *words.replace("URL", server.url).split(), act=decide(server, "approve"), **given
    )

    assert done.code == 0, done.err
    assert listed(deviceflow) == [("grant", name, "active")]
    token = deviceflow("token", "--", name)
    assert (token.code, token.err) == (0, "")
    assert token.out.strip()
    again = deviceflow("login", "--", name)
    assert (again.code, again.out) == (0, done.out)
    assert f"{name} is logged in already." in again.err


class Nobody:
    """An address that a client must not connect to."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.close = self._listening.close

    @property
    def was_called(self) -> bool:
        try:
            self._listening.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("login HOST", "If it is a DVC Studio: studio HOST; any other server: --issuer"),
        ("login http://HOST", "any other server: --issuer http://HOST"),
        ("login work HOST", "If it is a DVC Studio: studio HOST"),
        ("start HOST", "If it is a DVC Studio: studio HOST"),
        ("start work HOST", "If it is a DVC Studio: studio HOST"),
        ("login --once HOST --show-token", "If it is a DVC Studio: studio HOST"),
        ("login a b http://HOST", "There are too many words"),
        ("login studio http://HOST b.example", "There are too many words"),
        ("login work studio http://HOST --show-token", "add --once"),
        ("login studio http://HOST --output token.txt", "add --once"),
        ("login studio http://HOST --save keyring", "add --once"),
        ("login --once studio http://HOST", "No place for the token was given. Nothing was sent."),
        ("login --once work studio http://HOST --show-token", "With --once there is no name"),
        ("login --once work --issuer http://HOST --show-token", "With --once there is no name"),
        ("login --once --again studio http://HOST --show-token", "Omit --again."),
        ("login --issuer http://HOST", "client id is missing"),
        ("login github --issuer http://HOST --client-id x", "each name a server"),
    ],
)
def test_nothing_is_sent_before_it_is_clear_where_to_log_in(
    deviceflow: Command, line: str, says: str
) -> None:
    with closing(Nobody()) as nobody:
        done = deviceflow(*line.replace("HOST", nobody.host).split())

        assert (done.code, done.out) == (exits.USAGE, "")
        assert says.replace("HOST", nobody.host) in done.err
        assert not nobody.was_called
    assert not deviceflow.store.exists()


# One name, from a login to the next.


def test_name_alone_logs_in_again_where_it_was_logged_in(
    deviceflow: Command, server: LocalServer
) -> None:
    log_in(deviceflow, server, "work")
    first = deviceflow("token", "work").out.strip()
    ended = deviceflow("logout", "work")
    gone = deviceflow("token", "work")

    again = deviceflow("login", "work", act=decide(server, "approve"))
    second = deviceflow("token", "work").out.strip()
    replaced = deviceflow("login", "--again", "work", act=decide(server, "approve"))
    third = deviceflow("token", "work").out.strip()

    assert (ended.code, gone.code, gone.out) == (0, exits.PENDING, "")
    assert gone.err.endswith("To log in: deviceflow login work\n")
    assert (again.code, replaced.code) == (0, 0), again.err + replaced.err
    assert again.err.endswith("Logged in. For a token: deviceflow token work\n")
    assert len({first, second, third}) == 3
    assert [accepts(server, token) for token in (first, second, third)] == [False, False, True]
    assert listed(deviceflow) == [("grant", "work", "active")]


def test_name_alone_continues_the_login_that_is_open(
    deviceflow: Command, server: LocalServer
) -> None:
    started = deviceflow("start", "work", *at(server))
    codes = asked_of(server)
    shown: list[str] = []

    def person(page: str, user_code: str) -> None:
        shown.append(user_code)
        decide(server, "approve")(page, user_code)

    done = deviceflow("login", "work", act=person)

    assert (done.code, shown) == (0, [code_in(started)])
    assert asked_of(server) == codes
    assert listed(deviceflow) == [("grant", "work", "active")]


def test_each_step_takes_the_name_and_the_token_is_the_names(
    deviceflow: Command, server: LocalServer
) -> None:
    started = deviceflow("start", "work", *at(server))
    login = started.out.strip()
    stands = deviceflow("status", "work")
    early, pending = deviceflow("token", "work"), deviceflow("step", "work")
    decide(server, "approve")("", code_in(started))
    done = deviceflow("wait", "work")
    approved = deviceflow("status", "work", "--json")
    token, again = deviceflow("token", "work"), deviceflow("token", "work", "--json")

    assert started.err.endswith("\nTo wait for it: deviceflow wait work\n")
    assert (stands.code, stands.out.split()[:2]) == (exits.PENDING, [login, "awaiting-user:"])
    assert (early.code, early.out, pending.code) == (exits.PENDING, "", exits.PENDING)
    assert (done.code, done.out) == (0, f"{login} authorized\n")
    assert (approved.said["flow_id"], approved.said["state"]) == (login, "authorized")
    assert (token.code, token.err) == (0, "")
    assert accepts(server, token.out.strip())
    assert again.said["token"] == token.out.strip()
    assert (again.said["name"], again.said["login_id"]) == ("work", login)
    assert listed(deviceflow) == [("grant", "work", "active")]
    # The name keeps it: by the login's id it cannot be had once more.
    by_id = deviceflow("token", login)
    assert (by_id.code, by_id.out) == (exits.USAGE, "")
    assert deviceflow("step", "work").code == exits.USAGE
    # And no step says that a login is in progress.
    assert "No login of the name 'work' is in progress." in deviceflow("wait", "work").err


@pytest.mark.parametrize("command", ["check", "invalidate"])
def test_token_of_a_login_that_was_approved_just_now_is_the_names(
    deviceflow: Command, server: LocalServer, command: str
) -> None:
    started = deviceflow("start", "work", *at(server))
    early = deviceflow(command, "work")
    decide(server, "approve")("", code_in(started))
    deviceflow("wait", "work")

    done = deviceflow(command, "work")

    assert (early.code, early.out) == (exits.PENDING, "")
    assert early.err.endswith("To log in: deviceflow login work\n")
    assert (done.code, done.out.startswith("work: ")) == (0, True), done.err
    assert listed(deviceflow) == [("grant", "work", "active")]
    unnamed = deviceflow("start", *at(server)).out.strip()
    assert deviceflow(command, unnamed).code == exits.USAGE


def test_login_without_a_name_is_found_by_its_id(deviceflow: Command, server: LocalServer) -> None:
    started = deviceflow("start", *at(server))
    login = started.out.strip()
    decide(server, "approve")("", code_in(started))
    deviceflow("wait", login)

    waits = listed(deviceflow)
    table = deviceflow("list").out.split()
    token = deviceflow("token", login, "--acknowledge")

    assert waits == [("login", None, "authorized")]
    assert table[0] == login
    assert (token.code, accepts(server, token.out.strip())) == (0, True)
    assert listed(deviceflow) == []


def test_logout_of_a_login_in_progress_cancels_it(deviceflow: Command, server: LocalServer) -> None:
    named = deviceflow("start", "work", *at(server))
    ended = deviceflow("logout", "work")
    decide(server, "approve")("", code_in(named))  # too late
    unnamed = deviceflow("start", *at(server)).out.strip()
    only = deviceflow("logout")

    assert (ended.code, ended.out) == (0, f"{named.out.strip()} failed: cancelled\n")
    assert (only.code, only.out) == (0, f"{unnamed} failed: cancelled\n")
    assert deviceflow("wait", named.out.strip()).code == exits.FAILED
    assert deviceflow("token", "work").code == exits.USAGE
    assert listed(deviceflow) == []


def test_logout_of_an_approved_login_revokes_its_token(
    deviceflow: Command, server: LocalServer
) -> None:
    started = deviceflow("start", "work", *at(server))
    decide(server, "approve")("", code_in(started))
    deviceflow("wait", "work")

    done = deviceflow("logout", "work")

    assert (done.code, done.out.splitlines()[0]) == (0, "work revoked")
    assert "could not be revoked" not in done.err
    grants = requests.get(f"{server.url}/control/grants", timeout=30).json()["grants"]
    [grant] = [one for one in grants if one["user_code"] == code_in(started)]
    assert grant["state"] == "revoked"


# What is there, when nothing is named.

ASKS: Final = {
    "token": "The token of what?",
    "export-env --variable TOKEN": "The token of what?",
    "check": "Check the token of what?",
    "invalidate": "Invalidate the token of what?",
    "logout": "Log out of what?",
}


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("command", ASKS)
def test_nothing_is_named_and_nothing_is_there(deviceflow: Command, command: str) -> None:
    done = deviceflow(*command.split())

    assert (done.code, done.out) == (exits.USAGE, "")
    assert done.err == ("deviceflow: Nobody is logged in. To log in: deviceflow login PROVIDER\n")
    assert (deviceflow("status").code, deviceflow("list").code) == (0, 0)


@pytest.mark.parametrize("command", ASKS)
def test_nothing_is_named_and_one_is_there(
    deviceflow: Command, server: LocalServer, command: str
) -> None:
    log_in(deviceflow, server, "work", "gone")
    deviceflow("logout", "gone")

    done = deviceflow(*command.split())

    assert done.code == 0, done.err
    assert done.out
    status = deviceflow("status")
    assert status.out.startswith("work ") or command == "logout"
    assert bool(listed(deviceflow)) == (command != "logout")


@pytest.mark.parametrize("command", [*ASKS, "login"])
def test_nothing_is_named_and_several_are_there(
    deviceflow: Command, server: LocalServer, command: str
) -> None:
    log_in(deviceflow, server, "work")
    login = deviceflow("start", *at(server)).out.strip()
    deviceflow("start", "a b", *at(server))
    before = listed(deviceflow)

    done = deviceflow(*command.split())
    status = deviceflow("status")

    assert (done.code, done.out) == (exits.USAGE, "")
    question = ASKS.get(command, "Log in to what?")
    names = f"work, 'a b', {login}"
    assert done.err == f"deviceflow: {question} No name was given. Give one of: {names}\n"
    assert listed(deviceflow) == before
    first = [line.split()[0] for line in status.out.splitlines()]
    assert (status.code, first) == (0, ["a", login, "work"])  # as `list`


def test_login_names_nothing_and_one_is_there(deviceflow: Command, server: LocalServer) -> None:
    log_in(deviceflow, server, "work")
    ready = deviceflow("login")
    deviceflow("logout", "work")
    over = deviceflow("login")
    deviceflow("token", "work")  # from now on a job waits for a person
    again = deviceflow("login", act=decide(server, "approve"))

    assert (ready.code, ready.out.startswith("work active")) == (0, True)
    assert "work is logged in already." in ready.err
    assert (over.code, over.out) == (exits.USAGE, "")
    assert (again.code, again.out.startswith("work active")) == (0, True), again.err


# A header.


def test_header_is_for_curl(deviceflow: Command, server: LocalServer) -> None:
    log_in(deviceflow, server, "work")
    token = deviceflow("token", "work").out.strip()

    header = deviceflow("token", "work", "--format", "header")
    within = deviceflow("token", "--format", "header", "--json")
    saved = deviceflow("token", "--format", "header", "--output", "header.txt")

    assert (header.code, header.out, header.err) == (0, f"Authorization: Bearer {token}\n", "")
    assert within.said["token"] == f"Authorization: Bearer {token}"
    assert (saved.code, saved.out) == (0, "")
    assert (deviceflow.home / "header.txt").read_text() == header.out
    if shutil.which("curl"):
        url = f"{server.url}/oauth/resource"
        done = deviceflow.shell(
            f"deviceflow token work --format header | curl -sf -H @- {url}", "bash"
        )
        assert (done.code, token in done.err) == (0, False), done.err


def test_header_of_a_login_once(deviceflow: Command, server: LocalServer) -> None:
    form = ("--show-token", "--format", "header")
    done = deviceflow("login", "--once", *at(server), *form, act=decide(server, "approve"))

    assert (done.code, done.out.split()[:2]) == (0, ["Authorization:", "Bearer"])
    assert accepts(server, done.out.split()[2])
    assert listed(deviceflow) == []


@pytest.mark.parametrize("form", [[], ["--json"], ["--output", "header.txt"]])
def test_token_that_is_no_bearer_token_is_not_made_a_header(
    deviceflow: Command, kept: SQLiteStore, form: list[str]
) -> None:
    code = {"device_code": "d" * 20, "user_code": "WDJB-MJHT", "interval": 1, "expires_in": 600}
    code |= {"verification_uri": "https://login.example.com/device"}
    tokens = {"access_token": "TOKEN-CANARY", "token_type": "DPoP", "expires_in": 3600}
    clock = VirtualClock(time.time())
    transport = ScriptedTransport([answer(200, code), answer(200, tokens)])
    client = Client(kept, transport=transport, clock=clock)
    provider = OAuth(
        client_id="robot",
        device_authorization_endpoint="https://login.example.com/code",
        token_endpoint="https://login.example.com/token",
    )
    login = client.start(provider, name="work")
    clock.advance(login.wait_seconds)
    assert client.step(login.id).has_token

    done = deviceflow("token", "work", "--format", "header", *form)
    plain = deviceflow("token", "work", "--format", "json")

    assert done.code == exits.USAGE
    said = done.said["error"] if form == ["--json"] else done.err
    assert "A token of the type 'DPoP' is not for a header Authorization: Bearer." in said
    assert "TOKEN-CANARY" not in done.out + done.err
    assert not (deviceflow.home / "header.txt").exists()
    assert (plain.said["access_token"], plain.said["token_type"]) == ("TOKEN-CANARY", "DPoP")


# Interrupts and changes.


@pytest.mark.parametrize(
    ("words", "advised"),
    [
        (("studio", "URL"), "HOST"),
        (("a b", "studio", "URL"), "'a b'"),
        (("studio", "URL", "--store", "sqlite:///x.db"), "HOST --store sqlite:///x.db"),
        (
            ("--store", "sqlite:///x.db", "--", "-v", "studio", "URL"),
            "--store sqlite:///x.db -- -v",
        ),
    ],
)
def test_interrupted_login_names_the_command_that_continues_it(
    deviceflow: Command, server: LocalServer, words: tuple[str, ...], advised: str
) -> None:
    host = urlsplit(server.url).netloc
    given = [server.url if word == "URL" else word for word in words]
    with deviceflow.running("login", *given) as running:
        code = running.when_asked()
        running.process.send_signal(signal.SIGINT)
        done = running.end()

    line = f"deviceflow login {advised.replace('HOST', host)}"
    assert (done.code, done.out) == (exits.INTERRUPTED, "")
    assert f"The login is still open. To continue: {line}\n" in done.err
    again = deviceflow.shell(f"{line.replace('login', 'login --timeout 0', 1)}")
    assert (again.code, code_in(again)) == (exits.PENDING, code), again.err


class Held(BaseHTTPRequestHandler):
    """An authorization server that answers no poll before it is told to."""

    may_answer: threading.Event

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said: dict[str, Any] = {"access_token": "TOKEN", "token_type": "Bearer", "expires_in": 60}
        if self.path == "/code":
            said = {"device_code": "d" * 20, "user_code": "WDJB-MJHT", "interval": 0}
            said |= {"verification_uri": f"http://{self.headers['Host']}/", "expires_in": 600}
        else:
            type(self).may_answer.wait(30)
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize("words", [["login", "work"], ["login", "--once", "--show-token"]])
def test_code_is_told_before_the_first_poll(deviceflow: Command, words: list[str]) -> None:
    may_answer = threading.Event()
    handler = type("HeldHere", (Held,), {"may_answer": may_answer})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as held:
        threading.Thread(target=held.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{held.server_address[1]}"
        where = ("--device-authorization-endpoint", f"{url}/code", "--token-endpoint", f"{url}/t")
        with deviceflow.running(*words, *where, "--client-id", "r", "--json-events") as running:
            assert running.process.stdout is not None
            first = json.loads(running.process.stdout.readline())
            answered_before = may_answer.is_set()
            may_answer.set()
            done = running.end()
        held.shutdown()

    assert (first["event"], first["user_code"]) == ("code", "WDJB-MJHT")
    assert not answered_before
    assert done.code == 0, done.err
    *_, authorized, saved = [json.loads(line) for line in done.out.splitlines()]
    assert (authorized["event"], saved["event"]) == ("authorized", "saved")
    assert authorized["flow_id"] == saved["flow_id"] == first["flow_id"]
