"""`DeviceFlowAuth` on sessions of `requests`, and tokens in sessions of other libraries."""

from __future__ import annotations

import io
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from requests_oauthlib import OAuth2Session as OAuthlibSession

from deviceflow import (
    Client,
    DeniedError,
    DeviceFlowAuth,
    DeviceFlowError,
    LoginPending,
    OAuth,
    Secret,
)
from deviceflow.client.clock import SystemClock
from deviceflow.core.grant import QUIET
from deviceflow.core.wire import Failure
from deviceflow.errors import (
    InsecureURLError,
    InvalidArgumentError,
    ProtocolError,
    UnreachableError,
)
from deviceflow.providers.dialect import RFC8628
from deviceflow.testing import VirtualClock, answer
from tests.integration.bearer import NAME, PROVIDER, THREADS, Issuer, Resource
from tests.integration.oidc_provider import Hurried
from tests.integration.test_traceback_canary import shown
from tests.stored import get_grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.notice import LoginNeed
    from tests.integration.oidc_provider import OIDCProvider


@pytest.fixture
def resource() -> Iterator[Resource]:
    one = Resource()
    yield one
    one.close()


@pytest.fixture
def issuer(resource: Resource) -> Issuer:
    return Issuer(resource.accepted)


def client_of(issuer: Issuer, clock: Any = None, **parts: Any) -> Client:
    parts |= {"browser": lambda _: True, "output": lambda _: None}
    return Client(transport=issuer, clock=clock, **parts)


def auth_of(issuer: Issuer, *, interactive: bool = True, **settings: Any) -> DeviceFlowAuth:
    client = client_of(issuer, VirtualClock())
    return DeviceFlowAuth(client, NAME, PROVIDER, interactive=interactive, **settings)


def auth_of_a_grant(
    issuer: Issuer, *, clock: Any = None, interactive: bool = True, **settings: Any
) -> DeviceFlowAuth:
    """Return the auth of a grant that is there already. Its token `old` is accepted nowhere."""
    client = client_of(issuer, clock or VirtualClock())
    kept, issuer.answer_login = (
        issuer.answer_login,
        answer(200, {"access_token": "old", "token_type": "bearer"}),
    )
    client.log_in(NAME, PROVIDER)
    issuer.answer_login, issuer.logins = kept, 0
    return DeviceFlowAuth(client, NAME, PROVIDER, interactive=interactive, **settings)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        yield one


