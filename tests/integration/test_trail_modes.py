"""A trail that leaves pending polls out tells what one of each event tells, and as surely."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Secret, Studio
from deviceflow.audit.events import render
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.omitted import is_omissible
from deviceflow.core.ports import Claim
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.export import seal, unseal
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from deviceflow.trail import query
from deviceflow.trail.digest import Signer
from deviceflow.trail.maintenance import Pruned, prune, take_digest
from deviceflow.trail.stats import Stats
from deviceflow.trail.verify import Verification
from tests.evidence.histories import BEGIN, Login, origin
from tests.examples import examples
from tests.statements import run_statement
from tests.stored import delete_ended, get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.flow import Transition
    from deviceflow.core.wire import Response
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


def found(store: SQLStore, digests: Path | None = None) -> list[tuple[str, str | None]]:
    with store.snapshot() as snapshot:
        verification = Verification(*snapshot, digests=digests)
        return [(one.kind, one.flow_id) for one in verification.findings()]


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
            flow = get(store, flow_id)
            for name in ("head", "omitted", "as_stored"):
                setattr(login.flow, name, getattr(flow, name))
            assert store.commit(login.flow, render(login.flow, transition, origin(dice)))

    one, two = get(each, flow_id), get(summary, flow_id)
    assert {name: getattr(one, name) for name in _COMPARED} == {
        name: getattr(two, name) for name in _COMPARED
    }
    if share == 0 and one.seq:
        assert not any(map(is_omissible, summary.events(flow_id)))
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


@pytest.fixture(params=_MODES[:2])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLStore]:
    path = tmp_path / "flows.db"
    with SQLiteStore(path, synchronous="NORMAL", trail=request.param) as store:
        yield store


@pytest.fixture
def signer() -> Signer:
    return Signer(Secret(generate_signing_key()))


@pytest.fixture
def digests(tmp_path: Path) -> Path:
    (path := tmp_path / "digests").mkdir()
    return path


def waiting(store: SQLStore, flow_id: str, polls: int) -> Flow:
    """Put a login into a store that was polled so often, with a retry after each second poll."""
    flow = Flow(flow_id, _SERVER, BEGIN)
    store.add(flow)
    keep(store, flow, flow.receive(_CODE, BEGIN))
    for _ in range(polls):
        poll(store, flow, _PENDING)
        poll(store, flow, answer(503, ""))
    return flow


def poll(store: SQLStore, flow: Flow, said: Response) -> None:
    now = flow.due_at
    keep(store, flow, flow.poll(now, 1.0))
    keep(store, flow, flow.receive(said, now + 0.5))


def keep(store: SQLStore, flow: Flow, transition: Transition) -> None:
    assert store.commit(flow, render(flow, transition))


_SERVER: Final = Studio("https://studio.example.com")
_CODE: Final = answer(
    200,
    {
        "device_code": "d" * 40,
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://studio.example.com/device",
        "token_uri": "https://studio.example.com/token",
        "token_name": "robot",
        "expires_in": 90_000,
    },
)
_PENDING: Final = answer(400, {"error": "authorization_pending"})


def test_beginning_of_a_login_that_waits_is_pruned_behind_a_digest(
    store: SQLStore, signer: Signer, digests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, other = waiting(store, "one", 6), waiting(store, "other", 1)
    take_digest(store, digests, signer, begin=True)
    whole = store.events("one")
    before = flow.moved_at + 1
    poll(store, flow, _PENDING)

    assert prune(store, digests, signer, before) == Pruned(0, None)
    with monkeypatch.context() as patch:
        patch.setattr(SQLiteStore, "prune", lambda *_: None)  # it dies just before
        prune(store, digests, signer, before, waiting=True)
    assert found(store, digests) == []
    assert store.events("one")[: len(whole)] == whole

    pruned = prune(store, digests, signer, before, waiting=True)
    assert (pruned.flows, pruned.waiting) == (0, 2)
    assert store.events("one")[0] == whole[-1]
    assert len(store.events("other")) == 1
    assert found(store, digests) == []
    # Nothing but the digests says that it was pruned.
    assert {kind for kind, _ in found(store)} == {"removed"}

    # It goes on, is pruned again, and ends.
    take_digest(store, digests, signer)
    for _ in range(3):
        poll(store, flow, answer(503, ""))
    assert prune(store, digests, signer, flow.moved_at + 1, waiting=True).waiting == 1
    keep(store, flow, flow.cancel(flow.due_at))
    keep(store, other, other.cancel(other.due_at))
    take_digest(store, digests, signer)
    assert found(store, digests) == []

    # Now its rest is pruned as that of any login.
    assert delete_ended(store, flow.moved_at + 1) == 2
    assert prune(store, digests, signer, flow.moved_at + 1).flows == 2
    assert found(store, digests) == []
    assert store.events("one") == []


@pytest.mark.parametrize("what", ["anchor", "all", "more"])
def test_events_that_went_beside_the_pruned_ones_are_missed(
    store: SQLStore, signer: Signer, digests: Path, what: str
) -> None:
    flow = waiting(store, "one", 4)
    take_digest(store, digests, signer, begin=True)
    before = flow.moved_at + 1
    for _ in range(3):
        poll(store, flow, answer(503, ""))
    prune(store, digests, signer, before, waiting=True)
    assert found(store, digests) == []
    seqs = [event["seq"] for event in store.events("one")]
    gone = {"anchor": seqs[:1], "all": seqs, "more": seqs[1:2]}[what]
    for seq in gone:
        run_statement(store, "delete_events_before", {"id": "one", "seq": seq + 1})
        if what == "more":
            break

    kind = "removed_flow" if what == "all" else "removed"
    assert found(store, digests) == [(kind, "one")]


def test_chain_of_a_damaged_login_is_not_pruned(
    store: SQLStore, signer: Signer, digests: Path
) -> None:
    waiting(store, "one", 4)
    take_digest(store, digests, signer, begin=True)
    last = store.events("one")[-1]["seq"]
    seq = store.events("one")[-2]["seq"]
    run_statement(store, "delete_events_before", {"id": "one", "seq": last})
    assert seq < last
    before = found(store, digests)

    assert prune(store, digests, signer, BEGIN * 2, waiting=True) == Pruned(0, None)
    assert before == found(store, digests) == [("removed", "one")]


def test_login_that_is_imported_begins_a_chain(store: SQLStore, tmp_path: Path) -> None:
    flow = waiting(store, "one", 2)
    poll(store, flow, _PENDING)
    keys = [generate_key()]
    with SQLiteStore(tmp_path / "there.db", synchronous="NORMAL", trail="summary") as there:
        imported = unseal(seal(get(store, "one"), keys), keys)
        there.add(imported)
        imported.due_at, imported.expires_at = imported.moved_at + 10, None
        poll(there, imported, _PENDING)

        assert [event["action"] for event in there.events("one")] == ["import"]
        assert found(there) == []


def test_answer_to_a_commit_that_was_lost_is_found_out(store: SQLStore) -> None:
    flow = waiting(store, "one", 1)
    event = render(flow, flow.poll(flow.due_at, 1.0))

    assert store.commit(flow, event)
    assert store.commit(flow, event)  # as it is tried again
    assert found(store) == []
    assert get(store, "one").attempt == flow.attempt


def test_summarized_login_is_polled_on(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    with SQLiteStore(path, synchronous="NORMAL", trail="summary") as store:
        flow = waiting(store, "one", 0)
        now = flow.due_at

        def decide(claim: Claim) -> dict[str, Any]:
            return render(claim.flow, claim.flow.poll(now, 1.0))

        for _ in range(4):
            claim = store.claim("one", "w", now, 60.0, decide)
            assert isinstance(claim, Claim)
            transition = claim.flow.receive(_PENDING, now + 0.5)
            assert store.commit(claim.flow, render(claim.flow, transition), release="w")
            now = claim.flow.due_at
        assert len(store.events("one")) == 1
        run = get(store, "one").omitted
        assert run is not None
        assert (run.events, run.polls) == (8, 4)
        assert found(store) == []
