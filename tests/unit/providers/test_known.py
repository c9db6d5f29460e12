from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deviceflow import provider
from deviceflow.errors import UsageError
from deviceflow.providers.known import entry, known, read_file

if TYPE_CHECKING:
    from pathlib import Path

OURS = "[ours]\nissuer = 'https://login.example.com'\n"


def test_a_provider_is_made_of_its_entry() -> None:
    made = provider("github", client_id="robot", host="ghe.example.com")

    assert made.name == "github"
    assert made.token_endpoint == "https://ghe.example.com/login/oauth/access_token"
    assert made.quirks is entry("github")


def test_ones_own_go_before_those_that_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(OURS + OURS.replace("ours", "github"))
    monkeypatch.setenv("DEVICEFLOW_PROVIDERS", str(file))

    assert entry("ours").issuer == entry("github").issuer == "https://login.example.com"
    assert "gitlab" in known()


def test_an_unknown_name_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"'gihub'.*github"):
        provider("gihub", client_id="robot")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ours", "cannot be read as a provider file"),
        ("title = 'Ours'", "is not in a provider's table"),
        ("['login.example.com']", "Invalid provider name"),
        ("[studio]", "Invalid provider name"),
        ("[ours]\ntitel = 'Ours'", "unknown field 'titel'.*Valid fields are"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)

    with pytest.raises(UsageError, match=f"mine.toml.*{words}"):
        read_file(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as a provider file"):
        read_file(tmp_path / "mine.toml")


def test_a_setting_that_the_provider_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"GitHub has no setting tenant.*own parameters are: host"):
        provider("github", client_id="robot", tenant="ours")


def test_without_a_client_id_it_is_said_who_gives_one() -> None:
    with pytest.raises(UsageError, match="No client id is given"):
        provider("github")
