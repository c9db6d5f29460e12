"""The questions that a client asks its store about many logins or grants at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Stored, Unreadable, UpcomingFlow

_T = TypeVar("_T")

PAGE = 200
"""How many answers a store gives at most where a query has no limit of its own."""


class Query(NamedTuple, Generic[_T]):
    """A question to a store, whose answers are each a `_T`.

    Attributes:
        name: What is asked.
        values: What about, by names.
    """

    name: str
    values: Mapping[str, Any]


def upcoming(ahead: float, grace: float | None = None) -> Query[UpcomingFlow]:
    """Ask for logins that nobody seems to drive and nobody has leased, the longest due first.

    These are the logins that have their code and were never polled, and those that were due and
    were not stepped. There may be more of them than are returned.

    Args:
        ahead: How many seconds before they are due the former are returned.
        grace: How many seconds after they were due the latter are returned; None for never.
    """
    return Query("upcoming", {"ahead": ahead, "grace": grace})


def lapsed() -> Query[UpcomingFlow]:
    """Ask for logins whose driver has died, and that nobody has taken over since."""
    return Query("lapsed", {})


def taken(driver: str) -> Query[str]:
    """Ask for ids of logins that others have moved while a driver held them."""
    return Query("taken", {"driver": driver})


def gone_drivers() -> Query[str]:
    """Ask for drivers whose lease has ended, and who held nothing that others have not taken."""
    return Query("gone_drivers", {})


def pending() -> Query[bool]:
    """Ask whether a login waits for an approval: one true answer. Snoozed logins do not count."""
    return Query("pending", {})


def foreign_leases() -> Query[tuple[str, float]]:
    """Ask for due logins with a lease that has to be restarted, each with its `since`."""
    return Query("foreign_leases", {})


def with_secrets(
    kind: Literal["token", "revoke"], ended_before: float, skip: int = 0
) -> Query[str]:
    """Ask for one page of ids of ended logins that have secrets of a kind.

    Args:
        kind: The kind of secrets.
        ended_before: The logins ended before this time, in seconds since 1970.
        skip: The offset of the page. Logins are sorted by the time of their end.
    """
    return Query(f"with_{kind}", {"ended_before": ended_before, "skip": skip})


def without_secrets(ended_before: float, skip: int = 0) -> Query[Stored[Flow] | Unreadable]:
    """Ask for one page of ended logins that have no secrets: each, or why it cannot be read.

    The arguments are those of `with_secrets`.
    """
    return Query("without_secrets", {"ended_before": ended_before, "skip": skip})


def due_grants(unused: float, limit: int) -> Query[tuple[str, str]]:
    """Ask for grants that a sweep should look after, and nobody holds a lease of.

    Each answer is a pair: the grant's name, and its server.

    Args:
        unused: For how many seconds at most a grant may not have been used.
        limit: How many grants at most.
    """
    return Query("due_grants", {"unused": unused, "limit": limit})


def due_notices(limit: int) -> Query[str]:
    """Ask for names of grants with a need that the program is to be notified of.

    Args:
        limit: How many names at most.
    """
    return Query("due_notices", {"limit": limit})


def ended_grants(ended_before: float, after: str = "") -> Query[str]:
    """Ask for one page of names of grants that ended before a time, in their order.

    A grant that nobody ever logged in for counts as ended when it was first asked for.

    Args:
        ended_before: The time, in seconds since 1970.
        after: The last name of the page before.
    """
    return Query("ended_grants", {"ended_before": ended_before, "after": after})
