"""How a client shows who it is: what is added to a request, right before it is sent."""

from __future__ import annotations

import base64
import json
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest
from joserfc import jwk, jwt

from deviceflow import export
from deviceflow.client._sync import Client
from deviceflow.core.states import State
from deviceflow.core.wire import ClientAuth, Request
from deviceflow.credentials.client_auth import ASSERTION_LIFETIME, authenticated
from deviceflow.credentials.secret_refs import resolve
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import OAuth
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Rendered = Callable[[BaseException], str]

NOW: Final = 1_800_000_000.75
TOKEN_AT: Final = "https://as.example.com/token"
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
JSON: Final = {"Content-Type": "application/json"}


def request(
    method: Any,
    reference: str | None = "env:THE_SECRET",
    *,
    client_id: str = "robot",
    headers: dict[str, str] = FORM,
    body: bytes = b"a=b",
) -> Request:
    auth = ClientAuth(method, client_id, reference, TOKEN_AT)
    return Request("token", TOKEN_AT, headers, body, auth=auth)


# By secret.


def test_public_client_shows_nothing() -> None:
    public = request("none", None)

    assert authenticated(public, NOW) is public
    bare = Request("code", TOKEN_AT, FORM, b"")
    assert authenticated(bare, NOW) is bare


@pytest.mark.parametrize(
    ("client_id", "secret", "pair"),
    [
        ("robot", "s3cret", "robot:s3cret"),
        # RFC 6749 section 2.3.1: each is form-encoded first.
        ("a:b c", "p@ss:w+rd/%", "a%3Ab%20c:p%40ss%3Aw%2Brd%2F%25"),
        ("robot", "\u00e9", "robot:%C3%A9"),
    ],
)
def test_basic_is_in_the_header_form_encoded(
    monkeypatch: pytest.MonkeyPatch, client_id: str, secret: str, pair: str
) -> None:
    monkeypatch.setenv("THE_SECRET", secret)

    done = authenticated(request("client_secret_basic", client_id=client_id), NOW)

    kind, _, encoded = done.headers["Authorization"].partition(" ")
    assert (kind, base64.b64decode(encoded).decode()) == ("Basic", pair)
    assert done.body == b"a=b"
    assert done.headers["Content-Type"] == FORM["Content-Type"]
    assert done.auth is None


def test_post_is_in_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "s3cret&a=x")

    done = authenticated(request("client_secret_post"), NOW)

    assert parse_qs(done.body.decode(), strict_parsing=True) == {
        "a": ["b"],
        "client_secret": ["s3cret&a=x"],
    }
    assert "Authorization" not in done.headers


def test_post_is_in_the_json_where_that_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", 's3"cret')

    done = authenticated(request("client_secret_post", headers=JSON, body=b'{"a": [1]}'), NOW)

    assert json.loads(done.body) == {"a": [1], "client_secret": 's3"cret'}


# By key.

KEYS: Final[dict[str, Callable[[], Any]]] = {
    "RS256": lambda: jwk.RSAKey.generate_key(2048),
    "ES256": lambda: jwk.ECKey.generate_key("P-256"),
    "ES384": lambda: jwk.ECKey.generate_key("P-384"),
    "ES512": lambda: jwk.ECKey.generate_key("P-521"),
    "EdDSA": lambda: jwk.OKPKey.generate_key("Ed25519"),
}


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("form", ["pem", "jwk"])
def test_assertion_says_who_for_whom_and_for_how_long(
    tmp_path: Path, algorithm: str, form: str
) -> None:
    key = KEYS[algorithm]()
    file = tmp_path / "key"
    if form == "pem":
        file.write_bytes(key.as_pem(private=True))
    else:
        file.write_text(json.dumps(key.as_dict(private=True) | {"kid": "k1"}))

    done = authenticated(request("private_key_jwt", f"file:{file}"), NOW)

    sent = parse_qs(done.body.decode(), strict_parsing=True)
    assert sent["client_assertion_type"] == [
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EdDSA; that we sign without one is tested above
        read = jwt.decode(sent["client_assertion"][0], key, algorithms=[algorithm])
    assert read.header["alg"] == algorithm
    assert read.header.get("kid") == ("k1" if form == "jwk" else None)
    claims = dict(read.claims)
    assert len(claims.pop("jti")) >= 16
    assert claims == {
        "iss": "robot",
        "sub": "robot",
        "aud": TOKEN_AT,
        "iat": int(NOW),
        "exp": int(NOW) + ASSERTION_LIFETIME,
    }


def test_no_two_assertions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    key = KEYS["ES256"]()
    monkeypatch.setenv("THE_SECRET", key.as_pem(private=True).decode())

    def identity() -> Any:
        sent = parse_qs(authenticated(request("private_key_jwt"), NOW).body.decode())
        return jwt.decode(sent["client_assertion"][0], key).claims["jti"]

    assert identity() != identity()


def unusable_keys() -> dict[str, str]:
    public = KEYS["ES256"]()
    return {
        "no key": "CANARY",
        "cut PEM": "-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----",
        "no JSON": "{CANARY",
        "another JSON": '{"kty": "CANARY"}',
        "empty JSON": "{}",
        "list": "[]",
        "a public PEM": public.as_pem(private=False).decode(),
        "a public JWK": json.dumps(public.as_dict(private=False)),
        "a secret": json.dumps({"kty": "oct", "k": "Q0FOQVJZ"}),
        "an encryption key": json.dumps(jwk.OKPKey.generate_key("X25519").as_dict(private=True)),
        "encrypted": public.as_pem(private=True, password="CANARY").decode(),
    }


@pytest.mark.parametrize("name", unusable_keys())
def test_key_that_cannot_sign_is_an_error_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("THE_SECRET", unusable_keys()[name])

    with pytest.raises(UsageError, match="cannot be used to sign") as caught:
        authenticated(request("private_key_jwt"), NOW)

    assert "CANARY" not in str(caught.value)
    assert "RSA, EC on P-256" in str(caught.value)
    assert caught.value.__context__ is None


def test_signing_needs_an_extra_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "key")
    monkeypatch.setitem(sys.modules, "joserfc", None)

    with pytest.raises(ImportError, match=r"pip install 'deviceflow\[oauth\]'"):
        authenticated(request("private_key_jwt"), NOW)


