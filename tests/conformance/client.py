"""A command for a library that has none: `client.py LIBRARY ISSUER DEVICE TOKEN CLIENT_ID`.

It prints the token and exits with 0, or prints the error and exits with 1.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> int:
    """Log in."""
    from tests.comparison.scenarios import Endpoints  # noqa: PLC0415  # it is not installed

    library, issuer, device, token, client_id = sys.argv[1:]
    with_it = import_module(f"tests.comparison.with_{library}")
    try:
        print(with_it.login(Endpoints(issuer, device, token, client_id)))
    except Exception as error:  # noqa: BLE001  # as a small program does
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
