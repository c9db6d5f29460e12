"""Whatever a server sends: no exception but ours, no hang, and a login that stays legal.

The examples are drawn anew in each run, and a failure prints how to draw it again. In CI, where a
failure must not depend on luck, they are the same ones each time. `DEVICEFLOW_FUZZ` sets how many.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any, Final, get_args
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceflow import errors, export
from deviceflow.client._sync import Client
from deviceflow.core.actions import ACTIONS, LOGIN_TRIGGERS
from deviceflow.core.codec import KINDS
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Claim, LeaseHeld
from deviceflow.core.provider import Answer, Outcome, Token
from deviceflow.core.sanitize import endpoint, number, printable, web_url, with_query
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.core.wire import MAX_BODY, Failure, Fields, Response
from deviceflow.providers import idtoken
from deviceflow.providers.codec import provider_from_dict
from deviceflow.providers.dialect import Dialect, read_dialect
from deviceflow.providers.known import known
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import VirtualClock
from tests.examples import examples
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.core.ports import LeaseHeld
    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Request

NOW: Final = 1_800_000_000.0
FUZZ: Final = examples(150)
FEWER: Final = examples(40, of=4)

# What is random, and what is nearly right.

DEVICE: Final = "Dv1ce-0123456789-SECRET"
USER: Final = "WDJB-MJHT"
TOKENS: Final = ("T0ken-0123456789-FIRST", "R3fresh-0123456789-NEXT")

texts = st.text(max_size=30)
odd_numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 5, 900, 10**400, -(10**400), 1e308, math.inf, -math.inf, math.nan]),
    st.sampled_from(["", "5", "-5", "5.5", "1e9", "1e999", "nan", "inf", "soon", "\uff19", "1_0"]),
)
leaves = st.one_of(st.none(), st.booleans(), odd_numbers, texts, st.just("\ud800"))
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

ERRORS: Final = (
    "authorization_pending",
    "slow_down",
    "access_denied",
    "authorization_declined",
    "expired_token",
    "token_expired",
    "authorization_expired",
    "invalid_grant",
    "incorrect_device_code",
    "invalid_client",
    "invalid_request",
    "temporarily_unavailable",
    "server_error",
    "rate_limit_exceeded",
    "something_else",
    f"{DEVICE} {USER}",
    f"\x1b[31m{DEVICE[:8]}\u200b{DEVICE[8:]}\x1b[0m",
)
error_texts = st.sampled_from(ERRORS) | texts


def encoded(claims: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


CLAIMS: Final = {
    "iss": "https://as.example.com",
    "aud": "robot",
    "sub": "alice",
    "email": "alice@example.com",
    "email_verified": True,
    "exp": NOW + 86400,
}
claims_near_valid = st.builds(
    lambda changed, without: {k: v for k, v in (CLAIMS | changed).items() if k not in without},
    st.dictionaries(
        st.sampled_from(["iss", "aud", "azp", "exp", "sub", "email", "email_verified", "tid"]),
        anything | st.sampled_from(["robot", ["robot"], ["robot", "other"]]),
        max_size=3,
    ),
    st.sets(st.sampled_from(list(CLAIMS)), max_size=2),
)
id_tokens = st.one_of(
    claims_near_valid.map(lambda claims: f"e30.{encoded(claims)}.c2ln"),
    anything.map(lambda value: f"e30.{encoded(value)}."),
    st.text(alphabet="abc.=_-+/é\ud800", max_size=30),
    st.just("e30." + base64.b64encode(b"[" * 9000).decode() + ".x"),
)


def object_with(**likely: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw an object that mostly has these fields, mostly so, and sometimes others."""
    fields = st.fixed_dictionaries({}, optional={k: v | anything for k, v in likely.items()})
    whole = st.fixed_dictionaries(likely)
    more = st.dictionaries(texts, anything, max_size=2)
    return st.builds(lambda found, extra: extra | found, whole | fields, more)


