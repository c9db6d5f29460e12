"""A trail that leaves pending polls out tells what one of each event tells, and as surely."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow.audit.events import render
from deviceflow.core.encryption import generate_key
from deviceflow.core.omitted import is_omissible
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail import query
from deviceflow.trail.stats import Stats
from deviceflow.trail.verify import Verification
from tests.evidence.histories import Login, origin
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.audit.mode import TrailMode
    from deviceflow.stores.sql import SQLStore
    from tests.postgres import PostgresServer

_MODES: Final[tuple[TrailMode, ...]] = ("each", "summary", "each")
FEW: Final = examples(20, of=10)
_numbers: Final = count(1)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stores(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
) -> Iterator[list[SQLStore]]:
    """Open a store whose trail has each event, and the same database twice, in both modes."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            folder = tmp_path_factory.mktemp("stores")
            each, mixed = folder / "each.db", folder / "mixed.db"
            yield [
                stack.enter_context(SQLiteStore(path, synchronous="NORMAL", trail=trail))
                for path, trail in zip((each, mixed, mixed), _MODES, strict=True)
            ]
            return
        key = generate_key()
        urls = [postgres_server.database(), postgres_server.database()]
        yield [
            stack.enter_context(PostgresStore(url, keys=[key], trail=trail))
            for url, trail in zip((*urls, urls[1]), _MODES, strict=True)
        ]
        stack.close()
        for url in urls:
            postgres_server.drop(url)


def found(store: SQLStore) -> list[tuple[str, str | None]]:
    with store.snapshot() as snapshot:
        return [(one.kind, one.flow_id) for one in Verification(*snapshot).findings()]


@FEW
@given(seed=st.integers(0, 2**32), most=st.integers(1, 60), share=st.sampled_from([0, 0, 0.1, 0.5]))
def test_history_in_both_modes_tells_the_same(
    stores: list[SQLStore], seed: int, most: int, share: float
) -> None:
    each, summary, other = stores
    flow_id = f"f{next(_numbers)}"
    for kept, another in ((each, each), (summary, other)):
        # The same dice for both; sometimes a process in the other mode goes on with it.
        login, dice = Login(Random(seed), flow_id), Random(seed + 1)
        login.begin_in(kept)
        for transition in login.happen(most):
            store = another if dice.random() < share else kept
            flow = store.get(flow_id)
            for name in ("head", "omitted", "as_stored"):
                setattr(login.flow, name, getattr(flow, name))
            assert store.commit(login.flow, render(login.flow, transition, origin(dice)))

    one, two = each.get(flow_id), summary.get(flow_id)
    assert {name: getattr(one, name) for name in _COMPARED} == {
        name: getattr(two, name) for name in _COMPARED
    }
    if share == 0 and one.seq:
        assert not any(map(is_omissible, summary.history(flow_id)))
    if one.seq:
        a, b = query.one(each, flow_id), query.one(summary, flow_id)
        assert Stats([a]).facts() == Stats([b]).facts()
        for name in ("state", "reason", "outcome", "started", "ended", "seconds", "in_doubt"):
            assert getattr(a, name) == getattr(b, name)
        assert [line[:2] for line in a.story()] == [line[:2] for line in b.story()] or share
    assert found(each) == found(summary) == []


_COMPARED: Final = (
    "state",
    "seq",
    "attempt",
    "reason",
    "in_doubt",
    "interval",
    "due_at",
    "handover",
)
