"""The pages of needs over HTTP: who may do what, what is limited, and what nobody is shown."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
import requests

from deviceflow import AsyncClient, LoginPending, OAuth
from deviceflow.cli import exits
from deviceflow.core.encryption import generate_key
from deviceflow.pages import NeedPages, PageRequest, PageServer
from deviceflow.pages import _server as bounds
from deviceflow.pages._limits import MOST_CLIENTS
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.async_memory import AsyncMemoryStore
from deviceflow.testing import AsyncScriptedTransport, AsyncVirtualClock, answer
from tests.integration.paged import Job, worker
from tests.stored import get_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.wire import Request, Response
    from deviceflow.pages import Answer
    from tests.integration.command import Command

CSRF: Final = re.compile(r'name="csrf" value="([0-9a-f]{32})"')
CODE: Final = re.compile(r'<p class="code">([^<]+)</p>')


class Person:
    """Somebody with a browser."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._token = ""

    def open(self, link: str, **headers: str) -> requests.Response:
        answered = self._session.get(link, headers=headers, timeout=60, allow_redirects=False)
        if (found := CSRF.search(answered.text)) is not None:
            self._token = found[1]
        return answered

    def press(self, link: str, **headers: str) -> requests.Response:
        """Press the button of the page, as it was when it was first opened."""
        if not self._token:
            self.open(link)
        return self._session.post(
            link,
            data={"csrf": self._token},
            headers=headers,
            timeout=60,
            allow_redirects=False,
        )


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as one:
        yield one


@pytest.fixture
def place(deviceflow: Command, server: LocalServer) -> Iterator[Any]:
    """Give a worker with pages, and a job that uses its store."""
    key = generate_key()
    store = f"sqlite:///{deviceflow.home}/flows.db"
    environment = {"DEVICEFLOW_KEYS": key.reveal(), "DEVICEFLOW_STORE": store}
    told = deviceflow.home / "told"
    environment["DEVICEFLOW_NOTIFY"] = f"sh -c 'cat >> {told}; echo >> {told}'"
    with worker(deviceflow, **environment) as pages:
        job = Job(store, key, server, pages.public_url)
        yield pages, job, told
        job.close()


def eventually(holds: Callable[[], object]) -> None:
    late = threading.Event()
    timer = threading.Timer(60, late.set)
    timer.start()
    try:
        while not holds():
            assert not late.wait(0.05), "it did not come to that"
    finally:
        timer.cancel()


def test_looking_requests_no_code(place: Any) -> None:
    _, job, _ = place
    link = job.ask()
    before = job.codes()
    person = Person()
    for headers in (
        {},
        {"User-Agent": "Slackbot-LinkExpanding 1.0", "Range": "bytes=0-32768"},
        {"Sec-Purpose": "prefetch;prerender", "Purpose": "prefetch"},
    ):
        assert person.open(link, **headers).status_code == 200
        assert person.open(f"{link}?login=nothing&go=1&started=1", **headers).status_code == 200
    head = requests.head(link, timeout=60)
    assert (head.status_code, head.content) == (200, b"")
    assert requests.options(link, timeout=60).status_code == 405
    assert requests.put(link, timeout=60).status_code == 405

    assert job.codes() == before
    assert "request_code" not in job.actions()


