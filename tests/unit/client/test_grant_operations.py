"""The operations on grants, run by a list of calls and results, and killed at each call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest

from deviceflow import Client, LoginPending, OAuth, errors
from deviceflow.client import grant_end, grant_refresh, grant_token, purge, recorder
from deviceflow.client.kept import STALE
from deviceflow.client.lease import GRANT_MARGIN, Clocks
from deviceflow.client.world import Exchange
from deviceflow.core.grant import Grant
from deviceflow.core.ports import Stored
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState
from deviceflow.core.uses import Use
from deviceflow.core.wire import Failure
from deviceflow.core.wording import moment
from deviceflow.providers.dialect import RFC8628
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import VirtualClock, answer
from tests.listed import NOW, STEADY, TIMEOUT, Call, Listed, Raised, context
from tests.stored import get_grant
from tests.tapped import Tapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.client.world import World
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.wire import Request, Response
    from tests.listed import Expected

LIFE: Final = 1000.0
PROVIDER: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
)
RENEWED: Final = answer(
    200, {"access_token": "ACCESS-2", "refresh_token": "REFRESH-2", "expires_in": LIFE}
)
REFUSED: Final = answer(400, {"error": "invalid_grant"})
FAILING: Final = Raised(errors.StoreError("The disk is full.", hint="Make room."))
WAKES: Final = ("wake", None)


def first_token(now: float) -> Token:
    refresh = Secret("REFRESH-1")
    return Token(Secret("ACCESS-1"), expires_at=now + LIFE, refresh_token=refresh)


def active(left: float = LIFE) -> Grant:
    """Return a grant whose access token lives so long from now on."""
    grant = Grant("g1", "nightly", PROVIDER, NOW - 2000)
    at = NOW + left - LIFE
    grant.log_in(first_token(at), PROVIDER, at, flow_id="f1")
    return grant


def loads(grant: Grant | None, held: float = 0.0, now: float = NOW) -> Expected:
    return "load", None if grant is None else Stored(grant, now, now, held, uses=used(now))


def used(now: float) -> tuple[Use, ...]:
    """Return the uses of a grant that this test's client used just now."""
    return (Use(now, actor="tester"),)


def commits(committed: Any = True) -> Expected:
    return "commit", committed


def sends(result: Response | Failure | BaseException, seconds: float = 0.0) -> Expected:
    return "send", Exchange(result, STEADY + seconds)


def clocks_at(passed: float) -> Expected:
    return "clocks", Clocks(NOW + passed, STEADY + passed)


async def get_token(
    world: World, min_ttl: float = 60.0, timeout: float | None = None
) -> AccessToken:
    return await grant_token.get_token(world, "nightly", None, None, {}, min_ttl, "later", timeout)


def commits_of(driver: Listed) -> list[Call]:
    return driver.of("commit")


def test_nobody_is_asked_to_log_in_if_another_process_takes_the_token_of_the_login() -> None:
    """It takes the token after the grant was read, and before the login is looked for."""
    waiting = Grant("g1", "nightly", PROVIDER, NOW - 2000)
    waiting.raise_need("n1", Secret("LINK"), NOW - 2000)
    driver = Listed(
        *(loads(waiting), ("load", None), ("now", NOW)), *(loads(active()), loads(active()))
    )

    token = driver.run(get_token, context())

    assert token.access_token.reveal() == "ACCESS-1"


# With life left.


def test_token_with_life_left_is_one_read() -> None:
    driver = Listed(loads(active()))

    token = driver.run(get_token, context())

    assert (token.access_token, token.generation) == (Secret("ACCESS-1"), 1)
    assert driver.names == ["load"]


@pytest.mark.parametrize(("passed", "reads"), [(0.5, False), (STALE, True), (-5, False)])
def test_token_comes_from_memory_for_a_second(passed: float, reads: bool) -> None:
    by = context()
    Listed(loads(active())).run(get_token, by)

    again = Listed(clocks_at(passed), *([loads(active())] if reads else []))
    again.run(get_token, by)

    assert ("load" in again.names) is reads


