"""JSON that is nested too deeply costs a login neither its token nor its record."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceflow import Client, OAuth, State
from deviceflow.core.wire import MAX_BODY, Response
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Field = tuple[str, str]

FUZZ: Final = examples(60)

TOKEN: Final = "T0ken-0123456789"
ISSUER: Final = "https://as.example.com"
OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint=f"{ISSUER}/code",
    token_endpoint=f"{ISSUER}/token",
)
CODE: Final = answer(
    200,
    {
        "device_code": "Dv1ce-0123456789",
        "user_code": "WDJB-MJHT",
        "verification_uri": f"{ISSUER}/device",
    },
)
KEPT: Final = 31  # and the object that the field is in


def nested(depth: int, left: str = "[", right: str = "]") -> str:
    return left * depth + "1" + right * depth


deep = st.builds(
    lambda depth, pair: (depth, nested(depth, *pair)),
    # What can be loaded, but not dumped some frames deeper, is a little below 1000.
    st.sampled_from([0, 1, 30, 31, 32, 33, 64, 500, 1000]) | st.integers(900, 1000),
    st.sampled_from([("[", "]"), ('{"]\\"[":', "}"), (' \n[1,"}",', ",{}]\t")]),
)


def object_of(fields: Sequence[Field]) -> bytes:
    return ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields) + "}").encode()


def id_token(more: str) -> str:
    claims = {"iss": ISSUER, "aud": "robot", "exp": 4e9}
    fields = [*((name, json.dumps(value)) for name, value in claims.items()), ("more", more)]
    return json.dumps(f"e30.{base64.urlsafe_b64encode(object_of(fields)).decode().rstrip('=')}.x")


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("store") / "flows.db"
    made = SQLiteStore(path) if request.param == "sqlite" else MemoryStore()
    yield made
    made.close()


@FUZZ
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "scope", "expires_in", "token_type"]), deep)),
    deep,
    st.randoms(),
)
@example([("a", (32, nested(32)))], (960, nested(960)), None)
def test_a_token_is_not_lost(
    store: Any, extras: list[tuple[str, tuple[int, str]]], claim: tuple[int, str], order: Any
) -> None:
    fields = [(name, value) for name, (_, value) in dict(extras).items()]
    fields += [("access_token", json.dumps(TOKEN)), ("id_token", id_token(claim[1]))]
    if order:
        order.shuffle(fields)
    body = object_of(fields)
    if len(body) > MAX_BODY:
        return
    clock = VirtualClock()
    script = [CODE, Response(200, {}, body)]
    client = Client(store, clock=clock, transport=ScriptedTransport(script))
    flow = client.start(OAUTH)
    clock.advance(10)

    assert client.step(flow.id).state is State.AUTHORIZED

    token = client.collect_token(flow.id)
    assert token.access_token.reveal() == TOKEN
    for name, (depth, value) in dict(extras).items():
        if name in ("a", "b"):
            expected = json.loads(value) if depth <= KEPT and "{}" not in value else ...
            found = token.as_dict()[name]
            assert found is None if depth > KEPT else expected in (..., found)
    clock.advance(100)
    purged = client.purge(tokens_after=0, flows_after=0)
    assert (purged.tokens, purged.flows, purged.problems) == (1, 1, [])


@pytest.mark.parametrize("depth", [32, 960, 100_000])
def test_a_token_that_is_itself_too_deep_is_none(store: Any, depth: int) -> None:
    clock = VirtualClock()
    body = object_of([("access_token", nested(depth)), ("error", nested(depth))])
    script = [CODE, *[Response(200, {}, body)] * 3]
    client = Client(store, clock=clock, transport=ScriptedTransport(script))
    flow = client.start(OAUTH)

    assert client.wait(flow.id).state is State.FAILED
    assert client.get(flow.id).in_doubt


def test_metadata_may_be_deep_where_it_does_not_matter(store: Any) -> None:
    fields = {
        "issuer": ISSUER,
        "device_authorization_endpoint": f"{ISSUER}/code",
        "token_endpoint": f"{ISSUER}/token",
    }
    body = object_of([*((k, json.dumps(v)) for k, v in fields.items()), ("x", nested(4_000))])
    script = ScriptedTransport([Response(200, {}, body), CODE])

    flow = Client(store, transport=script).start(OAuth(client_id="robot", issuer=ISSUER))

    assert flow.token_endpoint == f"{ISSUER}/token"


pieces = st.sampled_from(["[", "]", "{", "}", '"', "\\", ":", ",", "1", '"a":', "[" * 40, "\ud800"])


@FUZZ
@given(st.lists(pieces, max_size=60).map("".join))
def test_brackets_anywhere_are_fields_or_none(text: str) -> None:
    for body in (text.encode(errors="surrogatepass"), text.encode("utf-16", "surrogatepass")):
        fields = Response(200, {}, body).fields()
        assert fields is None or json.dumps(fields.as_dict())


@pytest.mark.parametrize(
    "piece",
    ["[", "{", "[]", "[],", '{"a":', '"', '\\"', '"\\', '""', '"[', "1", "-", " ", "[[]],"],
)
@pytest.mark.parametrize("start", ["", '{"a":', '{"a":"', '{"a":' + nested(40)[:-1], "["])
def test_no_body_takes_long(start: str, piece: str) -> None:
    body = (start + piece * (MAX_BODY // len(piece)))[:MAX_BODY].encode()
    began = time.process_time()

    assert Response(200, {}, body).fields() is None

    assert time.process_time() - began < 5


@pytest.mark.parametrize("digits", ["9" * 5000, "-" + "9" * 5000, "9" * 900_000, "1e" + "9" * 5000])
def test_a_number_of_any_length_costs_no_token(digits: str) -> None:
    body = object_of([("access_token", json.dumps(TOKEN)), ("n", digits), ("expires_in", digits)])
    fields = Response(200, {}, body).fields()

    assert fields
    assert fields.text("access_token") == TOKEN
    assert json.loads(json.dumps(fields.as_dict())) == fields.as_dict()
