"""What can go wrong: every exception that this library raises on purpose.

* DeviceFlowError

  + UsageError: the caller did something that cannot work; nothing was sent, nothing is lost

    - InvalidArgumentError (also a ValueError): an argument has a value that cannot be used
    - InsecureURLError (also a ValueError): an address would carry secrets over plain http
    - IllegalTransitionError: the login is in a state that has no such transition
    - UnknownFlowError (also a LookupError): the store has no login of that id
    - TokenGoneError: the token was acknowledged, or purged

  + LoginError: nobody misbehaved, and still there is no token

    - DeniedError: the person said no
    - ExpiredError: nobody approved in time
    - LoginCancelledError: the program gave the login up
    - WrongApproverError: somebody approved who should not have
    - OutcomeUnknownError: a token may exist that nobody holds

  + ServerError: the server did something that it must not, or refused for good

    - UnreachableError: no usable answer came
    - ProtocolError: its answers cannot be understood
    - RejectedError: it refused the login (RFC 6749 section 5.2, RFC 8628 section 3.5)

  + StoreError: the store of logins failed, or cannot be used as it is

    - SealError: a sealed secret cannot be opened

  + FlowBusyError: another worker is at the login; try again
  + WaitTimeoutError (also a TimeoutError): the caller's patience is over, the login is not
  + StudioAuthError: what `deviceflow.auth` raises of its own, as it documents

    - InvalidScopesError (also a ValueError): DVC Studio has no such scope
    - AuthorizationExpiredError: nobody approved the login to DVC Studio in time

Misuse is a UsageError, with three exceptions. A library that is missing is an ImportError, which
names the extra to install. Arguments that a function does not have are Python's own TypeError. And
scopes that DVC Studio does not have are an InvalidScopesError wherever they are given, since
`deviceflow.auth` documents that.

This module imports nothing, so that naming an exception costs a program nothing.
"""

from __future__ import annotations


class DeviceFlowError(Exception):
    """The root of everything that this library raises on purpose.

    Args:
        message: What happened and what it means, in words for a person.
        flow_id: The flow that it happened to, where there is one.
        state: That flow's state, one of `deviceflow.State`'s values.
        reason: A code from the closed set `deviceflow.typing.Reason`, where a flow failed.
        hint: What to do next. Shown behind the message.
    """

    default_message = "The login did not work."
    default_hint: str | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        flow_id: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.flow_id = flow_id
        self.state = state
        self.reason = reason
        self.hint = hint or self.default_hint
        super().__init__(self.message)

    def __str__(self) -> str:
        where = f"[flow {self.flow_id}]" if self.flow_id else None
        return " ".join(filter(None, (self.message, self.hint, where)))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message,), self.__dict__


class UsageError(DeviceFlowError):
    """The caller asked for something that cannot work; nothing was sent, nothing is lost."""

    default_message = "deviceflow was called in a way that cannot work."


class InvalidArgumentError(UsageError, ValueError):
    """An argument has a value that cannot be used."""

    default_message = "An argument has a value that cannot be used."


class IllegalTransitionError(UsageError):
    """A trigger was fired in a state that has no such transition.

    Args:
        trigger: The trigger that was fired.
    """

    default_message = "That transition is not possible."
    default_hint = "Look at the flow's state first, or let Client.step move it."

    def __init__(
        self, message: str | None = None, *, trigger: str | None = None, **context: str | None
    ) -> None:
        super().__init__(message, **context)
        self.trigger = trigger


class UnknownFlowError(UsageError, LookupError):
    """No flow of that id is in the store."""

    default_message = "There is no such flow in this store."
    default_hint = "Check the id, and that this is the store that the login was started in."


class InsecureURLError(UsageError, ValueError):
    """A URL would carry secrets over plain http to another machine, or is not a web address."""

    default_message = "That address is not safe to send a login to."


class ServerError(DeviceFlowError):
    """The server misbehaved, refused for good, or could not be reached."""

    default_message = "The server did not do what the protocol says."


class UnreachableError(ServerError):
    """No usable answer came, however often it was asked."""

    default_message = "The server could not be reached."
    default_hint = "Check the address and the network, then start the login again."


class ProtocolError(ServerError):
    """What the server answers cannot be understood, again and again."""

    default_message = "The server's answers cannot be understood."
    default_hint = (
        "Check that the address is the login server's own, and not a proxy's or a sign-in page's."
    )


class RejectedError(ServerError):
    """The server refused the login for good (RFC 6749 section 5.2, RFC 8628 section 3.5)."""

    default_message = "The server refused the login."
    default_hint = "Its error code says why; starting again will not help until that is mended."


class LoginError(DeviceFlowError):
    """The login ended without a token."""


class ExpiredError(LoginError):
    """Nobody approved the login before the code's lifetime was over."""

    default_message = "Nobody approved the login before its code expired."
    default_hint = "Start the login again, and approve it while the code lives."


class DeniedError(LoginError):
    """The person who saw the login said no."""

    default_message = "The login was denied."
    default_hint = "If that was a mistake, start the login again."


class LoginCancelledError(LoginError):
    """The program, or its owner, gave the login up."""

    default_message = "The login was cancelled."
    default_hint = "Start the login again when it is wanted."


class WrongApproverError(LoginError):
    """Somebody approved who should not have, or it cannot be told who did."""

    default_message = "The login was approved, but not by whom it had to be."
    default_hint = "Its token was not taken. Ask the right person, and start the login again."


class OutcomeUnknownError(LoginError):
    """A token may have been issued, but its answer was lost on the way."""

    default_message = (
        "The login's outcome is unknown: an answer of the server was lost, and a token may exist"
        " that nobody holds."
    )
    default_hint = (
        "Look at the account's authorized applications and revoke what this login left there,"
        " then start again."
    )


class StoreError(DeviceFlowError):
    """The store cannot be used, or could not keep something; what it keeps is as it was."""

    default_message = "The store of logins cannot be used."


class SealError(StoreError):
    """A secret in the store, or a sealed flow, cannot be opened: another key, or it was changed."""

    default_message = "A sealed secret cannot be opened."
    default_hint = "Check DEVICEFLOW_KEYS. Nothing was sent, and nothing is lost."


class FlowBusyError(DeviceFlowError):
    """Another worker holds this flow's lease.

    Args:
        wait_seconds: When to try again, in seconds.
    """

    default_message = "Another worker is at this login just now."
    default_hint = "Try again when its lease is over."

    def __init__(
        self, message: str | None = None, *, wait_seconds: float = 0.0, **context: str | None
    ) -> None:
        super().__init__(message, **context)
        self.wait_seconds = wait_seconds


class TokenGoneError(UsageError):
    """The flow's token was there, and is not any more: it was acknowledged, or purged."""

    default_message = "The token of this login is not kept any more."
    default_hint = "Start the login again if the token is lost."


class WaitTimeoutError(DeviceFlowError, TimeoutError):
    """`Client.wait` ran into the caller's own timeout; the login itself goes on."""

    default_message = "The login is still pending."
    default_hint = "Wait again with the same flow id: the code is still good."


class StudioAuthError(DeviceFlowError):
    """Logging in to DVC Studio failed; the root of what `deviceflow.auth` raises of its own."""


class InvalidScopesError(StudioAuthError, ValueError):
    """A scope was asked for that DVC Studio does not have."""


class AuthorizationExpiredError(StudioAuthError):
    """Nobody approved the DVC Studio login before its code expired."""
