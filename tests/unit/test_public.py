"""What is public: the record of it is current, and the reference has all of it."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any

import pytest

from tests import public


def test_what_is_public_changes_only_on_purpose() -> None:
    recorded, found = public.RECORD.read_text(), public.record()
    changed = difflib.unified_diff(recorded.splitlines(), found.splitlines(), lineterm="", n=0)

    assert recorded == found, (
        "What is public has changed:\n"
        + "\n".join(changed)
        + "\nIf that is meant, run `python -m tests.public`, and add a line to CHANGELOG.md."
    )


@pytest.mark.parametrize("module", public.WHOLE)
def test_the_reference_has_every_public_name(module: str) -> None:
    documented = {id(one.value) for one in public.documented()}
    text = "".join(page.read_text() for page in public.PAGES)
    mentioned = {*re.findall(r"`(?:[\w.]+\.)?(\w+)`", text), "__version__"}

    names = public.own_names(module)
    assert names
    assert [
        name
        for name in names
        if id(public.resolved(f"{module}.{name}")) not in documented and name not in mentioned
    ] == []


def test_the_reference_has_each_name_on_one_page_only() -> None:
    times = Counter(id(one.value) for one in public.documented())

    assert [one.path for one in public.documented() if times[id(one.value)] > 1] == []


def test_the_methods_that_one_page_of_a_class_leaves_out_are_on_another() -> None:
    text = "".join(page.read_text() for page in public.PAGES)
    left_out = [
        f"{path}.{name}"
        for path, names in re.findall(
            r"autoclass:: ([\w.]+)\n(?:   :.*\n)*   :exclude-members: (.*)\n", text
        )
        for name in names.split(", ")
    ]

    assert left_out
    assert sorted(left_out) == sorted(re.findall(r"automethod:: ([\w.]+)", text))


@pytest.mark.parametrize(
    ("defined", "line"),
    [
        (lambda a, /, b=2, *, c=None: None, "  it(a, /, b=2, *, c=None)"),
        (lambda found=[]: None, "  it(found=…)"),
        (5, "  it"),
    ],
)
def test_the_record_shows_how_a_name_is_called(
    defined: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public, "own_names", lambda _: ["it"])
    monkeypatch.setattr(public, "documented", list)
    monkeypatch.setattr(public, "WHOLE", ("tests.public",))
    monkeypatch.setattr(public, "it", defined, raising=False)

    assert public.record().splitlines()[:2] == ["tests.public", line]
