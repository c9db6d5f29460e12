"""Tests of a program that logs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deviceflow import Client, DeniedError, provider
from deviceflow.auth import get_access_token
from deviceflow.errors import UnreachableError
from deviceflow.testing import ScriptedTransport, answers_of

if TYPE_CHECKING:
    from deviceflow.testing import DeviceServer, Transitions, VirtualClock


def test_the_person_approves(device_server: DeviceServer, virtual_clock: VirtualClock) -> None:
    device_server.after_polls(3, "approve")
    name, token = get_access_token(hostname=device_server.url, open_browser=False)
    assert name
    assert token
    assert virtual_clock.slept == [5, 5, 5]  # and yet it took no time


def test_the_person_says_no(
    device_server: DeviceServer, virtual_clock: VirtualClock, transitions: Transitions
) -> None:
    client = Client()
    login = client.start(device_server.oauth(scopes=["read"]))
    device_server.slow_down_next()
    device_server.after_polls(1, "deny")
    with pytest.raises(DeniedError):
        client.wait_for_token(login.id)
    assert transitions.actions == ["issue_code", "poll", "slow_down", "poll", "deny"]
    assert virtual_clock.slept[-1] >= 10


def test_an_answer_is_lost(device_server: DeviceServer, virtual_clock: VirtualClock) -> None:
    device_server.rotate_refresh_tokens(grace=60)
    device_server.auto_approve = True
    client, server = Client(), device_server.oauth()
    client.log_in("nightly", server)
    virtual_clock.advance(4000)  # the access token has expired
    device_server.cut_next_answer(of=["refresh"])
    with pytest.raises(UnreachableError):
        client.get_token("nightly", server)
    virtual_clock.advance(10)  # deviceflow backs off before it sends the refresh again
    assert client.get_token("nightly", server)
    assert [one.cut for one in device_server.requests if one.kind == "refresh"] == [True, False]


@pytest.mark.deviceflow(interval=1, expires_in=10)
def test_nobody_comes(device_server: DeviceServer, virtual_clock: VirtualClock) -> None:
    client = Client()
    assert client.wait(client.start(device_server.oauth()).id).state == "expired"


def test_github_asks_to_slow_down(virtual_clock: VirtualClock) -> None:
    github = answers_of("github")
    script = ScriptedTransport(github.login(github.slow_down(interval=10), github.token()))
    client = Client(transport=script)
    login = client.start(provider("github", client_id="test"))
    assert client.wait_for_token(login.id)
    script.assert_finished()
