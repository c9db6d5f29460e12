"""The interfaces that a client works with: a clock, a transport and a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
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

FIRST_SNOOZE: Final = 60
"""The first snooze of a flow that cannot be processed, in seconds. Each further one doubles."""


def reraise(problem: DeviceFlowError) -> None:
    """Raise the problem."""
    raise problem


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


class StoredGrant(NamedTuple):
    """A grant as it is stored.

    Attributes:
        grant: A copy of the grant, with its secrets.
        now: The store's time in seconds since 1970, when the grant was read.
        used_at: When the grant's last use was noted; None if it was never used.
        uses: The last noted use of each task that used it lately.
        held: For how many more seconds a worker has the grant's lease; 0 if no worker has it. At
            most the duration of the lease.
        owner: That worker, or the worker whose lease ran out and was not released.
        since: As in `LeaseHeld`.
    """

    grant: Grant
    now: float
    used_at: float | None = None
    held: float = 0.0
    owner: str | None = None
    uses: tuple[Use, ...] = ()
    since: float | None = None


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
    """A store of flows. Every method can be called from any thread.

    Times in arguments are the client's. Leases go by the monotonic clock, where a time is a
    `Moment`. A store whose clients share a clock, such as a database server, uses that clock
    instead. Each method can raise `StoreError`, and `SealError` if it unseals secrets.

    Attributes:
        durable: Whether flows survive the process.
        keeps_trail: Whether the store keeps the events of each flow in a chain.
    """

    @property
    def durable(self) -> bool: ...

    @property
    def keeps_trail(self) -> bool: ...

    def now(self, client_now: float) -> float:
        """Return the store's time, in seconds since 1970."""

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        """Keep a new flow, or return the open one of the same name instead.

        Args:
            flow: The flow.
            store_event: A store event to record in the same transaction, if the store keeps a
                trail.
        """

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of a flow, with or without its secrets.

        Raises:
            UnknownLoginError: The store has no flow of this id.
        """

    def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = reraise
    ) -> Iterator[Flow]:
        """Yield copies of the flows without their secrets, newest first.

        Args:
            skip_ended: Whether to skip flows that have ended.
            on_problem: Called with the error of each flow that cannot be read; the flow is
                skipped. By default the error is raised.
        """

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take the flow's lease, or return the lease that another worker holds.

        Args:
            flow_id: The flow.
            owner: The worker that takes the lease.
            client_now: The client's time.
            seconds: The duration of the lease.
            decide: Called once the lease is taken. It may return a transition, which is committed
                in the same transaction. If it raises, the transaction is rolled back, including
                the lease.

        Raises:
            UnknownLoginError: The store has no flow of this id.
        """

    def upcoming(
        self, client_now: float, ahead: float, grace: float | None = None
    ) -> list[UpcomingFlow]:
        """Return flows that nobody seems to drive and nobody has leased, the longest due first.

        These are the flows that have their code and were never polled, and those that were due and
        were not stepped. There may be more of them than are returned.

        Args:
            client_now: The client's time.
            ahead: How many seconds before they are due the former are returned.
            grace: How many seconds after they were due the latter are returned; None for never.
        """

    def any_pending(self) -> bool:
        """Tell whether a flow waits for an approval. Flows that are snoozed do not count."""

    def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        """Have a lease last its whole duration from now, by this client's clock.

        Nothing is done if the lease was taken at another time than `since`, or if its times can be
        compared: then its end is known.

        Args:
            subject_id: The flow or the grant.
            since: When the lease was taken, as in `LeaseHeld`.
            client_now: The client's time, which was read after the lease was seen.
        """

    def foreign_leases(self, client_now: float) -> list[tuple[str, float]]:
        """Return due flows with a lease that has to be restarted, each with its `since`."""

    def wake_after_clock_change(self, client_now: float) -> None:
        """Correct waiting times that were written before the clock was set back."""

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        """Commit a flow after a transition, together with the transition's event.

        Args:
            flow: The flow.
            event: The transition as an event of `deviceflow.audit/1`. If the stored flow is not at
                the previous transition, another worker has moved it, and nothing is committed. A
                store that keeps a trail fills in hashes and MAC.
            release: The owner whose lease is released in the same transaction.
            store_event: A store event to record in the same transaction, as for `add`.

        Returns:
            Whether the flow was committed.
        """

    def release(self, flow_id: str, owner: str) -> None:
        """Release the lease, if `owner` still holds it."""

    def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        """Release the lease, if `owner` holds it, and hide the flow from sweeps and purges.

        The first snooze lasts a minute, each further one twice as long, up to an hour. A commit
        ends the snooze.
        """

    def reschedule(self, flow: Flow, owner: str) -> None:
        """Release the lease, and schedule the flow for the sweeps after its due time."""

    def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        """Record a `StoreEvent`, if the store keeps a trail."""

    def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        """Return one page of ids of ended flows that have secrets of a kind.

        Args:
            kind: The kind of secrets.
            ended_before: The flows ended before this time, in seconds since 1970.
            client_now: The client's time.
            skip: The offset of the page. Flows are sorted by the time of their end.
        """

    def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = reraise,
    ) -> int:
        """Delete ended flows that have no secrets, and return their number. Their events stay.

        Args:
            ended_before: The flows ended before this time, in seconds since 1970.
            on_problem: Called with the error of each flow that cannot be read, and is not deleted.
                By default the error is raised.
        """

    # Grants. All commits of a grant survive a power cut, whatever the store's setting.

    def find(self, name: str) -> Flow | None:
        """Return a copy of the open flow of a name, without its secrets; None if there is none."""

    def load_grant(self, name: str, client_now: float) -> StoredGrant | None:
        """Return the grant of a name; None if there is none."""

    def load_grant_by_id(self, grant_id: str, client_now: float) -> StoredGrant | None:
        """Return the grant of an id; None if there is none."""

    def load_grant_by_link(self, link: Secret, client_now: float) -> StoredGrant | None:
        """Return the grant whose last need has this link; None if there is none."""

    def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        """Commit a grant after a transition, together with the transition's event.

        The first transition adds the grant. All of this is one transaction.

        Args:
            grant: The grant.
            event: The transition as an event of `deviceflow.audit/1`. If the stored grant is not at
                the previous transition, or there is another grant of its name, nothing is
                committed.
            lease: A lease to take. If another worker holds one that has not ended, nothing is
                committed.
            release: The owner whose lease is released.
            flow: A flow that moves with the grant, whose token becomes the grant's. If it is not at
                the transition before `flow_event`, nothing is committed.
            flow_event: The flow's event.

        Returns:
            Whether it was committed.
        """

    def use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        """Note that the grant is used, and by what."""

    def grants(self, client_now: float, after: str | None = None) -> list[StoredGrant | str]:
        """Return a page of all grants by their names; the name only, of one that is unreadable.

        Args:
            client_now: The client's time.
            after: The last name of the page before.
        """

    def due_grants(self, client_now: float, unused: float, limit: int) -> list[tuple[str, str]]:
        """Return grants that a sweep should look after, and nobody holds a lease of.

        Each is a pair: the grant's name, and its server.

        Args:
            client_now: The client's time.
            unused: For how many seconds at most a grant may not have been used.
            limit: How many grants at most.
        """

    def due_notices(self, client_now: float, limit: int) -> list[str]:
        """Return names of grants with a need that the program is to be notified of.

        Args:
            client_now: The client's time.
            limit: How many names at most.
        """

    def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        """Put off for `seconds` what is to be notified of a grant, unless the grant moves.

        Returns:
            Whether a notification was due. Of all who call this, one is told so.
        """

    def snooze_grant(self, name: str, client_now: float) -> None:
        """Hide a grant that cannot be processed from sweeps for an hour."""

    def ended_grants(self, ended_before: float, after: str | None = None) -> list[str]:
        """Return a page of names of grants that ended before a time, in their order.

        A grant that nobody ever logged in for counts as ended when it was first asked for.

        Args:
            ended_before: The time, in seconds since 1970.
            after: The last name of the page before.
        """

    def delete_grant(self, grant: Grant) -> bool:
        """Delete a grant, if it is still at the same transition; return whether it was deleted."""

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

    async def get(self, flow_id: str, *, secrets: bool = True) -> Flow: ...

    def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = reraise
    ) -> AsyncIterator[Flow]: ...

    async def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld: ...

    async def upcoming(
        self, client_now: float, ahead: float, grace: float | None = None
    ) -> list[UpcomingFlow]: ...

    async def any_pending(self) -> bool: ...

    async def restart_lease(self, subject_id: str, since: float, client_now: float) -> None: ...

    async def foreign_leases(self, client_now: float) -> list[tuple[str, float]]: ...

    async def wake_after_clock_change(self, client_now: float) -> None: ...

    async def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool: ...

    async def release(self, flow_id: str, owner: str) -> None: ...

    async def snooze(self, flow_id: str, owner: str, client_now: float) -> None: ...

    async def reschedule(self, flow: Flow, owner: str) -> None: ...

    async def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None: ...

    async def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]: ...

    async def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = reraise,
    ) -> int: ...

    # Grants.

    async def find(self, name: str) -> Flow | None: ...

    async def load_grant(self, name: str, client_now: float) -> StoredGrant | None: ...

    async def load_grant_by_id(self, grant_id: str, client_now: float) -> StoredGrant | None: ...

    async def load_grant_by_link(self, link: Secret, client_now: float) -> StoredGrant | None: ...

    async def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool: ...

    async def use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None: ...

    async def grants(
        self, client_now: float, after: str | None = None
    ) -> list[StoredGrant | str]: ...

    async def due_grants(
        self, client_now: float, unused: float, limit: int
    ) -> list[tuple[str, str]]: ...

    async def due_notices(self, client_now: float, limit: int) -> list[str]: ...

    async def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool: ...

    async def snooze_grant(self, name: str, client_now: float) -> None: ...

    async def ended_grants(self, ended_before: float, after: str | None = None) -> list[str]: ...

    async def delete_grant(self, grant: Grant) -> bool: ...

    # For a process that drives whatever is due.

    async def wait_for_change(self, seconds: float) -> bool:
        """Wait until somebody adds, starts or ends a flow, in this process or another.

        Such a change can make a flow due earlier than `upcoming` said. Only one task of a store may
        wait at a time. A change between two calls makes the second call return at once. The first
        call of all returns at once, too. If the database does not report changes, the method checks
        for changes, or returns, at intervals.

        Args:
            seconds: How long to wait at most.

        Returns:
            Whether something may have changed.
        """

    async def close(self) -> None: ...
