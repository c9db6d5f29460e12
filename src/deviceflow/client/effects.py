"""What an operation may ask of the world: a closed set of effects.

An operation of the client is a generator. It yields an effect, and is sent the answer that the
effect's docstring names, or has the exception thrown in that performing the effect raised. An
operation itself touches no store, network, clock, environment or thread. A driver performs effects
and knows no rule: `deviceflow.client._sync` is one, and a list of answers is one for tests.

**Giving way.** A driver may close an operation at any effect, or throw an exception in there. Both
leave the login at worst as the death of the process would have left it at that moment: under a
lease that runs out, in a state that the next step recovers from. An operation that has begun to
handle an exception yields more effects before it raises the exception again; the driver performs
these.

Two rules make that safe:

* A driver that is interrupted while it performs an effect of `MUST_FINISH` first performs the
  effect to its end, sends the answer, and gives way at the next effect that is not in
  `MUST_FINISH`. A commit that was half awaited would be stored, and neither logged nor known; so
  would what is decided within a claim. A lease that was half given back would keep others waiting.
* `Send` never raises. What interrupted it is its answer, so that the operation can store that the
  outcome is in doubt before it raises the interruption. Between the answer to `Send` and the
  `Commit` of what it means, an operation yields nothing. An issued token whose commit does not come
  to its end stays in the client's `UnsavedTokens`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.login import Login
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import Decide, GrantLease, Origin, StoreEvent
    from deviceflow.core.provider import Provider
    from deviceflow.core.secret import Secret
    from deviceflow.core.uses import Use
    from deviceflow.core.wire import Failure, Request, Response
    from deviceflow.errors import DeviceFlowError

# Logins in the store.


class Add(NamedTuple):
    """Keep a new flow. Answered by the flow, or by the open flow that has the same name."""

    flow: Flow
    store_event: StoreEvent | None


class Load(NamedTuple):
    """Read a flow. Answered by a copy of the stored `Flow`."""

    flow_id: str
    secrets: bool = True


class ListFlows(NamedTuple):
    """Read all flows, or those that have not ended, without secrets.

    Answered by an iterator over what `present` makes of each.
    """

    skip_ended: bool
    on_problem: Callable[[DeviceFlowError], object]
    present: Callable[[Flow], Login]


class ClaimFlow(NamedTuple):
    """Take a flow's lease. Answered by a `Claim` or by `LeaseHeld`.

    Where `decide` returns an event, the flow's move is stored together with the lease, and the
    `Claim` has the event.
    """

    flow_id: str
    owner: str
    client_now: float
    seconds: float
    decide: Decide | None = None


class Upcoming(NamedTuple):
    """Find flows that are due. Answered by `UpcomingFlow`s, the longest due first."""

    client_now: float
    ahead: float
    grace: float | None


class Commit(NamedTuple):
    """Store the flow after the event, unless others went on. Answered by whether it was stored."""

    flow: Flow
    event: dict[str, Any]
    release: str | None = None
    store_event: StoreEvent | None = None


class Release(NamedTuple):
    """Give a lease back. Answered by None."""

    flow_id: str
    owner: str


class Snooze(NamedTuple):
    """Give a lease back, and have sweeps pass the flow over for a while. Answered by None."""

    flow_id: str
    owner: str
    client_now: float


class Reschedule(NamedTuple):
    """Give a lease back, and have sweeps find the flow when it is due. Answered by None."""

    flow: Flow
    owner: str


class RestartLease(NamedTuple):
    """Have the lease that was taken at that time last its whole duration. Answered by None."""

    subject_id: str
    since: float
    client_now: float


class ForeignLeases(NamedTuple):
    """Find leases by another clock. Answered by pairs of a flow's id and a time."""

    client_now: float


class WakeAfterClockChange(NamedTuple):
    """Wake flows whose wake time was written before the clock was set back. Answered by None."""

    client_now: float


class IdsWithSecrets(NamedTuple):
    """Find flows that ended before then and hold secrets. Answered by a page of their ids."""

    kind: Literal["token", "revoke"]
    ended_before: float
    client_now: float
    skip: int


class DeleteEnded(NamedTuple):
    """Delete flows that ended before then. Answered by how many."""

    ended_before: float
    on_problem: Callable[[DeviceFlowError], object]


class RecordStoreEvent(NamedTuple):
    """Put on record what belongs to no flow. Answered by None."""

    action: Action
    client_now: float
    detail: str
    origin: Origin


# Grants in the store.


class FindFlow(NamedTuple):
    """Find the open flow of a name, without secrets. Answered by a `Flow`, or by None."""

    name: str


class LoadGrant(NamedTuple):
    """Read the grant of a name. Answered by a `StoredGrant`, or by None."""

    name: str
    client_now: float


class LoadGrantById(NamedTuple):
    """Read the grant of an id. Answered by a `StoredGrant`, or by None."""

    grant_id: str
    client_now: float


class LoadGrantByLink(NamedTuple):
    """Read the grant whose last need has this link. Answered by a `StoredGrant`, or by None."""

    link: Secret
    client_now: float


class CommitGrant(NamedTuple):
    """Store the grant after the event, unless others went on. Answered by whether it was stored.

    A flow whose token becomes the grant's moves with it, both or neither.
    """

    grant: Grant
    event: dict[str, Any]
    lease: GrantLease | None = None
    release: str | None = None
    flow: Flow | None = None
    flow_event: dict[str, Any] | None = None


class UseGrant(NamedTuple):
    """Note what uses the grant. Answered by None."""

    grant_id: str
    client_now: float
    uses: tuple[Use, ...]


