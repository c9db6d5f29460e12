"""All actions, each declared once with its facts.

The rules, in short:

* `polling` means that a token request may be in flight. The state is stored before the request is
  sent, and left when the response is processed.
* `authorized`, `expired` and `failed` are ends. One action leads out of an end: `late_token`, for a
  token that the server issued and that must not be lost. It is not allowed after `denied` and
  `cancelled`.
* The hand-over of the token has a machine of its own, which starts when the token is issued. A
  collected token is kept until it is acknowledged or purged, and can be collected again.
* A grant has a machine of its own, too. `refreshing` means that a refresh may be in flight, as
  `polling` does for a login; `in-doubt` that its answer was lost.
* An action that the table does not allow raises an error.

The table defines the machines: `deviceflow.core.machine` runs it, the diagrams in the documentation
are drawn from it, the verification checks trails against it, and stores, exporters, statistics and
the report read their facts from it. To add an action, declare it here.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from deviceflow.core.states import (
    ACKNOWLEDGED,
    ACTIVE,
    AUTHORIZED,
    AWAITING_USER,
    COLLECTED,
    ENDS,
    EXPIRED,
    FAILED,
    GIVING,
    IN_DOUBT,
    INIT,
    KEPT,
    LOST,
    NONE,
    POLLING,
    PURGED,
    READY,
    REFRESHING,
    REVOKED,
    WANTED,
    GrantState,
    Handover,
    Reason,
    State,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from deviceflow.core.states import HasState


class Kind(StrEnum):
    """How an action affects the machines."""

    LOGIN = "login"
    """A trigger of the login's machine."""
    HANDOVER = "hand-over"
    """A trigger of the hand-over's machine. The login's state does not change."""
    NOTE = "note"
    """An action on a login that changes neither state."""
    GRANT = "grant"
    """An action on a grant."""
    STORE = "store"
    """An event of the store itself."""


class Severity(StrEnum):
    """The log level of an action."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Action(str):  # noqa: SLOT000  # the decorator makes them
    """An action: its name and its facts.

    Attributes:
        name: The name, as in events.
        kind: How the action affects the machines.
        words: What happened, for people.
        outcome: The result in one word, as in events.
        login: The states of the login in which the action is allowed, each with the state after it.
        handover: The same for the states of the hand-over. Both states must allow the action.
        grant: The states of a grant in which the action is allowed, each with the state after it.
        condition: A further condition on the flow.
        severity: The log level.
        changes_secrets: Whether the action changes which secrets the flow has, or how they are
            sealed.
        wipes: Whether the action wipes a secret that could still be read from the store's file.
        mark: For anomalies, the mark on a login's timeline: an SVG path, about 10 units wide and
            centred at 0.
        counted_as: The statistic that counts the action, if there is one.
        event_type: The `event.type` in the Elastic Common Schema.
        omissible: Whether a summarized trail leaves the event out: see `deviceflow.core.omitted`.
    """

    name: str
    _: KW_ONLY
    kind: Kind
    words: str
    outcome: str
    login: Mapping[State, State] = field(default_factory=dict)
    handover: Mapping[Handover, Handover] = field(default_factory=dict)
    grant: Mapping[GrantState, GrantState] = field(default_factory=dict)
    condition: Callable[[HasState], bool] | None = None
    severity: Severity = Severity.INFO
    changes_secrets: bool = False
    wipes: bool = False
    mark: str | None = None
    counted_as: str | None = None
    event_type: str = "info"
    omissible: bool = False

    def __new__(cls, name: str, **_facts: object) -> Self:
        """Create the string, which is the action's name."""
        return str.__new__(cls, name)

    def allowed(self, flow: HasState) -> bool:
        """Tell whether the action is allowed in the flow's states."""
        return (
            flow.state in self.login
            and flow.handover in self.handover
            and (self.condition is None or self.condition(flow))
        )

    @property
    def issues_token(self) -> bool:
        """Whether the token arrives with the action: the login is approved."""
        return NONE in self.handover and self.handover[NONE] is READY

    @property
    def ends_handover(self) -> bool:
        """Whether the action wipes the token."""
        return self.kind is Kind.HANDOVER and KEPT.isdisjoint(self.handover.values())

    @property
    def ends_login(self) -> State | None:
        """The end that the action leads to, if it ends the login."""
        reached = {*self.login.values()}
        ends = self.kind is Kind.LOGIN and len(reached) == 1 and reached <= ENDS
        return reached.pop() if ends else None


