"""What a client keeps in memory between operations: metadata, unsaved tokens, tokens in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow import _forks as forks
from deviceflow.core.grant import SHARE

if TYPE_CHECKING:
    from deviceflow.client.lease import Clocks
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease
    from deviceflow.core.provider import Token
    from deviceflow.core.secret import Secret
    from deviceflow.core.wire import Fields

METADATA_LIFETIME: Final = 3600.0
"""Seconds for which a client keeps the metadata of a server."""


class Metadata:
    """The metadata that a client has fetched."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, Fields]] = {}

    def get(self, server: str, steady: float) -> Fields | None:
        """Return a server's metadata, if they were fetched within the last hour."""
        fetched, metadata = self._kept.get(server, (0.0, None))
        return metadata if steady < fetched + METADATA_LIFETIME else None

    def keep(self, server: str, steady: float, metadata: Fields) -> None:
        """Keep a server's metadata that were fetched at that time of the monotonic clock."""
        self._kept[server] = (steady, metadata)

    def discard(self, server: str) -> None:
        """Fetch a server's metadata anew next time."""
        self._kept.pop(server, None)


class Issued(NamedTuple):
    """What an answer brought.

    Attributes:
        token: The token; None where it may not be taken, and is only to be revoked.
        attempt: The poll that brought it; the last one that was reserved, if the login is held.
        revocable: What is to be revoked of a token that may not be taken, each with its kind.
    """

    token: Token | None
    attempt: int
    revocable: tuple[tuple[str, Secret], ...] = ()


class UnsavedToken(NamedTuple):
    """A token that may not be in the store yet.

    Attributes:
        flow: The flow with the token, as it was to be stored.
        event: The event that it was to be stored with.
        issued: The same token, to be stored with the flow as others have left it.
    """

    flow: Flow
    event: dict[str, Any]
    issued: Issued


class UnsavedTokens:
    """The tokens that a client has received and not stored yet, by the worker and the flow.

    Whoever holds logins receives the tokens of many by one name.

    They are not inherited by a forked child: saved by both processes, a token would count as two,
    and be revoked.
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], UnsavedToken] = {}
        forks.in_child(self._forget)

    def _forget(self) -> None:
        self._tokens = {}

    def hold(self, worker: str, unsaved: UnsavedToken) -> None:
        """Hold a token until `discard`."""
        self._tokens[worker, unsaved.flow.id] = unsaved

    def discard(self, worker: str, flow_id: str) -> None:
        """Let go of what the worker received: it is stored, or on record as orphaned."""
        self._tokens.pop((worker, flow_id), None)

    def of(self, flow_id: str) -> list[tuple[str, UnsavedToken]]:
        """Return the unsaved tokens of a flow, each with its worker."""
        held = list(self._tokens.items())
        return [(worker, unsaved) for (worker, of), unsaved in held if of == flow_id]

    def flow_ids(self) -> list[str]:
        """Return the flows that have unsaved tokens."""
        return list(dict.fromkeys(flow_id for _, flow_id in list(self._tokens)))


STALE: Final = 1.0
"""Seconds for which a client gives an access token from memory, without a look at the store.

For as long, a token may be given that another process has invalidated or revoked.
"""

_MOST_KEPT: Final = 1024


class CachedToken(NamedTuple):
    """An access token that was read from the store.

    Attributes:
        token: The token.
        asked: What was asked for, as the caller said it.
        left: How many seconds were left of the token.
        lifetime: Its lifetime in seconds.
        read: What both clocks said when it was read.
    """

    token: AccessToken
    asked: object
    left: float
    lifetime: float
    read: Clocks


class TokenCache:
    """The access tokens that a client has given lately, by the names of their grants."""

    def __init__(self) -> None:
        self._tokens: dict[str, CachedToken] = {}
        self._refused: dict[str, Secret] = {}

    def __repr__(self) -> str:
        return "<kept tokens>"

    def get(self, name: str, asked: object, min_ttl: float, clocks: Clocks) -> AccessToken | None:
        """Return the token of a grant, if it was read just now and enough is left of it."""
        kept = self._tokens.get(name)
        if kept is None or kept.asked != asked or self.is_refused(name, kept.token.access_token):
            return None
        passed = max(clocks.steady - kept.read.steady, clocks.wall - kept.read.wall)
        if not passed < STALE or kept.left - passed <= min(min_ttl, SHARE * kept.lifetime):
            return None
        return kept.token

    def keep(self, name: str, kept: CachedToken) -> None:
        """Keep a token."""
        if len(self._tokens) >= _MOST_KEPT:
            self._tokens.clear()
        self._tokens[name] = kept

    def discard(self, name: str) -> None:
        """Read a grant's token from the store next time."""
        self._tokens.pop(name, None)

    def refuse(self, name: str, token: Secret) -> None:
        """Take note of the last token of a grant that a resource server refused.

        Another thread may have read it just before, and keep it just after.
        """
        if len(self._refused) >= _MOST_KEPT:
            self._refused.clear()
        self._refused[name] = token
        self.discard(name)

    def is_refused(self, name: str, token: Secret) -> bool:
        """Tell whether a token is the last one of its grant that a resource server refused."""
        refused = self._refused.get(name)
        return refused is not None and refused == token


class GrantCommit(NamedTuple):
    """A commit of a grant: the arguments of a store's `commit`."""

    grant: Grant
    event: dict[str, Any]
    lease: GrantLease | None = None
    release: str | None = None
    flow: Flow | None = None
    flow_event: dict[str, Any] | None = None


class UnsavedRefresh(NamedTuple):
    """The tokens of a refresh that may not be in the store yet.

    Attributes:
        commit: How they were to be stored.
        token: The tokens.
        attempt: The refresh that brought them.
    """

    commit: GrantCommit
    token: Token
    attempt: int


class UnsavedRefreshes:
    """The tokens that a client has received by a refresh and not stored yet, by the worker.

    They are not inherited by a forked child.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, UnsavedRefresh] = {}
        forks.in_child(self._forget)

    def _forget(self) -> None:
        self._tokens = {}

    def hold(self, worker: str, unsaved: UnsavedRefresh) -> None:
        """Hold tokens until `discard`."""
        self._tokens[worker] = unsaved

    def discard(self, worker: str) -> None:
        """Let go of what the worker received: it is stored."""
        self._tokens.pop(worker, None)

    def of(self, name: str) -> list[tuple[str, UnsavedRefresh]]:
        """Return the unsaved tokens of a grant, each with its worker."""
        held = list(self._tokens.items())
        return [one for one in held if one[1].commit.grant.name == name]
