"""Needs: who is told of them, and that they are told, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import AsyncClient, Client, LoginPending, OAuth, open_store
from deviceflow.cli import exits
from deviceflow.core.encryption import generate_key
from deviceflow.core.need import LONGEST_NOTICE, NOTIFY_AGAIN
from deviceflow.core.wire import MAX_BODY
from deviceflow.credentials import profiles
from deviceflow.errors import InsecureURLError, UsageError
from deviceflow.notify import NotifyCommand, NotifyError, NotifyURL, notifier
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.url import open_async_store
from deviceflow.testing import VirtualClock
from tests.integration.command import decide
from tests.stored import get_grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.notice import LoginNeed
    from tests.integration.command import Command

PAGES: Final = "https://jobs.example.com/logins"
APPENDS: Final = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read() + b'\\n')"
WRITE: Final = [sys.executable, "-c", APPENDS]
SEES: Final = """
import json, os, sys
with open(sys.argv[1], "w") as seen:
    json.dump([json.load(sys.stdin), dict(os.environ), sys.argv], seen)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as one:
        yield one


class Place:
    """A store with clients that go by one clock, and what they were told."""

    def __init__(self, folder: Path, server: LocalServer) -> None:
        self.clock = VirtualClock(time.time())
        self.key = generate_key()
        self.url = f"sqlite:///{folder}/needs.db"
        self.store: Any = open_store(self.url, keys=[self.key])
        self.told: list[LoginNeed] = []
        self.provider = OAuth(
            client_id="robot",
            device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
            token_endpoint=f"{server.url}/oauth/token",
            scopes="read offline_access",
        )

    def client(self, notify: Callable[[LoginNeed], object] | None = None) -> Client:
        told = self.told.append if notify is None else notify
        return Client(self.store, clock=self.clock, notify=told, public_url=PAGES)

    def ask(self, client: Client) -> LoginPending:
        with pytest.raises(LoginPending) as caught:
            client.get_token("nightly", self.provider, purpose="the nightly report")
        return caught.value

    def record(self) -> list[tuple[str, str | None]]:
        grant = get_grant(self.store, "nightly", self.clock.time())
        return [(event["action"], event["detail"]) for event in self.store.events(grant.id)]


@pytest.fixture
def place(tmp_path: Path, server: LocalServer) -> Iterator[Place]:
    one = Place(tmp_path, server)
    yield one
    one.store.close()


def fails(need: LoginNeed) -> None:
    raise NotifyError(f"nobody is there for {need.id}")


def test_need_its_days_and_its_end_are_told_with_one_id_and_one_link(place: Place) -> None:
    client = place.client()
    pending = place.ask(client)
    place.ask(client)
    place.clock.advance(NOTIFY_AGAIN)
    client.sweep_grants()  # nobody asks for the token on this day
    ended = client.log_out("nightly")

    first, second, third = place.told
    assert {need.id for need in place.told} == {pending.need_id}
    assert [(need.kind, need.number) for need in place.told] == [
        ("needed", 1),
        ("still_needed", 2),
        ("ended", 3),
    ]
    assert (first.link, third.link) == (second.link, None)
    assert first.link == pending.link
    assert first.link is not None
    assert first.link.reveal().startswith(f"{PAGES}/need/")
    assert third.end == "logged_out"
    assert place.record() == [
        ("need", f"need {first.id}"),
        ("notify", f"need {first.id}"),
        ("notify", f"need {first.id}"),
        ("log_out", f"the need {first.id} ended"),
        ("notify", f"the end of the need {first.id}"),
    ]
    assert ended.need_id is None
    assert first.link.reveal() not in f"{pending} {pending!r} {vars(pending)} {place.told}"


def test_pending_login_that_is_pickled_for_a_queue_has_no_link(place: Place) -> None:
    pending = place.ask(place.client())
    assert pending.link is not None

    again = pickle.loads(pickle.dumps(pending))

    assert (again.need_id, again.link) == (pending.need_id, None)


def test_link_of_an_ended_grant_is_void_after_it_is_ended_again(place: Place) -> None:
    client = place.client()
    place.ask(client)
    client.log_out("nightly")
    pending = place.ask(client)
    assert pending.link is not None

    client.log_out("nightly")

    assert client.grant("nightly").need_id is None
    assert place.record()[-2][0] == "end_need"
    renewed = place.ask(client)
    assert renewed.link != pending.link


