"""Check what would be published, and put the files into `dist`.

python -m tests.release
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests import public
from tests.release import contents, environments
from tests.release.building import ROOT, build, committed_at
from tests.release.running import FailedError, run, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HERE: Final = Path(__file__).parent
LIBRARIES: Final = {
    "deviceflow.testing.plugin": "pytest",
    "deviceflow.transports.aiohttp": "aiohttp",
}
"""Modules that need a library which is in no extra: whoever uses the module has the library."""

APART: Final = "deviceflow.integrations.airflow"
"""Airflow's own pins exclude others: its extra is not in `all`."""


def main() -> int:
    """Run the checks, and return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--commit", default="HEAD", help="what to build (%(default)s)")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where to put the files")
    parser.add_argument(
        "--python", action="append", metavar="X.Y", help="only these versions; can be repeated"
    )
    parser.add_argument(
        "--tests",
        nargs="*",
        metavar="PATH",
        help="also run the sdist's tests with the wheel, on each Python: all, or these paths",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deviceflow-release-") as folder:
        return Checks(args, Path(folder)).run()


class Checks:
    """The checks, in order. One that fails does not keep those from running that need it not."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args = args
        self._folder = folder
        self._failed: list[str] = []
        self._pythons: list[str] = args.python or list(environments.PYTHONS)

    def run(self) -> int:
        """Run them, and print what came of each, and what to do before the files are published."""
        try:
            self._sdist, self._wheel = self._check("builds, twice the same", self._build)
        except FailedError:
            return 1
        self._try("metadata", self._metadata)
        self._try("contents", self._contents)
        self._try("types, on each system", self._types)
        for version in self._pythons:
            self._try(f"Python {version}, no extra", partial(self._use, version, ()))
        for version in self._pythons:
            self._try(f"Python {version}, [all]", partial(self._use, version, ("all",)))
        self._try("completeness of types", self._completeness)
        self._try("known vulnerabilities", self._vulnerabilities)
        if self._args.tests is not None:
            for version in self._pythons:
                self._try(f"tests on Python {version}", partial(self._tests, version))
        for file in sorted(self._args.dist.glob(f"*{self._version}*")):
            print(f"{sha256(file.read_bytes()).hexdigest()}  {file}")
        for line in self._before_publishing():
            print(f"before you publish: {line}")
        print("failed: " + ", ".join(self._failed) if self._failed else "all checks passed")
        return 1 if self._failed else 0

    def _try(self, name: str, check: Callable[[], Any]) -> None:
        with suppress(FailedError):
            self._check(name, check)

    def _check(self, name: str, check: Callable[[], Any]) -> Any:
        began = time.monotonic()
        print(f"{name} …", flush=True)
        try:
            result = check()
        except FailedError as failed:
            self._failed.append(name)
            print(f"FAILED {name}\n{failed}", flush=True)
            raise
        said = f": {result}" if isinstance(result, str) else ""
        print(f"    {time.monotonic() - began:.0f} s{said}", flush=True)
        return result

    # The files.

    def _build(self) -> tuple[Path, Path]:
        sdist, wheel = build(self._args.commit, self._folder)
        self._args.dist.mkdir(exist_ok=True)
        kept = [self._args.dist / file.name for file in (sdist, wheel)]
        for file, place in zip((sdist, wheel), kept, strict=True):
            place.write_bytes(file.read_bytes())
        return kept[0], kept[1]

    @property
    def _version(self) -> str:
        return str(self._wheel.name.split("-")[1])

    def _metadata(self) -> None:
        tool("twine", "check", "--strict", self._sdist, self._wheel)
        tool("check_wheel_contents", self._wheel)
        # A tool of the extra `release`, which the unit tests of this package do without.
        from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
        from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

        bill = json.dumps(contents.bill(self._wheel))
        if wrong := JsonStrictValidator(SchemaVersion.V1_7).validate_str(bill):
            raise FailedError(f"The wheel's bill of materials is none: {wrong}")

    def _contents(self) -> str:
        command = ("git", "ls-tree", "-r", "--name-only", self._args.commit)
        committed = run(*command, "src", "tests", "docs", cwd=ROOT).splitlines()
        package = [one.removeprefix("src/") for one in committed if one.startswith("src/")]
        problems = [
            *contents.problems_of_wheel(self._wheel, package),
            *contents.problems_of_bill(self._wheel),
            *contents.problems_of_sdist(self._sdist, committed),
        ]
        if problems:
            raise FailedError("\n".join(problems))
        return f"{len(package)} files in the wheel, {len(committed)} in the sdist"

    def _types(self) -> None:
        for platform in ("linux", "darwin", "win32"):
            cache = f".mypy_cache/{platform}"
            tool("mypy", "--platform", platform, "--cache-dir", cache, "src", cwd=ROOT)

    # Programs that use the wheel.

    def _use(self, version: str, extras: tuple[str, ...]) -> str:
        python = self._environment(version, *extras)
        modules = [] if extras else [one for one in _modules() if not one.startswith(APART)]
        with self._server() as url:
            said = run(python, "-I", HERE / "smoke.py", url, *modules, cwd=self._folder)
        found = json.loads(said.splitlines()[-1])
        problems = [f"{module}: {why}" for module, why in _unexplained(found["missing"], extras)]
        home = str(python.parents[1].resolve())
        if found["version"] != self._version or not found["where"].startswith(home):
            problems.append(f"another deviceflow was tested: {found}")
        if not (found["token_name"] and all(found["tokens"])):
            problems.append(f"there is no token: {found}")
        command = python.with_name("deviceflow")
        if (said := run(command, "--version").strip()) != f"deviceflow {self._version}":
            problems.append(f"deviceflow --version: {said}")
        if "log in" not in run(command, "help"):
            problems.append("deviceflow help helps nobody")
        if extras and "authorized" not in run(command, "demo", "--auto-approve", cwd=self._folder):
            problems.append("deviceflow demo does not log in")
        if problems:
            raise FailedError("\n".join(problems))
        if version == self._pythons[0]:
            self._bill_of_materials(python, "-".join(("", *extras)))
        return f"{len(found['missing'])} modules name what they need"

    def _environment(self, version: str, *extras: str) -> Path:
        home = self._folder / "-".join(("python", version, *extras))
        if not home.exists():
            wheel = f"{self._wheel}[{','.join(extras)}]" if extras else self._wheel
            environments.create(environments.interpreter(version), home, wheel)
        return home / "bin" / "python"

    @contextmanager
    def _server(self) -> Iterator[str]:
        python = self._environment(self._pythons[0], "all")
        with subprocess.Popen(
            [python, "-I", HERE / "approving.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
            server.communicate("")

    def _bill_of_materials(self, python: Path, suffix: str) -> None:
        """Write what is installed with the wheel, in CycloneDX's form, beside the files.

        The wheel's own bill has what it asks for, of any version in a range; this one has the
        versions that pip chose, and what these need.
        """
        file = self._args.dist / f"deviceflow-{self._version}{suffix}.cdx.json"
        options = ("--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--validate")
        epoch = committed_at(self._args.commit)
        tool(
            "cyclonedx_py",
            *("environment", *options, "--output-reproducible", "-o", file, python),
            SOURCE_DATE_EPOCH=epoch,
        )
        installed = {one["name"] for one in json.loads(file.read_text())["components"]}
        required = {one["name"] for one in contents.bill(self._wheel)["components"]}
        if missing := required - installed:
            raise FailedError(f"The wheel's bill has what is not installed: {sorted(missing)}")

    def _completeness(self) -> str:
        """Return how many names' types a checker knows that reads the installed wheel."""
        python = self._environment(self._pythons[0], "all")
        # pyright looks for the package by the `python` of the path, whatever its options say.
        command = [sys.executable, "-m", "pyright", "--verifytypes", "deviceflow"]
        path = f"{python.parent}:/usr/bin:/bin"
        done = subprocess.run(
            [*command, "--ignoreexternal"],
            cwd=self._folder,
            env={"PATH": path, "HOME": str(Path.home())},
            capture_output=True,
            text=True,
            check=False,
        )
        score = re.search(r"completeness score: ([\d.]+)%", done.stdout)
        if score is None or float(score[1]) < 98:
            raise FailedError(f"Fewer than 98 % are known:\n{done.stdout[-3000:]}{done.stderr}")
        return f"{score[1]} %"

    def _vulnerabilities(self) -> str:
        """Ask for advisories on what is installed with all extras, where they can be had."""
        python = self._environment(self._pythons[0], "all")
        packages = next(python.parents[1].glob("lib/python*/site-packages"))
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--path", packages, "--format", "json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        try:
            found = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            return f"not asked, since no advisories can be had: {done.stderr.strip()[-200:]}"
        bad = [f"{one['name']} {one['version']}" for one in found if one.get("vulns")]
        if bad:
            raise FailedError(f"There are advisories on: {', '.join(bad)}.")
        unknown = [
            one["name"] for one in found if "skip_reason" in one and one["name"] != "deviceflow"
        ]
        asked = len(found) - len(unknown) - 1
        return f"none in {asked} packages; {len(unknown)} could not be asked about"

    def _tests(self, version: str) -> str:
        """Run the sdist's own tests with the installed wheel: `src` is not on Python's path."""
        home = self._folder / f"tests-{version}"
        with tarfile.open(self._sdist) as archive:
            archive.extractall(home, filter="data")
        tree = home / self._sdist.name.removesuffix(".tar.gz")
        python = environments.create(
            environments.interpreter(version), home / "environment", f"{self._wheel}[dev]"
        )
        options = ("-q", "-n", "auto", "--dist", "worksteal", *self._args.tests)
        return run(python, "-m", "pytest", *options, cwd=tree).splitlines()[-1]

    # What a person does.

    def _before_publishing(self) -> Iterator[str]:
        project = (ROOT / "pyproject.toml").read_text()
        if "[project.urls]" not in project:
            yield (
                "pyproject.toml has no [project.urls], since the project has no home yet: add"
                " Homepage, Documentation, Changelog and Issues, and make the README's links and"
                " pictures absolute"
            )
        head = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
        if head is None or not head[1].startswith(f"{self._version} - 20"):
            yield f"the head of CHANGELOG.md is not '## {self._version} - DATE'"
        if "not released yet" in (ROOT / "docs" / "SECURITY.md").read_text():
            yield "docs/SECURITY.md says that deviceflow is not released"
        if ".invalid" in (ROOT / ".github" / "security-insights.yml").read_text():
            yield ".github/security-insights.yml has deviceflow.invalid in place of the home"
        if run("git", "status", "--porcelain", cwd=ROOT):
            yield "the tree has changes that were not committed, and are not in the files"


def _modules() -> list[str]:
    lines = public.RECORD.read_text().splitlines()
    return [line for line in lines if re.fullmatch(r"deviceflow[\w.]*", line)]


def _unexplained(missing: dict[str, str], extras: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """Yield the modules that cannot be imported, and do not say which extra to install."""
    for module, why in missing.items():
        if extras and (module in LIBRARIES or module.startswith(APART) or "pytest" in why):
            continue
        if LIBRARIES.get(module, "deviceflow[") not in why or extras:
            yield module, why


if __name__ == "__main__":
    sys.exit(main())
