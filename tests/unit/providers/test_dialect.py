"""How a server departs from RFC 8628, as data: reading it, and what it makes of answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.wire import Fields
from deviceflow.errors import UsageError
from deviceflow.providers.dialect import RFC8628, Dialect, read_dialect
from deviceflow.providers.known import known, provider, read_file
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


# Reading an entry.


def test_entry_of_nothing_is_rfc_8628() -> None:
    read = read_dialect("mine", {})

    assert read.to_dict() == RFC8628.to_dict() == {}


WHOLE: Final[dict[str, Any]] = {
    "title": "Acme",
    "sources": ["https://docs.example.com/"],
    "issuer": "https://{tenant}.example.com/{realm}",
    "device_authorization_endpoint": "https://{tenant}.example.com/device",
    "token_endpoint": "https://{tenant}.example.com/token",
    "revocation_endpoint": "https://{tenant}.example.com/revoke",
    "parameters": {"tenant": "", "realm": "main"},
    "client_auth": "client_secret_post",
    "needs_secret": True,
    "secret_with": "token",
    "requires": ["scopes"],
    "pkce": True,
    "request": "json",
    "request_names": {"device_code": "code"},
    "answer_names": {"verification_uri": "url"},
    "code_parameters": {"response_type": "device_code"},
    "token_parameters": {"x": "y"},
    "token_scope": True,
    "refresh_fields": ["audience", "scope"],
    "sends_grant_type": False,
    "scope_separator": ",",
    "error_fields": ["message", "error"],
    "errors": {"nope": "access_denied"},
    "statuses": {"418": "access_denied"},
    "retry_unknown_code": True,
    "interval": 7,
    "margin": 0,
    "refresh_ends_token": True,
    "invalid_token_statuses": [401, 403],
    "complete_parameter": "code",
    "issuer_template": True,
}


def test_entry_can_say_everything_and_is_written_as_it_was_read() -> None:
    read = read_dialect("acme", WHOLE)

    assert read.to_dict() == WHOLE
    assert read_dialect("acme", read.to_dict()).to_dict() == WHOLE


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"isuer": "x"}, "unknown field 'isuer'. Valid fields are title, sources, issuer, "),
        ({"title": ""}, "title must be a non-empty string, not ''"),
        ({"title": 7}, "title must be a non-empty string, not 7"),
        ({"issuer": ["x"]}, r"issuer must be a non-empty string, not \['x'\]"),
        ({"issuer": None}, "issuer must be a non-empty string, not None"),
        ({"scope_separator": ""}, "scope_separator must be a non-empty string, not ''"),
        ({"pkce": 1}, "pkce must be true or false, not 1"),
        ({"pkce": "true"}, "pkce must be true or false, not 'true'"),
        ({"interval": "5"}, "interval must be a non-negative number, not '5'"),
        ({"interval": True}, "interval must be a non-negative number, not True"),
        ({"interval": -1}, "interval must be a non-negative number, not -1"),
        ({"margin": float("nan")}, "margin must be a non-negative number, not nan"),
        ({"interval": 0}, "interval must be between 1 and 3600 seconds"),
        ({"interval": 0.5}, "interval must be between 1 and 3600 seconds"),
        ({"interval": 3601}, "interval must be between 1 and 3600 seconds"),
        ({"interval": float("inf")}, "interval must be between 1 and 3600 seconds"),
        ({"margin": float("inf")}, "margin must be at most 3600 seconds"),
        ({"replay_window": 3601}, "replay_window must be at most 3600 seconds"),
        ({"invalid_token_statuses": ["401"]}, "invalid_token_statuses must be a list of integers"),
        ({"invalid_token_statuses": [True]}, "invalid_token_statuses must be a list of integers"),
        ({"sources": "x"}, "sources must be a list of strings, not 'x'"),
        ({"sources": [7]}, r"sources must be a list of strings, not \[7\]"),
        ({"parameters": ["x"]}, r"parameters must be a table of strings, not \['x'\]"),
        ({"parameters": {"x": 7}}, "parameters must be a table of strings, not {'x': 7}"),
        ({"request": "xml"}, "request must be one of form, json"),
        (
            {"client_auth": "none"},
            "client_auth must be one of client_secret_basic, client_secret_post",
        ),
        ({"secret_with": "none"}, "secret_with must be one of both, code, token"),
        (
            {"refresh_fields": ["scope", "scopes", "aud"]},
            "unknown field in refresh_fields: aud, scopes. Valid fields are audience, resource,",
        ),
        (
            {"errors": {"a": "nope", "b": "never", "c": "invalid_grant"}},
            (
                "unknown error code in errors: never, nope. Valid error codes are access_denied, "
                "authorization_pending, "
            ),
        ),
        (
            {"statuses": {"400": "pending"}},
            "unknown error code in statuses: pending. Valid error codes are ",
        ),
        (
            {"issuer": "https://{domain}/{realm}", "parameters": {"realm": ""}},
            "undefined parameter in issuer: domain. Add it to parameters",
        ),
        ({"token_endpoint": "https://{0}/"}, "undefined parameter in token_endpoint: 0"),
        ({"token_endpoint": "https://{/"}, "unbalanced braces in token_endpoint"),
        ({"token_endpoint": "https://}/"}, "unbalanced braces in token_endpoint"),
        ({"token_endpoint": "https://{}/"}, "unbalanced braces in token_endpoint"),
        (
            {"token_endpoint": "https://{a.b}/", "parameters": {"a": ""}},
            "unbalanced braces in token_endpoint",
        ),
        (
            {"token_endpoint": "https://{a!r:>9}/", "parameters": {"a": ""}},
            "unbalanced braces in token_endpoint",
        ),
    ],
)
def test_entry_that_means_nothing_is_refused_by_name(entry: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"Provider 'mine': {said}"):
        read_dialect("mine", entry)


# The entries that come along, and the user's own.


@pytest.mark.parametrize("name", known())
def test_known_entry_is_whole(name: str) -> None:
    entry = known()[name]

    assert entry.title != RFC8628.title
    assert entry.sources
    assert all(re.fullmatch(r"https://\S+", source) for source in entry.sources)
    assert entry.issuer or (entry.device_authorization_endpoint and entry.token_endpoint)
    patterns = f"{entry.issuer} {entry.device_authorization_endpoint} {entry.token_endpoint}"
    assert all(f"{{{name}}}" in patterns for name in entry.parameters)
    assert read_dialect(name, entry.to_dict()).to_dict() == entry.to_dict()


def test_those_that_are_promised_are_known() -> None:
    promised = "github google microsoft auth0 okta keycloak gitlab huggingface twitch trakt"

    assert set(promised.split()) <= set(known())


MINE: Final = """
[mine]
title = "Mine"
issuer = "https://login.example.com/{realm}"
parameters = { realm = "main" }

