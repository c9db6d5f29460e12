"""The interfaces that a client works with: a clock, a transport and a store."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.queries import Query
    from deviceflow.core.secret import Secret
    from deviceflow.core.uses import Use
    from deviceflow.core.wire import Failure, Request, Response
    from deviceflow.errors import DeviceFlowError

    Decide = Callable[["Claim"], dict[str, Any] | None]
    """The decision about a flow, made in the transaction that takes the lease.

    The function gets the claim, may move the claim's flow by one transition, and returns the event
    of that transition, rendered but not linked. It returns None if it leaves the flow unchanged.
    The function must be pure: after a lost connection, a store calls it again with another claim.
    """

_T = TypeVar("_T")
_R = TypeVar("_R", "Flow", "Grant")

By = Literal["id", "name", "link"]
"""What a login or a grant is found by."""

FIRST_SNOOZE: Final = 60
"""The first snooze of a flow that cannot be processed, in seconds. Each further one doubles."""


def each(page: Callable[[int], Sequence[_T]], seen: set[_T]) -> Iterator[_T]:
    """Yield each row of a query once, although processing the rows changes the query's result.

    Pages are addressed by an offset, because a damaged id may not compare in the sort order.

    Args:
        page: Returns some rows, from an offset on.
        seen: The rows to skip. Each yielded row is added.
    """
    skip = 0
    while rows := page(skip):
        new = [row for row in rows if row not in seen]
        skip += 0 if new else len(rows)
        seen.update(new)
        yield from new


class Origin(NamedTuple):
    """Who caused an event.

    Attributes:
        worker: The random name of a client, the process id, and a number.
        host: The host name.
        pid: The process id.
        engine: The system that runs the task, such as a task queue.
        task: The task's name.
        task_id: The engine's id of this run of the task.
        actor: The person or account that the work is done for.
        address: From where a person asked for it on a page, if so.
    """

    worker: str | None = None
    host: str | None = None
    pid: int | None = None
    engine: str | None = None
    task: str | None = None
    task_id: str | None = None
    actor: str | None = None
    address: str | None = None


class Moment(float):
    """A client's time in seconds since 1970, with the monotonic clock's, which leases go by.

    Attributes:
        steady: What the monotonic clock showed.
        clock: Which clock that is: processes that name the same one can compare their readings.
    """

    __slots__ = ("clock", "steady")

    def __new__(cls, wall: float, steady: float, clock: str) -> Self:
        """Return the moment."""
        moment = super().__new__(cls, wall)
        moment.steady, moment.clock = steady, clock
        return moment

    steady: float
    clock: str


class Claim(NamedTuple):
    """The result of taking a flow's lease.

    Attributes:
        flow: A copy of the stored flow.
        now: The store's time in seconds since 1970, which is used for the whole step.
        previous_owner: The worker whose lease ran out and was not released.
        event: The event of the transition that was decided on and committed with the lease.
    """

    flow: Flow
    now: float
    previous_owner: str | None = None
    event: dict[str, Any] | None = None


class LeaseHeld(NamedTuple):
    """Another worker holds the flow's lease.

    Attributes:
        flow: A copy of the stored flow, without its secrets.
        seconds: Seconds until the lease runs out.
        since: When the lease was taken, by another clock than this client's, or by one that was
            set back; None if the times of the lease can be compared. See `Store.restart_lease`.
    """

    flow: Flow
    seconds: float
    since: float | None = None


class UpcomingFlow(NamedTuple):
    """A flow that is due soon, or was due and was not stepped.

    Attributes:
        flow_id: The flow.
        seq: The number of its last event.
        wake_at: When it is due, in seconds since 1970.
        now: The store's time.
        server: The server that it is at.
    """

    flow_id: str
    seq: int
    wake_at: float
    now: float
    server: str


class Stored(NamedTuple, Generic[_R]):
    """A login or a grant as it is stored.

    Attributes:
        record: A copy of the login or the grant.
        now: The store's time in seconds since 1970, when it was read.
        used_at: When a grant's last use was noted; None if it was never used.
        held: For how many more seconds a worker has the lease; 0 if no worker has it. At most the
            duration of the lease.
        owner: That worker, or the worker whose lease ran out and was not released; of a login that
            is held, its driver, whose own lease `held` does not count.
        uses: The last noted use of each task that used a grant lately.
        since: As in `LeaseHeld`.
    """

    record: _R
    now: float
    used_at: float | None = None
    held: float = 0.0
    owner: str | None = None
    uses: tuple[Use, ...] = ()
    since: float | None = None


class Page(NamedTuple, Generic[_R]):
    """A page of a list of logins or grants.

    Attributes:
        found: The logins, without their secrets, or the grants, with theirs; and those that cannot
            be read.
        after: What the next page begins after; None if this is the last page.
    """

    found: list[Stored[_R] | Unreadable]
    after: Any


class Unreadable(NamedTuple):
    """A login or a grant that cannot be read.

    Attributes:
        name: The name of a grant, or the id of a login, as far as the row shows one.
        problem: Why.
    """

    name: str
    problem: DeviceFlowError


class GrantLease(NamedTuple):
    """A lease of a grant to take.

    Attributes:
        owner: The worker that takes it.
        seconds: Its duration.
        client_now: The client's time.
        ended: The worker whose lease counts as ended, whatever the store's clock says.
    """

    owner: str
    seconds: float
    client_now: float
    ended: str | None = None


class StoreEvent(NamedTuple):
    """An event of the store itself, to be recorded.

    Attributes:
        action: One of `deviceflow.core.actions.STORE_EVENTS`.
        client_now: The client's time.
        detail: Details, as a text.
        origin: Who caused it.
    """

    action: Action
    client_now: float
    detail: str
    origin: Origin


class StoredFlow(NamedTuple):
    """A flow's row, as verification uses it.

    Attributes:
        flow_id: The flow.
        seq: The number of its last event.
        state: Its state.
        record: The other fields that change with transitions, as JSON.
        head: The hash of the last event; before the first event, the key's mark on `digest`. If the
            trail leaves the last event out, its hash, a space, and the key's mark on both.
        digest: The digest of the whole row; None if the row has a value that deviceflow never
            writes.
        authentic: Whether the row's MAC is valid, or could not be checked.
    """

    flow_id: str
    seq: int
    state: str
    record: str
    head: str | None
    digest: str | None
    authentic: bool


class Clock(Protocol):
    """A clock. `deviceflow.testing.VirtualClock` is one for tests.

    All processes that share a store must read the same monotonic clock, as `time.monotonic` is. A
    clock of another kind has a method `boot`, which returns a name of its monotonic clock, and the
    seconds since the machine started, or None.
    """

    def time(self) -> float:
        """Return the wall clock's time, in seconds since 1970."""

    def monotonic(self) -> float:
        """Return a time that never goes backwards, in seconds since an arbitrary moment."""

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""


