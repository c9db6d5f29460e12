"""A server's metadata: where the client looks for it, how long it keeps it, what can be wrong."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import export
from deviceflow.client._sync import Client
from deviceflow.client.kept import METADATA_LIFETIME
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.core.text import trusted
from deviceflow.core.wire import Failure, Fields
from deviceflow.errors import (
    ProtocolError,
    RejectedError,
    ServerError,
    UnreachableError,
    UsageError,
)
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.facade import AsyncFacade
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.wire import Response

    Make = Callable[..., Client]

ISSUER: Final = "https://as.example.com/realms/acme"
OPENID: Final = f"{ISSUER}/.well-known/openid-configuration"
RFC8414: Final = "https://as.example.com/.well-known/oauth-authorization-server/realms/acme"
METADATA: Final = {
    "issuer": ISSUER,
    "device_authorization_endpoint": f"{ISSUER}/device",
    "token_endpoint": f"{ISSUER}/token",
}
FOUND: Final = answer(200, METADATA)
CODE: Final = answer(
    200,
    {"device_code": "d", "user_code": "u", "verification_uri": "https://as.example.com/login"},
)
PENDING: Final = answer(400, {"error": "authorization_pending"})
HTML: Final = answer(404, "<html>Not here</html>", Content_Type="text/html")
PROVIDER: Final = OAuth(client_id="robot", issuer=ISSUER)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=[Client, AsyncFacade])
def client(request: pytest.FixtureRequest, clock: VirtualClock) -> Make:
    """Make a client that is given these answers, one for each request."""
    return lambda *script, **parts: request.param(
        clock=clock, transport=ScriptedTransport(script), **parts
    )


def asked(client: Client) -> list[str]:
    transport = client._transport
    assert isinstance(transport, ScriptedTransport)
    return [request.url for request in transport.requests]


def test_metadata_is_got_before_the_code(client: Make) -> None:
    driver = client(FOUND, CODE)

    flow = driver.start(PROVIDER)

    assert asked(driver) == [OPENID, f"{ISSUER}/device"]
    assert flow.token_endpoint == f"{ISSUER}/token"
    transport = driver._transport
    assert isinstance(transport, ScriptedTransport)
    assert (transport.requests[0].method, transport.requests[0].body) == ("GET", b"")


@pytest.mark.parametrize(
    "first",
    [
        HTML,
        answer(200, "<html>Sign in</html>"),
        answer(302, "", Location="https://evil.example.com/"),
        answer(200, "[]"),
        answer(200, '{"issuer": "https://as.ex'),
        answer(204, ""),
        answer(500, METADATA),
        answer(404, METADATA),
        answer(200, METADATA | {"issuer": "https://evil.example.com"}),
        answer(200, {"issuer": ISSUER}),
        answer(200, METADATA | {"token_endpoint": "http://as.example.com/token"}),
        Failure("timeout", sent=True),
        Failure("connection", sent=False),
        Failure("too_large", sent=True),
    ],
    ids=repr,
)
def test_second_place_is_looked_at_where_the_first_has_none_that_fits(
    client: Make, first: Response | Failure
) -> None:
    driver = client(first, FOUND, CODE)

    assert driver.start(PROVIDER).state is State.AWAITING_USER
    assert asked(driver) == [OPENID, RFC8414, f"{ISSUER}/device"]


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            HTML,
            UnreachableError,
            f"The metadata of {ISSUER} could not be fetched: HTTP 404 at {OPENID}.",
        ),
        (
            answer(200, "<html>"),
            UnreachableError,
            f"could not be fetched: HTTP 200 without a JSON object at {OPENID}.",
        ),
        (
            answer(302, "", Location="https://x"),
            UnreachableError,
            "could not be fetched: HTTP 302 at",
        ),
        (answer(200, "null"), UnreachableError, "could not be fetched: HTTP 200 without a JSON"),
        (answer(503, "busy"), UnreachableError, "could not be fetched: HTTP 503 at"),
        (Failure("timeout", sent=True), UnreachableError, "could not be fetched: timeout."),
        (
            answer(200, METADATA | {"issuer": "https://evil.example.com"}),
            ProtocolError,
            "The metadata is of another issuer: 'https://evil.example.com'",
        ),
        (answer(200, {"issuer": ISSUER}), ProtocolError, "does not offer the device grant"),
        (
            answer(200, METADATA | {"token_endpoint": "http://as.example.com/t"}),
            ProtocolError,
            "uses plain http",
        ),
    ],
)
def test_server_without_metadata_that_fits_is_an_error_in_words(
    client: Make, said: Any, kind: type[ServerError], words: str
) -> None:
    driver = client(said, said)

    with pytest.raises(kind, match=words) as caught:
        driver.start(PROVIDER)

    assert caught.value.hint
    assert asked(driver) == [OPENID, RFC8414]


@pytest.mark.parametrize("said", [(HTML, answer(200, {})), (answer(200, {}), HTML)])
def test_what_was_wrong_with_metadata_is_told_rather_than_that_there_was_none(
    client: Make, said: tuple[Response, Response]
) -> None:
    with pytest.raises(ProtocolError, match="of another issuer"):
        client(*said).start(PROVIDER)


def test_failed_discovery_leaves_no_login_behind(client: Make) -> None:
    driver = client(HTML, HTML, FOUND, CODE)
    with pytest.raises(UnreachableError):
        driver.start(PROVIDER, name="work")

    assert driver.start(PROVIDER, name="work").state is State.AWAITING_USER


def test_metadata_is_kept_for_an_hour(client: Make, clock: VirtualClock) -> None:
    driver = client(FOUND, CODE, CODE, FOUND, CODE)

    driver.start(PROVIDER)
    clock.advance(METADATA_LIFETIME - 1)
    driver.start(PROVIDER)
    clock.advance(2)
    driver.start(PROVIDER)

    assert METADATA_LIFETIME == 3600
    assert [url == OPENID for url in asked(driver)] == [True, False, False, True, False]


def test_wall_clock_does_not_age_metadata(client: Make, clock: VirtualClock) -> None:
    driver = client(FOUND, CODE, CODE)

    driver.start(PROVIDER)
    clock.set_wall(86400)
    driver.start(PROVIDER)

    assert asked(driver).count(OPENID) == 1


@pytest.mark.parametrize(
    "end", [answer(401, {"error": "invalid_client"}), answer(404, "<html>moved</html>")]
)
def test_metadata_is_got_again_after_a_failure(client: Make, end: Response) -> None:
    driver = client(FOUND, end, FOUND, CODE)
    with pytest.raises(ServerError):
        driver.start(PROVIDER)

    driver.start(PROVIDER)

    assert asked(driver).count(OPENID) == 2


def test_metadata_of_a_client_is_its_own(client: Make) -> None:
    client(FOUND, CODE).start(PROVIDER)

    other = client(FOUND, CODE)
    other.start(PROVIDER)

    assert asked(other)[0] == OPENID


def test_metadata_of_one_issuer_is_not_anothers(client: Make) -> None:
    other = "https://as.example.com/realms/other"
    theirs = answer(200, {k: v.replace("acme", "other") for k, v in METADATA.items()})
    driver = client(FOUND, CODE, theirs, CODE)

    driver.start(PROVIDER)
    flow = driver.start(OAuth(client_id="robot", issuer=other))

    assert flow.token_endpoint == f"{other}/token"


@pytest.mark.parametrize(
    "provider",
    [
        OAuth(
            client_id="robot",
            device_authorization_endpoint="https://as.example.com/device",
            token_endpoint="https://as.example.com/token",
        ),
        OAuth(
            client_id="robot",
            issuer="https://as.example.com",
            device_authorization_endpoint="https://as.example.com/device",
            token_endpoint="https://as.example.com/token",
        ),
    ],
)
def test_provider_that_needs_no_metadata_is_not_given_that_of_the_same_server(
    client: Make, provider: OAuth
) -> None:
    root = {key: value.replace("/realms/acme", "") for key, value in METADATA.items()}
    root["token_endpoint"] = "https://other.example.com/token"
    driver = client(answer(200, root), CODE, CODE)
    driver.start(OAuth(client_id="robot", issuer="https://as.example.com"))

    flow = driver.start(provider)

    assert flow.token_endpoint == "https://as.example.com/token"
    assert flow.provider == provider


def test_studio_has_no_metadata_and_takes_none() -> None:
    studio = Studio("https://studio.example.com")

    assert studio.metadata_urls() == ()
    assert studio.with_metadata(Fields({**METADATA})) is studio


def test_step_never_looks_for_metadata(client: Make, clock: VirtualClock) -> None:
    driver = client(FOUND, CODE, PENDING)
    flow = driver.create(PROVIDER)
    assert asked(driver) == [OPENID]

    driver.step(flow.id)
    clock.advance(METADATA_LIFETIME + 1)
    driver.step(flow.id)

    assert asked(driver) == [OPENID, f"{ISSUER}/device", f"{ISSUER}/token"]


def test_flow_carries_its_endpoints_to_whoever_goes_on_with_it(client: Make) -> None:
    driver = client(FOUND, CODE)

    flow = get(driver._store, driver.start(PROVIDER).id)

    assert flow.provider.metadata_urls() == ()
    assert export.to_dict(flow)["provider"] == PROVIDER.to_dict() | METADATA


def test_adopted_code_needs_no_proof_that_was_never_given(
    client: Make, clock: VirtualClock
) -> None:
    driver = client(FOUND, PENDING)
    provider = OAuth(client_id="robot", issuer=ISSUER, pkce="on")

    flow = driver.adopt(provider, token_endpoint=f"{ISSUER}/token", device_code=Secret("d"))
    clock.advance(driver.get(flow.id).wait_seconds)
    driver.step(flow.id)

    transport = driver._transport
    assert isinstance(transport, ScriptedTransport)
    assert b"code_verifier" not in transport.requests[-1].body


# Refreshing a token.

OLD: Final = Token(Secret("old"), refresh_token=Secret("R1"), scopes=(trusted("a"), trusted("b")))
FRESH: Final = answer(200, {"access_token": "new", "expires_in": 60})


def test_token_is_refreshed_where_metadata_says(client: Make, clock: VirtualClock) -> None:
    driver = client(FOUND, FRESH)

    token = driver.refresh(PROVIDER, OLD)

    assert asked(driver) == [OPENID, f"{ISSUER}/token"]
    assert token.access_token == Secret("new")
    assert token.expires_at == clock.time() + 60
    assert token.refresh_token == Secret("R1")
    assert token.scopes == ("a", "b")


def test_new_refresh_token_and_scope_replace_the_old_ones(client: Make) -> None:
    said = {"access_token": "new", "refresh_token": "R2", "scope": "a"}
    driver = client(FOUND, answer(200, said))

    token = driver.refresh(PROVIDER, OLD)

    assert (token.refresh_token, token.scopes) == (Secret("R2"), ("a",))


@pytest.mark.parametrize(
    "said",
    [
        Failure("timeout", sent=True),
        answer(503, "busy"),
        answer(200, "<html>"),
        answer(500, {"error": "server_error"}),
        answer(429, {"error": "slow_down"}),
    ],
)
def test_refresh_without_an_answer_is_not_the_end(client: Make, said: Any) -> None:
    with pytest.raises(UnreachableError, match="could not be refreshed now"):
        client(FOUND, said).refresh(PROVIDER, OLD)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(400, {"error": "invalid_grant"}), "invalid_grant"),
        (answer(403, {"error": "access_denied"}), "access_denied"),
        (answer(400, {"error": "\x1b[31mno " + "ab " * 999}), "no"),
        (answer(400, {}), "refused"),
    ],
)
def test_refresh_that_is_refused_needs_a_person(client: Make, said: Response, words: str) -> None:
    with pytest.raises(RejectedError, match=f"could not be refreshed: {words}") as caught:
        client(FOUND, said).refresh(PROVIDER, OLD)

    assert "Log in again" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_token_without_a_refresh_token_is_not_refreshed(client: Make) -> None:
    with pytest.raises(UsageError, match="no refresh token"):
        client(FOUND).refresh(PROVIDER, Token(Secret("old")))


def test_studios_tokens_are_not_refreshed(client: Make) -> None:
    with pytest.raises(UsageError, match="Log in again"):
        client().refresh(Studio("https://studio.example.com"), OLD)


def test_nothing_of_a_refresh_is_kept(client: Make) -> None:
    driver = client(FOUND, FRESH)
    driver.refresh(PROVIDER, OLD)

    assert "R1" not in json.dumps(repr(vars(driver)))


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"sub": "mallory"}, "approved by another sub"),
        ({"sub": "alice", "aud": "other"}, "the id token is for another client"),
        (None, "the id token cannot be read"),
    ],
)
def test_refreshed_token_of_somebody_else_is_not_taken(
    client: Make, claims: dict[str, Any] | None, words: str
) -> None:
    driver = client(FOUND, answer(200, {"access_token": "new", "id_token": id_token(claims)}))

    with pytest.raises(RejectedError, match=words):
        driver.refresh(OAuth(client_id="robot", issuer=ISSUER, require={"sub": "alice"}), OLD)


@pytest.mark.parametrize("fields", [{}, {"id_token": None}])
def test_refreshed_token_needs_no_new_proof_of_who_approved(
    client: Make, fields: dict[str, Any]
) -> None:
    driver = client(FOUND, answer(200, {"access_token": "new"} | fields))
    provider = OAuth(client_id="robot", issuer=ISSUER, require={"sub": "alice"})

    assert driver.refresh(provider, OLD).access_token == Secret("new")


def test_refreshed_token_of_the_same_person_is_taken(client: Make) -> None:
    said = {"access_token": "new", "id_token": id_token({"sub": "alice"})}
    provider = OAuth(client_id="robot", issuer=ISSUER, require={"sub": "alice"})

    assert client(FOUND, answer(200, said)).refresh(provider, OLD).id_token is not None


def id_token(claims: dict[str, Any] | None) -> str:
    """Return a token with these claims and what every one of them needs, or rubbish."""
    if claims is None:
        return "rubbish"
    whole = {"iss": ISSUER, "aud": "robot", "exp": 4e9} | claims
    payload = base64.urlsafe_b64encode(json.dumps(whole).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"