def test_it_logs_in_on_first_use_and_attaches_the_token_from_then_on(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    session.auth = auth_of(issuer)
    assert issuer.logins == 0

    answers = [session.get(f"{resource.url}/me") for _ in range(2)]

    assert [one.status_code for one in answers] == [200, 200]
    assert resource.tokens == ["access-1", "access-1"]
    assert issuer.logins == 1


def test_with_a_grant_from_before_nobody_is_asked(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    resource.accepted.add("old")
    session.auth = auth_of_a_grant(issuer, interactive=False)

    assert session.get(f"{resource.url}/me").status_code == 200
    assert issuer.logins == 0


def test_a_first_login_that_fails_is_the_requests_error(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    issuer.answer_login = answer(400, {"error": "access_denied"})
    session.auth = auth_of(issuer)

    with pytest.raises(DeniedError):
        session.get(f"{resource.url}/me")
    assert resource.seen == []


def test_on_a_401_the_token_is_refreshed_and_the_request_sent_once_more(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    session.auth = auth_of(issuer)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()

    done = session.get(f"{resource.url}/me")

    assert done.status_code == 200
    assert [before.status_code for before in done.history] == [401]
    assert resource.tokens == ["access-1", "access-1", "access-2"]
    assert done.request.headers["Authorization"] == "Bearer access-2"
    assert (issuer.logins, issuer.refreshes) == (1, 1)


@pytest.mark.parametrize("refreshable", [True, False])
@pytest.mark.parametrize("interactive", [True, False])
def test_where_refreshing_does_not_help_a_person_is_asked_again_if_one_is_there(
    session: requests.Session,
    resource: Resource,
    issuer: Issuer,
    refreshable: bool,
    interactive: bool,
) -> None:
    issuer.refreshable = refreshable
    issuer.answer_refresh = answer(400, {"error": "invalid_grant"})
    client = client_of(issuer, VirtualClock())
    client.log_in(NAME, PROVIDER)
    session.auth = DeviceFlowAuth(client, NAME, PROVIDER, interactive=interactive)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()

    done = [outcome(session, resource) for _ in range(3)]

    assert done == ([200, 200, 200] if interactive else [LoginPending] * 3)
    assert issuer.logins == 1 + interactive
    assert issuer.refreshes == refreshable


def test_without_a_terminal_nobody_is_there(
    session: requests.Session,
    resource: Resource,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    session.auth = DeviceFlowAuth(client_of(issuer), NAME, PROVIDER)

    with pytest.raises(LoginPending) as caught:
        session.get(f"{resource.url}/me")

    assert (caught.value.name, caught.value.wait_seconds) == (NAME, 60)
    assert (issuer.logins, resource.seen) == (0, [])


def test_once_somebody_has_logged_in_elsewhere_the_request_works(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    client = client_of(issuer, VirtualClock())
    session.auth = DeviceFlowAuth(client, NAME, PROVIDER, interactive=False)
    assert outcome(session, resource) is LoginPending

    client.log_in(NAME, PROVIDER)

    assert outcome(session, resource) == 200


def test_a_person_who_says_no_is_asked_no_more(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    issuer.refreshable = False
    told: list[LoginNeed] = []
    client = client_of(issuer, VirtualClock(), notify=told.append)
    session.auth = DeviceFlowAuth(client, NAME, PROVIDER, interactive=True)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    issuer.answer_login = answer(400, {"error": "access_denied"})

    first = outcome(session, resource)
    assert (first, told) == (DeniedError, [])  # whoever is asked here needs no notification
    done = [first, *(outcome(session, resource) for _ in range(2))]
    assert len(told) == 1
    assert done == [DeniedError, LoginPending, LoginPending]
    assert issuer.logins == 2

    issuer.answer_login = None
    client.log_in(NAME)
    assert outcome(session, resource) == 200


def test_a_refresh_that_gets_no_answer_is_tried_again_at_a_later_request(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    clock = VirtualClock()
    client = client_of(issuer, clock)
    session.auth = DeviceFlowAuth(client, NAME, PROVIDER, interactive=True)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    issuer.answer_refresh = Failure("connection", sent=False)
    first = outcome(session, resource)
    issuer.answer_refresh = None
    clock.advance(60)

    assert first is UnreachableError
    assert outcome(session, resource) == 200
    assert issuer.logins == 1


def test_token_is_refreshed_ahead_of_its_expiry(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    issuer.lifetime = 3600
    clock = VirtualClock()
    session.auth = DeviceFlowAuth(
        client_of(issuer, clock), NAME, PROVIDER, interactive=True, min_ttl=120
    )
    session.get(f"{resource.url}/me")
    clock.advance(3600 - 121)
    session.get(f"{resource.url}/me")
    clock.advance(2)
    session.get(f"{resource.url}/me")

    assert resource.tokens == ["access-1", "access-1", "access-2"]
    assert issuer.refreshes == 1


def test_a_server_that_refuses_everybody_ends_in_401_and_asks_nobody_twice(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    session.auth = auth_of(issuer)
    issuer._accepted = set()

    assert [session.get(f"{resource.url}/me").status_code for _ in range(5)] == [401] * 5
    assert (issuer.logins, issuer.refreshes) == (1, 1)
    assert len(resource.seen) == 6


def test_a_constant_refusal_costs_one_refresh_a_minute_for_all_sessions(
    resource: Resource, issuer: Issuer, tmp_path: Path
) -> None:
    issuer._accepted = set()
    clock, store = VirtualClock(), f"sqlite:///{tmp_path / 'grants.db'}"
    sessions = [requests.Session() for _ in range(20)]
    with ExitStack() as stack:
        for session in sessions:
            stack.enter_context(session)
            client = stack.enter_context(client_of(issuer, clock, store=store))
            session.auth = DeviceFlowAuth(client, NAME, PROVIDER, interactive=True)
        for refreshes in (1, 1, 2):
            answers = [session.get(f"{resource.url}/me").status_code for session in sessions]
            assert (issuer.logins, issuer.refreshes, {*answers}) == (1, refreshes, {401})
            clock.advance(QUIET / 2 + 1)


@pytest.mark.parametrize(
    ("refusal", "settings", "entry", "again"),
    [
        ((401, None), {}, (401,), True),
        ((403, None), {}, (401,), False),
        ((403, 'Bearer error="invalid_token"'), {}, (401,), True),
        ((403, None), {"invalid_token_statuses": [401, 403]}, (401,), True),
        ((403, None), {}, (401, 403), True),
        ((401, None), {"invalid_token_statuses": [403]}, (401, 403), False),
        ((403, 'Bearer error="insufficient_scope"'), {}, (401, 403), False),
    ],
)
def test_what_refuses_a_token_is_a_setting_and_a_fact_of_the_provider(
    session: requests.Session,
    resource: Resource,
    issuer: Issuer,
    refusal: tuple[int, str | None],
    settings: dict[str, Any],
    entry: tuple[int, ...],
    again: bool,
) -> None:
    quirks = replace(RFC8628, invalid_token_statuses=entry)
    client = client_of(issuer, VirtualClock())
    provider = replace(PROVIDER, quirks=quirks)
    session.auth = DeviceFlowAuth(client, NAME, provider, interactive=True, **settings)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    resource.refusal = refusal

    assert session.get(f"{resource.url}/me").status_code == (200 if again else refusal[0])
    assert issuer.refreshes == again


@pytest.mark.parametrize("token_type", ["DPoP", "MAC", "N_A", "Bearer token"])
def test_token_of_another_type_is_not_sent_as_a_bearer_token(
    session: requests.Session, resource: Resource, issuer: Issuer, token_type: str
) -> None:
    issuer.token_type = token_type
    session.auth = auth_of(issuer)

    with pytest.raises(ProtocolError, match=f"of the type '{token_type}'"):
        session.get(f"{resource.url}/me")
    assert resource.seen == []


@pytest.mark.parametrize("token_type", ["bearer", "Bearer", "BEARER", None])
def test_bearer_is_written_in_any_case_or_left_out(
    session: requests.Session, resource: Resource, issuer: Issuer, token_type: str | None
) -> None:
    issuer.token_type = token_type
    session.auth = auth_of(issuer)

    assert session.get(f"{resource.url}/me").status_code == 200


def outcome(session: requests.Session, resource: Resource) -> int | type[DeviceFlowError]:
    """Return what a program sees of a request: its status, or what it raised."""
    try:
        return session.get(f"{resource.url}/me", timeout=60).status_code
    except DeviceFlowError as raised:
        return type(raised)


def in_threads(auth: DeviceFlowAuth, resource: Resource) -> list[int | type[DeviceFlowError]]:
    def work() -> int | type[DeviceFlowError]:
        with requests.Session() as session:
            session.auth = auth
            return outcome(session, resource)

    with ThreadPoolExecutor(THREADS) as pool:
        done = [pool.submit(work) for _ in range(THREADS)]
        return [one.result(timeout=60) for one in done]


def test_threads_share_one_login_and_one_refresh(resource: Resource, issuer: Issuer) -> None:
    auth = DeviceFlowAuth(client_of(issuer), NAME, PROVIDER, interactive=True)

    first = in_threads(auth, resource)
    resource.accepted.clear()
    # All of them are told 401 before any can refresh.
    resource.together = threading.Barrier(THREADS)
    then = in_threads(auth, resource)

    assert first == then == [200] * THREADS
    assert (issuer.logins, issuer.refreshes) == (1, 1)
    assert resource.tokens.count("access-1") == 2 * THREADS
    assert resource.tokens.count("access-2") == THREADS


def test_threads_that_are_refused_together_ask_a_person_once(
    resource: Resource, issuer: Issuer
) -> None:
    issuer.answer_login = answer(400, {"error": "access_denied"})
    auth = auth_of_a_grant(issuer, clock=SystemClock())
    resource.together = threading.Barrier(THREADS)

    done = in_threads(auth, resource)

    assert done.count(DeniedError) == 1
    assert done.count(LoginPending) == THREADS - 1
    assert issuer.logins == 1


def from_the_middle() -> io.BytesIO:
    stream = io.BytesIO(b"not this. the body")
    stream.seek(len(b"not this. "))
    return stream


@pytest.mark.parametrize(
    "body",
    [lambda: b"the body", lambda: "the body", from_the_middle],
    ids=["bytes", "text", "file"],
)
def test_a_body_is_sent_again_from_where_it_began(
    session: requests.Session, resource: Resource, issuer: Issuer, body: Callable[[], Any]
) -> None:
    session.auth = auth_of_a_grant(issuer)

    assert session.post(f"{resource.url}/me", data=body()).status_code == 200
    assert [sent for _, _, sent in resource.seen] == [b"the body", b"the body"]


def test_a_body_that_cannot_be_had_twice_is_not_sent_twice_but_the_next_request_works(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    session.auth = auth_of_a_grant(issuer)

    first = session.post(f"{resource.url}/me", data=iter([b"the ", b"body"]))
    then = session.post(f"{resource.url}/me", data=iter([b"the ", b"body"]))

    assert (first.status_code, then.status_code) == (401, 200)
    assert [sent for _, _, sent in resource.seen] == [b"the body", b"the body"]


def test_a_redirect_to_another_host_takes_no_token_along(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    other = Resource()
    session.auth = auth_of(issuer)
    try:
        done = session.get(f"{resource.url}/to?{other.url}/me")
    finally:
        other.close()

    assert done.status_code == 401
    assert (resource.tokens, other.tokens) == (["access-1"], [None])
    assert (issuer.logins, issuer.refreshes) == (1, 0)


def test_a_redirect_to_another_host_and_back_is_no_way_to_the_token(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    other = Resource()
    session.auth = auth_of(issuer)
    try:
        done = session.get(f"{resource.url}/to?{other.url}/to?{resource.url}/me")
    finally:
        other.close()

    assert done.status_code == 401
    assert (resource.tokens, other.tokens) == (["access-1", None], [None])
    assert (issuer.logins, issuer.refreshes) == (1, 0)


def test_requests_to_other_servers_than_its_own_go_without_the_token(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    other = Resource()
    session.auth = auth_of(issuer, origins=[f"{resource.url}/api/"])
    try:
        there = session.get(f"{other.url}/me")
        told = session.get(f"{resource.url}@{other.url.removeprefix('http://')}/me")
        led = session.get(f"{other.url}/to?{resource.url}/me")
        here = session.get(f"{resource.url}/me")
    finally:
        other.close()

    assert [one.status_code for one in (there, told, led, here)] == [401, 401, 401, 200]
    assert (other.tokens, resource.tokens) == ([None, None, None], [None, "access-1"])
    assert (issuer.logins, issuer.refreshes) == (1, 0)


def test_without_origins_only_the_server_of_the_first_request_gets_the_token(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    other = Resource()
    session.auth = auth_of(issuer)
    try:
        assert session.get(f"{resource.url}/me").status_code == 200
        with pytest.warns(UserWarning, match="goes without the token") as warned:
            statuses = [session.get(f"{other.url}/me").status_code for _ in range(2)]
        assert session.get(f"{resource.url}/me").status_code == 200
    finally:
        other.close()

    assert statuses == [401, 401]
    assert (other.tokens, resource.tokens) == ([None, None], ["access-1", "access-1"])
    [warning] = warned
    said = str(warning.message)
    assert said.startswith(f"The request to {other.url} goes without the token of the grant")
    assert f"went to {resource.url}, so only that server" in said
    assert "access-1" not in said


def header_of(auth: DeviceFlowAuth, url: str) -> str | None:
    """Return what a request would carry, which is not sent."""
    return requests.Request("GET", url, auth=auth).prepare().headers.get("Authorization")


def test_without_origins_no_token_crosses_a_network_in_clear(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = auth_of_a_grant(issuer)
    with pytest.raises(InsecureURLError, match=r"http://api\.example\.com would send") as refused:
        header_of(auth, "http://api.example.com/me")
    assert "old" not in str(refused.value)
    assert header_of(auth, "https://api.example.com/me") == "Bearer old"

    url = "http://api.example.com"
    assert header_of(auth_of_a_grant(issuer, origins=[url]), f"{url}/me") == "Bearer old"
    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", "1")
    assert header_of(auth_of_a_grant(issuer), f"{url}/me") == "Bearer old"


@pytest.mark.parametrize("name", ["bücher.example", "Bücher.example:443", "xn--bcher-kva.example"])
def test_an_origin_may_have_an_international_name(issuer: Issuer, name: str) -> None:
    auth = auth_of_a_grant(issuer, origins=[f"https://{name}"])

    assert header_of(auth, "https://bücher.example/me") == "Bearer old"
    assert header_of(auth, "https://xn--bcher-kva.example/me") == "Bearer old"


@pytest.mark.parametrize("url", ["api.example.com", "file:///etc", "https://", "https://[::1"])
def test_an_origin_that_is_none_is_refused(issuer: Issuer, url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="origin"):
        auth_of(issuer, origins=[url])


@pytest.mark.parametrize(("path", "body"), [("/to", b"the body"), ("/see", b"")])
def test_a_redirect_on_the_same_host_is_followed_with_a_new_token(
    session: requests.Session, resource: Resource, issuer: Issuer, path: str, body: bytes
) -> None:
    session.auth = auth_of_a_grant(issuer)

    done = session.post(f"{resource.url}{path}?/me", data=from_the_middle())

    assert done.status_code == 200
    assert resource.seen[1:] == [("/me", "old", body), ("/me", "access-1", body)]


def test_hooks_of_the_program_see_the_answer_that_counts(
    session: requests.Session, resource: Resource, issuer: Issuer
) -> None:
    session.auth = auth_of_a_grant(issuer)
    seen: list[tuple[str, int]] = []
    session.hooks["response"] = [
        lambda response, name=name, **_: seen.append((name, response.status_code))
        for name in ("one", "two")
    ]

    session.get(f"{resource.url}/me")

    assert seen == [("one", 200), ("two", 200)]


def test_no_token_is_in_a_log_or_a_repr(
    session: requests.Session,
    resource: Resource,
    issuer: Issuer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    session.auth = auth = auth_of(issuer)
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
    session: requests.Session,
    resource: Resource,
    issuer: Issuer,
    answered: Any,
    raised: type[Exception],
) -> None:
    client = client_of(issuer, VirtualClock())
    client.log_in(NAME, PROVIDER)
    session.auth = DeviceFlowAuth(client, NAME, interactive=False)
    session.get(f"{resource.url}/me")
    resource.accepted.clear()
    issuer.answer_refresh = answered

    for _ in ("after a 401", "before the request"):
        with pytest.raises(raised) as caught:
            session.get(f"{resource.url}/me")
        assert shown(caught.value, ("access-1", "refresh-1")) == set()


# At a real server, with its own resource.


class Real:
    """The real server, its resource, and a person who approves in their browser."""

    def __init__(self, server: OIDCProvider) -> None:
        self.server = server
        self.me = server.metadata["userinfo_endpoint"]
        self.asked = 0
        self.client = Client(clock=Hurried(), browser=self._approve, output=lambda _: None)
        self.provider = OAuth(
            issuer=server.issuer, client_id="public", scopes="openid email offline_access"
        )

    def _approve(self, page: str) -> bool:
        self.asked += 1
        self.server.approve(page, parse_qs(urlsplit(page).query)["user_code"][0])
        return True

    def revoke(self, token: Secret) -> None:
        requests.post(
            self.server.metadata["revocation_endpoint"],
            data={"client_id": "public", "token": token.reveal()},
            timeout=60,
        ).raise_for_status()


@pytest.fixture
def real(oidc_provider: OIDCProvider) -> Real:
    return Real(oidc_provider)


def test_at_a_real_server_it_logs_in_and_refreshes(session: requests.Session, real: Real) -> None:
    auth = DeviceFlowAuth(real.client, NAME, real.provider, interactive=True)

    def with_an_expired_token(request: requests.PreparedRequest) -> requests.PreparedRequest:
        auth(request).headers["Authorization"] = "Bearer expired"
        return request

    assert session.get(real.me, auth=auth).json()["email"] == "alice@example.com"
    done = session.get(real.me, auth=with_an_expired_token)

    assert done.json()["sub"] == "alice"
    assert [before.status_code for before in done.history] == [401]
    assert real.server.active(real.client.get_token(NAME).access_token.reveal())
    assert real.asked == 1


def test_at_a_real_server_a_person_is_asked_again_once_the_refresh_token_is_gone(
    session: requests.Session, real: Real
) -> None:
    session.auth = DeviceFlowAuth(real.client, NAME, real.provider, interactive=True)
    session.get(real.me)
    grant = get_grant(real.client._store, NAME)
    assert grant.token is not None
    assert grant.token.refresh_token is not None
    real.revoke(grant.token.refresh_token)  # the access token goes with it

    assert session.get(real.me).status_code == 200
    assert real.asked == 2


def test_a_token_in_use_is_not_revoked_by_purge(session: requests.Session, real: Real) -> None:
    session.auth = DeviceFlowAuth(real.client, NAME, real.provider, interactive=True)
    session.get(real.me)

    real.client.purge(tokens_after=0.0)

    assert session.get(real.me).status_code == 200
    assert real.asked == 1


def test_a_token_serves_a_session_of_authlib(real: Real) -> None:
    token = real.client.login(real.provider)
    kept: list[dict[str, Any]] = []

    with AuthlibSession(
        client_id="public",
        token=token.as_dict(),
        token_endpoint=real.server.metadata["token_endpoint"],
        token_endpoint_auth_method="none",
        update_token=lambda new, refresh_token, access_token=None: kept.append(new),
    ) as session:
        assert session.get(real.me).json()["email"] == "alice@example.com"
        session.refresh_token()
        assert session.token["access_token"] != token.access_token.reveal()
        assert session.get(real.me).json()["email"] == "alice@example.com"

        # It refreshes by itself, going by the expiry that came along.
        session.token = session.token | {"expires_at": 1}
        assert session.get(real.me).json()["sub"] == "alice"
    assert real.server.active(kept[-1]["access_token"])


def test_a_token_serves_a_session_of_requests_oauthlib(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    token = real.client.login(real.provider)
    kept: list[dict[str, Any]] = []

    with OAuthlibSession(
        "public",
        token=token.as_dict(),
        auto_refresh_url=real.server.metadata["token_endpoint"],
        auto_refresh_kwargs={"client_id": "public"},
        token_updater=kept.append,
    ) as session:
        assert session.get(real.me).json()["email"] == "alice@example.com"
        session.refresh_token(real.server.metadata["token_endpoint"], client_id="public")
        assert session.token["access_token"] != token.access_token.reveal()
        assert session.get(real.me).json()["email"] == "alice@example.com"

        # It refreshes by itself, going by the expiry that came along.
        session.token = session.token | {"expires_at": 1}
        assert session.get(real.me).json()["sub"] == "alice"
    assert real.server.active(kept[-1]["access_token"])