class Transport(Protocol):
    """Sends HTTP requests."""

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send the request once, within `timeout` seconds, and return the response or failure."""

    def close(self) -> None:
        """Close connections that are kept between requests."""


class Store(Protocol):
    """A store of logins and grants. Every method can be called from any thread.

    A kind of records is a class: `Flow` for logins, and `Grant`. Times in arguments are the
    client's. Leases go by the monotonic clock, where a time is a `Moment`. A store whose clients
    share a clock, such as a database server, uses that clock instead. Each method can raise
    `StoreError`, and `SealError` if it unseals secrets. All commits of a grant survive a power cut,
    whatever the store's setting.

    Attributes:
        durable: Whether logins and grants survive the process.
        keeps_trail: Whether the store keeps the events of each login and grant in a chain.
    """

    @property
    def durable(self) -> bool: ...

    @property
    def keeps_trail(self) -> bool: ...

    def now(self, client_now: float) -> float:
        """Return the store's time, in seconds since 1970."""

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        """Keep a new login, or return the open one of the same name instead.

        Args:
            flow: The login.
            store_event: A store event to record in the same transaction, if the store keeps a
                trail.
        """

    def load(
        self,
        kind: type[_R],
        key: str | Secret,
        client_now: float = 0.0,
        *,
        by: By = "id",
        secrets: bool = True,
    ) -> Stored[_R] | None:
        """Return a copy of a login or a grant; None if there is none.

        Args:
            kind: The kind.
            key: What it is found by.
            client_now: The client's time; without it, `held` and `now` mean nothing in a store that
                goes by that time.
            by: What the key is. By its name, only a login that is open is found. A link is that of
                a grant's last need, and a secret.
            secrets: Whether a login comes with its secrets. A grant always does.
        """

    def page(
        self, kind: type[_R], client_now: float, after: Any = None, *, skip_ended: bool = False
    ) -> Page[_R]:
        """Return a page of all logins, newest first, or of all grants, by their names.

        Args:
            kind: The kind.
            client_now: The client's time.
            after: The page before's `after`; None for the first page.
            skip_ended: Whether to skip logins that have ended.
        """

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take a login's lease, or return the lease that another worker holds.

        Args:
            flow_id: The login.
            owner: The worker that takes the lease.
            client_now: The client's time.
            seconds: The duration of the lease.
            decide: Called once the lease is taken. It may return a transition, which is committed
                in the same transaction. If it raises, the transaction is rolled back, including
                the lease.

        Raises:
            UnknownLoginError: The store has no login of this id.
        """

    def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        """Have a lease last its whole duration from now, by this client's clock.

        Nothing is done if the lease was taken at another time than `since`, or if its times can be
        compared: then its end is known.

        Args:
            subject_id: The login or the grant.
            since: When the lease was taken, as in `LeaseHeld`.
            client_now: The client's time, which was read after the lease was seen.
        """

    def wake_after_clock_change(self, client_now: float) -> None:
        """Correct waiting times of logins that were written before the clock was set back."""

    def commit(
        self,
        record: Flow | Grant,
        event: dict[str, Any],
        *,
        release: str | None = None,
        lease: GrantLease | None = None,
        store_event: StoreEvent | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        """Commit a login or a grant after a transition, together with the transition's event.

        The first transition of a grant adds it. All of this is one transaction.

        Args:
            record: The login or the grant.
            event: The transition as an event of `deviceflow.audit/1`. If the stored record is not
                at the previous transition, or there is another grant of its name, nothing is
                committed. A store that keeps a trail fills in hashes and MAC.
            release: The owner whose lease is released.
            lease: A grant's lease to take. If another worker holds one that has not ended, nothing
                is committed.
            store_event: A store event to record, as for `add`.
            flow: A login that moves with a grant, whose token becomes the grant's. If it is not at
                the transition before `flow_event`, nothing is committed.
            flow_event: That login's event.

        Returns:
            Whether it was committed.
        """

    def release(self, flow_id: str, owner: str, *, due: Flow | None = None) -> None:
        """Release a login's lease, if `owner` still holds it.

        Args:
            flow_id: The login.
            owner: The worker.
            due: The login as it was read, to have sweeps find it at its due time. If it has moved
                since, nothing is done.
        """

    def put_off(
        self, kind: type[Flow | Grant], key: str, client_now: float, owner: str | None = None
    ) -> None:
        """Hide a login or a grant that cannot be processed from sweeps for a while.

        A login's lease is released, if `owner` holds it. The first time, a login is hidden for a
        minute, each further time twice as long, up to an hour; a commit ends that. A grant is
        hidden for an hour.

        Args:
            kind: The kind.
            key: The login's id, or the grant's name.
            client_now: The client's time.
            owner: The worker.
        """

    def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        """Put off for `seconds` what is to be notified of a grant, unless the grant moves.

        Returns:
            Whether a notification was due. Of all who call this, one is told so.
        """

    def use(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        """Note that a grant is used, and by what."""

    def select(self, query: Query[_T], client_now: float) -> list[_T]:
        """Return the answers to a query of `deviceflow.core.queries`."""

    def delete(self, records: Sequence[Flow | Grant]) -> int:
        """Delete logins or grants, each if it is still at the same transition. Their events stay.

        Returns:
            How many were deleted.
        """

    def append(self, event: StoreEvent) -> None:
        """Record a store event, if the store keeps a trail."""

    def close(self) -> None:
        """Close files and connections."""


# The same for asyncio. Each method means what its twin above means.


class AsyncClock(Protocol):
    """A clock whose `sleep` suspends a task."""

    def time(self) -> float:
        """Return the wall clock's time, in seconds since 1970."""

    def monotonic(self) -> float:
        """Return a time that never goes backwards, in seconds since an arbitrary moment."""

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""


