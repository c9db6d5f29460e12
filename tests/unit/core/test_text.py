"""What a server says is limited and cleaned, and none of a login's secrets is in what is kept."""

from __future__ import annotations

import base64
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceflow import Client, OAuth, Secret, Studio, Token, errors, export
from deviceflow.core.explain import instructions
from deviceflow.core.states import Reason, State
from deviceflow.core.text import SecretMatcher
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.examples import examples
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Response

    Spelled = list[str]
    Spell = Callable[[Spelled], Spelled]

OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/code",
    token_endpoint="https://as.example.com/token",
)
STUDIO: Final = Studio("https://studio.example.com")

DEVICE: Final = "dc-7Qm3xW9bT2kLzP5vH8"
USER: Final = "WDJB-MJHT"
ACCESS: Final = "isat-4fH8sJ2nV6yR1dG0"
REFRESH: Final = "rt-9Zq1Lw6Kc8Xb3Nv5"
CLAIMS: Final = {"iss": "https://as.example.com", "aud": "robot", "exp": 4_000_000_000}
ID_TOKEN: Final = ".".join(
    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
    for part in ({"alg": "none"}, CLAIMS, "signature")
)
CODE: Final = {
    "device_code": DEVICE,
    "user_code": USER,
    "verification_uri": "https://as.example.com/device",
    "token_uri": "https://studio.example.com/token",
    "expires_in": 600,
}


class Login:
    """A login in memory, at a server that gives these answers; all that is kept and logged of it.

    Args:
        provider: The server.
        *script: Its answers.
    """

    def __init__(self, provider: Provider, *script: Response) -> None:
        self.clock = VirtualClock()
        self.client = Client(
            MemoryStore(), transport=ScriptedTransport(script), clock=self.clock, audit=None
        )
        self.flow_id = self.client.create(provider).id

    def step(self) -> Flow:
        """Step once, when that is due."""
        done = self.client.step(self.flow_id)
        self.clock.advance(done.wait_seconds)
        return get(self.client._store, self.flow_id)


def kept(flow: Flow) -> str:
    """Return what is kept of a login in clear, wherever it is sealed."""
    return json.dumps(export.to_dict(flow), ensure_ascii=False)


def refusal(said: str, provider: Provider = OAUTH, code: dict[str, Any] = CODE) -> str:
    """Return what is kept of a refusal in these words."""
    name = "detail" if isinstance(provider, Studio) else "error"
    login = Login(provider, answer(200, code), answer(400, {name: said}))
    login.step()
    flow = login.step()
    assert flow.state is State.FAILED
    return flow.detail or ""


# Scopes, and whatever else comes with a token.


def granted(caplog: pytest.LogCaptureFixture, **more: Any) -> tuple[Token, dict[str, Any]]:
    """Return the token of a login, and the event that says it was granted."""
    caplog.set_level(logging.INFO, "deviceflow")
    token = {
        "access_token": ACCESS,
        "refresh_token": REFRESH,
        "id_token": ID_TOKEN,
    }
    login = Login(OAUTH, answer(200, CODE), answer(200, token | more))
    login.step()
    flow = login.step()
    events = [vars(record)["deviceflow"] for record in caplog.records]
    assert flow.token is not None
    return flow.token, events[-1]


@pytest.mark.parametrize("scope", ["repo {0}", "{0}", "repo:{0}", "repo {1} {2}"])
@pytest.mark.parametrize("secret", [ACCESS, REFRESH, ID_TOKEN, DEVICE, USER])
def test_secret_in_a_scope_is_neither_kept_nor_logged(
    caplog: pytest.LogCaptureFixture, scope: str, secret: str
) -> None:
    half = len(secret) // 2
    said = scope.format(secret, secret[:half], secret[half:])

    token, event = granted(caplog, scope=said, token_type=secret)

    for shown in (token.scopes, event["granted_scopes"]):
        joined = "".join(shown or ())
        assert not [piece for piece in pieces(secret, 8) if piece in joined]
    assert secret not in token.token_type
    assert secret not in caplog.text