def test_failed_notifications_are_on_record_and_tried_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    broken, client = place.client(fails), place.client()
    pending = place.ask(broken)
    assert pending.need_id is not None
    place.ask(broken)
    assert [action for action, _ in place.record()] == ["need", "notify_failed"]
    assert f"notify failed for the need {pending.need_id}: nobody is there" in caplog.text

    client.sweep_grants()
    assert place.told == []
    place.clock.advance(60)
    swept = broken.sweep_grants()
    assert swept.names == ["nightly"]
    [problem] = map(str, swept.problems)
    assert problem.startswith("Nobody could be notified about 'nightly': nobody is there")
    seconds = re.search(r"It is tried again in (\d+) seconds?\.$", problem)
    assert seconds is not None
    place.clock.advance(float(seconds[1]))
    assert client.sweep_grants().problems == []

    assert [need.number for need in place.told] == [1]


def test_what_an_exception_of_others_says_is_not_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def spill(need: LoginNeed) -> None:
        raise ValueError(need.to_dict())

    caplog.set_level(logging.DEBUG)
    pending = place.ask(place.client(spill))

    assert pending.link is not None
    assert "ValueError" in caplog.text
    assert pending.link.reveal().rpartition("/")[2] not in caplog.text


def test_several_processes_notify_once(place: Place) -> None:
    other = place.client()
    inner: list[str] = []

    def slow(need: LoginNeed) -> None:
        inner.extend(other.sweep_grants().names)  # meanwhile
        place.told.append(need)

    place.ask(place.client(slow))

    assert [need.number for need in place.told] == [1]
    assert inner == []


def test_async_client_tells_the_same(tmp_path: Path, server: LocalServer) -> None:
    told: list[LoginNeed] = []
    login = OAuth(issuer=server.url, client_id="robot", scopes="read")

    async def run() -> LoginPending:
        store = open_async_store(f"sqlite:///{tmp_path}/needs.db", keys=[generate_key()])
        client = AsyncClient(store, notify=told.append, public_url=PAGES)
        for _ in range(2):
            with pytest.raises(LoginPending) as caught:
                await client.get_token("nightly", login)
        await client.log_out("nightly")
        await client.close()
        await store.close()
        return caught.value

    pending = asyncio.run(run())

    assert [(need.id, need.kind) for need in told] == [
        (pending.need_id, "needed"),
        (pending.need_id, "ended"),
    ]
    assert told[0].link == pending.link


@pytest.mark.parametrize("in_memory", [False, True])
def test_need_that_nobody_fulfils_ends_and_its_grant_is_deleted(
    place: Place, in_memory: bool
) -> None:
    if in_memory:
        place.store.close()
        place.store = MemoryStore()
    client = place.client()
    place.ask(client)
    place.clock.advance(89 * 86400)
    assert client.purge().needs == 0
    assert client.sweep_grants().names == ["nightly"]  # the program is told each day

    place.clock.advance(2 * 86400)
    purged = client.purge()

    assert (purged.needs, purged.grants) == (1, 0)
    assert client.grant("nightly").need_id is None
    client.sweep_grants()
    assert [(need.kind, need.end) for need in place.told] == [
        ("needed", None),
        ("still_needed", None),
        ("ended", "logged_out"),
    ]
    place.clock.advance(91 * 86400)
    purged = client.purge()
    assert (purged.needs, purged.grants) == (0, 1)
    assert [*client.grants()] == []
    assert place.ask(client).need_id is not None


DIES: Final = """
import os, signal, sys
from deviceflow import Client, LoginPending, OAuth

def die(*_):
    with open(sys.argv[2], "a") as told:
        told.write("told\\n")
    os.kill(os.getpid(), signal.SIGKILL)

def die_after(event):
    if event["action"] == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

where = {"on_transition": die_after} if sys.argv[3] else {}
client = Client(sys.argv[1], notify=die, **where)
if sys.argv[3] == "log_out":
    client.log_out("nightly")
else:
    login = OAuth(client_id="robot", device_authorization_endpoint="http://127.0.0.1:9/d",
                  token_endpoint="http://127.0.0.1:9/t", scopes="read offline_access")
    client.get_token("nightly", login)
"""


