"""Grants against a real server that rotates refresh tokens, and revokes all when one is reused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests

from deviceflow import Client, LoginPending, OAuth, Secret, Studio, open_store
from deviceflow.core.encryption import generate_key
from deviceflow.core.states import GrantState, Loss
from deviceflow.errors import UnknownGrantError, UnreachableError, UsageError
from deviceflow.providers.dialect import RFC8628
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import VirtualClock
from deviceflow.trail.verify import Verification
from deviceflow.transports.requests import RequestsTransport
from tests.stored import find, get_grant, get_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.wire import Failure, Request, Response

LONG: Final = 100_000
DAY: Final = 86_400
_PROCESSES, _, _SECONDS = os.environ.get("DEVICEFLOW_RACE", "8:6").partition(":")
PROCESSES: Final = int(_PROCESSES)
SECONDS: Final = float(_SECONDS)


class World:
    """A server, a store, and clients that go by one clock."""

    def __init__(self, server: LocalServer, url: str, key: Secret, **dialect: Any) -> None:
        self.server = server
        self.url = url
        self.path = url.removeprefix("sqlite:///")
        self.key = key
        self.clock = VirtualClock()
        self.told: list[LoginNeed] = []
        self.provider = OAuth(
            client_id="robot",
            device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
            token_endpoint=f"{server.url}/oauth/token",
            revocation_endpoint=f"{server.url}/oauth/revoke",
            scopes="read write offline_access",
            quirks=replace(RFC8628, **dialect),
        )
        self.store: Any = open_store(url, keys=[key])
        self.client = self.another()
        self.user_code = ""

    def another(self, **parts: Any) -> Client:
        return Client(
            self.store,
            clock=self.clock,
            notify=self.told.append,
            public_url="https://jobs.example.com/logins/",
            **parts,
        )

    def post(self, path: str, **body: Any) -> Any:
        done = requests.post(f"{self.server.url}/control/{path}", json=body, timeout=60)
        assert done.status_code == 200, done.text
        return done.json()

    def log_in(self, **asked: Any) -> AccessToken:
        with pytest.raises(LoginPending) as caught:
            self.client.get_token("nightly", self.provider, mint="now", **asked)
        login: Any = caught.value.login
        self.user_code = login.user_code
        self.post("approve", user_code=login.user_code)
        self.clock.advance(caught.value.wait_seconds)
        return self.client.get_token("nightly", self.provider, **asked)

    def spoil(self, **fault: Any) -> None:
        self.post("spoil", user_code=self.user_code, **fault)

    def log(self) -> dict[str, Any]:
        """Return what the server has on record of the grant."""
        found = requests.get(f"{self.server.url}/control/grants", timeout=60).json()["grants"]
        [grant] = [grant for grant in found if grant["user_code"] == self.user_code]
        return dict(grant)

    def use(self, token: AccessToken) -> requests.Response:
        bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
        return requests.get(f"{self.server.url}/oauth/resource", headers=bearer, timeout=60)

    def accepts(self, token: AccessToken) -> bool:
        return self.use(token).status_code == 200

    def actions(self) -> list[str]:
        grant = self.client.grant("nightly")
        return [event["action"] for event in self.store.events(grant.id)]

    def findings(self) -> list[Any]:
        with self.store.snapshot() as seen:
            return list(Verification(*seen).findings())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(dialect: dict[str, Any] | None = None, **settings: Any) -> World:
        how: dict[str, Any] = {"control": True, "interval": 0, "access_token_lifetime": LONG}
        server = LocalServer(Settings(**(how | settings)))
        url = f"sqlite:///{tmp_path}/grants-{len(made)}.db"
        made.append(World(server, url, generate_key(), **(dialect or {})))
        return made[-1]

    yield make
    for one in made:
        one.store.close()
        one.server.close()


def test_token_serves_through_twenty_refreshes_and_the_server_sees_no_reuse(
    world: Callable[..., World],
) -> None:
    here = world()
    token = here.log_in()
    assert (token.generation, token.scopes) == (1, ("read", "write", "offline_access"))

    for generation in range(2, 22):
        here.clock.advance(LONG * 0.6)
        token = here.client.get_token("nightly", min_ttl=LONG)
        assert token.generation == generation

    log = here.log()
    assert (log["refreshes"], log["generation"], log["reuses"]) == (20, 21, 0)
    assert (log["state"], here.accepts(token)) == ("active", True)
    assert here.actions().count("renew") == 20
    assert here.findings() == []


def test_token_with_life_left_costs_no_request(world: Callable[..., World]) -> None:
    here = world()
    token = here.log_in()
    sent = len(here.log()["requests"])

    again = [here.client.get_token("nightly", here.provider) for _ in range(3)]
    here.clock.advance(2)
    again.append(here.another().get_token("nightly"))

    assert {one.access_token.reveal() for one in again} == {token.access_token.reveal()}
    assert len(here.log()["requests"]) == sent
    assert here.actions() == ["need", "log_in"]


def test_person_is_asked_once_until_somebody_logs_in(world: Callable[..., World]) -> None:
    here = world()

    for _ in range(3):
        with pytest.raises(LoginPending) as caught:
            here.client.get_token("nightly", here.provider, purpose="the nightly report")
        here.clock.advance(caught.value.wait_seconds)

    (told,) = here.told
    assert (told.name, told.purpose, told.id) == (
        "nightly",
        "the nightly report",
        caught.value.need_id,
    )
    assert caught.value.login is None
    assert find(here.store, "nightly") is None  # no code was asked for
    here.clock.advance(86400)
    with pytest.raises(LoginPending):
        here.client.get_token("nightly")
    assert [need.id for need in here.told] == [told.id] * 2
    assert here.actions() == ["need", "notify", "notify"]
    here.log_in(purpose="the nightly report")
    assert here.client.grant("nightly").need_id is None


def test_login_that_somebody_else_began_under_the_name_is_taken(
    world: Callable[..., World],
) -> None:
    here = world()
    with pytest.raises(LoginPending):
        here.client.get_token("nightly", here.provider)
    login = here.another().start(here.provider, name="nightly")
    here.post("approve", user_code=login.user_code)
    here.clock.advance(login.wait_seconds)

    token = here.client.get_token("nightly")

    assert here.accepts(token)
    assert here.client.grant("nightly").login_id == login.id
    taken = here.client.get(login.id)
    assert not taken.has_token
    assert here.findings() == []


def test_login_that_was_denied_leaves_the_need(world: Callable[..., World]) -> None:
    here = world()
    with pytest.raises(LoginPending) as caught:
        here.client.get_token("nightly", here.provider, mint="now")
    login: Any = caught.value.login
    here.post("deny", user_code=login.user_code)
    here.clock.advance(caught.value.wait_seconds)

    with pytest.raises(LoginPending) as caught:
        here.client.get_token("nightly", here.provider)

    assert caught.value.need_id is not None
    assert here.client.grant("nightly").state is GrantState.WANTED


def test_code_is_shown_again_to_whoever_wishes_to_see_it(world: Callable[..., World]) -> None:
    here = world()

    def login(**wish: Any) -> Any:
        with pytest.raises(LoginPending) as caught:
            here.client.get_token("nightly", here.provider, **wish)
        return caught.value.login

    shown = login(mint="now")
    again = login(mint="now")

    assert (again.id, again.user_code) == (shown.id, shown.user_code)
    assert login() is None


def test_logging_in_in_front_of_a_person(world: Callable[..., World]) -> None:
    here = world()

    def approve(page: str) -> bool:
        here.post("approve", user_code=get_named(here.store, "nightly").user_code)
        return True

    client = here.another(browser=approve, output=lambda _: None)
    view = client.log_in("nightly", here.provider)

    assert (view.state, view.generation) == (GrantState.ACTIVE, 1)
    assert client.log_in("nightly").generation == 1  # there is nothing to do


def test_login_whose_token_another_call_takes_for_the_grant_is_no_failure(
    world: Callable[..., World],
) -> None:
    here = world()

    def approve(page: str) -> bool:
        here.post("approve", user_code=get_named(here.store, "nightly").user_code)
        here.clock.advance(60)
        here.client.get_token("nightly", here.provider)  # as a cron job does at that moment
        return True

    view = here.another(browser=approve, output=lambda _: None).log_in("nightly", here.provider)

    assert (view.state, view.generation) == (GrantState.ACTIVE, 1)


def test_other_settings_are_another_grant(world: Callable[..., World]) -> None:
    here = world()
    here.log_in()

    with pytest.raises(UsageError, match="with other settings"):
        here.client.get_token("nightly", here.provider, scopes="read")
    with pytest.raises(UnknownGrantError):
        here.client.get_token("weekly")
    with pytest.raises(UnknownGrantError):
        here.client.invalidate("weekly", "a token")


@pytest.mark.parametrize("name", ["", "nightly\0", "\ud800", "n" * 501, None, 5])
def test_name_that_no_store_keeps_is_refused_before_anything_is_sent(
    world: Callable[..., World], name: Any
) -> None:
    here = world()
    client = Client(clock=here.clock)  # a store in memory takes the same names

    for one in (here.client, client):
        for method in (one.get_token, one.log_in):
            with pytest.raises(UsageError, match="A grant's name is a text"):
                method(name, here.provider)
        for ask in (one.grant, one.log_out, lambda named, by=one: by.invalidate(named, "a token")):
            with pytest.raises(UsageError, match="A grant's name is a text"):
                ask(name)
        assert list(one.logins()) == []


def test_name_finds_no_grant_of_another_name(world: Callable[..., World]) -> None:
    here = world()
    with pytest.raises(LoginPending):
        here.client.get_token("\ufffd", here.provider)

    with pytest.raises(UsageError):
        here.client.log_out("\0")

    assert here.client.grant("\ufffd").need_id is not None


def test_good_token_is_given_where_the_store_can_only_be_read(
    world: Callable[..., World],
) -> None:
    here = world(access_token_lifetime=40 * DAY)
    here.client = Client(here.store, clock=here.clock)
    with pytest.raises(LoginPending):
        here.client.get_token("nightly", here.provider)
    token = here.log_in()
    here.clock.advance(2 * DAY)  # the use is to be noted, and the need's end was told to nobody

    with SQLiteStore(here.path, keys=[here.key], read_only=True) as store:
        reader = Client(store, clock=here.clock, notify=here.told.append)
        read = reader.get_token("nightly")

    assert read.access_token == token.access_token
    assert here.told == []


@pytest.mark.parametrize("approved", [False, True])
def test_login_that_is_open_does_not_bring_an_ended_grant_back(
    world: Callable[..., World], *, approved: bool
) -> None:
    here = world()
    with pytest.raises(LoginPending) as caught:
        here.client.get_token("nightly", here.provider, mint="now")
    login: Any = caught.value.login
    if approved:
        here.post("approve", user_code=login.user_code)
        here.clock.advance(caught.value.wait_seconds)
        assert here.client.step(login.id).has_token

    here.client.log_out("nightly")

    if not approved:
        here.post("approve", user_code=login.user_code)
    here.clock.advance(60)
    with pytest.raises(LoginPending) as again:
        here.client.get_token("nightly", here.provider)
    assert again.value.need_id is not None
    assert not here.client.get(login.id).has_token
    events = [event["action"] for event in here.store.events(login.id)]
    assert events[-1] == ("revoke" if approved else "cancel")
    assert here.findings() == []


def test_login_at_another_server_is_none_of_the_grants(world: Callable[..., World]) -> None:
    here = world()
    with pytest.raises(LoginPending):
        here.client.get_token("nightly", here.provider)
    other = here.client.start(here.provider, name="nightly", scopes="read")

    here.client.log_out("nightly")

    assert not here.client.get(other.id).state.ended


def test_token_that_a_resource_server_refused_is_refreshed_once(
    world: Callable[..., World],
) -> None:
    here = world()
    token = here.log_in()
    here.post("invalidate", user_code=here.user_code)
    assert not here.accepts(token)

    assert here.client.invalidate("nightly", token)
    assert not here.another().invalidate("nightly", token.access_token)
    fresh = here.client.get_token("nightly")
    assert not here.client.invalidate("nightly", token.access_token.reveal())

    assert here.accepts(fresh)
    assert (fresh.generation, here.log()["refreshes"]) == (2, 1)
    assert here.actions().count("invalidate") == 1


# A server that ends the old access token with each refresh, and answers 403 to it.


@pytest.mark.parametrize("known", [True, False])
def test_no_process_gives_a_token_that_a_refresh_ended(
    world: Callable[..., World], known: bool
) -> None:
    dialect = {"refresh_ends_token": known, "invalid_token_statuses": (403,)}
    here = world(dialect, refresh_ends_token=True, invalid_token_status=403)
    token, other = here.log_in(), here.another()
    here.clock.advance(LONG * 0.6)
    if not known:  # the first refusal tells
        fresh = here.client.get_token("nightly", min_ttl=LONG)
        with pytest.raises(requests.HTTPError, match="403"), token:
            here.use(token).raise_for_status()
        assert here.client.get_token("nightly") == fresh  # which was not refused
        here.clock.advance(LONG * 0.6)

    given = other.get_token("nightly")
    here.spoil(cut=5)
    with pytest.raises(UnreachableError, match="in doubt"):
        here.client.get_token("nightly", min_ttl=LONG)
    with pytest.raises(UnreachableError):  # which does not give the old token
        other.get_token("nightly", min_ttl=0)

    assert not here.accepts(given)
    here.clock.advance(10)
    with pytest.raises(LoginPending):
        other.get_token("nightly", min_ttl=0)
    assert here.findings() == []


# Answers that get lost.


def test_lost_answer_costs_the_grant_only_when_nothing_is_left_to_lose(
    world: Callable[..., World],
) -> None:
    here = world()
    token = here.log_in()
    here.spoil(cut=5)
    here.clock.advance(LONG * 0.9)

    used = [here.client.get_token("nightly", min_ttl=LONG) for _ in range(3)]
    assert {one.generation for one in used} == {1}
    assert here.accepts(token)
    assert here.client.grant("nightly").state is GrantState.IN_DOUBT
    assert (here.log()["refreshes"], here.log()["reuses"]) == (1, 0)

    here.clock.advance(LONG * 0.2)
    with pytest.raises(LoginPending):
        here.client.get_token("nightly")

    view = here.client.grant("nightly")
    assert (view.state, view.reason) == (GrantState.LOST, Loss.UNKNOWN)
    assert here.actions()[2:] == ["refresh", "lose_answer", "replay", "lose", "need", "notify"]
    assert len(here.told) == 1
    assert here.findings() == []
    assert here.log_in().generation == 2


def test_lost_answer_costs_nothing_where_the_server_answers_again(
    world: Callable[..., World],
) -> None:
    here = world({"replay_window": 60.0}, reuse_grace=60.0)
    here.log_in()
    here.spoil(cut=0)
    here.clock.advance(LONG * 0.9)

    token = here.client.get_token("nightly", min_ttl=LONG)  # the old one, which lives
    here.clock.advance(2)
    token = here.client.get_token("nightly", min_ttl=LONG)

    assert (token.generation, here.accepts(token)) == (2, True)
    assert (here.log()["replays"], here.log()["reuses"]) == (1, 0)
    assert here.actions()[2:] == ["refresh", "lose_answer", "replay", "renew"]


def test_outage_backs_off_while_the_token_lives_and_says_so_after_that(
    world: Callable[..., World],
) -> None:
    here = world()
    here.log_in()
    here.spoil(status=503, times=50)
    here.clock.advance(LONG * 0.9)

    for _ in range(5):
        assert here.client.get_token("nightly", min_ttl=LONG).generation == 1
        here.clock.advance(1.5)
    assert 1 < here.actions().count("postpone") < 5
    here.clock.advance(LONG)
    with pytest.raises(UnreachableError, match="could not be refreshed") as caught:
        here.client.get_token("nightly")
    assert f"The last request to {here.server.url} failed: temporarily_unavailable, " in str(
        caught.value
    )
    with pytest.raises(UnreachableError, match="Nothing is lost") as caught:
        here.client.get_token("nightly")
    assert caught.value.wait_seconds is not None
    assert caught.value.wait_seconds > 0
    assert here.client.grant("nightly").state is GrantState.ACTIVE


class Stalling:
    """A transport that stalls with the answer in its hands, while others go on."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._transport = RequestsTransport()
        self._meanwhile = meanwhile

    def send(self, request: Request, timeout: float) -> Response | Failure:
        answer = self._transport.send(request, timeout)
        if b"refresh_token" in request.body:
            self._meanwhile()
        return answer

    def close(self) -> None:
        self._transport.close()


