"""What type checkers say of programs that use deviceflow. Nothing here runs: mypy reads it.

A use that is right has the type that `assert_type` names. A use that is wrong has a comment that
silences one error. mypy reports a comment that silences none, so each wrong use stays an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, assert_type

import requests

import deviceflow
from deviceflow import (
    AsyncClient,
    Client,
    DeviceFlowAuth,
    Login,
    LoginPending,
    OAuth,
    Secret,
    State,
    Studio,
    Token,
    errors,
    open_store,
    origin,
    provider,
)
from deviceflow.auth import (
    DeviceLoginResponse,
    check_token_authentication,
    get_access_token,
    start_device_login,
)
from deviceflow.integrations import httpx as with_httpx
from deviceflow.notify import NotifyCommand, NotifyURL, notifier
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.stores.url import open_async_store
from deviceflow.testing import AsyncScriptedTransport, ScriptedTransport, VirtualClock, answer
from deviceflow.transports.httptools import HttptoolsTransport
from deviceflow.transports.requests import RequestsTransport
from deviceflow.typing import (
    AccessToken,
    Approver,
    AsyncStore,
    AsyncTransport,
    Clock,
    Failure,
    GrantState,
    GrantView,
    LoginNeed,
    LoginRequest,
    OnTransition,
    Origin,
    Provider,
    Purged,
    Reason,
    Request,
    Response,
    Store,
    Swept,
    SweptGrants,
    Transport,
)
from deviceflow.worker import Counts, Retention, Step, Worker

if TYPE_CHECKING:
    import httpx


def names_at_the_top() -> None:
    assert_type(deviceflow.__version__, str)
    assert_type(deviceflow.Client, type[Client])
    deviceflow.Flow  # type: ignore[attr-defined]  # noqa: B018


def studio_in_three_functions() -> None:
    assert_type(get_access_token(hostname="https://studio.example.com"), tuple[str, str])
    asked = start_device_login(client_name="robot", scopes=["EXPERIMENTS"])
    assert_type(asked, DeviceLoginResponse)
    assert_type(asked["device_code"], str)
    assert_type(asked.get("expires_in"), int | None)
    token = check_token_authentication(uri=asked["token_uri"], device_code=asked["device_code"])
    assert_type(token, str | None)

    get_access_token("https://studio.example.com")  # type: ignore[call-arg]
    get_access_token(hostname="https://studio.example.com", scopes=["MODELS"])  # type: ignore[arg-type]
    start_device_login(base_url="https://studio.example.com")  # type: ignore[call-arg]
    asked["interval"]  # type: ignore[typeddict-item]


def providers() -> None:
    oauth = OAuth(issuer="https://login.example.com", client_id="robot", scopes=["openid"])
    assert_type(oauth.with_request(scopes="openid email"), OAuth)
    assert_type(provider("github", client_id="robot"), OAuth)
    assert_type(Studio("https://studio.example.com").with_request(client_name="robot"), Studio)
    anyone: Provider = oauth
    anyone = Studio()
    assert_type(anyone.server, str)

    OAuth(issuer="https://login.example.com")  # type: ignore[call-arg]
    OAuth("https://login.example.com", client_id="robot")  # type: ignore[misc]
    oauth.client_id = "another"  # type: ignore[misc]
    oauth.with_request(scope="openid")  # type: ignore[call-arg]


def a_login_in_one_call(client: Client, oauth: OAuth) -> None:
    token = client.login(oauth, purpose="the nightly report", scopes=["openid"])
    assert_type(token, Token)
    assert_type(token.access_token, Secret)
    assert_type(token.access_token.reveal(), str)
    assert_type(token.expires_at, float | None)
    assert token.scopes is None or "openid" in token.scopes

    token.access_token + "x"  # type: ignore[operator]
    client.login("github")  # type: ignore[arg-type]
    client.login(oauth, "nightly")  # type: ignore[call-arg]
    client.login(oauth, scope="openid")  # type: ignore[call-arg]


def a_login_step_by_step(client: Client, oauth: OAuth) -> None:
    login = client.start(oauth, name="nightly")
    assert_type(login, Login)
    assert_type(login.id, str)
    assert_type(login.state, State)
    assert_type(login.reason, Reason | None)
    assert_type(login.wait_seconds, float)
    assert_type(login.has_token, bool)
    assert_type(client.step(login.id), Login)
    assert_type(client.wait(login.id, timeout=60), Login)
    assert_type(client.wait_for_token(login.id, on_step=print), Token)
    with client.collect(login.id) as token:
        assert_type(token, Token)
    assert_type(client.cancel(login.id, "over"), Login)
    assert_type(client.logins(skip_ended=True), Iterator[Login])
    assert_type(client.sweep(), Swept)
    assert_type(client.purge(), Purged)
    assert_type(client.refresh(oauth, token), Token)
    assert_type(client.export_login(login.id, ["key"]), str)
    assert_type(login.state is State.AWAITING_USER, bool)
    assert_type(login.state.ended, bool)

    client.step(login)  # type: ignore[arg-type]
    login.state = State.FAILED  # type: ignore[misc]
    login.device_code  # type: ignore[attr-defined]  # noqa: B018
    client.refresh(oauth, token.refresh_token)  # type: ignore[arg-type]
    client.logins(True)  # type: ignore[call-arg]


def a_token_that_stays_good(client: Client, oauth: OAuth) -> None:
    try:
        token = client.get_token("nightly", oauth, min_ttl=30, mint="now", scopes="openid")
    except LoginPending as pending:
        assert_type(pending.login, Login | None)
        assert_type(pending.link, Secret | None)
        assert_type(pending.wait_seconds, float)
        assert_type(pending.hint, str | None)
        return
    assert_type(token, AccessToken)
    assert_type(token.generation, int)
    assert_type(token.as_dict(), dict[str, Any])
    assert_type(client.invalidate("nightly", token), bool)
    assert_type(client.log_in("nightly", oauth), GrantView)
    assert_type(client.adopt_grant("nightly", oauth, refresh_token="r"), GrantView)
    assert_type(client.grant("nightly").state, GrantState)
    assert_type(client.grants(), Iterator[GrantView])
    assert_type(client.sweep_grants(), SweptGrants)

    client.get_token(oauth)  # type: ignore[arg-type]
    client.get_token("nightly", oauth, mint="soon")  # type: ignore[arg-type]
    token.refresh_token  # type: ignore[attr-defined]  # noqa: B018
    client.adopt_grant("nightly", oauth)  # type: ignore[call-arg]


async def the_same_for_asyncio(oauth: OAuth) -> None:
    async with AsyncClient("sqlite:///logins.db", transport=HttptoolsTransport()) as client:
        assert_type(client, AsyncClient)
        assert_type(await client.start(oauth), Login)
        assert_type(await client.login(oauth), Token)
        assert_type(await client.get_token("nightly", oauth), AccessToken)
        assert_type(client.logins(), AsyncIterator[Login])
        async for login in client.logins():
            assert_type(login, Login)
        async with client.collect("id") as token:
            assert_type(token, Token)

        client.start(oauth).id  # type: ignore[attr-defined]  # noqa: B018
        for _ in client.logins():  # type: ignore[attr-defined]
            pass
    with AsyncClient():  # type: ignore[attr-defined]
        pass
    AsyncClient(MemoryStore())  # type: ignore[arg-type]
    AsyncClient(transport=RequestsTransport())  # type: ignore[arg-type]


def stores_and_parts() -> None:
    assert_type(open_store(), Store)
    assert_type(open_async_store("memory:"), AsyncStore)
    store: Store = MemoryStore()
    store = SQLiteStore("logins.db", keys=["key"], synchronous="NORMAL")
    store = PostgresStore("postgresql:///logins", timeout=5)
    asynchronous: AsyncStore = AsyncSQLiteStore("logins.db")
    transport: Transport = RequestsTransport(requests.Session())
    transport = ScriptedTransport([answer(200, {"device_code": "c"})])
    for_asyncio: AsyncTransport = AsyncScriptedTransport([])
    clock: Clock = VirtualClock()
    with Client(store, transport=transport, clock=clock) as client:
        assert_type(client, Client)
    AsyncClient(asynchronous, transport=for_asyncio)

    SQLiteStore("logins.db", synchronous="OFF")  # type: ignore[arg-type]
    SQLiteStore()  # type: ignore[call-arg]
    store = AsyncSQLiteStore("logins.db")  # type: ignore[assignment]
    transport = HttptoolsTransport()  # type: ignore[assignment]
    Client(None, RequestsTransport())  # type: ignore[call-arg]


class Pigeons:
    """A transport of one's own."""

    def send(self, request: Request, timeout: float) -> Response | Failure:
        assert_type(request.url, str)
        assert_type(request.body, bytes)
        return Failure("connection", sent=False) if timeout else Response(200, {}, b"{}")

    def close(self) -> None: ...


