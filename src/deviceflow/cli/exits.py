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

_CODES = (
    (errors.UsageError, USAGE),
    (errors.StudioAuthError, FAILED),
    (errors.AuthorizationExpiredError, EXPIRED),
    (errors.InvalidScopesError, USAGE),
    (errors.ExpiredError, EXPIRED),
    (errors.DeniedError, DENIED),
    (errors.StoreError, STORE),
    (errors.LoginBusyError, PENDING),
    (errors.WaitTimeoutError, PENDING),
    (errors.LoginPending, PENDING),
    (errors.LoginBusyError, PENDING),
)


def of(error: Exception) -> int:
    """Return the exit code for an error. The most specific class counts."""
    return next((code for kind, code in reversed(_CODES) if isinstance(error, kind)), FAILED)
