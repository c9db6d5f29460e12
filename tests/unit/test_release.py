"""The checks of a release find what is wrong, and what they need is said once."""

from __future__ import annotations

import io
import json
import re
import tarfile
import tomllib
import zipfile
from typing import TYPE_CHECKING, Final

import jsonschema
import pytest
import yaml
from hatchling.build import build_wheel
from packaging.requirements import Requirement

import deviceflow
from tests.release import contents
from tests.release.__main__ import _unexplained
from tests.release.building import LITTER, PINNED, ROOT
from tests.release.environments import PYTHONS

if TYPE_CHECKING:
    from pathlib import Path

SOURCES: Final = [one for one in contents.IN_WHEEL if not one.startswith("{name}")]
TREE: Final = [one for one in contents.IN_SDIST if one.startswith(("docs/", "src/", "tests/"))]


def wheel(folder: Path, *more: str, without: str = "") -> Path:
    file = folder / "deviceflow-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name in (*contents.IN_WHEEL, *more):
            if name != without:
                archive.writestr(name.format(name="deviceflow-1.0"), "")
    return file


def sdist(folder: Path, *more: str, without: str = "") -> Path:
    file = folder / "deviceflow-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in (*contents.IN_SDIST, *more):
            if name != without:
                archive.addfile(tarfile.TarInfo(f"deviceflow-1.0/{name}"), io.BytesIO())
    return file


def test_files_that_are_right_have_no_problem(tmp_path: Path) -> None:
    assert list(contents.problems_of_wheel(wheel(tmp_path), SOURCES)) == []
    assert list(contents.problems_of_sdist(sdist(tmp_path), TREE)) == []


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    typed = wheel(tmp_path, without="deviceflow/py.typed")
    tested = sdist(tmp_path, without="tests/conftest.py")

    assert "deviceflow/py.typed is missing" in contents.problems_of_wheel(typed, SOURCES)
    assert "tests/conftest.py is missing" in contents.problems_of_sdist(tested, TREE)


@pytest.mark.parametrize("litter", LITTER)
def test_what_work_leaves_behind_is_junk(litter: str, tmp_path: Path) -> None:
    assert f"{litter} is junk" in contents.problems_of_sdist(sdist(tmp_path, litter), TREE)
    assert f"{litter} is junk" in contents.problems_of_wheel(wheel(tmp_path, litter), SOURCES)


@pytest.mark.parametrize("more", ["tests/unit/test_auth.py", "deviceflow/draft.py"])
def test_a_wheel_has_only_what_was_committed(more: str, tmp_path: Path) -> None:
    problems = contents.problems_of_wheel(wheel(tmp_path, more), SOURCES)

    assert list(problems) == [f"{more} was not committed"]


def test_an_sdist_is_one_folder(tmp_path: Path) -> None:
    file = tmp_path / "deviceflow-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("setup.py"), io.BytesIO())

    assert "setup.py is not below deviceflow-1.0" in contents.problems_of_sdist(file, TREE)


def test_a_wheel_has_a_bill_of_what_it_requires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    folders = (tmp_path / "one", tmp_path / "other")
    wheel, again = [folder / build_wheel(str(folder)) for folder in folders]
    names = [one["name"] for one in contents.bill(wheel)["components"]]

    assert list(contents.problems_of_bill(wheel)) == []
    assert names == ["requests", "structlog", "transitions"]
    assert wheel.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("billed", "problem"),
    [
        ("other", "the bill of materials has the version 0"),
        ("other", "requests is not in the bill of materials"),
        ("colorama", "colorama is in the bill, not required"),
    ],
)
def test_a_bill_that_departs_from_the_metadata_is_a_problem(
    billed: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "deviceflow-1.0-py3-none-any.whl"
    requires = "".join(
        f"Requires-Dist: {one}\n" for one in ("requests", "urllib3>=2; extra == 'x'")
    )
    with zipfile.ZipFile(file, "w") as archive:
        info = "deviceflow-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Name: deviceflow\nVersion: 1.0\n{requires}")
        project = {"name": "deviceflow", "version": "0"}
        bill = {"metadata": {"component": project}, "components": [{"name": billed}]}
        archive.writestr(f"{info}/sboms/deviceflow.cdx.json", json.dumps(bill))

    assert problem in contents.problems_of_bill(file)


