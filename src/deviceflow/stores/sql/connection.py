"""What a store needs of a connection, and how statements reach it.

An operation is a generator. It yields a statement's name and its values, and is sent the rows that
came of it; so a connection, sync or async, performs it within one transaction, and needs to know
nothing of what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from deviceflow.stores.sql.methods import Job
    from deviceflow.stores.sql.pending import Done
    from deviceflow.stores.sql.statements import Statement

_T = TypeVar("_T")

Mode = Literal["open", "read", "lease", "write", "migrate"]
"""How an operation is performed.

`open` and `read` change nothing. `lease` changes something by one statement, and that need not
survive a power cut. `write` is one transaction: all of it, or nothing and an error; `migrate` too.
`open` and `migrate` are not tried again: they say at once what is wrong.
"""


class Rows(Protocol):
    """What came of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""


Statements = Generator[tuple[str, Mapping[str, Any]], Rows, _T]
"""An attempt at an operation: it yields names and values, is sent rows, and returns its result."""

Operation = Callable[[float], Statements[_T]]
"""Begins an attempt, given the time at which it begins; called again if a connection was lost."""


class Query(Protocol):
    """Yields the rows of a query, by its name."""

    def __call__(self, name: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]: ...


class Connection(Protocol):
    """Performs operations; from any thread."""

    def perform(self, operation: Operation[_T], mode: Mode, client_now: float) -> _T:
        """Perform an operation.

        Args:
            operation: The operation.
            mode: How.
            client_now: The time, where the database has no clock of its own.

        Raises:
            StoreError: It could not be done; a person can tell from it why.
        """

    def reading(self) -> AbstractContextManager[Query]:
        """Give what yields the rows of a query by its name, however many, all of one moment."""

    def close(self) -> None:
        """Let go of files and connections. They are opened again where they are needed again."""


class AsyncConnection(Protocol):
    """Performs the jobs of the tasks of one event loop, many of them in one transaction."""

    async def perform(self, job: Job) -> Done:
        """Perform a job, once those before it on the same flow are done.

        Returns:
            What came of it, once that is as durable as the store is to be.

        Raises:
            asyncio.CancelledError: Nothing was done, and nothing will be.
        """

    def blocking(self) -> AbstractContextManager[Connection]:
        """Give a connection to the same database for another thread, which it may block."""

    async def close(self) -> None:
        """Perform what was asked for, and let go of files and connections."""


def performed(
    attempt: Statements[_T],
    execute: Callable[[str, tuple[Any, ...]], Rows],
    statements: Mapping[str, Statement],
) -> _T:
    """Perform an attempt at an operation, within the transaction that is open.

    Args:
        attempt: The attempt.
        execute: Runs SQL with its values.
        statements: The statements by their names.
    """
    try:
        name, values = next(attempt)
        while True:
            text, values_of = statements[name]
            name, values = attempt.send(execute(text, values_of(values)))
    except StopIteration as stop:
        result: _T = stop.value
        return result
