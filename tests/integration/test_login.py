"""A whole login over real HTTP: our client, the real server, and a person in between."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from deviceflow import Client, DeniedError, State, Studio, auth
from deviceflow.core.actions import LOGIN_TRIGGERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

    from deviceflow.core.flow import Flow
    from deviceflow.core.login import Login
    from deviceflow.testing import Transitions
    from tests.integration.conftest import Page, Person, Remote


def type_the_code(person: Person, flow: Flow) -> Page:
    assert flow.user_code
    return person.approve(flow.user_code)


def follow_the_link(person: Person, flow: Flow) -> Page:
    assert flow.verification_uri_complete
    return person.press(
        person.press(person.open(flow.verification_uri_complete), "Continue"), "Approve"
    )


@pytest.mark.parametrize("approve", [type_the_code, follow_the_link])
def test_a_login_step_by_step(
    serve: Callable[..., Remote],
    approve: Callable[[Person, Login], Page],
    transitions: Transitions,
) -> None:
    server = serve()
    client = Client()
    flow = client.start(Studio(server.url), client_name="nightly", scopes=["experiments"])
    assert client.step(flow.id).state is State.AWAITING_USER

    assert approve(server.person, flow).title.startswith("Approved")
    token = client.wait_for_token(flow.id)

    assert token.access_token.reveal().startswith("isat_")
    moves = [(event["action"], event["from"], event["to"]) for event in transitions]
    assert moves[0] == ("issue_code", "init", "awaiting-user")
    assert moves.pop() == ("collect", "authorized", "authorized")  # what moves nothing
    assert moves[-1] == ("issue_token", "polling", "authorized")
    legal = {(name, *move) for name in LOGIN_TRIGGERS for move in name.login.items()}
    assert set(moves) <= legal


def test_denied_on_the_page(serve: Callable[..., Remote]) -> None:
    server = serve()
    client = Client()
    flow = client.start(Studio(server.url), client_name="nightly")
    assert flow.user_code
    server.person.deny(flow.user_code)

    with pytest.raises(DeniedError):
        client.wait_for_token(flow.id)


def test_get_access_token_with_a_person_who_follows_the_printed_address(
    serve: Callable[..., Remote], transitions: Transitions
) -> None:
    server = serve()
    shown = _Shown()
    got: list[tuple[str, str]] = []

    def program() -> None:
        with contextlib.redirect_stdout(shown):
            got.append(
                auth.get_access_token(
                    hostname=server.url, client_name="script", token_name="t", open_browser=False
                )
            )

    thread = threading.Thread(target=program)
    thread.start()
    assert shown.address.wait(timeout=60)
    address = f"http{shown.getvalue().split('http', 1)[1].split()[0]}"
    page = server.person.open(address)
    server.person.press(server.person.press(page, "Continue"), "Approve")
    thread.join(timeout=60)

    [(name, token)] = got
    assert name == "t"
    assert token.startswith("isat_")
    assert transitions[-1]["to"] == "authorized"


def test_a_real_browser_types_the_code_and_the_program_gets_its_token(
    serve: Callable[..., Remote], chromium: Browser
) -> None:
    server = serve()
    client = Client()
    flow = client.start(Studio(server.url), client_name="nightly", scopes=["models"])
    assert flow.verification_uri
    assert flow.user_code

    page = chromium.new_page()
    page.goto(flow.verification_uri)
    page.get_by_label("Code").fill(flow.user_code.replace("-", "").lower())
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("nightly")).to_be_visible()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", name="Approved")).to_be_visible()
    page.close()

    assert client.wait_for_token(flow.id).access_token.reveal().startswith("isat_")


class _Shown(io.StringIO):
    """What a program prints, and a sign that the address is among it."""

    def __init__(self) -> None:
        super().__init__()
        self.address = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "code=" in text:
            self.address.set()
        return written
