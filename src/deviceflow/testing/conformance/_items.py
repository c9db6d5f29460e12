"""The checks as items of pytest."""

from __future__ import annotations

import shlex
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.errors import UsageError
from deviceflow.testing.conformance._checks import CHECKS
from deviceflow.testing.conformance._judge import Result
from deviceflow.testing.conformance._run import JOBS, Kit
from deviceflow.testing.conformance._table import lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deviceflow.testing.conformance._checks import Check

_PROPERTY: Final = "deviceflow-client"
_TOLD: Final = ("verdict", "problems", "notes", "polls", "early", "seconds")
_WHERE: Final = Path(__file__)


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

    def runtest(self) -> None:
        """Wait for the result.

        Raises:
            CheckFailed: The client did something wrong.
        """
        result = self.parent.result_of(self)
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


def collect(session: pytest.Session, command: str, tls: str | None) -> list[CheckItem]:
    """Return the items for a client.

    Raises:
        pytest.UsageError: The command has an unknown placeholder, or there is no such program,
            or the PEM file is none.
    """
    try:
        kit = Kit(command, tls=Path(tls) if tls else None)
    except (UsageError, OSError) as wrong:
        raise pytest.UsageError(f"--deviceflow-client: {wrong}") from None
    program = shlex.split(command)[0]
    if "{" not in program and shutil.which(program) is None:
        raise pytest.UsageError(
            f"--deviceflow-client: There is no program {program!r}. Give the path of the program."
        )
    parent = ClientCollector.from_parent(
        session, name="deviceflow-client", nodeid="deviceflow-client"
    )
    parent.kit = kit
    return list(parent.collect())


def summary(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the table of the checks that were run; nothing if there were none."""
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
    return lines(results) if results else []
