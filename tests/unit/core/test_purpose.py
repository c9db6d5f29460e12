"""Why a login is needed: what may be stated, who is told, and which servers are sent it."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Client, OAuth, Studio, export
from deviceflow.core.explain import instructions
from deviceflow.core.flow import Flow
from deviceflow.core.sanitize import printable
from deviceflow.errors import UsageError
from deviceflow.providers.dialect import read_dialect
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get

WHY: Final = "nightly training, job 17 of Zoë's team"
SERVER: Final = "https://login.example.com"
METADATA: Final[dict[str, Any]] = {
    "issuer": SERVER,
    "device_authorization_endpoint": f"{SERVER}/device",
    "token_endpoint": f"{SERVER}/token",
}
CODE: Final = answer(
    200,
    {
        "device_code": "the-device-code",
        "user_code": "WDJB-MJHT",
        "verification_uri": f"{SERVER}/go",
        "expires_in": 600,
    },
)
BY_ISSUER: Final = OAuth(client_id="robot", issuer=SERVER)


def scripted(*script: Any) -> tuple[Client, ScriptedTransport]:
    transport = ScriptedTransport(script)
    return Client(transport=transport, clock=VirtualClock(), output=lambda _: None), transport


# What a purpose is.


@pytest.mark.parametrize(
    "purpose",
    ["", " \t", "x" * 201, "a\nb", "red \x1b[31m", "a\u202eb", "a\0b", "\ud800", 5, b"bytes"],
)
def test_what_is_no_purpose_is_refused_before_anything_is_sent(purpose: Any) -> None:
    client, transport = scripted(answer(200, METADATA), CODE)

    with pytest.raises(UsageError, match="purpose of a login"):
        client.start(BY_ISSUER, purpose=purpose)

    assert transport.requests == []


@given(st.text(max_size=250))
def test_a_purpose_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        flow = Flow("f1", BY_ISSUER, 0.0, purpose=text)
    except UsageError:
        return
    assert flow.purpose == text == printable(text)
    assert 0 < len(text.strip()) <= len(text) <= 200


# Who is told.


def test_the_person_is_told() -> None:
    client, _ = scripted(answer(200, METADATA), CODE)

    flow = client.start(BY_ISSUER, purpose=WHY)

    assert instructions(flow)[1] == f"Purpose: {WHY}"


# What a server is sent.


def sent(transport: ScriptedTransport) -> dict[str, list[str]]:
    (request,) = [one for one in transport.requests if one.purpose == "code"]
    return parse_qs(request.body.decode())


def test_a_server_that_does_not_say_so_is_not_sent_it() -> None:
    client, transport = scripted(answer(200, METADATA), CODE)

    client.start(BY_ISSUER, purpose=WHY)

    assert "purpose" not in sent(transport)
    assert WHY.encode() not in b"".join(one.body for one in transport.requests)


@pytest.mark.parametrize("said", ["true", 1, None, {"yes": True}])
def test_metadata_must_say_so_plainly(said: object) -> None:
    metadata = METADATA | {"deviceflow_purpose_supported": said}
    client, transport = scripted(answer(200, metadata), CODE)

    client.start(BY_ISSUER, purpose=WHY)

    assert "purpose" not in sent(transport)


@pytest.mark.parametrize("purpose", [None, WHY])
def test_a_server_whose_metadata_says_so_is_sent_it(purpose: str | None) -> None:
    metadata = METADATA | {"deviceflow_purpose_supported": True}
    client, transport = scripted(answer(200, metadata), CODE)

    flow = client.start(BY_ISSUER, purpose=purpose)

    assert sent(transport).get("purpose") == (purpose and [purpose])
    kept = get(client._store, flow.id)
    assert export.from_dict(export.to_dict(kept)).provider.to_dict() == flow.provider.to_dict()


def test_an_entry_may_name_the_parameter() -> None:
    quirks = read_dialect("mine", {"purpose_parameter": "why"})
    client, transport = scripted(CODE)
    where = {name: url for name, url in METADATA.items() if name != "issuer"}

    client.start(OAuth(client_id="robot", quirks=quirks, **where), purpose=WHY)

    assert sent(transport)["why"] == [WHY]


def test_a_studio_elsewhere_is_not_sent_it() -> None:
    studio = {"token_uri": f"{SERVER}/token"} | json.loads(CODE.body)
    client, transport = scripted(answer(200, studio))

    client.start(Studio(SERVER), purpose=WHY)

    assert json.loads(transport.requests[0].body) == {"client_name": "client"}


def test_a_studio_on_this_machine_is_sent_it() -> None:
    studio = {"token_uri": "http://127.0.0.1:8000/token"} | json.loads(CODE.body)
    client, transport = scripted(answer(200, studio))

    client.start(Studio("http://127.0.0.1:8000"), purpose=WHY)

    assert json.loads(transport.requests[0].body)["purpose"] == WHY
