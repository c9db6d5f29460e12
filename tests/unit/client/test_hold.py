"""A client that holds a login, and another one that takes it over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from deviceflow import errors
from deviceflow.core.encryption import generate_key
from deviceflow.core.states import State
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from deviceflow.worker import _drive
from tests.awaited import Awaited, in_turn
from tests.integration.places import CODE, GRANTED, OAUTH, PENDING, Place, sqlite
from tests.unit.client.test_async import Never, client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = sqlite(tmp_path)
    place.store.close()
    place.store = place.open(trail="summary")
    yield place
    place.close()


def actions(place: Place, flow_id: str) -> list[str]:
    return [event["action"] for event in place.sql.events(flow_id)]


def test_worker_holds_what_it_drives_and_the_next_one_takes_over_from_the_dead(
    place: Place,
) -> None:
    first = place.client(CODE, PENDING, PENDING)
    flow_id, seq = first.start(OAUTH).id, 1
    for _ in range(2):
        place.clock.advance(8)
        driven = first._run(_drive.drive, flow_id, seq)
        assert driven.next is not None
    assert actions(place, flow_id) == ["issue_code", "poll"]
    place.clock.advance(60)

    second = place.client(PENDING, GRANTED)
    assert [login.state for login in second.sweep().logins] == [State.AWAITING_USER]
    second._run(_drive.tidy)

    assert [event["action"] for event in place.sql.events("store")] == ["drive", "lapse"]
    second.wait_for_token(flow_id)
    assert actions(place, flow_id)[2:] == ["recover", "poll", "issue_token", "collect"]


def test_worker_that_stops_gives_all_back(place: Place) -> None:
    client = place.client(CODE, PENDING, GRANTED)
    flow_id = client.start(OAUTH).id
    place.clock.advance(8)
    client._run(_drive.drive, flow_id, 1)

    for flow_id in list(client._context.driver.flows):
        client._run(_drive.give_back, flow_id)
    client._run(_drive.stop)

    assert actions(place, flow_id) == ["issue_code", "poll", "let_go"]
    assert [event["action"] for event in place.sql.events("store")] == ["drive", "stop_driving"]
    place.clock.advance(8)
    assert place.client(GRANTED, store=place.store).step(flow_id).has_token


def test_login_that_others_have_cancelled_is_held_no_more(place: Place) -> None:
    client = place.client(CODE, PENDING)
    flow_id = client.start(OAUTH).id
    place.clock.advance(8)
    client._run(_drive.drive, flow_id, 1)

    place.client().cancel(flow_id)
    place.clock.advance(8)
    driven = client._run(_drive.drive, flow_id, 1)

    assert driven.login is not None
    assert driven.login.state is State.FAILED
    assert driven.next is None
    assert actions(place, flow_id) == ["issue_code", "poll", "cancel"]


def test_tokens_of_two_held_logins_that_the_store_fails_for_are_both_saved(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_token, second_token = (
        answer(200, {"access_token": token, "token_type": "bearer"}) for token in ("A", "B")
    )
    client = place.client(CODE, CODE, PENDING, PENDING, first_token, second_token)
    first, second = client.start(OAUTH).id, client.start(OAUTH).id
    place.clock.advance(8)
    for flow_id in (first, second):
        client._run(_drive.drive, flow_id, 1)
    place.clock.advance(8)

    def failing(*_: object, **__: object) -> bool:
        raise errors.StoreError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(place.store, "commit", failing)
        for flow_id in (first, second):
            with pytest.raises(errors.StoreError, match="in this process only"):
                client._run(_drive.drive, flow_id, 1)
    for flow_id in (first, second):
        assert client._run(_drive.drive, flow_id, 1).next is None

    tokens = [client.collect_token(flow_id).access_token for flow_id in (first, second)]
    assert [token.reveal() for token in tokens] == ["A", "B"]


def test_tasks_that_begin_to_hold_at_once_share_one_lease(tmp_path: Path) -> None:
    keys = [generate_key()]

    async def main() -> list[str]:
        path = tmp_path / "logins.db"
        async with AsyncSQLiteStore(path, keys=keys, trail="summary") as store:
            holder = client(transport=Awaited(Never(), in_turn), store=store)
            waits = [await holder.start(OAUTH) for _ in range(5)]
            ended = await asyncio.gather(*[holder.wait(one.id) for one in waits])
            assert {login.state for login in ended} == {State.EXPIRED}
            await holder.close()
        with SQLiteStore(path, keys=keys) as store:
            return [event["action"] for event in store.events("store")]

    happened = asyncio.run(main())
    # A task may be through before another begins, as the virtual clock does not wait for the store.
    assert happened == ["drive", "stop_driving"] * (len(happened) // 2)
