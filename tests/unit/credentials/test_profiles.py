"""The configuration file, and which of the places where a setting can stand goes first."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.credentials.profiles import SETTINGS, load, settle
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Write = Callable[..., "Path"]

WORK: Final = """
[profiles.work]
provider = "github"
client_id = "from-file"
client_secret = "env:GITHUB_SECRET"
scopes = "repo"
audience = "file"
resource = ["r1", "r2"]
allow_http = true
set = { host = "git.example.com" }

[profiles.home]
provider = "gitlab"
client_id = "home"
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave nothing of the machine's own settings."""
    for name in [name for name in os.environ if name.startswith("DEVICEFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "empty"))


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """Write the configuration file."""

    def written(text: str | bytes = WORK, mode: int = 0o600) -> Path:
        file = tmp_path / "config.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(mode)
        monkeypatch.setenv("DEVICEFLOW_CONFIG", str(file))
        return file

    return written


def values(given: Mapping[str, Any] | None = None, profile: str | None = None) -> dict[str, Any]:
    settled = settle(given or {}, profile).settings
    return {name: setting.value for name, setting in settled.items()}


# Which goes first.


def test_nothing_said_is_nothing_settled() -> None:
    assert settle({}, None) == ({}, [])


def test_profile_says_what_nothing_else_does(write: Write) -> None:
    file = write()

    settled = settle({}, "work").settings

    assert {name: setting.value for name, setting in settled.items()} == {
        "provider": "github",
        "client_id": "from-file",
        "client_secret": "env:GITHUB_SECRET",
        "scopes": "repo",
        "audience": "file",
        "resource": ["r1", "r2"],
        "allow_http": True,
        "set.host": "git.example.com",
    }
    assert {setting.source for setting in settled.values()} == {f"profile work in {file}"}


def test_command_line_goes_before_the_environment_and_that_before_the_profile(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write()
    monkeypatch.setenv("DEVICEFLOW_CLIENT_ID", "from-environment")
    monkeypatch.setenv("DEVICEFLOW_SCOPES", "environment")

    settled = settle({"scopes": "line"}, "work").settings

    assert settled["scopes"] == ("line", "the command line")
    assert settled["client_id"] == (
        "from-environment",
        "the environment (DEVICEFLOW_CLIENT_ID)",
    )
    assert settled["audience"] == ("file", f"profile work in {file}")


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_can_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"DEVICEFLOW_{name.upper()}", "env:ELSEWHERE")

    assert values() == {name: "env:ELSEWHERE"}


@pytest.mark.parametrize("nothing", [None, (), [], False])
def test_what_was_not_said_on_the_command_line_gives_way(
    monkeypatch: pytest.MonkeyPatch, nothing: Any
) -> None:
    monkeypatch.setenv("DEVICEFLOW_AUDIENCE", "environment")

    assert values({"audience": nothing}) == {"audience": "environment"}


def test_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICEFLOW_SCOPES", "")

    assert values() == {}


def test_environment_may_choose_the_profile_and_the_command_line_another(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv("DEVICEFLOW_PROFILE", "home")

    assert values()["client_id"] == "home"
    assert values(profile="work")["client_id"] == "from-file"


def test_parameters_of_a_provider_are_a_part_of_what_names_its_server(write: Write) -> None:
    write('[profiles.work]\nset = { host = "a", realm = "b" }')

    assert values({"set": {"host": "a"}}, "work") == {"set.host": "a", "set.realm": "b"}
    with pytest.raises(UsageError, match=r'it has set.host = "a", .* has --set host=line'):
        settle({"set": {"host": "line"}}, "work")


# A layer that is for another server is not used: its secret is for that one.


@pytest.mark.parametrize("given", [{"provider": "google"}, {"issuer": "https://as.example.com"}])
def test_environments_profile_for_another_server_is_passed_over(
    write: Write, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    write()
    monkeypatch.setenv("DEVICEFLOW_PROFILE", "work")

    settings, passed_over = settle(given, None)

    assert {name: setting.value for name, setting in settings.items()} == given
    [work] = passed_over
    assert work.startswith('profile work, which is for provider = "github"')


def test_environment_for_another_server_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICEFLOW_ISSUER", "https://as.example.com")
    monkeypatch.setenv("DEVICEFLOW_CLIENT_SECRET", "s3cret")

    settings, passed_over = settle({"provider": "google"}, None)

    assert set(settings) == {"provider"}
    assert passed_over == ["the environment, which is for DEVICEFLOW_ISSUER=https://as.example.com"]


def test_profile_that_was_asked_for_and_is_for_another_server_is_an_error(write: Write) -> None:
    write()

    with pytest.raises(UsageError, match=r'it has provider = "github", .* line has google'):
        settle({"provider": "google"}, "work")


def test_profile_that_was_asked_for_speaks_for_the_command_line(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv("DEVICEFLOW_PROVIDER", "google")
    monkeypatch.setenv("DEVICEFLOW_CLIENT_SECRET", "googles")

    settings, passed_over = settle({}, "work")

    assert settings["client_secret"].value == "env:GITHUB_SECRET"
    assert passed_over == ["the environment, which is for DEVICEFLOW_PROVIDER=google"]


def test_layers_that_name_the_same_server_are_used_together(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv("DEVICEFLOW_PROVIDER", "gitlab")
    monkeypatch.setenv("DEVICEFLOW_AUDIENCE", "environment")

    settings, passed_over = settle({"provider": "gitlab", "scopes": "line"}, "home")

    said = [settings[name].value for name in ("scopes", "audience", "client_id")]
    assert said == ["line", "environment", "home"]
    assert passed_over == []


# Secrets go by where they are.


@pytest.mark.parametrize("name", ["client_secret", "private_key"])
def test_secret_in_the_environment_stays_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    variable = f"DEVICEFLOW_{name.upper()}"
    monkeypatch.setenv(variable, "CANARY")

    settled = settle({}, None)

    assert settled.settings[name].value == f"env:{variable}"
    assert "CANARY" not in repr(settled)


@pytest.mark.parametrize("name", ["client_secret", "private_key"])
def test_secret_in_a_profile_stays_there(write: Write, name: str) -> None:
    write(f'[profiles.work]\n{name} = "CANARY"')

    settled = settle({}, "work")

    assert settled.settings[name].value == "profile:work"
    assert "CANARY" not in repr(settled)


@pytest.mark.parametrize("reference", ["env:NAME", "file:/a", "profile:other"])
def test_where_a_secret_is_goes_on_as_it_is(write: Write, reference: str) -> None:
    write(f'[profiles.work]\nclient_secret = "{reference}"', mode=0o644)

    assert values({}, "work") == {"client_secret": reference}
    assert values({"client_secret": reference}) == {"client_secret": reference}


@pytest.mark.parametrize("name", ["client_secret", "private_key"])
def test_secret_itself_on_the_command_line_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="was passed on the command line") as caught:
        settle({name: "CANARY"}, None)

    assert "CANARY" not in str(caught.value)
    assert f"--{name.replace('_', '-')} env:NAME" in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="only there a file's mode says who can read it")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o650, 0o610, 0o601])
@pytest.mark.parametrize("name", ["client_secret", "private_key"])
def test_secret_that_others_can_read_is_refused(write: Write, mode: int, name: str) -> None:
    file = write(f'[profiles.work]\n{name} = "CANARY"', mode)

    with pytest.raises(UsageError, match="other users can read the file") as caught:
        load().profile("work")

    assert f"chmod 600 {file}" in str(caught.value)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_secret_that_only_its_owner_can_read_is_fine(write: Write, mode: int) -> None:
    write('[profiles.work]\nclient_secret = "s3cret"', mode)

    assert load().profile("work")["client_secret"] == "s3cret"


# The file.


def test_no_file_is_no_profiles() -> None:
    assert load().profiles() == []
    with pytest.raises(UsageError, match=r"has no profile 'work'.* Its profiles are: none"):
        load().profile("work")


def test_profiles_are_named(write: Write) -> None:
    write()

    assert load().profiles() == ["home", "work"]
    with pytest.raises(UsageError, match="Its profiles are: home, work"):
        load().profile("office")


def test_file_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert load().path == tmp_path / "xdg" / "deviceflow" / "config.toml"

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load().path == tmp_path / ".config" / "deviceflow" / "config.toml"

    monkeypatch.setenv("DEVICEFLOW_CONFIG", "~/mine.toml")
    assert load().path == tmp_path / "mine.toml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[profiles.work", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"client_id = 'CANARY'", "has unknown names at the top level: client_id"),
        (b"[work]\nclient_id = 'CANARY'", "has unknown names at the top level: work"),
        (b"profiles = 'CANARY'", "a profile must be a table"),
        (b"profiles = ['CANARY']", "a profile must be a table"),
        (b"[profiles]\nwork = 'CANARY'", "a profile must be a table"),
        (
            b"[profiles.work]\nclientid = 'CANARY'",
            "profile 'work' has unknown settings: clientid. Did you mean client_id?",
        ),
        (b"[profiles.work]\nclient_id = 7", "client_id must be a string"),
        (b"[profiles.work]\nclient_secret = ['CANARY']", "client_secret must be a string"),
        (b"[profiles.work]\nscopes = [7]", "scopes must be a string or a list of strings"),
        (b"[profiles.work]\nresource = 7", "resource must be a string or a list of strings"),
        (b"[profiles.work]\nallow_http = 'yes'", "allow_http must be true or false"),
        (b"[profiles.work]\nset = 'CANARY'", "set must be a table of strings"),
        (b"[profiles.work]\nset = { host = 7 }", "set must be a table of strings"),
    ],
)
def test_file_that_means_nothing_is_an_error_that_quotes_no_value(
    write: Write, content: bytes, said: str
) -> None:
    file = write(content)

    with pytest.raises(UsageError, match=re.escape(str(file))) as caught:
        load()

    assert said in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_directory_in_its_place_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path))

    with pytest.raises(UsageError, match="cannot be read"):
        load()


def test_file_is_not_read_where_no_profile_is_used(write: Write) -> None:
    write(b"no TOML")

    assert values({"scopes": "a"}) == {"scopes": "a"}
