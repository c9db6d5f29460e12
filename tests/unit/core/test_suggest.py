"""What is suggested in the place of a name that is unknown."""

from __future__ import annotations

import pytest

from deviceflow.core.suggest import did_you_mean

COMMANDS = ("login", "wait", "audit", "status", "token", "grants")
OPTIONS = ("--set", "--qr", "--token-name", "--issuer", "--client-id", "--scope")


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("lgoin", COMMANDS, "login"),
        ("stats", COMMANDS, "status"),
        ("--isuer", OPTIONS, "--issuer"),
        ("--scopes", OPTIONS, "--scope"),
        ("--clientid", OPTIONS, "--client-id"),
        ("client-id", OPTIONS, "--client-id"),
    ],
)
def test_what_is_alike_is_suggested(word: str, known: tuple[str, ...], meant: str) -> None:
    assert did_you_mean(word, known) == f"Did you mean {meant}? "


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("auth", COMMANDS),
        ("whoami", COMMANDS),
        ("--web", OPTIONS),
        ("--frob", OPTIONS),
        ("--hostname", OPTIONS),
        ("--", OPTIONS),
    ],
)
def test_nothing_is_suggested_that_is_unlikely(word: str, known: tuple[str, ...]) -> None:
    assert did_you_mean(word, known) == ""
