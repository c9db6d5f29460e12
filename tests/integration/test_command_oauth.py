"""The command at OAuth servers, as it is used: a process, its streams, a person, files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.server import LocalServer, Settings
from tests.integration.command import asked_of, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.integration.command import Command, Done
    from tests.integration.oidc_provider import OIDCProvider

SECRET: Final = "keepers-own-secret-0123456789"
SCOPE: Final = "openid email offline_access"


@pytest.fixture(scope="module")
def quick() -> Iterator[LocalServer]:
    """Serve with an interval of a second, and a client `keeper` that has a secret."""
    with LocalServer(Settings(interval=1, control=True, client_secrets={"keeper": SECRET})) as one:
        yield one


def endpoints(server: LocalServer) -> list[str]:
    return [
        *("--device-authorization-endpoint", f"{server.url}/oauth/device_authorization"),
        *("--token-endpoint", f"{server.url}/oauth/token"),
    ]


def provider_file(home: Path, **entries: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for name, entry in entries.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    (home / "mine.toml").write_text("\n".join(lines))
    return str(home / "mine.toml")


def quick_entry(server: LocalServer) -> dict[str, Any]:
    return {
        "title": "Mine",
        "device_authorization_endpoint": f"{server.url}/oauth/device_authorization",
        "token_endpoint": f"{server.url}/oauth/token",
    }


class Real:
    """The real server, for a command that knows it by a provider file with a short interval."""

    def __init__(self, command: Command, server: OIDCProvider) -> None:
        entry: dict[str, Any] = {"title": "Real", "issuer": server.issuer, "interval": 1}
        self.command = command
        self.server = server
        self.environment = {"DEVICEFLOW_PROVIDERS": provider_file(command.home, real=entry)}

    def login(self, *args: str, act: Callable[[str, str], object] | None = None) -> Done:
        login = ("login", "--once", "real", "--scopes", SCOPE, *args)
        return self.command(*login, act=act or self.server.approve, **self.environment)


@pytest.fixture
def real(deviceflow: Command, oidc_provider: OIDCProvider) -> Real:
    return Real(deviceflow, oidc_provider)


# A server that nobody here wrote.


def test_an_issuer_is_enough_and_the_file_has_all_that_came_with_the_token(
    deviceflow: Command, oidc_provider: OIDCProvider
) -> None:
    done = deviceflow(
        *(
            "login",
            "--once",
            "--issuer",
            oidc_provider.issuer,
            "--client-id",
            "public",
            "--scopes",
            SCOPE,
        ),
        *("--output", "token.json", "--format", "json", "--json", "--verbose"),
        act=oidc_provider.approve,
    )

    assert done.code == 0, done.err
    token = json.loads((deviceflow.home / "token.json").read_text())
    assert oidc_provider.active(token["access_token"])
    assert token["refresh_token"]
    assert token["id_token"]
    assert token["token_type"] == "Bearer"
    assert set(token["scope"].split()) == set(SCOPE.split())
    said = done.said
    assert (said["state"], said["reason"]) == ("authorized", None)
    assert said["issuer"] == oidc_provider.issuer
    assert said["output"] == "token.json"
    assert said["expires_at"] == pytest.approx(token["expires_at"], abs=1)
    assert set(said["scopes"]) == set(SCOPE.split())
    for name in ("access_token", "refresh_token", "id_token"):
        assert token[name] not in done.out + done.err
    assert "action=issue_token" in done.err


def test_a_denial_on_the_servers_own_page_exits_4(
    deviceflow: Command, oidc_provider: OIDCProvider
) -> None:
    done = deviceflow(
        *(
            "login",
            "--once",
            "--issuer",
            oidc_provider.issuer,
            "--client-id",
            "public",
            "--scopes",
            SCOPE,
        ),
        *("--output", "token.txt", "--json"),
        act=oidc_provider.deny,
    )

    assert done.code == 4
    assert (done.said["state"], done.said["reason"]) == ("failed", "denied")
    assert list(deviceflow.home.iterdir()) == []


def test_a_code_that_nobody_approves_exits_3(
    deviceflow: Command, start_oidc_provider: Callable[..., OIDCProvider]
) -> None:
    issuer = start_oidc_provider(DeviceCode=2).issuer

    done = deviceflow(
        *("login", "--once", "--issuer", issuer, "--client-id", "public", "--show-token", "--json")
    )

    assert done.code == 3
    assert (done.said["state"], done.said["reason"]) == ("expired", "expired")
    assert "token" not in done.said


@pytest.mark.parametrize(
    ("args", "exit_code", "reason"),
    [
        (["--require-email", "alice@example.com"], 0, None),
        (["--require-email", "alice@example.com", "--require-sub", "bob"], 5, "wrong_approver"),
        (["--require-tenant", "ours"], 5, "wrong_approver"),
    ],
)
def test_who_must_approve_is_said_on_the_command_line(
    real: Real, args: list[str], exit_code: int, reason: str | None
) -> None:
    done = real.login(
        *("--client-id", "public", "--scopes", SCOPE, "--show-token", "--json", *args)
    )

    assert done.code == exit_code
    assert done.said["reason"] == reason
    assert ("token" in done.said) == (exit_code == 0)


def test_an_approval_by_the_wrong_person_leaves_no_token_in_the_file(real: Real) -> None:
    def mallory(page: str, user_code: str) -> None:
        real.server.approve(page, user_code, login="mallory@example.com")

    done = real.login(
        *("--client-id", "public", "--require-email", "alice@example.com"),
        *("--output", "token.txt", "--verbose"),
        act=mallory,
    )

    assert done.code == 5
    assert "not by the required person" in done.err
    assert "action=revoke" in done.err
    assert not (real.command.home / "token.txt").exists()


@pytest.mark.parametrize("kind", ["env", "file"])
def test_a_clients_secret_is_given_by_where_it_is(real: Real, kind: str) -> None:
    (real.command.home / "secret").write_text(f"{real.server.secret}\n")
    real.environment["THE_SECRET"] = real.server.secret
    reference = "env:THE_SECRET" if kind == "env" else f"file:{real.command.home / 'secret'}"

    done = real.login(
        *("--client-id", "basic", "--client-secret", reference, "--show-token", "--verbose")
    )

    assert done.code == 0, done.err
    assert real.server.active(done.out.strip())
    assert real.server.secret not in done.out + done.err


def test_a_client_signs_with_the_key_in_a_file(real: Real) -> None:
    key = real.server.keys["ES256"].as_pem(private=True)
    (real.command.home / "key.pem").write_bytes(key)

    done = real.login(
        *("--client-id", "jwt", "--private-key", "file:key.pem", "--show-token", "--verbose")
    )

    assert done.code == 0, done.err
    assert real.server.active(done.out.strip())
    assert key.decode().splitlines()[1] not in done.out + done.err


# The local server.


def test_both_endpoints_do_without_metadata(deviceflow: Command, quick: LocalServer) -> None:
    done = deviceflow(
        *("login", "--once", *endpoints(quick), "--client-id", "robot", "--scopes", "a b"),
        *("--show-token", "--format", "json"),
        act=decide(quick, "approve"),
    )

    assert done.code == 0, done.err
    assert set(done.said["scope"].split()) == {"a", "b"}
    assert done.said["access_token"]
    assert "robot asks for access" in done.err


def test_json_has_the_whole_token_where_both_are_asked_for(
    deviceflow: Command, quick: LocalServer
) -> None:
    done = deviceflow(
        *("login", "--once", "--issuer", quick.url, "--client-id", "robot"),
        *("--show-token", "--format", "json", "--json"),
        act=decide(quick, "approve"),
    )

    assert done.code == 0, done.err
    assert done.said["token"]["access_token"]
    assert done.said["token"]["token_type"] == "Bearer"


def test_a_provider_from_a_file_of_ones_own(deviceflow: Command, quick: LocalServer) -> None:
    file = provider_file(deviceflow.home, mine=quick_entry(quick))

    done = deviceflow(
        *("login", "--once", "mine", "--client-id", "keeper", "--client-secret", "env:MINE"),
        *("--output", "token.txt"),
        act=decide(quick, "approve"),
        DEVICEFLOW_PROVIDERS=file,
        MINE=SECRET,
    )

    assert done.code == 0, done.err
    assert (deviceflow.home / "token.txt").read_text().strip()


def test_the_environment_can_say_it_all(deviceflow: Command, quick: LocalServer) -> None:
    done = deviceflow(
        *("login", "--once", "--show-token", "--verbose"),
        act=decide(quick, "approve"),
        DEVICEFLOW_ISSUER=quick.url,
        DEVICEFLOW_CLIENT_ID="keeper",
        DEVICEFLOW_CLIENT_SECRET=SECRET,
        DEVICEFLOW_SCOPES="a b",
    )

    assert done.code == 0, done.err
    assert "keeper asks for access" in done.err
    assert done.out.strip()
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize(
    "secret", [f'"{SECRET}"', '"env:KEPT"'], ids=["in the profile", "elsewhere"]
)
def test_a_profile_can_say_it_all(deviceflow: Command, quick: LocalServer, secret: str) -> None:
    deviceflow.configure(
        f"""
        [profiles.work]
        issuer = "{quick.url}"
        client_id = "keeper"
        client_secret = {secret}
        scopes = ["a", "b"]
        """
    )

    done = deviceflow(
        *("login", "--once", "--profile", "work", "--show-token", "--verbose"),
        act=decide(quick, "approve"),
        KEPT=SECRET,
    )

    assert done.code == 0, done.err
    assert done.out.strip()
    assert SECRET not in done.out + done.err


def test_a_key_in_a_profile_signs(real: Real) -> None:
    key = real.server.keys["RS256"].as_pem(private=True).decode()
    real.command.configure(
        f"""
        [profiles.work]
        provider = "real"
        client_id = "jwt"
        private_key = '''{key}'''
        """
    )
    real.environment["DEVICEFLOW_PROFILE"] = "work"

    done = real.login("--show-token", "--verbose")

    assert done.code == 0, done.err
    assert real.server.active(done.out.strip())
    assert key.splitlines()[1] not in done.out + done.err


# What is refused, before the server hears of it.


@pytest.mark.parametrize("option", ["--client-secret", "--private-key"])
@pytest.mark.parametrize(
    "command", [["login", "--once", "--show-token"], ["doctor"], ["config", "show"]]
)
def test_a_secret_itself_on_the_command_line_is_refused_and_not_repeated(
    deviceflow: Command, quick: LocalServer, command: list[str], option: str
) -> None:
    before = asked_of(quick)

    done = deviceflow(
        *command, "--issuer", quick.url, "--client-id", "keeper", option, "hunter2hunter2"
    )

    assert done.code == 2
    assert "env:NAME" in done.err
    assert "hunter2" not in done.out + done.err
    assert asked_of(quick) == before


@pytest.mark.parametrize(
    ("mode", "exit_code"), [(0o600, 0), (0o640, 2), (0o604, 2)], ids=["0600", "0640", "0604"]
)
def test_a_file_with_a_secret_that_others_can_read_is_refused(
    deviceflow: Command, mode: int, exit_code: int
) -> None:
    deviceflow.configure(f'[profiles.work]\nclient_secret = "{SECRET}"\n', mode)

    done = deviceflow("config", "show", "--profile", "work")

    assert done.code == exit_code
    assert ("chmod 600" in done.err) == (exit_code != 0)
    assert SECRET not in done.out + done.err


def test_a_file_whose_secrets_are_elsewhere_may_be_read_by_all(deviceflow: Command) -> None:
    deviceflow.configure('[profiles.work]\nclient_secret = "env:ELSEWHERE"\n', 0o644)

    assert deviceflow("config", "show", "--profile", "work").code == 0


def test_a_secret_that_is_not_there_is_missed_before_anybody_is_asked(
    deviceflow: Command, quick: LocalServer
) -> None:
    before = asked_of(quick)
    entry = quick_entry(quick) | {"secret_with": "token"}

    done = deviceflow(
        *("login", "--once", "late", "--client-id", "keeper", "--client-secret", "env:NOT_THERE"),
        "--show-token",
        DEVICEFLOW_PROVIDERS=provider_file(deviceflow.home, late=entry),
    )

    assert done.code == 2
    assert "env:NOT_THERE" in done.err
    assert asked_of(quick) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["gihub"], "no login 'gihub'. Nothing was sent. Did you mean github?"),
        (["github"], "client id is missing"),
        (
            ["github", "--client-id", "x", "--set", "hosst=ghe.example.com"],
            "Its parameters are host",
        ),
        (["github", "--client-id", "x", "--set", "client_id=y"], "no parameter client_id"),
        (["github", "--client-id", "x", "--set", "host"], "NAME=VALUE"),
        (["github", "--client-id", "x", "--token-name", "t"], "Only DVC Studio"),
        (["keycloak", "--client-id", "x", "--set", "base=https://a.example"], "needs realm"),
        (["keycloak", "--client-id", "x"], "then add --set base=… --set realm=…"),
        (["google", "--client-id", "x"], "Say where it is: --client-secret env:NAME or file:PATH"),
        (
            ["github", "--client-id", "x", "--client-auth", "private_key_jwt"],
            "Say where it is: --private-key env:NAME or file:PATH",
        ),
        (["oracle-idcs", "--client-id", "x", "--set", "domain=d"], "needs scope"),
        (
            ["oracle-idcs", "--client-id", "x", "--set", "domain=d"],
            "on the command line: --scopes …",
        ),
        (["--issuer", "https://a.example", "--client-id", "x", "--set", "a=b"], "--set"),
        (["--issuer", "http://a.example", "--client-id", "x"], "plain http"),
        (
            ["--token-endpoint", "https://a.example/t", "--client-id", "x"],
            "Add --device-authorization-endpoint URL;",
        ),
        (["--issuer", "https://a.example", "--client-id", "x", "--client-auth", "tls"], "one of"),
        (["studio", "studio.example.com", "--client-id", "x"], "does not support client-id"),
        (["studio", "studio.example.com", "--require-sub", "x"], "does not support sub"),
        (["studio.example.com"], "any other server: --issuer https://studio.example.com"),
        (["https://a.example/x"], "If it is a DVC Studio: studio https://a.example/x"),
        (["--profile", "none", "--client-id", "x"], "no profile 'none'"),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    deviceflow: Command, args: list[str], words: str
) -> None:
    once = deviceflow("login", "--once", "--show-token", *args)
    kept = deviceflow("login", *args)

    assert (once.code, once.out, kept.code, kept.out) == (2, "", 2, "")
    assert words in once.err
    assert words in kept.err


# Settings, and where they come from.


PROFILES: Final = """
[profiles.work]
provider = "keycloak"
client_id = "in-file"
client_secret = "env:WORK"
scopes = "in file"
set = { base = "https://sso.example.com", realm = "ours" }

