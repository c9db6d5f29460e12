"""A server whose logins are approved at once, until standard input ends. It prints its URL.

This runs in an environment that has the wheel with its extras, for clients in other environments.
"""

from __future__ import annotations

import sys

from deviceflow.testing import DeviceServer


def main() -> None:
    """Serve."""
    server = DeviceServer()
    server.auto_approve = True
    print(server.url, flush=True)
    sys.stdin.read()
    server.close()


if __name__ == "__main__":
    main()