def die(place: Place, told: Path, after: str = "") -> None:
    environment = os.environ | {"DEVICEFLOW_KEYS": place.key.reveal()}
    command = [sys.executable, "-c", DIES, place.url, str(told), after]
    done = subprocess.run(command, env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


def test_need_is_told_again_after_a_kill_between_telling_and_its_commit(
    place: Place, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    die(place, told)
    assert told.read_text() == "told\n"
    client = place.client()

    client.sweep_grants()
    assert place.told == []  # the one who died may still be at it
    place.clock.advance(LONGEST_NOTICE + 60)
    client.sweep_grants()

    assert [(need.kind, need.number) for need in place.told] == [("needed", 1)]


@pytest.mark.parametrize("after", ["need", "log_out"])
def test_need_and_its_end_are_told_after_a_kill_before_telling(
    place: Place, tmp_path: Path, after: str
) -> None:
    told = tmp_path / "told"
    if after == "log_out":
        place.ask(place.client())
    die(place, told, after)
    assert not told.exists()
    place.told.clear()
    place.clock.advance(60)

    place.client().sweep_grants()

    assert [need.kind for need in place.told] == ["needed" if after == "need" else "ended"]


# Commands and URLs.


def test_command_reads_the_need_from_its_input_and_sees_no_secret(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVICEFLOW_KEYS", place.key.reveal())
    monkeypatch.setenv("PGPASSWORD", "canary")
    seen = tmp_path / "environment"
    command = [sys.executable, "-c", SEES, str(seen)]
    pending = place.ask(place.client(NotifyCommand(command)))

    need, environment, arguments = json.loads(seen.read_text())
    assert pending.link is not None
    assert need["link"] == pending.link.reveal()
    assert need["link"] in need["text"]
    assert (need["id"], need["kind"], need["number"]) == (pending.need_id, "needed", 1)
    assert (need["name"], need["purpose"]) == ("nightly", "the nightly report")
    assert need["command"] == f"deviceflow login --store {place.url} nightly"
    assert (need["scopes"], need["ended_at"]) == (["read", "offline_access"], None)
    assert not [name for name in environment if name.startswith(("DEVICEFLOW_", "PG"))]
    assert need["link"] not in json.dumps([environment, arguments])
    assert place.key.reveal() not in json.dumps([environment, arguments])


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "ended with the code 3"),
        (["/nowhere/to/be/found"], "could not be run"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "took more than 1 seconds"),
    ],
)
def test_command_that_fails_says_why(place: Place, command: list[str], why: str) -> None:
    client = place.client()
    place.ask(client)
    with pytest.raises(NotifyError, match=why):
        NotifyCommand(command, timeout=1)(place.told[0])


class Stop(BaseException):
    """What a signal's handler raises."""


def with_locals(problem: BaseException) -> str:
    """Return a traceback with the local variables, but for those of the test."""
    frames = problem.__traceback__ and problem.__traceback__.tb_next
    shown = traceback.TracebackException(type(problem), problem, frames, capture_locals=True)
    return "".join(shown.format())


def test_interrupted_command_leaves_no_link_in_the_traceback(place: Place) -> None:
    def stop(*_: object) -> None:
        raise Stop

    place.ask(place.client())
    need = place.told[0]
    command = "import os, signal; os.kill(os.getppid(), signal.SIGUSR1); signal.pause()"
    former = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stop) as caught:
            NotifyCommand([sys.executable, "-c", command])(need)
    finally:
        signal.signal(signal.SIGUSR1, former)

    assert need.link is not None
    assert need.link.reveal() not in with_locals(caught.value)


