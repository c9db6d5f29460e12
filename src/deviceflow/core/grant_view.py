"""What callers get of a grant: a frozen snapshot, without its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import Stored
    from deviceflow.core.provider import Provider
    from deviceflow.core.states import GrantState, Loss
    from deviceflow.core.text import CleanText


@dataclass(frozen=True, slots=True, repr=False)
class GrantView:
    """A grant as it was at one moment. No secret is in it. Times are in seconds since 1970.

    Attributes:
        id: The grant's id: the `flow_id` of its events.
        name: The grant's name.
        purpose: Why the grant is needed, as the program states it.
        provider: The server, and what the grant asks for.
        state: The state.
        reason: Why the grant gives no tokens any more, if it was lost.
        detail: The server's message about the state, cleaned.
        invalid: Whether a resource server refused the access token: the next one needs a refresh.
        generation: How many times it has got tokens.
        expires_at: When its access token expires; None if the server does not say.
        refreshable: Whether it has a refresh token.
        scopes: The granted scopes; None if the server did not say.
        subject: Whose tokens they are, if an id token said so.
        created_at: When a program first asked for the grant.
        used_at: When a use of the grant was last noted, which is done once a minute.
        login_id: The login that the tokens came from; None without one, or if a program brought
            a refresh token (`Client.adopt_grant`).
        unanswered_since: Since when no refresh had a usable answer; None if the last one had. In
            the state `in-doubt`, when the refresh was first sent whose answer is not known.
        unanswered: How many refreshes in a row had no usable answer.
        need_id: The id of the need, if a person must log in.
        need_since: When the need arose.
        need_notified: How many times the program was notified of the need.
        revocations: How many requests to revoke tokens are left to send.
    """

    id: str
    name: str
    purpose: str | None
    provider: Provider
    state: GrantState
    reason: Loss | None
    detail: CleanText | None
    invalid: bool
    generation: int
    expires_at: float | None
    refreshable: bool
    scopes: tuple[CleanText, ...] | None
    subject: CleanText | None
    created_at: float
    used_at: float | None
    login_id: str | None
    unanswered_since: float | None
    unanswered: int
    need_id: str | None
    need_since: float | None
    need_notified: int
    revocations: int

    @classmethod
    def of(cls, stored: Stored[Grant]) -> Self:
        """Return the snapshot of a stored grant."""
        grant = stored.record
        token, need = grant.token, grant.open_need
        return cls(
            id=grant.id,
            name=grant.name,
            purpose=grant.purpose,
            provider=grant.provider,
            state=grant.state,
            reason=grant.reason,
            detail=grant.detail,
            invalid=grant.invalid and grant.refused_at > 0,  # not if it was adopted without any
            generation=grant.generation,
            expires_at=grant.expires_at,
            refreshable=grant.refreshable,
            scopes=None if token is None else token.scopes,
            subject=grant.subject,
            created_at=grant.created_at,
            used_at=stored.used_at,
            login_id=grant.flow_id,
            unanswered_since=grant.unanswered_since,
            unanswered=grant.unanswered,
            need_id=None if need is None else need.id,
            need_since=None if need is None else need.since,
            need_notified=0 if need is None else need.notified,
            revocations=grant.revocations,
        )

    def __repr__(self) -> str:
        return f"<GrantView {self.name!r} {self.state}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the grant as JSON types."""
        return {
            "id": self.id,
            "name": self.name,
            "purpose": self.purpose,
            "server": self.provider.server,
            "client": self.provider.client_name or self.provider.client_id,
            "state": self.state.value,
            "reason": self.reason and self.reason.value,
            "detail": self.detail,
            "invalid": self.invalid,
            "generation": self.generation,
            "expires_at": self.expires_at,
            "refreshable": self.refreshable,
            "scopes": None if self.scopes is None else [*self.scopes],
            "subject": self.subject,
            "created_at": self.created_at,
            "used_at": self.used_at,
            "login_id": self.login_id,
            "unanswered_since": self.unanswered_since,
            "unanswered": self.unanswered,
            "need_id": self.need_id,
            "need_since": self.need_since,
            "need_notified": self.need_notified,
            "revocations": self.revocations,
        }
