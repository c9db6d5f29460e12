"""What an operation works with: a store, a server, two clocks, a person, and the record.

An operation of the client is an `async def` whose first argument is a `World`. It touches no store,
network, clock, environment or thread but by the world's ports. `AsyncClient` awaits operations in
an event loop. `Client` runs the same coroutines over ports that never suspend. Tests run them over
ports that are lists, that fail, or that are interrupted at the n-th call.

**Giving way.** An operation may be closed at any port, or have an exception raised there: a
cancellation, or Ctrl-C. Both leave the login at worst as the death of the process would have left
it at that moment: under a lease that runs out, in a state that the next step recovers from. An
operation that has begun to handle an exception may call more ports before it raises the exception
again. When an operation is closed (`GeneratorExit`), it calls no port. So an operation has no
`await` in a `finally`: `or_else` is for that.

Two rules make that safe, and the worlds of both clients keep them:

* A port of `MUST_FINISH` is not interrupted. A cancellation, or Ctrl-C, that comes meanwhile is
  raised once, by the next other port. A commit that was half awaited would be stored, and neither
  logged nor known; so would what is decided within a claim. A lease that was half given back would
  keep others waiting.
* `send` never raises. What interrupted it is its result, so that the operation can store that the
  outcome is in doubt before it raises the interruption. Between `send` and the commit of what its
  result means, an operation calls no other port. An issued token whose commit does not come to its
  end stays in the client's `UnsavedTokens`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from copy import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

from deviceflow.core.flow import Flow
from deviceflow.errors import UnknownLoginError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from deviceflow.client.context import Context
    from deviceflow.client.lease import Clocks
    from deviceflow.core.grant import Grant
    from deviceflow.core.login import Login
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import AsyncStore, Stored
    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Failure, Request, Response

_T = TypeVar("_T")

MUST_FINISH: Final = frozenset({"claim", "commit", "leave_out", "release", "put_off"})
"""The methods of a store that are not interrupted. Nor is `World.write_audit`."""


class Prepared(NamedTuple):
    """A request that can be sent, and whether the server's certificate will not be checked."""

    request: Request
    unverified: bool = False


class Exchange(NamedTuple):
    """What came of a request.

    Attributes:
        result: The response, or why there is none. An exception is what interrupted the sending,
            without the frames that held what was sent.
        ended: When that was, by the monotonic clock.
    """

    result: Response | Failure | BaseException
    ended: float


class World(ABC):
    """The ports of one operation while it runs.

    Attributes:
        context: The client's settings, and what it remembers between operations.
        store: The store.
    """

    context: Context
    store: AsyncStore

    def within(self, deadline: float) -> Self:
        """Return the same ports for work whose requests may take `deadline` seconds each."""
        world = copy(self)
        world.context = self.context._replace(deadline=deadline)
        return world

    # Time.

    @abstractmethod
    def clocks(self) -> Clocks:
        """Read the wall clock and the monotonic clock at one moment."""

    @abstractmethod
    def resync_clock(self) -> None:
        """Use the wall clock as it is from now on, as other processes do."""

    async def now(self) -> float:
        """Return the store's time, in seconds since 1970."""
        return await self.store.now(self.clocks().wall)

    @abstractmethod
    async def sleep(self, seconds: float, watched: str | None = None) -> None:
        """Wait for a number of seconds, or until `wake` if the login or grant is watched."""

    @abstractmethod
    def watch(self, subject_id: str) -> None:
        """From now on, end this operation's sleeps for it at a `wake`, even at an earlier one.

        To watch again forgets the wakes until then.
        """

    @abstractmethod
    def wake(self, subject_id: str) -> None:
        """Wake the operations of this client that watch a login or a grant."""

    # The server.

    @abstractmethod
    async def check_credentials(self, provider: Provider) -> None:
        """Check that a stored login names no other secret than this process may read.

        Raises:
            UsageError: It does.
        """

    @abstractmethod
    async def prepare(self, request: Request, now: float) -> Prepared:
        """Add the client's credentials to a request.

        Raises:
            UsageError: The credentials cannot be had. Nothing was sent.
            ImportError: An extra is missing. Nothing was sent.
        """

    @abstractmethod
    async def send(self, request: Request, timeout: float) -> Exchange:
        """Send a prepared request within a deadline, in seconds. This never raises."""

    # The record.

    async def load_login(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of a stored login.

        Raises:
            UnknownLoginError: The store has no login of this id.
        """
        return (await self.load_stored(flow_id, secrets=secrets)).record

    async def load_stored(self, flow_id: str, *, secrets: bool = True) -> Stored[Flow]:
        """Return the same, with what the store says of it besides."""
        stored = await self.store.load(Flow, flow_id, secrets=secrets)
        if stored is None:
            raise UnknownLoginError(flow_id=flow_id)
        return stored

    async def find_login(self, name: str) -> Flow | None:
        """Return a copy of the open login of a name, without its secrets; None without one."""
        stored = await self.store.load(Flow, name, by="name", secrets=False)
        return None if stored is None else stored.record

    @abstractmethod
    async def write_audit(self, event: dict[str, Any], subject: Flow | Grant) -> None:
        """Append a stored event to the audit file, if there is one."""

    @abstractmethod
    def emit(self, name: str, fields: dict[str, Any], level: int = logging.INFO) -> None:
        """Log an event."""

    # The person.

    @abstractmethod
    async def print(self, line: str) -> None:
        """Show the person a line."""

    @abstractmethod
    async def open_browser(self, url: str) -> bool:
        """Open a page for the person, and return whether a browser opened it."""

    @abstractmethod
    async def notify(self, need: LoginNeed) -> str | None:
        """Notify the program of a need, or of its end. Return what failed, or None."""

    @abstractmethod
    async def on_step(self, function: Callable[[Login], object], login: Login) -> None:
        """Call a function of the caller with the login as it stands."""


async def or_else(work: Awaitable[_T], undo: Callable[[], Coroutine[Any, Any, object]]) -> _T:
    """Await work, and if it raises, undo something before it raises on.

    Nothing is undone if the operation is closed: then no port may be called.
    """
    try:
        return await work
    except GeneratorExit:
        raise
    except BaseException:
        await undo()
        raise