def takes_late_token(flow: HasState) -> bool:
    """Tell whether a late token may be taken: not if the login was denied or cancelled."""
    return flow.reason not in (Reason.DENIED, Reason.CANCELLED)


_TABLE: Final[dict[str, Action]] = {}
_NO_TOKEN: Final = {NONE: NONE}
_ISSUED: Final = {NONE: READY}
_ANY: Final = {handover: handover for handover in Handover}
_ANY_GRANT: Final = {state: state for state in GrantState}


def _declare(name: str, **facts: Any) -> Action:
    _TABLE[name] = action = Action(name, **facts)
    return action


def _trigger(name: str, login: Mapping[State, State], **facts: Any) -> Action:
    """Declare a trigger of the login's machine."""
    facts = {"kind": Kind.LOGIN, "handover": _NO_TOKEN} | facts
    if all(dest in ENDS for dest in login.values()):
        facts |= {"changes_secrets": True, "event_type": "end"}
    return _declare(name, login=login, **facts)


def _handing_over(name: str, dest: Handover, **facts: Any) -> Action:
    """Declare a trigger of the hand-over's machine."""
    login, handover = {AUTHORIZED: AUTHORIZED}, dict.fromkeys((READY, COLLECTED), dest)
    return _declare(name, kind=Kind.HANDOVER, login=login, handover=handover, **facts)


def _beside(name: str, states: Iterable[State] = State, **facts: Any) -> Action:
    """Declare an action that changes neither state."""
    login = {state: state for state in states}
    return _declare(name, kind=Kind.NOTE, login=login, handover=_ANY, **facts)


def _of_grant(name: str, grant: Mapping[GrantState, GrantState], **facts: Any) -> Action:
    """Declare an action on a grant."""
    return _declare(name, kind=Kind.GRANT, grant=grant, **facts)


def _of_store(name: str, **facts: Any) -> Action:
    """Declare an event of the store."""
    return _declare(name, kind=Kind.STORE, **facts)


# The login.

