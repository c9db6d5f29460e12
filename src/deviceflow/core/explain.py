"""What is said to a person about a login: where to go, and why there is no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow import errors
from deviceflow.core.machine import Reason, State
from deviceflow.core.sanitize import printable

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow
    from deviceflow.core.login import Login


def instructions(login: Login | Flow) -> list[str]:
    """Return what to tell the person, in lines that are safe to print."""
    asks = printable(login.provider.client_name or login.provider.client_id or "This program", 100)
    server = printable(login.provider.server, 200)
    code, page = login.user_code or "", login.verification_uri_complete
    lines = [f"{asks} asks for access to {server}."]
    if login.purpose:
        lines.append(f"Purpose: {printable(login.purpose, 200)}")
    if page is not None:
        lines.append(f"Open {page} and check that the page shows the code {code}")
    elif login.verification_uri is not None:
        lines.append(f"Open {login.verification_uri} and enter the code {code}")
    else:
        lines.append(f"The server sent no usable address. Its code is {code}")
        lines.append(
            "If you know the server's page for device logins, go there and enter the code;"
            " otherwise cancel this login and tell the server's operator."
        )
    return lines


def error_of(login: Login | Flow) -> errors.DeviceFlowError:
    """Return the error that says why the login has no token."""
    kind: type[errors.DeviceFlowError]
    if login.handover in _GONE:
        return errors.TokenGoneError(
            f"The token of this login {_GONE[login.handover]}.", flow_id=login.id, state=login.state
        )
    if login.state is State.AUTHORIZED:
        return errors.UsageError(
            "This flow was exported without its token.",
            flow_id=login.id,
            state=login.state,
            hint="Export it with to_dict(secrets=True), and keep that text as a secret.",
        )
    if login.state is State.EXPIRED:
        kind = errors.ExpiredError
    elif login.reason is None:
        kind = errors.WaitTimeoutError
    else:
        kind = _ERRORS[login.reason]
    message = kind.default_message
    if login.detail in _OUR_WORDS:
        message = f"{message} {_OUR_WORDS[login.detail]}"
    elif login.detail and issubclass(kind, errors.ServerError):
        message = f"{message} It said: {login.detail}."
    elif login.detail and kind is errors.WrongApproverError:
        message = f"{message} In particular: {login.detail}."
    if login.in_doubt and login.state.ended and kind is not errors.OutcomeUnknownError:
        message = (
            f"{message} An answer was lost, and a token may exist: look for it there, revoke it."
        )
    return kind(message, flow_id=login.id, state=login.state, reason=login.reason)


_GONE: Final[dict[str | None, str]] = {
    "acknowledged": "was handed over and acknowledged, and is not kept any more",
    "purged": "was kept for a while, and is not kept any more",
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
