"""The auth objects for httpx and httpx2, on sync and async sessions."""

from __future__ import annotations

import asyncio
import importlib
import io
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from deviceflow import AsyncClient, Client, DeniedError, DeviceFlowError, LoginPending
from deviceflow.core.wire import Failure
from deviceflow.errors import UnreachableError, UsageError
from deviceflow.integrations import httpx as for_httpx
from deviceflow.integrations import httpx2 as for_httpx2
from deviceflow.testing import AsyncVirtualClock, VirtualClock, answer
from tests.awaited import Awaited, in_turn
from tests.integration.bearer import NAME, PROVIDER, THREADS, Issuer, Resource
from tests.integration.test_traceback_canary import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Session:
    """A session of httpx or httpx2, sync or async, with a client of the same kind.

    Attributes:
        library: The library.
        clock: What the client goes by.
        client: The client.
        http: The session.
    """

    def __init__(self, kind: str, issuer: Issuer, *, real_time: bool = False) -> None:
        self._runner = asyncio.Runner()
        name, _, how = kind.partition(" ")
        self.is_async = how == "async"
        self.library: Any = {"httpx": httpx, "httpx2": httpx2}[name]
        self.auth: Any = {"httpx": for_httpx, "httpx2": for_httpx2}[name].DeviceFlowAuth
        parts: dict[str, Any] = {"browser": lambda _: True, "output": lambda _: None}
        self.clock: VirtualClock | AsyncVirtualClock
        self.client: Client | AsyncClient
        if self.is_async:
            self.clock = AsyncVirtualClock()
            if not real_time:
                parts["clock"] = self.clock
            self.client = AsyncClient(transport=Awaited(issuer, in_turn), **parts)
            session = self.library.AsyncClient
        else:
            self.clock = VirtualClock()
            if not real_time:
                parts["clock"] = self.clock
            self.client = Client(transport=issuer, **parts)
            session = self.library.Client
        self.http: Any = session(trust_env=False, timeout=60, follow_redirects=True)

    def use(self, **settings: Any) -> Any:
        auth = self.auth(self.client, NAME, PROVIDER, **({"interactive": True} | settings))
        self.http.auth = auth
        return auth

    def run(self, result: Any) -> Any:
        async def awaited() -> Any:
            return await result

        return self._runner.run(awaited()) if isawaitable(result) else result

    def get(self, url: str, **how: Any) -> Any:
        return self.run(self.http.get(url, **how))

    def post(self, url: str, **how: Any) -> Any:
        return self.run(self.http.post(url, **how))

    def log_in(self) -> None:
        self.run(self.client.log_in(NAME, PROVIDER))

    def outcome(self, url: str) -> int | type[DeviceFlowError]:
        try:
            return int(self.get(url).status_code)
        except DeviceFlowError as raised:
            return type(raised)

    def at_once(self, url: str) -> list[int | type[DeviceFlowError]]:
        """Return what comes of many requests at the same time, in threads or tasks."""
        if not self.is_async:
            with ThreadPoolExecutor(THREADS) as pool:
                return list(pool.map(self.outcome, [url] * THREADS))

        async def status() -> int | type[DeviceFlowError]:
            try:
                return int((await self.http.get(url)).status_code)
            except DeviceFlowError as raised:
                return type(raised)

        async def together() -> list[int | type[DeviceFlowError]]:
            return await asyncio.gather(*(status() for _ in range(THREADS)))

        return self._runner.run(together())

    def close(self) -> None:
        self.run(self.http.aclose() if self.is_async else self.http.close())
        self.run(self.client.close())
        self._runner.close()


@pytest.fixture
def resource() -> Iterator[Resource]:
    one = Resource()
    yield one
    one.close()


@pytest.fixture
def other() -> Iterator[Resource]:
    one = Resource()
    yield one
    one.close()


@pytest.fixture
def issuer(resource: Resource) -> Issuer:
    return Issuer(resource.accepted)