def test_token_in_memory_is_not_given_beyond_its_life_nor_to_who_asks_for_another() -> None:
    by = context()
    Listed(loads(active(60.5))).run(get_token, by)

    Listed(clocks_at(0.6), loads(active(100))).run(get_token, by)
    Listed(loads(active())).run(
        grant_token.get_token, by, "nightly", PROVIDER, None, {}, 60.0, "later"
    )


@pytest.mark.parametrize("used_at", [None, NOW - 60, NOW + 5])
def test_use_is_noted_once_a_minute(used_at: float | None) -> None:
    stored = Stored(active(), NOW, used_at, uses=used(used_at or NOW))

    driver = Listed(("load", stored), ("use", None))
    driver.run(get_token, context())

    last = driver.calls[-1]
    assert last.name == "use"
    assert (last.grant_id, last.client_now) == ("g1", NOW)
    assert [use.at for use in last.uses] == [NOW]


# The refresh.


def test_refresh_is_stored_under_a_lease_before_it_is_sent_and_released_behind_it() -> None:
    driver = Listed(loads(active(30)), commits(), WAKES, sends(RENEWED), commits(), WAKES)

    token = driver.run(get_token, context())

    assert token.generation == 2
    assert driver.names == ["load", "refresh", "wake", "send", "renew", "wake"]
    begun, done = commits_of(driver)
    assert begun.lease is not None
    assert begun.lease.seconds == TIMEOUT + GRANT_MARGIN
    assert (begun.release, done.lease, done.release) == (None, None, begun.lease.owner)


def test_nothing_is_sent_if_others_went_on_and_what_they_got_is_used() -> None:
    driver = Listed(loads(active(30)), commits(False), loads(active()))

    assert driver.run(get_token, context()).generation == 1
    assert "send" not in driver.names


def test_others_use_what_they_have_or_wait_to_be_woken() -> None:
    grant = active(30)
    grant.refresh(NOW - 1)
    assert Listed(loads(grant, held=5)).run(get_token, context()).generation == 1

    ended = active(-5)
    ended.refresh(NOW - 6)
    waiting = Listed(loads(ended, held=5), ("watch", None), ("sleep", None), loads(active()))
    waiting.run(get_token, context())

    (sleep,) = waiting.of("sleep")
    assert (sleep.watched, sleep.seconds) == ("g1", 0.02)


def test_token_that_was_refused_is_not_given_while_others_get_the_next_one() -> None:
    by, old = context(), Secret("ACCESS-1")
    grant = active(30)
    grant.refresh(NOW - 1)
    told = Listed(loads(grant, held=5)).run(grant_end.refuse, by, "nightly", old)
    renewed = active()
    renewed.token = replace(first_token(NOW), access_token=Secret("ACCESS-2"))

    driver = Listed(loads(grant, held=5), ("watch", None), ("sleep", None), loads(renewed))

    assert (told, driver.run(get_token, by).access_token) == (True, Secret("ACCESS-2"))
    # Where others came to nothing, there is no better one.
    assert Listed(clocks_at(STALE), loads(active(600))).run(get_token, by).access_token == old


def test_token_that_was_refused_is_not_kept_by_whoever_read_it_before() -> None:
    by, old = context(), Secret("ACCESS-1")

    def refused_meanwhile(_: object) -> Stored[Grant]:
        by.tokens.refuse("nightly", old)
        return Stored(active(), NOW, NOW, uses=used(NOW))

    Listed(("load", refused_meanwhile)).run(get_token, by)

    again = Listed(loads(active()))
    again.run(get_token, by)

    assert again.names == ["load"]


