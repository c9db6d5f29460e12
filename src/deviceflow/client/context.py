"""What the operations of one client share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.audit.personal import Personal
from deviceflow.client.driver import Driver
from deviceflow.client.identity import Identity
from deviceflow.client.kept import Metadata, TokenCache, UnsavedRefreshes, UnsavedTokens
from deviceflow.client.lease import GRANT_MARGIN, LEASE_MARGIN
from deviceflow.client.store_clock import StoreClock
from deviceflow.core.need import OUTAGE_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.audit.jsonl import JSONLinesAudit
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import Origin
    from deviceflow.core.provider import Approver

    Link = Callable[[dict[str, Any], Flow | Grant], None]

DEADLINE: Final = 10.0
"""Seconds that one request may take, all in all, unless the client says otherwise."""


WINDOW_SHARE: Final = 0.7
"""The share of a server's replay window that the lease of a refresh may last."""

SHORTEST_WINDOW: Final = 8.0
"""Seconds of the shortest replay window that the lease of a refresh is fitted into."""


class Context(NamedTuple):
    """The settings of one client, and what it remembers between operations.

    Attributes:
        identity: Who the client is.
        link: Makes an event the next link of its chain before the event is committed, for a store
            that does not link events itself.
        writes_audit: Whether there is an audit file.
        unverified: The addresses of which it is on record that no certificate is checked.
        personal: What events keep of a person.
        metadata: The metadata of servers that it has asked.
        unsaved: The tokens whose commit failed.
        refreshed: The tokens of refreshes whose commit failed.
        tokens: The access tokens that it has given lately.
        store_clock: What is known of the store's clock.
        driver: What the client holds logins as.
        durable: Whether the store outlives the process.
        deadline: Seconds that one request may take, all in all.
        approver: The program's policy on who may approve.
        notifies: Whether the program is to be told where a person must log in.
        pages: Where the pages of needs are; None where nobody said.
        outage_after: Seconds after which the program is told of an outage.
        invalidate: The client's method of that name.
        store_option: The option of a command that names the store; empty for the user's own.
    """

    identity: Identity
    link: Link | None
    writes_audit: bool
    unverified: set[str]
    personal: Personal
    metadata: Metadata
    unsaved: UnsavedTokens
    refreshed: UnsavedRefreshes
    tokens: TokenCache
    store_clock: StoreClock
    driver: Driver
    durable: bool = False
    deadline: float = DEADLINE
    approver: Approver | None = None
    notifies: bool = False
    pages: str | None = None
    outage_after: float = OUTAGE_AFTER
    invalidate: Callable[[str, AccessToken], Any] | None = None
    store_option: str = ""

    @property
    def lease_seconds(self) -> float:
        """For how long a lease is taken under which a request is sent."""
        return self.deadline + LEASE_MARGIN

    def refresh_limits(self, window: float) -> tuple[float, float]:
        """Return the deadline of a refresh, and by how much its lease outlives that, in seconds.

        If a process dies, the next one sends the refresh again once the lease has ended. So the
        lease ends early enough for a server that answers the same refresh again for a short time.

        Args:
            window: For how many seconds the server does.
        """
        lease = self.deadline + GRANT_MARGIN
        if window < SHORTEST_WINDOW or WINDOW_SHARE * window >= lease:
            return self.deadline, GRANT_MARGIN
        shorter = WINDOW_SHARE * window / lease
        return self.deadline * shorter, GRANT_MARGIN * shorter


def context_of(
    *,
    durable: bool,
    keeps_trail: bool,
    holds: bool,
    audit: JSONLinesAudit | None,
    origin: Origin,
    deadline: float,
    approver: Approver | None,
    notifies: bool = False,
    pages: str | None = None,
    outage_after: float = OUTAGE_AFTER,
    invalidate: Callable[[str, AccessToken], Any] | None = None,
    store_option: str = "",
) -> Context:
    """Return the context of a new client.

    Args:
        durable: Whether the client's store outlives the process.
        keeps_trail: Whether the store keeps and links each flow's events.
        holds: Whether the store lets logins be held.
        audit: The audit file, if there is one. It links the events where the store does not.
        origin: Who the client works for.
        deadline: Seconds that one request may take.
        approver: The program's policy on who may approve.
        notifies: Whether the program is to be told where a person must log in.
        pages: Where the pages of needs are; None where nobody said.
        outage_after: Seconds after which the program is told of an outage.
        invalidate: The client's method of that name.
        store_option: The option of a command that names the store; empty for the user's own.
    """
    identity = Identity(origin)
    link = None if audit is None or keeps_trail else audit.link
    return Context(
        identity,
        link,
        audit is not None,
        set(),
        Personal(linked=keeps_trail or link is not None),
        Metadata(),
        UnsavedTokens(),
        UnsavedRefreshes(),
        TokenCache(),
        StoreClock(),
        Driver(holds=holds),
        durable,
        deadline,
        approver,
        notifies,
        pages,
        outage_after,
        invalidate,
        store_option,
    )