def test_late_answer_is_what_others_wait_for(world: Callable[..., World]) -> None:
    here = world()
    here.log_in()
    here.clock.advance(LONG * 0.9)

    def meanwhile() -> None:
        here.clock.advance(60)  # the lease ends
        other = here.another()
        assert other.get_token("nightly", min_ttl=LONG).generation == 1
        assert other.grant("nightly").state is GrantState.IN_DOUBT

    stalled = here.another(transport=Stalling(meanwhile))
    token = stalled.get_token("nightly", min_ttl=LONG)

    assert (token.generation, here.accepts(token)) == (2, True)
    assert here.actions()[2:] == ["refresh", "recover_refresh", "use_late_answer"]
    assert here.findings() == []


def test_late_answer_that_comes_after_the_loss_brings_the_grant_back(
    world: Callable[..., World],
) -> None:
    here = world()
    here.log_in()
    here.clock.advance(LONG * 0.9)

    def meanwhile() -> None:
        here.clock.advance(LONG)  # lease and token end: the last resort is all that is left
        with pytest.raises(LoginPending):
            here.another().get_token("nightly")

    stalled = here.another(transport=Stalling(meanwhile))
    with pytest.raises(LoginPending):
        # The server has revoked all by then, and the late tokens ended while they were late.
        stalled.get_token("nightly", min_ttl=LONG)

    done = here.actions()
    begun = ["need", "log_in", "refresh", "recover_refresh", "replay", "lose", "need"]
    assert done[: len(begun)] == begun
    assert "use_late_answer" in done
    assert done.count("lose") == 2
    assert here.client.grant("nightly").state is GrantState.LOST


