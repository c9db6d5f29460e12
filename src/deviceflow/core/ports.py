"""What the drivers need of the world: a clock, something that sends requests, and a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.wire import Failure, Request, Response
    from deviceflow.errors import DeviceFlowError

    Decide = Callable[["Claim"], dict[str, Any] | None]
    """What to do with a flow whose lease was just taken, decided within the same transaction.

    It is given the claim, may move the claim's flow by one transition, and returns the event of
    that transition, rendered and not yet linked; or None where the flow is left as it is. It is
    pure: a store may call it again, with another claim, where a connection was lost.
    """

_T = TypeVar("_T")

FIRST_SNOOZE: Final = 60
"""Seconds for which a flow is snoozed that cannot be gone on with; they double each time."""


def refuse(problem: DeviceFlowError) -> None:
    """Raise the problem."""
    raise problem


def each(page: Callable[[int], Sequence[_T]], seen: set[_T]) -> Iterator[_T]:
    """Yield the rows of a query, each once, while what is done with them changes what it finds.

    Where a page begins is counted. A damaged id need not compare in the order in which it sorts.

    Args:
        page: Returns some rows, without the first so many.
        seen: The rows that are left out; each that is yielded is put in.
    """
    skip = 0
    while rows := page(skip):
        new = [row for row in rows if row not in seen]
        skip += 0 if new else len(rows)
        seen.update(new)
        yield from new


class Origin(NamedTuple):
    """Who makes something happen.

    Attributes:
        worker: The random name of a client, its process's id, and a number.
        host: The machine's name.
        pid: The process's id.
        engine: What runs the work, such as a task queue's name.
        task_id: The engine's own name for this piece of work.
        actor: The person or the account in whose name it is done.
    """

    worker: str | None = None
    host: str | None = None
    pid: int | None = None
    engine: str | None = None
    task_id: str | None = None
    actor: str | None = None


class Claim(NamedTuple):
    """The flow's lease was taken.

    Attributes:
        flow: The flow as stored; the caller's own copy.
        now: What time it is, in seconds since 1970; it decides everything in this step.
        previous_owner: Who held the lease before, if it ran out and was not given back.
        event: The event of the transition that was decided on, and kept with the lease.
    """

    flow: Flow
    now: float
    previous_owner: str | None = None
    event: dict[str, Any] | None = None


class LeaseHeld(NamedTuple):
    """Somebody else holds the flow's lease.

    Attributes:
        flow: The flow as stored, without its secrets; the caller's own copy.
        seconds: What is left of the lease.
        since: When it was taken, in seconds since 1970, by the clock of then; None where no clock
            can have been set back since.
    """

    flow: Flow
    seconds: float
    since: float | None = None


class StoreEvent(NamedTuple):
    """What belongs to no flow, and is put on record.

    Attributes:
        action: One of `deviceflow.core.actions.STORE_EVENTS`.
        client_now: What time it is.
        detail: More of it, in words.
        origin: Who did it.
    """

    action: Action
    client_now: float
    detail: str
    origin: Origin


class StoredFlow(NamedTuple):
    """A flow as the store has it.

    Attributes:
        flow_id: The flow.
        seq: The number of its last event.
        state: Its state.
        record: What else moves with each transition, as JSON.
        head: The hash of its last event; before the first, the key's mark on `digest`.
        digest: The digest of the whole row; None where there is something in it that was never
            written there.
        authentic: Whether the row's MAC is right, or nobody could tell.
    """

    flow_id: str
    seq: int
    state: str
    record: str
    head: str | None
    digest: str | None
    authentic: bool


class Clock(Protocol):
    """What the drivers need of time. `deviceflow.testing.VirtualClock` is another one."""

    def time(self) -> float:
        """Return the wall clock's time, in seconds since 1970."""

    def monotonic(self) -> float:
        """Return a time that never goes backwards, in seconds since some moment."""

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""