@pytest.mark.parametrize(
    ("module", "why", "extras", "explained"),
    [
        ("deviceflow.metrics", "Metrics need: pip install 'deviceflow[otel]'", (), True),
        ("deviceflow.metrics", "Metrics need: pip install 'deviceflow[otel]'", ("all",), False),
        ("deviceflow.metrics", "No module named 'opentelemetry'", (), False),
        ("deviceflow.transports.aiohttp", "pip install aiohttp", (), True),
        ("deviceflow.transports.aiohttp", "pip install aiohttp", ("all",), True),
        ("deviceflow.integrations.airflow.triggers", "No module named 'airflow'", ("all",), True),
    ],
)
def test_a_module_that_cannot_be_imported_names_its_extra(
    module: str, why: str, extras: tuple[str, ...], explained: bool
) -> None:
    assert list(_unexplained({module: why}, extras)) == ([] if explained else [(module, why)])


def test_what_builds_is_pinned_by_hashes() -> None:
    pins = (ROOT / PINNED).read_text().replace("\\\n", "").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [Requirement(one).name for one in project["build-system"]["requires"]]

    for pin in pins:
        assert re.fullmatch(r"[\w-]+==[\w.]+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+", pin)
    assert {"build", *needed} <= {pin.partition("==")[0] for pin in pins}


def object_of(**fields: object) -> dict[str, object]:
    return {"type": "object", "required": list(fields), "properties": fields}


TEXT: Final = {"type": "string", "minLength": 1}
URL: Final = {"type": "string", "pattern": r"^https?://\S+$"}
DAY: Final = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}
CONTACTS: Final = {
    "type": "array",
    "minItems": 1,
    "items": object_of(name=TEXT, primary={"type": "boolean"}),
}
INSIGHTS: Final = object_of(
    header=object_of(
        **{"schema-version": {"const": "2.1.0"}, "last-updated": DAY, "last-reviewed": DAY},
        url=URL,
    ),
    project=object_of(
        name={"const": "deviceflow"},
        administrators=CONTACTS,
        repositories={"type": "array", "items": object_of(name=TEXT, comment=TEXT, url=URL)},
        **{
            "vulnerability-reporting": object_of(
                **{"reports-accepted": {"const": True}, "bug-bounty-available": {"const": False}}
            )
        },
    ),
    repository=object_of(
        status={"enum": ["WIP", "active"]},
        url=URL,
        license=object_of(url=URL, expression={"const": "Apache-2.0"}),
        security=object_of(assessments=object_of(self=object_of(comment=TEXT))),
        **{
            "accepts-change-request": {"type": "boolean"},
            "accepts-automated-change-request": {"type": "boolean"},
            "core-team": CONTACTS,
        },
    ),
)
"""What OpenSSF's Security Insights 2.1.0 requires, as far as it is used here."""


def test_security_insights_have_what_their_schema_requires() -> None:
    text = (ROOT / ".github" / "security-insights.yml").read_text()
    read = yaml.safe_load(text)
    pages = re.findall(r"https://[^/\s]+/(\S+)", text)

    jsonschema.validate(read, INSIGHTS)
    assert read["header"]["last-updated"] <= read["header"]["last-reviewed"]
    assert [page for page in pages if not (ROOT / page).exists()] == []


def test_pythons_are_the_same_in_the_metadata_the_checks_and_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [one.rpartition(" ")[2] for one in project["classifiers"] if ":: Python :: 3." in one]
    page = (ROOT / "docs" / "reference" / "compatibility.md").read_text()

    assert tuple(named) == PYTHONS
    assert f"| {', '.join(PYTHONS)} | supported" in page
    assert project["requires-python"] == f">={PYTHONS[0]}"


def test_the_changelog_begins_with_this_version() -> None:
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert heads[0] == deviceflow.__version__
