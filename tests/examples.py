"""How many examples a property is tried on: a sample here, as many as `DEVICEFLOW_FUZZ` says.

In CI the examples are the same ones each time, since a failure must not depend on luck.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(sample: int, *, of: int = 1) -> settings:
    """Return the settings of a property.

    Args:
        sample: How many examples there are by default.
        of: By how much `DEVICEFLOW_FUZZ` is divided, where an example costs more than elsewhere.
    """
    wanted = os.environ.get("DEVICEFLOW_FUZZ")
    return settings(
        max_examples=sample if wanted is None else max(1, int(wanted) // of),
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
