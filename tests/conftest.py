"""What all tests stand on."""

from __future__ import annotations

import json
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, TypeVar

import jsonschema_rs
import pytest
from hypothesis import settings

from deviceflow.audit import log
from deviceflow.audit.events import schema
from deviceflow.audit.mode import VARIABLE
from deviceflow.testing import plugin

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

# A shell that starts the tests in the background has them ignore Ctrl-C, and their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No property fails on a slow machine. In CI, the rest is as in the profile of Hypothesis for CI.
settings.register_profile("no deadline", settings(), deadline=None)
settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    # By itself where the package was installed since its metadata names the plugin.
    if not config.pluginmanager.has_plugin("deviceflow"):
        config.pluginmanager.register(plugin, "deviceflow")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _unless_skipped_in_ci(report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _unless_skipped_in_ci(report)


def _unless_skipped_in_ci(report: _Report) -> _Report:
    """Turn a skip in CI into a failure: CI installs what the tests need."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"In CI, no test may be skipped: {report.longrepr}"
    return report


@pytest.fixture
def each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trails store each event, pending polls as well."""
    monkeypatch.setenv(VARIABLE, "each")


# Compiled: what checks a schema in Python takes longer than most of what is tested.
_SCHEMA = jsonschema_rs.Draft202012Validator(schema())


@pytest.fixture(autouse=True)
def _events_are_of_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check each event that any test logs; a store keeps the very same."""
    emit = log.emit

    def checked(name: str, fields: Mapping[str, Any], *level: int) -> None:
        if "schema" in fields:
            _SCHEMA.validate(json.loads(json.dumps(fields)))  # it knows no subclass of str
        emit(name, fields, *level)

    monkeypatch.setattr(log, "emit", checked)


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was() -> Iterator[None]:
    """Name the test that leaves the root logger changed, not some test that runs behind it."""
    root = logging.getLogger()
    level, handlers = root.level, set(root.handlers)
    yield
    left = (root.level, [one for one in root.handlers if one not in handlers])
    root.setLevel(level)
    for one in left[1]:
        root.removeHandler(one)
    assert left == (level, [])