codes = object_with(
    device_code=st.just(DEVICE),
    user_code=st.just(USER),
    verification_uri=st.sampled_from(["https://example.com/device", "javascript:alert(1)"]),
    interval=odd_numbers,
    expires_in=odd_numbers,
    token_uri=st.sampled_from(["https://studio.example.com/token", "http://evil.example.com/"]),
    token_name=texts,
)
tokens = object_with(
    access_token=st.just(TOKENS[0]),
    refresh_token=st.just(TOKENS[1]),
    token_type=st.sampled_from(["Bearer", "bearer", ""]),
    expires_in=odd_numbers,
    scope=st.sampled_from(["a b", "a,b", "", " ", ["a"], [7]]),
    id_token=id_tokens,
)
refusals = object_with(error=error_texts, interval=odd_numbers)
others = st.builds(
    lambda name, error: {name: error},
    st.sampled_from(["detail", "message", "error_code", "errorCode"]),
    error_texts,
)

statuses = st.sampled_from(
    [200, 200, 200, 400, 400, 401, 403, 404, 418, 428, 429, 500, 502, 503, 302, 204, 100, 999]
)
dates = st.sampled_from(
    [
        "Fri, 15 Jan 2027 08:00:30 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 99 Jan 2027 00:00:00 GMT",
    ]
)
header_values = st.one_of(odd_numbers.map(str), dates, texts)
kinds = st.sampled_from(
    ["application/json", "application/x-www-form-urlencoded", "text/html", "APPLICATION/JSON; ;"]
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": kinds | texts,
        "content-type": kinds,
        "Retry-After": header_values,
        "Date": header_values,
    },
)


def as_form(fields: dict[str, Any]) -> Response:
    body = urlencode({k: str(v) for k, v in fields.items()}, errors="replace").encode()
    return Response(400, {"Content-Type": "application/x-www-form-urlencoded"}, body)


def response(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[Response]:
    return st.builds(Response, statuses, headers, bodies)


def cut(body: bytes, at: float) -> bytes:
    return body[: int(len(body) * at)]


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


raw = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"<html>",
            b"null",
            b"[]",
            b"{",
            b'"',
            b"\xff\xfe",
            b"NaN",
            b"[" * 20_000,
            b'{"a":' * 20_000,
            b'{"a": ' + b"9" * 5000 + b"}",
            b"a=b&" * 20_000,
            b"error=%ff%zz&=&&==",
        ]
    ),
)


def responses(meant: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Response]:
    """Draw answers: mostly those that are meant, some of them cut, forms, or rubbish."""
    said = meant | refusals | others
    return st.one_of(
        st.builds(Response, st.just(200), headers, meant.map(dumped)),
        st.builds(Response, st.just(400), headers, refusals.map(dumped)),
        response(said.map(dumped)),
        response(st.builds(cut, said.map(dumped), st.floats(0, 1))),
        said.map(as_form),
        response(anything.map(dumped)),
        response(raw),
    )


failures = st.builds(
    Failure,
    st.sampled_from(["timeout", "connection", "too_large"]),
    sent=st.booleans(),
)


def oauth(**more: Any) -> OAuth:
    ours: dict[str, Any] = {
        "client_id": "robot",
        "issuer": "https://as.example.com",
        "device_authorization_endpoint": "https://as.example.com/code",
        "token_endpoint": "https://as.example.com/token",
        "revocation_endpoint": "https://as.example.com/revoke",
    }
    return OAuth(**(ours | more))


def every_provider() -> dict[str, Provider]:
    """Return one of each dialect that is known, and of our own making."""
    found: dict[str, Provider] = {
        "studio": Studio("https://studio.example.com"),
        "plain": oauth(),
        "policy": oauth(require={"email": "alice@example.com"}),
        "anonymous issuer": oauth(issuer=None, require={"sub": "alice"}),
        "pkce": oauth(pkce="on"),
    }
    for name, entry in known().items():
        found[name] = oauth(name=name, quirks=entry, client_secret="env:THE_SECRET", scopes="a b")
    return found


PROVIDERS: Final = every_provider()
each_provider = pytest.mark.parametrize("name", PROVIDERS)
some_provider = st.sampled_from(list(PROVIDERS.values()))


