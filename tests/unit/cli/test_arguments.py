"""Times and ages as people write them."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError

import pytest

from deviceflow.cli.arguments import duration, moment


@pytest.mark.parametrize("text", ["2d", "2d ago", "48h ago", "172800s ago", "2d  ago"])
def test_age_is_a_time_ago(text: str) -> None:
    before = time.time() - 2 * 86_400

    assert before <= moment(text) <= time.time() - 2 * 86_400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86_400.0),
        ("1970-01-02T01:00", 90_000.0),
        ("1970-01-02T01:00:00.5+00:00", 90_000.5),
        ("1970-01-02T01:00+01:00", 86_400.0),
        ("1970-01-02 01:00:00Z", 90_000.0),
    ],
)
def test_time_is_in_utc_unless_it_says_otherwise(text: str, seconds: float) -> None:
    assert moment(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "ago", "2 days ago", "d ago", "-2d ago", "20260131", "2d age"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="an age such as 12h or 7d"):
        moment(text)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("1.5h", 5400.0), ("7d", 604_800.0)])
def test_age_has_its_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["7", "", "d", "-1d", "nan"])
def test_age_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="an age such as 12h or 7d, not"):
        duration(text)