class Transport(Protocol):
    """What the drivers need to send a request."""

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send the request once, within `timeout` seconds, and say what came of it."""

    def close(self) -> None:
        """Let go of what is kept between requests."""


class Store(Protocol):
    """Keeps flows. Every method may be called from any thread.

    A time that is given is the client's; a store with a clock that all its clients share goes by
    that one instead. Each method may raise `StoreError`, and `SealError` where it opens secrets.

    Attributes:
        durable: Whether flows outlive the process.
        keeps_trail: Whether it keeps each flow's events, and links them into a chain.
    """

    @property
    def durable(self) -> bool: ...

    @property
    def keeps_trail(self) -> bool: ...

    def now(self, client_now: float) -> float:
        """Return what time it is for this store, in seconds since 1970."""

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        """Keep a new flow, or return the open one of the same name instead.

        Args:
            flow: The flow.
            store_event: What goes on record with it, where a record is kept: both or none.
        """

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of the flow, with its secrets or without.

        Raises:
            UnknownFlowError: There is none of that id.
        """

    def flows(
        self, *, live: bool = False, on_problem: Callable[[DeviceFlowError], object] = refuse
    ) -> Iterator[Flow]:
        """Yield copies of all flows, or of those that have not ended, without their secrets.

        The newest comes first.

        Args:
            live: Whether to leave out those that have ended.
            on_problem: Told of each flow that cannot be read, and is passed over. By default its
                error is raised.
        """

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take the flow's lease for so many seconds, or say who has it.

        Args:
            flow_id: The flow.
            owner: Who takes the lease.
            client_now: What time it is.
            seconds: For how long.
            decide: Decides, once the lease is taken, on a transition that is kept with the lease:
                both or none. What it raises is raised, and then nothing is kept, the lease neither.

        Raises:
            UnknownFlowError: There is none of that id.
        """

    def claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None = None
    ) -> Claim | None:
        """Take the lease of the flow that has been due the longest, if one is due and free.

        One that cannot be read raises its error, and keeps the lease until it is snoozed. The
        arguments are those of `claim`.
        """

    def end_lease(self, flow_id: str, since: float, client_now: float) -> None:
        """End the lease that was taken then, and no other.

        For a lease that a clock has written which was set back since: it would last too long.
        """

    def leases_taken_after(self, client_now: float) -> list[tuple[str, float]]:
        """Return flows that are due and under a lease that seems to be taken after `client_now`.

        Each comes with when that was. Either somebody has taken the lease just now, or the clock
        was set back since: whoever looks at the clock once more knows.
        """

    def wake_after_clock_change(self, client_now: float) -> None:
        """Wake what waits for a time that was written before the clock was set back."""

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        """Keep the flow as it is after its latest transition, and that with it: both or none.

        Args:
            flow: The flow.
            event: Its latest transition as an event of `deviceflow.audit/1`. If the stored flow
                is not at the one before, others went on meanwhile, and nothing is kept. A store
                that keeps a trail fills the evidence in.
            release: The owner whose lease is given back in the same breath.
            store_event: What goes on record with it, as for `add`.

        Returns:
            Whether it was kept.
        """

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""

    def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        """Give the lease back, if `owner` has it, and have no sweep or purge find the flow for now.

        A minute the first time, and twice as long each time, up to an hour; a commit ends it.
        """

    def reschedule(self, flow: Flow, owner: str) -> None:
        """Give the lease back, and have sweeps find the flow when it is due, and not before."""

    def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        """Put a `StoreEvent` on record, where a record is kept."""

    def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        """Return the ids of flows that ended before then and hold such secrets, some at a time.

        Args:
            kind: Which secrets.
            ended_before: In seconds since 1970.
            client_now: What time it is.
            skip: How many of them to leave out: those that ended first.
        """

    def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = refuse,
    ) -> int:
        """Drop the flows that ended before then and hold no secret; return how many.

        Their transitions stay.

        Args:
            ended_before: In seconds since 1970.
            on_problem: Told of each flow that cannot be read, and is not dropped. By default its
                error is raised.
        """

    def close(self) -> None:
        """Let go of files and connections."""
