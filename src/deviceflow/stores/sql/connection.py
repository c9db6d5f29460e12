"""What a store needs of a database: transactions, in which it runs statements by their names.

A store awaits all of it. A sync connection is awaited as well, and never suspends: see
`deviceflow._blocking`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeVar

from deviceflow.stores import _leases as leases

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from deviceflow.stores.sql.statements import Statements

_T = TypeVar("_T")

Mode = Literal["open", "read", "lease", "write", "durable", "migrate"]
"""How work is done.

`open` and `read` change nothing. `lease` changes something by one statement, and that need not
survive a power cut. `write` is one transaction: all of it, or nothing and an error; `migrate` too.
`durable` is a `write` that survives a power cut, whatever the store's setting.
`open` and `migrate` are not tried again: they say at once what is wrong.
"""

NO_VALUES: Final[Mapping[str, Any]] = MappingProxyType({})


class Result(NamedTuple):
    """The result of a statement: its rows, and how many rows it changed."""

    rows: list[Any]
    changed: int


class Transaction:
    """Runs statements by their names, and has the values of time.

    Args:
        execute: Runs SQL with its values.
        statements: The statements by their names.
        now: The client's time; the database's, where that has a clock.

    Attributes:
        statements: The statements.
        now: That time.
    """

    def __init__(
        self,
        execute: Callable[[str, tuple[Any, ...]], Awaitable[Result]],
        statements: Statements,
        now: float,
    ) -> None:
        self._execute = execute
        self.statements = statements
        self.now = now
        self._times = leases.times(now)

    async def run(self, name: str, values: Mapping[str, Any] = NO_VALUES) -> Result:
        """Run a statement, and return its result."""
        text, values_of = self.statements[name]
        return await self._execute(text, values_of({**self._times, **values}))

    async def execute(self, name: str, values: Mapping[str, Any] = NO_VALUES) -> int:
        """Run a statement, and return how many rows it changed."""
        return (await self.run(name, values)).changed

    async def rows(self, name: str, values: Mapping[str, Any] = NO_VALUES) -> list[Any]:
        """Return all rows of a query."""
        return (await self.run(name, values)).rows

    async def row(self, name: str, values: Mapping[str, Any] = NO_VALUES) -> Any:
        """Return the first row of a query; None without one."""
        found = (await self.run(name, values)).rows
        return found[0] if found else None


Work = Callable[[Transaction], Coroutine[Any, Any, _T]]
"""What is done in one transaction. If the connection was lost, it is called again, and must find
out what was done before."""


class Query(Protocol):
    """Yields the rows of a query, by its name."""

    def __call__(self, name: str, values: Mapping[str, Any] = NO_VALUES) -> Iterator[Any]: ...


class Connection(Protocol):
    """Does work in transactions; from any thread, or from the tasks of one event loop.

    Attributes:
        statements: The statements, in the database's dialect.
    """

    statements: Statements

    async def run(self, work: Work[_T], mode: Mode, client_now: float) -> _T:
        """Do work in a transaction, and return its result.

        Args:
            work: The work.
            mode: How it is done.
            client_now: The time, where the database has no clock of its own.

        Raises:
            StoreError: It could not be done; a person can tell from it why.
            asyncio.CancelledError: All of it was done, or none.
        """

    def in_turn(self, record_id: str) -> AbstractAsyncContextManager[object]:
        """Have tasks that want the lease of one record wait for each other, if that saves work."""

    async def close(self) -> None:
        """Let go of files and connections. They are opened again where they are needed again."""


class BlockingConnection(Connection, Protocol):
    """A connection for threads, which never suspends."""

    def reading(self) -> AbstractContextManager[Query]:
        """Give what yields the rows of a query by its name, however many, all of one moment."""


class TaskConnection(Connection, Protocol):
    """A connection for the tasks of one event loop."""

    def blocking(self) -> AbstractContextManager[BlockingConnection]:
        """Give a connection to the same database for another thread."""

    async def look_for_change(self, on_change: Callable[[], None]) -> float:
        """See to it that a function is called where others may have made a login due.

        Returns:
            After how many seconds to call this method again.
        """