def test_scopes_are_limited_in_number_and_length(caplog: pytest.LogCaptureFixture) -> None:
    scope = " ".join(["x" * 300_000, *(f"scope-{number}" for number in range(10_000))])

    token, event = granted(caplog, scope=scope, token_type="b" * 100_000)

    assert token.scopes is not None
    assert len(token.scopes) <= 100
    assert max(map(len, token.scopes)) <= 200
    assert event["granted_scopes"] == list(token.scopes)
    assert len(json.dumps(event)) < 30_000
    assert len(token.token_type) <= 200


@pytest.mark.parametrize("scope", ["re\x1b[2Jpo", ["re\x1b]0;owned\x07po\n", "\x9b31m"]])
def test_scope_steers_no_terminal(caplog: pytest.LogCaptureFixture, scope: Any) -> None:
    token, event = granted(caplog, scope=scope)

    assert all(map(str.isprintable, token.scopes or ()))
    assert all(map(str.isprintable, event["granted_scopes"]))


@pytest.mark.parametrize(
    "scope",
    [
        "https://www.googleapis.com/auth/drive.file openid",
        "api://3fa85f64-5717-4562-b3fc-2c963f66afa6/access_as_user",
        "read:org repo:status gist",
        "urn:zitadel:iam:org:project:id:zitadel:aud",
    ],
)
def test_scopes_of_this_world_are_kept_as_they_are(
    caplog: pytest.LogCaptureFixture, scope: str
) -> None:
    token, event = granted(caplog, scope=scope)

    assert token.scopes == tuple(scope.split())
    assert event["granted_scopes"] == scope.split()


def test_scope_beside_an_endless_token_is_hidden_whole() -> None:
    token = {"access_token": "tk" * 100_000, "scope": "a b"}
    login = Login(OAUTH, answer(200, CODE), answer(200, token))
    login.step()

    issued = login.step().token

    assert issued is not None
    assert issued.scopes == ("<secret>",)


def test_scope_that_was_granted_is_not_missed_for_being_long() -> None:
    long = "s" * 300
    provider = OAUTH.with_request(scopes=[long, "other"])
    login = Login(provider, answer(200, CODE), answer(200, {"access_token": ACCESS, "scope": long}))
    login.step()

    token = login.step().token

    assert token is not None
    assert token.missing_scopes == ("other",)


@pytest.mark.parametrize("name", [f"robot {DEVICE}", DEVICE, USER.lower(), USER.replace("-", " ")])
def test_name_of_a_token_that_echoes_a_code_is_not_kept(name: str) -> None:
    flow = Login(STUDIO, answer(200, CODE | {"token_name": name})).step()

    kept_name = dict(flow.extra)["token_name"] or ""
    assert DEVICE not in kept_name
    assert "MJHT" not in kept_name.upper()


def test_name_of_a_token_is_limited_and_steers_nothing() -> None:
    name = "ro\x1b[31mbot\r\n" + "x" * 100_000

    kept_name = dict(Login(STUDIO, answer(200, CODE | {"token_name": name})).step().extra)

    assert (kept_name["token_name"] or "").startswith("robot  xxx")
    assert len(kept_name["token_name"] or "") <= 200


@pytest.mark.parametrize("name", ["robot", "nightly-4f2a9c31", "Alice's laptop (2026-01-31)", "é"])
def test_name_of_a_token_is_kept_as_it_is(name: str) -> None:
    flow = Login(STUDIO, answer(200, CODE | {"token_name": name})).step()

    assert dict(flow.extra)["token_name"] == name


# Refreshing.


@pytest.mark.parametrize("said", [REFRESH, f"no such token: {REFRESH}", REFRESH.encode().hex()])
def test_refusal_to_refresh_does_not_quote_the_token(said: str) -> None:
    token = Token(Secret(ACCESS), refresh_token=Secret(REFRESH))
    transport = ScriptedTransport([answer(400, {"error": said})])

    with pytest.raises(errors.RejectedError) as caught:
        Client(transport=transport, clock=VirtualClock()).refresh(OAUTH, token)

    assert not [piece for piece in pieces(REFRESH, 8) if piece in str(caught.value)]
    assert REFRESH.encode().hex() not in str(caught.value)


