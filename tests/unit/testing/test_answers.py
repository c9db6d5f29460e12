"""The ready-made answers: each known provider reads its own as it should."""

from __future__ import annotations

from typing import Any, Final

import pytest

from deviceflow import Client, OAuth, Studio
from deviceflow.errors import UsageError
from deviceflow.providers import known
from deviceflow.providers.studio import DIALECT
from deviceflow.testing import (
    Answers,
    AsyncScriptedTransport,
    ScriptedTransport,
    VirtualClock,
    answer,
    answers_of,
)

NAMES: Final = sorted(known.known())
OUTCOMES: Final = {
    "pending": "pending",
    "slow_down": "slow_down",
    "denied": "denied",
    "expired": "expired",
    "token": "issued",
}


def provider(name: str) -> OAuth:
    entry = known.entry(name)
    parameters = {
        key: "https://login.example.com" if key == "base" else default or "login.example.com"
        for key, default in entry.parameters.items()
    }
    secret = {"client_secret": "env:THE_SECRET"} if entry.needs_secret else {}
    return known.provider(name, client_id="test", scopes="read", **secret, **parameters)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("made", "outcome"), OUTCOMES.items())
def test_a_provider_reads_its_answers(name: str, made: str, outcome: str) -> None:
    assert provider(name).read_token(getattr(answers_of(name), made)()).outcome == outcome


@pytest.mark.parametrize("name", NAMES)
def test_a_login_at_each_provider(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "s3cret")
    where = provider(name)
    theirs = answers_of(where)
    transport = ScriptedTransport(theirs.login(theirs.pending(), theirs.token()))
    client = Client(transport=transport, clock=VirtualClock())

    token = client.wait_for_token(client.start(where).id)

    assert token.access_token.reveal() == "2YotnFZFEjr1zCsicMWpAA"
    transport.assert_finished()


def test_a_login_at_studio() -> None:
    studio = Studio("https://studio.example.com")
    theirs = answers_of(studio)
    ended = [theirs.login(theirs.denied()), theirs.login(theirs.expired())]
    ended.append(theirs.login(theirs.pending(), theirs.token(access_token="isat_1")))
    states = []
    for script in ended:
        client = Client(transport=ScriptedTransport(script), clock=VirtualClock())
        states.append(client.wait(client.start(studio, client_name="test").id).state)

    assert states == ["failed", "expired", "authorized"]
    assert answers_of("studio").pending().body == theirs.pending().body


@pytest.mark.parametrize(
    ("name", "made", "status", "body"),
    [
        ("github", "pending", 200, {"error": "authorization_pending"}),
        ("google", "pending", 428, {"error": "authorization_pending"}),
        ("microsoft", "denied", 400, {"error": "authorization_declined"}),
        ("twitch", "unknown_code", 400, {"message": "invalid device code"}),
        ("studio", "expired", 400, {"detail": "authorization_expired"}),
        ("auth0", "slow_down", 429, {"error": "slow_down"}),
    ],
)
def test_an_answer_is_in_the_providers_words(
    name: str, made: str, status: int, body: dict[str, Any]
) -> None:
    said = getattr(answers_of(name), made)()
    fields = said.fields()

    assert (said.status, fields and fields.as_dict()) == (status, body)


def test_status_alone_speaks_where_it_does_at_the_provider() -> None:
    gone = answers_of("trakt").expired()

    assert (gone.status, gone.body) == (410, b"{}")


def test_fields_are_replaced_renamed_and_left_out() -> None:
    code = answers_of("google").code(interval=None, verification_uri="https://x.example").fields()

    assert code is not None
    assert "interval" not in code
    assert code.get("verification_url") == "https://x.example"
    slower = answers_of("github").slow_down(interval=10).fields()
    assert slower is not None
    assert slower.get("interval") == 10


def test_metadata_needs_the_programs_settings() -> None:
    with pytest.raises(UsageError, match="depends on settings"):
        answers_of("keycloak").login()
    with pytest.raises(UsageError, match="Unknown provider"):
        answers_of("nobody")
    assert Answers(DIALECT).login()[0].status == 200  # type: ignore[union-attr]


def test_a_script_that_is_over_tells_what_it_gave() -> None:
    def late(_request: object) -> Any:
        return answer(400, {"error": "authorization_pending"})

    client = Client(
        transport=ScriptedTransport([answers_of("github").code(), late, ConnectionError("x")]),
        clock=VirtualClock(),
    )
    login = client.start(known.provider("github", client_id="test"))

    client.step(login.id)
    with pytest.raises(ConnectionError):
        client.wait(login.id)
    with pytest.raises(AssertionError) as over:
        client.wait(login.id)

    first, *others = str(over.value).splitlines()
    assert first == (
        "no answer is left for request 4, POST https://github.com/login/oauth/access_token"
        " (token): the script has 3 answers."
    )
    assert others[0] == "So far:"
    assert others[2].endswith("(token) → a function, late")
    assert others[3].endswith("(token) → raises ConnectionError")


def test_answers_that_were_not_asked_for_are_named() -> None:
    AsyncScriptedTransport([]).assert_finished()
    left = AsyncScriptedTransport([answer(503, "<html>"), answer(400, {"detail": "no"})])
    with pytest.raises(AssertionError) as some:
        left.assert_finished()

    assert str(some.value) == "2 answers of the script left after 0 requests: 503, 400 no."


def test_both_clocks_show_the_same_time() -> None:
    clock = VirtualClock()
    other = clock.for_asyncio()

    clock.sleep(5)
    other.advance(7)

    assert clock.time() == other.time() == 1_800_000_012
    assert other.slept == [5]
