"""All exceptions that deviceflow raises on purpose.

* DeviceFlowError

  + UsageError: deviceflow was used in a wrong way; nothing was sent, nothing is lost

    - InvalidArgumentError (also a ValueError): an argument has an invalid value
    - InsecureURLError (also a ValueError): a URL would send secrets over plain http
    - IllegalTransitionError: the action is not allowed in the login's state
    - UnknownLoginError (also a LookupError): the store has no login of that id
    - UnknownGrantError (also a LookupError): the store has no grant of that name
    - TokenGoneError: the token was acknowledged, or purged

  + LoginError: the login ended without a token

    - DeniedError: the person denied the login
    - ExpiredError: nobody approved in time
    - LoginCancelledError: the program cancelled the login
    - WrongApproverError: the wrong person approved the login
    - OutcomeUnknownError: a token may exist that nobody holds

  + ServerError: the server violated the protocol, refused the login, or is unreachable

    - UnreachableError: no usable response came
    - ProtocolError: the responses do not conform to the protocol
    - RejectedError: the server refused the login (RFC 6749 section 5.2, RFC 8628 section 3.5)

  + StoreError: the store failed, or cannot be used

    - SealError: a sealed secret cannot be unsealed

  + LoginPending: a grant gives no token until a person has logged in; ask again later
  + LoginBusyError: another worker holds the login's lease; try again
  + WaitTimeoutError (also a TimeoutError): the caller's timeout passed, and the login is pending
  + StudioAuthError: the errors that `deviceflow.auth` documents

    - InvalidScopesError (also a ValueError): DVC Studio has no such scope
    - AuthorizationExpiredError: nobody approved the login to DVC Studio in time

Wrong usage raises a UsageError, with three exceptions. A missing library raises an ImportError that
names the extra to install. Unknown arguments raise Python's own TypeError. Unknown scopes of DVC
Studio raise an InvalidScopesError everywhere, because `deviceflow.auth` documents that.

This module imports nothing, so importing an exception is cheap.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from deviceflow.core.login import Login
    from deviceflow.core.secret import Secret


class DeviceFlowError(Exception):
    """The base class of all exceptions that deviceflow raises on purpose.

    Args:
        message: What happened, for people.
        flow_id: The login's id, if the error is about a login.
        state: The login's state, one of the values of `deviceflow.State`.
        reason: Why the login failed, one of the values of `deviceflow.typing.Reason`.
        hint: What to do next. The hint is shown after the message.
    """

    default_message: str = "The login failed."
    default_hint: str = ""

    def __init__(
        self,
        message: str | None = None,
        *,
        flow_id: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message: str = message or self.default_message
        self.flow_id: str | None = flow_id
        self.state: str | None = state
        self.reason: str | None = reason
        self.hint: str | None = hint or self.default_hint or None
        super().__init__(self.message)

    def __str__(self) -> str:
        where = f"[flow {self.flow_id}]" if self.flow_id else None
        return " ".join(filter(None, (self.message, self.hint, where)))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message,), self.__dict__


class UsageError(DeviceFlowError):
    """deviceflow was used in a wrong way. Nothing was sent, and nothing is lost."""

    default_message = "deviceflow was used in a wrong way."


class InvalidArgumentError(UsageError, ValueError):
    """An argument has an invalid value."""

    default_message = "An argument has an invalid value."


class IllegalTransitionError(UsageError):
    """An action is not allowed in the login's state.

    Args:
        trigger: The name of the action.
    """

    default_message = "The action is not allowed in the login's state."
    default_hint = "Check the login's state first, or call Client.step."

    def __init__(
        self, message: str | None = None, *, trigger: str | None = None, **context: str | None
    ) -> None:
        super().__init__(message, **context)
        self.trigger = trigger


class UnknownLoginError(UsageError, LookupError):
    """The store has no login of this id."""

    default_message = "The store has no login of this id."
    default_hint = "Check the id, and check that this is the store in which the login was started."


class UnknownGrantError(UsageError, LookupError):
    """The store has no login of this name."""

    default_message = "The store has no login of this name."
    default_hint = "Check the name: deviceflow list"


class InsecureURLError(UsageError, ValueError):
    """A URL would send secrets over plain http to another machine, or is not an http(s) URL."""

    default_message = "The URL is not safe for a login."


class ServerError(DeviceFlowError):
    """The server violated the protocol, refused the login, or could not be reached."""

    default_message = "The server did not follow the protocol."


class UnreachableError(ServerError):
    """No usable response came, after several attempts.

    Args:
        wait_seconds: Seconds after which to ask again for a grant's token; None for an error that
            is not about a grant.
    """

    default_message = "The server could not be reached."
    default_hint = "Check the URL and the network, then start the login again."

    def __init__(
        self,
        message: str | None = None,
        *,
        wait_seconds: float | None = None,
        **context: str | None,
    ) -> None:
        super().__init__(message, **context)
        self.wait_seconds = wait_seconds


class ProtocolError(ServerError):
    """The server's responses repeatedly did not conform to the protocol."""

    default_message = "The server's responses do not conform to the protocol."
    default_hint = (
        "Check that the URL is an endpoint of the authorization server, and not of a proxy or a"
        " sign-in page."
    )