[profiles.client-only]
client_id = "in-file"
audience = "in file"
"""


def test_config_show_says_of_each_setting_where_it_comes_from(deviceflow: Command) -> None:
    deviceflow.configure(PROFILES)

    done = deviceflow(
        *("config", "show", "--profile", "work", "--set", "realm=ours", "--pkce", "off"),
        DEVICEFLOW_SCOPES="in environment",
    )

    in_file = f"  # profile work in {deviceflow.config}"
    assert done.code == 0
    assert done.out.splitlines() == [
        f'provider = "keycloak"{in_file}',
        f'client_id = "in-file"{in_file}',
        f'client_secret = "env:WORK"{in_file}',
        'scopes = "in environment"  # the environment (DEVICEFLOW_SCOPES)',
        'pkce = "off"  # the command line',
        f'set.base = "https://sso.example.com"{in_file}',
        'set.realm = "ours"  # the command line',
        f"# profiles in {deviceflow.config}: client-only, work",
    ]


def test_config_show_as_json(deviceflow: Command) -> None:
    deviceflow.configure(PROFILES)

    said = deviceflow(
        *("config", "show", "--json"), DEVICEFLOW_PROFILE="client-only", DEVICEFLOW_PKCE="on"
    ).said

    source = f"profile client-only in {deviceflow.config}"
    assert said == {
        "settings": {
            "client_id": {"value": "in-file", "source": source},
            "audience": {"value": "in file", "source": source},
            "pkce": {"value": "on", "source": "the environment (DEVICEFLOW_PKCE)"},
        },
        "passed_over": [],
        "file": str(deviceflow.config),
        "profiles": ["client-only", "work"],
    }


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_config_show_shows_the_way_to_a_secret_and_not_the_secret(
    deviceflow: Command, form: list[str]
) -> None:
    deviceflow.configure('[profiles.work]\nprivate_key = "-----BEGIN hunter2"\n')

    done = deviceflow(
        *("config", "show", "--profile", "work", *form), DEVICEFLOW_CLIENT_SECRET=SECRET
    )

    assert done.code == 0
    assert "env:DEVICEFLOW_CLIENT_SECRET" in done.out
    assert "profile:work" in done.out
    assert SECRET not in done.out
    assert "hunter2" not in done.out


def test_without_any_setting_config_show_says_so(deviceflow: Command) -> None:
    done = deviceflow("config", "show")

    assert done.out.splitlines() == [
        "# no settings",
        f"# profiles in {deviceflow.config}: none",
    ]


def test_what_the_environment_says_of_another_server_is_not_used(deviceflow: Command) -> None:
    done = deviceflow(
        *("config", "show", "github", "--client-id", "x"),
        DEVICEFLOW_ISSUER="https://sso.example.com",
        DEVICEFLOW_CLIENT_SECRET=SECRET,
    )

    assert done.out.splitlines()[:3] == [
        'provider = "github"  # the command line',
        'client_id = "x"  # the command line',
        "# not used: the environment, which is for DEVICEFLOW_ISSUER=https://sso.example.com",
    ]


def test_a_profile_for_another_server_keeps_its_secret_from_the_one_that_is_named(
    deviceflow: Command, quick: LocalServer
) -> None:
    deviceflow.configure(PROFILES)
    other = ["--issuer", quick.url, "--client-id", "keeper"]
    before = asked_of(quick)

    named = deviceflow("login", "--once", "--profile", "work", *other, "--show-token", WORK=SECRET)
    ambient = deviceflow("config", "show", *other, DEVICEFLOW_PROFILE="work")

    assert named.code == 2
    assert 'it has provider = "keycloak"' in named.err
    assert f"the command line has --issuer {quick.url}" in named.err
    assert asked_of(quick) == before
    assert "client_secret" not in ambient.out
    assert '# not used: profile work, which is for provider = "keycloak"' in ambient.out


def test_a_profile_named_on_the_command_line_goes_before_the_environment(
    deviceflow: Command,
) -> None:
    deviceflow.configure(PROFILES)

    done = deviceflow(
        *("config", "show", "--profile", "work"),
        DEVICEFLOW_PROVIDER="github",
        DEVICEFLOW_CLIENT_ID="of github",
    )

    assert 'provider = "keycloak"' in done.out
    assert "of github" not in done.out


def test_a_studio_is_logged_in_to_whatever_client_the_environment_has(
    deviceflow: Command, quick: LocalServer
) -> None:
    done = deviceflow(
        *("login", "--once", "studio", quick.url, "--show-token"),
        act=decide(quick, "approve"),
        DEVICEFLOW_CLIENT_ID="robot",
        DEVICEFLOW_CLIENT_SECRET=SECRET,
    )

    assert done.code == 0, done.err
    assert done.out.strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[profiles.work", "cannot be read"),
        ("[profile.work]\nclient_id = 'x'", "unknown names at the top level: profile"),
        ("profiles = 3", "a profile must be a table"),
        ("profiles.work = 3", "a profile must be a table"),
        ("[profiles.work]\nclient = 'x'", "unknown settings: client"),
        ("[profiles.work]\nclient_secret = 12345678", "client_secret must be a string"),
        ("[profiles.work]\nclient_secret = ['12345678']", "client_secret must be a string"),
        ("[profiles.work]\nscopes = 3", "list of strings"),
        ("[profiles.work]\nallow_http = 'yes'", "true or false"),
        ("[profiles.work]\nset = 'host'", "must be a table of strings"),
    ],
)
def test_a_configuration_file_that_is_wrong_is_refused_in_words(
    deviceflow: Command, text: str, words: str
) -> None:
    deviceflow.configure(text)

    done = deviceflow("config", "show", "--profile", "work")

    assert done.code == 2
    assert words in done.err
    assert str(deviceflow.config) in done.err
    assert "12345678" not in done.err


def test_deviceflow_config_names_another_file(deviceflow: Command) -> None:
    other = deviceflow.home / "other.toml"
    other.write_text("[profiles.elsewhere]\n")

    done = deviceflow("config", "show", DEVICEFLOW_CONFIG=str(other))

    assert done.out.splitlines()[-1] == f"# profiles in {other}: elsewhere"


# Providers.


def test_providers_are_listed_with_what_each_needs(deviceflow: Command) -> None:
    listed = deviceflow("providers", "list").out.splitlines()

    rows = {line.split()[0]: line for line in listed}
    assert list(rows) == sorted(rows)
    assert {"github", "google", "microsoft", "studio"} <= set(rows)
    assert "--client-secret" in rows["google"]
    assert "--set domain=…" in rows["auth0"]
    assert "--scopes" in rows["oracle-idcs"]
    assert "needs" not in rows["github"]


def test_ones_own_providers_are_listed_too_and_go_first(
    deviceflow: Command, quick: LocalServer
) -> None:
    mine = quick_entry(quick) | {"sources": ["https://example.com/"]}
    file = provider_file(deviceflow.home, mine=mine, github=mine)

    said = deviceflow("providers", "list", "--json", DEVICEFLOW_PROVIDERS=file).said

    assert said["mine"] == said["github"] == mine
    assert said["studio"]["title"] == "DVC Studio"
    assert said["gitlab"]["title"] == "GitLab"


@pytest.mark.parametrize("name", ["github", "google", "trakt", "keycloak", "microsoft"])
def test_an_entry_is_shown_as_it_may_stand_in_a_file(deviceflow: Command, name: str) -> None:
    shown = deviceflow("providers", "show", name).out
    file = deviceflow.home / "copy.toml"
    file.write_text(shown)

    checked = deviceflow("providers", "check", "copy.toml")
    copy = deviceflow("providers", "show", name, "--json", DEVICEFLOW_PROVIDERS=str(file)).said

    assert checked.code == 0, checked.err
    assert checked.out == f"copy.toml: 1 valid: {name}\n"
    assert copy == deviceflow("providers", "show", name, "--json").said
    assert copy["sources"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mine", "cannot be read as a provider file"),
        ("title = 'Mine'", "'title' is not in a provider's table"),
        ("", "contains no provider"),
        ("[mine]\ntitel = 'Mine'", "unknown field 'titel'"),
        ("[mine]\ntitle = 'Mine'", "No server to log in to is given"),
        ("[mine]\nissuer = 'http://example.com'", "plain http"),
        (
            "[mine]\nissuer = 'https://{tenant}.example.com'",
            "undefined parameter in issuer: tenant",
        ),
        (
            "[mine]\nissuer = 'https://a.example'\ninterval = 'often'",
            "interval must be a non-negative number",
        ),
        ("[mine]\nissuer = 'https://a.example'\nrequest = 'xml'", "one of form, json"),
        (
            "[mine]\nissuer = 'https://a.example'\nerrors = { wait = 'wait' }",
            "unknown error code in errors: wait",
        ),
        (
            "[mine]\nissuer = 'https://a.example'\nstatuses = { x = 'slow_down' }",
            "not an HTTP status",
        ),
        (
            "[mine]\nissuer = 'https://a.example'\nanswer_names = { verification_url = 'uri' }",
            "has the unknown keys verification_url",
        ),
        (
            "[mine]\nissuer = 'https://a.example'\nrequest_names = { scopes = 'scope' }",
            "has the unknown keys scopes",
        ),
        ("[\"my.host\"]\nissuer = 'https://a.example'", "Invalid provider name"),
        ("[studio]\nissuer = 'https://a.example'", "Invalid provider name"),
    ],
)
def test_a_provider_file_that_is_wrong_is_refused_in_words(
    deviceflow: Command, text: str, words: str
) -> None:
    (deviceflow.home / "bad.toml").write_text(text)

    done = deviceflow("providers", "check", "bad.toml")

    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert "bad.toml" in done.err


def test_each_wrong_entry_is_named(deviceflow: Command) -> None:
    (deviceflow.home / "bad.toml").write_text("[one]\ntitle = 'One'\n[two]\ntitle = 'Two'\n")

    done = deviceflow("providers", "check", "bad.toml")

    assert "'one'" in done.err
    assert "'two'" in done.err


def test_a_wrong_file_in_the_environment_is_named_by_every_command(deviceflow: Command) -> None:
    (deviceflow.home / "bad.toml").write_text("[mine]\ntitel = 'Mine'")

    done = deviceflow("login", "--once", "github", "--show-token", DEVICEFLOW_PROVIDERS="bad.toml")

    assert done.code == 2
    assert "bad.toml" in done.err
    assert "titel" in done.err


def test_there_is_no_provider_of_that_name(deviceflow: Command) -> None:
    done = deviceflow("providers", "show", "gihub")

    assert done.code == 2
    assert "gihub" in done.err
