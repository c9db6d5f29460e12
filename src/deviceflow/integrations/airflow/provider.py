"""What Airflow is told of this distribution, by the entry point `apache_airflow_provider`."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return what the distribution provides, in the format of Airflow's provider_info schema."""
    here, name = __package__, "deviceflow"
    return {
        "package-name": "deviceflow",
        "name": name,
        "description": "Logins by the OAuth device authorization grant, and tokens that stay fresh",
        "integrations": [{"integration-name": name, "tags": ["service"]}],
        "operators": [{"integration-name": name, "python-modules": [f"{here}.operators"]}],
        "triggers": [{"integration-name": name, "python-modules": [f"{here}.triggers"]}],
        "extra-links": [f"{here}.operators.AuthorizationServerLink"],
        "secrets-backends": [f"{here}.secrets.DeviceFlowBackend"],
    }