def test_forged_forms_request_no_code(place: Any) -> None:
    _, job, _ = place
    link = job.ask()
    before = job.codes()
    person = Person()
    assert requests.post(link, timeout=60).status_code == 403
    forged = {"csrf": "0" * 32}
    assert requests.post(link, data=forged, timeout=60).status_code == 403
    cookies = {"deviceflow-need": "1" * 32}
    assert requests.post(link, data=forged, cookies=cookies, timeout=60).status_code == 403
    assert person.press(link, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert person.press(link, Origin="https://evil.example.com").status_code == 403
    assert job.codes() == before
    assert "request_code" not in job.actions()


def test_code_is_requested_once_whoever_clicks_and_nobody_else_is_shown_anything(
    place: Any,
) -> None:
    pages, job, told = place
    link = job.ask()
    before = job.codes()
    person = Person()
    person.open(link)
    eventually(lambda: told.exists() and told.read_text().endswith("\n"))
    clicks: list[requests.Response] = []
    people = [Person() for _ in range(6)]
    for one in people:
        one.open(link)

    def press(one: Person) -> None:
        clicks.append(one.press(link, **{"Sec-Fetch-Site": "same-origin"}))

    crowd = [threading.Thread(target=press, args=(one,)) for one in people]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert {click.status_code for click in clicks} == {303}
    (where,) = {click.headers["Location"] for click in clicks}
    assert person.press(link).headers["Location"] == where
    assert job.codes() == before + 1
    assert job.actions().count("request_code") == 1

    shown = person.open(f"{link}{where}")
    [code] = CODE.findall(shown.text)
    assert f'content="0; url={job.server.url}/device?user_code={code}"' in shown.text
    login_id = get_named(job.store, "nightly").id
    job.decide("approve", code)
    eventually(lambda: "Logged in" in person.open(f"{link}?login={login_id}").text)
    assert "Logged in" not in person.open(f"{link}?login=another").text
    assert person.open(link).status_code == 410
    assert person.press(link).status_code == 410
    assert job.client.get_token("nightly").generation == 1

    eventually(lambda: told.exists() and told.read_text().count("\n") >= 2)
    needed, ended = map(json.loads, told.read_text().splitlines())
    assert (needed["kind"], needed["link"], ended["end"]) == ("needed", link, "logged_in")
    unguessable = link.rpartition("/")[2]
    for text in (pages.log, shown.text, json.dumps(pages.events)):
        assert unguessable not in text
    device_code = re.escape("device_code")
    for text in (pages.log, shown.text, told.read_text()):
        assert not re.search(device_code, text)
    for text in (pages.log, told.read_text()):
        assert code not in text


def test_worker_takes_the_token_also_if_nobody_looks_any_more(place: Any) -> None:
    _, job, _ = place
    link = job.ask()
    person = Person()
    assert person.press(link).status_code == 303
    [code] = CODE.findall(person.open(link).text)
    job.decide("approve", code)

    eventually(lambda: "log_in" in job.actions())

    assert job.client.grant("nightly").need_id is None
    assert person.open(link).status_code == 410


def test_pages_tell_no_other_site_and_are_kept_nowhere(place: Any) -> None:
    _, job, _ = place
    answered = Person().open(job.ask())

    headers = answered.headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', answered.text)


def test_unknown_links_are_answered_alike(place: Any) -> None:
    _, job, _ = place
    link = job.ask()
    base = link.rpartition("/")[0]
    found = [
        requests.get(f"{base}/{name}", timeout=60)
        for name in ("A" * 64, "A" * 63, "", "%00", "..%2f", "ä", "A" * 64 + "/", "page.css/")
    ]
    found.append(requests.get(base.removesuffix("/need"), timeout=60))
    found.append(requests.post(f"{base}/{'A' * 64}", timeout=60))
    alike = {(one.status_code, one.text, tuple(sorted(one.headers.items()))) for one in found}
    assert len(alike) == 1
    assert found[0].status_code == 404


def test_ended_needs_link_leads_nowhere(place: Any) -> None:
    _, job, _ = place
    link = job.ask()
    job.client.log_out("nightly")

    answered = Person().open(link)

    assert answered.status_code == 410
    assert "No longer needed" in answered.text
    assert "The need was ended without a login." in answered.text
    assert job.ask() != link
    assert Person().open(link).status_code == 404  # a later need has the page now


def test_other_sites_name_for_this_machine_is_refused(place: Any) -> None:
    _, job, _ = place
    link = job.ask()
    for host in ("evil.example.com", "127.0.0.1.evil.example.com", "[", "a@b"):
        assert Person().open(link, Host=host).status_code == 421
    for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert Person().open(link, Host=host).status_code == 200


def test_hostile_texts_are_shown_as_texts(place: Any) -> None:
    _, job, _ = place
    hostile = "<script>alert(1)</script>\"'><img src=x>"
    text = Person().open(job.ask(hostile, purpose=hostile)).text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;" in text


def test_server_that_is_down_is_said(place: Any) -> None:
    _, job, _ = place
    job.provider = OAuth(
        client_id="robot",
        device_authorization_endpoint="http://127.0.0.1:9/device",
        token_endpoint="http://127.0.0.1:9/token",
    )
    link = job.ask("down")

    answered = Person().press(link)

    assert answered.status_code == 502
    assert "There is no code" in answered.text
    assert "Try again" in answered.text
    assert "request_code" in job.actions("down")


def test_stored_grant_has_no_secret_sent_that_the_worker_was_not_set_up_for(place: Any) -> None:
    pages, job, _ = place
    job.provider = OAuth(
        issuer=job.server.url, client_id="robot", client_secret="env:PATH", scopes="read"
    )
    link = job.ask("secret")
    before = job.codes()

    answered = Person().press(link)

    assert answered.status_code == 503
    assert "its log says why" in answered.text
    assert "env:PATH" not in answered.text
    assert job.codes() == before
    assert "request_code" not in job.actions("secret")
    assert any("env:PATH" in line for line in pages.later())


def test_pages_behind_a_proxy_keep_the_path(deviceflow: Command, server: LocalServer) -> None:
    key = generate_key()
    store = f"sqlite:///{deviceflow.home}/flows.db"
    environment = {"DEVICEFLOW_KEYS": key.reveal(), "DEVICEFLOW_STORE": store}
    public = "https://jobs.example.com/ops/logins/"
    with worker(deviceflow, "--public-url", public, **environment) as pages:
        job = Job(store, key, server, public)
        link = job.ask()
        path = urlsplit(link).path
        assert link.startswith("https://jobs.example.com/ops/logins/need/")
        there = f"http://127.0.0.1:{pages.port}"

        answered = Person().open(there + path, Host="jobs.example.com")

        assert answered.status_code == 200
        cookie = answered.headers["Set-Cookie"]
        assert "Path=/ops/logins; HttpOnly; SameSite=Strict; Secure" in cookie
        style = path.rpartition("/")[0] + "/page.css"
        assert Person().open(there + style, Host="jobs.example.com").status_code == 200
        assert Person().open(there + path.removeprefix("/ops/logins")).status_code == 404
        job.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_several_workers_serve_the_same_pages(
    deviceflow: Command, server: LocalServer, kind: str, request: pytest.FixtureRequest
) -> None:
    key = generate_key()
    store = f"sqlite:///{deviceflow.home}/flows.db"
    if kind == "postgres":
        store = request.getfixturevalue("postgres_url")
    environment = {"DEVICEFLOW_KEYS": key.reveal(), "DEVICEFLOW_STORE": store}
    with worker(deviceflow, **environment) as one, worker(deviceflow, **environment) as other:
        job = Job(store, key, server, one.public_url)
        before = job.codes()
        link = job.ask()
        elsewhere = link.replace(one.public_url, other.public_url)
        second = Person()
        assert second.open(elsewhere).status_code == 200
        assert Person().press(link).status_code == 303
        assert second.press(elsewhere).status_code == 303
        [code] = CODE.findall(Person().open(elsewhere).text)
        assert job.codes() == before + 1
        job.decide("approve", code)
        eventually(lambda: Person().open(elsewhere).status_code == 410)
        assert job.client.get_token("nightly").generation == 1
        assert job.actions() == ["need", "request_code", "log_in"]
        job.close()


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--listen", "0.0.0.0:0"), "Add --public-url"),
        (("--listen", "127.0.0.1:0", "--public-url", "http://jobs.example.com"), "plain http"),
        (("--listen", "127.0.0.1:0", "--public-url", "https://jobs.example.com/?a=1"), "a query"),
        (
            ("--listen", "127.0.0.1:0", "--public-url", "jobs.example.com"),
            "public_url (--public-url, DEVICEFLOW_PUBLIC_URL): Not a valid http(s) URL",
        ),
        (("--listen", "nowhere"), "must be an address such as 127.0.0.1:8080"),
        (("--listen", "127.0.0.1:70000"), "must be an address such as 127.0.0.1:8080"),
    ],
)
def test_address_that_cannot_be_served_is_refused(
    deviceflow: Command, args: tuple[str, ...], why: str
) -> None:
    done = deviceflow("worker", "--until-idle", *args)

    assert done.code == exits.USAGE
    assert why in done.err


