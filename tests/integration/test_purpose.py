"""Why a login is needed: stated at the start, shown to the person, and on record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest
import requests

from deviceflow import Client, OAuth, Studio, export
from deviceflow.audit.events import schema
from deviceflow.cli import main
from deviceflow.errors import UsageError
from deviceflow.integrations.requests import DeviceFlowAuth
from deviceflow.server import LocalServer, Settings
from tests.integration.command import begun, decide
from tests.stored import flows as all_flows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.login import Login
    from deviceflow.stores.sqlite import SQLiteStore
    from deviceflow.testing import Transitions
    from tests.integration.command import Command
    from tests.integration.conftest import Local

WHY: Final = "nightly training, job 17 of Zoë's team"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as one:
        yield one


# Who is told.


@pytest.mark.parametrize("dialect", ["rfc8628", "studio"])
def test_it_is_kept_shown_and_recorded(
    server: LocalServer, kept: SQLiteStore, dialect: str, transitions: Transitions
) -> None:
    provider: Any = Studio(server.url)
    if dialect == "rfc8628":
        provider = OAuth(client_id="robot", issuer=server.url)
    shown: list[str] = []

    def approve(_: str) -> bool:
        (flow,) = client.logins(skip_ended=True)
        decide(server, "approve")("", str(flow.user_code))
        return True

    client = Client(kept, output=shown.append, browser=approve)
    client.login(provider, purpose=WHY)

    assert shown[1] == f"Purpose: {WHY}"
    (flow,) = all_flows(kept)
    assert flow.purpose == WHY
    assert export.from_dict(export.to_dict(flow)).purpose == WHY
    assert {event["purpose"] for event in transitions} == {WHY}
    for event in transitions:
        jsonschema.validate(event, schema())


def test_a_session_states_it_as_well(server: LocalServer) -> None:
    flows: list[Login] = []

    def approve(_: str) -> bool:
        flows.extend(client.logins())
        decide(server, "approve")("", str(flows[0].user_code))
        return True

    client = Client(output=lambda _: None, browser=approve)
    session = requests.Session()
    session.auth = DeviceFlowAuth(
        client, "nightly", Studio(server.url), purpose=WHY, interactive=True
    )

    session.get(f"{server.url}/device", timeout=60)

    assert flows[0].purpose == WHY


def test_a_key_is_for_one_purpose(server: LocalServer) -> None:
    client = Client()
    flow = client.start(Studio(server.url), name="nightly", purpose=WHY)

    assert client.start(Studio(server.url), name="nightly", purpose=WHY).id == flow.id
    with pytest.raises(UsageError, match="another purpose"):
        client.start(Studio(server.url), name="nightly")


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
    done = deviceflow("start", "studio", server.url, "--purpose", WHY)
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
        where = (
            "login",
            "--once",
            "studio",
            server.url,
            "--show-token",
            "--timeout",
            "0.2",
            "--no-browser",
        )
        done = deviceflow(*where, "--purpose", purpose)
        assert done.code == 75
        return done.err.split("the code:")[-1].split()[1]

    assert login("one") == login("one") != login("another")


def test_a_purpose_that_is_none_is_wrong_usage(deviceflow: Command, server: LocalServer) -> None:
    for purpose in ("", "x" * 201, "a\x1b[31mb"):
        done = deviceflow("start", "studio", server.url, "--purpose", purpose)
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
    assert "is not an argument of this command" in capsys.readouterr().err
