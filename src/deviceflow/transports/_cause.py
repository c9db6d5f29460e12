"""Why a connection failed, found in whatever an HTTP library raised."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.wire import Cause

_DEPTH: Final = 8
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
"""What OpenSSL says of a peer whose first bytes are not TLS."""


def cause_of(trouble: BaseException) -> Cause | None:
    """Return why a connection failed, if an exception or one behind it says so."""
    for error in _behind(trouble):
        if isinstance(error, socket.gaierror):
            return "name_unknown"
        if isinstance(error, ConnectionRefusedError):
            return "connection_refused"
        if isinstance(error, ssl.SSLCertVerificationError):
            return "certificate"
        if isinstance(error, ssl.SSLError) and hasattr(error, "reason"):  # not aiohttp's own
            return "no_tls" if error.reason in _NO_TLS else "tls"
    return None


def _behind(trouble: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it wraps: the libraries each have a way of their own."""
    error: object = trouble
    for _ in range(_DEPTH):
        if not isinstance(error, BaseException):
            return
        yield error
        wrapped = (
            getattr(error, "reason", None),  # urllib3
            getattr(error, "os_error", None),  # aiohttp
            error.args[0] if error.args else None,  # requests
            error.__cause__,
            error.__context__,
        )
        error = next((one for one in wrapped if isinstance(one, BaseException)), None)
