"""The pytest plugin: in tests of ours, and in runs of pytest of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests

from deviceflow import AsyncClient, Client, DeniedError, ExpiredError
from deviceflow.auth import get_access_token
from deviceflow.cli import main
from deviceflow.errors import AuthorizationExpiredError, DeviceFlowError, UnreachableError
from deviceflow.testing.transitions import explain
from tests.stored import get

if TYPE_CHECKING:
    from deviceflow.testing import DeviceServer, Transitions, VirtualClock
    from deviceflow.typing import Store

pytest_plugins = ["pytester"]

ROOT: Final = Path(__file__).parents[2]
# By its module, since an older installation of this checkout may not name it.
LOADED: Final = ("-p", "no:deviceflow", "-p", "deviceflow.testing.plugin", "-p", "no:randomly")


@pytest.fixture(autouse=True)
def _no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda url: True)


def test_get_access_token_takes_no_time(
    device_server: DeviceServer, virtual_clock: VirtualClock, transitions: Transitions
) -> None:
    device_server.after_polls(2, "approve")
    begun = time.process_time()

    _, token = get_access_token(hostname=device_server.url)

    assert token
    assert device_server.polls == ["authorization_pending"] * 2 + ["issued"]
    assert virtual_clock.slept == [5.0, 5.0]
    assert transitions.actions[-2:] == ["issue_token", "collect"]
    assert time.process_time() - begun < 5


def test_get_access_token_ends_with_the_code(
    device_server: DeviceServer, virtual_clock: VirtualClock
) -> None:
    with pytest.raises(AuthorizationExpiredError):
        get_access_token(hostname=device_server.url, open_browser=False)

    assert 890 < sum(virtual_clock.slept) < 910


def test_a_client_that_is_given_no_clock_goes_by_the_virtual_one(
    device_server: DeviceServer, virtual_clock: VirtualClock
) -> None:
    client = Client()
    login = client.start(device_server.oauth())
    device_server.slow_down_next()
    device_server.after_polls(2, "deny")

    with pytest.raises(DeniedError):
        client.wait_for_token(login.id)

    assert device_server.polls == ["slow_down", "authorization_pending", "access_denied"]
    assert virtual_clock.slept[0] < 6
    assert virtual_clock.slept[1] > 10


def test_an_async_client_shares_the_clock(
    device_server: DeviceServer, virtual_clock: VirtualClock
) -> None:
    async def log_in() -> None:
        async with AsyncClient() as client:
            login = await client.start(device_server.oauth())
            await client.wait_for_token(login.id)

    device_server.after_polls(2, "approve")
    asyncio.run(log_in())

    assert device_server.polls[-1] == "issued"
    assert len(virtual_clock.slept) == 3


def test_the_command_in_this_process_does_too(
    device_server: DeviceServer,
    virtual_clock: VirtualClock,
    flow_store: Store,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device_server.after_polls(1, "approve")
    where = ["--issuer", device_server.url, "--client-id", "test"]

    assert main(["start", *where]) == 0
    flow_id = capsys.readouterr().out.strip()
    assert main(["wait", flow_id]) == 0

    assert get(flow_store, flow_id).state == "authorized"
    assert sum(virtual_clock.slept) == pytest.approx(2 * 5.1, abs=0.1)


def test_a_grant_is_refreshed_by_the_virtual_clock(
    device_server: DeviceServer, virtual_clock: VirtualClock, transitions: Transitions
) -> None:
    device_server.rotate_refresh_tokens(grace=60)
    device_server.auto_approve = True
    client, provider = Client(), device_server.oauth()
    client.log_in("nightly", provider)
    device_server.cut_next_answer(0, of=["refresh"])

    first = client.get_token("nightly", provider).access_token.reveal()
    virtual_clock.advance(3700)
    with pytest.raises(UnreachableError):
        client.get_token("nightly", provider)
    virtual_clock.advance(10)
    second = client.get_token("nightly", provider).access_token.reveal()

    assert first != second
    seen = [one for one in device_server.requests if one.kind == "refresh"]
    assert [one.cut for one in seen] == [True, False]
    assert transitions.actions[-4:] == ["refresh", "lose_answer", "replay", "renew"]


def test_answers_go_wrong_as_ordered(
    device_server: DeviceServer, virtual_clock: VirtualClock
) -> None:
    device_server.fail_next(status=503, times=2, of=["poll"], retry_after=30)
    device_server.fail_next(status=500, of=["poll"], body="<html>")
    device_server.cut_next_answer(of=["poll"])
    device_server.auto_approve = True
    client = Client()
    login = client.start(device_server.oauth())

    with pytest.raises(DeviceFlowError):  # the token was in the answer that was cut
        client.wait_for_token(login.id)

    assert device_server.polls == ["temporarily_unavailable"] * 2 + [
        "500",
        "issued",
        "invalid_grant",
    ]
    assert virtual_clock.slept[1:3] == [30, 30]
    assert next(str(one) for one in device_server.requests).startswith("metadata at 1800000000.0")


def test_a_code_expires_at_once(device_server: DeviceServer, virtual_clock: VirtualClock) -> None:
    client = Client()
    login = client.start(device_server.oauth())
    device_server.expire(login.user_code)

    with pytest.raises(ExpiredError):
        client.wait_for_token(login.id)


@pytest.mark.deviceflow(interval=2, expires_in=60)
def test_the_mark_sets_up_the_server_which_goes_by_real_time_without_the_clock(
    device_server: DeviceServer,
) -> None:
    sent = {"client_id": "test"}
    code = requests.post(f"{device_server.url}/oauth/device_authorization", data=sent, timeout=60)

    assert code.json()["interval"] == 2
    assert code.json()["expires_in"] == 60
    assert abs(device_server.requests[0].at - time.time()) < 60


def test_a_person_who_is_not_asked_cannot_decide(device_server: DeviceServer) -> None:
    with pytest.raises(AssertionError, match="no login waits for a person") as nobody:
        device_server.approve()
    assert str(nobody.value).endswith("Requests so far:\n  none")

    client = Client()
    login = client.start(device_server.oauth())
    device_server.deny()
    with pytest.raises(AssertionError, match=f"{login.user_code} is denied") as late:
        device_server.approve(login.user_code)
    assert "2. code at" in str(late.value)

    client.start(device_server.oauth())
    client.start(device_server.oauth())
    with pytest.raises(AssertionError, match="several logins wait: "):
        device_server.deny()
    with pytest.raises(AssertionError, match="it was never issued"):
        device_server.expire("NONE")


def test_studio_is_told_to_slow_down(
    device_server: DeviceServer, virtual_clock: VirtualClock
) -> None:
    device_server.slow_down_next()
    device_server.after_polls(1, "approve")
    client = Client()
    login = client.start(device_server.studio(), client_name="test")

    client.wait_for_token(login.id)

    assert device_server.polls == ["slow_down", "issued"]
    assert virtual_clock.slept[-1] >= 10


def test_transitions_that_are_not_as_expected_are_explained(
    device_server: DeviceServer, virtual_clock: VirtualClock, transitions: Transitions
) -> None:
    device_server.auto_approve = True
    device_server.fail_next(of=["poll"])
    client = Client()
    login = client.start(device_server.oauth())
    client.wait_for_token(login.id)
    came = transitions.of(login.id).actions

    lines = explain(came, [*came[:-1], "pending"])
    assert lines[0] == f"action {len(came)}: expected 'pending', and 'collect' came"
    assert lines[-1].startswith(
        ">  pending              collect              authorized → authorized"
    )
    assert "status 503" in "\n".join(lines)
    assert explain(came, [*came, "purge"])[0].endswith("expected 'purge', and none came")
    assert explain(came, came[:-1])[0].endswith("expected no more, and 'collect' came")


# Runs of pytest of its own.

TEST_OF_A_PROGRAM: Final = """
import pytest
from deviceflow import Client
from deviceflow.auth import get_access_token