class AsyncTransport(Protocol):
    """Sends HTTP requests from the tasks of one event loop."""

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109  # as `Transport.send`
        """Send the request once, within `timeout` seconds, and return the response or failure."""

    async def close(self) -> None:
        """Close connections that are kept between requests."""


class AsyncStore(Protocol):
    """A `Store` for the tasks of one event loop.

    A method that is cancelled has either done all of its work or none of it.

    A store may have an attribute `works_in_callers_task` that is true. Then a client awaits a
    method that must finish in the task of the client's caller. That costs less than a task for each
    call. Such methods must not cancel the task that they run in, as `asyncio.timeout` does.
    """

    @property
    def durable(self) -> bool: ...

    @property
    def keeps_trail(self) -> bool: ...

    async def now(self, client_now: float) -> float: ...

    async def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow: ...

    async def load(
        self,
        kind: type[_R],
        key: str | Secret,
        client_now: float = 0.0,
        *,
        by: By = "id",
        secrets: bool = True,
    ) -> Stored[_R] | None: ...

    async def page(
        self, kind: type[_R], client_now: float, after: Any = None, *, skip_ended: bool = False
    ) -> Page[_R]: ...

    async def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld: ...

    async def restart_lease(self, subject_id: str, since: float, client_now: float) -> None: ...

    async def wake_after_clock_change(self, client_now: float) -> None: ...

    async def commit(
        self,
        record: Flow | Grant,
        event: dict[str, Any],
        *,
        release: str | None = None,
        lease: GrantLease | None = None,
        store_event: StoreEvent | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool: ...

    async def release(self, flow_id: str, owner: str, *, due: Flow | None = None) -> None: ...

    async def put_off(
        self, kind: type[Flow | Grant], key: str, client_now: float, owner: str | None = None
    ) -> None: ...

    async def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool: ...

    async def use(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None: ...

    async def select(self, query: Query[_T], client_now: float) -> list[_T]: ...

    async def delete(self, records: Sequence[Flow | Grant]) -> int: ...

    async def append(self, event: StoreEvent) -> None: ...

    # For a process that drives whatever is due.

    async def watch(self, seconds: float) -> bool:
        """Wait until somebody adds, starts or ends a flow, in this process or another.

        Such a change can make a login due earlier than a query said. Only one task of a store may
        wait at a time. A change between two calls makes the second call return at once. The first
        call of all returns at once, too. If the database does not report changes, the method checks
        for changes, or returns, at intervals.

        Args:
            seconds: How long to wait at most.

        Returns:
            Whether something may have changed.
        """

    async def close(self) -> None: ...


class AsyncHolder(AsyncStore, Protocol):
    """A store by which waiting logins can be held: their pending polls are not stored.

    A store whose attribute `holds` is true has these methods; the sync one as plain functions. A
    login is held from a claim or a commit with its `driver` set, until the next commit. Nobody else
    has the login's lease while the driver's lasts.
    """

    @property
    def holds(self) -> bool: ...

    async def drive(
        self,
        driver: str,
        client_now: float,
        seconds: float,
        *,
        begin: bool = False,
        seen: Iterable[str] = (),
    ) -> float | None:
        """Take the lease of all logins that a driver holds, or renew it.

        Args:
            driver: Who holds logins.
            client_now: The client's time.
            seconds: The duration of the lease, from now.
            begin: Whether the driver may be new.
            seen: Logins of which the driver knows that others have moved them. `queries.taken` need
                not tell of them again.

        Returns:
            The store's time; None if the lease has ended, which is never renewed.
        """

    async def stop_driving(self, driver: str, client_now: float, *, lapsed: bool = False) -> None:
        """Forget a driver that holds no login any more, and put on record whether it has died."""

    async def leave_out(self, flow: Flow, event: dict[str, Any]) -> None:
        """Link an event of a login that is held, which is not stored, to the login's chain."""
