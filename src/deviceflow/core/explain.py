"""Messages for people about a login: where to approve, and why there is no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow import errors
from deviceflow.core.sanitize import printable
from deviceflow.core.states import Handover, Reason, State
from deviceflow.core.wire import FAILURE_WORDS

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow
    from deviceflow.core.login import Login


def instructions(login: Login | Flow) -> list[str]:
    """Return the prompt for the person, as lines that are safe to print.

    The page and the code are each a line of their own, so that a double click selects all of it.
    """
    asks = printable(login.provider.client_name or login.provider.client_id or "This program", 100)
    server = printable(login.provider.server, 200)
    code, page = login.user_code or "", login.verification_uri_complete
    lines = [f"{asks} asks for access to {server}."]
    if login.purpose:
        lines.append(f"Purpose: {printable(login.purpose, 200)}")
    if page is not None:
        lines += ["Open this page, and check that it shows the code:", "", f"{page}", f"{code}", ""]
    elif login.verification_uri is not None:
        lines += [
            "Open this page, and enter the code:",
            "",
            f"{login.verification_uri}",
            f"{code}",
            "",
        ]
    else:
        lines += ["The server sent no usable URL. The code is:", "", f"{code}", ""]
        lines.append(
            "If you know the server's page for device logins, open it and enter the code;"
            " otherwise cancel this login and tell the server's operator."
        )
    return lines


def error_of(login: Login | Flow) -> errors.DeviceFlowError:
    """Return the error that says why the login has no token."""
    kind: type[errors.DeviceFlowError]
    if login.handover is Handover.PURGED and login.detail:  # why it was not taken
        return errors.WrongApproverError(
            f"The login was approved, but its token was not taken: {login.detail}.",
            flow_id=login.id,
            state=login.state,
            hint="Ask the required person, and start the login again.",
        )
    if login.handover in _GONE:
        return errors.TokenGoneError(
            f"The token of this login {_GONE[login.handover]}.", flow_id=login.id, state=login.state
        )
    if login.state is State.AUTHORIZED:
        return errors.UsageError(
            "The record of this login was exported without its token.",
            flow_id=login.id,
            state=login.state,
            hint="Export the login with to_dict(login, secrets=True), and keep the record secret.",
        )
    if login.state is State.EXPIRED:
        kind = errors.ExpiredError
    elif login.reason is None:
        kind = errors.WaitTimeoutError
    else:
        kind = _ERRORS[login.reason]
    message = _message_of(login, kind)
    if login.in_doubt and login.state.ended and kind is not errors.OutcomeUnknownError:
        message = (
            f"{message} A response was lost, and a token may exist. Look for the token at the"
            " server, and revoke it."
        )
    code = (login.detail or "").partition(":")[0] if kind is errors.RejectedError else ""
    return kind(
        message,
        flow_id=login.id,
        state=login.state,
        reason=login.reason,
        hint=_REFUSED.get(code),
    )


def _message_of(login: Login | Flow, kind: type[errors.DeviceFlowError]) -> str:
    message, detail = kind.default_message, login.detail
    server = printable(login.provider.server, 200)
    if detail in FAILURE_WORDS:
        return f"{message} No response from {server}: {FAILURE_WORDS[detail]}."
    if detail and detail.startswith("HTTP ") and issubclass(kind, errors.ServerError):
        times = f" {login.failures} times" if login.failures > 1 else ""
        said = f"{server} answered {detail}{times}."
        return said if kind is errors.UnreachableError else f"{message} {said}"
    if detail and issubclass(kind, errors.ServerError):
        return f"{message} The server's message: {detail.rstrip('.')}."
    if detail and kind is errors.WrongApproverError:
        return f"{message} Details: {detail}."
    return message


_GONE: Final[dict[Handover, str]] = {
    Handover.ACKNOWLEDGED: (
        "was handed over and acknowledged, so the store does not have it any more"
    ),
    Handover.PURGED: "was purged, so the store does not have it any more",
}


_REFUSED: Final = {
    "invalid_client": "Check the client id, and whether the server wants a client secret.",
    "invalid_grant": "The server does not know the code any more. Start the login again.",
    "invalid_scope": "Check the scopes: the server does not know one, or this client may not ask"
    " for it.",
    "unauthorized_client": "Enable the device grant where the client is registered.",
}
"""What to do next, by the error code of a refusal."""


_ERRORS: Final = {
    Reason.DENIED: errors.DeniedError,
    Reason.CANCELLED: errors.LoginCancelledError,
    Reason.REJECTED: errors.RejectedError,
    Reason.PROTOCOL: errors.ProtocolError,
    Reason.UNREACHABLE: errors.UnreachableError,
    Reason.OUTCOME_UNKNOWN: errors.OutcomeUnknownError,
    Reason.WRONG_APPROVER: errors.WrongApproverError,
}
