from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deviceflow.credentials.secret_refs import resolve
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.toml"
    file.touch(0o600)
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(file))
    monkeypatch.setenv("THE_SECRET", "in the environment")
    return file


def test_an_environment_variable(config: Path) -> None:
    assert resolve("env:THE_SECRET").reveal() == "in the environment"


def test_a_file_without_the_white_space_around(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n in a file \n")

    assert resolve(f"file:{tmp_path / 'secret'}").reveal() == "in a file"


@pytest.mark.parametrize(
    ("setting", "text"),
    [("in the profile", "in the profile"), ("env:THE_SECRET", "in the environment")],
)
@pytest.mark.parametrize("what", ["client_secret", "private_key"])
def test_a_profile_has_the_text_or_where_it_is(
    config: Path, what: Any, setting: str, text: str
) -> None:
    config.write_text(f'[profiles.work]\n{what} = "{setting}"\n')

    assert resolve("profile:work", what).reveal() == text


@pytest.mark.parametrize(
    "reference", ["env:NOT_SET", "file:/no/such/file", "profile:empty", "profile:round"]
)
def test_what_is_not_there_is_named_by_its_reference(config: Path, reference: str) -> None:
    config.write_text("[profiles.empty]\n[profiles.round]\nclient_secret = 'profile:round'\n")

    with pytest.raises(UsageError, match=reference):
        resolve(reference)


def test_a_file_that_is_no_text_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match="was not found at file:"):
        resolve(f"file:{tmp_path / 'secret'}")
