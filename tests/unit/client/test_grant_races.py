"""What others do with a grant right before a login or a refresh token becomes its own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, LoginPending, OAuth, errors
from deviceflow.client import grant_page, recorder
from deviceflow.core import actions
from deviceflow.core.grant import Grant
from deviceflow.core.ports import GrantLease
from deviceflow.core.states import GrantState
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import load_grant

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.grant_view import GrantView
    from deviceflow.core.notice import LoginNeed

NOW: Final = 1_800_000_000.0
SERVER: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
    scopes="read",
)
CODE: Final = answer(
    200,
    {
        "device_code": "DEVICE-CODE-OF-THE-LOGIN",
        "user_code": "ABCD-EFGH",
        "verification_uri": "https://as.example.com/activate",
        "expires_in": 900,
        "interval": 1,
    },
)
ISSUED: Final = answer(
    200, {"access_token": "ACCESS-1", "refresh_token": "REFRESH-1", "expires_in": 1000}
)


class Shared(MemoryStore):
    """A store that others use, too: once, right before a grant is given tokens, or asked a code."""

    others: Callable[[], object] | None = None

    def commit(self, record: Any, event: Any, **parts: Any) -> bool:
        asks = event["action"] == actions.REQUEST_CODE
        gives_tokens = isinstance(record, Grant) and record.state.gives_tokens
        if (gives_tokens or asks) and self.others is not None:
            others, self.others = self.others, None
            others()
        return super().commit(record, event, **parts)


@pytest.fixture
def store() -> Shared:
    return Shared()


def client_of(store: Shared, *answers: Any, **parts: Any) -> Client:
    transport = ScriptedTransport(list(answers))
    parts |= {"output": lambda _: None}
    return Client(store, transport=transport, clock=VirtualClock(NOW), **parts)


def need(store: Shared) -> None:
    """Ask for a token that there is not, as a job does."""
    with suppress(LoginPending):
        client_of(store).get_token("nightly", SERVER)


def test_a_login_gives_the_grant_its_token_while_a_worker_notifies(store: Shared) -> None:
    told: list[LoginNeed] = []
    worker = client_of(store, notify=told.append)
    need(store)
    store.others = worker.sweep_grants

    view = client_of(store, CODE, ISSUED).log_in("nightly", SERVER, open_browser=False)

    assert len(told) == 1
    assert (view.state, view.generation) == (GrantState.ACTIVE, 1)


def test_a_code_is_requested_on_record_while_a_worker_notifies(store: Shared) -> None:
    told: list[LoginNeed] = []
    worker = client_of(store, notify=told.append)
    need(store)
    store.others = worker.sweep_grants
    stored = load_grant(store, "nightly", NOW)
    assert stored is not None
    assert stored.record.need is not None

    page = client_of(store, CODE)._run(grant_page.request_code, stored.record.need.link)

    assert len(told) == 1
    assert page is not None
    assert page.login is not None
    assert page.need.codes_at > NOW  # the request was counted


def test_a_login_is_done_if_a_job_takes_its_token_first(store: Shared) -> None:
    store.others = lambda: client_of(store).get_token("nightly", SERVER)

    view = client_of(store, CODE, ISSUED).log_in("nightly", SERVER, open_browser=False)

    assert (view.state, view.generation) == (GrantState.ACTIVE, 1)


def test_a_login_is_done_if_the_grant_gives_tokens_first(store: Shared) -> None:
    def others() -> None:
        client_of(store).adopt_grant("nightly", SERVER, refresh_token="BROUGHT-BY-ANOTHER")

    store.others = others

    view = client_of(store, CODE, ISSUED).log_in("nightly", SERVER, open_browser=False)

    assert (view.state, view.login_id) == (GrantState.ACTIVE, None)


def test_a_refresh_token_is_taken_while_a_job_asks_for_a_login(store: Shared) -> None:
    store.others = lambda: need(store)

    view = client_of(store).adopt_grant("nightly", SERVER, refresh_token="BROUGHT-BY-ANOTHER")

    assert view.state is GrantState.ACTIVE
    assert view.need_id is None


def test_a_second_refresh_token_is_refused(store: Shared) -> None:
    def others() -> None:
        client_of(store).adopt_grant("nightly", SERVER, refresh_token="BROUGHT-BY-ANOTHER")

    store.others = others

    with pytest.raises(errors.UsageError, match="gives tokens already"):
        client_of(store).adopt_grant("nightly", SERVER, refresh_token="BROUGHT-TOO-LATE")


def test_a_purge_ends_no_need_while_somebody_has_a_code_for_it(store: Shared) -> None:
    need(store)
    late = VirtualClock(NOW + 100 * 86400)
    person = Client(
        store,
        transport=ScriptedTransport([CODE, ISSUED]),
        clock=late,
        output=lambda _: None,
    )
    purger = Client(store, transport=ScriptedTransport([]), clock=late)
    person.start(SERVER, name="nightly")

    assert purger.purge().needs == 0
    assert purger.grant("nightly").need_id is not None

    late.advance(1000)
    assert purger.purge().needs == 1
    assert purger.grant("nightly").need_id is None


# A login although the grant gives tokens.

AGAIN: Final = answer(200, {"access_token": "ACCESS-2", "expires_in": 1000})
REVOKING: Final = replace(SERVER, revocation_endpoint="https://as.example.com/revoke")


def logged_in(store: Shared) -> None:
    client_of(store, CODE, ISSUED).log_in("nightly", REVOKING, open_browser=False)


def log_in_again(store: Shared, *answers: Any, **how: Any) -> tuple[GrantView, list[bytes]]:
    transport = ScriptedTransport([CODE, AGAIN, *answers])
    client = Client(store, transport=transport, clock=VirtualClock(NOW + 10), output=_silent)
    view = client.log_in("nightly", open_browser=False, **how)
    return view, [request.body for request in transport.requests if request.purpose == "revoke"]


def _silent(_line: str) -> None:
    pass


def test_a_login_is_for_a_grant_in_need_or_in_doubt_or_for_a_person_who_insists(
    store: Shared,
) -> None:
    logged_in(store)
    client = client_of(store)
    assert client.log_in("nightly").generation == 1

    view, revoked = log_in_again(store, answer(200, ""), answer(200, ""), again=True)
    assert (view.state, view.generation, view.refreshable) == (GrantState.ACTIVE, 2, False)
    assert [b"token=REFRESH-1" in revoked[0], b"token=ACCESS-1" in revoked[1]] == [True, True]
    assert view.revocations == 0
    assert client.get_token("nightly").access_token.reveal() == "ACCESS-2"


def test_a_grant_in_doubt_takes_a_login_and_what_cannot_be_revoked_now_is_left_to_a_sweep(
    store: Shared,
) -> None:
    logged_in(store)
    store_of_a_backup = client_of(store)
    assert store_of_a_backup.doubt_grants() == 1

    view, revoked = log_in_again(store, answer(503, ""))

    assert (view.state, view.generation, len(revoked)) == (GrantState.ACTIVE, 2, 1)
    assert view.revocations == 2
    assert view.unanswered_since is None


@pytest.mark.parametrize("died", [False, True])
def test_a_login_waits_for_the_refresh_in_flight_and_replaces_what_that_brings(
    store: Shared, died: bool
) -> None:
    logged_in(store)

    def refresh() -> None:
        stored = load_grant(store, "nightly", NOW + 10)
        assert stored is not None
        grant = stored.record
        begun = grant.refresh(NOW + 10)
        event = recorder.render_grant(client_of(store)._context, grant, begun, "another")
        moment = Client(clock=VirtualClock(NOW + 10))._timeline.read().now
        lease = None if died else GrantLease("another", 14.0, moment, None)
        assert store.commit(grant, event, lease=lease)

    store.others = refresh

    view, _ = log_in_again(store, answer(200, ""), answer(200, ""), again=True)

    assert (view.state, view.generation, view.revocations) == (GrantState.ACTIVE, 2, 0)
