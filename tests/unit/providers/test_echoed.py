"""Codes and links that contain a secret whole end a login, and are not kept."""

from __future__ import annotations

import pytest

from deviceflow.core.provider import problem_with
from deviceflow.core.secret import Secret
from deviceflow.core.text import NOTHING, CleanText

CODE = "dc-7Qm3xW9bT2kLzP5vH8"
CREDENTIAL = "cs-6Vd4Mf7Pj1Gz2Et9"
PAGE = "https://as.example.com/device"


@pytest.mark.parametrize(
    ("user_code", "credential", "page", "problem"),
    [
        ("WDJB-MJHT", CREDENTIAL, PAGE, None),
        ("WDJB-MJHT", CREDENTIAL, None, None),
        (CODE[:9], None, PAGE, None),
        (CODE, None, PAGE, "user_code contains the device code"),
        (CREDENTIAL, CREDENTIAL, PAGE, "user_code contains the client's secret"),
        ("WDJB", CREDENTIAL, f"{PAGE}?{CREDENTIAL}", "page contains the client's secret"),
        ("WDJB", "device", PAGE, None),
    ],
)
def test_whole_secret_is_not_kept_in_clear(
    user_code: str, credential: str | None, page: str | None, problem: str | None
) -> None:
    given = None if credential is None else Secret(credential)
    urls = {"verification_uri": page}
    said = problem_with(CODE, user_code, given, **urls)

    assert said == (problem and problem.replace("page", "verification_uri"))


def test_escaped_text_that_looks_like_a_token_is_hidden() -> None:
    escaped = "".join(f"%{ord(char):02X}" for char in CODE)

    assert CleanText(f"no {escaped}", NOTHING, redact_lookalikes=True) == "no <hidden>"
