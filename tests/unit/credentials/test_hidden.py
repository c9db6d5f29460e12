"""What a setting refers to is hidden from other programs, and others do not write the settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from deviceflow.credentials import profiles, secret_refs
from deviceflow.errors import UsageError
from deviceflow.notify import notifier

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.toml"
    file.touch(0o600)
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(file))
    monkeypatch.setattr(secret_refs, "_resolved", set())
    return file


def test_variable_behind_a_setting_is_known_before_and_after_it_is_read(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("client_secret", "private_key", "notify")
    config.write_text("[profiles.p]\n" + "".join(f'{one} = "env:P_{one}"\n' for one in settings))
    for one in settings:
        monkeypatch.setenv(f"DEVICEFLOW_{one.upper()}", f"env:E_{one}")
    monkeypatch.setenv("PASSED", "https://hooks.example.com/secret")

    notifier("env:PASSED")

    expected = {f"{where}_{one}" for where in "PE" for one in settings}
    assert expected | {"PASSED"} <= secret_refs.variables()


def test_url_to_notify_is_no_client_secret_of_a_stored_login(config: Path) -> None:
    config.write_text('[profiles.p]\nnotify = "env:HOOK"\n')

    assert "env:HOOK" not in secret_refs._configured()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_configuration_that_others_can_write_is_refused(config: Path, mode: int) -> None:
    config.chmod(mode)

    with pytest.raises(UsageError, match=r"Other users can write.*chmod go-w"):
        profiles.load()


def test_configuration_of_another_owner_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = config.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner == 0:  # root's is accepted
        os.chown(config, 12345, -1)

    with pytest.raises(UsageError, match="Another user owns"):
        profiles.load()
