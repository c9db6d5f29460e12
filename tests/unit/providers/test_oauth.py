"""Any OAuth server by its settings: what is checked, what is sent, and what comes back whole."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest

from deviceflow import export
from deviceflow.core.flow import Flow
from deviceflow.core.policy import judged
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason
from deviceflow.core.wire import ClientAuth, Fields
from deviceflow.errors import InsecureURLError, InvalidArgumentError, ProtocolError, UsageError
from deviceflow.providers.codec import provider_from_dict
from deviceflow.providers.dialect import RFC8628, Dialect, read_dialect
from deviceflow.providers.known import known
from deviceflow.providers.known import provider as known_provider
from deviceflow.providers.oauth import GRANT_TYPE, OAuth
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import answer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Request, Response

NOW: Final = 1_800_000_000.0
ISSUER: Final = "https://as.example.com"
DEVICE_AT: Final = f"{ISSUER}/device"
TOKEN_AT: Final = f"{ISSUER}/token"
REVOKE_AT: Final = f"{ISSUER}/revoke"
CODE: Final = Secret("DEVICE-CANARY")

# RFC 7636 appendix B.
VERIFIER: Final = Secret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
CHALLENGE: Final = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def oauth(**settings: Any) -> OAuth:
    """Return a provider; a setting that is `...` is left out."""
    ours: dict[str, Any] = {
        "client_id": "robot",
        "device_authorization_endpoint": DEVICE_AT,
        "token_endpoint": TOKEN_AT,
    }
    return OAuth(**{k: v for k, v in (ours | settings).items() if v is not ...})


def sent(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.body.decode(), keep_blank_values=True, strict_parsing=True)


def token(provider: OAuth | None = None, **fields: Any) -> Token:
    read = (provider or oauth()).read_token(answer(200, {"access_token": "T"} | fields), NOW)
    assert read.token is not None
    return read.token


# Settings.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device_authorization_endpoint": ...}, "No server to log in to is given"),
        ({"token_endpoint": ...}, "No server to log in to is given"),
        ({"token_endpoint": ""}, "No server to log in to is given"),
        ({"client_id": ""}, "No client id is given"),
        ({"pkce": "maybe"}, "pkce must be 'auto', 'on' or 'off', not 'maybe'"),
        (
            {"client_auth": "tls_client_auth"},
            "client_auth must be one of none, client_secret_basic",
        ),
        (
            {"client_auth": "client_secret_basic"},
            "client_auth='client_secret_basic' needs a client_secret",
        ),
        (
            {"client_auth": "client_secret_post"},
            "client_auth='client_secret_post' needs a client_secret",
        ),
        ({"client_auth": "private_key_jwt"}, "client_auth='private_key_jwt' needs a private_key"),
        (
            {"client_auth": "private_key_jwt", "client_secret": "env:S"},
            "client_auth='private_key_jwt' needs a private_key",
        ),
        (
            {"client_auth": "client_secret_post", "private_key": "env:S"},
            "client_auth='client_secret_post' needs a client_secret",
        ),
        ({"quirks": Dialect(title="Acme", needs_secret=True)}, "Acme needs a client secret"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(
    settings: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        oauth(**settings)


@pytest.mark.parametrize("what", ["client_secret", "private_key"])
@pytest.mark.parametrize(
    "itself", ["CANARY-s3cret", "env:", "profile:", "", "vault:x", "-----BEGIN"]
)
def test_secret_itself_is_refused_and_not_shown(what: str, itself: str) -> None:
    with pytest.raises(UsageError, match="must be a reference") as caught:
        oauth(**{what: itself})

    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("reference", ["env:NAME", "file:/a/b", "profile:work", "file:a:b"])
def test_secret_is_given_by_where_it_is(reference: str) -> None:
    provider = oauth(client_secret=reference)

    assert provider.authentication == ClientAuth(
        "client_secret_basic", "robot", reference, TOKEN_AT
    )
    assert provider.to_dict()["client_secret"] == reference


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({}, "none"),
        ({"client_secret": "env:S"}, "client_secret_basic"),
        ({"client_secret": "env:S", "client_auth": "client_secret_post"}, "client_secret_post"),
        ({"client_secret": "env:S", "client_auth": "none"}, "none"),
        ({"private_key": "env:K"}, "private_key_jwt"),
        ({"private_key": "env:K", "client_secret": "env:S"}, "private_key_jwt"),
        (
            {"client_secret": "env:S", "quirks": Dialect(client_auth="client_secret_post")},
            "client_secret_post",
        ),
        ({"private_key": "env:K", "quirks": Dialect(needs_secret=True)}, "private_key_jwt"),
    ],
)
def test_client_authenticates_as_told_or_as_its_dialect_does(
    settings: Mapping[str, Any], method: str
) -> None:
    authentication = oauth(**settings).authentication

    keys = {"none": None, "private_key_jwt": "env:K"}
    assert authentication.method == method
    assert authentication.reference == keys.get(method, "env:S")


@pytest.mark.parametrize(
    "key",
    ["issuer", "device_authorization_endpoint", "token_endpoint", "revocation_endpoint"],
)
@pytest.mark.parametrize(
    "url",
    ["http://as.example.com/x", "ftp://as.example.com/", "https://u:p@as.example.com/", "nonsense"],
)
def test_every_address_must_be_safe(key: str, url: str) -> None:
    with pytest.raises(InsecureURLError, match=f"^{key}: "):
        oauth(**{key: url})


def test_plain_http_can_be_allowed() -> None:
    assert oauth(token_endpoint="http://as.example.com/t", allow_http=True).allow_http


def test_environment_allows_plain_http_unless_the_caller_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", "1")

    assert oauth(token_endpoint="http://as.example.com/t").allow_http
    with pytest.raises(InsecureURLError):
        oauth(token_endpoint="http://as.example.com/t", allow_http=False)


@pytest.mark.parametrize("here", ["1", "0"])
@pytest.mark.parametrize("there", ["1", "0"])
def test_environment_decides_about_plain_http_once(
    monkeypatch: pytest.MonkeyPatch, here: str, there: str
) -> None:
    """A worker elsewhere, with another environment, neither allows it anew nor forbids it."""
    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", here)
    settings = json.loads(json.dumps(OAuth(client_id="robot", issuer=ISSUER).to_dict()))
    endpoints = ("device_authorization_endpoint", "token_endpoint")
    metadata = {"issuer": ISSUER} | dict.fromkeys(endpoints, "http://as.lan/")

    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", there)
    elsewhere = provider_from_dict(settings)

    assert elsewhere.allow_http is (here == "1")
    with contextlib.nullcontext() if here == "1" else pytest.raises(ProtocolError):
        elsewhere.with_metadata(Fields(metadata))


@pytest.mark.parametrize(
    ("scopes", "read"),
    [
        ((), ()),
        ("", ()),
        ("a b", ("a", "b")),
        (" a  b\n", ("a", "b")),
        (["a", "b"], ("a", "b")),
        (("a",), ("a",)),
        (iter(["a", "b"]), ("a", "b")),
    ],
)
def test_scopes_are_a_text_with_spaces_or_a_list(scopes: Any, read: tuple[str, ...]) -> None:
    assert oauth(scopes=scopes).scopes == read


@pytest.mark.parametrize("name", ["scopes", "resource"])
@pytest.mark.parametrize("value", [7, [7], None])
def test_what_is_no_list_of_texts_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{name} must be a list of strings"):
        oauth(**{name: value})


def test_engine_is_told_what_it_needs() -> None:
    provider: Provider = oauth(scopes="a", quirks=Dialect(margin=2, pkce=True), name="mine")

    assert provider.dialect == "mine"
    assert provider.server == ISSUER
    assert provider.client_id == "robot"
    assert provider.client_name is None
    assert provider.scopes == ("a",)
    assert provider.first_wait is None
    assert provider.margin == 2
    assert provider.uses_pkce
    assert hash(provider) == hash(provider.with_request())


def test_server_is_the_issuer_or_where_the_endpoints_are() -> None:
    assert oauth(issuer="https://id.example.com/x").server == "https://id.example.com/x"
    assert oauth(token_endpoint="https://as.example.com:8443/a?b").server == f"{ISSUER}:8443"


@pytest.mark.parametrize(
    ("pkce", "dialect", "used"),
    [
        ("on", False, True),
        ("on", True, True),
        ("off", True, False),
        ("auto", True, True),
        ("auto", False, False),
    ],
)
def test_pkce_is_used_as_told_or_where_the_dialect_takes_it(
    pkce: Any, *, dialect: bool, used: bool
) -> None:
    assert oauth(pkce=pkce, quirks=Dialect(pkce=dialect)).uses_pkce == used


@pytest.mark.parametrize(
    ("asked", "name", "kept"),
    [
        ({"scopes": "c d"}, "scopes", ("c", "d")),
        ({"audience": "api"}, "audience", "api"),
        ({"resource": "https://r.example.com/"}, "resource", ("https://r.example.com/",)),
        ({"parameters": {"acr": "high"}}, "parameters", (("acr", "high"),)),
        ({"require": {"sub": "alice"}}, "require", (("sub", "alice"),)),
    ],
)
def test_login_can_ask_for_its_own(asked: Mapping[str, Any], name: str, kept: Any) -> None:
    provider = oauth(scopes="a b")

    assert getattr(provider.with_request(**asked), name) == kept
    assert provider.scopes == ("a", "b")


def test_asking_nothing_changes_nothing() -> None:
    provider = oauth()

    assert provider.with_request() is provider


def test_login_cannot_ask_for_anything_else() -> None:
    with pytest.raises(
        UsageError, match="Unknown argument of an OAuth login: client_id, scope"
    ) as caught:
        oauth().with_request(scope="a", client_id="b")  # type: ignore[call-arg]

    assert "Valid arguments are audience, parameters, require, resource, scopes." in str(
        caught.value
    )


def test_what_a_dialect_requires_must_be_asked_for() -> None:
    provider = oauth(quirks=Dialect(title="Acme", requires=("scopes", "audience", "nonsense")))

    with pytest.raises(UsageError, match="Acme needs audience, nonsense"):
        provider.with_request(scopes="a")


# Discovery.


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            ISSUER,
            (
                f"{ISSUER}/.well-known/openid-configuration",
                f"{ISSUER}/.well-known/oauth-authorization-server",
            ),
        ),
        (
            f"{ISSUER}/",
            (
                f"{ISSUER}/.well-known/openid-configuration",
                f"{ISSUER}/.well-known/oauth-authorization-server",
            ),
        ),
        # RFC 8414 section 3.1: before the path. OpenID Connect Discovery section 4.1: after it.
        (
            f"{ISSUER}:8443/realms/acme",
            (
                f"{ISSUER}:8443/realms/acme/.well-known/openid-configuration",
                f"{ISSUER}:8443/.well-known/oauth-authorization-server/realms/acme",
            ),
        ),
        (
            f"{ISSUER}/realms/acme/",
            (
                f"{ISSUER}/realms/acme/.well-known/openid-configuration",
                f"{ISSUER}/.well-known/oauth-authorization-server/realms/acme",
            ),
        ),
    ],
)
def test_metadata_is_before_the_path_or_after_it(issuer: str, urls: tuple[str, ...]) -> None:
    assert OAuth(client_id="robot", issuer=issuer).metadata_urls() == urls


@pytest.mark.parametrize("settings", [{}, {"issuer": ISSUER}])
def test_no_metadata_is_needed_where_both_endpoints_are_given(settings: Mapping[str, Any]) -> None:
    assert oauth(**settings).metadata_urls() == ()


@pytest.mark.parametrize("left_out", ["device_authorization_endpoint", "token_endpoint"])
def test_metadata_fills_in_what_was_not_given(left_out: str) -> None:
    provider = oauth(issuer=ISSUER, **{left_out: ...})
    metadata = Fields(
        {
            "issuer": ISSUER,
            "device_authorization_endpoint": f"{ISSUER}/said/device",
            "token_endpoint": f"{ISSUER}/said/token",
            "revocation_endpoint": f"{ISSUER}/said/revoke",
        }
    )

    found = provider.with_metadata(metadata)

    assert provider.metadata_urls()
    said = f"{ISSUER}/said/{left_out.partition('_')[0]}"
    assert getattr(found, left_out) == said
    kept = {"device_authorization_endpoint": DEVICE_AT, "token_endpoint": TOKEN_AT}
    assert all(getattr(found, key) == url for key, url in kept.items() if key != left_out)
    assert found.revocation_endpoint == f"{ISSUER}/said/revoke"
    assert found.authentication.audience == found.token_endpoint


METADATA: Final = {
    "issuer": ISSUER,
    "device_authorization_endpoint": DEVICE_AT,
    "token_endpoint": TOKEN_AT,
}


@pytest.mark.parametrize(
    "said",
    [
        f"{ISSUER}/",
        "https://AS.example.com",
        "http://as.example.com",
        "https://evil.example.com",
        "https://{tenantid}.example.com",
        "",
        None,
        7,
    ],
)
def test_issuer_must_be_exactly_the_one_that_was_given(said: Any) -> None:
    provider = OAuth(client_id="robot", issuer=ISSUER)

    with pytest.raises(ProtocolError, match="of another issuer") as caught:
        provider.with_metadata(Fields(METADATA | {"issuer": said}))

    assert "including a trailing slash" in str(caught.value)


def test_other_issuers_name_is_shown_without_what_steers() -> None:
    provider = OAuth(client_id="robot", issuer=ISSUER)

    with pytest.raises(ProtocolError) as caught:
        provider.with_metadata(Fields({"issuer": "\x1b[31mhttps://evil.example.com/" + "x" * 9999}))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


ENTRA: Final = "https://login.microsoftonline.com"


@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        ("common", f"{ENTRA}/{{tenantid}}/v2.0"),
        ("organizations", f"{ENTRA}/{{tenantid}}/v2.0"),
        ("consumers", f"{ENTRA}/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"),
        ("contoso.com", f"{ENTRA}/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"),
    ],
)
def test_entras_issuer_may_be_a_template_or_a_tenants_own(tenant: str, said: str) -> None:
    provider = known_provider("microsoft", client_id="c", tenant=tenant)

    found = provider.with_metadata(Fields(METADATA | {"issuer": said}))

    assert found.issuer == said
    assert provider.metadata_urls()[0].startswith(f"{ENTRA}/{tenant}/v2.0/.well-known/")


@pytest.mark.parametrize(
    "said",
    [
        "https://evil.example.com/{tenantid}/v2.0",
        "https://login.microsoftonline.com.evil.example.com/{tenantid}/v2.0",
        "https://login.microsoftonline.com@evil.example.com/{tenantid}/v2.0",
        "https://login-microsoftonline.com/{tenantid}/v2.0",
        f"{ENTRA}/{{tenantid}}/v2.0/evil",
        f"{ENTRA}/{{tenantid}}/v1.0",
        f"{ENTRA}/{{tenantid}}v2.0",
        f"{ENTRA}/a/b/v2.0",
        f"{ENTRA}//v2.0",
        f"{ENTRA}/a?/v2.0",
        f"{ENTRA}/a#/v2.0",
        f"{ENTRA}/{{tenant id}}/v2.0",
        f"{ENTRA}/{{tenantid}}/v2.0\n",
        f"http{ENTRA[5:]}/{{tenantid}}/v2.0",
    ],
)
def test_entras_template_leads_nowhere_else(said: str) -> None:
    provider = known_provider("microsoft", client_id="c")

    with pytest.raises(ProtocolError, match="of another issuer"):
        provider.with_metadata(Fields(METADATA | {"issuer": said}))


@pytest.mark.parametrize("missing", ["device_authorization_endpoint", "token_endpoint"])
@pytest.mark.parametrize("instead", [..., None, "", 7, [DEVICE_AT]])
def test_server_without_the_device_grant_is_told_so(missing: str, instead: Any) -> None:
    read = {k: v for k, v in (METADATA | {missing: instead}).items() if v is not ...}

    with pytest.raises(ProtocolError, match="does not offer the device grant"):
        OAuth(client_id="robot", issuer=ISSUER).with_metadata(Fields(read))


@pytest.mark.parametrize(
    "key", ["device_authorization_endpoint", "token_endpoint", "revocation_endpoint"]
)
@pytest.mark.parametrize(
    "url", ["http://as.example.com/x", "javascript:alert(1)", "https://u:p@as.example.com/"]
)
def test_unsafe_endpoint_in_metadata_is_the_servers_fault(key: str, url: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be used") as caught:
        OAuth(client_id="robot", issuer=ISSUER).with_metadata(Fields(METADATA | {key: url}))

    assert caught.value.__cause__ is None


# The request for a code.


def test_code_is_asked_for_with_what_there_is_and_no_more() -> None:
    request = oauth().code_request()

    assert (request.purpose, request.method, request.url) == ("code", "POST", DEVICE_AT)
    assert request.headers == {
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    assert sent(request) == {"client_id": ["robot"]}


def test_scope_audience_resource_and_parameters_are_sent() -> None:
    request = oauth(
        scopes="a b&c",
        audience="https://api.example.com/",
        resource=["https://r1.example.com/", "https://r2.example.com/"],
        parameters={"acr_values": "high", "login_hint": "é"},
    ).code_request()

    assert sent(request) == {
        "client_id": ["robot"],
        "scope": ["a b&c"],
        "audience": ["https://api.example.com/"],
        "resource": ["https://r1.example.com/", "https://r2.example.com/"],
        "acr_values": ["high"],
        "login_hint": ["é"],
    }


def test_challenge_is_the_s256_of_the_verifier() -> None:
    assert sent(oauth().code_request(VERIFIER)) == {
        "client_id": ["robot"],
        "code_challenge": [CHALLENGE],
        "code_challenge_method": ["S256"],
    }
    assert sent(oauth().token_request(TOKEN_AT, CODE, VERIFIER))["code_verifier"] == [
        VERIFIER.reveal()
    ]


def test_dialect_names_and_adds_and_separates() -> None:
    dialect = Dialect(
        request_names={"scope": "scopes", "client_id": "ignored"},
        code_parameters={"response_type": "device_code"},
        scope_separator=",",
    )

    request = oauth(scopes="a b", quirks=dialect).code_request()

    assert sent(request)["scopes"] == ["a,b"]
    assert sent(request)["response_type"] == ["device_code"]


def test_json_is_sent_where_the_dialect_has_that() -> None:
    provider = oauth(resource=["r"], quirks=Dialect(request="json"))

    request = provider.code_request()

    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == {"client_id": "robot", "resource": ["r"]}


# The poll, a refresh, and a revocation.


def test_poll_sends_the_grant_type_and_the_code() -> None:
    request = oauth(scopes="a", resource=["r1", "r2"]).token_request("https://t.example.com/", CODE)

    assert (request.purpose, request.url) == ("token", "https://t.example.com/")
    assert sent(request) == {
        "client_id": ["robot"],
        "grant_type": [GRANT_TYPE],
        "device_code": ["DEVICE-CANARY"],
        "resource": ["r1", "r2"],
    }
    assert "CANARY" not in repr(request)


def test_poll_sends_what_the_dialect_wants_besides() -> None:
    dialect = Dialect(
        token_scope=True, sends_grant_type=False, token_parameters={"x": "1"}, request="json"
    )

    request = oauth(scopes="a b", quirks=dialect).token_request(TOKEN_AT, CODE)

    assert json.loads(request.body) == {
        "client_id": "robot",
        "device_code": "DEVICE-CANARY",
        "scope": "a b",
        "x": "1",
    }


AUTHENTICATED: Final = {
    # dialect's `secret_with`: which of code, token, refresh and revoke carry the secret.
    "both": (True, True, True, True),
    "code": (True, False, False, True),
    "token": (False, True, True, True),
}


@pytest.mark.parametrize("secret_with", AUTHENTICATED)
def test_secret_goes_with_the_requests_that_the_dialect_says(secret_with: Any) -> None:
    provider = oauth(
        client_secret="env:S",
        client_auth="client_secret_post",
        revocation_endpoint=REVOKE_AT,
        quirks=Dialect(secret_with=secret_with),
    )
    revocation = provider.revocation_request(CODE, "access_token")
    assert revocation is not None
    requests = (
        provider.code_request(),
        provider.token_request(TOKEN_AT, CODE),
        provider.refresh_request(token(refresh_token="R")),
        revocation,
    )

    assert tuple(bool(request.auth) for request in requests) == AUTHENTICATED[secret_with]
    assert all(sent(request)["client_id"] == ["robot"] for request in requests)


def test_client_id_is_not_sent_beside_basic_but_for_a_code() -> None:
    """RFC 6749 section 2.3: never two ways at once; for a code many servers want the id."""
    provider = oauth(client_secret="env:S", revocation_endpoint=REVOKE_AT)
    revocation = provider.revocation_request(CODE, "access_token")

    assert revocation is not None
    assert "client_id" not in sent(revocation)
    assert "client_id" not in sent(provider.token_request(TOKEN_AT, CODE))
    assert "client_id" in sent(provider.code_request())


def test_token_is_refreshed_with_its_refresh_token() -> None:
    request = oauth().refresh_request(token(refresh_token="REFRESH-CANARY"))

    assert (request.purpose, request.url) == ("token", TOKEN_AT)
    assert sent(request) == {
        "client_id": ["robot"],
        "grant_type": ["refresh_token"],
        "refresh_token": ["REFRESH-CANARY"],
    }


def test_refresh_repeats_the_resources_and_neither_scope_nor_audience() -> None:
    """RFC 8707 section 2.2, and RFC 6749 section 6: without `scope`, what was granted stays."""
    provider = oauth(scopes="a b", audience="api", resource=["https://r1/", "https://r2/"])

    assert sent(provider.refresh_request(token(refresh_token="R"))) == {
        "client_id": ["robot"],
        "grant_type": ["refresh_token"],
        "refresh_token": ["R"],
        "resource": ["https://r1/", "https://r2/"],
    }


@pytest.mark.parametrize(
    ("fields", "repeated"),
    [
        ((), {}),
        (("audience",), {"audience": ["api"]}),
        (("resource", "scope"), {"resource": ["https://r1/"], "scope": ["a,b"]}),
    ],
)
def test_refresh_repeats_what_the_dialect_says(
    fields: tuple[str, ...], repeated: dict[str, list[str]]
) -> None:
    dialect = Dialect(refresh_fields=fields, scope_separator=",")
    provider = oauth(scopes="a b", audience="api", resource=["https://r1/"], quirks=dialect)

    found = sent(provider.refresh_request(token(refresh_token="R")))

    assert found.items() >= repeated.items()
    assert found.keys() - repeated.keys() == {"client_id", "grant_type", "refresh_token"}


def test_refresh_is_sent_under_the_servers_names_and_always_with_its_grant_type() -> None:
    dialect = Dialect(
        request="json",
        request_names={"refresh_token": "renewal", "resource": "for"},
        sends_grant_type=False,
    )

    request = oauth(resource=["r"], quirks=dialect).refresh_request(token(refresh_token="R"))

    assert json.loads(request.body) == {
        "client_id": "robot",
        "grant_type": "refresh_token",
        "renewal": "R",
        "for": ["r"],
    }


@pytest.mark.parametrize(
    ("provider", "fields"),
    [(oauth(), {}), (OAuth(client_id="c", issuer=ISSUER), {"refresh_token": "R"})],
)
def test_token_without_the_means_is_not_refreshed(
    provider: OAuth, fields: Mapping[str, Any]
) -> None:
    with pytest.raises(UsageError, match="cannot be refreshed"):
        provider.refresh_request(token(**fields))


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_token_is_revoked_where_the_server_takes_that(kind: str) -> None:
    request = oauth(revocation_endpoint=REVOKE_AT).revocation_request(CODE, kind)

    assert request is not None
    assert (request.purpose, request.url) == ("revoke", REVOKE_AT)
    assert sent(request) == {
        "client_id": ["robot"],
        "token": ["DEVICE-CANARY"],
        "token_type_hint": [kind],
    }
    assert oauth().revocation_request(CODE, kind) is None


# The token.


def test_token_is_read_whole_and_shows_nothing() -> None:
    got = token(
        token_type="DPoP",
        expires_in=60,
        refresh_token="REFRESH-CANARY",
        scope="a b",
        id_token="",
        session={"state": "CANARY"},
        error=None,
    )

    assert got.access_token == Secret("T")
    assert got.token_type == "DPoP"
    assert got.expires_at == NOW + 60
    assert got.refresh_token == Secret("REFRESH-CANARY")
    assert got.scopes == ("a", "b")
    assert got.id_token is None
    assert got.extra.as_dict() == {"session": {"state": "CANARY"}, "error": None}
    assert "CANARY" not in repr(got)
    assert not got.possibly_revoked


def test_token_as_a_dict_is_what_oauth_sessions_take() -> None:
    id_token = id_token_of({"iss": "https://x.example.com", "aud": "robot", "exp": NOW + 9})
    got = token(
        token_type="bearer",
        expires_in="60.7",
        refresh_token="R",
        scope="a,b",
        id_token=id_token,
        account="7",
    )

    assert got.as_dict() == {
        "access_token": "T",
        "token_type": "bearer",
        "expires_at": int(NOW + 60.7),
        "refresh_token": "R",
        "scope": "a b",
        "id_token": id_token,
        "account": "7",
    }
    assert isinstance(got.as_dict()["expires_at"], int)
    assert token().as_dict() == {"access_token": "T", "token_type": "Bearer"}


@pytest.mark.parametrize("fields", [{}, {"refresh_token": "R", "expires_in": 1, "scope": "a"}])
def test_token_comes_back_from_its_record_whole(fields: Mapping[str, Any]) -> None:
    got = token(**fields, more=[1, {"a": None}])

    again = Token.from_dict(json.loads(json.dumps(got.to_dict())))

    assert again.to_dict() == got.to_dict()
    assert again.as_dict() == got.as_dict()


@pytest.mark.parametrize(
    "changed",
    [
        {"access_token": None},
        {"access_token": 7},
        {"token_type": None},
        {"extra": None},
        {"refresh_token": ["R"]},
        {"id_token": 7},
        {"scopes": 7},
        {"expires_at": "soon"},
        {"expires_at": float("nan")},
        {"expires_at": float("inf")},
    ],
)
def test_damaged_record_of_a_token_is_refused(changed: Mapping[str, Any]) -> None:
    record = token().to_dict() | {**changed}

    with pytest.raises(TypeError):
        Token.from_dict(record)


@pytest.mark.parametrize("status", [300, 302, 400, 401, 500])
def test_token_with_an_error_status_is_no_token(status: int) -> None:
    assert oauth().read_token(answer(status, {"access_token": "T"})).token is None


@pytest.mark.parametrize("said", [None, "", 7, ["T"], "\ud800"])
def test_token_that_is_no_text_is_no_token(said: Any) -> None:
    read = oauth().read_token(answer(200, json.dumps({"access_token": said})))

    assert (read.outcome, read.token, read.in_doubt) == ("retry", None, True)


# Who approved.


def id_token_of(claims: Mapping[str, Any]) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


CLAIMS: Final = {
    "iss": ISSUER,
    "aud": "robot",
    "exp": NOW + 60,
    "sub": "alice",
    "email": "alice@example.com",
    "email_verified": True,
    "tid": "9f2b",
}


@pytest.mark.parametrize(
    ("settings", "claims", "rejection"),
    [
        ({"issuer": ISSUER}, {}, None),
        ({}, {"iss": "https://anybody.example.com"}, None),
        ({"issuer": ISSUER}, {"iss": "https://evil.example.com"}, Reason.PROTOCOL),
        ({"issuer": ISSUER}, {"aud": "other"}, Reason.PROTOCOL),
        ({"issuer": ISSUER}, {"exp": NOW - 3600}, Reason.PROTOCOL),
        ({"issuer": ISSUER, "require": {"sub": "alice"}}, {}, None),
        ({"issuer": ISSUER, "require": {"sub": "mallory"}}, {}, Reason.WRONG_APPROVER),
        ({"issuer": ISSUER, "require": {"email": "alice@example.com"}}, {}, None),
        ({"require": {"email": "alice@example.com"}}, {}, Reason.WRONG_APPROVER),
        ({"require": {"sub": "alice"}}, {}, None),
        # A bad token is a matter of protocol, whoever it names.
        ({"issuer": ISSUER, "require": {"sub": "alice"}}, {"aud": "other"}, Reason.PROTOCOL),
    ],
)
def test_token_is_fit_if_its_id_token_is(
    settings: Mapping[str, Any], claims: Mapping[str, Any], rejection: Reason | None
) -> None:
    said = {"access_token": "T", "id_token": id_token_of(CLAIMS | {**claims})}

    provider = oauth(**settings)
    read = judged(provider, provider.read_token(answer(200, said), NOW), None)

    assert (read.rejection and read.rejection[0]) == rejection
    assert read.token is not None
    # One that has expired says all the same who approved.
    assert (read.claims is None) == (rejection is not None and "exp" not in claims)


@pytest.mark.parametrize("garbage", ["opaque", "a.b.c", "....", "e30.bnVsbA.x"])
@pytest.mark.parametrize("require", [{}, {"sub": "alice"}])
def test_id_token_that_cannot_be_read_makes_a_token_unfit(
    garbage: str, require: dict[str, str]
) -> None:
    said = answer(200, {"access_token": "T", "id_token": garbage})

    provider = oauth(require=require)
    read = judged(provider, provider.read_token(said, NOW), None)

    assert read.rejection == (Reason.PROTOCOL, "the id token cannot be read")


@pytest.mark.parametrize("said", [..., None, "", 7])
def test_policy_without_an_id_token_takes_nobody(said: Any) -> None:
    fields = {"access_token": "T"} | ({} if said is ... else {"id_token": said})

    provider = oauth(issuer=ISSUER, require={"sub": "alice"})
    read = judged(provider, provider.read_token(answer(200, fields), NOW), None)

    assert read.rejection is not None
    assert read.rejection[0] is Reason.WRONG_APPROVER


@pytest.mark.parametrize(
    ("require", "fit"),
    [
        ({"email": "alice@example.com"}, False),
        ({"email": "alice@example.com", "tenant": "9f2b"}, True),
        ({"sub": "alice"}, True),
    ],
)
def test_email_is_worth_nothing_where_every_tenant_is_an_issuer(
    require: dict[str, str], *, fit: bool
) -> None:
    """Whoever owns a tenant verifies there what they like."""
    entra = known_provider("microsoft", client_id="robot", require=require).with_metadata(
        Fields(METADATA | {"issuer": f"{ENTRA}/{{tenantid}}/v2.0"})
    )
    claims = CLAIMS | {"iss": f"{ENTRA}/9f2b/v2.0"}

    said = answer(200, {"access_token": "T", "id_token": id_token_of(claims)})
    read = judged(entra, entra.read_token(said, NOW), None)

    assert (read.rejection is None) == fit


# Records.


SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "google": {"client_secret": "env:S"},
    "trakt": {"client_secret": "env:S"},
    "auth0": {"domain": "acme.auth0.com"},
    "okta": {"domain": "acme.okta.com"},
    "okta-org": {"domain": "acme.okta.com"},
    "keycloak": {"base": "https://sso.example.com", "realm": "acme"},
    "ping": {"base": "https://am.example.com/am/oauth2"},
    "oracle-idcs": {"domain": "idcs-1.identity.oraclecloud.com"},
    "wso2": {"base": "https://is.example.com"},
    "dex": {"base": "https://dex.example.com"},
    "zitadel": {"domain": "acme.zitadel.cloud"},
    "authentik": {"base": "https://a.example.com", "application": "app"},
}


@pytest.mark.parametrize("name", known())
def test_every_known_provider_comes_back_from_its_record(name: str) -> None:
    provider = known_provider(name, client_id="c", scopes="a b", **SETTINGS.get(name, {}))

    again = provider_from_dict(json.loads(json.dumps(provider.to_dict())))

    assert isinstance(again, OAuth)
    assert again.to_dict() == provider.to_dict()
    assert again.dialect == name
    assert again.quirks.to_dict() == provider.quirks.to_dict(whole=False)
    assert again.code_request().body == provider.code_request().body
    assert again.uses_pkce == provider.uses_pkce
    assert again.replay_window == provider.replay_window
    assert again.for_grant().scopes == provider.for_grant().scopes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"issuer": ISSUER, "token_endpoint": ..., "device_authorization_endpoint": ...},
        {
            "client_secret": "file:/s",
            "client_auth": "client_secret_post",
            "scopes": "a b",
            "audience": "x",
            "resource": ["r"],
            "parameters": {"p": "q"},
            "pkce": "on",
            "require": {"sub": "alice"},
            "allow_http": True,
            "revocation_endpoint": REVOKE_AT,
            "name": "mine",
        },
        {"private_key": "env:K"},
        {
            "quirks": Dialect(
                errors={"x": "access_denied"},
                statuses={"418": "expired_token"},
                error_fields=("e",),
                interval=7,
                margin=0.0,
                retry_unknown_code=True,
            )
        },
    ],
)
def test_settings_come_back_from_their_record(settings: Mapping[str, Any]) -> None:
    provider = oauth(**settings)
    record = json.loads(json.dumps(provider.to_dict()))

    again = provider_from_dict(record)

    assert again.to_dict() == record
    if provider.quirks is RFC8628:
        assert again == provider
        assert hash(again) == hash(provider)


@pytest.mark.parametrize(
    "changed",
    [
        {"newer": 1},
        {"client_id": ...},
        {"scopes": 7},
        {"parameters": ["abc"]},
        {"parameters": 7},
        {"client_secret": 7},
        {"quirks": ["x"]},
        {"quirks": {"interval": 0}},
        {"quirks": {"unknown": 1}},
        {"token_endpoint": 7},
        {"dialect": ...},
    ],
)
def test_record_that_makes_no_sense_is_refused(changed: Mapping[str, Any]) -> None:
    record = {k: v for k, v in (oauth().to_dict() | {**changed}).items() if v is not ...}

    with pytest.raises(UsageError):
        provider_from_dict(record)


def test_verifier_survives_the_record_and_the_store_and_ends_with_the_login() -> None:
    flow = Flow("f1", oauth(pkce="on"), NOW, verifier=VERIFIER)
    code = {"device_code": "d", "user_code": "u", "verification_uri": "https://e.example.com/"}
    flow.receive(answer(200, code), NOW)
    assert VERIFIER.reveal() not in json.dumps(export.to_dict(flow))
    assert "verifier" not in export.to_dict(flow)

    flow = export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=True))))
    store = MemoryStore()
    store.add(flow)
    flow = get(store, "f1")

    assert sent(flow.request())["code_verifier"] == [VERIFIER.reveal()]
    flow.cancel(NOW)
    assert flow.verifier is None


def test_verifier_that_the_server_echoes_is_not_kept() -> None:
    verifier = Secret("a-verifier-without-any-digit-in-it-xxxxxxxxxx")
    flow = Flow("f1", oauth(pkce="on"), NOW, verifier=verifier)

    flow.receive(answer(400, {"error": f"bad {verifier.reveal()}"}), NOW)

    assert flow.detail == "bad <secret>"


@pytest.mark.parametrize(
    ("device_code", "said", "kept"),
    [
        ("dev\u200bice-x", "bad device-x", "bad <secret>"),
        ("dev\u200bice-x", "bad dev\u200bice-x", "bad <secret>"),
        ("\u200b", "bad", "bad"),  # nothing to be seen, and nothing to be taken out
    ],
)
def test_code_with_something_invisible_in_it_is_not_kept_either(
    device_code: str, said: str, kept: str
) -> None:
    flow = Flow("f1", oauth(), NOW)
    code = {"device_code": device_code, "user_code": "u", "verification_uri": ISSUER}
    flow.receive(answer(200, code), NOW)
    flow.poll(NOW + 6, 10)

    assert flow.receive(answer(400, {"error": said}), NOW + 6).detail == kept


# By name.


def test_unknown_provider_is_told_which_there_are() -> None:
    with pytest.raises(UsageError, match="Unknown provider 'githup'") as caught:
        known_provider("githup", client_id="c")

    assert "github, gitlab, google" in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"domain": ""}, {"domain": None}])
def test_parameter_that_an_entry_needs_is_asked_for(given: Mapping[str, Any]) -> None:
    with pytest.raises(UsageError, match="Auth0 needs domain"):
        known_provider("auth0", client_id="c", **given)


def test_default_of_a_parameter_gives_way() -> None:
    hub = known_provider("github", client_id="c")
    enterprise = known_provider("github", client_id="c", host="git.example.com")

    assert hub.token_endpoint == "https://github.com/login/oauth/access_token"
    assert enterprise.token_endpoint == "https://git.example.com/login/oauth/access_token"


def test_address_that_was_given_goes_before_the_entrys_on_its_server_only() -> None:
    provider = known_provider("gitlab", client_id="c", token_endpoint="https://gitlab.com/t")

    assert provider.token_endpoint == "https://gitlab.com/t"
    with pytest.raises(UsageError, match=r"token_endpoint is on another server: https://t.ex"):
        known_provider("gitlab", client_id="c", token_endpoint="https://t.example.com/")


def test_entry_that_names_no_server_takes_any() -> None:
    entry = Dialect(title="Anywhere", interval=7)

    provider = OAuth.named("anywhere", entry, client_id="c", issuer="https://as.example.com")

    assert provider.server == "https://as.example.com"


@pytest.mark.parametrize(
    ("entry", "settings", "scopes"),
    [
        ({"refresh_scope": "offline_access"}, {}, "read offline_access"),
        ({"refresh_scope": "offline"}, {"offline": "on"}, "read offline"),
        ({"refresh_scope": "offline_access"}, {"offline": "off"}, "read"),
        ({"refresh_scope": "offline_access"}, {"scopes": ""}, ""),
        ({"refresh_scope": "read"}, {}, "read"),
        ({}, {}, "read"),
        ({}, {"offline": "on"}, "read offline_access"),
        ({}, {"offline": "on", "scopes": ""}, "offline_access"),
    ],
)
def test_login_of_a_grant_asks_for_what_a_refresh_token_needs(
    entry: dict[str, Any], settings: dict[str, Any], scopes: str
) -> None:
    issuer = "https://login.example.com"
    quirks = read_dialect("x", entry)
    provider = OAuth(
        **({"client_id": "c", "issuer": issuer, "scopes": "read"} | settings), quirks=quirks
    )

    asking = provider.for_grant()

    assert asking.scopes == tuple(scopes.split())
    assert asking.for_grant() is asking
    assert replace(asking, scopes=provider.scopes) == provider
    assert OAuth.from_dict(provider.to_dict()).for_grant().scopes == asking.scopes


def test_offline_is_auto_on_or_off() -> None:
    with pytest.raises(UsageError, match="offline must be 'auto', 'on' or 'off', not True"):
        OAuth(client_id="c", issuer="https://login.example.com", offline=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({}, 0.0),
        ({"replay_window": 30}, 30.0),
        ({"rotation": "always", "replay_window": 10}, 10.0),
        ({"rotation": "optional"}, 0.0),
        ({"rotation": "unknown"}, 0.0),
        ({"rotation": "never"}, math.inf),
        ({"rotation": "lenient"}, math.inf),
    ],
)
def test_a_refresh_can_be_sent_again_for_as_long_as_the_entry_says(
    entry: dict[str, Any], window: float
) -> None:
    quirks = read_dialect("x", entry)
    provider = OAuth(client_id="c", issuer="https://login.example.com", quirks=quirks)

    assert provider.replay_window == window
    assert OAuth.from_dict(provider.to_dict()).replay_window == window


# Tokens that no server may issue, and whether one is still valid.


@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
@pytest.mark.parametrize(
    ("text", "fits"),
    [
        *(("T-" + sign + "-T", True) for sign in '~+/._= !"\\'),
        ("T", True),
        *(("T-CANARY" + sign, False) for sign in "\r\n\0 \t\x7f\u2028\u00e9"),
        *((sign + "T-CANARY", False) for sign in "\r\n\0 \t"),
        ("T-CANARY\r\nX-Injected: 1", False),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("provider", [oauth(), Studio("https://studio.example.com")])
def test_token_that_no_header_can_carry_is_no_answer_of_the_protocol(
    provider: Provider, field: str, text: str, fits: bool
) -> None:
    if isinstance(provider, Studio) and field == "refresh_token":
        return
    read = provider.read_token(answer(200, {"access_token": "T", field: text}), NOW)

    assert (read.outcome, read.unreadable, read.in_doubt) == (
        ("issued", False, False) if fits else ("retry", True, True)
    )
    assert "CANARY" not in repr(read) + str(read.error)


INTROSPECT_AT: Final = f"{ISSUER}/introspect"
USERINFO_AT: Final = f"{ISSUER}/userinfo"
BOTH: Final = {"introspection_endpoint": INTROSPECT_AT, "userinfo_endpoint": USERINFO_AT}


@pytest.mark.parametrize(
    ("settings", "metadata", "granted", "asked"),
    [
        ({"scopes": "openid"}, BOTH, None, ["introspect", "userinfo"]),
        ({"scopes": "openid"}, BOTH, "read", ["introspect"]),
        ({"scopes": "read"}, BOTH, "openid", ["introspect", "userinfo"]),
        ({"scopes": "openid", "audience": "api"}, BOTH, None, ["introspect"]),
        ({"scopes": "openid", "resource": "https://a.example"}, BOTH, None, ["introspect"]),
        ({"scopes": "openid"}, {}, None, []),
        ({"scopes": "openid"}, {"userinfo_endpoint": "http://as.example.com/"}, None, []),
        ({"scopes": "openid"}, {"introspection_endpoint": "https://127.0.0.1/"}, None, []),
    ],
)
def test_server_is_asked_about_a_token_where_its_metadata_has_a_place_for_that(
    settings: dict[str, Any], metadata: dict[str, str], granted: str | None, asked: list[str]
) -> None:
    provider = oauth(issuer=ISSUER, **settings)

    requests = provider.check_requests(Fields(metadata), token(provider, scope=granted))

    assert [request.purpose for request in requests] == asked
    for request in requests:
        if request.purpose == "introspect":
            assert (request.method, request.url) == ("POST", INTROSPECT_AT)
            assert sent(request)["token"] == ["T"]
        else:
            assert (request.method, request.url) == ("GET", USERINFO_AT)
            assert request.headers["Authorization"] == "Bearer T"


@pytest.mark.parametrize(
    ("purpose", "response", "valid"),
    [
        ("introspect", answer(200, {"active": True}), True),
        ("introspect", answer(200, {"active": False}), False),
        ("introspect", answer(200, {"active": "false"}), None),
        ("introspect", answer(200, "<html>"), None),
        ("introspect", answer(401, {"error": "invalid_client"}), None),  # may not ask
        ("userinfo", answer(200, {"sub": "alice"}), True),
        ("userinfo", answer(401), False),
        ("userinfo", answer(403), None),
        ("userinfo", answer(403, WWW_Authenticate='Bearer error="invalid_token"'), False),
        ("userinfo", answer(502, "<html>"), None),
    ],
)
def test_server_says_whether_a_token_is_valid_or_nothing(
    purpose: str, response: Response, valid: bool | None
) -> None:
    provider = oauth(issuer=ISSUER, scopes="openid")
    requests = provider.check_requests(Fields(BOTH), token(provider))
    (request,) = [one for one in requests if one.purpose == purpose]

    assert provider.read_check(request, response) is valid


def test_studio_cannot_be_asked() -> None:
    studio = Studio("https://studio.example.com")

    assert studio.well_known_urls() == studio.check_requests(Fields({}), token()) == ()
    assert studio.read_check(studio.code_request(), answer(200, {})) is None


def test_without_an_issuer_there_is_no_metadata() -> None:
    assert oauth().well_known_urls() == ()
    assert oauth(issuer=ISSUER).metadata_urls() == ()
    assert len(oauth(issuer=ISSUER).well_known_urls()) == 2


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("entry", [True, False])
def test_whether_a_refresh_ends_the_old_token_is_said_or_not_known(
    said: bool | None, entry: bool
) -> None:
    quirks = replace(RFC8628, refresh_ends_token=entry, invalid_token_statuses=(401, 403))
    provider = oauth(refresh_ends_token=said, quirks=quirks)

    for one in (provider, provider_from_dict(provider.to_dict())):
        assert one.ends_old_token is ((entry or None) if said is None else said)
        assert one.invalid_token_statuses == (401, 403)