# Sweeps, and the end.


def test_sweep_refreshes_ahead_what_is_in_use(world: Callable[..., World]) -> None:
    here = world()
    here.log_in()
    assert here.client.sweep_grants().names == []
    here.clock.advance(LONG * 0.8)

    assert here.client.sweep_grants(unused=60).names == []
    assert here.client.sweep_grants() == (["nightly"], [])

    assert here.client.grant("nightly").generation == 2
    assert here.client.sweep_grants().names == []


def test_logging_out_revokes_at_the_server(world: Callable[..., World]) -> None:
    here = world()
    token = here.log_in()

    view = here.client.log_out("nightly")

    assert (view.state, view.revocations, view.expires_at) == (GrantState.REVOKED, 0, None)
    assert not here.accepts(token)
    assert here.log()["state"] != "active"
    with pytest.raises(LoginPending):
        here.client.get_token("nightly")
    assert here.client.log_out("nightly").revocations == 0
    assert here.findings() == []


def test_grants_of_a_restored_store_are_used_until_their_tokens_end(
    world: Callable[..., World],
) -> None:
    here = world()
    here.log_in()
    assert here.client.doubt_grants() == 1
    assert here.client.doubt_grants() == 0
    here.clock.advance(LONG * 0.9)

    assert here.client.get_token("nightly", min_ttl=LONG).generation == 1
    assert here.log()["refreshes"] == 0
    here.clock.advance(LONG * 0.2)
    # The answer may have brought tokens that were issued since the backup: they are renewed again.
    assert here.client.get_token("nightly").generation == 3
    assert here.log()["reuses"] == 0