def test_passes(device_server, virtual_clock, transitions):
    device_server.auto_approve = True
    assert get_access_token(hostname=device_server.url, open_browser=False)[1]
    assert transitions.states[-1] == "authorized"

def test_transitions(device_server, virtual_clock, transitions):
    Client().start(device_server.oauth())
    assert transitions.actions == ["issue_code", "poll"]

def test_script():
    from deviceflow.testing import ScriptedTransport, answers_of
    github = answers_of("github")
    script = ScriptedTransport(github.login(github.pending()))
    from deviceflow import provider
    client = Client(transport=script)
    client.start(provider("github", client_id="test"))
    script.assert_finished()

@pytest.mark.deviceflow(intervall=1)
def test_mark(device_server):
    pass
"""


def test_a_failure_says_first_what_was_expected_and_what_came(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST_OF_A_PROGRAM)

    result = pytester.runpytest_inprocess(*LOADED, "--strict-markers")

    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "E*action 2: expected 'poll', and none came",
            "E*issue_code *init → awaiting-user*",
            "E*AssertionError: 1 answer of the script left after 1 requests: 200 authorization_p*",
            "E*So far:",
            "E*1. POST https://github.com/login/device/code (code) → 200",
        ]
    )
    result.stdout.fnmatch_lines(["*intervall*"])


def test_a_setting_of_the_mark_that_is_misspelt_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST_OF_A_PROGRAM)

    result = pytester.runpytest_inprocess(*LOADED, "-k", "test_mark")

    result.stdout.fnmatch_lines(["*unknown setting 'intervall'. Did you mean interval?*"])
    result.stdout.no_fnmatch_line("*TypeError*")


def test_the_plugin_loads_nothing_of_the_library(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            ours = sorted(name for name in sys.modules if name.startswith("deviceflow"))
            assert ours == ["deviceflow", "deviceflow.testing", "deviceflow.testing.plugin"]
            assert not {"requests", "transitions", "structlog", "flask"} & {*sys.modules}
        """
    )
    pytester.runpytest_subprocess(*LOADED).assert_outcomes(passed=1)


def test_a_missing_extra_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys
        sys.modules["flask"] = sys.modules["cryptography"] = None
        """
    )
    pytester.makepyfile(
        """
        def test_server(device_server): pass
        def test_store(flow_store): pass
        def test_clock(virtual_clock, transitions): pass
        """
    )

    result = pytester.runpytest_subprocess(*LOADED)

    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*device_server cannot be used.*pip install 'deviceflow?server?'",
            "*flow_store cannot be used.*deviceflow?seal?*",
        ]
    )


def test_the_distribution_names_the_plugin() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["pytest11"]

    assert named == {"deviceflow": "deviceflow.testing.plugin"}
    assert import_module(named["deviceflow"]).device_server


def test_a_run_without_our_tests_measures_no_line_of_ours(pytester: pytest.Pytester) -> None:
    # A plugin that loads a package before its coverage is measured hides the package's lines.
    code = "import deviceflow.testing.plugin, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert not [name for name in loaded.stdout.split() if name.startswith("deviceflow.core")]


def test_the_how_tos_tests_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile((ROOT / "docs/how-to/testing/test_login.py").read_text())

    result = pytester.runpytest_inprocess(*LOADED, "--strict-markers")

    result.assert_outcomes(passed=5)
