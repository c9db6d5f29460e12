"""A login to build tests on. Its codes and its token are canaries: no text may show them."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.flow import Flow
from deviceflow.core.states import GrantState, Handover, State
from deviceflow.providers.studio import Studio
from deviceflow.testing import VirtualClock, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.core.wire import Response
    from deviceflow.testing import Transitions

TESTS: Final = str(Path(__file__).parents[1])

INIT, AWAITING, POLLING, AUTHORIZED, EXPIRED, FAILED = State
NONE, READY, COLLECTED, ACKNOWLEDGED, PURGED = Handover
WANTED, ACTIVE, REFRESHING, IN_DOUBT, LOST, REVOKED = GrantState


@pytest.fixture
def design() -> Mapping[str, Mapping[State, State]]:
    """Return what may follow what, copied by hand from the design and not from the code."""
    return {
        "issue_code": {INIT: AWAITING},
        "poll": {AWAITING: POLLING},
        "pending": {POLLING: AWAITING},
        "slow_down": {POLLING: AWAITING},
        "retry": {INIT: INIT, POLLING: AWAITING},
        "recover": {POLLING: AWAITING},
        "issue_token": {POLLING: AUTHORIZED},
        "late_token": dict.fromkeys((AWAITING, POLLING, EXPIRED, FAILED), AUTHORIZED),
        "expire": {AWAITING: EXPIRED, POLLING: EXPIRED},
        "deny": {POLLING: FAILED},
        "fail": {INIT: FAILED, AWAITING: FAILED, POLLING: FAILED},
        "cancel": {INIT: FAILED, AWAITING: FAILED, POLLING: FAILED},
    }


@pytest.fixture
def handover_design() -> Mapping[str, Mapping[Handover, Handover]]:
    """Return the same of the hand-over."""
    return {
        "issue_token": {NONE: READY},
        "late_token": {NONE: READY},
        "collect": {READY: COLLECTED, COLLECTED: COLLECTED},
        "acknowledge": {READY: ACKNOWLEDGED, COLLECTED: ACKNOWLEDGED},
        "purge": {READY: PURGED, COLLECTED: PURGED},
        "refuse_token": {READY: PURGED, COLLECTED: PURGED},
    }


@pytest.fixture
def grant_design() -> Mapping[str, Mapping[GrantState, GrantState]]:
    """Return the same of a grant: the actions that change its state."""
    return {
        "log_in": dict.fromkeys((WANTED, ACTIVE, IN_DOUBT, LOST, REVOKED), ACTIVE),
        "adopt_grant": dict.fromkeys((WANTED, LOST, REVOKED), ACTIVE),
        "refresh": {ACTIVE: REFRESHING},
        "replay": {IN_DOUBT: REFRESHING},
        "renew": {REFRESHING: ACTIVE},
        "postpone": {REFRESHING: ACTIVE},
        "lose_answer": {REFRESHING: IN_DOUBT},
        "recover_refresh": {REFRESHING: IN_DOUBT},
        "doubt": {ACTIVE: IN_DOUBT},
        "use_late_answer": dict.fromkeys((REFRESHING, IN_DOUBT, LOST), ACTIVE),
        "lose": dict.fromkeys((ACTIVE, REFRESHING), LOST),
        "log_out": dict.fromkeys((WANTED, ACTIVE, REFRESHING, IN_DOUBT, LOST), REVOKED),
    }


@pytest.fixture
def beside_grant() -> Mapping[str, set[GrantState]]:
    """Return in which states of a grant what leaves the state as it is may happen."""
    return {
        "need": {WANTED, LOST, REVOKED},
        "notify": {*GrantState},
        "notify_failed": {*GrantState},
        "request_code": {WANTED, LOST, REVOKED},
        "end_need": {WANTED, LOST, REVOKED},
        "late_answer": {ACTIVE, REFRESHING, IN_DOUBT},
        "invalidate": {ACTIVE, IN_DOUBT},
        "orphan_token": {ACTIVE, REFRESHING, IN_DOUBT, LOST, REVOKED},
        "revoke": {*GrantState},
        "revoke_failed": {*GrantState},
        "abandon_revocation": {*GrantState},
        "reseal": {*GrantState},
    }


@pytest.fixture
def beside() -> Mapping[str, set[State]]:
    """Return in which states what leaves both machines as they are may happen."""
    ends = {AUTHORIZED, EXPIRED, FAILED}
    return {
        "take_over": {INIT, AWAITING, *ends},
        "let_go": {AWAITING},
        "orphan_token": {AWAITING, POLLING, *ends},
        "revoke": ends,
        "revoke_failed": ends,
        "abandon_revocation": ends,
        "import": {*State},
        "reseal": {*State},
    }


@pytest.fixture
def code_answer() -> Callable[..., Response]:
    """Make the server's answer that holds a device code; a field that is None is left out."""

    def make(**fields: Any) -> Response:
        sent = {
            "device_code": "DEVICE-CANARY",
            "user_code": "USER-CANARY",
            "verification_uri": "https://studio.example.com/login",
            "token_uri": "https://studio.example.com/token",
            "token_name": "robot",
            "expires_in": 600,
        } | fields
        return answer(200, {name: value for name, value in sent.items() if value is not None})

    return make


@pytest.fixture
def waiting(code_answer: Callable[..., Response]) -> Callable[..., Flow]:
    """Make a flow that was given a code at a time, by a server that sent these fields."""

    def make(at: float = 1_800_000_000.0, *, flow_id: str = "f1", **fields: Any) -> Flow:
        flow = Flow(flow_id, Studio("https://studio.example.com"), at)
        flow.receive(code_answer(**fields), at)
        return flow

    return make


@pytest.fixture
def rendered() -> Callable[[BaseException], str]:
    """Show all that a crash reporter would: messages, what hangs on them, and frames' locals.

    Only the tests' own frames are left out, since these know the canaries.
    """

    def show(error: BaseException) -> str:
        summary = traceback.TracebackException.from_exception(error, capture_locals=True)
        chain: list[traceback.TracebackException | None] = [summary]
        texts = [repr(error.args), repr(vars(error))]
        while chain:
            if (link := chain.pop()) is not None:
                link.stack[:] = [f for f in link.stack if not f.filename.startswith(TESTS)]
                texts += link.format(chain=False)
                chain += [link.__cause__, link.__context__]
        return "\n".join(texts)

    return show


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def actions(transitions: Transitions) -> Callable[[], list[str]]:
    """Tell the actions that were logged so far."""
    return lambda: list(transitions.actions)
