"""A token whose first commit failed: the client holds it, and saves it later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import errors
from deviceflow.client._sync import Client
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.providers.oauth import OAuth
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.brief import brief
from tests.facade import AsyncFacade
from tests.stored import get as get_stored

if TYPE_CHECKING:
    from collections.abc import Callable

    Actions = Callable[[], list[str]]
    Make = Callable[..., Client]
    Unsaved = Callable[[], tuple[Client, str]]
    Rendered = Callable[[BaseException], str]

OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device_authorization",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
)
CODE: Final = answer(
    200,
    {
        "device_code": "DEVICE-CANARY",
        "user_code": "USER-CODE",
        "verification_uri": "https://as.example.com/device",
    },
)
PENDING: Final = answer(400, {"error": "authorization_pending"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
REVOKED: Final = answer(200, "")
TOKEN: Final = Secret("TOKEN-CANARY")


class Failing(MemoryStore):
    """Fails from the grant on, for so many seconds or until it is told that it is well."""

    def __init__(self, clock: VirtualClock, seconds: float = 1e9) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds
        self._well_at = 0.0
        self.reads_fail = False

    def _try(self) -> None:
        if self._clock.monotonic() < self._well_at:
            raise errors.StoreError("The disk is full.", hint="Make room.")

    def mend(self) -> None:
        self._well_at = 0.0

    def commit(self, record: Any, event: dict[str, Any], **how: Any) -> bool:
        if event["action"] == "issue_token" and not self._well_at:
            self._well_at = self._clock.monotonic() + self._seconds
            self._seconds = 0.0
        self._try()
        return super().commit(record, event, **how)

    def load(self, *what: Any, **how: Any) -> Any:
        if self.reads_fail:
            raise errors.StoreError
        return super().load(*what, **how)


@pytest.fixture
def store(clock: VirtualClock) -> Failing:
    return Failing(clock)


@pytest.fixture(params=[Client, AsyncFacade])
def client(request: pytest.FixtureRequest, clock: VirtualClock, store: Failing) -> Make:
    """Make a client of the store that is given these answers, one for each request."""
    return lambda *script: request.param(store, clock=clock, transport=ScriptedTransport(script))


def started(driver: Client, clock: VirtualClock) -> str:
    flow = driver.start(OAUTH)
    clock.advance(flow.wait_seconds)
    return flow.id


@pytest.fixture
def unsaved(client: Make, clock: VirtualClock) -> Unsaved:
    """Return a client that holds a token, and the name of the flow."""

    def failed() -> tuple[Client, str]:
        driver = client(CODE, GRANTED, REVOKED)
        name = started(driver, clock)
        with pytest.raises(errors.StoreError):
            driver.step(name)
        return driver, name

    return failed


def test_store_that_fails_for_a_moment_is_tried_again_within_the_step(
    clock: VirtualClock, actions: Actions
) -> None:
    store = Failing(clock, LEASE_MARGIN - 0.5)
    driver = Client(store, clock=clock, transport=ScriptedTransport([CODE, GRANTED]))
    name = started(driver, clock)

    assert brief(driver.step(name)) == (name, State.AUTHORIZED, 0.0, None)

    assert clock.slept == [1.0] * int(LEASE_MARGIN)
    assert actions() == ["issue_code", "poll", "issue_token"]
    assert driver.collect_token(name).access_token == TOKEN


def test_store_that_goes_on_failing_is_an_error_that_says_where_the_token_is(
    client: Make, clock: VirtualClock, rendered: Rendered
) -> None:
    driver = client(CODE, GRANTED)
    name = started(driver, clock)
    begun = clock.monotonic()

    with pytest.raises(errors.StoreError) as caught:
        driver.step(name)

    assert clock.monotonic() - begun == LEASE_MARGIN
    error = caught.value
    assert (error.flow_id, error.state) == (name, "authorized")
    assert "The disk is full. The login was approved, and its token is in this process" in str(
        error
    )
    assert "the next step of the login saves the token. Make room." in str(error)
    assert "CANARY" not in rendered(error).replace("USER-CODE", "")
    assert "CANARY" not in repr(vars(driver))


@pytest.mark.parametrize("later", [0.0, 15.0, 3600.0])
def test_next_step_saves_the_token(
    unsaved: Unsaved,
    store: Failing,
    clock: VirtualClock,
    actions: Actions,
    later: float,
) -> None:
    driver, name = unsaved()
    with pytest.raises(errors.StoreError):
        driver.step(name)
    clock.advance(later)
    store.mend()

    assert brief(driver.step(name)) == (name, State.AUTHORIZED, 0.0, None)

    assert actions() == ["issue_code", "poll", "issue_token"]
    assert driver.collect_token(name).access_token == TOKEN
    assert brief(driver.step(name)) == (name, State.AUTHORIZED, 0.0, None)
    assert actions() == ["issue_code", "poll", "issue_token", "collect"]


def test_waiting_saves_it_as_well(unsaved: Unsaved, store: Failing) -> None:
    driver, name = unsaved()
    store.mend()

    assert driver.wait_for_token(name).access_token == TOKEN


def test_sweep_saves_it_as_well_and_tells_of_it_until_then(
    unsaved: Unsaved, store: Failing, actions: Actions
) -> None:
    driver, name = unsaved()

    problem = driver.sweep().problems[0]
    assert problem.flow_id == name
    assert "in this process" in str(problem)
    store.mend()

    assert driver.sweep() == ([], [])
    assert actions()[-1] == "issue_token"


def test_token_is_saved_late_where_others_went_on_meanwhile(
    unsaved: Unsaved,
    store: Failing,
    client: Make,
    clock: VirtualClock,
    actions: Actions,
) -> None:
    driver, name = unsaved()
    store.mend()
    clock.advance(60)
    client(PENDING).step(name)

    assert driver.step(name).state is State.AUTHORIZED

    assert actions() == ["issue_code", "poll", "recover", "poll", "pending", "late_token"]
    token = driver.collect_token(name)
    assert (token.access_token, token.possibly_revoked) == (TOKEN, True)


def test_token_of_a_login_that_was_cancelled_meanwhile_is_revoked_once(
    unsaved: Unsaved, store: Failing, client: Make, actions: Actions
) -> None:
    driver, name = unsaved()
    store.mend()
    client().cancel(name)

    assert brief(driver.step(name)) == (name, State.FAILED, 0, Reason.CANCELLED)

    assert actions()[-3:] == ["cancel", "orphan_token", "revoke"]
    driver.step(name)
    assert actions()[-1] == "revoke"
    assert get_stored(driver._store, name).orphaned_tokens == 1


def test_token_is_kept_where_the_store_fails_after_it_refused(
    client: Make, clock: VirtualClock, actions: Actions
) -> None:
    """Others went on while the answer was on its way, and then nobody can be asked how far."""
    store = Failing(clock, 0.0)
    other = Client(store, clock=clock, transport=ScriptedTransport([PENDING]))

    def stalled(_: object) -> Any:
        clock.advance(60)
        other.step(name)
        store.reads_fail = True
        return GRANTED

    driver = Client(store, clock=clock, transport=ScriptedTransport([CODE, stalled]))
    name = started(driver, clock)
    with pytest.raises(errors.StoreError):
        driver.step(name)
    store.reads_fail = False

    assert driver.step(name).state is State.AUTHORIZED

    assert actions()[-2:] == ["pending", "late_token"]
    assert driver.collect_token(name).access_token == TOKEN


def test_late_token_is_not_before_what_others_did_between_its_arrival_and_its_commit(
    clock: VirtualClock,
) -> None:
    events: list[dict[str, Any]] = []

    class Suspended(MemoryStore):
        """The process is suspended before the token is committed."""

        def commit(self, record: Any, event: dict[str, Any], **how: Any) -> bool:
            if event["action"] == "issue_token":
                clock.advance(60)
                other.step(record.id)
            return super().commit(record, event, **how)

    store = Suspended()
    other, driver = (
        Client(store, clock=clock, transport=ScriptedTransport(script), on_transition=events.append)
        for script in ([PENDING], [CODE, GRANTED])
    )

    assert driver.step(started(driver, clock)).state is State.AUTHORIZED

    assert events[-1]["action"] == "late_token"
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


def test_step_of_another_thread_meanwhile_does_not_lose_the_token(
    clock: VirtualClock, actions: Actions
) -> None:
    class Asked(VirtualClock):
        """While the first step waits for the store, another one is made."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 1:
                store.mend()
                assert driver.step(name).state is State.AUTHORIZED

    asked = Asked()
    store = Failing(asked)
    driver = Client(store, clock=asked, transport=ScriptedTransport([CODE, GRANTED]))
    name = started(driver, asked)

    assert driver.step(name).state is State.AUTHORIZED

    assert actions() == ["issue_code", "poll", "issue_token"]
    assert get_stored(driver._store, name).token is not None
