"""A local authorization server for a first run and for tests. It listens on loopback only.

The server speaks both dialects of the device grant: RFC 8628 and DVC Studio's. A person approves
in the browser, on the server's own page.

    with LocalServer(Settings(interval=1)) as server:
        print(server.url)
"""

from __future__ import annotations

try:
    from deviceflow.server.app import create_app
    from deviceflow.server.runner import LocalServer
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in {"authlib", "flask", "waitress"}:
        raise
    raise ImportError(
        f"The local authorization server needs {missing.name}: pip install 'deviceflow[server]'",
        name=missing.name,
    ) from missing
from deviceflow.server.settings import Settings

__all__ = ["LocalServer", "Settings", "create_app"]
