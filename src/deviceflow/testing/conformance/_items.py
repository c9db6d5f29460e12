"""The checks as items of pytest."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow._version import __version__
from deviceflow.errors import UsageError
from deviceflow.testing.conformance._checks import CHECKS
from deviceflow.testing.conformance._judge import Result
from deviceflow.testing.conformance._run import JOBS, Kit
from deviceflow.testing.conformance._table import badge, lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deviceflow.testing.conformance._checks import Check

_OPTION: Final = "--deviceflow-client"
_PROPERTY: Final = "deviceflow-client"
_TOLD: Final = ("verdict", "problems", "notes", "polls", "early", "seconds")
_WHERE: Final = Path(__file__)
_KIT: Final = pytest.StashKey[Kit]()


class CheckFailed(Exception):  # noqa: N818  # it is how a check ended
    """A client did not do what was expected."""

    def __init__(self, result: Result) -> None:
        super().__init__("; ".join(result.problems))
        self.result = result


class ClientCollector(pytest.Collector):
    """The checks of one client. The first one begins all that are to run.

    Attributes:
        kit: The kit for the client.
    """

    kit: Kit

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self._pool: ThreadPoolExecutor | None = None
        self._results: dict[str, Future[Result]] = {}

    def collect(self) -> Iterator[CheckItem]:
        """Return the checks."""
        for check in CHECKS:
            yield CheckItem.from_parent(self, name=check.name, check=check)

    def result_of(self, item: CheckItem) -> Result:
        """Wait for a check, and return its result."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(JOBS)
            # A worker of pytest-xdist runs only some of the items that it has collected.
            alone = hasattr(self.config, "workerinput")
            for one in [item] if alone else self.session.items:
                if isinstance(one, CheckItem):
                    self._begin(self._pool, one.check)
        return self._begin(self._pool, item.check).result()

    def _begin(self, pool: ThreadPoolExecutor, check: Check) -> Future[Result]:
        if check.name not in self._results:
            self._results[check.name] = pool.submit(self.kit.run_one, check)
        return self._results[check.name]

    def teardown(self) -> None:
        """Begin no further check."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class CheckItem(pytest.Item):
    """One check of a client."""

    parent: ClientCollector

    def __init__(self, *, check: Check, **how: Any) -> None:
        super().__init__(**how)
        self.check = check
        if check.slow:
            self.add_marker("slow")
        if self.config.pluginmanager.hasplugin("timeout"):
            self.add_marker(pytest.mark.timeout(0))  # the kit has a deadline of its own

    def runtest(self) -> None:
        """Wait for the result.

        Raises:
            CheckFailed: The client did something wrong.
            pytest.exit.Exception: The program cannot be run, in this check or any other.
        """
        try:
            result = self.parent.result_of(self)
        except UsageError as wrong:
            if hasattr(self.config, "workerinput"):
                raise  # a worker of pytest-xdist cannot end the run
            pytest.exit(f"{_OPTION}: {wrong}", pytest.ExitCode.USAGE_ERROR)
        # By the report, which pytest-xdist brings from its workers.
        seen = {name: getattr(result, name) for name in _TOLD}
        self.user_properties.append((_PROPERTY, {"name": result.check.name} | seen))
        if result.problems:
            raise CheckFailed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say first what was expected and what came, then what was asked and answered."""
        failed = excinfo.value
        if not isinstance(failed, CheckFailed):
            return super().repr_failure(excinfo, style)
        check = failed.result.check
        source = f" ({check.source})" if check.source else ""
        return (
            f"{check.name}: {failed}\nThe server: {check.title}{source}\n{failed.result.transcript}"
        )

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the check in reports."""
        return _WHERE, None, f"{self.parent.name}: {self.check.name}"


def prepare(config: pytest.Config, command: str, tls: str | None) -> None:
    """Make the kit for a client, and leave out the tests of the program beside it.

    Only paths on the command line bring these tests in: not `testpaths`, nor a path in `addopts`.

    Raises:
        pytest.UsageError: The command or the PEM file cannot be used.
    """
    try:
        config.stash[_KIT] = Kit(command, tls=Path(tls) if tls else None)
    except UsageError as wrong:
        raise pytest.UsageError(f"{_OPTION}: {wrong}") from None
    config.addinivalue_line("markers", "slow: a check that takes long by its nature")
    if {*config.args}.isdisjoint(map(os.fspath, config.invocation_params.args)):
        config.args = []


def header(config: pytest.Config) -> list[str]:
    """Say what is run, by which version of the kit, and what is left out."""
    begun = f"deviceflow {__version__}: {len(CHECKS)} checks of a device-flow client (RFC 8628)"
    told = [begun, f"client: {config.stash[_KIT].command}"]
    if not config.args:
        told.append("The project's own tests are left out; name their paths to run them too.")
    return told


def collect(session: pytest.Session) -> list[CheckItem]:
    """Return the items for the client."""
    parent = ClientCollector.from_parent(session, name=_PROPERTY, nodeid=_PROPERTY)
    parent.kit = session.config.stash[_KIT]
    items = list(parent.collect())
    # So that pytest counts them.
    report = pytest.CollectReport(parent.nodeid, "passed", None, [*items])
    session.config.hook.pytest_collectreport(report=report)
    return items


def summary(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the table of the checks that were run and the badge; nothing if there were none."""
    seen: dict[str, Any] = {
        facts["name"]: facts
        for report in reports
        for name, facts in report.user_properties
        if name == _PROPERTY and isinstance(facts, dict)
    }
    results = [
        Result(check=check, transcript="", **{key: seen[check.name][key] for key in _TOLD})
        for check in CHECKS
        if check.name in seen
    ]
    return [*lines(results), "", badge(results)] if results else []