@pytest.mark.parametrize(
    ("result", "stays"),
    [
        (Failure("timeout", sent=True), True),
        (Failure("connection", sent=True), False),
        (answer(502, "<html>"), False),
    ],
)
def test_lease_stays_while_the_server_may_be_at_work(
    result: Response | Failure, stays: bool
) -> None:
    driver = Listed(
        *(loads(active(30)), commits(), WAKES, sends(result), commits(), WAKES),
        loads(active(30), held=5),
    )

    driver.run(get_token, context())

    assert driver.names[4] == "lose_answer"
    assert (commits_of(driver)[1].release is None) is stays


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError("cancelled")])
def test_interrupted_refresh_is_on_record_as_in_doubt_and_raised(stop: BaseException) -> None:
    driver = Listed(loads(active(30)), commits(), WAKES, sends(stop), commits(), WAKES)

    with pytest.raises(type(stop)):
        driver.run(get_token, context())

    assert driver.names[4] == "lose_answer"
    assert commits_of(driver)[1].release is None


def test_too_little_is_left_of_the_lease_to_send_anything() -> None:
    late = clocks_at(3)
    driver = Listed(
        *(clocks_at(0), loads(active(30)), commits(), WAKES),
        *(late, commits(), WAKES, late, loads(active())),
    )

    driver.run(get_token, context())

    assert "send" not in driver.names
    assert "postpone" in driver.names


def test_tokens_are_kept_while_the_store_fails_and_saved_by_the_next_call() -> None:
    by = context()
    failing = Listed(
        *(loads(active(30)), commits(), WAKES, sends(RENEWED), ("commit", FAILING)),
        *(("sleep", None), ("commit", FAILING), clocks_at(99)),
    )
    # The clock is looked at after each failure; first there is time left.
    with pytest.raises(errors.StoreError, match="its tokens are in this process only") as caught:
        failing.run(get_token, by)
    assert "ACCESS" not in f"{caught.value!r} {vars(caught.value)}"

    saved = Listed(commits(), WAKES, loads(active()))
    saved.run(get_token, by)

    assert saved.names[:2] == ["renew", "wake"]
    (saving,) = commits_of(saved)
    assert saving.record.generation == 2
    assert by.refreshed.of("nightly") == []


def test_tokens_whose_commit_comes_too_late_are_set_aside() -> None:
    other = active(30)
    other.refresh(NOW)
    other.recover(NOW + 20, "w1")
    other.refresh(NOW + 20)
    driver = Listed(
        *(loads(active(30)), commits(), WAKES, sends(RENEWED), commits(False)),
        *(("load", Stored(other, NOW + 20)), commits(), WAKES),
        loads(active(30), held=5),
    )

    driver.run(get_token, context())

    assert driver.names[6] == "late_answer"
    assert commits_of(driver)[2].record.aside[0].access_token == Secret("ACCESS-2")


def test_tokens_that_were_stored_and_only_not_answered_are_stored_once() -> None:
    stored = active(30)
    stored.refresh(NOW)
    stored.receive(RENEWED, NOW)
    driver = Listed(
        *(loads(active(30)), commits(), WAKES, sends(RENEWED), commits(False)),
        ("load", Stored(stored, NOW)),
    )

    assert driver.run(get_token, context()).generation == 2


def test_grant_that_was_removed_meanwhile_is_an_error() -> None:
    driver = Listed(
        *(loads(active(30)), commits(), WAKES, sends(RENEWED), commits(False)),
        ("load", None),
    )

    by = context()

    with pytest.raises(errors.StoreError, match="removed"):
        driver.run(get_token, by)

    assert by.refreshed.of("nightly") == []  # the next grant of its name is another one


def test_server_that_is_slower_than_its_tokens_is_not_asked_for_ever() -> None:
    slow = answer(200, {"access_token": "ACCESS-2", "expires_in": 5})
    rounds: list[Expected] = []
    for _ in range(3):
        rounds += [loads(active(-5)), commits(), WAKES, sends(slow, 6.0), commits(), WAKES]

    assert Listed(*rounds).run(get_token, context()).generation == 2


# What else.


def test_invalidating_another_token_or_one_that_is_being_refreshed_does_nothing() -> None:
    busy = active(30)
    busy.refresh(NOW)

    for grant, token, said in ((active(), "OTHER", False), (busy, "ACCESS-1", True)):
        driver = Listed(loads(grant))
        refused = driver.run(grant_end.refuse, context(), "nightly", Secret(token))
        assert refused is said


