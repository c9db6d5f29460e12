"""Logins and tokens for the tasks of Airflow 3. A task that waits for a person is deferred.

A DAG that logs in, and a task with a token::

    @dag(schedule="0 3 * * *")
    def nightly():
        @task
        def report():
            with get_token("report") as token:  # the name of a profile
                fetch_report(token).raise_for_status()  # a 401 invalidates the token

        DeviceLoginOperator(task_id="log_in", grant="report", retries=3) >> report()

The store and the profiles are those of the environment (`DEVICEFLOW_STORE`, `DEVICEFLOW_CONFIG`),
and so is who is notified (`DEVICEFLOW_NOTIFY`, `DEVICEFLOW_PUBLIC_URL`, or the profile). Workers
and triggerers need the same environment.

Airflow keeps the arguments of triggers, rendered templates and XComs in clear. What it keeps there
of a login is the grant's name and the id of its need, and never a token, a code or a link.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from deviceflow.integrations.airflow._token import get_token

if TYPE_CHECKING:
    from deviceflow.integrations.airflow.operators import DeviceLoginOperator
    from deviceflow.integrations.airflow.secrets import DeviceFlowBackend
    from deviceflow.integrations.airflow.triggers import DeviceLoginTrigger

__all__ = ["DeviceFlowBackend", "DeviceLoginOperator", "DeviceLoginTrigger", "get_token"]

# Airflow imports its secrets backend while it is being imported itself, and asks each provider what
# it provides: neither may load operators.
_MODULES: Final = {
    "DeviceFlowBackend": "secrets",
    "DeviceLoginOperator": "operators",
    "DeviceLoginTrigger": "triggers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as missing:
        if missing.name != "airflow":
            raise
    raise ImportError(f"{__name__}.{name} needs Airflow 3: pip install 'deviceflow[airflow]'")
