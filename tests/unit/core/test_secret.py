"""A secret shows nowhere, and goes nowhere by itself."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from deviceflow.core.provider import Answer, DeviceCode, Token
from deviceflow.core.secret import Hidden, Secret
from deviceflow.core.text import PersonText, link

if TYPE_CHECKING:
    from collections.abc import Callable


def show_by_percent(secret: object) -> str:
    return logging.makeLogRecord({"msg": "%s %r", "args": (secret, secret)}).getMessage()


SHOWN: dict[str, Callable[[object], str]] = {
    "repr": repr,
    "str": str,
    "f-string": lambda secret: f"-> {secret}",
    "f-string with !r": lambda secret: f"-> {secret!r}",
    "format": "{0} {0!s} {0!r}".format,
    "percent": show_by_percent,
    "in a list": lambda secret: str([secret]),
    "in a dict": lambda secret: str({"token": secret}),
    "pprint": pprint.pformat,
    "json with default": lambda secret: json.dumps({"token": secret}, default=str),
    "ascii": ascii,
}


@pytest.mark.parametrize("way", SHOWN)
def test_secret_hides_in_every_text(way: str) -> None:
    shown = SHOWN[way](Secret("CANARY"))

    assert "CANARY" not in shown
    assert "<secret>" in shown


def test_secret_is_shown_to_whoever_says_so() -> None:
    assert Secret("CANARY").reveal() == "CANARY"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_secret_does_not_pickle(protocol: int, rendered: Callable[[BaseException], str]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps(Secret("CANARY"), protocol)

    assert "CANARY" not in rendered(caught.value)


def test_token_does_not_pickle_either() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Token(Secret("CANARY")))


def test_secret_is_no_json() -> None:
    with pytest.raises(TypeError) as caught:
        json.dumps(Secret("CANARY"))

    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copy_is_the_secret_itself(copied: Callable[[Secret], Secret]) -> None:
    secret = Secret("CANARY")

    assert copied(secret) is secret
    assert asdict(Token(secret))["access_token"] is secret


def test_secret_has_no_dict_to_look_into() -> None:
    secret = Secret("CANARY")

    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(AttributeError):
        secret.note = "CANARY"  # type: ignore[attr-defined]


def test_traceback_with_locals_shows_no_secret(
    rendered: Callable[[BaseException], str],
) -> None:
    # Compiled as somebody else's file, since the tests' own frames are left out.
    program = compile(
        "def fail(secret):\n    held = {'code': secret}\n    1 / 0", "prog.py", "exec"
    )
    scope: dict[str, Callable[[Secret], None]] = {}
    exec(program, scope)

    with pytest.raises(ZeroDivisionError) as caught:
        scope["fail"](Secret("CANARY"))

    shown = rendered(caught.value)
    assert "held = {'code': <secret>}" in shown
    assert "CANARY" not in shown


def test_secrets_are_equal_by_their_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("\u00e9") == Secret("\u00e9")


def test_secret_equals_no_text() -> None:
    assert Secret("a") != "a"
    assert (Secret("a") == "a") is False


def test_secret_has_no_hash() -> None:
    with pytest.raises(TypeError):
        hash(Secret("CANARY"))


def test_fingerprint_is_the_same_for_the_same_text() -> None:
    assert Secret("CANARY").fingerprint() == Secret("CANARY").fingerprint()
    assert Secret("CANARY").fingerprint() != Secret("CANARX").fingerprint()


def test_any_text_can_be_compared_and_have_a_fingerprint() -> None:
    halved = Secret("CANARY\ud800")

    assert halved == Secret("CANARY\ud800")
    assert halved.fingerprint() != Secret("CANARY").fingerprint()


def test_fingerprint_depends_on_the_key() -> None:
    secret = Secret("CANARY")
    prints = {secret.fingerprint(key) for key in (None, b"one", b"two")}

    assert len(prints) == 3


def test_fingerprint_is_hmac_sha256_cut_to_sixteen_digits() -> None:
    # RFC 4231, test case 2.
    assert Secret("what do ya want for nothing?").fingerprint(b"Jefe") == "5bdcc146bf60754e"


@pytest.mark.parametrize(
    "holder",
    [
        Token(Secret("CANARY")),
        Answer("issued", token=Token(Secret("CANARY"))),
        DeviceCode(
            Secret("CANARY"),
            "https://s.example.com/token",
            user_code=PersonText("CANARY", 100),
            verification_uri_complete=link("https://s.example.com/?code=CANARY"),
        ),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_what_holds_codes_and_tokens_shows_none(holder: object) -> None:
    assert "CANARY" not in repr(holder)


def test_hidden_value_shows_only_to_whoever_asks_for_it() -> None:
    hidden = Hidden(["CANARY"])

    assert "CANARY" not in f"{hidden} {hidden!r}"
    assert hidden.reveal() == ["CANARY"]
