"""What has to be in the files, and what must not."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from email import message_from_bytes
from typing import TYPE_CHECKING, Any, Final

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_JUNK: Final = re.compile(
    r"(^|/)(__pycache__|_build|artifacts|build|dist|node_modules|\.venv|[^/]*\.egg-info|"
    r"\.(coverage|env|hypothesis|[a-z_]+_cache))(/|$)|\.(pyc|pyo|db|db-wal|db-shm|key|orig|rej)$"
)

IN_WHEEL: Final = (
    "deviceflow/__init__.py",
    "deviceflow/audit/audit-1.schema.json",
    "deviceflow/cli/changes.schema.json",
    "deviceflow/pages/need.css",
    "deviceflow/providers/known.toml",
    "deviceflow/py.typed",
    "deviceflow/server/templates/page.html",
    "deviceflow/stores/sql/migrations/0001_flows_and_audit.sql",
    "deviceflow/stores/sql/queries.sql",
    "deviceflow/trail/report.html",
    "{name}.dist-info/METADATA",
    "{name}.dist-info/entry_points.txt",
    "{name}.dist-info/licenses/LICENSE",
    "{name}.dist-info/sboms/deviceflow.cdx.json",
)
IN_SDIST: Final = (
    ".github/requirements-build.txt",
    "CHANGELOG.md",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "docs/conf.py",
    "docs/index.md",
    "docs/pictures/login.svg",
    "pyproject.toml",
    "src/deviceflow/py.typed",
    "tests/conftest.py",
    "tests/unit/public.txt",
    "tests/unit/test_auth.py",
)


def problems_of_wheel(wheel: Path, sources: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with a wheel.

    Args:
        wheel: The wheel.
        sources: The committed files of the package, from `deviceflow/` on.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    name = "-".join(wheel.name.split("-")[:2])
    yield from _problems(names, [one.format(name=name) for one in IN_WHEEL])
    yield from _differences({one for one in names if ".dist-info/" not in one}, set(sources))


def bill(wheel: Path) -> dict[str, Any]:
    """Return a wheel's bill of materials."""
    name = "-".join(wheel.name.split("-")[:2])
    with zipfile.ZipFile(wheel) as archive:
        read: dict[str, Any] = json.loads(
            archive.read(f"{name}.dist-info/sboms/deviceflow.cdx.json")
        )
    return read


def problems_of_bill(wheel: Path) -> Iterator[str]:
    """Yield in what a wheel's bill of materials departs from the wheel's metadata."""
    read = bill(wheel)
    with zipfile.ZipFile(wheel) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    project = read["metadata"]["component"]
    for field in ("name", "version"):
        if project[field] != metadata[field]:
            yield f"the bill of materials has the {field} {project[field]}"
    every = [Requirement(one) for one in metadata.get_all("Requires-Dist", [])]
    required = {one.name for one in every if "extra" not in str(one.marker)}
    billed = {one["name"] for one in read["components"]}
    yield from (f"{one} is not in the bill of materials" for one in sorted(required - billed))
    yield from (f"{one} is in the bill, not required" for one in sorted(billed - required))


def problems_of_sdist(sdist: Path, sources: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with an sdist.

    Args:
        sdist: The sdist.
        sources: The committed files of `src`, `tests` and `docs`.
    """
    top = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        files = [one.name for one in archive if one.isfile()]
    yield from (f"{one} is not below {top}" for one in files if not one.startswith(f"{top}/"))
    names = {one.removeprefix(f"{top}/") for one in files}
    yield from _problems(names, IN_SDIST)
    folders = ("docs/", "src/", "tests/")
    yield from _differences({one for one in names if one.startswith(folders)}, set(sources))


def _problems(names: set[str], needed: Iterable[str]) -> Iterator[str]:
    yield from (f"{one} is missing" for one in needed if one not in names)
    yield from (f"{one} is junk" for one in sorted(names) if _JUNK.search(one))


def _differences(names: set[str], sources: set[str]) -> Iterator[str]:
    yield from (f"{one} was not committed" for one in sorted(names - sources))
    yield from (f"{one} was committed, and is missing" for one in sorted(sources - names))
