"""The command's exit codes."""

from __future__ import annotations

from deviceflow import errors

AUTHORIZED = 0
USAGE = 2
EXPIRED = 3
DENIED = 4
FAILED = 5
NOT_ASKED = 69
STORE = 74
PENDING = 75
INTERRUPTED = 130
NOBODY_READS = 141

EXPLAINED = (
    "exit codes: 0 authorized or done, 2 wrong usage, 3 expired, 4 denied, 5 failed, 69 the server"
    " cannot be asked (check), 74 the store cannot be used, 75 still pending, 130 interrupted, 141"
    " the reader of stdout went away"
)

ERRORS = (
    (Exception, FAILED, "failed"),
    (ImportError, USAGE, "missing_library"),
    (errors.UsageError, USAGE, "usage"),
    (errors.ServerError, FAILED, "server"),
    (errors.StudioAuthError, FAILED, "rejected"),
    (errors.AuthorizationExpiredError, EXPIRED, "expired"),
    (errors.InvalidScopesError, USAGE, "usage"),
    (errors.ExpiredError, EXPIRED, "expired"),
    (errors.DeniedError, DENIED, "denied"),
    (errors.StoreError, STORE, "store"),
    (errors.WaitTimeoutError, PENDING, "timeout"),
    (errors.LoginPending, PENDING, "pending"),
    (errors.LoginBusyError, PENDING, "busy"),
)
"""The exit code and the reason in JSON of each class of errors. The last one that fits counts."""


def of(error: Exception) -> int:
    """Return the exit code for an error."""
    return next(code for kind, code, _ in reversed(ERRORS) if isinstance(error, kind))


def reason(error: Exception) -> str:
    """Return why, in one word: the reason that a login failed for, or the kind of the error."""
    own = getattr(error, "reason", None)
    return own or next(word for kind, _, word in reversed(ERRORS) if isinstance(error, kind))