def test_studios_token_serves_until_it_is_refused_and_a_person_is_asked_then(
    world: Callable[..., World],
) -> None:
    here = world()
    studio = Studio(here.server.url)
    with pytest.raises(LoginPending) as caught:
        here.client.get_token("studio", studio, mint="now", client_name="robot")
    login: Any = caught.value.login
    here.post("approve", user_code=login.user_code)
    here.clock.advance(caught.value.wait_seconds)
    token = here.client.get_token("studio")

    here.clock.advance(1e6)
    assert here.client.get_token("studio") == token
    assert here.client.invalidate("studio", token)
    with pytest.raises(LoginPending):
        here.client.get_token("studio")

    view = here.client.grant("studio")
    assert (view.reason, view.refreshable) == (Loss.INVALIDATED, False)


def test_no_secret_is_logged_or_kept_in_clear(
    world: Callable[..., World], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    here = world()
    seen = [here.log_in().access_token.reveal()]
    grant: Any = get_grant(here.store, "nightly", here.clock.time())
    seen.append(grant.token.refresh_token.reveal())
    here.clock.advance(LONG * 0.9)
    seen.append(here.client.get_token("nightly", min_ttl=LONG).access_token.reveal())
    here.client.log_out("nightly")
    with pytest.raises(LoginPending) as caught:
        here.client.get_token("nightly")
    link = here.told[-1].link
    assert link is not None
    seen.append(link.reveal().rpartition("/")[2])
    here.store.close()

    said = f"{caplog.text} {caught.value!r} {vars(caught.value)} {here.told!r}"
    said += " ".join(repr(vars(record)) for record in caplog.records)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("grants-*.db*"))
    assert not [secret for secret in seen if secret in said or secret.encode() in kept]