def test_port_alone_is_one_of_this_machine(deviceflow: Command) -> None:
    done = deviceflow("worker", "--until-idle", "--listen", "0")

    assert re.fullmatch(
        r"Listening at 127\.0\.0\.1:(\d+), for pages at http://127\.0\.0\.1:\1\n", done.err
    )


def test_address_that_is_taken_is_refused(deviceflow: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = deviceflow("worker", "--until-idle", "--listen", f"127.0.0.1:{port}")

    assert done.code == exits.USAGE
    assert "The worker cannot listen at " in done.err
    assert ": Address already in use. Choose another address" in done.err


# Limits, by a clock that obeys.


def code_of(number: int) -> dict[str, Any]:
    return {
        "device_code": f"device-canary-{number:020}",
        "user_code": f"CODE-{number}",
        "verification_uri": "https://login.example.com/device",
        "expires_in": 60,
        "interval": 5,
    }


class Site:
    """Pages in this process, of a store in its memory."""

    def __init__(self) -> None:
        self.clock = AsyncVirtualClock()
        self.codes = 0
        self.transport = AsyncScriptedTransport([self.answer] * 100)
        self.client = AsyncClient(
            AsyncMemoryStore(),
            transport=self.transport,
            clock=self.clock,
            public_url="https://jobs.example.com",
            on_transition=lambda event: self.actions.append(event["action"]),
        )
        self.actions: list[str] = []
        self.pages = NeedPages(
            lambda: self.client,
            "https://jobs.example.com",
            on_problem=self.problem,
            clock=self.clock.monotonic,
        )
        self.problems: list[Exception] = []

    def answer(self, request: Request) -> Response:
        if request.purpose == "token":
            return answer(400, {"error": "expired_token"})
        self.codes += 1
        return answer(200, code_of(self.codes))

    def problem(self, problem: Exception) -> None:
        self.problems.append(problem)

    async def need(self, name: str) -> str:
        login = OAuth(
            client_id="robot",
            device_authorization_endpoint="https://login.example.com/code",
            token_endpoint="https://login.example.com/token",
        )
        try:
            await self.client.get_token(name, login)
        except LoginPending as pending:
            if pending.link is not None:
                return urlsplit(pending.link.reveal()).path
        raise AssertionError("there is a token, or no link")

    async def send(
        self, path: str, method: str = "GET", peer: str = "", proxied: str = ""
    ) -> Answer:
        token = "0" * 32
        headers = {"host": "jobs.example.com", "cookie": f"a=b; deviceflow-need={token}"}
        headers |= {"x-forwarded-for": proxied} if proxied else {}
        body = f"csrf={token}".encode() if method == "POST" else b""
        return await self.pages(PageRequest(method, path, headers, body, peer))


def test_codes_of_one_need_are_limited() -> None:
    async def run() -> None:
        site = Site()
        path = await site.need("nightly")
        statuses = []
        for _ in range(7):
            statuses.append((await site.send(path, "POST")).status)
            site.clock.advance(61)  # the code has expired by then
        assert statuses == [303] * 5 + [303, 429]
        shown = await site.send(path)
        assert b"Too many codes" in shown.body
        site.clock.advance(300)
        assert (await site.send(path, "POST")).status == 303
        assert site.codes == 7

    asyncio.run(run())


def test_clicks_while_a_code_is_requested_do_not_count() -> None:
    async def run() -> None:
        site = Site()
        path = await site.need("nightly")
        answers = await asyncio.gather(*(site.send(path, "POST") for _ in range(12)))
        assert [one.status for one in answers] == [303] * 12
        assert len({one.headers["Location"] for one in answers}) == 1
        assert site.codes == 1
        assert site.actions.count("request_code") == 1

    asyncio.run(run())


def test_login_at_another_server_is_not_shown() -> None:
    async def run() -> None:
        site = Site()
        path = await site.need("nightly")
        other = OAuth(
            client_id="robot",
            device_authorization_endpoint="https://other.example.com/code",
            token_endpoint="https://other.example.com/token",
        )
        login = await site.client.start(other, name="nightly")
        shown = await site.send(f"{path}?login={login.id}")
        assert b"CODE-" not in shown.body

    asyncio.run(run())


def test_codes_of_all_needs_are_limited() -> None:
    async def run() -> None:
        site = Site()
        paths = [await site.need(f"job {number}") for number in range(22)]
        statuses = [(await site.send(path, "POST")).status for path in paths]
        assert statuses == [303] * 20 + [429] * 2
        site.clock.advance(15)
        assert (await site.send(paths[20], "POST")).status == 303

    asyncio.run(run())


MANY: Final = "?" + "&".join(f"x{number}=1" for number in range(50))


@pytest.mark.parametrize("target", ["//[", f"/need/{'A' * 64}{MANY}"])
def test_target_that_cannot_be_read_is_the_fault_of_whoever_sent_it(target: str) -> None:
    async def run() -> None:
        site = Site()
        assert (await site.send(target)).status == 400

    asyncio.run(run())


def test_form_with_many_fields_is_not_ours() -> None:
    async def run() -> None:
        site = Site()
        path = await site.need("nightly")
        headers = {"host": "jobs.example.com", "cookie": f"deviceflow-need={'0' * 32}"}
        body = f"csrf={'0' * 32}&{MANY[1:]}".encode()
        refused = await site.pages(PageRequest("POST", path, headers, body))
        assert (refused.status, site.codes) == (403, 0)

    asyncio.run(run())


def test_requests_are_limited() -> None:
    async def run() -> None:
        site = Site()
        path = f"/need/{'A' * 64}"
        statuses = [(await site.send(path)).status for _ in range(102)]
        assert statuses == [404] * 100 + [429] * 2
        site.clock.advance(0.05)
        assert (await site.send(path)).status == 404

    asyncio.run(run())


@pytest.mark.parametrize(
    ("busy", "same", "other"),
    [
        ({"peer": "192.0.2.1"}, {"peer": "::ffff:192.0.2.1"}, {"peer": "192.0.2.2"}),
        ({"peer": "2001:db8::1"}, {"peer": "2001:db8::ffff%eth0"}, {"peer": "2001:db8:0:1::1"}),
        (
            {"peer": "127.0.0.1", "proxied": "192.0.2.1"},
            {"peer": "::1", "proxied": "203.0.113.9, 192.0.2.1"},
            {"peer": "127.0.0.1", "proxied": "192.0.2.2"},
        ),
        (  # a header that is not from a proxy of ours
            {"peer": "192.0.2.1", "proxied": "203.0.113.1"},
            {"peer": "192.0.2.1", "proxied": "203.0.113.2"},
            {"peer": "192.0.2.2", "proxied": "203.0.113.1"},
        ),
        (
            {"peer": "127.0.0.1", "proxied": "unknown"},
            {"peer": "127.0.0.1"},
            {"peer": "127.0.0.2"},
        ),
    ],
)
def test_busy_client_does_not_limit_others(
    busy: dict[str, str], same: dict[str, str], other: dict[str, str]
) -> None:
    async def run() -> None:
        site = Site()
        path = f"/need/{'A' * 64}"
        # So many refused requests would use up what all have together.
        statuses = [(await site.send(path, **busy)).status for _ in range(600)]
        assert statuses == [404] * 100 + [429] * 500
        assert (await site.send(path, **same)).status == 429
        assert (await site.send(path, **other)).status == 404

    asyncio.run(run())


def test_requests_of_all_clients_are_limited_and_few_clients_are_remembered() -> None:
    async def run() -> None:
        site = Site()
        path = f"/need/{'A' * 64}"
        peers = [f"192.0.{number // 256}.{number % 256}" for number in range(1500)]
        statuses = [(await site.send(path, peer=peer)).status for peer in peers]
        assert statuses == [404] * 400 + [429] * 1100
        assert len(site.pages._requests._clients) == MOST_CLIENTS
        site.clock.advance(0.0125)
        assert (await site.send(path)).status == 404

    asyncio.run(run())


def test_code_that_expired_can_be_requested_again() -> None:
    async def run() -> None:
        site = Site()
        path = await site.need("nightly")
        where = (await site.send(path, "POST")).headers["Location"]
        waiting = await site.send(path + where)  # the server has no link with the code in it
        assert b"enter this code" in waiting.body
        assert b"CODE-1" in waiting.body
        site.clock.advance(61)
        shown = await site.send(path + where)
        assert b"The code has expired" in shown.body
        again = await site.send(path, "POST")
        assert again.headers["Location"] != where
        assert b"CODE-2" in (await site.send(path + again.headers["Location"])).body

    asyncio.run(run())


# A server that bounds everything.


async def serve_and(do: Callable[[int], Any], **bounded: Any) -> Any:
    async def handle(request: PageRequest) -> Answer:
        if request.target == "/broken":
            raise ZeroDivisionError
        return bounds.plain(200)

    problems: list[Exception] = []
    server = PageServer(handle, on_problem=problems.append, **bounded)
    port = await server.listen("127.0.0.1", 0)
    try:
        return await asyncio.to_thread(do, port), problems
    finally:
        await server.close()


def talk(port: int, sent: bytes, peer: str = "127.0.0.1") -> bytes:
    where = ("127.0.0.1", port)
    with socket.create_connection(where, timeout=60, source_address=(peer, 0)) as connection:
        try:
            connection.sendall(sent)
            got = b""
            while piece := connection.recv(65536):
                got += piece
        except ConnectionError:
            pass
        return got


GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (GET + b"\r\n", b"200"),
        (GET + b"\r\n" + GET + b"\r\n", b"200"),
        (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"200"),
        (GET.replace(b"/ ", b"/broken ") + b"\r\n", b"500"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (GET + b"Host: other\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (GET + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", b"400"),
        (GET + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b"400"),
        (GET + b"Content-Length: 5000\r\n\r\n", b"413"),
        (GET + b"Content-Length: -1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n", b"414"),
        (GET + b"".join(b"X%d: %s\r\n" % (n, b"y" * 100) for n in range(200)), b"431"),
        (GET + b"X: " + b"y" * 20000, b"431"),
        (GET + b"X:\r\n" * 4000 + b"\r\n", b"431"),
        ("GET /ä HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b"400"),
    ],
)
def test_request_is_answered_or_refused(sent: bytes, status: bytes) -> None:
    got, problems = asyncio.run(serve_and(lambda port: talk(port, sent)))

    assert got.startswith(b"HTTP/1.1 " + status), got
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in got
    assert [type(one) for one in problems] == ([ZeroDivisionError] if status == b"500" else [])


@pytest.mark.parametrize("sent", [b"", b"GET", GET, GET + b"Content-Length: 5\r\n\r\nab"])
def test_slow_request_is_given_up(sent: bytes) -> None:
    got, _ = asyncio.run(serve_and(lambda port: talk(port, sent), read_timeout=0.1))

    assert got == b""


def test_further_connections_are_closed_at_once() -> None:
    def crowd(port: int) -> tuple[bytes, bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as one:
            one.sendall(GET)
            refused = talk(port, GET + b"\r\n")
            one.sendall(b"\r\n")
            return refused, one.recv(100)

    (refused, served), _ = asyncio.run(serve_and(crowd, connections=1))

    assert refused == b""
    assert served.startswith(b"HTTP/1.1 200")


def test_client_with_many_slow_connections_makes_room_for_others() -> None:
    def crowd(port: int) -> tuple[bytes, bytes, bytes, bytes]:
        with ExitStack() as stack:
            slow = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                for _ in range(4)
            ]
            for one in slow:
                one.sendall(GET)
            served = talk(port, GET + b"\r\n", peer="127.0.0.2")
            lost = b""
            with suppress(ConnectionError):
                lost = slow[0].recv(100)  # the oldest
            slow[1].sendall(b"\r\n")
            # There is room again, for one more.
            return served, lost, slow[1].recv(100), talk(port, GET + b"\r\n")

    (served, lost, kept, more), _ = asyncio.run(serve_and(crowd, connections=4))

    assert served.startswith(b"HTTP/1.1 200")
    assert lost == b""
    assert kept.startswith(b"HTTP/1.1 200")
    assert more.startswith(b"HTTP/1.1 200")


def test_closed_server_leaves_no_connection() -> None:
    async def run() -> bytes:
        server = PageServer(never, on_problem=print)
        port = await server.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"\r\n")
        await asyncio.sleep(0.05)
        await server.close()
        got = b""
        with suppress(ConnectionError):
            got = await reader.read()
        writer.close()
        return got

    async def never(_: PageRequest) -> Answer:
        await asyncio.sleep(3600)
        raise AssertionError

    assert asyncio.run(run()) == b""
