"""What the environment decides for a provider where the program does not say it."""

from __future__ import annotations

import os


def http_allowed() -> bool:
    """Tell whether the environment allows plain http: `DEVICEFLOW_ALLOW_HTTP=1`.

    It is asked when a provider is made, and the answer is one of its settings from then on.
    """
    return os.environ.get("DEVICEFLOW_ALLOW_HTTP") == "1"


def public_url() -> str | None:
    """Return where the pages of needs are, as `DEVICEFLOW_PUBLIC_URL` says, if it does."""
    return os.environ.get("DEVICEFLOW_PUBLIC_URL") or None


def personal(name: str) -> str:
    """Return how events keep a field that is about a person, as `DEVICEFLOW_AUDIT_NAME` says."""
    return os.environ.get(f"DEVICEFLOW_AUDIT_{name.upper()}") or "clear"


def providers_file() -> str | None:
    """Return the file with more providers that `DEVICEFLOW_PROVIDERS` names, if it names one."""
    return os.environ.get("DEVICEFLOW_PROVIDERS") or None