def test_invalidating_is_tried_again_if_others_went_on() -> None:
    driver = Listed(loads(active()), commits(False), loads(active()), commits(), WAKES)

    assert driver.run(grant_end.refuse, context(), "nightly", Secret("ACCESS-1"))


@pytest.mark.parametrize(
    "found", [("load", Raised(errors.SealError(flow_id="g0"))), ("load", None)]
)
def test_sweep_passes_over_what_fails(found: Expected) -> None:
    swept = Listed(found, ("put_off", None)).run(grant_end.tend, context(), "bad")

    assert swept.names == []
    assert len(swept.problems) == 1
    assert Listed(loads(active())).run(grant_end.tend, context(), "fine") == (["fine"], [])


def test_the_servers_of_due_grants_take_turns() -> None:
    due = [*((f"slow{n}", "https://slow") for n in range(5)), ("fine", "https://fine")]
    driver = Listed(("due_grants", due))

    works = driver.run(grant_end.due, context(), 100.0, 3)

    assert [work.key for work in works] == ["slow0", "fine", "slow1"]


def test_sweep_puts_off_a_grant_in_doubt_that_is_not_to_be_refreshed_yet() -> None:
    grant = active(500)
    grant.provider = replace(PROVIDER, quirks=replace(RFC8628, replay_window=30.0))
    grant.refresh(NOW - 100)
    grant.receive(Failure("connection", sent=True), NOW - 90)
    driver = Listed(loads(grant), ("put_off", None))

    driver.run(grant_end.tend, context(), "nightly")

    assert driver.calls[-1] == Call("put_off", Grant, "nightly", NOW)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (Failure("connection", sent=False, cause="connection_refused"), "connection refused"),
        (Failure("timeout", sent=False), "timeout"),
        (answer(503, "<html>busy</html>"), "HTTP 503"),
        (answer(404, "<html>nowhere</html>"), "HTTP 404"),
        (answer(503, {"error": "temporarily_unavailable"}), "temporarily_unavailable"),
    ],
)
def test_expired_token_that_cannot_be_refreshed_yet_says_what_failed(
    result: Response | Failure, why: str
) -> None:
    grant = active(-10)
    grant.refresh(NOW - 0.01)
    grant.receive(result, NOW)
    driver = Listed(loads(grant))

    with pytest.raises(errors.UnreachableError) as caught:
        driver.run(get_token, context())

    said = f"The last request to https://as.example.com failed: {why}, no usable answer since"
    assert f"{said} {moment(NOW)} (1 request). Nothing is lost." in str(caught.value)


def test_grant_in_doubt_says_since_when_and_how_often_the_server_was_asked() -> None:
    grant = active(-200)
    for at in (NOW - 100, NOW):
        grant.refresh(at)
        grant.receive(Failure("connection", sent=True), at)
    driver = Listed(loads(grant))

    with pytest.raises(errors.UnreachableError, match="The grant is in doubt") as caught:
        driver.run(get_token, context())

    assert f"no usable answer since {moment(NOW - 100)} (2 requests)" in str(caught.value)


# Killed at each call.


class Rotating:
    """A server that rotates refresh tokens, and revokes all when one comes again.

    Attributes:
        issued: How many times it has issued tokens.
        reuses: How many times an old one came.
    """

    def __init__(self, clock: VirtualClock, grace: float) -> None:
        self.issued = 1
        self.reuses = 0
        self.revoked = False
        self._clock, self._grace, self._issued_at = clock, grace, 0.0

    def send(self, request: Request, timeout: float) -> Response | Failure:
        (text,) = parse_qs(request.body.decode())["refresh_token"]
        number = int(text.removeprefix("REFRESH-"))
        if self.revoked:
            return REFUSED
        now = self._clock.time()
        again = number == self.issued - 1 and now - self._issued_at < self._grace
        if number != self.issued and not again:
            self.reuses += 1
            self.revoked = True
            return REFUSED
        if not again:
            self.issued, self._issued_at = number + 1, now
        return answer(
            200,
            {
                "access_token": f"ACCESS-{self.issued}",
                "refresh_token": f"REFRESH-{self.issued}",
                "expires_in": LIFE,
            },
        )

    def close(self) -> None:
        pass