# They share their code: each library and each way once, and all of them for the main test.
@pytest.fixture(params=["httpx sync", "httpx2 async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def session(kind: str, issuer: Issuer) -> Iterator[Session]:
    one = Session(kind, issuer)
    yield one
    one.close()


def test_it_logs_in_on_first_use_and_attaches_the_token_from_then_on(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    session.use()
    assert issuer.logins == 0

    answers = [session.get(f"{resource.url}/me") for _ in range(2)]

    assert [one.status_code for one in answers] == [200, 200]
    assert resource.tokens == ["access-1", "access-1"]
    assert issuer.logins == 1


def test_without_a_person_the_request_says_when_to_ask_again(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    session.use(interactive=False)
    with pytest.raises(LoginPending) as caught:
        session.get(f"{resource.url}/me")
    assert (caught.value.name, caught.value.wait_seconds) == (NAME, 60)
    assert (issuer.logins, resource.seen) == (0, [])

    session.log_in()

    assert session.outcome(f"{resource.url}/me") == 200


@pytest.mark.parametrize(
    "kind", ["httpx sync", "httpx async", "httpx2 sync", "httpx2 async"], indirect=True
)
@pytest.mark.parametrize("body", [{"content": b"the body"}, {"data": {"the": "body"}}, {}])
def test_on_a_401_the_token_is_refreshed_and_the_request_sent_once_more(
    session: Session, resource: Resource, issuer: Issuer, body: dict[str, Any]
) -> None:
    session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()

    done = session.post(f"{resource.url}/me", **body)

    assert done.status_code == 200
    assert [before.status_code for before in done.history] == [401]
    assert resource.tokens == ["access-1", "access-1", "access-2"]
    assert resource.seen[1][2] == resource.seen[2][2]
    assert bool(resource.seen[2][2]) == bool(body)
    assert done.request.headers["Authorization"] == "Bearer access-2"
    assert done.history[0].request.headers["Authorization"] == "Bearer access-1"
    assert (issuer.logins, issuer.refreshes) == (1, 1)


def test_token_is_refreshed_ahead_of_its_expiry(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    issuer.lifetime = 3600
    session.use(min_ttl=120)
    session.get(f"{resource.url}/me")
    session.clock.advance(3600 - 119)
    session.get(f"{resource.url}/me")

    assert resource.tokens == ["access-1", "access-2"]


@pytest.mark.parametrize("interactive", [True, False])
def test_where_refreshing_does_not_help_a_person_is_asked_again_if_one_is_there(
    session: Session, resource: Resource, issuer: Issuer, interactive: bool
) -> None:
    issuer.answer_refresh = answer(400, {"error": "invalid_grant"})
    session.log_in()
    session.use(interactive=interactive)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()

    done = [session.outcome(f"{resource.url}/me") for _ in range(3)]

    assert done == ([200, 200, 200] if interactive else [LoginPending] * 3)
    assert (issuer.logins, issuer.refreshes) == (1 + interactive, 1)


def test_a_person_who_says_no_is_asked_no_more(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    issuer.answer_login = answer(400, {"error": "access_denied"})
    session.use()

    done = [session.outcome(f"{resource.url}/me") for _ in range(3)]

    assert done == [DeniedError, LoginPending, LoginPending]
    assert issuer.logins == 1


def test_a_refresh_that_gets_no_answer_is_tried_again_at_a_later_request(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    issuer.answer_refresh = Failure("connection", sent=False)
    first = session.outcome(f"{resource.url}/me")
    issuer.answer_refresh = None
    session.clock.advance(60)

    assert first is UnreachableError
    assert session.outcome(f"{resource.url}/me") == 200


def test_a_server_that_refuses_everybody_ends_in_401_and_asks_nobody_twice(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    session.use()
    issuer._accepted = set()

    assert [session.outcome(f"{resource.url}/me") for _ in range(5)] == [401] * 5
    assert (issuer.logins, issuer.refreshes) == (1, 1)
    assert len(resource.seen) == 6


def test_a_server_that_issues_the_same_token_again_ends_in_401(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    issuer.answer_refresh = answer(200, {"access_token": "access-1", "token_type": "bearer"})

    assert [session.outcome(f"{resource.url}/me") for _ in range(3)] == [401] * 3
    assert (issuer.logins, issuer.refreshes) == (1, 1)


def test_requests_at_the_same_time_share_one_login_and_one_refresh(
    kind: str, resource: Resource, issuer: Issuer
) -> None:
    session = Session(kind, issuer, real_time=True)
    try:
        session.use()
        first = session.at_once(f"{resource.url}/me")
        resource.accepted.clear()
        # All of them are told 401 before any can refresh.
        resource.together = threading.Barrier(THREADS)
        then = session.at_once(f"{resource.url}/me")
    finally:
        session.close()

    assert first == then == [200] * THREADS
    assert (issuer.logins, issuer.refreshes) == (1, 1)
    assert resource.tokens.count("access-1") == 2 * THREADS
    assert resource.tokens.count("access-2") == THREADS


def test_a_body_that_cannot_be_had_twice_is_not_sent_twice_but_the_next_request_works(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"the "
        yield b"body"

    async def async_pieces() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    streams: Any = async_pieces if session.is_async else pieces

    done = [session.post(f"{resource.url}/me", content=streams()) for _ in range(2)]

    assert [one.status_code for one in done] == [401, 200]
    assert [sent for _, _, sent in resource.seen[1:]] == [b"the body", b"the body"]


def test_a_file_is_not_sent_again_from_its_end(resource: Resource, issuer: Issuer) -> None:
    session = Session("httpx sync", issuer)
    try:
        session.use()
        session.get(f"{resource.url}/me")
        resource.accepted.clear()
        done = session.post(f"{resource.url}/me", content=io.BytesIO(b"the body"))
    finally:
        session.close()

    assert done.status_code == 401
    assert [sent for _, _, sent in resource.seen[1:]] == [b"the body"]


def test_a_streamed_response_is_handed_over_before_its_end(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    request = session.http.build_request("GET", f"{resource.url}/stream")

    streamed = session.run(session.http.send(request, stream=True))
    began = (streamed.status_code, streamed.is_stream_consumed, resource.go_on.is_set())
    resource.go_on.set()
    body = session.run(streamed.aread() if session.is_async else streamed.read())

    assert began == (200, False, False)
    assert body == b'{"token": "access-2"}'


# Where the token goes.


def test_a_redirect_to_another_host_takes_no_token_along(
    session: Session, resource: Resource, other: Resource, issuer: Issuer
) -> None:
    session.use()

    done = session.get(f"{resource.url}/to?{other.url}/me")

    assert done.status_code == 401
    assert (resource.tokens, other.tokens) == (["access-1"], [None])
    assert (issuer.logins, issuer.refreshes) == (1, 0)


def test_a_redirect_to_another_host_and_back_is_no_way_to_the_token(
    session: Session, resource: Resource, other: Resource, issuer: Issuer
) -> None:
    session.use()

    done = session.get(f"{resource.url}/to?{other.url}/to?{resource.url}/me")

    assert done.status_code == 401
    assert (resource.tokens, other.tokens) == (["access-1", None], [None])
    assert (issuer.logins, issuer.refreshes) == (1, 0)


@pytest.mark.parametrize(("path", "body"), [("/to", b"the body"), ("/see", b"")])
def test_a_redirect_on_the_same_host_is_followed_with_a_new_token(
    session: Session, resource: Resource, issuer: Issuer, path: str, body: bytes
) -> None:
    session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()

    done = session.post(f"{resource.url}{path}?/me", content=b"the body")

    assert done.status_code == 200
    assert resource.seen[2:] == [("/me", "access-1", body), ("/me", "access-2", body)]


def test_requests_to_other_servers_than_its_own_go_without_the_token(
    session: Session, resource: Resource, other: Resource, issuer: Issuer
) -> None:
    session.use(origins=[resource.url])
    first = session.get(f"{resource.url}/to?{other.url}/me", follow_redirects=False)
    assert first.next_request is not None

    # The session attaches its `auth` to this as to any other request.
    led = session.run(session.http.send(first.next_request))
    told = session.get(f"{resource.url}@{other.url.removeprefix('http://')}/me")

    assert (led.status_code, told.status_code) == (401, 401)
    assert (resource.tokens, other.tokens) == (["access-1"], [None, None])


def test_without_origins_only_the_server_of_the_first_request_gets_the_token(
    session: Session, resource: Resource, other: Resource, issuer: Issuer
) -> None:
    session.use()
    assert session.get(f"{resource.url}/me").status_code == 200

    with pytest.warns(UserWarning, match=f"The request to {other.url} goes without the token"):
        assert session.get(f"{other.url}/me").status_code == 401

    assert (resource.tokens, other.tokens) == (["access-1"], [None])


# How it is used.


def test_a_client_of_the_other_kind_is_a_wrong_use(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    theirs = Client(transport=issuer) if session.is_async else AsyncClient()
    session.http.auth = session.auth(theirs, NAME, PROVIDER)

    with pytest.raises(UsageError, match=r"deviceflow\.AsyncClient|deviceflow\.Client"):
        session.get(f"{resource.url}/me")
    assert resource.seen == []


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_without_its_library_the_error_names_the_extra(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"deviceflow.integrations.{library}"
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(ImportError, match=rf"deviceflow\[{library}\]"):
        importlib.import_module(module)


def test_hooks_of_the_program_see_each_answer(
    session: Session, resource: Resource, issuer: Issuer
) -> None:
    seen: list[int] = []

    async def note_async(response: Any) -> None:
        seen.append(response.status_code)

    def note(response: Any) -> None:
        seen.append(response.status_code)

    session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    session.http.event_hooks = {"response": [note_async if session.is_async else note]}

    session.get(f"{resource.url}/me")

    assert seen == [401, 200]


def test_cookies_of_the_401_are_sent_along(kind: str, issuer: Issuer) -> None:
    def handle(request: Any) -> Any:
        cookies.append(request.headers.get("Cookie"))
        accepted = request.headers["Authorization"] == "Bearer access-2"
        return session.library.Response(200 if accepted else 401, headers={"Set-Cookie": "node=7"})

    cookies: list[str | None] = []
    session = Session(kind, issuer)
    session.use()
    session.http._transport = session.library.MockTransport(handle)
    try:
        assert session.get("https://api.example.com/me").status_code == 200
    finally:
        session.close()

    assert cookies == [None, "node=7"]


def test_no_token_is_in_a_log_or_a_repr(
    session: Session, resource: Resource, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    auth = session.use()
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    session.get(f"{resource.url}/me")

    assert "deviceflow.transition" in caplog.text
    for secret in ("access-", "refresh-1", "refresh-2", "WDJB-MJHT"):
        assert secret not in caplog.text
        assert secret not in repr(auth) + repr(vars(auth)) + repr(vars(auth._bearer))


@pytest.mark.parametrize(
    ("answered", "raised"),
    [
        (answer(400, {"error": "invalid_grant"}), LoginPending),
        (Failure("connection", sent=False), UnreachableError),
    ],
)
def test_no_token_is_in_a_traceback_with_locals(
    session: Session, resource: Resource, issuer: Issuer, answered: Any, raised: type[Exception]
) -> None:
    session.log_in()
    session.use(interactive=False)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    issuer.answer_refresh = answered

    for _ in ("after a 401", "before the request"):
        with pytest.raises(raised) as caught:
            session.get(f"{resource.url}/me")
        assert shown(caught.value, ("access-1", "refresh-1")) == set()
