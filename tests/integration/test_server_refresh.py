"""Refresh tokens of the local server: rotation, reuse, the grace window, revocation."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.errors import InvalidArgumentError
from deviceflow.server import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Local, Remote

    Answer = tuple[int, dict[str, Any]]

DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"
REFUSED: Final = (400, {"error": "invalid_grant"})


class Program:
    """A client of the local server, whose every login is approved at once."""

    def __init__(self, server: Local, **ours: Any) -> None:
        self.server = server
        self.ours = {"client_id": "robot"} | ours
        self.user_code = ""

    def post(self, path: str, **form: Any) -> Answer:
        answer = self.server.http.post(path, data=self.ours | form)
        return answer.status_code, dict(answer.get_json())

    def log_in(self, scope: str = "read write offline_access", **asked: Any) -> dict[str, Any]:
        status, started = self.post("/oauth/device_authorization", scope=scope, **asked)
        assert status == 200, started
        self.user_code = started["user_code"]
        self.server.http.post("/control/approve", json={"user_code": self.user_code})
        code = started["device_code"]
        status, token = self.post("/oauth/token", grant_type=DEVICE_CODE, device_code=code)
        assert status == 200, token
        return token

    def refresh(self, token: dict[str, Any], **asked: Any) -> Answer:
        status, body = self.post(
            "/oauth/token",
            grant_type="refresh_token",
            refresh_token=token["refresh_token"],
            **asked,
        )
        body.pop("error_description", None)
        return status, body

    def next(self, token: dict[str, Any], **asked: Any) -> dict[str, Any]:
        status, body = self.refresh(token, **asked)
        assert status == 200, body
        return body

    def introspect(self, value: str) -> dict[str, Any]:
        status, body = self.post("/oauth/introspect", token=value)
        assert status == 200
        return body

    def accepts(self, token: dict[str, Any]) -> bool:
        """Use the access token where it is meant to be used."""
        bearer = {"Authorization": f"Bearer {token['access_token']}"}
        answer = self.server.http.get("/oauth/resource", headers=bearer)
        assert (answer.status_code == 200) == self.introspect(token["access_token"])["active"]
        return answer.status_code == 200

    def grant(self) -> dict[str, Any]:
        grants = self.server.http.get("/control/grants").get_json()["grants"]
        [grant] = [grant for grant in grants if grant["user_code"] == self.user_code]
        return dict(grant)


@pytest.fixture
def program(local: Callable[..., Local]) -> Callable[..., Program]:
    return lambda **settings: Program(local(control=True, rate_check="off", **settings))


# Who gets a refresh token.


def test_refresh_token_is_for_those_who_ask_for_offline_access(
    program: Callable[..., Program],
) -> None:
    ours = program()

    assert "refresh_token" not in ours.log_in("read")
    token = ours.log_in("read offline_access")

    assert token["scope"] == "read offline_access"
    assert len(token["refresh_token"]) >= 40
    assert token["refresh_token"] != token["access_token"]


@pytest.mark.parametrize(
    ("settings", "scope", "issued"),
    [
        ({"refresh_scope": ""}, "read", True),
        ({"refresh_scope": "forever"}, "offline_access", False),
        ({"refresh_scope": "forever"}, "forever", True),
        ({"refresh_tokens": "none"}, "offline_access", False),
        ({"refresh_tokens": "none", "refresh_scope": ""}, "read", False),
    ],
)
def test_settings_say_who_gets_a_refresh_token(
    program: Callable[..., Program], settings: dict[str, Any], scope: str, issued: bool
) -> None:
    assert ("refresh_token" in program(**settings).log_in(scope)) == issued


def test_server_without_refresh_tokens_says_so(program: Callable[..., Program]) -> None:
    ours = program(refresh_tokens="none")

    metadata = ours.server.http.get("/.well-known/oauth-authorization-server").get_json()

    assert metadata["grant_types_supported"] == [DEVICE_CODE]
    assert metadata["scopes_supported"] == []
    status, answer = ours.refresh({"refresh_token": "x"})
    assert (status, answer["error"]) == (400, "unsupported_grant_type")


def test_metadata_names_what_there_is(serve: Callable[..., Remote]) -> None:
    remote = serve(refresh_scope="forever")

    metadata = remote.get("/.well-known/oauth-authorization-server").json()

    assert metadata["grant_types_supported"] == [DEVICE_CODE, "refresh_token"]
    assert metadata["scopes_supported"] == ["forever"]
    for endpoint in ("revocation", "introspection"):
        assert metadata[f"{endpoint}_endpoint_auth_methods_supported"][0] == "none"
        form = {"client_id": "robot", "token": "x"}
        assert remote.post(metadata[f"{endpoint}_endpoint"], data=form).status_code == 200


# Rotation, and the other ways.


def test_rotated(program: Callable[..., Program]) -> None:
    ours = program(access_token_lifetime=2)
    tokens = [ours.log_in()]
    for _ in range(20):
        ours.server.clock.advance(2)
        assert not ours.accepts(tokens[-1])
        tokens.append(ours.next(tokens[-1]))
        assert ours.accepts(tokens[-1])
        assert tokens[-1]["expires_in"] == 2

    for kind in ("access_token", "refresh_token"):
        assert len({token[kind] for token in tokens}) == 21
    grant = ours.grant()
    assert (grant["state"], grant["generation"], grant["refreshes"]) == ("active", 21, 20)
    assert [request["generation"] for request in grant["requests"]] == list(range(1, 21))


def test_older_access_token_is_valid_until_it_expires(program: Callable[..., Program]) -> None:
    ours = program(access_token_lifetime=10)
    first = ours.log_in()
    ours.server.clock.advance(9)
    ours.next(first)

    assert ours.accepts(first)
    ours.server.clock.advance(1)
    assert not ours.accepts(first)


def test_reuse_revokes_the_whole_family(program: Callable[..., Program]) -> None:
    ours = program()
    first = ours.log_in()
    second = ours.next(first)
    third = ours.next(second)

    assert ours.refresh(second) == REFUSED

    assert not any(ours.accepts(token) for token in (first, second, third))
    assert ours.refresh(third) == REFUSED
    grant = ours.grant()
    assert (grant["state"], grant["reuses"], grant["generation"]) == ("reused", 1, 3)
    answers = [request["answer"] for request in grant["requests"]]
    assert answers == ["issued", "issued", "reused", "invalid_grant"]


def test_reuse_is_only_refused_where_it_is_not_detected(program: Callable[..., Program]) -> None:
    ours = program(reuse_detection=False)
    first = ours.log_in()
    second = ours.next(first)

    assert ours.refresh(first) == REFUSED

    assert ours.accepts(second)
    assert ours.next(second)
    assert (ours.grant()["state"], ours.grant()["reuses"]) == ("active", 1)


def test_reuse_revokes_no_other_grant(program: Callable[..., Program]) -> None:
    ours = program()
    other = ours.log_in()
    first = ours.log_in()
    ours.next(first)
    ours.refresh(first)

    assert ours.accepts(other)
    assert ours.next(other)


@pytest.mark.parametrize(
    ("how", "in_answers"),
    [
        ("repeat", True),
        # As for providers whose answers to refreshes have no refresh token.
        ("keep", False),
    ],
)
def test_refresh_token_stays(program: Callable[..., Program], how: str, in_answers: bool) -> None:
    ours = program(refresh_tokens=how)
    first = ours.log_in()
    for _ in range(3):
        answer = ours.next(first)
        assert answer.get("refresh_token") == (first["refresh_token"] if in_answers else None)
        assert ours.accepts(answer)

    grant = ours.grant()
    assert (grant["state"], grant["generation"], grant["reuses"]) == ("active", 4, 0)


@pytest.mark.parametrize("how", ["rotate", "repeat"])
def test_refresh_token_expires(program: Callable[..., Program], how: str) -> None:
    ours = program(refresh_tokens=how, refresh_token_lifetime=60)
    first = ours.log_in()
    ours.server.clock.advance(59)
    second = ours.next(first)
    ours.server.clock.advance(1)

    # A new refresh token has a lifetime of its own.
    assert ours.refresh(second)[0] == (200 if how == "rotate" else 400)


def test_wave_of_refreshes_with_one_token_revokes_the_grant(
    serve: Callable[..., Remote],
) -> None:
    """What programs do to each other that share a refresh token, and do not agree."""
    remote = serve(control=True, refresh_scope="")
    token = log_in(remote)
    form = {
        "client_id": "robot",
        "grant_type": "refresh_token",
        "refresh_token": token["refresh_token"],
    }

    with ThreadPoolExecutor(8) as pool:
        statuses = list(
            pool.map(lambda _: remote.post("/oauth/token", data=form).status_code, range(8))
        )

    assert sorted(statuses) == [200] + [400] * 7
    [grant] = remote.get("/control/grants").json()["grants"]
    assert (grant["state"], grant["refreshes"], grant["reuses"]) == ("reused", 1, 1)


# The grace window.


def test_just_replaced_token_gets_the_same_successor_within_the_window(
    program: Callable[..., Program],
) -> None:
    ours = program(reuse_grace=30)
    first = ours.log_in()
    second = ours.next(first)
    ours.server.clock.advance(29)

    assert ours.next(first) == second | {"expires_in": 3600 - 29}
    assert ours.next(second)["refresh_token"] != second["refresh_token"]
    grant = ours.grant()
    assert (grant["refreshes"], grant["replays"], grant["reuses"]) == (2, 1, 0)


def test_replay_after_the_window_is_a_reuse(program: Callable[..., Program]) -> None:
    ours = program(reuse_grace=30)
    first = ours.log_in()
    second = ours.next(first)
    ours.server.clock.advance(30)

    assert ours.refresh(first) == REFUSED
    assert not ours.accepts(second)
    assert ours.grant()["state"] == "reused"


def test_replay_after_the_successor_was_used_is_a_reuse(program: Callable[..., Program]) -> None:
    ours = program(reuse_grace=30)
    first = ours.log_in()
    ours.next(ours.next(first))

    assert ours.refresh(first) == REFUSED
    assert ours.grant()["state"] == "reused"


def test_replay_gets_an_access_token_that_is_valid(program: Callable[..., Program]) -> None:
    ours = program(reuse_grace=30, access_token_lifetime=2)
    first = ours.log_in()
    second = ours.next(first)
    ours.server.clock.advance(10)

    again = ours.next(first)

    assert again["refresh_token"] == second["refresh_token"]
    assert ours.accepts(again)
    assert ours.next(first, scope="read")["scope"] == "read"
    assert ours.grant()["generation"] == 2


# What a refresh may ask for.


def test_narrower_scope_is_for_one_access_token(program: Callable[..., Program]) -> None:
    """RFC 6749 section 6: the refresh token's scopes stay."""
    ours = program()
    narrow = ours.next(ours.log_in(), scope="read")

    assert narrow["scope"] == "read"
    assert ours.introspect(narrow["access_token"])["scope"] == "read"
    assert ours.next(narrow)["scope"] == "read write offline_access"
    assert [request["scopes"] for request in ours.grant()["requests"]] == [["read"], None]


