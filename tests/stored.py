"""What a store has, in the words of tests: a login or a grant instead of a `Stored` or a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.core import queries
from deviceflow.core.flow import Flow
from deviceflow.core.grant import Grant
from deviceflow.core.ports import Unreadable
from deviceflow.errors import UnknownLoginError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deviceflow.core.ports import AsyncStore, Page, Store, Stored
    from deviceflow.errors import DeviceFlowError

    OnProblem = Callable[[DeviceFlowError], object]


def reraise(problem: DeviceFlowError) -> None:
    raise problem


def get(store: Store, flow_id: str, *, secrets: bool = True) -> Flow:
    """Return a login, or raise `UnknownLoginError`."""
    return _known(store.load(Flow, flow_id, secrets=secrets), flow_id)


async def get_async(store: AsyncStore, flow_id: str, *, secrets: bool = True) -> Flow:
    """Return a login, or raise `UnknownLoginError`."""
    return _known(await store.load(Flow, flow_id, secrets=secrets), flow_id)


def _known(stored: Stored[Flow] | None, flow_id: str) -> Flow:
    if stored is None:
        raise UnknownLoginError(flow_id=flow_id)
    return stored.record


def find(store: Store, name: str) -> Flow | None:
    """Return the open login of a name, without its secrets."""
    stored = store.load(Flow, name, by="name", secrets=False)
    return None if stored is None else stored.record


def get_named(store: Store, name: str) -> Flow:
    """Return the open login of a name, which must be there, without its secrets."""
    flow = find(store, name)
    assert flow is not None
    return flow


def flows(
    store: Store, *, skip_ended: bool = False, on_problem: OnProblem = reraise
) -> Iterator[Flow]:
    """Yield all logins, page by page; by default, the first problem is raised."""
    after = None
    while True:
        page = store.page(Flow, 0.0, after, skip_ended=skip_ended)
        yield from _readable(page, on_problem)
        if (after := page.after) is None:
            return


async def flows_async(
    store: AsyncStore, *, skip_ended: bool = False, on_problem: OnProblem = reraise
) -> AsyncIterator[Flow]:
    """Yield all logins, page by page; by default, the first problem is raised."""
    after = None
    while True:
        page = await store.page(Flow, 0.0, after, skip_ended=skip_ended)
        for flow in _readable(page, on_problem):
            yield flow
        if (after := page.after) is None:
            return


def _readable(page: Page[Flow], on_problem: OnProblem) -> Iterator[Flow]:
    for one in page.found:
        if isinstance(one, Unreadable):
            on_problem(one.problem)
        else:
            yield one.record


def load_grant(store: Store, name: str, now: float = 0.0) -> Stored[Grant] | None:
    """Return the grant of a name."""
    return store.load(Grant, name, now, by="name")


def get_grant(store: Store, name: str, now: float = 0.0) -> Grant:
    """Return the grant of a name, which must be there."""
    stored = load_grant(store, name, now)
    assert stored is not None
    return stored.record


async def load_grant_async(store: AsyncStore, name: str, now: float = 0.0) -> Stored[Grant] | None:
    """Return the grant of a name."""
    return await store.load(Grant, name, now, by="name")


def delete_ended(store: Store, before: float, *, on_problem: OnProblem = reraise) -> int:
    """Delete the logins that ended before a time and have no secrets, as a purge does."""
    deleted = skip = 0
    while found := store.select(queries.without_secrets(before, skip), before):
        over = list[Flow]()
        for one in found:
            if isinstance(one, Unreadable):
                on_problem(one.problem)
            else:
                over.append(one.record)
        gone = store.delete(over)
        deleted += gone
        skip += len(found) - gone
    return deleted
