"""An auth object for `httpx2`, such as the Python MCP SDK uses: the same as for `httpx`."""

from __future__ import annotations

from typing import Any, ClassVar

from deviceflow.integrations._httpx_auth import HttpxAuth

try:
    import httpx2
except ImportError:
    raise ImportError(
        "deviceflow.integrations.httpx2 needs httpx2: pip install 'deviceflow[httpx2]'"
    ) from None


class DeviceFlowAuth(HttpxAuth, httpx2.Auth):
    """Attaches a grant's access token to each request (RFC 6750 section 2.1).

    `deviceflow.integrations.httpx.DeviceFlowAuth` has the arguments and the behaviour.
    """

    library: ClassVar[Any] = httpx2