def test_scope_of_the_next_token_does_not_echo_the_one_before() -> None:
    token = Token(Secret(ACCESS), refresh_token=Secret(REFRESH))
    fresh = {"access_token": "fresh-0123456789", "scope": f"a {REFRESH} {ACCESS.upper()}"}
    transport = ScriptedTransport([answer(200, fresh)])

    refreshed = Client(transport=transport, clock=VirtualClock()).refresh(OAUTH, token)

    assert refreshed.scopes == ("a", "<secret>", "<secret>")


# Spellings.


def pieces(text: str, length: int) -> list[str]:
    return [text[at : at + length] for at in range(len(text) - length + 1)]


def each(spell: Callable[[str], str]) -> Spell:
    return lambda chars: [spell(char) for char in chars]


def percent(char: str) -> str:
    return "".join(f"%{byte:02x}" for byte in char.encode())


def escaped(char: str) -> str:
    return "".join(
        f"\\u{int.from_bytes(char.encode('utf-16-be')[at : at + 2], 'big'):04X}"
        for at in range(0, len(char.encode("utf-16-be")), 2)
    )


def wide(char: str) -> str:
    return chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char


SPELLINGS: Final[dict[str, Spell]] = {
    "as it is": lambda chars: chars,
    "percent": each(percent),
    "\\u": each(escaped),
    "decimal entities": each(lambda text: "".join(f"&#{ord(char)};" for char in text)),
    "hex entities": each(lambda text: "".join(f"&#x{ord(char):X};" for char in text)),
    "marks": each(lambda text: "".join(f"{char}\u0301" for char in text)),
    "full width": each(lambda text: "".join(map(wide, text))),
    "upper case": each(str.upper),
    "swapped case": each(str.swapcase),
    "spaces": each(lambda text: f"{text} "),
    "dashes": each(lambda text: f"{text}-"),
    "hex": each(lambda text: text.encode().hex()),
    "hex with colons": each(lambda text: f"{text.encode().hex(':')}:"),
}
BASES: Final[dict[str, Callable[[str], str]]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
}
OUTER: Final = (
    "as it is",
    "percent",
    "\\u",
    "decimal entities",
    "spaces",
    "dashes",
    "hex",
    "marks",
)
# What folds the case must not come before what needs it to be undone.
_LAST: Final = ("upper case", "swapped case")

secrets = st.text(
    alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    min_size=16,
    max_size=40,
) | st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=16, max_size=40)
spellings = st.lists(st.sampled_from(sorted(SPELLINGS)), max_size=2).map(
    lambda names: [n for n in names if n not in _LAST] + [n for n in names if n in _LAST][:1]
)
around = st.sampled_from(
    ["{}", "no such code: {}", "The code <{}> is unknown here.", "code={}&x=1"]
)


def shown_pieces(spelled: Spelled, said: str) -> list[str]:
    """Return which pieces of eight characters can still be read."""
    spelled_pieces = ["".join(spelled[at : at + 8]) for at in range(len(spelled) - 7)]
    return [piece for piece in spelled_pieces if piece.strip() in said]


@examples(100)
@given(secrets, spellings, around)
@example("abcdefghijklmnop", ["percent", "percent"], "{}")
@example("abcdefghijklmnop", ["\\u", "percent"], "{}")
@example("Abcdefghijklmnop", ["full width", "hex"], "no such code: {}")
def test_no_spelling_of_a_code_gets_into_what_is_kept(
    secret: str, names: list[str], sentence: str
) -> None:
    spelled = list(secret)
    # The innermost comes first; what is spelled in full last is what can be read.
    for name in [n for n in names if n in _LAST] + [n for n in names if n not in _LAST]:
        spelled = SPELLINGS[name](spelled)

    said = refusal(sentence.format("".join(spelled)), code=CODE | {"device_code": secret})

    assert not shown_pieces(spelled, said)