@pytest.mark.parametrize(
    "url", ["http://chat.example.com/CANARY", "https://chat.example.com/CANARY "]
)
def test_url_that_cannot_be_used_is_not_told(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("WEBHOOK", url)

    with pytest.raises(InsecureURLError) as caught:
        notifier("env:WEBHOOK")

    assert "CANARY" not in with_locals(caught.value)


class Hook(http.server.BaseHTTPRequestHandler):
    """Answers as its path says, and keeps what it got."""

    got: Final[list[tuple[str, dict[str, str], Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.got.append((self.path, dict(self.headers), body))
        self.send_response(int(self.path.rpartition("/")[2]))
        self.send_header("Location", "/elsewhere/200")
        length = MAX_BODY + 1 if "large" in self.path else 5 if "endless" in self.path else 0
        self.send_header("Content-Length", str(length))
        if "encoded" in self.path:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if "large" in self.path:
            with suppress(OSError):
                self.wfile.write(b"x" * length)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.got.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join()


def test_url_is_sent_the_need(place: Place, hook: str) -> None:
    place.ask(place.client(NotifyURL(f"{hook}/CANARY/200")))

    [(path, headers, body)] = Hook.got
    assert path == "/CANARY/200"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == f"{body['id']}-needed-1"
    assert body["link"].startswith(PAGES)
    assert place.record()[-1][0] == "notify"


@pytest.mark.parametrize("kind", ["large", "endless", "encoded"])
@pytest.mark.parametrize("proxied", [False, True])
def test_url_that_takes_the_need_is_told_whatever_its_answer_is(
    place: Place, hook: str, monkeypatch: pytest.MonkeyPatch, kind: str, proxied: bool
) -> None:
    url = f"{hook}/{kind}/200"
    if proxied:  # another way through the transport
        monkeypatch.setenv("http_proxy", hook)
        url = f"http://chat.example.com/{kind}/200"

    place.ask(place.client(NotifyURL(url, timeout=20, allow_http=True)))

    assert len(Hook.got) == 1
    assert place.record()[-1][0] == "notify"


@pytest.mark.parametrize("status", [302, 404, 503])
def test_url_that_does_not_take_the_need_is_tried_again(
    place: Place, hook: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    place.ask(place.client(NotifyURL(f"{hook}/CANARY/{status}")))

    assert len(Hook.got) == 1
    assert place.record()[-1][0] == "notify_failed"
    assert f"answered with the status {status}" in caplog.text
    assert "CANARY" not in caplog.text


def test_url_without_an_answer_is_tried_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.ask(place.client(NotifyURL("http://127.0.0.1:9/CANARY", timeout=5)))

    assert place.record()[-1][0] == "notify_failed"
    assert "127.0.0.1:9 gave no answer: connection" in caplog.text


@pytest.mark.parametrize(
    ("in_profile", "in_environment", "after"),
    [
        ("", "", 3600),
        ("outage_after = 60", "", 60),
        ("outage_after = 60", "90.5", 90.5),
        ('outage_after = "60"', "", 60),
        ("outage_after = inf", "", math.inf),
    ],
)
def test_settings_say_when_an_outage_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_profile: str,
    in_environment: str,
    after: float,
) -> None:
    (tmp_path / "config.toml").write_text(f"[profiles.jobs]\n{in_profile}\n")
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("DEVICEFLOW_OUTAGE_AFTER", in_environment)

    assert profiles.notices("jobs").outage_after == after
    monkeypatch.setenv("DEVICEFLOW_OUTAGE_AFTER", "soon")
    with pytest.raises(UsageError, match="DEVICEFLOW_OUTAGE_AFTER must be a number of seconds"):
        profiles.notices("jobs")


def test_settings_say_how_to_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("https://chat.example.com/CANARY\n")
    monkeypatch.setenv("CHAT", "https://chat.example.com/CANARY")
    (tmp_path / "mail").touch(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert repr(notifier("env:CHAT")) == "<NotifyURL chat.example.com>"
    assert repr(notifier(f"file:{tmp_path}/url")) == "<NotifyURL chat.example.com>"
    assert repr(notifier("https://chat.example.com/CANARY")) == "<NotifyURL chat.example.com>"
    assert repr(notifier("mail -s 'log in' ops")) == "<NotifyCommand 'mail'>"
    assert repr(notifier(["mail", "ops"])) == "<NotifyCommand 'mail'>"
    unusable: list[Any] = ["http://chat.example.com/CANARY", "env:NOTHING", "mail 'x", " ", []]
    for setting in unusable:
        with pytest.raises(UsageError):
            notifier(setting)


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("tell-ops", "the command 'tell-ops', and"),
        (["/no/where/tell", "ops"], "the command '/no/where/tell', and"),
        ("reports.people:mail", "the command 'reports.people:mail', and"),
        ("chat.example.com/CANARY", "the command, and"),
    ],
)
def test_command_that_does_not_exist_is_an_error_at_once(
    setting: str | list[str], shown: str
) -> None:
    with pytest.raises(UsageError, match="there is no such program") as caught:
        notifier(setting)

    assert shown in str(caught.value)
    assert "CANARY" not in str(caught.value)


async def mail(need: LoginNeed) -> None:
    raise NotifyError(need.id)


class Mail:
    async def __call__(self, need: LoginNeed) -> None:
        await mail(need)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("notify", "kind"),
    [
        ("https://chat.example.com/CANARY", "of the type str"),
        (["mail"], "of the type list"),
        (mail, "an async function"),
        (Mail(), "an async function"),
    ],
)
def test_notify_that_cannot_be_called_is_an_error_at_once(
    client: Any, notify: Any, kind: str
) -> None:
    with pytest.raises(UsageError, match=f"and it is {kind}") as caught:
        client("memory:", notify=notify)

    assert "CANARY" not in str(caught.value)


# The command line.


def write(deviceflow: Command, text: str) -> None:
    deviceflow.config.parent.mkdir(parents=True)
    deviceflow.config.write_text(text)


def test_commands_notify_as_the_profile_says_and_login_shows_a_fresh_code(
    deviceflow: Command, server: LocalServer, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    write(
        deviceflow,
        f'[profiles.jobs]\nnotify = {json.dumps([*WRITE, str(told)])}\npublic_url = "{PAGES}"\n',
    )
    target = ("--issuer", server.url, "--client-id", "robot", "--scopes", "read offline_access")
    deviceflow("login", "nightly", *target, act=decide(server, "approve"))
    deviceflow("logout", "nightly")

    gone = deviceflow("token", "nightly", "--profile", "jobs")
    assert gone.code == exits.PENDING
    refused = deviceflow("login", "nightly", "--show-token")
    assert refused.code == exits.USAGE
    assert "deviceflow token NAME" in refused.err
    back = deviceflow("login", "nightly", act=decide(server, "approve"), DEVICEFLOW_PROFILE="jobs")
    assert back.code == 0, back.err
    assert back.out.startswith("nightly active, until ")
    again = deviceflow("login", "nightly")
    assert "nightly is logged in already." in again.err

    needed, ended = map(json.loads, told.read_text().splitlines())
    assert (needed["kind"], ended["kind"], ended["end"]) == ("needed", "ended", "logged_in")
    assert needed["id"] == ended["id"]
    assert needed["link"].startswith(PAGES)
    assert needed["link"] not in gone.out + gone.err


def test_commands_say_that_nobody_could_be_notified(
    deviceflow: Command, server: LocalServer, hook: str
) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--scopes", "read offline_access")
    deviceflow("login", "nightly", *target, act=decide(server, "approve"))
    deviceflow("logout", "nightly")
    url = f"{hook}/CANARY/503"

    deviceflow("token", "nightly")
    swept = deviceflow("sweep", DEVICEFLOW_NOTIFY=url)
    ended = deviceflow("logout", "nightly", DEVICEFLOW_NOTIFY=url)

    deviceflow("token", "nightly")
    worked = deviceflow("worker", "--until-idle", DEVICEFLOW_NOTIFY=url)

    host = hook.removeprefix("http://")
    what = f"deviceflow: Nobody could be notified about 'nightly': {host} answered with"
    # Nobody has heard of the need that ended.
    assert (ended.code, ended.err) == (0, "Logged out: the tokens were wiped.\n")
    assert (swept.code, swept.out) == (exits.FAILED, "grant nightly\n")
    assert re.fullmatch(
        rf"{re.escape(what)} the status 503\. It is tried again in \d+ seconds?\.\n", swept.err
    )
    assert f"{what} the status 503. It is tried again in " in worked.err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'notify = "tell-ops"',
            "notify names the command 'tell-ops', and there is no such program",
        ),
        ('notify = ""', "a string or a list of strings"),
        ("notify = 5", "a string or a list of strings"),
        ("public_url = []", "a string"),
        ("outage_after = -1", "a number of seconds, at least 0, or inf for never"),
        ("outage_after = true", "a number of seconds"),
        ('outage_after = "an hour"', "a number of seconds"),
        ('notify = "env:NOTHING"', "was not found at env:NOTHING"),
        ('notify = "http://chat.example.com/x"', "plain http"),
    ],
)
@pytest.mark.usefixtures("kept")
def test_settings_that_cannot_be_used_are_refused(deviceflow: Command, text: str, why: str) -> None:
    write(deviceflow, f"[profiles.jobs]\n{text}\n")

    done = deviceflow("sweep", "--profile", "jobs")

    assert done.code == exits.USAGE
    assert why in done.err
