"""What Airflow finds of us, tested without Airflow. `tests/airflow` has the rest."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from deviceflow.integrations import airflow

ROOT: Final = Path(__file__).parents[2]
LOADS: Final = """
import sys
from deviceflow.integrations.airflow import get_token
from deviceflow.integrations.airflow.provider import get_provider_info

get_provider_info()
sys.exit("airflow" in sys.modules)
"""


def provider_info() -> dict[str, Any]:
    """Return what the entry point of the distribution gives."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    (group,) = (found for name, found in entries.items() if name == "apache_airflow_provider")
    info: dict[str, Any] = EntryPoint("provider_info", group["provider_info"], "").load()()
    return info


def test_the_entry_point_tells_airflow_what_there_is() -> None:
    info = provider_info()
    assert info["package-name"] == "deviceflow"
    classes = [*info["extra-links"], *info["secrets-backends"]]
    modules = [
        module
        for kind in ("operators", "triggers")
        for provided in info[kind]
        for module in provided["python-modules"]
    ]
    assert len(classes) == len(modules) == 2
    for name in classes:
        module, _, named = name.rpartition(".")
        assert f"class {named}(" in source_of(module)
    assert "class DeviceLoginOperator(" in source_of(modules[0])
    assert "class DeviceLoginTrigger(" in source_of(modules[1])


def source_of(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()


def test_airflow_is_not_loaded_to_say_what_there_is() -> None:
    subprocess.run([sys.executable, "-c", LOADS], check=True)


@pytest.mark.skipif(find_spec("airflow") is not None, reason="Airflow is installed")
@pytest.mark.parametrize("name", ["DeviceFlowBackend", "DeviceLoginOperator", "DeviceLoginTrigger"])
def test_without_airflow_the_error_names_the_extra(name: str) -> None:
    assert name in airflow.__all__
    with pytest.raises(ImportError, match=r"deviceflow\[airflow\]"):
        getattr(airflow, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Operator'"):
        airflow.Operator  # noqa: B018  # the access is the test