@examples(60)
@given(secrets, st.sampled_from(sorted(BASES)), spellings, st.sampled_from(OUTER), around)
@example("abcdefghijklmnop", "base64", [], "as it is", "no such code: {}")
def test_no_base64_of_a_code_gets_into_what_is_kept(
    secret: str, base: str, inner: list[str], outer: str, sentence: str
) -> None:
    spelled = list(secret)
    for name in inner[:1] if base != "base64 of UTF-16" else ():
        spelled = SPELLINGS[name](spelled)
    chars = list(BASES[base]("".join(spelled)))
    spelled = SPELLINGS[outer](chars)

    said = refusal(sentence.format("".join(spelled)), code=CODE | {"device_code": secret})

    # So much of it is eight characters of the code, wherever they begin.
    whole = -(-len(chars) * 10 // len(secret))
    shown = ["".join(spelled[at : at + whole]) for at in range(len(spelled) - whole + 1)]
    assert not [piece for piece in shown if piece.strip() in said]


@pytest.mark.parametrize(
    "spelled",
    [
        USER,
        USER.lower(),
        "WDJBMJHT",
        "wdjb mjht",
        "W D J B M J H T",
        "w.d.j.b.m.j.h.t",
        "WDJBMJ",
        "".join(map(percent, USER)),
        "".join(map(percent, "".join(map(percent, USER)))),
        "".join(map(escaped, USER)),
        "".join(map(wide, USER)),
        USER.encode().hex(),
        USER.encode().hex(" "),
        base64.b64encode(USER.encode()).decode(),
        base64.b64encode(f"a{USER}".encode()).decode(),
        base64.b64encode(base64.b64encode(USER.encode())).decode(),
    ],
)
@pytest.mark.parametrize("provider", [OAUTH, STUDIO])
def test_no_spelling_of_the_user_code_gets_into_what_is_kept(
    provider: Provider, spelled: str
) -> None:
    assert spelled not in refusal(f"the code {spelled} is unknown", provider)


@pytest.mark.parametrize(
    "token",
    [
        ACCESS,
        "hJkqWxzPbVmTcRgQdXwZ",
        "qxvzkjwpqhtfnbmrcdgs",
        "4fH8sJ2nV6yR",
        "4fH8s-J2nV6-yR1dG-0pQ2w",
        "dGhpcyBpcyBhIHRva2Vu",
        "3f9a0c1b2d4e",
    ],
)
def test_token_that_was_never_seen_is_known_by_its_looks(token: str) -> None:
    assert token not in refusal(f"the token {token} is taken")


READABLE: Final = [
    "authorization_pending_for_another_client",
    "org.example.some_error",
    "com.example.auth.DeviceCodeNotFoundException",
    "AADSTS7000218: The request body must contain the parameter client_assertion.",
    "unsupported_grant_type",
    "The device grant is not enabled for this client; ask an administrator of example.com.",
    "urn:ietf:params:oauth:grant-type:device_code is not supported",
    "Client must be authenticated to access this resource (HTTP 401).",
    "Rate limit exceeded: 25 requests per 300 seconds, retry after 2026-01-31T12:00:00Z",
    "internationalization and incomprehensibilities are words",
    "PKCE code_verifier is missing; see RFC7636 section 4.6, https://www.rfc-editor.org/rfc/rfc7636",
    "Zugriff verweigert: die Anmeldung wurde abgelehnt",
    "L'utilisateur n'est pas autorisé à utiliser cette application",
    "ユーザーが拒否しました",
    "invalid_client: No client with id robot-nightly-builds in realm production2",
]


@pytest.mark.parametrize("said", READABLE)
def test_ordinary_words_are_kept_as_they_are(said: str) -> None:
    assert refusal(said) == said


def nested(text: str, times: int) -> str:
    return nested(base64.b64encode(text.encode()).decode(), times - 1) if times else text


@pytest.mark.parametrize(
    "said",
    [
        "x" * 10_000_000,
        "%41" * 300_000,
        "%" + "25" * 100_000 + "41",
        "AAAA " * 200_000,
        "&#65" * 9999,
        "\ufdfa" * 100_000,
        nested("d" * 20, 7),
    ],
)
def test_no_text_takes_long(said: str) -> None:
    code = CODE | {"device_code": "d" * 8000}
    login = Login(OAUTH, answer(200, code), answer(400, {"error": said}))
    login.step()
    before = time.process_time()

    flow = login.step()

    assert time.process_time() - before < 3
    assert len(flow.detail or "") <= 200


def test_what_is_looked_for_does_not_show() -> None:
    assert USER not in repr(SecretMatcher(Secret(DEVICE), user_code=USER))


# Codes and links.


TOO_LONG: Final = {
    "device_code": "d" * 8193,
    "user_code": "U" * 101,
    "verification_uri": "https://as.example.com/" + "x" * 2048,
    "verification_uri_complete": "https://as.example.com/" + "x" * 2048,
    "token_uri": "https://studio.example.com/" + "x" * 2048,
}


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        *((OAUTH, name) for name in TOO_LONG if name != "token_uri"),
        *((STUDIO, name) for name in TOO_LONG if name != "verification_uri_complete"),
    ],
)
def test_what_is_too_long_ends_the_login_and_is_named(provider: Provider, name: str) -> None:
    login = Login(provider, answer(200, CODE | {name: TOO_LONG[name]}))

    flow = login.step()

    assert flow.reason is Reason.PROTOCOL
    assert f"{name} is too long" in (flow.detail or "")