def outcome(of: Callable[[], Any]) -> Any:
    """Return what came of it, or the error, which must be one of ours."""
    try:
        return of()
    except errors.DeviceFlowError as ours:
        return ours


# The parts.


@FUZZ
@given(responses(codes | tokens))
def test_any_body_is_read_as_fields_or_not(said: Response) -> None:
    fields = said.fields()

    if fields is not None:
        assert fields.as_dict().keys() == set(fields)
        for name in fields:
            text = fields.text(name)
            assert text is None or text.encode()
        assert repr(fields).startswith("<Fields ")


@FUZZ
@given(headers, st.floats(0, 4e9))
def test_any_retry_after_is_between_nothing_and_an_hour(sent: dict[str, str], now: float) -> None:
    said = Response(503, sent, b"")

    assert 0 <= said.retry_after(now) <= 3600
    date = said.date()
    assert date is None or math.isfinite(date)


@FUZZ
@given(anything, st.floats(0, 100))
@example(10**400, 5.0)
@example("1" * 5000, 5.0)
def test_any_number_is_within_its_bounds_or_the_default(value: Any, default: float) -> None:
    read = number(value, default, low=1, high=3600)

    assert read == default or 1 <= read <= 3600


@FUZZ
@given(st.text() | st.text(alphabet="\x1b[]0;31mA\x07\x9b\u202e\u200b\n", max_size=200))
def test_any_text_is_printed_on_one_line_without_what_steers(text: str) -> None:
    shown = printable(text, 50)

    assert len(shown) <= 50
    assert shown.isprintable()
    assert printable(shown, 50) == shown


addresses = st.one_of(
    texts,
    anything,
    st.from_regex(r"https?://[a-z@:\\\[\]%/?#.0-9-]{0,20}", fullmatch=True),
    st.builds(
        "{}://{}{}".format, st.sampled_from(["http", "https", "HTTPS", "file"]), texts, texts
    ),
)


@FUZZ
@given(addresses)
@example("https://[::1")
@example("https://a:99999/")
@example("https://a\\@b/")
def test_any_address_is_safe_or_refused(url: Any) -> None:
    page = web_url(url)

    assert page is None or page.lower().startswith(("http://", "https://"))
    if page is not None:
        assert with_query(page, code="x y").lower().startswith(page[:7].lower())
    safe = outcome(lambda: endpoint(url))
    if isinstance(safe, errors.InsecureURLError):
        assert len(str(safe)) < 1000
    else:
        assert safe == url
        assert safe.lower().startswith(("https://", "http://"))


@each_provider
@FEWER
@given(said=responses(codes))
def test_any_answer_to_a_code_request_means_something(name: str, said: Response) -> None:
    read = PROVIDERS[name].read_code(said)

    assert isinstance(read, Answer)
    assert read.outcome in get_args(Outcome)
    assert (read.code is not None) == (read.outcome == "issued")
    if read.code is not None:
        assert 1 <= read.code.interval <= 3600
        assert read.code.expires_in is not None
        assert 1 <= read.code.expires_in <= 30 * 86400


@each_provider
@FEWER
@given(said=responses(tokens))
def test_any_answer_to_a_poll_means_something(name: str, said: Response) -> None:
    read = PROVIDERS[name].read_token(said, NOW)

    assert isinstance(read, Answer)
    assert (read.token is not None) == (read.outcome == "issued")
    assert 0 <= read.interval <= 3600
    if read.token is not None:
        assert said.status < 300
        assert read.token.access_token.reveal()
        record = json.loads(json.dumps(read.token.to_dict()))
        again = Token.from_dict(record)
        assert json.dumps(again.to_dict()) == json.dumps(read.token.to_dict())
        assert read.token.as_dict()["access_token"] == read.token.access_token.reveal()
        assert TOKENS[0] not in repr(read.token)


@FUZZ
@given(id_tokens)
def test_any_id_token_is_read_or_not(sent: str) -> None:
    claims = idtoken.claims_of(sent)

    assert claims is None or isinstance(claims, Fields)