class Deaf:
    """One that sends nothing is none."""

    def close(self) -> None: ...


def parts_of_ones_own() -> None:
    def approver(claims: dict[str, Any], /) -> bool:
        return claims.get("email") == "alice@example.com"

    def on_transition(event: dict[str, Any], /) -> None:
        assert_type(event, dict[str, Any])

    def notify(need: LoginNeed) -> None:
        assert_type(need.name, str)
        assert_type(need.to_dict(), dict[str, Any])

    policy: Approver = approver
    hook: OnTransition = on_transition
    Client(transport=Pigeons(), approver=policy, on_transition=hook, notify=notify)
    Client(notify=notifier("https://chat.example.com/hook"), origin=Origin(actor="alice"))
    Client(notify=NotifyCommand(["mail", "ops"]), browser=lambda url: url != "")
    AsyncClient(notify=NotifyURL("https://chat.example.com/hook"))
    with origin(actor="alice", engine="cron"):
        pass

    Client(transport=Deaf())  # type: ignore[arg-type]
    Client(approver=lambda: True)  # type: ignore[arg-type]
    Client(on_transition=notify)  # type: ignore[arg-type]
    Failure("lost", sent=True)  # type: ignore[arg-type]
    origin("alice")  # type: ignore[call-arg]


def what_one_login_asks_for(client: Client, oauth: OAuth) -> None:
    request: LoginRequest = {"scopes": ["openid"], "audience": None}
    client.start(oauth, **request)

    wrong: LoginRequest = {"scope": ["openid"]}  # type: ignore[typeddict-unknown-key]
    client.start(oauth, **wrong)


