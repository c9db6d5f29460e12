"""Nothing that a server, a row, or a file says steers the terminal that a command prints it on."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, OAuth, Studio
from tests.integration.command import answered
from tests.stored import flows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.provider import Provider
    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command, Done

HOSTILE: Final = "\x1b]0;owned\x07\x1b[2JA\u202eB\r\nforged line\x9b31mD\x08"

LOOKS: Final = (
    ["list", "--all"],
    ["status"],
    ["sweep"],
    ["purge", "--tokens-after=0s", "--flows-after=0s"],
    ["audit", "list"],
    ["audit", "show", "--all"],
    ["audit", "show", "store"],
    ["audit", "stats"],
    ["audit", "verify"],
    ["audit", "export"],
    ["audit", "export", "--format", "csv"],
    ["audit", "export", "--format", "ecs"],
)


def steers(done: Done) -> list[str]:
    """Return the lines that would do more than be read."""
    lines = (done.out + done.err).split("\n")
    return [line for line in lines if not line.isprintable() or line.startswith("forged")]


@pytest.fixture
def hostile(kept: SQLiteStore) -> SQLiteStore:
    """Return a store with logins in which everything that may be any text is hostile."""
    client = Client(kept)
    oauth = OAuth(
        client_id=f"id {HOSTILE}",
        device_authorization_endpoint="https://as.example.com/code",
        token_endpoint="https://as.example.com/token",
        scopes=[f"scope {HOSTILE}"],
        parameters={"what": HOSTILE},
    )
    providers: tuple[Provider, ...] = (oauth, Studio("https://s.example.com"))
    for number, provider in enumerate(providers):
        flow = client.create(provider, name=f"key {number} {HOSTILE}")
        client.cancel(flow.id, f"reason {HOSTILE}")
    studio = Studio("https://s.example.com").with_request(client_name=HOSTILE, token_name=HOSTILE)
    client.create(studio)
    answered(
        kept,
        {"user_code": HOSTILE, "verification_uri": HOSTILE, "token_name": HOSTILE},
        {"detail": f"no {HOSTILE}"},
    )
    answered(kept, {"user_code": f"A{HOSTILE}", "verification_uri": HOSTILE})
    return kept


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_logins_with_hostile_texts_steer_no_terminal(
    deviceflow: Command, hostile: SQLiteStore, command: list[str]
) -> None:
    done = deviceflow(*command)

    assert done.out + done.err
    assert steers(done) == []


TEXTS: Final = ("id", "state", "lease_owner", "previous_owner", "name")


def tamper(deviceflow: Command, column: str) -> None:
    """Put hostile texts into each row, as whoever can write to the file may."""
    with closing(sqlite3.connect(deviceflow.store)) as db, db:
        if column in TEXTS:
            rows = db.execute("SELECT rowid FROM flows").fetchall()
            for (row,) in rows:
                db.execute(
                    f"UPDATE flows SET {column} = ? WHERE rowid = ?", (f"{row}{HOSTILE}", row)
                )
        elif column == "audit":
            for name in ("detail", "worker", "client_id", "reason", "to", "host"):
                db.execute(f"UPDATE audit SET text = json_set(text, '$.{name}', ?)", (HOSTILE,))
            db.execute("UPDATE audit SET flow_id = flow_id || ?", (HOSTILE,))
        else:
            for row, text in db.execute(f"SELECT rowid, {column} FROM flows").fetchall():
                changed = json.dumps(_hostile(json.loads(text)))
                db.execute(f"UPDATE flows SET {column} = ? WHERE rowid = ?", (changed, row))


def _hostile(record: dict[str, Any]) -> dict[str, Any]:
    free = ("detail", "user_code", "client_id", "client_name", "id", "dialect", "name")
    return {
        name: HOSTILE if name in free else _hostile(value) if isinstance(value, dict) else value
        for name, value in record.items()
    }


@pytest.mark.parametrize("column", [*TEXTS, "record", "provider", "audit"])
def test_rows_that_were_tampered_with_steer_no_terminal(
    deviceflow: Command, hostile: SQLiteStore, column: str
) -> None:
    (flow, *_) = flows(hostile, skip_ended=True)
    tamper(deviceflow, column)

    of_one = [["step", flow.id], ["wait", flow.id, "--timeout", "0"], ["cancel", flow.id]]
    looks = LOOKS[4:] if column == "audit" else [*LOOKS[:4], *of_one]
    said = {" ".join(command): deviceflow(*command) for command in looks}

    assert {name: steers(done) for name, done in said.items() if steers(done)} == {}


def test_names_of_logins_that_are_not_there_steer_no_terminal(
    deviceflow: Command, hostile: SQLiteStore
) -> None:
    for command in ("status", "step", "cancel", "token", "resume"):
        assert steers(deviceflow(command, HOSTILE, *["--show-token"] * (command == "resume"))) == []
    assert steers(deviceflow("audit", "show", HOSTILE)) == []
    assert steers(deviceflow("list", "--store", f"sqlite:///{HOSTILE}")) == []


# Files.

TOML: Final = json.dumps(HOSTILE).replace("\\u009b", "\u009b").replace("\\u202e", "\u202e")


@pytest.mark.parametrize(
    "command",
    [
        ["config", "show"],
        ["config", "show", "--profile", "work"],
        ["login", "--once", "--profile", "work", "--show-token"],
        ["login", "--once", "--profile", "other", "--show-token"],
        ["doctor", "--profile", "work"],
    ],
    ids=" ".join,
)
def test_configuration_steers_no_terminal(deviceflow: Command, command: list[str]) -> None:
    deviceflow.configure(
        f"[profiles.work]\nclient_id = {TOML}\nissuer = {TOML}\nscopes = {TOML}\n"
        f'[profiles.{TOML}]\nclient_id = "x"\n'
        f'[profiles.other]\n{TOML} = "x"\n'
    )

    assert steers(deviceflow(*command)) == []


@pytest.mark.parametrize(
    "command",
    [
        ["providers", "list"],
        ["providers", "show", "mine"],
        ["providers", "check", "mine.toml"],
        ["providers", "check", "broken.toml"],
        ["login", "--once", "mine", "--client-id", "c", "--show-token"],
        ["login", "--once", "unknown", "--client-id", "c", "--show-token"],
    ],
    ids=" ".join,
)
def test_provider_file_steers_no_terminal(deviceflow: Command, command: list[str]) -> None:
    (deviceflow.home / "mine.toml").write_text(
        f'[mine]\ntitle = {TOML}\nrequires = [{TOML}]\nerrors = {{ {TOML} = "slow_down" }}\n'
        f'device_authorization_endpoint = "https://a.example"\ntoken_endpoint = "https://a.example"'
    )
    (deviceflow.home / "broken.toml").write_text(f'[mine]\n{TOML} = "x"\n')
    # Read anew each time, as a file of one's own.
    done = deviceflow(*command, DEVICEFLOW_PROVIDERS=str(deviceflow.home / "mine.toml"))

    assert steers(done) == []


# Servers.


class Answers(BaseHTTPRequestHandler):
    """Says what the test wants to each request."""

    said: Callable[[str, str], tuple[int, dict[str, Any]]]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, fields = type(self).said(f"http://{self.headers['Host']}", self.path)
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, str], tuple[int, dict[str, Any]]]], str]]:
    """Give what starts a server that says what a function of its address and the path returns."""
    running: list[ThreadingHTTPServer] = []

    def start(said: Callable[[str, str], tuple[int, dict[str, Any]]]) -> str:
        handler = type("Said", (Answers,), {"said": staticmethod(said)})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        running.append(server)
        threading.Thread(target=server.serve_forever).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def at(url: str) -> list[str]:
    """Return the arguments that name the endpoints of a server."""
    return [
        "--client-id=robot",
        f"--device-authorization-endpoint={url}/code",
        f"--token-endpoint={url}/token",
    ]


@pytest.mark.parametrize("command", [["login", "--once", "--show-token"], ["start"], ["doctor"]])
@pytest.mark.parametrize("name", ["user_code", "verification_uri", "error", "error_at_token"])
def test_what_a_server_says_steers_no_terminal(
    deviceflow: Command, serve: Any, command: list[str], name: str
) -> None:
    def said(url: str, path: str) -> tuple[int, dict[str, Any]]:
        if name == "error":
            return 400, {"error": HOSTILE, HOSTILE: HOSTILE}
        if path == "/token":
            return 400, {"error": HOSTILE if name == "error_at_token" else "access_denied"}
        code = {"device_code": "d" * 20, "user_code": "u", "verification_uri": url, "interval": 1}
        return 200, code | {name: HOSTILE}

    done = deviceflow(*command[:1], *at(serve(said)), *command[1:])

    assert done.out + done.err
    assert steers(done) == []


@pytest.mark.parametrize("name", ["issuer", "token_endpoint", "authorization"])
def test_metadata_steers_no_terminal(deviceflow: Command, serve: Any, name: str) -> None:
    def said(url: str, path: str) -> tuple[int, dict[str, Any]]:
        found = {
            "issuer": url,
            "device_authorization_endpoint": f"{url}/code",
            "token_endpoint": f"{url}/token",
        }
        return 200, found | {name: HOSTILE, HOSTILE: HOSTILE}

    url = serve(said)

    for command in ("login", "doctor"):
        more = ["--show-token"] if command == "login" else []
        assert steers(deviceflow(command, "--issuer", url, "--client-id=c", *more)) == []


# Links that are too long.


def asked_with(deviceflow: Command, serve: Any, complete: str) -> Done:
    def said(url: str, path: str) -> tuple[int, dict[str, Any]]:
        if path == "/token":
            return 400, {"error": "access_denied"}
        code = {"device_code": "d" * 20, "user_code": "WDJB", "verification_uri": url}
        return 200, code | {"interval": 1, "verification_uri_complete": url + complete}

    done = deviceflow("login", "--once", *at(serve(said)), "--show-token", "--no-browser", "--qr")
    assert "Traceback" not in done.err
    return done


def test_link_that_is_too_long_is_an_error_that_says_so(deviceflow: Command, serve: Any) -> None:
    done = asked_with(deviceflow, serve, "/" + "x" * 3000)

    assert done.code == 5
    assert "verification_uri_complete is too long" in done.err


def test_link_that_no_qr_code_can_hold_is_shown_without_one(
    deviceflow: Command, serve: Any
) -> None:
    done = asked_with(deviceflow, serve, "/" + "ю" * 1900)

    assert done.code == 4
    assert "ю" * 1900 in done.err
    assert "too long for a QR code" in done.err


def test_link_that_is_not_too_long_is_a_qr_code(deviceflow: Command, serve: Any) -> None:
    done = asked_with(deviceflow, serve, "/" + "x" * 1900)

    assert done.code == 4
    assert "\u2588" in done.err or "\u2580" in done.err