@FUZZ
@given(
    claims_near_valid | st.dictionaries(texts, anything, max_size=4),
    st.sampled_from([None, "https://as.example.com", "https://as.example.com/{tenantid}"]),
)
@example({"iss": "https://as.example.com", "aud": "robot", "exp": 10**400}, None)
def test_claims_that_are_taken_are_for_us_and_not_expired(
    claims: dict[str, Any], issuer: str | None
) -> None:
    problem = idtoken.problem_with(Fields(claims), issuer=issuer, client_id="robot", now=NOW)

    if problem is None:
        audience = claims["aud"]
        assert "robot" in (audience if isinstance(audience, list) else [audience])
        assert claims["exp"] >= NOW - idtoken.LEEWAY
        assert issuer != "https://as.example.com" or claims["iss"] == issuer
    else:
        assert problem.startswith("the id token ")


@FUZZ
@given(claims_near_valid, st.booleans())
def test_policy_takes_nobody_but_the_one_it_wants(claims: dict[str, Any], pinned: bool) -> None:
    said = idtoken.wrong_approver({"email": "alice@example.com"}, Fields(claims), pinned=pinned)

    right = (
        isinstance(claims.get("email"), str)
        and claims["email"].lower() == "alice@example.com"
        and claims.get("email_verified") in (True, "true")
        and isinstance(claims["email_verified"], bool | str)
        and pinned
    )
    assert (said is None) == right


@FUZZ
@given(
    st.dictionaries(texts, anything, max_size=4)
    | st.builds(
        lambda changed: (
            {
                "issuer": "https://as.example.com",
                "device_authorization_endpoint": "https://as.example.com/code",
                "token_endpoint": "https://as.example.com/token",
            }
            | changed
        ),
        st.dictionaries(
            st.sampled_from(
                ["issuer", "device_authorization_endpoint", "token_endpoint", "revocation_endpoint"]
            ),
            addresses,
            max_size=2,
        ),
    )
)
def test_any_metadata_gives_safe_endpoints_or_an_error_of_ours(read: dict[str, Any]) -> None:
    provider = OAuth(issuer="https://as.example.com", client_id="robot")

    found = outcome(lambda: provider.with_metadata(Fields(read)))
    if isinstance(found, errors.ProtocolError):
        assert len(str(found)) < 1000
    else:
        assert found.issuer == "https://as.example.com"
        assert endpoint(found.device_authorization_endpoint)
        assert endpoint(found.token_endpoint)


ENTRY: Final[dict[str, st.SearchStrategy[Any]]] = {
    "title": texts,
    "issuer": st.sampled_from(["https://{domain}/", "https://{", "{0}", "{a.b}", "{}", "}"]),
    "token_endpoint": texts,
    "parameters": st.just({"domain": ""}),
    "interval": odd_numbers,
    "margin": odd_numbers,
    "errors": st.just({"x": "invalid_grant"}) | st.dictionaries(texts, texts, max_size=2),
    "statuses": st.dictionaries(texts, texts, max_size=2),
    "requires": st.lists(texts, max_size=2),
    "request": st.sampled_from(["json", "form", "xml"]),
    "pkce": st.booleans(),
    "scope_separator": texts,
}


@FUZZ
@given(
    st.fixed_dictionaries({}, optional={k: v | anything for k, v in ENTRY.items()})
    | st.dictionaries(texts, anything, max_size=3)
)
def test_any_entry_of_a_provider_file_is_read_or_refused(entry: dict[str, Any]) -> None:
    dialect = outcome(lambda: read_dialect("mine", entry))
    if not isinstance(dialect, Dialect):
        assert isinstance(dialect, errors.UsageError)
        assert "mine" in str(dialect)
        return
    assert 1 <= dialect.interval <= 3600
    where = {} if dialect.issuer else {"issuer": "https://as.example.com"}
    asked = dict.fromkeys(dialect.parameters, "as.example.com")
    provider = outcome(lambda: OAuth.named("mine", dialect, client_id="robot", **(where | asked)))
    if isinstance(provider, OAuth):
        again = provider_from_dict(json.loads(json.dumps(provider.to_dict())))
        assert again.to_dict() == provider.to_dict()
    else:
        assert isinstance(provider, errors.UsageError)


# Records.


