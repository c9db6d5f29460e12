"""`[NAME] [PROVIDER | studio [HOST]]`: what the words of a command mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from deviceflow.cli.parser import parse
from deviceflow.cli.target import Target
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from deviceflow.cli.options import TargetOptions

ENDPOINTS = (
    "--device-authorization-endpoint https://as.example.com/d"
    " --token-endpoint https://as.example.com/t"
)
PROFILES = """
[profiles.work]
issuer = "https://login.example.com"
client_id = "robot"
[profiles.client-only]
client_id = "robot"
"""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text(PROFILES)
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path / "config.toml"))


def read(*argv: str, command: str = "login", named: bool = True) -> Target:
    return Target(cast("TargetOptions", parse([*command.split(), *argv])), named=named)


@pytest.mark.parametrize(
    ("line", "name", "where"),
    [
        ("", None, None),
        ("work", "work", None),
        ("github", None, "github"),
        ("github.com", None, "github.com"),
        ("https://github.com", None, "https://github.com"),
        ("work github", "work", "github"),
        ("work github.com", "work", "github.com"),
        ("studio", None, "studio"),
        ("studio studio.example.com", None, "studio.example.com"),
        ("studio https://studio.example.com:8443", None, "https://studio.example.com:8443"),
        ("studio localhost", None, "localhost"),
        ("work studio", "work", "studio"),
        ("work studio studio.example.com", "work", "studio.example.com"),
        ("a.b studio studio.example.com", "a.b", "studio.example.com"),
        # The host of an unknown server may be a name: a login has it by default.
        ("login.example.com", "login.example.com", None),
        ("127.0.0.1:8000", "127.0.0.1:8000", None),
        # Words before, between and behind options.
        ("--client-id robot work github", "work", "github"),
        ("work --client-id robot github", "work", "github"),
        ("work github --client-id robot", "work", "github"),
        ("work --plaintext studio --json studio.example.com", "work", "studio.example.com"),
        ("--json -- work github", "work", "github"),
        ("--json -- -v github", "-v", "github"),
        ("--json -- -v", "-v", None),
    ],
)
def test_words_are_a_name_and_where_to_log_in(
    line: str, name: str | None, where: str | None
) -> None:
    for command in ("login", "start"):
        target = read(*line.split(), command=command)

        assert (target.name, target.word) == (name, where)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a b c", "There are too many words: a b c."),
        ("a b studio", "There are too many words: a b studio."),
        ("studio a.example b.example", "There are too many words"),
        ("work studio a.example b.example", "There are too many words"),
        ("studio work", "'work' is not the host of a DVC Studio."),
        ("studio studio", "'studio' is not the host of a DVC Studio."),
        ("work https://as.example.com", "any other server: --issuer https://as.example.com"),
        ("github work", "There is no provider 'work'. The name comes first: work github"),
        ("work localhost", "localhost is not the host of a known provider. Nothing was sent."),
        ("[::1", "[::1 is not a host or a URL"),
    ],
)
def test_other_words_are_refused_with_what_to_write(line: str, says: str) -> None:
    for command in ("login", "start"):
        with pytest.raises(UsageError) as refused:
            read(*line.split(), command=command)

        assert says in str(refused.value)


HOST_ALONE = "studio.example.com is not the host of a known provider. Nothing was sent."


@pytest.mark.parametrize("more", ["", "--client-id x", "--scopes a"])
@pytest.mark.parametrize("elsewhere", ["", "https://login.example.com"])
def test_host_alone_says_nothing_of_where_to_log_in(
    more: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVICEFLOW_ISSUER", elsewhere)
    target = read("studio.example.com", *more.split())

    with pytest.raises(UsageError) as refused:
        target.provider()

    assert str(refused.value) == (
        f"{HOST_ALONE} If it is a DVC Studio: studio studio.example.com; any other server:"
        " --issuer https://studio.example.com"
    )


@pytest.mark.parametrize("name", ["login.example.com", "a.b", "make /home/a.b/c", "team/nightly"])
def test_name_may_look_like_a_host_where_the_server_is_given_too(name: str) -> None:
    target = read(name, "--issuer", "https://login.example.com", "--client-id", "x")

    assert (target.name, target.provider().server) == (name, "https://login.example.com")


@pytest.mark.parametrize("name", ["make /home/a.b/c", "team/nightly"])
def test_name_with_a_slash_is_no_host(name: str) -> None:
    with pytest.raises(UsageError, match=r"^Where to log in is missing\. Nothing was sent"):
        read(name).provider()


@pytest.mark.parametrize("command", ["doctor", "config show"])
def test_command_without_a_name_takes_no_unknown_host(command: str) -> None:
    with pytest.raises(UsageError, match=HOST_ALONE):
        read("studio.example.com", command=command, named=False)


@pytest.mark.parametrize("command", ["doctor", "config show"])
def test_command_that_takes_no_name_says_so(command: str) -> None:
    with pytest.raises(UsageError, match=r"This command takes no name: work\. Omit work\."):
        read("work", "github", command=command, named=False)


@pytest.mark.parametrize(
    ("line", "profile", "name"),
    [
        ("github --client-id x", "", "github"),
        ("github.com --client-id x", "", "github"),
        ("studio", "", "studio"),
        ("studio https://studio.datachain.ai", "", "studio"),
        ("studio studio.example.com", "", "studio.example.com"),
        ("studio http://localhost:8000", "", "localhost:8000"),
        ("--issuer https://login.example.com/realm --client-id x", "", "login.example.com"),
        (f"{ENDPOINTS} --client-id x", "", "as.example.com"),
        ("--profile work", "", "work"),
        ("--profile client-only github", "", "client-only"),
        ("", "work", "work"),
        # What another server is for gives the login no name.
        ("github --client-id x", "work", "github"),
        ("studio", "work", "studio"),
    ],
)
def test_name_is_by_default_the_providers_the_hosts_or_the_profiles(
    line: str, profile: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVICEFLOW_PROFILE", profile)
    target = read(*line.split())

    assert target.default_name(target.provider()) == name
