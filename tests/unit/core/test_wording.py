"""Numbers in messages."""

from __future__ import annotations

import pytest

from deviceflow.core import wording


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (1.0, "1 second"),
        (0.2, "0.2 seconds"),
        (90, "90 seconds"),
    ],
)
def test_a_number_of_seconds_is_in_words(number: float, words: str) -> None:
    assert wording.seconds(number) == words