def test_wider_scope_is_refused_and_uses_nothing_up(program: Callable[..., Program]) -> None:
    ours = program()
    token = ours.log_in()

    assert ours.refresh(token, scope="read admin") == (400, {"error": "invalid_scope"})
    assert ours.next(token)


def test_resource_of_a_refresh(program: Callable[..., Program]) -> None:
    """RFC 8707 section 2.2."""
    ours = program()
    granted = ["https://one.example.com/", "https://two.example.com/"]
    token = ours.log_in(resource=granted)
    assert ours.introspect(token["access_token"])["aud"] == granted

    narrow = ours.next(token, resource=granted[1])
    assert ours.introspect(narrow["access_token"])["aud"] == granted[1:]
    wide = ours.next(narrow)
    assert ours.introspect(wide["access_token"])["aud"] == granted

    assert [request["resource"] for request in ours.grant()["requests"]] == [[granted[1]], []]


@pytest.mark.parametrize(
    "resource", ["https://three.example.com/", "two", "https://one.example.com/#x", "http://[", " "]
)
def test_resource_that_was_not_granted_is_refused(
    program: Callable[..., Program], resource: str
) -> None:
    ours = program()
    token = ours.log_in(resource="https://one.example.com/")

    assert ours.refresh(token, resource=resource) == (400, {"error": "invalid_target"})
    assert ours.next(token)