class ListGrants(NamedTuple):
    """Read a page of all grants. Answered by `StoredGrant`s, and names of unreadable ones."""

    client_now: float
    after: str | None


class DueGrants(NamedTuple):
    """Find grants that a sweep should look after. Answered by their names and servers."""

    client_now: float
    unused: float
    limit: int


class EndedGrants(NamedTuple):
    """Find grants that ended before then. Answered by a page of their names."""

    ended_before: float
    after: str | None


class DeleteGrant(NamedTuple):
    """Delete a grant, unless others went on. Answered by whether it was deleted."""

    grant: Grant


class SnoozeGrant(NamedTuple):
    """Hide a grant and its notices from sweeps for an hour. Answered by None."""

    name: str
    client_now: float


class DueNotices(NamedTuple):
    """Find grants with a need that the program is to be notified of. Answered by their names."""

    client_now: float
    limit: int


class ClaimNotice(NamedTuple):
    """Put off what is to be notified of a grant. Answered by whether it was due."""

    grant_id: str
    client_now: float
    seconds: float


# Time.


class StoreNow(NamedTuple):
    """Ask what time it is for the store. Answered by seconds since 1970."""


class ReadClocks(NamedTuple):
    """Read the wall clock and the monotonic clock at one moment. Answered by `Clocks`."""


class JoinClock(NamedTuple):
    """Go by the wall clock as it is, as other processes do. Answered by None."""


class Sleep(NamedTuple):
    """Wait for a number of seconds. Answered by None.

    With a `flow_id` that is watched (see `Watch`), the sleep ends early when the flow is woken.
    """

    seconds: float
    flow_id: str | None = None


class Watch(NamedTuple):
    """From now on, end this operation's sleeps for the flow at a `Wake`, even at an earlier one.

    To watch again forgets the wakes until then.

    Answered by None.
    """

    flow_id: str


class Wake(NamedTuple):
    """Wake the operations of this client that watch the flow. Answered by None."""

    flow_id: str


# The server.


class CheckCredentials(NamedTuple):
    """Check that a stored login names no other secret than this process may read.

    Answered by None; raises `UsageError`.
    """

    provider: Provider


class Prepare(NamedTuple):
    """Add the client's credentials to a request. Answered by a `Prepared` request.

    Raises `UsageError` or `ImportError` where the credentials cannot be had; nothing was sent.
    """

    request: Request
    now: float


class Prepared(NamedTuple):
    """A request that can be sent, and whether the server's certificate will not be checked."""

    request: Request
    unverified: bool = False


class Send(NamedTuple):
    """Send a prepared request within a deadline. Answered by an `Exchange`; never raises."""

    request: Request
    timeout: float


class Exchange(NamedTuple):
    """What came of a request.

    Attributes:
        result: The response, or why there is none. An exception is what interrupted the sending,
            without the frames that held what was sent.
        ended: When that was, by the monotonic clock.
    """

    result: Response | Failure | BaseException
    ended: float


# The record and the person.


class WriteAudit(NamedTuple):
    """Append a stored event to the audit file, if there is one. Answered by None."""

    event: dict[str, Any]
    flow: Flow | Grant


class Emit(NamedTuple):
    """Log an event. Answered by None."""

    name: str
    fields: dict[str, Any]
    level: int = logging.INFO


class Notify(NamedTuple):
    """Tell a function of the caller how the login stands. Answered by None."""

    on_step: Callable[[Login], object]
    login: Login


class TellNeed(NamedTuple):
    """Notify the program of a need, or of its end. Answered by what failed, or None."""

    need: LoginNeed


class Print(NamedTuple):
    """Show the person a line. Answered by None."""

    line: str


class OpenBrowser(NamedTuple):
    """Open a page for the person. Answered by whether a browser took it."""

    url: str


SharedEffect: TypeAlias = (
    Add
    | ClaimFlow
    | ClaimNotice
    | Commit
    | CommitGrant
    | DeleteEnded
    | DueGrants
    | DueNotices
    | Emit
    | ForeignLeases
    | FindFlow
    | IdsWithSecrets
    | RestartLease
    | ListGrants
    | Load
    | LoadGrant
    | LoadGrantById
    | LoadGrantByLink
    | JoinClock
    | ReadClocks
    | RecordStoreEvent
    | Release
    | Reschedule
    | Snooze
    | SnoozeGrant
    | EndedGrants
    | DeleteGrant
    | StoreNow
    | Upcoming
    | UseGrant
    | Wake
    | WakeAfterClockChange
)
"""The effects that a store, a clock or the log performs, alike for each driver."""

Effect: TypeAlias = (
    SharedEffect
    | CheckCredentials
    | ListFlows
    | Notify
    | OpenBrowser
    | Prepare
    | Print
    | Send
    | Sleep
    | TellNeed
    | Watch
    | WriteAudit
)

MUST_FINISH: Final[frozenset[type]] = frozenset(
    {
        ClaimFlow,
        Commit,
        CommitGrant,
        Emit,
        Release,
        Reschedule,
        Snooze,
        WriteAudit,
    }
)
"""The effects that a driver performs to their end before it gives way."""

_T = TypeVar("_T")

Op: TypeAlias = Generator[Effect, Any, _T]
"""An operation that returns a `_T`."""


def or_else(operation: Op[_T], *effects: Effect) -> Op[_T]:
    """Run an operation, and if it raises, yield these effects before it raises on.

    Nothing is yielded where the operation is closed: whoever closes it performs nothing more.
    """
    try:
        return (yield from operation)
    except GeneratorExit:
        raise
    except BaseException:
        for effect in effects:  # noqa: UP028  # a tuple's iterator cannot be sent an answer
            yield effect
        raise