[github]
title = "Not that one"
issuer = "https://git.example.com"
"""


def test_own_entries_are_found_and_go_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(MINE)
    monkeypatch.setenv("DEVICEFLOW_PROVIDERS", str(file))

    assert known()["mine"].title == "Mine"
    assert known()["github"].title == "Not that one"
    assert known()["gitlab"].title == "GitLab"
    assert provider("mine", client_id="c").issuer == "https://login.example.com/main"
    monkeypatch.delenv("DEVICEFLOW_PROVIDERS")
    assert "mine" not in known()


def test_own_file_may_be_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "p.toml").write_text(MINE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("DEVICEFLOW_PROVIDERS", "~/p.toml")

    assert "mine" in known()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[mine", "cannot be read as a provider file"),
        (b"\xff\xfe", "cannot be read as a provider file"),
        (b"[mine]\nx = 1", "Provider 'mine': unknown field 'x'"),
        (b"title = 'x'", "'title' is not in a provider's table"),
    ],
)
def test_own_file_that_cannot_be_read_is_an_error(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "providers.toml"
    file.write_bytes(content)

    with pytest.raises(UsageError, match=said):
        read_file(file)


def test_own_file_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEVICEFLOW_PROVIDERS", str(tmp_path / "missing.toml"))

    with pytest.raises(UsageError, match="cannot be read as a provider file"):
        known()


# What answers mean.


def classify(dialect: Dialect, status: int, body: Any, **how: Any) -> tuple[str, str | None]:
    said = answer(status, body)
    read = dialect.classify(said, said.fields(), **how)
    return read.outcome, read.error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": "a"}, "a"),
        ({"message": "b", "error": "a"}, "b"),
        ({"message": "", "error": "a"}, "a"),
        ({"message": 7, "error": "a"}, "a"),
        ({"message": "c"}, "access_denied"),
        ({"detail": "a"}, None),
        ({}, None),
    ],
)
def test_first_field_with_an_error_in_it_counts(body: Any, error: str | None) -> None:
    dialect = Dialect(error_fields=("message", "error"), errors={"c": "access_denied"})

    assert dialect.error(Fields(body)) == error
    assert dialect.error(None) is None


def test_status_speaks_only_where_the_body_does_not_and_only_of_polls() -> None:
    dialect = Dialect(statuses={"400": "authorization_pending", "429": "slow_down"})

    assert classify(dialect, 400, "")[0] == "pending"
    assert classify(dialect, 400, {"error": "access_denied"})[0] == "denied"
    assert classify(dialect, 400, {"error": "vendor"}) == ("refused", "vendor")
    assert classify(dialect, 429, "")[0] == "slow_down"
    assert classify(dialect, 410, "")[0] == "retry"
    assert classify(dialect, 400, "", polled=False)[0] == "retry"


@pytest.mark.parametrize(
    ("error", "outcome", "in_doubt"),
    [
        ("temporarily_unavailable", "retry", False),
        ("server_error", "retry", True),
        ("invalid_grant", "refused", False),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 503])
def test_recognised_error_is_what_it_is_with_every_status(
    error: str, outcome: str, status: int, *, in_doubt: bool
) -> None:
    said = answer(status, {"error": error})

    read = RFC8628.classify(said, said.fields())

    assert (read.outcome, read.in_doubt) == (outcome, in_doubt)


@pytest.mark.parametrize("error", ["invalid_grant", "gone"])
@pytest.mark.parametrize("retry_unknown_code", [True, False])
def test_only_an_unknown_code_is_asked_about_again(error: str, *, retry_unknown_code: bool) -> None:
    dialect = Dialect(retry_unknown_code=retry_unknown_code, errors={"gone": "invalid_client"})
    said = answer(400, {"error": error})

    read = dialect.classify(said, said.fields())

    assert read.once == (retry_unknown_code and error == "invalid_grant")


@pytest.mark.parametrize("status", [408, 425, 429, 503, 500, 502, 599])
def test_doubt_is_left_by_what_may_have_been_processed(status: int) -> None:
    said = answer(status, {"error": "odd"})

    read = RFC8628.classify(said, said.fields())

    assert read.outcome == "retry"
    assert read.in_doubt == (status not in (408, 425, 429, 503))
    assert not read.unreadable


def test_empty_parameters_are_not_sent() -> None:
    asked = {"scope": "", "audience": None, "resource": (), "device_code": "d"}

    assert Dialect(request_names={"device_code": "code"}).asked(asked) == {"code": "d"}
