"""What a notebook shows of a login: what a person needs to approve, escaped, without a script."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import segno

from deviceflow.core.flow import Flow
from deviceflow.core.login import Login
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.providers.oauth import OAuth
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

NOW = 1_800_000_000.0
PAGE = "https://login.example.com/device"
CODE: dict[str, Any] = {
    "device_code": "DEVICE-CANARY",
    "user_code": "WDJB-MJHT",
    "verification_uri": PAGE,
    "verification_uri_complete": f"{PAGE}?user_code=WDJB-MJHT",
    "expires_in": 900,
}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Parsed(HTMLParser):
    """The elements of a page, and its visible text."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(shown)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    def links(self) -> list[str | None]:
        return [attributes["href"] for tag, attributes in self.tags if tag == "a"]

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


def flow_of(
    code: dict[str, Any] | None = None, *, client: str = "robot", purpose: str | None = None
) -> Flow:
    provider = OAuth(
        client_id=client,
        device_authorization_endpoint="https://login.example.com/start",
        token_endpoint="https://login.example.com/token",
    )
    flow = Flow("f1", provider, NOW, purpose=purpose)
    flow.receive(answer(200, CODE | (code or {})), NOW)
    return flow


def html_of(flow: Flow) -> str:
    shown = Login.of(flow, 0.0)._repr_html_()
    assert shown is not None
    return shown


def test_the_page_the_code_and_a_qr_code_are_shown() -> None:
    shown = Parsed(html_of(flow_of(purpose="the nightly report")))

    assert "robot asks for access to https://login.example.com." in shown.text
    assert "Purpose: the nightly report" in shown.text
    assert "check that it shows the code" in shown.text
    assert "WDJB-MJHT" in shown.text.split("\n")
    assert shown.links() == [CODE["verification_uri_complete"]]
    [link] = [attributes for tag, attributes in shown.tags if tag == "a"]
    assert link["rel"] == "noopener noreferrer"
    assert [tag for tag, _ in shown.tags].count("svg") == 1


def test_the_qr_code_has_the_page_and_nothing_else() -> None:
    [drawn] = re.findall(r"<svg.*?</svg>", html_of(flow_of()))

    page = segno.make(CODE["verification_uri_complete"], error="l")
    assert drawn == page.svg_inline(scale=3, border=4, light="#fff")


def test_a_page_without_the_code_says_to_enter_the_code() -> None:
    shown = Parsed(html_of(flow_of({"verification_uri_complete": None})))

    assert "enter the code" in shown.text
    assert shown.links() == [PAGE]


def test_an_address_that_cannot_be_opened_is_no_link(waiting: Callable[..., Flow]) -> None:
    flow = waiting(verification_uri="javascript:alert(1)")
    flow.provider = flow.provider.with_request(client_name="")
    shown = html_of(flow)

    assert shown.startswith("<div><p>This program asks for access to ")
    assert "The server sent no usable URL. The code is:" in shown
    assert "javascript" not in shown
    assert Parsed(shown).names() == {"div", "p", "code"}
    assert flow.user_code is not None
    assert flow.user_code in shown


def test_what_comes_from_elsewhere_is_escaped() -> None:
    page = f"{PAGE}?a='&b=%22><script>"
    flow = flow_of(
        {"user_code": f"{HOSTILE}\x1b[2J\u202e", "verification_uri_complete": page},
        client=HOSTILE,
        purpose=HOSTILE,
    )
    shown = html_of(flow)

    parsed = Parsed(shown)
    assert parsed.names() <= {"div", "p", "a", "code", "svg", "g", "path"}
    assert parsed.links() == [page]
    assert not any(name.startswith("on") for _, found in parsed.tags for name in found)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_nothing_secret_is_shown() -> None:
    flow = flow_of()
    flow.verifier = Secret("VERIFIER-CANARY")
    flow.token = Token(Secret("TOKEN-CANARY"))

    assert "CANARY" not in html_of(flow)


def test_it_is_the_same_while_a_poll_is_on_its_way() -> None:
    flow = flow_of()
    before = html_of(flow)
    flow.poll(NOW + 5, 10.0)

    assert html_of(flow) == before


def test_a_login_that_awaits_nobody_is_shown_as_text() -> None:
    unstarted = Flow("f2", flow_of().provider, NOW)
    ended = flow_of()
    ended.cancel(NOW)

    assert Login.of(unstarted, 0.0)._repr_html_() is None
    assert Login.of(ended, 0.0)._repr_html_() is None


def test_without_segno_there_is_no_qr_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)

    shown = Parsed(html_of(flow_of()))
    assert "svg" not in shown.names()
    assert shown.links() == [CODE["verification_uri_complete"]]


def test_a_page_that_is_too_long_for_a_qr_code_is_a_link_only() -> None:
    page = PAGE + "?" + "\N{HIRAGANA LETTER A}" * 1900  # three bytes each
    shown = Parsed(html_of(flow_of({"verification_uri_complete": page})))

    assert shown.links() == [page]
    assert "svg" not in shown.names()
