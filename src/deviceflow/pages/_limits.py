"""Limits of rates: for all together, and for each client by its address."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CLIENTS: Final = 1024
"""How many clients are remembered. Of more than that, the one seen the longest ago is forgotten."""

_NETWORK: Final = 64


def network_of(address: str) -> str:
    """Return what a client's requests have in common: its IPv4 address, or its IPv6 network.

    A client has as many addresses of its /64 network as it likes.

    Returns:
        The address or the network; an empty string for what is neither.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ip_network((int(ip), _NETWORK), strict=False))
    return str(ip)


class Limit:
    """Lets `burst` things through in a row, and then one each so many seconds.

    Args:
        burst: How many things.
        each: Seconds.
        clock: What the seconds are counted by.
    """

    def __init__(self, burst: int, each: float, clock: Callable[[], float]) -> None:
        self._ahead = (burst - 0.5) * each  # half a one, as sums of seconds are not exact
        self._each = each
        self._clock = clock
        self._at = 0.0

    def take(self) -> bool:
        """Take one, and return whether there was one left."""
        now = self._clock()
        at = max(self._at, now)
        if at - now > self._ahead:
            return False
        self._at = at + self._each
        return True


class ClientLimits:
    """A limit for each client, and one for all together, which a busy client does not use up.

    Args:
        of_each: The burst and the seconds of each client, as for `Limit`.
        of_all: The same of all together.
        clock: As for `Limit`.
    """

    def __init__(
        self, of_each: tuple[int, float], of_all: tuple[int, float], clock: Callable[[], float]
    ) -> None:
        self._of_each = of_each
        self._clock = clock
        self._all = Limit(*of_all, clock)
        self._clients = OrderedDict[str, Limit]()

    def take(self, client: str) -> bool:
        """Take one for a client, and return whether there was one left, for the client and all."""
        limit = self._clients.get(client)
        if limit is None:
            limit = self._clients[client] = Limit(*self._of_each, self._clock)
            if len(self._clients) > MOST_CLIENTS:
                self._clients.popitem(last=False)
        self._clients.move_to_end(client)
        return limit.take() and self._all.take()
