"""What became of a grant, and of each refresh: for tests, and without a token."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class GrantState(StrEnum):
    """What became of a grant.

    Only an active grant has valid tokens. `reused`: the server revoked the grant, because a
    refresh token came again after it was replaced (RFC 9700 section 4.14).
    """

    ACTIVE = "active"
    REVOKED = "revoked"
    REUSED = "reused"


class Answer(StrEnum):
    """How a refresh was answered: a new token, the same successor again, or `invalid_grant`."""

    ISSUED = "issued"
    REPLAYED = "replayed"
    REUSED = "reused"
    REFUSED = "invalid_grant"


@dataclass(slots=True, kw_only=True)
class RefreshRecord:
    """The log entry of one refresh.

    Attributes:
        monotonic: `time.monotonic()` when the request arrived.
        wall: The server's clock when the request arrived.
        generation: The generation of the refresh token in the request.
        scopes: The scopes that the request named; None if it named none.
        resource: The resources that the request named.
        audience: The audience that the request named.
        answer: How the request was answered.
    """

    monotonic: float
    wall: float
    generation: int
    scopes: tuple[str, ...] | None
    resource: tuple[str, ...]
    audience: str | None
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantView:
    """A grant at one moment, for a test. It contains no token.

    Attributes:
        user_code: The user code of the login that it came from.
        client: The client's name, or its id.
        scopes: The scopes that were granted.
        state: What became of the grant.
        generation: How many tokens it had so far: 1 after the login.
        refreshes: How many refreshes got a new token.
        replays: How many got the same successor again, within the grace window.
        reuses: How many came with a refresh token that had been replaced before that.
        requests: All refreshes, oldest first.
    """

    user_code: str
    client: str
    scopes: tuple[str, ...]
    state: GrantState
    generation: int
    refreshes: int
    replays: int
    reuses: int
    requests: tuple[RefreshRecord, ...]
