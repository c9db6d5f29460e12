"""Use an installed deviceflow. This runs in an environment that has the wheel and no tests.

Prints an object: which modules cannot be imported and why, and the token of a login.

    python -I smoke.py URL MODULE…
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys

import deviceflow
from deviceflow import Client, Studio
from deviceflow.auth import get_access_token


def main() -> None:
    """Import the modules that are named, or all where none is, and log in."""
    url, *modules = sys.argv[1:]
    missing = {}
    for module in modules or _all():
        try:
            importlib.import_module(module)
        except ImportError as problem:
            missing[module] = str(problem)
    name, token = get_access_token(hostname=url, client_name="smoke", open_browser=False)
    login = Client().login(Studio(url).with_request(client_name="smoke"), open_browser=False)
    print(
        json.dumps(
            {
                "missing": missing,
                "where": deviceflow.__file__,
                "version": deviceflow.__version__,
                "token_name": name,
                "tokens": [len(token), len(login.access_token.reveal())],
            }
        )
    )


def _all() -> list[str]:
    found = pkgutil.walk_packages(deviceflow.__path__, "deviceflow.", onerror=lambda _: None)
    return [one.name for one in found if not one.name.endswith("__main__")]


if __name__ == "__main__":
    main()