def valid_record() -> dict[str, Any]:
    flow = Flow("f1", oauth(pkce="on"), NOW, verifier=Secret("v" * 43))
    flow.receive(
        Response(
            200,
            {},
            dumped(
                {
                    "device_code": DEVICE,
                    "user_code": USER,
                    "verification_uri": "https://example.com/",
                }
            ),
        ),
        NOW,
    )
    return export.to_dict(flow, secrets=True)


RECORD: Final = valid_record()
TOKEN_RECORD: Final = Token(Secret(TOKENS[0]), expires_at=NOW).to_dict()


@FUZZ
@given(
    st.dictionaries(st.sampled_from(sorted(RECORD)), anything, max_size=3),
    st.none() | st.dictionaries(st.sampled_from(sorted(TOKEN_RECORD)), anything, max_size=2),
    st.none() | st.dictionaries(st.sampled_from(sorted(RECORD["provider"])), anything, max_size=2),
    st.none() | st.dictionaries(st.sampled_from(KINDS), anything, max_size=2),
)
@example({}, {"expires_at": 10**400}, None, None)
@example({}, None, {"parameters": ["abc"]}, None)
@example({}, None, None, {"revoke": [["access_token", 5]]})
def test_any_record_is_a_flow_or_refused(
    changed: dict[str, Any],
    token: dict[str, Any] | None,
    provider: dict[str, Any] | None,
    hidden: dict[str, Any] | None,
) -> None:
    record = RECORD | changed
    if token is not None:
        record["secrets"] = RECORD["secrets"] | {"token": TOKEN_RECORD | token}
    if provider is not None:
        record["provider"] = RECORD["provider"] | provider
    if hidden is not None:
        record["secrets"] = RECORD["secrets"] | hidden
    flow = outcome(lambda: export.from_dict(record))
    if isinstance(flow, errors.DeviceFlowError):
        assert DEVICE not in str(flow)
    else:
        assert flow.state in State
        assert flow.wait_seconds(NOW) >= 0
        if flow.token is not None:
            flow.token.as_dict()
        again = export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=True))))
        assert json.dumps(export.to_dict(again)) == json.dumps(export.to_dict(flow))


@FUZZ
@given(anything)
def test_what_is_no_provider_is_refused(settings_: Any) -> None:
    with pytest.raises(errors.UsageError):
        provider_from_dict({"dialect": "x", "settings": settings_})


# Whole logins.

LEGAL: Final = {(name, *move) for name in LOGIN_TRIGGERS for move in name.login.items()}
BESIDES: Final = {*ACTIONS.values()} - {*LOGIN_TRIGGERS}
SECRETS: Final = {DEVICE, USER, *TOKENS}


def shown_secrets(flow: Flow, text: str) -> list[str]:
    # A user code is one once it was issued; before, it is a word of the server's.
    hidden = SECRETS if flow.user_code == USER else SECRETS - {USER}
    return [secret for secret in hidden if secret in text]