# Where secrets are.


def test_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", " s3cret ")

    assert resolve("env:THE_SECRET").reveal() == " s3cret "


def test_secret_is_read_from_a_file_without_the_space_around_it(tmp_path: Path) -> None:
    file = tmp_path / "a:b"
    file.write_text("\n s3cret\u00e9 \n", "utf-8")

    assert resolve(f"file:{file}").reveal() == "s3cret\u00e9"


def test_secrets_file_may_be_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "s").write_text("s3cret")

    assert resolve("file:~/s").reveal() == "s3cret"


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Write a profile named work."""

    def write(settings: str) -> None:
        file = tmp_path / "config.toml"
        file.write_text(f"[profiles.work]\n{settings}\n")
        file.chmod(0o600)
        monkeypatch.setenv("DEVICEFLOW_CONFIG", str(file))

    return write


@pytest.mark.parametrize("what", ["client_secret", "private_key"])
def test_secret_is_read_from_a_profile(profile: Callable[[str], None], what: Any) -> None:
    profile('client_secret = "s3cret"\nprivate_key = "k3y"')

    wanted = "s3cret" if what == "client_secret" else "k3y"
    assert resolve("profile:work", what).reveal() == wanted


def test_key_of_a_profile_signs(profile: Callable[[str], None]) -> None:
    key = KEYS["ES256"]()
    profile(f"client_secret = 's3cret'\nprivate_key = '''{key.as_pem(private=True).decode()}'''")

    done = authenticated(request("private_key_jwt", "profile:work"), NOW)

    sent = parse_qs(done.body.decode())
    assert jwt.decode(sent["client_assertion"][0], key).claims["sub"] == "robot"


def test_profile_may_say_where_the_secret_is(
    profile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile('client_secret = "env:THE_SECRET"')
    monkeypatch.setenv("THE_SECRET", "s3cret")

    assert resolve("profile:work").reveal() == "s3cret"


def test_profile_that_leads_to_a_profile_leads_nowhere(profile: Callable[[str], None]) -> None:
    profile('client_secret = "profile:work"')

    with pytest.raises(UsageError, match="was not found at profile:work"):
        resolve("profile:work")


@pytest.mark.parametrize(
    "reference",
    [
        "env:NOT_SET",
        "env:EMPTY",
        "env:",
        "env:NO=NAME",
        "env:NO\0NAME",
        "file:/not/there",
        "file:.",
        "file:/no\0file",
        "file:~nobody-of-that-name/s",
        "file:{empty}",
        "file:{binary}",
    ],
)
def test_secret_that_is_not_there_is_an_error_that_says_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: str
) -> None:
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfdCANARY")
    where = reference.format(empty=tmp_path / "empty", binary=tmp_path / "binary")

    with pytest.raises(UsageError, match="secret was not found at") as caught:
        resolve(where)

    assert where in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_secret_that_cannot_be_encoded_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch, rendered: Rendered
) -> None:
    monkeypatch.setenv("THE_SECRET", "CANARY\udcff")

    with pytest.raises(UsageError, match="was not found at env:THE_SECRET") as caught:
        authenticated(request("client_secret_basic"), NOW)

    assert "CANARY" not in str(caught.value)


# In a login.


def test_login_without_its_secret_has_sent_nothing_and_goes_on_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = {"device_code": "d", "user_code": "u", "verification_uri": "https://e.example.com/"}
    transport = ScriptedTransport([answer(200, code), answer(200, {"access_token": "T"})])
    clock = VirtualClock()
    client = Client(transport=transport, clock=clock)
    provider = OAuth(
        client_id="robot",
        client_secret="env:THE_SECRET",
        device_authorization_endpoint="https://as.example.com/device",
        token_endpoint=TOKEN_AT,
    )
    monkeypatch.setenv("THE_SECRET", "s3cret")
    flow = client.start(provider)
    monkeypatch.delenv("THE_SECRET")
    clock.advance(flow.wait_seconds)

    with pytest.raises(UsageError, match="was not found at env:THE_SECRET"):
        client.step(flow.id)

    assert len(transport.requests) == 1
    assert not client.get(flow.id).in_doubt
    assert client.get(flow.id).state is State.AWAITING_USER
    monkeypatch.setenv("THE_SECRET", "s3cret")
    assert client.wait_for_token(flow.id).access_token.reveal() == "T"
    assert "s3cret" not in json.dumps(export.to_dict(get(client._store, flow.id), secrets=True))