# Many processes.


@pytest.fixture(params=["sqlite", "postgres"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/race.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


def test_processes_that_use_one_grant_refresh_it_once_each_time(shared_url: str) -> None:
    settings = Settings(
        control=True, interval=0, access_token_lifetime=2, any_client=True, guess_limit=1000
    )
    with LocalServer(settings) as server:
        here = World(server, shared_url, generate_key())
        client = Client(here.store, deadline=60)
        with pytest.raises(LoginPending) as caught:
            client.get_token("nightly", here.provider, mint="now")
        login: Any = caught.value.login
        here.user_code = login.user_code
        here.post("approve", user_code=login.user_code)
        client.wait(login.id)
        client.get_token("nightly")

        command = [sys.executable, "-m", "tests.integration.racer"]
        racers = [
            subprocess.Popen(
                [*command, shared_url, server.url, str(SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        for racer in racers:  # all at once
            assert racer.stdin is not None
            racer.stdin.write(here.key.reveal() + "\n")
            racer.stdin.flush()
        done = [racer.communicate(timeout=300)[0] for racer in racers]
        said = [json.loads(text) for text in done]
        log = here.log()
        view = client.grant("nightly")
        renewed = here.actions().count("renew")

        assert [one["pending"] for one in said] == [0] * PROCESSES, (said, log, here.actions())
        assert sum(one["uses"] for one in said) > PROCESSES
        assert log["refreshes"] == renewed == log["generation"] - 1 == view.generation - 1
        assert log["refreshes"] >= 2
        assert (log["reuses"], log["replays"], log["state"]) == (0, 0, "active")
        assert view.state is GrantState.ACTIVE
        assert here.findings() == []
        here.store.close()


@pytest.mark.parametrize(
    ("offline", "entry", "refreshable"),
    [
        ("auto", {"refresh_scope": "offline_access"}, True),
        ("off", {"refresh_scope": "offline_access"}, False),
        ("auto", {}, False),
        ("on", {}, True),
    ],
)
def test_login_of_a_grant_asks_for_a_refresh_token_where_the_entry_says_how(
    world: Callable[..., World], offline: Any, entry: dict[str, Any], refreshable: bool
) -> None:
    here = world(entry)
    here.provider = replace(here.provider, scopes="read", offline=offline)

    token = here.log_in()

    assert here.client.grant("nightly").refreshable is refreshable
    assert token.scopes == ("read", "offline_access")[: 1 + refreshable]
    assert here.client.get_token("nightly", here.provider).access_token == token.access_token


def test_login_without_the_scope_for_a_refresh_token_counts_all_the_same(
    world: Callable[..., World],
) -> None:
    here = world({"refresh_scope": "offline_access"})
    here.provider = replace(here.provider, scopes="read")
    begun = here.client.start(here.provider, name="nightly")
    here.post("approve", user_code=begun.user_code)
    here.clock.advance(begun.wait_seconds)

    token = here.client.get_token("nightly", here.provider)

    assert token.scopes == ("read",)
    assert not here.client.grant("nightly").refreshable


@pytest.mark.parametrize("rotation", ["never", "lenient"])
def test_lost_refresh_is_sent_again_at_any_time_where_old_refresh_tokens_stay_good(
    world: Callable[..., World], rotation: str
) -> None:
    here = world({"rotation": rotation}, reuse_grace=3600)
    here.log_in()
    here.spoil(cut=0, times=2)
    here.clock.advance(LONG * 0.9)
    assert here.client.get_token("nightly", min_ttl=LONG).generation == 1

    here.clock.advance(5000)  # longer than any window, and the token lives
    token = here.client.get_token("nightly", min_ttl=LONG)

    assert (token.generation, here.accepts(token)) == (2, True)
    assert here.actions()[2:] == ["refresh", *(2 * ["lose_answer", "replay"]), "renew"]
