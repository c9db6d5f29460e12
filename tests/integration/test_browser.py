"""The pages in a real browser. What they look like is kept in artifacts/."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page, Request

    from tests.integration.conftest import Remote

ARTIFACTS: Final = Path(__file__).parents[2] / "artifacts"
SIZES: Final = {"phone": (360, 740), "desktop": (1280, 800), "narrow": (320, 640)}
LOOKS: Final = ["-".join(look) for look in itertools.product(SIZES, ("light", "dark"))]


class Visit:
    """One person's browser window, which keeps a picture of each page it is shown."""

    def __init__(self, browser: Browser, url: str, look: str, **how: Any) -> None:
        size, scheme = look.split("-")
        width, height = SIZES[size]
        self._look = look
        self._context = browser.new_context(
            base_url=url,
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": height},
            **how,
        )
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, url: str) -> None:
        self.page.goto(url)

    def type_code(self, user_code: str) -> None:
        self.page.get_by_label("Code").fill(user_code)
        self.press("Continue")

    def press(self, button: str) -> None:
        with self.page.expect_navigation(wait_until="load"):
            self.page.get_by_role("button", name=button).click()

    def keep(self, name: str, heading: str) -> None:
        assert self.page.get_by_role("heading", level=1).inner_text() == heading
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"{self._look}-{name}.png", full_page=True)
        wide = self.page.evaluate("document.scrollingElement.scrollWidth")
        assert wide == self.page.evaluate("window.innerWidth"), f"{name} scrolls sideways"

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def start(url: str, look: str, **how: Any) -> Visit:
        visits.append(Visit(chromium, url, look, **how))
        return visits[-1]

    yield start
    for visit in visits:
        visit.close()


def login(remote: Remote) -> dict[str, Any]:
    asked = {
        "client_name": "nightly-training on build-17",
        "token_name": "nightly",
        "scopes": ["EXPERIMENTS", "DATASETS", "MODELS"],
        "team_names": ["Vision", "Search"],
        "expires_in_days": 30,
    }
    return dict(remote.post("/api/device-login", json=asked).json())


def poll(started: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(started["token_uri"], json={"code": started["device_code"]}, timeout=60)
    return dict(answer.json())


@pytest.mark.parametrize("look", LOOKS)
def test_code_is_typed_and_approved(
    serve: Callable[..., Remote], visit: Callable[..., Visit], look: str
) -> None:
    remote = serve()
    started = login(remote)
    window = visit(remote.url, look)
    window.open(started["verification_uri"])
    window.keep("1-enter", "Enter your code")
    window.type_code(started["user_code"].lower().replace("-", " "))
    window.keep("2-confirm", "Approve this login?")
    assert poll(started) == {"detail": "authorization_pending"}
    window.press("Approve")
    window.keep("3-approved", "Approved")
    assert window.complaints == []
    assert poll(started)["access_token"].startswith("isat_")


@pytest.mark.parametrize("look", ["phone-light", "desktop-dark", "narrow-light"])
def test_link_is_followed_and_denied(
    serve: Callable[..., Remote], visit: Callable[..., Visit], look: str
) -> None:
    remote = serve()
    started = login(remote)
    window = visit(remote.url, look)
    window.open(f"{started['verification_uri']}?code={started['user_code']}")
    assert window.page.get_by_label("Code").input_value() == started["user_code"]
    window.keep("1-link", "Enter your code")
    window.press("Continue")
    window.press("Deny")
    window.keep("3-denied", "Denied")
    assert window.complaints == []
    assert poll(started) == {"detail": "access_denied"}


@pytest.mark.parametrize("look", LOOKS)
def test_errors(serve: Callable[..., Remote], visit: Callable[..., Visit], look: str) -> None:
    remote = serve(guess_limit=1)
    window = visit(remote.url, look)
    window.open("/device")
    window.type_code("BCDF-GHJK")
    alert = window.page.get_by_role("alert")
    assert alert.inner_text().startswith("No login has this code.")
    assert window.page.get_by_label("Code").input_value() == "BCDF-GHJK"
    window.keep("4-wrong-code", "Enter your code")
    window.press("Continue")
    assert alert.inner_text().startswith("Too many wrong codes.")
    window.keep("5-too-many", "Enter your code")
    window.open("/nowhere")
    window.keep("6-not-found", "Not Found")


def test_long_names_do_not_scroll_sideways(
    serve: Callable[..., Remote], visit: Callable[..., Visit]
) -> None:
    remote = serve()
    asked = {"client_id": "x" * 200, "scope": "y" * 200}
    started = remote.post("/oauth/device_authorization", data=asked).json()
    window = visit(remote.url, "narrow-dark")
    window.open(started["verification_uri_complete"])
    window.press("Continue")
    window.keep("2-confirm-long", "Approve this login?")


def test_without_javascript(serve: Callable[..., Remote], visit: Callable[..., Visit]) -> None:
    remote = serve()
    started = login(remote)
    window = visit(remote.url, "desktop-light", java_script_enabled=False)
    window.open("/device")
    window.type_code(started["user_code"])
    window.press("Approve")
    assert window.page.get_by_role("heading", level=1).inner_text() == "Approved"
    assert poll(started)["access_token"].startswith("isat_")


def test_keyboard_alone(serve: Callable[..., Remote], visit: Callable[..., Visit]) -> None:
    remote = serve()
    started = login(remote)
    window = visit(remote.url, "desktop-light")
    window.open("/device")
    focused = window.page.locator(":focus")
    assert focused.get_attribute("name") == "user_code"
    window.page.keyboard.type(started["user_code"])
    with window.page.expect_navigation(wait_until="load"):
        window.page.keyboard.press("Enter")
    window.page.keyboard.press("Tab")
    assert focused.inner_text() == "Approve"
    with window.page.expect_navigation(wait_until="load"):
        window.page.keyboard.press("Enter")
    assert window.page.get_by_role("heading", level=1).inner_text() == "Approved"
    assert poll(started)["access_token"].startswith("isat_")


def test_code_is_in_no_referrer(serve: Callable[..., Remote], visit: Callable[..., Visit]) -> None:
    remote = serve()
    started = login(remote)
    window = visit(remote.url, "desktop-light")
    sent: list[Request] = []
    # Playwright sets an attribute on its handlers, which `sent.append` does not take.
    window.page.on("request", lambda request: sent.append(request))  # noqa: PLW0108
    window.open(f"/device?user_code={started['user_code']}")
    window.press("Continue")
    window.press("Approve")
    assert len(sent) >= 3
    assert not any("referer" in request.all_headers() for request in sent)