ISSUE_CODE: Final = _trigger(
    "issue_code",
    {INIT: AWAITING_USER},
    words="a code was issued",
    outcome="code_issued",
    changes_secrets=True,
    event_type="start",
)
POLL: Final = _trigger(
    "poll",
    {AWAITING_USER: POLLING},
    words="a poll is sent",
    outcome="sent",
    omissible=True,
)
PENDING: Final = _trigger(
    "pending",
    {POLLING: AWAITING_USER},
    words="not approved yet",
    outcome="pending",
    omissible=True,
)
SLOW_DOWN: Final = _trigger(
    "slow_down",
    {POLLING: AWAITING_USER},
    words="the server asked for slower polling",
    outcome="slow_down",
    mark="M0 5-5-4H5z",
    counted_as="slow_downs",
)
RETRY: Final = _trigger(
    "retry",
    {INIT: INIT, POLLING: AWAITING_USER},
    words="no usable response: retrying later",
    outcome="no_answer",
    mark="M-4 0a4 4 0 1 0 8 0 4 4 0 1 0-8 0zm2 0a2 2 0 1 1 4 0 2 2 0 1 1-4 0z",
    counted_as="no_answers",
)
RECOVER: Final = _trigger(
    "recover",
    {POLLING: AWAITING_USER},
    words="a worker stopped during a poll: the result is in doubt",
    outcome="unknown",
    mark="M-1.5-5h3v3.500h3.500v3H1.500V5h-3V1.500H-5v-3h3.500z",
    counted_as="recoveries",
)
ISSUE_TOKEN: Final = _trigger(
    "issue_token",
    {POLLING: AUTHORIZED},
    handover=_ISSUED,
    words="approved: the token arrived",
    outcome="token_issued",
)
LATE_TOKEN: Final = _trigger(
    "late_token",
    dict.fromkeys((AWAITING_USER, POLLING, EXPIRED, FAILED), AUTHORIZED),
    handover=_ISSUED,
    condition=takes_late_token,
    words="approved: the token arrived late",
    outcome="token_issued",
    counted_as="late_tokens",
)
EXPIRE: Final = _trigger(
    "expire",
    dict.fromkeys((AWAITING_USER, POLLING), EXPIRED),
    words="the device code expired",
    outcome="expired",
)
DENY: Final = _trigger(
    "deny", {POLLING: FAILED}, words="the person denied the login", outcome="denied"
)
FAIL: Final = _trigger(
    "fail",
    dict.fromkeys((INIT, AWAITING_USER, POLLING), FAILED),
    words="the login failed",
    outcome="failed",
)
CANCEL: Final = _trigger(
    "cancel",
    dict.fromkeys((INIT, AWAITING_USER, POLLING), FAILED),
    words="the login was cancelled",
    outcome="cancelled",
)

# The hand-over.

COLLECT: Final = _handing_over(
    "collect", COLLECTED, words="the token was collected", outcome="handed_over"
)
ACKNOWLEDGE: Final = _handing_over(
    "acknowledge",
    ACKNOWLEDGED,
    words="the token was acknowledged and wiped",
    outcome="wiped",
    changes_secrets=True,
    wipes=True,
)
PURGE: Final = _handing_over(
    "purge",
    PURGED,
    words="nobody acknowledged the token: it was wiped",
    outcome="wiped",
    changes_secrets=True,
    wipes=True,
)

REFUSE_TOKEN: Final = _handing_over(
    "refuse_token",
    PURGED,
    words="the token does not fit the policy on who may approve: it was wiped",
    outcome="refused",
    severity=Severity.WARNING,
    changes_secrets=True,
    wipes=True,
)

# Actions that change neither state.

TAKE_OVER: Final = _beside(
    "take_over",
    {*State} - {POLLING},  # in `polling`, the flow is recovered instead
    words="a lease ran out between polls: another worker continued",
    outcome="taken_over",
    mark="M-5-1.500h10v3h-10z",
    counted_as="take_overs",
)
LET_GO: Final = _beside(
    "let_go",
    {AWAITING_USER},
    words="whoever held the login gave it back",
    outcome="given_back",
)
ORPHAN_TOKEN: Final = _beside(
    "orphan_token",
    {*State} - {INIT},
    words="a token arrived and was not taken",
    outcome="must_be_revoked",
    severity=Severity.WARNING,
    changes_secrets=True,
    mark="M0-5 5 0 0 5-5 0zm0 3L-2 0 0 2 2 0z",
    counted_as="orphaned_tokens",
    grant={state: state for state in GrantState if state is not WANTED},
)
REVOKE: Final = _beside(
    "revoke",
    ENDS,
    words="a token was revoked",
    outcome="revoked",
    changes_secrets=True,
    wipes=True,
    counted_as="revoked",
    grant=_ANY_GRANT,
)
REVOKE_FAILED: Final = _beside(
    "revoke_failed",
    ENDS,
    words="a token could not be revoked",
    outcome="not_revoked",
    severity=Severity.WARNING,
    changes_secrets=True,
    counted_as="not_revoked",
    grant=_ANY_GRANT,
)
ABANDON_REVOCATION: Final = _beside(
    "abandon_revocation",
    ENDS,
    words="a token that could not be revoked was wiped",
    outcome="abandoned",
    severity=Severity.WARNING,
    changes_secrets=True,
    wipes=True,
    grant=_ANY_GRANT,
)
IMPORT: Final = _beside(
    "import",
    words="imported: earlier events are in the store that it came from",
    outcome="imported",
    changes_secrets=True,
)
RESEAL: Final = _beside(
    "reseal",
    words="sealed with another key",
    outcome="resealed",
    changes_secrets=True,
    grant=_ANY_GRANT,
)

