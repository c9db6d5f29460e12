"""Flows in memory, where that has something of its own: the rest is in the stores' contract.

See `tests/integration/test_store_contract.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from deviceflow.audit.events import render
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Claim
from deviceflow.core.states import State
from deviceflow.errors import UnknownLoginError
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.flow import Transition

    Waiting = Callable[..., Flow]

NOW: Final = 1_800_000_000.0


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def new(flow_id: str, name: str | None = None) -> Flow:
    return Flow(flow_id, Studio("https://studio.example.com"), NOW, name=name)


def commit(store: MemoryStore, flow: Flow, moved: Transition) -> bool:
    return store.commit(flow, render(flow, moved))


def test_store_tells_how_many_flows_it_keeps(store: MemoryStore) -> None:
    assert len(store) == 0

    store.add(new("f1"))

    assert len(store) == 1


def test_key_may_be_an_enums_member(store: MemoryStore) -> None:
    store.add(new("f1", State.INIT))

    assert store.add(new("f2", "init")).id == "f1"


# Forgetting.


def test_removed_flow_is_forgotten_with_its_key_and_lease(
    store: MemoryStore, waiting: Waiting
) -> None:
    store.add(new("f1", "nightly"))
    store.claim("f1", "w1", NOW, 20)

    store.remove("f1")

    assert len(store) == 0
    with pytest.raises(UnknownLoginError):
        get(store, "f1")
    assert store.add(new("f1", "nightly")).id == "f1"
    assert isinstance(store.claim("f1", "w2", NOW, 20), Claim)


def test_removing_an_old_flow_leaves_the_keys_new_one(store: MemoryStore) -> None:
    flow = store.add(new("f1", "nightly"))
    commit(store, flow, flow.cancel(NOW))
    store.add(new("f2", "nightly"))

    store.remove("f1")

    assert store.add(new("f3", "nightly")).id == "f2"


@pytest.mark.parametrize("name", [None, "nightly"])
def test_removing_twice_is_no_error(store: MemoryStore, name: str | None) -> None:
    store.add(new("f1", name))

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
    flow.extra = (("odd", object()),)  # type: ignore[assignment]  # what cannot be kept, to see the frames that hold it

    with pytest.raises(ValueError, match="unmarshallable") as caught:
        commit(store, flow, flow.poll(NOW, 10.0))

    frames = rendered(caught.value).partition("Traceback")[2]
    assert "self = <parked flow f1>" in frames
    assert "CANARY" not in frames
    assert "CANARY" not in repr(vars(store))
