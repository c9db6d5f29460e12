"""Flows in memory: one live flow for a key, one holder of a lease, and no lost update."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.errors import UnknownFlowError
from deviceflow.flow import Flow
from deviceflow.machine import State
from deviceflow.messages import Failure
from deviceflow.providers.studio import Studio
from deviceflow.stores.base import Claim, Held
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.messages import Response
    from deviceflow.stores.base import Store

    Waiting = Callable[..., Flow]

NOW: Final = 1_800_000_000.0
ENDS: Final = [
    answer(200, {"access_token": "TOKEN-CANARY"}),
    answer(400, {"detail": "access_denied"}),
    answer(400, {"detail": "authorization_expired"}),
]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def new(flow_id: str, key: str | None = None) -> Flow:
    return Flow(flow_id, Studio("https://studio.example.com"), NOW, key=key)


def everything(flow: Flow) -> dict[str, Any]:
    return {name: getattr(flow, name) for name in Flow.__slots__}


def ended(store: MemoryStore, flow: Flow) -> None:
    assert store.commit(flow, flow.cancel(NOW))


def test_store_says_that_it_does_not_persist(store: MemoryStore) -> None:
    keeps: Store = store

    assert keeps.persistent is False


# Keeping.


def test_new_flow_is_kept_and_returned_itself(store: MemoryStore) -> None:
    flow = new("f1")

    assert store.add(flow) is flow
    assert everything(store.get("f1")) == everything(flow)
    assert len(store) == 1


@pytest.mark.parametrize("end", [None, Failure("timeout", sent=True), *ENDS], ids=repr)
def test_flow_is_kept_whole(
    store: MemoryStore, waiting: Waiting, end: Response | Failure | None
) -> None:
    flow = waiting(NOW, interval=7)
    if end is not None:
        flow.poll(NOW, 10.0)
        flow.receive(end, NOW + 1)
    store.add(flow)

    assert everything(store.get("f1")) == everything(flow)


def test_each_look_is_at_a_copy_of_ones_own(store: MemoryStore, waiting: Waiting) -> None:
    flow = store.add(waiting(NOW))
    store.get("f1").cancel(NOW)
    claim = store.claim("f1", "w1", NOW, 20)
    claim.flow.cancel(NOW)
    held = store.claim("f1", "w2", NOW, 20)
    held.flow.cancel(NOW)
    flow.cancel(NOW)

    assert store.get("f1").state is State.AWAITING_USER


def test_committed_flow_is_kept_as_it_was_then(store: MemoryStore, waiting: Waiting) -> None:
    flow = store.add(waiting(NOW))
    assert store.commit(flow, flow.poll(NOW, 10.0))

    flow.cancel(NOW)

    assert store.get("f1").state is State.POLLING


@pytest.mark.parametrize(
    "use",
    [lambda store: store.get("f9"), lambda store: store.claim("f9", "w1", NOW, 20)],
    ids=["get", "claim"],
)
def test_unknown_flow_is_an_error_that_names_it(
    store: MemoryStore, use: Callable[[MemoryStore], object]
) -> None:
    with pytest.raises(UnknownFlowError) as caught:
        use(store)

    assert caught.value.flow_id == "f9"


# Keys.


def test_live_flow_of_the_key_is_returned_instead(store: MemoryStore) -> None:
    first = store.add(new("f1", "nightly"))

    again = store.add(new("f2", "nightly"))

    assert again.id == "f1"
    assert again is not first
    assert len(store) == 1


def test_keys_do_not_mix(store: MemoryStore) -> None:
    flows = [store.add(new(f"f{n}", key)) for n, key in enumerate(["a", "b", "", None, None])]

    assert [flow.id for flow in flows] == ["f0", "f1", "f2", "f3", "f4"]
    assert store.add(new("f5", "")).id == "f2"


def test_key_is_free_once_its_flow_has_ended(store: MemoryStore) -> None:
    ended(store, store.add(new("f1", "nightly")))

    assert store.add(new("f2", "nightly")).id == "f2"
    assert store.add(new("f3", "nightly")).id == "f2"
    assert store.get("f1").state is State.FAILED


def test_key_may_be_an_enums_member(store: MemoryStore) -> None:
    store.add(new("f1", State.INIT))

    assert store.add(new("f2", "init")).id == "f1"


def test_one_of_many_threads_makes_the_flow_of_a_key(store: MemoryStore) -> None:
    barrier = threading.Barrier(8)

    def add(number: int) -> str:
        barrier.wait()
        return store.add(new(f"f{number}", "nightly")).id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(add, range(8)))) == 1


# Committing.


def test_commit_on_what_others_changed_is_refused(store: MemoryStore, waiting: Waiting) -> None:
    mine = store.add(waiting(NOW))
    theirs = store.get("f1")
    assert store.commit(theirs, theirs.poll(NOW, 10.0))

    assert not store.commit(mine, mine.cancel(NOW))
    assert store.get("f1").state is State.POLLING


def test_commit_of_the_same_transition_twice_is_refused(
    store: MemoryStore, waiting: Waiting
) -> None:
    flow = store.add(waiting(NOW))
    moved = flow.poll(NOW, 10.0)

    assert store.commit(flow, moved)
    assert not store.commit(flow, moved)


def test_commit_of_a_flow_that_is_not_kept_is_refused(store: MemoryStore, waiting: Waiting) -> None:
    flow = waiting(NOW)

    assert not store.commit(flow, flow.poll(NOW, 10.0))
    assert len(store) == 0


def test_one_of_many_threads_commits(store: MemoryStore, waiting: Waiting) -> None:
    store.add(waiting(NOW))
    barrier = threading.Barrier(8)

    def commit(_: int) -> bool:
        flow = store.get("f1")
        moved = flow.poll(NOW, 10.0)
        barrier.wait()
        return store.commit(flow, moved)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(commit, range(8))) == 1
    assert store.get("f1").attempt == 1


# Leases.


def test_lease_is_taken_and_says_what_time_it_is(store: MemoryStore, waiting: Waiting) -> None:
    store.add(waiting(NOW))

    claim = store.claim("f1", "w1", NOW, 20)

    assert isinstance(claim, Claim)
    assert (claim.now, claim.left_by) == (NOW, None)


def test_lease_that_is_held_says_for_how_long(store: MemoryStore, waiting: Waiting) -> None:
    store.add(waiting(NOW))
    store.claim("f1", "w1", NOW, 20)

    held = store.claim("f1", "w2", NOW + 15, 20)

    assert isinstance(held, Held)
    assert held.seconds == 5


def test_lease_that_ran_out_goes_to_the_next_and_says_who_left_it(
    store: MemoryStore, waiting: Waiting
) -> None:
    store.add(waiting(NOW))
    store.claim("f1", "w1", NOW, 20)

    claim = store.claim("f1", "w2", NOW + 20, 20)

    assert isinstance(claim, Claim)
    assert claim.left_by == "w1"
    assert isinstance(store.claim("f1", "w3", NOW + 21, 20), Held)


def test_lease_given_back_is_free_at_once(store: MemoryStore, waiting: Waiting) -> None:
    store.add(waiting(NOW))
    store.claim("f1", "w1", NOW, 20)

    store.release("f1", "w1")

    claim = store.claim("f1", "w2", NOW, 20)
    assert isinstance(claim, Claim)
    assert claim.left_by is None


def test_commit_gives_the_lease_back_where_it_is_asked_to(
    store: MemoryStore, waiting: Waiting
) -> None:
    store.add(waiting(NOW))
    claim = store.claim("f1", "w1", NOW, 20)
    store.commit(claim.flow, claim.flow.poll(NOW, 10.0))
    assert isinstance(store.claim("f1", "w2", NOW, 20), Held)

    store.commit(claim.flow, claim.flow.cancel(NOW), release="w1")

    assert isinstance(store.claim("f1", "w2", NOW, 20), Claim)


def test_refused_commit_gives_the_lease_back_all_the_same(
    store: MemoryStore, waiting: Waiting
) -> None:
    store.add(waiting(NOW))
    claim = store.claim("f1", "w1", NOW, 20)
    theirs = store.get("f1")
    store.commit(theirs, theirs.cancel(NOW))

    assert not store.commit(claim.flow, claim.flow.poll(NOW, 10.0), release="w1")
    assert isinstance(store.claim("f1", "w2", NOW, 20), Claim)


def test_nobody_gives_back_the_lease_of_another(store: MemoryStore, waiting: Waiting) -> None:
    store.add(waiting(NOW))
    store.claim("f1", "w1", NOW, 20)
    store.claim("f1", "w2", NOW + 20, 20)

    store.release("f1", "w1")
    store.release("f1", "w9")
    store.release("f9", "w1")

    assert isinstance(store.claim("f1", "w3", NOW + 21, 20), Held)


def test_one_of_many_threads_gets_the_lease(store: MemoryStore, waiting: Waiting) -> None:
    store.add(waiting(NOW))
    barrier = threading.Barrier(8)

    def claim(number: int) -> bool:
        barrier.wait()
        return isinstance(store.claim("f1", f"w{number}", NOW, 20), Claim)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1


# Forgetting.


def test_removed_flow_is_forgotten_with_its_key_and_lease(
    store: MemoryStore, waiting: Waiting
) -> None:
    store.add(new("f1", "nightly"))
    store.claim("f1", "w1", NOW, 20)

    store.remove("f1")

    assert len(store) == 0
    with pytest.raises(UnknownFlowError):
        store.get("f1")
    assert store.add(new("f1", "nightly")).id == "f1"
    assert isinstance(store.claim("f1", "w2", NOW, 20), Claim)


def test_removing_an_old_flow_leaves_the_keys_new_one(store: MemoryStore) -> None:
    ended(store, store.add(new("f1", "nightly")))
    store.add(new("f2", "nightly"))

    store.remove("f1")

    assert store.add(new("f3", "nightly")).id == "f2"


@pytest.mark.parametrize("key", [None, "nightly"])
def test_removing_twice_is_no_error(store: MemoryStore, key: str | None) -> None:
    store.add(new("f1", key))

    store.remove("f1")
    store.remove("f1")
    store.remove("unknown")

    assert len(store) == 0


# Secrets.


def test_what_is_kept_shows_no_secret(
    store: MemoryStore, waiting: Waiting, rendered: Callable[[BaseException], str]
) -> None:
    flow = waiting(NOW)
    store.add(flow)
    flow.extra = (("odd", object()),)  # what cannot be kept, to see the frames that hold it

    with pytest.raises(ValueError, match="unmarshallable") as caught:
        store.commit(flow, flow.poll(NOW, 10.0))

    frames = rendered(caught.value).partition("Traceback")[2]
    assert "stored = <parked flow f1>" in frames
    assert "CANARY" not in frames
    assert "CANARY" not in repr(vars(store))