# A grant.

_WITHOUT_TOKENS: Final = (WANTED, LOST, REVOKED)

NEED: Final = _of_grant(
    "need",
    {state: state for state in _WITHOUT_TOKENS},
    words="a token is needed: a person must log in",
    outcome="person_needed",
    severity=Severity.WARNING,
    changes_secrets=True,
    event_type="start",
)
NOTIFY: Final = _of_grant(
    "notify", _ANY_GRANT, words="the program was notified", outcome="notified"
)
NOTIFY_FAILED: Final = _of_grant(
    "notify_failed",
    _ANY_GRANT,
    words="the program could not be notified: retrying later",
    outcome="not_notified",
    severity=Severity.WARNING,
)
REQUEST_CODE: Final = _of_grant(
    "request_code",
    {state: state for state in _WITHOUT_TOKENS},
    words="somebody requested a code on the need's page",
    outcome="code_requested",
)
END_NEED: Final = _of_grant(
    "end_need",
    {state: state for state in _WITHOUT_TOKENS},
    words="the need was ended without a login: its link is void",
    outcome="need_ended",
    changes_secrets=True,
)
LOG_IN: Final = _of_grant(
    "log_in",
    dict.fromkeys((*_WITHOUT_TOKENS, ACTIVE, IN_DOUBT), ACTIVE),
    words="a person logged in: the login's token became the grant's",
    outcome="token_issued",
    changes_secrets=True,
    event_type="start",
)
ADOPT_GRANT: Final = _of_grant(
    "adopt_grant",
    dict.fromkeys(_WITHOUT_TOKENS, ACTIVE),
    words="a program brought a refresh token: the grant continues with it",
    outcome="imported",
    changes_secrets=True,
    event_type="start",
)
REFRESH: Final = _of_grant(
    "refresh", {ACTIVE: REFRESHING}, words="a refresh is sent", outcome="sent"
)
REPLAY: Final = _of_grant(
    "replay",
    {IN_DOUBT: REFRESHING},
    words="the refresh whose answer was lost is sent again",
    outcome="sent",
)
RENEW: Final = _of_grant(
    "renew",
    {REFRESHING: ACTIVE},
    words="refreshed: the next generation of tokens arrived",
    outcome="refreshed",
    changes_secrets=True,
    wipes=True,
)
POSTPONE: Final = _of_grant(
    "postpone",
    {REFRESHING: ACTIVE},
    words="not refreshed: retrying later",
    outcome="no_answer",
)
LOSE_ANSWER: Final = _of_grant(
    "lose_answer",
    {REFRESHING: IN_DOUBT},
    words="the answer to a refresh was lost: the result is in doubt",
    outcome="unknown",
)
RECOVER_REFRESH: Final = _of_grant(
    "recover_refresh",
    {REFRESHING: IN_DOUBT},
    words="a worker stopped during a refresh: the result is in doubt",
    outcome="unknown",
)
DOUBT: Final = _of_grant(
    "doubt",
    {ACTIVE: IN_DOUBT},
    words="the store was restored: the refresh token may have been used since",
    outcome="unknown",
    severity=Severity.WARNING,
)
LATE_ANSWER: Final = _of_grant(
    "late_answer",
    {state: state for state in GrantState if state in GIVING},
    words="the answer to an earlier refresh arrived late: its tokens were set aside",
    outcome="set_aside",
    severity=Severity.WARNING,
    changes_secrets=True,
)
USE_LATE_ANSWER: Final = _of_grant(
    "use_late_answer",
    dict.fromkeys((REFRESHING, IN_DOUBT, LOST), ACTIVE),
    words="the tokens of a late answer are used",
    outcome="refreshed",
    changes_secrets=True,
    wipes=True,
)
INVALIDATE: Final = _of_grant(
    "invalidate",
    {ACTIVE: ACTIVE, IN_DOUBT: IN_DOUBT},
    words="a program reported that the access token was refused",
    outcome="invalidated",
)
LOSE: Final = _of_grant(
    "lose",
    dict.fromkeys((ACTIVE, REFRESHING), LOST),  # in doubt, the server has the last word
    words="the grant was lost",
    outcome="lost",
    severity=Severity.WARNING,
    changes_secrets=True,
    wipes=True,
    event_type="end",
)
LOG_OUT: Final = _of_grant(
    "log_out",
    {state: REVOKED for state in GrantState if state is not REVOKED},
    words="the grant was ended: its tokens are revoked",
    outcome="logged_out",
    changes_secrets=True,
    wipes=True,
    event_type="end",
)

