"""What is said to a person about a flow: where to go, and why there is no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow import errors
from deviceflow.core.sanitize import printable
from deviceflow.core.states import Handover, Reason, State

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow


def instructions(flow: Flow) -> list[str]:
    """Return what to tell the person, in lines that are safe to print."""
    asks = printable(flow.provider.client_name or flow.provider.client_id or "This program", 100)
    server = printable(flow.provider.server, 200)
    code, page = flow.user_code or "", flow.verification_uri_complete
    lines = [f"{asks} asks for access to {server}."]
    if flow.purpose:
        lines.append(f"Purpose: {printable(flow.purpose, 200)}")
    if page is not None:
        lines.append(f"Open {page} and check that the page shows the code {code}")
    elif flow.verification_uri is not None:
        lines.append(f"Open {flow.verification_uri} and enter the code {code}")
    else:
        lines.append(f"The server sent no usable address. Its code is {code}")
        lines.append(
            "If you know the server's page for device logins, go there and enter the code;"
            " otherwise cancel this login and tell the server's operator."
        )
    return lines


def error_of(flow: Flow) -> errors.DeviceFlowError:
    """Return the error that says why the flow has no token."""
    kind: type[errors.DeviceFlowError]
    if flow.handover in _GONE:
        return errors.TokenGoneError(
            f"The token of this login {_GONE[flow.handover]}.", flow_id=flow.id, state=flow.state
        )
    if flow.state is State.AUTHORIZED:
        return errors.UsageError(
            "This flow was exported without its token.",
            flow_id=flow.id,
            state=flow.state,
            hint="Export it with to_dict(secrets=True), and keep that text as a secret.",
        )
    if flow.state is State.EXPIRED:
        kind = errors.ExpiredError
    elif flow.reason is None:
        kind = errors.WaitTimeoutError
    else:
        kind = _ERRORS[flow.reason]
    message = kind.default_message
    if flow.detail in _OUR_WORDS:
        message = f"{message} {_OUR_WORDS[flow.detail]}"
    elif flow.detail and issubclass(kind, errors.ServerError):
        message = f"{message} It said: {flow.detail}."
    elif flow.detail and kind is errors.WrongApproverError:
        message = f"{message} In particular: {flow.detail}."
    if flow.in_doubt and flow.state.ended and kind is not errors.OutcomeUnknownError:
        message = (
            f"{message} An answer was lost, and a token may exist: look for it there, revoke it."
        )
    return kind(message, flow_id=flow.id, state=flow.state, reason=flow.reason)


_GONE: Final[dict[Handover, str]] = {
    Handover.ACKNOWLEDGED: "was handed over and acknowledged, and is not kept any more",
    Handover.PURGED: "was kept for a while, and is not kept any more",
}

_OUR_WORDS: Final = {
    "connection": "The connection failed.",
    "lease": "This machine was too slow to send anything.",
    "timeout": "No answer came in time.",
    "too_large": "What it sends is too long for an answer.",
}


_ERRORS: Final = {
    Reason.DENIED: errors.DeniedError,
    Reason.CANCELLED: errors.LoginCancelledError,
    Reason.REJECTED: errors.RejectedError,
    Reason.PROTOCOL: errors.ProtocolError,
    Reason.UNREACHABLE: errors.UnreachableError,
    Reason.OUTCOME_UNKNOWN: errors.OutcomeUnknownError,
    Reason.WRONG_APPROVER: errors.WrongApproverError,
}