def test_resource_without_a_value_is_as_if_it_were_omitted(
    program: Callable[..., Program],
) -> None:
    """RFC 6749 section 3.2."""
    ours = program()
    token = ours.log_in(resource="https://one.example.com/")

    status, refreshed = ours.refresh(token, resource="")

    assert status == 200
    assert ours.introspect(refreshed["access_token"])["aud"] == ["https://one.example.com/"]


def test_resource_of_the_first_token(program: Callable[..., Program]) -> None:
    ours = program()
    status, answer = ours.post("/oauth/device_authorization", resource="relative")
    assert (status, answer["error"]) == (400, "invalid_target")

    granted = ["https://one.example.com/", "https://two.example.com/"]
    started = ours.post("/oauth/device_authorization", resource=granted)[1]
    ours.server.person.approve(started["user_code"])
    form = {"grant_type": DEVICE_CODE, "device_code": started["device_code"]}
    status, answer = ours.post("/oauth/token", resource="https://three.example.com/", **form)
    assert (status, answer["error"]) == (400, "invalid_target")
    token = ours.post("/oauth/token", resource=granted[0], **form)[1]
    assert ours.introspect(token["access_token"])["aud"] == granted[:1]


def test_audience(program: Callable[..., Program]) -> None:
    ours = program()
    token = ours.log_in(audience="api")
    assert ours.introspect(token["access_token"])["aud"] == ["api"]

    other = ours.next(token, audience="another")

    assert ours.introspect(other["access_token"])["aud"] == ["another"]
    assert ours.introspect(ours.next(other)["access_token"])["aud"] == ["api"]