# The store.

OPEN_PLAINTEXT: Final = _of_store(
    "open_plaintext",
    words="secrets are stored in plaintext from now on",
    outcome="weakened",
    severity=Severity.WARNING,
)
PLAIN_HTTP: Final = _of_store(
    "plain_http",
    words="codes and tokens were sent over plain http",
    outcome="weakened",
    severity=Severity.WARNING,
)
UNVERIFIED_TLS: Final = _of_store(
    "unverified_tls",
    words="server certificates are not verified",
    outcome="weakened",
    severity=Severity.WARNING,
)
ROTATE_KEYS: Final = _of_store(
    "rotate_keys", words="resealed with another key", outcome="resealed", event_type="change"
)
DRIVE: Final = _of_store("drive", words="somebody begins to hold logins", outcome="driving")
STOP_DRIVING: Final = _of_store(
    "stop_driving", words="somebody holds no login any more", outcome="stopped"
)
LAPSE: Final = _of_store(
    "lapse",
    words="somebody who held logins has died",
    outcome="lapsed",
    severity=Severity.WARNING,
)
PRUNE: Final = _of_store(
    "prune", words="old events were pruned", outcome="pruned", event_type="deletion"
)

ACTIONS: Final[Mapping[str, Action]] = MappingProxyType(_TABLE)
"""All actions by name, in the order of their declaration."""


def action_of(name: str | None) -> Action:
    """Return an action by its name. An unknown name returns an action without facts.

    Somebody who can write to a trail can put any name there.
    """
    known = ACTIONS.get(name or "")
    if known is not None:
        return known
    return Action(str(name), kind=Kind.NOTE, words=str(name), outcome="unknown")


def of_kind(kind: Kind) -> tuple[Action, ...]:
    """Return the actions of a kind, in the order of their declaration."""
    return tuple(action for action in ACTIONS.values() if action.kind is kind)


LOGIN_TRIGGERS: Final = of_kind(Kind.LOGIN)
HANDOVER_TRIGGERS: Final = tuple(
    action for action in ACTIONS.values() if action.handover.items() - _ANY.items()
)
"""The actions that change the hand-over. Issuing a token changes both states."""
ENDS_HANDOVER: Final = tuple(action for action in ACTIONS.values() if action.ends_handover)
GRANT_TRIGGERS: Final = tuple(
    action for action in of_kind(Kind.GRANT) if action.grant.items() - _ANY_GRANT.items()
)
"""The actions that change the state of a grant."""
STORE_EVENTS: Final = of_kind(Kind.STORE)
OMISSIBLE: Final = tuple(action for action in ACTIONS.values() if action.omissible)
"""The actions whose events a summarized trail leaves out."""
COUNTED: Final = {action.counted_as: action for action in ACTIONS.values() if action.counted_as}
"""The action that each statistic counts."""