class RejectedError(ServerError):
    """The server refused the login (RFC 6749 section 5.2, RFC 8628 section 3.5)."""

    default_message = "The server refused the login."
    default_hint = "The server's error code says why. Fix the cause before you start again."


class LoginError(DeviceFlowError):
    """The login ended without a token."""


class ExpiredError(LoginError):
    """Nobody approved the login before its code expired."""

    default_message = "Nobody approved the login before its code expired."
    default_hint = "Start the login again, and approve it before the code expires."


class DeniedError(LoginError):
    """The person denied the login."""

    default_message = "The login was denied."
    default_hint = "If it was denied by mistake, start the login again."


class LoginCancelledError(LoginError):
    """The program or its user cancelled the login."""

    default_message = "The login was cancelled."
    default_hint = "Start the login again if you still need it."


class WrongApproverError(LoginError):
    """The person who approved is not accepted, or is unknown."""

    default_message = "The login was approved, but not by the required person."
    default_hint = "The token was not taken. Ask the required person, and start the login again."


class OutcomeUnknownError(LoginError):
    """A response of the server was lost, so a token may exist that nobody holds."""

    default_message = (
        "The login's outcome is unknown: a response of the server was lost, and a token may exist"
        " that nobody holds."
    )
    default_hint = (
        "Look for this login among the account's authorized applications, and revoke it there."
        " Then start the login again."
    )


class StoreError(DeviceFlowError):
    """The store failed, or cannot be used. What it had stored is unchanged."""

    default_message = "The store cannot be used."


class SealError(StoreError):
    """A sealed secret cannot be unsealed: the key is another one, or the secret was changed."""

    default_message = "A sealed secret cannot be unsealed."
    default_hint = "Check DEVICEFLOW_KEYS. Nothing was sent, and nothing is lost."


class LoginBusyError(DeviceFlowError):
    """Another worker holds the login's lease.

    Args:
        wait_seconds: Seconds after which to try again.
    """

    default_message = "Another worker holds the lease of this login."
    default_hint = "Try again when the lease has run out."

    def __init__(
        self, message: str | None = None, *, wait_seconds: float = 0.0, **context: str | None
    ) -> None:
        super().__init__(message, **context)
        self.wait_seconds = wait_seconds


class LoginPending(DeviceFlowError):  # noqa: N818  # no failure: the caller asks again later
    """A grant gives no token until a person has logged in. The message contains no secret.

    A pickle or a copy of the exception has neither `login` nor `link`, because a task queue shows
    exceptions to more people than may see a code.

    Args:
        name: The grant's name.
        wait_seconds: Seconds after which to ask again.
        need_id: The id of the need. Notifications of the same need have the same id.
        command: The command that logs in, for a shell that uses the same store.

    Attributes:
        reason: Why a person must log in: a `LoginNeed.reason`; None if no need is on record.
        login: The open login with its code, if the caller shows the code itself (`mint="now"`). The
            user code is for the person who approves.
        link: The address of the need's page, as a `Secret`; None if the client does not know where
            the pages are. Whoever has the link can request a code.
    """

    default_message = "A person must log in before there is a token."
    default_hint = "Ask again later."

    def __init__(
        self,
        message: str | None = None,
        *,
        name: str | None = None,
        wait_seconds: float = 0.0,
        need_id: str | None = None,
        command: str = "deviceflow login",
        **context: str | None,
    ) -> None:
        super().__init__(message, **context)
        self.name = name
        self.wait_seconds = wait_seconds
        self.need_id = need_id
        self.command = command
        self.login: Login | None = None
        self.link: Secret | None = None

    def how_to_log_in(self, *, link: bool = True) -> str:
        """Return what to open or to type: the link in clear, or the command if there is no link.

        Args:
            link: Whether the link may be revealed.
        """
        return self.command if self.link is None or not link else self.link.reveal()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message,), self.__dict__ | {"link": None, "login": None}


class TokenGoneError(UsageError):
    """The store does not have the token any more: it was acknowledged or purged."""

    default_message = "The store does not have the token of this login any more."
    default_hint = "If the token is lost, start the login again."


class WaitTimeoutError(DeviceFlowError, TimeoutError):
    """The caller's timeout passed while the login is still pending. The login itself continues.

    Also, the timeout of `get_token` passed while the grant is being refreshed.
    """

    default_message = "The login is still pending."
    default_hint = "Wait again with the same id: the code is still valid."


class StudioAuthError(DeviceFlowError):
    """A login to DVC Studio failed. The base class of the errors of `deviceflow.auth`."""


class InvalidScopesError(StudioAuthError, ValueError):
    """DVC Studio does not have a requested scope."""


class AuthorizationExpiredError(StudioAuthError):
    """Nobody approved the DVC Studio login before its code expired."""