@pytest.mark.parametrize("provider", [OAUTH, STUDIO])
def test_the_longest_that_is_allowed_is_taken(provider: Provider) -> None:
    page = "https://as.example.com/".ljust(1700, "x")
    code = {"device_code": "d" * 8192, "user_code": "U" * 100, "verification_uri": page}

    flow = Login(provider, answer(200, CODE | code)).step()

    assert flow.state is State.AWAITING_USER
    assert flow.verification_uri == page


UNUSABLE: Final = [
    "javascript:alert(1)",
    "https://as.example.com@evil.example.com/",
    "https://user:password@as.example.com/",
    "file:///etc/passwd",
    "data:text/html,hello",
    "http://[::1",
    "https://as.example.com/\x1b[2J",
]


@pytest.mark.parametrize("page", UNUSABLE)
def test_oauth_login_without_a_usable_address_fails_at_once(page: str) -> None:
    flow = Login(OAUTH, answer(200, CODE | {"verification_uri": page})).step()

    assert flow.reason is Reason.PROTOCOL
    assert "verification_uri" in (flow.detail or "")
    assert page not in kept(flow)


@pytest.mark.parametrize("page", UNUSABLE)
def test_studio_login_without_a_usable_address_says_so(page: str) -> None:
    """Its three functions return the login all the same, and a person may know the page."""
    flow = Login(STUDIO, answer(200, CODE | {"verification_uri": page})).step()

    lines = instructions(flow)

    assert flow.state is State.AWAITING_USER
    assert not [line for line in lines if line.startswith("Open ")]
    assert not [line for line in lines if page[:11] in line]
    assert "no usable URL" in " ".join(lines)
    assert USER in " ".join(lines)


@pytest.mark.parametrize("complete", UNUSABLE)
def test_complete_address_that_is_none_is_left_out(complete: str) -> None:
    flow = Login(OAUTH, answer(200, CODE | {"verification_uri_complete": complete})).step()

    assert flow.verification_uri_complete is None
    assert instructions(flow)[3:5] == [CODE["verification_uri"], USER]


@pytest.mark.parametrize("provider", [OAUTH, STUDIO])
@pytest.mark.parametrize("name", ["verification_uri", "verification_uri_complete", "token_uri"])
def test_device_code_in_an_address_is_not_kept_in_clear(provider: Provider, name: str) -> None:
    address = f"https://as.example.com/{DEVICE}/login"

    flow = Login(provider, answer(200, CODE | {name: address})).step()

    assert DEVICE not in kept(flow)


# What a row that was tampered with has in it.


@pytest.mark.parametrize(
    "changed",
    [
        {"detail": "\x1b[2J" + "x" * 10_000},
        {"user_code": "\x1b[2J" + "x" * 10_000},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "https://as.example.com/" + "x" * 10_000},
        {"verification_uri_complete": "https://u:p@as.example.com/"},
        {"extra": {"token_name": "\x1b[2J" + "x" * 10_000}},
        {"extra": {"token_name": [["x"]]}},
    ],
)
def test_record_is_cleaned_anew_when_it_is_read(changed: dict[str, Any]) -> None:
    flow = Login(STUDIO, answer(200, CODE)).step()

    read = export.from_dict(export.to_dict(flow, secrets=True) | changed)

    text = kept(read)
    assert len(text) < 2000
    assert "\\u001b" not in json.dumps(export.to_dict(read))
    assert "javascript" not in text
    assert "u:p@" not in text