class Witness(MemoryStore):
    """A store that checks each transition."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[Mapping[str, Any]] = []

    def claim(self, *args: Any) -> Claim | LeaseHeld:
        claim = super().claim(*args)
        assert isinstance(claim, Claim)
        if claim.event is not None:
            self._check(claim.flow, claim.event)
        return claim

    def commit(self, record: Any, event: dict[str, Any], **how: Any) -> bool:
        kept = super().commit(record, event, **how)
        assert kept
        self._check(record, event)
        return kept

    def _check(self, flow: Flow, event: dict[str, Any]) -> None:
        assert event["seq"] == len(self.moves) + 1
        self.moves.append(event)
        if event["action"] in BESIDES:
            assert event["from"] == event["to"]
        else:
            assert (event["action"], event["from"], event["to"]) in LEGAL
        assert event["wait"] is None or 0 <= event["wait"] < math.inf
        detail = event["detail"] or ""
        assert len(detail) <= 200
        assert detail.isprintable()
        assert not shown_secrets(flow, detail)
        assert (flow.state is State.FAILED) == (flow.reason is not None)
        assert (flow.token is not None) == flow.handover.token_kept
        assert (flow.state is State.AUTHORIZED) == (flow.handover != "none")
        if flow.state.ended:
            assert flow.device_code is None
            assert flow.verifier is None
        again = export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=True))))
        # Compared as texts, in which NaN is NaN.
        assert json.dumps(export.to_dict(again, secrets=True)) == json.dumps(
            export.to_dict(flow, secrets=True)
        )


class Drawn:
    """A transport that gives these answers, and then pending for ever."""

    def __init__(self, script: list[Response | Failure]) -> None:
        self._script = iter(script)
        self.requests: list[Request] = []

    def send(self, request: Request, timeout: float) -> Response | Failure:
        self.requests.append(request)
        pending = Response(400, {}, b'{"error": "authorization_pending"}')
        return next(self._script, pending)

    def close(self) -> None:
        """Do nothing."""


@FUZZ
@given(
    provider=some_provider,
    code=responses(codes) | failures,
    polls=st.lists(responses(tokens) | failures, max_size=8),
    pauses=st.lists(st.floats(0, 1e5), max_size=4),
)
def test_any_login_ends_and_is_legal_all_the_way(
    provider: Provider,
    code: Response | Failure,
    polls: list[Response | Failure],
    pauses: list[float],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THE_SECRET", "s3cret")
        clock, store = VirtualClock(NOW), Witness()
        transport = Drawn([code, *polls])
        client = Client(store, transport=transport, clock=clock, approver=None)
        flow = client.create(provider)
        naps = iter(pauses)
        for _ in range(60):
            sent = len(transport.requests)
            done = client.step(flow.id)
            assert len(transport.requests) <= sent + 1
            assert 0 <= done.wait_seconds < math.inf
            left = get(client._store, flow.id).to_revoke
            if done.state.ended and not left:
                break
            clock.advance(done.wait_seconds)
            # Sometimes nobody comes back in time.
            clock.advance(next(naps, 0.0))
        else:
            # Only for a code that lives for days, or tokens that nobody lets be revoked.
            ended = get(client._store, flow.id)
            assert ended.to_revoke or (ended.expires_at or 0) > NOW + 60
        before = len(transport.requests)
        if done.state.ended and not get(client._store, flow.id).to_revoke:
            assert client.step(flow.id).wait_seconds == 0
            assert len(transport.requests) == before
        ended = get(client._store, flow.id)
        if ended.token is not None:
            client.collect_token(flow.id)
            client.acknowledge(flow.id)
        shown = f"{ended!r} {done!r} {store.moves!r} {transport.requests!r}"
        assert not shown_secrets(ended, shown)


@FUZZ
@given(responses(codes | tokens), st.integers(0, 3))
def test_any_metadata_answer_starts_a_login_or_says_what_is_wrong(
    said: Response, good: int
) -> None:
    found = Response(
        200,
        {},
        dumped(
            {
                "issuer": "https://as.example.com",
                "device_authorization_endpoint": "https://as.example.com/code",
                "token_endpoint": "https://as.example.com/token",
            }
        ),
    )
    script: list[Response | Failure] = [said, said]
    if good < 2:
        script[good] = found
    client = Client(transport=Drawn(script), clock=VirtualClock(NOW))

    if good < 2:
        provider = client.create(OAuth(issuer="https://as.example.com", client_id="r")).provider
        assert provider.code_request().url == "https://as.example.com/code"
    else:
        with pytest.raises(errors.ServerError):
            client.create(OAuth(issuer="https://as.example.com", client_id="r"))


def test_biggest_answer_is_read_in_reasonable_time_and_space() -> None:
    """A body as long as is let through, in the shapes that are dearest to read."""
    for body in (
        b'{"error": "' + b"\\u001b[" * (MAX_BODY // 8) + b'"}',
        b"a=b&" * (MAX_BODY // 4),
        b"[" * MAX_BODY,
        b'{"access_token": "' + b"x" * (MAX_BODY - 30) + b'"}',
    ):
        said = Response(400, {"Content-Type": "application/x-www-form-urlencoded"}, body)
        read = oauth().read_token(said, NOW)
        assert read.outcome in ("retry", "refused")