class Killed(BaseException):
    pass


class Mortal(Client):
    """A client whose process dies before a call."""

    dies_at = 10**9

    def _run(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._run(lambda world: operation(Tapped(world, self._live), *args, **kwargs))

    async def _live(self, _: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        if self.dies_at == 0:
            raise Killed
        self.dies_at -= 1
        return await call(*args, **kwargs)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    made: list[Any] = []

    def make() -> Any:
        if request.param == "memory":
            made.append(MemoryStore())
        else:
            made.append(SQLiteStore(tmp_path / f"{len(made)}.db", plaintext=True))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("grace", [0.0, 8.0, 10.0, 60.0])
@pytest.mark.filterwarnings("ignore")
def test_killed_at_any_call_a_grant_is_lost_only_with_tokens_that_nobody_received(
    store: Callable[[], Any], grace: float
) -> None:
    quirks = replace(RFC8628, replay_window=grace)
    provider = replace(PROVIDER, quirks=quirks)
    losses = finished = dies_at = 0
    while not finished:
        kept, clock = store(), VirtualClock()
        server = Rotating(clock, grace)

        def client(kept: Any = kept, clock: Any = clock, server: Any = server) -> Mortal:
            return Mortal(kept, clock=clock, transport=server)

        begun = clock.time()
        grant = Grant("g1", "nightly", provider, begun)
        given = grant.log_in(first_token(begun), provider, begun, flow_id="f1")
        event = recorder.render_grant(client()._context, grant, given, "w0")
        assert kept.commit(grant, event)
        clock.advance(LIFE * 0.95)
        mortal = client()
        mortal.dies_at = dies_at
        try:
            mortal.get_token("nightly", min_ttl=LIFE)
            finished = 1
        except Killed:
            pass
        stored = get_grant(kept, "nightly", clock.time())
        unreceived = server.issued > stored.generation

        # The next process comes at once, and asks again as soon as the lease has ended.
        waited = sum(context().refresh_limits(grace)) + 1
        clock.advance(waited)
        other = client()
        token = other.get_token("nightly", min_ttl=LIFE)  # the old one serves, whatever happened
        assert token.access_token.reveal() in {"ACCESS-1", f"ACCESS-{server.issued}"}
        clock.advance(LIFE)
        if unreceived and not grace:
            losses += 1
            for _ in range(3):
                with pytest.raises(LoginPending):
                    other.get_token("nightly")
            assert other.grant("nightly").state is GrantState.LOST
            assert server.reuses == 1
            if kept.keeps_trail:
                actions = [event["action"] for event in kept.events("g1")]
                assert actions.count("need") == 1
        else:
            token = other.get_token("nightly")
            assert token.access_token.reveal() == f"ACCESS-{server.issued}"
            assert (server.reuses, server.revoked) == (0, False)
        dies_at += 1
    assert dies_at > 5
    assert losses == (0 if grace else 1)


@pytest.mark.parametrize(
    ("window", "deadline", "margin"),
    [(0, 10, 4), (7.9, 10, 4), (8, 4, 1.6), (10, 5, 2), (20, 10, 4), (60, 10, 4)],
)
def test_lease_of_a_refresh_fits_into_the_servers_window(
    window: float, deadline: float, margin: float
) -> None:
    assert context().refresh_limits(window) == pytest.approx((deadline, margin))
    quirks = replace(RFC8628, replay_window=window)
    grant = active(30)
    grant.provider = replace(PROVIDER, quirks=quirks)
    driver = Listed(loads(grant), commits(), WAKES, sends(RENEWED), commits(), WAKES)

    driver.run(get_token, context())

    begun = commits_of(driver)[0]
    assert begun.lease is not None
    assert begun.lease.seconds == pytest.approx(deadline + margin)
    (sent,) = driver.of("send")
    assert sent.timeout == pytest.approx(deadline)


# A caller's time limit.


def test_time_limit_is_what_a_refresh_may_take() -> None:
    driver = Listed(loads(active(30)), commits(), WAKES, sends(RENEWED), commits(), WAKES)

    token = driver.run(get_token, context(), timeout=3.0)

    assert token.access_token == Secret("ACCESS-2")
    (sent,) = driver.of("send")
    assert sent.timeout == 3.0
    begun = commits_of(driver)[0]
    assert begun.lease is not None
    assert begun.lease.seconds == 3.0 + GRANT_MARGIN


def test_with_too_little_time_for_a_refresh_nothing_is_sent_or_changed() -> None:
    grant = active(-10)
    driver = Listed(loads(grant))

    with pytest.raises(errors.WaitTimeoutError, match="too little was left") as caught:
        driver.run(get_token, context(), timeout=0.9)

    assert isinstance(caught.value, TimeoutError)
    assert "Nothing was changed" in str(caught.value)
    assert commits_of(driver) == []


def test_time_limit_ends_the_wait_for_the_refresh_of_another_process() -> None:
    grant = active(-10)
    grant.refresh(NOW)
    driver = Listed(
        *(clocks_at(0), loads(grant, held=9), ("watch", None), ("sleep", None)),
        *(clocks_at(0.4), loads(grant, held=8), ("watch", None), ("sleep", None)),
        *(clocks_at(0.5), loads(grant, held=8)),
    )

    with pytest.raises(errors.WaitTimeoutError, match="another process is refreshing it"):
        driver.run(get_token, context(), timeout=0.41)

    waits = [call.seconds for call in driver.of("sleep")]
    assert waits == pytest.approx([0.02, 0.01])


def test_time_limit_does_not_matter_where_there_is_a_token() -> None:
    driver = Listed(loads(active()))

    assert driver.run(get_token, context(), timeout=0.0).access_token == Secret("ACCESS-1")


def test_save_does_nothing_where_nothing_is_unsaved() -> None:
    Listed().run(grant_refresh.save, context(), "nightly")


# Long after the end.


def ended(name: str, *, revocable: bool) -> Grant:
    grant = Grant("g1", name, PROVIDER, NOW - 5000)
    grant.log_in(first_token(NOW - 5000), PROVIDER, NOW - 5000, flow_id="f1")
    grant.log_out(NOW - 4000)
    if not revocable:
        grant.abandon_revocation(NOW - 3000)
    return grant


def test_purge_deletes_grants_page_by_page_and_passes_what_it_cannot_read_or_others_moved() -> None:
    young = ended("young", revocable=False)
    young.ended_at = NOW - 10
    driver = Listed(
        ("now", NOW),
        ("with_token", []),
        ("with_revoke", []),
        ("without_secrets", []),
        ("ended_grants", ["done", "gone", "left"]),
        *(loads(ended("done", revocable=False)), ("delete", 1)),
        loads(None),
        *(loads(ended("left", revocable=True)), commits(), WAKES, ("delete", 1)),
        ("ended_grants", ["moved", "read", "stale", "young"]),
        *(loads(ended("moved", revocable=True)), commits(False)),
        ("load", FAILING),
        *(loads(ended("stale", revocable=False)), ("delete", 0)),
        loads(young),
        ("ended_grants", []),
    )

    done = driver.run(purge.purge, context(), 100, 1000)

    assert (done.grants, len(done.problems)) == (2, 1)
    pages = driver.of("ended_grants")
    assert [page.after for page in pages] == ["", "left", "young"]
    assert {page.ended_before for page in pages} == {NOW - 1000}
    abandoned = [commit.event["action"] for commit in commits_of(driver)]
    assert abandoned == ["abandon_revocation"] * 2