@pytest.mark.parametrize("name", ["scopes", "missing_scopes", "token_type"])
def test_token_is_cleaned_anew_when_it_is_read(caplog: pytest.LogCaptureFixture, name: str) -> None:
    token, _ = granted(caplog, scope="a b")
    hostile = ["\x1b[2J" + "x" * 10_000, ACCESS] * 200
    value = hostile[0] if name == "token_type" else hostile

    read = Token.from_dict(token.to_dict() | {name: value})

    texts = [read.token_type, *(read.scopes or ()), *read.missing_scopes]
    assert all(text.isprintable() and len(text) <= 200 for text in texts)
    assert len(texts) <= 201
    assert ACCESS not in texts


# Whose machine a server may name.


REMOTE: Final = "https://as.example.com"
HERE: Final = [
    "http://127.0.0.1/token",
    "http://localhost:8080/token",
    "http://[::1]/token",
    "http://login.localhost/token",
    "https://127.0.0.1/token",
    "https://localhost/token",
    "https://localhost./token",
    "https://[::ffff:127.0.0.1]/token",
    "https://0.0.0.0/token",
    "https://[::]/token",
    "https://127.1/token",
    "https://2130706433/token",
    "https://0x7f.1/token",
]


def metadata(**changed: str) -> Response:
    return answer(
        200,
        {
            "issuer": REMOTE,
            "device_authorization_endpoint": f"{REMOTE}/code",
            "token_endpoint": f"{REMOTE}/token",
            "revocation_endpoint": f"{REMOTE}/revoke",
        }
        | changed,
    )


@pytest.mark.parametrize("allow_http", [False, True])
@pytest.mark.parametrize("url", HERE)
@pytest.mark.parametrize(
    "name", ["device_authorization_endpoint", "token_endpoint", "revocation_endpoint"]
)
def test_remote_issuer_names_no_endpoint_on_this_machine(
    name: str, url: str, allow_http: bool
) -> None:
    provider = OAuth(client_id="c", issuer=REMOTE, allow_http=allow_http)
    transport = ScriptedTransport([metadata(**{name: url})] * 2)

    with pytest.raises(errors.ProtocolError, match=r"this machine|Not a valid http\(s\) URL"):
        Client(transport=transport, clock=VirtualClock()).start(provider)

    assert {request.purpose for request in transport.requests} == {"metadata"}


@pytest.mark.parametrize("allow_http", [False, True])
@pytest.mark.parametrize("url", HERE)
def test_remote_studio_names_no_endpoint_on_this_machine(url: str, allow_http: bool) -> None:
    provider = Studio("https://studio.example.com", allow_http=allow_http)

    flow = Login(provider, answer(200, CODE | {"token_uri": url})).step()

    assert flow.reason is Reason.PROTOCOL
    assert url not in kept(flow)


@pytest.mark.parametrize("url", HERE[:7])
def test_settings_mix_no_other_machine_with_this_one(url: str) -> None:
    with pytest.raises(errors.InsecureURLError, match="this machine"):
        OAuth(
            client_id="c", issuer=REMOTE, token_endpoint=url, device_authorization_endpoint=REMOTE
        )
    with pytest.raises(errors.InsecureURLError, match="this machine"):
        OAuth(client_id="c", token_endpoint=url, device_authorization_endpoint=REMOTE)


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:8080", "http://localhost", "https://[::1]"])
def test_server_on_this_machine_names_endpoints_here(issuer: str) -> None:
    provider = OAuth(client_id="c", issuer=issuer)
    said = {
        "issuer": issuer,
        "device_authorization_endpoint": "http://localhost:1/code",
        "token_endpoint": "http://127.0.0.1:2/token",
    }
    transport = ScriptedTransport([metadata(**said), answer(200, CODE)])

    flow = Client(transport=transport, clock=VirtualClock()).start(provider)

    assert flow.token_endpoint == "http://127.0.0.1:2/token"


def test_adopted_code_is_not_polled_on_this_machine_for_another() -> None:
    client = Client(transport=ScriptedTransport([]), clock=VirtualClock())

    with pytest.raises(errors.InsecureURLError, match="this machine"):
        client.adopt(STUDIO, token_endpoint="http://127.0.0.1/t", device_code=Secret(DEVICE))
