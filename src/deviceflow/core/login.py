"""What callers get of a login: a frozen snapshot.

Callers never get the flow itself, because a change to a copy of a flow would look like a change to
the login and be saved nowhere. The client's methods move a login, and return the next snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Provider
    from deviceflow.core.states import Handover, Reason, State
    from deviceflow.core.text import CleanText, PersonText


@dataclass(frozen=True, repr=False)
class Login:
    """A login as it was at one moment.

    A `Login` contains no secret: neither the device code, nor the token, nor the PKCE verifier. The
    user code and the links are for the person who logs in; the repr and `to_dict` leave them out.

    Times are in seconds since 1970.

    Attributes:
        id: The login's id. Not a secret.
        name: The caller's own name for the login, if it has one.
        purpose: Why the login is needed, as the program states it.
        provider: The server, and what the login asks for.
        state: The state.
        reason: Why the login failed; None if it has not failed.
        detail: The server's message about the state, cleaned.
        user_code: The code that the person compares or types.
        verification_uri: The page to open; None if the server sent no usable URL.
        verification_uri_complete: The same page with the user code in its URL, if there is one.
        extra: Other fields that the server sent with the code, such as Studio's `token_name`, as
            pairs.
        token_endpoint: Where the login polls.
        created_at: When the login began.
        expires_at: When the code expires; None if only the server knows.
        ended_at: When the login ended, if it has.
        wait_seconds: How many seconds after the snapshot the next step is due. 0 if the step is due
            already, or if the login has ended and no token is left to revoke.
        interval: Seconds between two polls, as the server last asked for.
        attempt: How many token requests the login has announced.
        failures: How many times in a row no usable response came.
        in_doubt: Whether the server may have issued a token that did not arrive.
        handover: The state of the hand-over of the token.
        orphaned_tokens: How many tokens arrived that the login did not take and that must be
            revoked.
        revocations: How many requests to revoke tokens are left to send (RFC 7009).
        needs_approver: Whether only a program with a policy on who may approve
            (`Client(approver=…)`) may poll.
    """

    id: str
    name: str | None
    purpose: str | None
    provider: Provider
    state: State
    reason: Reason | None
    detail: CleanText | None
    user_code: PersonText | None
    verification_uri: PersonText | None
    verification_uri_complete: PersonText | None
    extra: tuple[tuple[str, CleanText | None], ...]
    token_endpoint: str | None
    created_at: float
    expires_at: float | None
    ended_at: float | None
    wait_seconds: float
    interval: float
    attempt: int
    failures: int
    in_doubt: bool
    handover: Handover
    orphaned_tokens: int
    revocations: int
    needs_approver: bool

    @classmethod
    def of(cls, flow: Flow, wait_seconds: float) -> Self:
        """Return the snapshot of a flow.

        Args:
            flow: The flow, with its secrets or without.
            wait_seconds: When the next step is due: as the flow says, or later, where another
                worker has the lease.
        """
        login = object.__new__(cls)
        # Each poll makes one, and a frozen class's own `__init__` takes twice as long.
        vars(login).update(
            id=flow.id,
            name=flow.name,
            purpose=flow.purpose,
            provider=flow.provider,
            state=flow.state,
            reason=flow.reason,
            detail=flow.detail,
            user_code=flow.user_code,
            verification_uri=flow.verification_uri,
            verification_uri_complete=flow.verification_uri_complete,
            extra=flow.extra,
            token_endpoint=flow.token_endpoint,
            created_at=flow.created_at,
            expires_at=flow.expires_at,
            ended_at=flow.ended_at,
            wait_seconds=wait_seconds,
            interval=flow.interval,
            attempt=flow.attempt,
            failures=flow.failures,
            in_doubt=flow.in_doubt,
            handover=flow.handover,
            orphaned_tokens=flow.orphaned_tokens,
            revocations=flow.revocations,
            needs_approver=flow.needs_approver,
        )
        return login

    def __repr__(self) -> str:
        return f"<Login {self.id} {self.state}>"

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows of a login that waits for a person; None for any other."""
        from deviceflow.core.notebook import as_html  # noqa: PLC0415  # few programs are notebooks

        return as_html(self)

    @property
    def has_token(self) -> bool:
        """Whether the store holds the token: it was issued, and neither acknowledged nor purged."""
        return self.handover.token_kept

    def to_dict(self) -> dict[str, Any]:
        """Return the login as JSON types, without what is for the person who logs in.

        So it can be a job's result in a queue.
        """
        record = {name: getattr(self, name) for name in _PLAIN}
        record["state"] = self.state.value
        record["reason"] = self.reason and self.reason.value
        record["handover"] = self.handover.value
        record["server"] = self.provider.server
        record["client"] = self.provider.client_name or self.provider.client_id
        return record


_PLAIN: Final = (
    "id",
    "name",
    "purpose",
    "state",
    "reason",
    "detail",
    "created_at",
    "expires_at",
    "ended_at",
    "wait_seconds",
    "interval",
    "attempt",
    "failures",
    "in_doubt",
    "handover",
    "orphaned_tokens",
    "revocations",
    "needs_approver",
)
