"""DVC Studio's dialect: what is sent, and what its answers mean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.provider import Answer, DeviceCode
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason
from deviceflow.core.text import PersonText, link, trusted
from deviceflow.errors import (
    InsecureURLError,
    InvalidArgumentError,
    InvalidScopesError,
    StudioAuthError,
    UsageError,
)
from deviceflow.providers.codec import provider_from_dict
from deviceflow.providers.studio import AVAILABLE_SCOPES, DEFAULT_URL, Studio
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.core.provider import Outcome, Provider
    from deviceflow.core.wire import Response

URL: Final = "https://studio.example.com"
CODE: Final = Secret("DEVICE-CANARY")


@pytest.fixture
def studio() -> Studio:
    return Studio(URL)


def body(provider: Provider) -> Any:
    return json.loads(provider.code_request().body)


# What is sent.


def test_studio_is_the_public_one_unless_said_otherwise() -> None:
    assert Studio().server == DEFAULT_URL == "https://studio.datachain.ai"


def test_engine_is_told_what_it_needs(studio: Studio) -> None:
    asking: Provider = studio.with_request(client_name="robot", scopes="experiments,MODELS")

    assert asking.dialect == "studio"
    assert asking.server == URL
    assert asking.client_id is None
    assert asking.client_name == "robot"
    assert asking.scopes == ("experiments", "MODELS")
    assert asking.allow_http is False
    # No slow_down and no interval of its own: polled at once, then each five seconds.
    assert asking.first_wait == 0
    assert asking.margin == 0


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}//"])
def test_code_is_asked_for_at_device_login(url: str) -> None:
    request = Studio(url).code_request()

    assert request.purpose == "code"
    assert request.url == f"{URL}/api/device-login"
    assert request.headers == {"Accept": "application/json", "Content-type": "application/json"}


def test_studio_may_live_below_a_path() -> None:
    assert Studio(f"{URL}/studio/").code_request().url == f"{URL}/studio/api/device-login"


def test_token_is_asked_for_where_the_answer_said(studio: Studio) -> None:
    request = studio.token_request("https://token.example.com/poll", CODE)

    assert request.purpose == "token"
    assert request.url == "https://token.example.com/poll"
    assert request.headers == {"Accept": "application/json", "Content-type": "application/json"}
    assert json.loads(request.body) == {"code": "DEVICE-CANARY"}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"client_name": "client"}),
        ({"client_name": "robot"}, {"client_name": "robot"}),
        ({"token_name": "nightly"}, {"client_name": "client", "token_name": "nightly"}),
        ({"token_name": None}, {"client_name": "client"}),
        ({"token_name": ""}, {"client_name": "client"}),
        (
            {"scopes": ["EXPERIMENTS", "models"]},
            {"client_name": "client", "scopes": ["EXPERIMENTS", "models"]},
        ),
        (
            {"scopes": "Experiments, datasets,,"},
            {"client_name": "client", "scopes": ["Experiments", "datasets"]},
        ),
        ({"scopes": ""}, {"client_name": "client"}),
        ({"scopes": None}, {"client_name": "client"}),
        ({"scopes": []}, {"client_name": "client"}),
        ({"team_names": ["a", "b"]}, {"client_name": "client", "team_names": ["a", "b"]}),
        ({"all_teams": True}, {"client_name": "client", "all_teams": True}),
        (
            {"all_teams": False, "team_names": "a"},
            {"client_name": "client", "all_teams": False, "team_names": ["a"]},
        ),
        ({"expires_in_days": 30}, {"client_name": "client", "expires_in_days": 30}),
        ({"never_expires": False}, {"client_name": "client", "never_expires": False}),
        ({"never_expires": True}, {"client_name": "client", "never_expires": True}),
    ],
)
def test_what_is_asked_is_sent_and_nothing_else(
    studio: Studio, asked: Mapping[str, Any], sent: Mapping[str, Any]
) -> None:
    assert body(studio.with_request(**asked)) == sent


def test_asking_nothing_changes_nothing(studio: Studio) -> None:
    assert studio.with_request() is studio


def test_asking_leaves_the_provider_as_it_was(studio: Studio) -> None:
    studio.with_request(client_name="robot")

    assert body(studio) == {"client_name": "client"}


def test_asking_again_adds_to_what_was_asked(studio: Studio) -> None:
    asking = studio.with_request(client_name="robot").with_request(token_name="nightly")

    assert body(asking) == {"client_name": "robot", "token_name": "nightly"}


@pytest.mark.parametrize(
    ("scopes", "named"),
    [
        (["EVERYTHING"], "'EVERYTHING'"),
        ("experiments,all,some", "'all', 'some'"),
        (["experiments "], "'experiments '"),
    ],
)
def test_unknown_scopes_are_refused_by_name_before_anything_is_sent(
    studio: Studio, scopes: Any, named: str
) -> None:
    with pytest.raises(InvalidScopesError) as caught:
        studio.with_request(scopes=scopes)

    error = caught.value
    assert isinstance(error, StudioAuthError)
    assert isinstance(error, ValueError)
    assert named in str(error)
    assert "'experiments'" not in str(error)
    for scope in AVAILABLE_SCOPES:
        assert scope in str(error)


def test_available_scopes_are_studios() -> None:
    assert AVAILABLE_SCOPES == ["EXPERIMENTS", "DATASETS", "MODELS"]


def test_token_for_no_team_is_refused(studio: Studio) -> None:
    with pytest.raises(InvalidArgumentError, match="needs team_names"):
        studio.with_request(all_teams=False)


@pytest.mark.parametrize(
    "asked",
    [
        {"scopes": 5},
        {"scopes": [5]},
        {"team_names": [None]},
        {"client_name": object()},
        {"expires_in_days": float("nan")},
    ],
)
def test_what_cannot_be_sent_is_refused(studio: Studio, asked: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(asked))):
        studio.with_request(**asked)


def test_unknown_parameters_are_refused_by_name(studio: Studio) -> None:
    with pytest.raises(
        UsageError, match="Unknown argument of a DVC Studio login: audience, realm"
    ) as caught:
        studio.with_request(realm="r", client_name="robot", audience="a")  # type: ignore[call-arg]

    assert "token_name" in str(caught.value)


@pytest.mark.parametrize("url", ["http://studio.example.com", "studio.example.com", "file:///s"])
def test_unsafe_address_is_refused(url: str) -> None:
    with pytest.raises(InsecureURLError):
        Studio(url)


def test_plain_http_is_allowed_where_the_caller_says_so() -> None:
    assert Studio("http://studio.lan", allow_http=True).allow_http is True


def test_equal_settings_are_equal_and_have_one_hash() -> None:
    def make() -> Studio:
        return Studio(URL).with_request(scopes=["models"], team_names=["a"])

    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != Studio(URL)


# What the answer to the code request means.


def test_code_answer_is_read(studio: Studio, code_answer: Callable[..., Response]) -> None:
    read = studio.read_code(code_answer(interval=7))

    assert read == Answer(
        "issued",
        code=DeviceCode(
            device_code=CODE,
            user_code=PersonText("USER-CANARY", 100),
            verification_uri=link(f"{URL}/login"),
            verification_uri_complete=link(f"{URL}/login?code=USER-CANARY"),
            token_endpoint=f"{URL}/token",
            interval=7,
            expires_in=600,
            extra=(("token_name", trusted("robot")),),
        ),
    )


@pytest.mark.parametrize(
    ("page", "complete"),
    [
        ("https://s.example.com/login?next=%2F", "https://s.example.com/login?next=%2F&code=A+B"),
        ("http://s.example.com/login#a", "http://s.example.com/login?code=A+B#a"),
        ("javascript:alert(1)", None),
        ("file:///etc/passwd", None),
        ("http://[::1", None),
        ("https://s.example.com/\x1b[2J", None),
        ("not an address", None),
    ],
)
def test_page_to_open_is_made_of_web_addresses_only(
    studio: Studio, code_answer: Callable[..., Response], page: str, complete: str | None
) -> None:
    code = studio.read_code(code_answer(verification_uri=page, user_code="A B")).code

    assert code is not None
    assert code.verification_uri == (complete and page)
    assert code.verification_uri_complete == complete


@pytest.mark.parametrize("name", ["device_code", "user_code", "verification_uri", "token_uri"])
@pytest.mark.parametrize("value", [None, "", 17, ["CANARY"], {"a": 1}, "\ud800CANARY"])
def test_code_with_a_part_missing_is_a_matter_of_protocol(
    studio: Studio, code_answer: Callable[..., Response], name: str, value: Any
) -> None:
    read = studio.read_code(code_answer(**{name: value}))

    assert (read.outcome, read.reason) == ("refused", Reason.PROTOCOL)
    assert read.error == "a part of the code is missing"


@pytest.mark.parametrize("value", [None, "", 17])
def test_token_name_may_be_missing(
    studio: Studio, code_answer: Callable[..., Response], value: Any
) -> None:
    code = studio.read_code(code_answer(token_name=value)).code

    assert code is not None
    assert code.extra == (("token_name", None),)


@pytest.mark.parametrize(
    "token_uri",
    [
        "http://studio.example.com/DEVICE-CANARY",
        "/DEVICE-CANARY",
        "javascript:DEVICE-CANARY",
        "https://DEVICE-CANARY@studio.example.com/",
        "http://DEVICE-CANARY.example.com/",
    ],
)
def test_unsafe_token_address_is_refused_and_not_quoted(
    studio: Studio, code_answer: Callable[..., Response], token_uri: str
) -> None:
    read = studio.read_code(code_answer(token_uri=token_uri))

    assert (read.outcome, read.reason) == ("refused", Reason.PROTOCOL)
    assert "CANARY" not in repr(read)
    assert "allow_http" in (read.error or "")


def test_plain_http_token_address_is_allowed_with_the_rest(
    code_answer: Callable[..., Response],
) -> None:
    read = Studio(URL, allow_http=True).read_code(code_answer(token_uri="http://studio.lan/token"))

    assert read.code is not None
    assert read.code.token_endpoint == "http://studio.lan/token"


@pytest.mark.parametrize(
    ("response", "outcome", "unreadable", "error"),
    [
        (answer(200, "<html>"), "retry", True, None),
        (answer(200, []), "retry", True, None),
        (answer(201, {"device_code": "a"}), "retry", True, None),
        (answer(302, ""), "retry", True, None),
        (answer(404, "<html>"), "retry", True, None),
        (answer(404, {"detail": "Not Found"}), "refused", False, "Not Found"),
        (answer(400, {"error": "bad client"}), "refused", False, "bad client"),
        (answer(422, {"detail": [{"msg": "m"}]}), "refused", False, None),
        (answer(429, {"detail": "rate"}), "retry", False, "rate"),
        (answer(500, "<html>"), "retry", False, None),
        (answer(503, {"detail": "maintenance"}), "retry", False, "maintenance"),
    ],
    ids=repr,
)
def test_answer_without_a_code_is_read_by_its_status(
    studio: Studio, response: Response, outcome: Outcome, unreadable: bool, error: str | None
) -> None:
    read = studio.read_code(response)

    assert (read.outcome, read.unreadable, read.error) == (outcome, unreadable, error)
    assert read.code is None


# What the answer to a poll means.


def test_token_is_read(studio: Studio) -> None:
    read = studio.read_token(answer(200, {"access_token": "TOKEN-CANARY", "more": 1}))

    assert read.outcome == "issued"
    assert read.token is not None
    assert read.token.access_token == Secret("TOKEN-CANARY")
    assert not read.token.possibly_revoked


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("authorization_pending", "pending"),
        ("authorization_expired", "expired"),
        ("expired_token", "expired"),
        ("access_denied", "denied"),
        ("authorization_denied", "denied"),
        ("slow_down", "slow_down"),
        ("invalid_grant", "refused"),
        ("AUTHORIZATION_PENDING", "refused"),
    ],
)
@pytest.mark.parametrize("field", ["detail", "error"])
def test_error_is_read_in_either_field(
    studio: Studio, field: str, error: str, outcome: Outcome
) -> None:
    assert studio.read_token(answer(400, {field: error})).outcome == outcome


def test_detail_wins_over_error(studio: Studio) -> None:
    said = answer(400, {"detail": "authorization_pending", "error": "access_denied"})

    assert studio.read_token(said).outcome == "pending"


def test_structured_detail_gives_way_to_error(studio: Studio) -> None:
    said = answer(400, {"detail": [{"msg": "m"}], "error": "access_denied"})

    assert studio.read_token(said).outcome == "denied"


# To be kept with the flow.


def test_settings_come_back_whole_through_json() -> None:
    studio = Studio("http://studio.lan:8000/", allow_http=True).with_request(
        client_name="robot",
        token_name="nightly",
        scopes=["experiments", "MODELS"],
        team_names=["a"],
        all_teams=False,
        expires_in_days=7,
        never_expires=False,
    )

    settings = studio.to_dict()

    assert settings["dialect"] == "studio"
    assert provider_from_dict(json.loads(json.dumps(settings))) == studio


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"url": URL},
        {"dialect": None, "url": URL},
        {"dialect": "invented", "url": URL},
        {"dialect": ["studio"], "url": URL},
        {"dialect": "studio", "url": URL, "invented": 1},
        {"dialect": "studio", "url": URL, "asked": {"invented": 1}},
        {"dialect": "studio", "url": URL, "asked": None},
        {"dialect": "studio", "url": "http://studio.lan", "allow_http": "no"},
        {"dialect": "studio", "url": URL, "allow_http": None},
    ],
)
def test_settings_that_cannot_be_read_are_refused(settings: Mapping[str, Any]) -> None:
    with pytest.raises(UsageError, match="provider settings of this login cannot be read"):
        provider_from_dict(settings)


def test_settings_are_left_as_they_were() -> None:
    settings = Studio(URL).to_dict()

    provider_from_dict(settings)

    assert settings == Studio(URL).to_dict()


def test_settings_that_contradict_each_other_say_so() -> None:
    settings = Studio("http://studio.lan", allow_http=True).to_dict() | {"allow_http": False}

    with pytest.raises(InsecureURLError, match="plain http"):
        provider_from_dict(settings)


@pytest.mark.parametrize("here", ["1", "0"])
@pytest.mark.parametrize("there", ["1", "0"])
def test_environment_decides_about_plain_http_once(
    monkeypatch: pytest.MonkeyPatch, code_answer: Callable[..., Response], here: str, there: str
) -> None:
    """A worker elsewhere, with another environment, neither allows it anew nor forbids it."""
    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", here)
    settings = json.loads(json.dumps(Studio("https://studio.lan").to_dict()))
    code = code_answer(token_uri="http://studio.lan/token")

    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", there)
    elsewhere = provider_from_dict(settings)

    assert elsewhere.allow_http is (here == "1")
    assert elsewhere.read_code(code).outcome == ("issued" if here == "1" else "refused")


def test_environment_allows_plain_http_unless_the_caller_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", "1")

    assert Studio("http://studio.lan").allow_http is True
    with pytest.raises(InsecureURLError):
        Studio("http://studio.lan", allow_http=False)


def test_grant_asks_for_no_more_than_a_login_as_there_are_no_refresh_tokens() -> None:
    studio = Studio(URL).with_request(scopes=["models"])

    assert studio.for_grant() is studio
