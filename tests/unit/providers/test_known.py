from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deviceflow import provider
from deviceflow.errors import UsageError
from deviceflow.providers.known import at, entry, known, read_file

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


def test_a_supplied_provider_is_known_by_its_servers_host() -> None:
    assert at("github.com") == "github"
    assert at("as.example.com") is None


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


def test_a_setting_that_is_misspelt_is_told_its_name() -> None:
    with pytest.raises(UsageError, match=r"no setting scope\. Did you mean scopes\? Its own"):
        provider("github", client_id="robot", scope="repo")


def test_without_a_client_id_it_is_said_who_gives_one() -> None:
    with pytest.raises(UsageError, match="No client id is given"):
        provider("github")


@pytest.mark.parametrize("name", known())
def test_an_entry_says_where_its_facts_are_from(name: str) -> None:
    said = entry(name)
    about_refreshing = (
        said.rotation != "unknown",
        said.replay_window,
        said.refresh_ends_token,
        said.refresh_scope,
        said.access_token_lifetime,
        said.refresh_token_lifetime,
        said.refresh_token_idle,
    )

    assert said.sources
    assert any(about_refreshing) == bool(said.refresh_sources)
    for page in said.sources + said.refresh_sources:
        parts = urlsplit(page)
        assert (parts.scheme, bool(parts.hostname)) == ("https", True)
    for pages in (said.sources, said.refresh_sources):
        assert len({*pages}) == len(pages)


@pytest.mark.parametrize("name", known())
def test_what_an_entry_says_about_refreshing_fits_together(name: str) -> None:
    said = entry(name)
    lives = (said.access_token_lifetime, said.refresh_token_idle, said.refresh_token_lifetime)
    known_lives = [life for life in lives if life]

    assert known_lives == sorted(known_lives)
    # Where old refresh tokens stay good anyway, no window is needed.
    assert not (said.replay_window and said.rotation in ("never", "lenient", "unknown"))
    assert said.replay_window <= 60
    assert said.refresh_scope in (None, "offline_access")


@pytest.mark.parametrize("name", known())
def test_the_reference_says_about_refreshing_what_the_entry_says(name: str) -> None:
    said = entry(name)
    reference = Path(__file__).parents[3] / "docs/reference/providers.md"
    _, section = reference.read_text("utf-8").split("## Refresh tokens\n")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in section.splitlines()]
    row = next(row for row in rows if row and row[0] == f"`{name}`")

    assert row[1:] == [
        said.rotation,
        "always" if said.rotation in ("never", "lenient") else _span(said.replay_window),
        "yes" if said.refresh_ends_token else "-",
        f"`{said.refresh_scope}`" if said.refresh_scope else "-",
        _span(said.access_token_lifetime),
        _span(said.refresh_token_lifetime),
        _span(said.refresh_token_idle),
        ", ".join(f"[{n}]({page})" for n, page in enumerate(said.refresh_sources, 1)) or "-",
    ]


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return "-"