# Who may.


def test_refresh_token_of_another_client_is_refused_and_not_used_up(
    program: Callable[..., Program],
) -> None:
    ours = program()
    token = ours.log_in()

    assert Program(ours.server, client_id="thief").refresh(token) == REFUSED
    assert ours.next(token)


@pytest.mark.parametrize("kind", ["access_token", "device_code", "unknown"])
def test_what_is_no_refresh_token_is_refused(program: Callable[..., Program], kind: str) -> None:
    ours = program()
    token = ours.log_in()

    assert ours.refresh({"refresh_token": token.get(kind, "x")}) == REFUSED
    assert ours.accepts(token)


def test_confidential_client_authenticates_to_refresh(program: Callable[..., Program]) -> None:
    ours = program(client_secrets={"robot": "s3cret"})
    token = Program(ours.server, client_secret="s3cret").log_in()

    assert ours.refresh(token)[1] == {"error": "invalid_client"}
    assert Program(ours.server, client_secret="s3cret").refresh(token)[0] == 200


# Revocation (RFC 7009).


def test_revoked_refresh_token_ends_the_grant(program: Callable[..., Program]) -> None:
    ours = program()
    first = ours.log_in()
    second = ours.next(first)

    assert ours.post("/oauth/revoke", token=second["refresh_token"]) == (200, {})

    assert not ours.accepts(first)
    assert not ours.accepts(second)
    assert ours.refresh(second) == REFUSED
    assert ours.grant()["state"] == "revoked"


def test_unknown_hint_is_ignored(program: Callable[..., Program]) -> None:
    """RFC 7009 section 2.2."""
    ours = program()
    token = ours.log_in()
    hint = {"token_type_hint": "unknown"}

    assert ours.post("/oauth/revoke", token=token["access_token"], **hint) == (200, {})
    assert ours.post("/oauth/revoke", **hint)[0] == 400

    assert not ours.accepts(token)


def test_revoked_access_token_ends_alone(program: Callable[..., Program]) -> None:
    ours = program()
    token = ours.log_in()
    hint = {"token_type_hint": "access_token"}

    assert ours.post("/oauth/revoke", token=token["access_token"], **hint) == (200, {})

    assert not ours.accepts(token)
    assert ours.accepts(ours.next(token))


def test_replaced_refresh_token_can_be_revoked(program: Callable[..., Program]) -> None:
    """A program that lost the answer of a refresh has no other."""
    ours = program()
    first = ours.log_in()
    second = ours.next(first)

    ours.post("/oauth/revoke", token=first["refresh_token"])

    assert not ours.accepts(second)


def test_unknown_token_is_revoked_already(program: Callable[..., Program]) -> None:
    assert program().post("/oauth/revoke", token="unknown") == (200, {})


def test_token_of_another_client_is_not_revoked(program: Callable[..., Program]) -> None:
    ours = program()
    token = ours.log_in()

    status, answer = Program(ours.server, client_id="thief").post(
        "/oauth/revoke", token=token["refresh_token"]
    )

    assert (status, answer["error"]) == (400, "invalid_grant")
    assert ours.accepts(token)


# Introspection (RFC 7662).


def test_introspected(program: Callable[..., Program]) -> None:
    ours = program(access_token_lifetime=60)
    token = ours.log_in()
    now = int(ours.server.clock.now)
    common = {
        "active": True,
        "client_id": "robot",
        "iat": now,
        "iss": "http://localhost",
        "scope": "read write offline_access",
        "sub": "local",
    }

    access, refresh = (ours.introspect(token[f"{kind}_token"]) for kind in ("access", "refresh"))

    assert access == common | {"exp": now + 60, "token_type": "Bearer"}
    assert refresh == common | {"exp": now + 30 * 86400}


