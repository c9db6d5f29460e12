"""Tests of acme."""

from __future__ import annotations

from typing import TYPE_CHECKING

import acme
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from deviceflow.testing import DeviceServer, VirtualClock


@pytest.fixture(autouse=True)
def server(
    device_server: DeviceServer,
    virtual_clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> DeviceServer:
    """Have acme use the local server, and a new data directory."""
    monkeypatch.setattr(acme, "SERVER", device_server.url)
    monkeypatch.setattr(acme, "API", f"{device_server.url}/oauth/resource")
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return device_server


def test_a_user_logs_in_once(
    server: DeviceServer, virtual_clock: VirtualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    server.after_polls(2, "approve")
    assert acme.main(["login"]) == 0
    virtual_clock.advance(24 * 3600)  # the access token has expired
    assert acme.main(["whoami"]) == 0
    assert [one.kind for one in server.requests].count("refresh") == 1
    assert acme.main(["logout"]) == 0
    assert acme.main(["whoami"]) == 1
    assert "To log in: acme login" in capsys.readouterr().err


def test_a_user_denies(server: DeviceServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.after_polls(1, "deny")
    assert acme.main(["login"]) == 1
    assert "acme: The login was denied." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["whoami", "logout"])
def test_nobody_has_logged_in(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert acme.main([command]) == 1
    assert "To log in: acme login" in capsys.readouterr().err
