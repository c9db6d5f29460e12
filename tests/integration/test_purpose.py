"""Why a login is needed: stated at the start, shown to the person, and on record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import jsonschema
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Client, OAuth, Studio, export
from deviceflow.audit.events import schema
from deviceflow.cli import main
from deviceflow.core.flow import Flow
from deviceflow.core.sanitize import printable
from deviceflow.errors import UsageError
from deviceflow.integrations.requests import DeviceFlowAuth
from deviceflow.providers.dialect import read_dialect
from deviceflow.server import LocalServer, Settings
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.integration.command import begun, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command
    from tests.integration.conftest import Local

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


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as one:
        yield one


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


@pytest.mark.parametrize("dialect", ["rfc8628", "studio"])
def test_it_is_kept_shown_and_recorded(
    server: LocalServer, kept: SQLiteStore, dialect: str, transitions: list[dict[str, Any]]
) -> None:
    provider: Any = Studio(server.url)
    if dialect == "rfc8628":
        provider = OAuth(client_id="robot", issuer=server.url)
    shown: list[str] = []

    def approve(_: str) -> bool:
        (flow,) = client.flows(live=True)
        decide(server, "approve")("", str(flow.user_code))
        return True

    client = Client(kept, output=shown.append, browser=approve)
    client.login(provider, purpose=WHY)

    assert shown[1] == f"Purpose: {WHY}"
    (flow,) = kept.flows()
    assert flow.purpose == WHY
    assert export.from_dict(export.to_dict(flow)).purpose == WHY
    assert {event["purpose"] for event in transitions} == {WHY}
    for event in transitions:
        jsonschema.validate(event, schema())


def test_a_session_states_it_as_well(server: LocalServer) -> None:
    flows: list[Flow] = []

    def approve(_: str) -> bool:
        flows.extend(client.flows())
        decide(server, "approve")("", str(flows[0].user_code))
        return True

    client = Client(output=lambda _: None, browser=approve)
    session = requests.Session()
    session.auth = DeviceFlowAuth(client, Studio(server.url), purpose=WHY)

    session.get(f"{server.url}/device", timeout=5)

    assert flows[0].purpose == WHY


def test_a_key_is_for_one_purpose(server: LocalServer) -> None:
    client = Client()
    flow = client.start(Studio(server.url), key="nightly", purpose=WHY)

    assert client.start(Studio(server.url), key="nightly", purpose=WHY).id == flow.id
    with pytest.raises(UsageError, match="another purpose"):
        client.start(Studio(server.url), key="nightly")


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
    assert export.from_dict(export.to_dict(flow)).provider.to_dict() == flow.provider.to_dict()


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


# The page.


@pytest.mark.parametrize("start", ["start", "start_studio"])
def test_the_page_shows_it(local: Callable[..., Local], start: str) -> None:
    server = local()
    started = getattr(server, start)(purpose=WHY)

    page = server.person.enter(started["user_code"])

    assert f"Purpose {WHY}" in page.text


@pytest.mark.parametrize("start", ["start", "start_studio"])
@pytest.mark.parametrize("hostile", ["<script>x</script>\x1b[2J\u202e" + "y" * 999, " \n "])
def test_the_page_shows_it_cleaned(local: Callable[..., Local], start: str, hostile: str) -> None:
    server = local()
    started = getattr(server, start)(purpose=hostile)

    page = server.person.enter(started["user_code"])

    assert "<script>" not in page.html
    assert "y" * 200 not in page.text
    assert ("Purpose Not stated" in page.text) == (not hostile.strip())


# The command.


def test_the_command_states_it(deviceflow: Command, server: LocalServer) -> None:
    done = deviceflow("start", server.url, "--purpose", WHY)
    flow_id = done.out.strip()

    assert f"Purpose: {WHY}" in done.err
    assert f"Purpose: {WHY}" in deviceflow("status", flow_id).out
    assert deviceflow("status", flow_id, "--json").said["purpose"] == WHY
    assert deviceflow("list", "--json").said["purpose"] == WHY
    deviceflow("cancel", flow_id)
    assert f"purpose: {WHY}" in deviceflow("audit", "show", flow_id).out
    assert deviceflow("audit", "list", "--json").said["purpose"] == WHY
    assert deviceflow("audit", "verify").code == 0


def test_a_profile_and_the_environment_state_it(deviceflow: Command, server: LocalServer) -> None:
    deviceflow.configure(
        f'[profiles.work]\nprovider = "{server.url}"\npurpose = "as the profile has it"\n'
    )
    by_profile = deviceflow("start", "--profile", "work")
    by_environment = deviceflow("start", DEVICEFLOW_PURPOSE=WHY, DEVICEFLOW_PROFILE="work")

    assert "Purpose: as the profile has it" in by_profile.err
    assert f"Purpose: {WHY}" in by_environment.err


def test_the_same_login_for_another_purpose_is_another_login(
    deviceflow: Command, server: LocalServer
) -> None:
    def login(purpose: str) -> str:
        where = ("login", server.url, "--show-token", "--timeout", "0.2", "--no-browser")
        done = deviceflow(*where, "--purpose", purpose)
        assert done.code == 75
        return (
            done.err.split("enter the code ")[-1]
            .split("check that the page shows the code ")[-1]
            .split()[0]
        )

    assert login("one") == login("one") != login("another")


def test_a_purpose_that_is_none_is_wrong_usage(deviceflow: Command, server: LocalServer) -> None:
    for purpose in ("", "x" * 201, "a\x1b[31mb"):
        done = deviceflow("start", server.url, "--purpose", purpose)
        assert (done.code, done.out) == (2, "")
        assert "purpose of a login" in done.err
        assert "\x1b" not in done.err


def test_the_report_has_it(server: LocalServer, kept: SQLiteStore, deviceflow: Command) -> None:
    begun(kept, server, purpose="<b>nightly</b> & co")

    assert deviceflow("audit", "report", "-o", "report.html").code == 0

    page = (deviceflow.home / "report.html").read_text()
    assert "purpose: <bdi>&lt;b&gt;nightly&lt;/b&gt; &amp; co</bdi>" in page


def test_the_demo_takes_no_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--purpose", WHY])
    assert "unrecognized arguments" in capsys.readouterr().err