def test_replaced_refresh_token_is_not_active(program: Callable[..., Program]) -> None:
    ours = program(reuse_grace=30)
    first = ours.log_in()
    second = ours.next(first)

    assert ours.introspect(first["refresh_token"]) == {"active": False}
    assert ours.introspect(second["refresh_token"])["active"]
    assert ours.introspect("unknown") == {"active": False}


def test_public_client_learns_of_its_own_tokens_only(program: Callable[..., Program]) -> None:
    ours = program(client_secrets={"api": "s3cret"})
    token = ours.log_in()
    stranger = Program(ours.server, client_id="stranger")
    api = Program(ours.server, client_id="api", client_secret="s3cret")

    assert stranger.introspect(token["access_token"]) == {"active": False}
    assert api.introspect(token["access_token"])["active"]


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (None, "missing_authorization"),
        ("Bearer unknown", "invalid_token"),
        ("Basic eDp5", "unsupported_token_type"),
    ],
)
def test_resource_takes_valid_access_tokens_only(
    serve: Callable[..., Remote], header: str | None, error: str
) -> None:
    headers = {"Authorization": header} if header else {}

    answer = serve().get("/oauth/resource", headers=headers)

    assert (answer.status_code, answer.json()["error"]) == (401, error)
    assert answer.headers["WWW-Authenticate"].lower().startswith("bearer")


def test_resource_takes_no_refresh_token(program: Callable[..., Program]) -> None:
    ours = program()
    refresh_token = ours.log_in()["refresh_token"]

    assert (
        not ours.server.http.get(
            "/oauth/resource", headers={"Authorization": f"Bearer {refresh_token}"}
        )
        .get_json()
        .get("active")
    )


def test_studios_tokens_have_grants_without_refresh(local: Callable[..., Local]) -> None:
    server = local(control=True, refresh_scope="")

    def log_in(**asked: Any) -> tuple[str, dict[str, Any]]:
        started = server.start_studio(**asked)
        server.person.approve(started["user_code"])
        body = {"code": started["device_code"]}
        return started["user_code"], server.http.post(started["token_uri"], json=body).get_json()

    def accepts(token: dict[str, Any]) -> bool:
        bearer = {"Authorization": f"Bearer {token['access_token']}"}
        return bool(server.http.get("/oauth/resource", headers=bearer).status_code == 200)

    user_code, lasting = log_in()
    _, short = log_in(expires_in_days=1)
    assert lasting.keys() == {"access_token"}
    server.clock.advance(86400)
    assert (accepts(lasting), accepts(short)) == (True, False)

    server.http.post("/control/invalidate", json={"user_code": user_code})
    assert not accepts(lasting)


# What is remembered.


def test_ended_grants_are_forgotten(program: Callable[..., Program]) -> None:
    ours = program(access_token_lifetime=60, refresh_token_lifetime=600)
    ours.next(ours.log_in())
    ours.server.clock.advance(600 + 3600)
    ours.log_in()
    assert len(ours.server.http.get("/control/grants").get_json()["grants"]) == 2

    ours.server.clock.advance(61)
    ours.log_in()

    assert len(ours.server.http.get("/control/grants").get_json()["grants"]) == 2


def test_secrets_are_not_logged(
    serve: Callable[..., Remote], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    remote = serve(control=True, refresh_scope="")
    first = log_in(remote)
    form = {
        "client_id": "robot",
        "grant_type": "refresh_token",
        "refresh_token": first["refresh_token"],
    }
    second = remote.post("/oauth/token", data=form).json()
    for endpoint in ("introspect", "revoke"):
        form = {"client_id": "robot", "token": second["refresh_token"]}
        assert remote.post(f"/oauth/{endpoint}", data=form).status_code == 200
    seen = caplog.text + remote.get("/control/grants").text

    assert "robot" in seen
    for token in (first, second):
        assert token["access_token"] not in seen
        assert token["refresh_token"] not in seen


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"refresh_tokens": "forever"}, "refresh_tokens must be one of"),
        ({"reuse_grace": -1}, "reuse_grace must not be negative"),
        ({"access_token_lifetime": 0}, "access_token_lifetime must be greater than 0"),
        ({"refresh_token_lifetime": 0}, "refresh_token_lifetime must be greater than 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        Settings(**settings)


def log_in(remote: Remote) -> dict[str, Any]:
    started = remote.post("/oauth/device_authorization", data={"client_id": "robot"}).json()
    remote.post("/control/approve", json={"user_code": started["user_code"]})
    form = {
        "client_id": "robot",
        "grant_type": DEVICE_CODE,
        "device_code": started["device_code"],
    }
    return dict(remote.post("/oauth/token", data=form).json())
