"""The provider that a profile makes, without a command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deviceflow.credentials import configured, profiles
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import OAuth

if TYPE_CHECKING:
    from pathlib import Path

PROFILE = """
[profiles.report]
issuer = "https://login.example.com"
client_id = "robot"
scopes = "read offline_access"
purpose = "the nightly report"
"""


def test_a_profile_has_a_provider_and_a_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text(PROFILE)
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path / "config.toml"))

    provider, purpose = configured.of_profile("report")

    assert isinstance(provider, OAuth)
    assert (provider.server, provider.client_id) == ("https://login.example.com", "robot")
    assert provider.scopes == ("read", "offline_access")
    assert purpose == "the nightly report"


def test_a_file_that_is_named_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named.toml").write_text(PROFILE)
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path / "other.toml"))

    with profiles.reading(tmp_path / "named.toml"), profiles.reading(None):
        configured.of_profile("report")

    with pytest.raises(UsageError, match=r"other\.toml has no profile 'report'"):
        configured.of_profile("report")
