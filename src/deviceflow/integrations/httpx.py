"""An auth object for `httpx`, sync and async: requests that carry a grant's token.

auth = DeviceFlowAuth(client, "nightly", login, origins=["https://api.example.com"])
async with httpx.AsyncClient(auth=auth) as session:
    await session.get("https://api.example.com/me")
"""

from __future__ import annotations

from typing import Any, ClassVar

from deviceflow.integrations._httpx_auth import HttpxAuth

try:
    import httpx
except ImportError:
    raise ImportError(
        "deviceflow.integrations.httpx needs httpx: pip install 'deviceflow[httpx]'"
    ) from None


class DeviceFlowAuth(HttpxAuth, httpx.Auth):
    """Attaches a grant's access token to each request (RFC 6750 section 2.1).

    For an `httpx.Client` with a `Client`, and for an `httpx.AsyncClient` with an `AsyncClient` of
    the same event loop. `deviceflow.DeviceFlowAuth` describes how it works, and the arguments.

    Only a body that is in memory is sent again after a refusal, such as `json=`, `data=` or bytes:
    httpx does not say where a file began. Neither the body of a request nor that of a response is
    read here, so both may be streams.

    Args:
        client: The client that logs in and refreshes.
        name: As for `deviceflow.DeviceFlowAuth`.
        provider: Likewise.
        min_ttl: Likewise.
        interactive: Likewise.
        purpose: Likewise.
        origins: Likewise. httpx removes the token if a redirect leads to another host. But if a
            program sends a `next_request` itself, httpx attaches the token again.
        invalid_token_statuses: Likewise.
        **request: Likewise.

    Raises:
        InvalidArgumentError: One of the origins is not the URL of a server.
        InsecureURLError: From a request: as for `deviceflow.DeviceFlowAuth`.
        UsageError: From a request: the client is of the other kind.
        LoginPending: From a request: a person must log in.
        DeviceFlowError: From a request: as for `Client.get_token` and `Client.log_in`.
    """

    library: ClassVar[Any] = httpx