def with_requests_and_httpx(client: Client, oauth: OAuth) -> None:
    auth = DeviceFlowAuth(client, "report", oauth, origins=["https://api.example.com"])
    requests.get("https://api.example.com/report", auth=auth, timeout=10)
    of_httpx: httpx.Auth = with_httpx.DeviceFlowAuth(client, "report")
    of_httpx = with_httpx.DeviceFlowAuth(AsyncClient(), "report")
    assert_type(of_httpx.requires_request_body, bool)

    DeviceFlowAuth(AsyncClient(), "report")  # type: ignore[arg-type]
    DeviceFlowAuth(client, oauth)  # type: ignore[arg-type]


async def the_worker(client: AsyncClient) -> None:
    def on_step(step: Step) -> None:
        assert_type(step.login, Login | None)

    worker = Worker(client, retention=Retention(flows_after=86400), on_step=on_step)
    await worker.run(until_idle=True)
    assert_type(worker.counts, Counts)

    Worker(Client())  # type: ignore[arg-type]


def exceptions() -> None:
    try:
        Client().login(Studio())
    except (errors.DeniedError, errors.ExpiredError) as ended:
        assert_type(ended.flow_id, str | None)
        assert_type(ended.message, str)
    except errors.LoginError as ended:
        assert_type(ended.reason, str | None)
    except deviceflow.DeviceFlowError as error:
        assert_type(error.hint, str | None)
    try:
        Client().get("id")
    except LookupError as unknown:
        assert_type(unknown, LookupError)

    errors.DeniedError("No.", "id")  # type: ignore[call-arg]
