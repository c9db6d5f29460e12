"""A real server, a person in front of its pages, a clock that obeys, and a browser."""

from __future__ import annotations

import os
import shutil
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urljoin

import pytest
import requests
from playwright.sync_api import Browser, expect, sync_playwright

from deviceflow.server import LocalServer, Settings, create_app
from tests.integration.command import deviceflow, kept  # noqa: F401  # fixtures
from tests.integration.oidc_provider import (  # noqa: F401  # fixtures
    oidc_node,
    oidc_provider,
    start_oidc_provider,
)
from tests.integration.places import database, events, place  # noqa: F401  # fixtures
from tests.postgres import postgres_server, postgres_url  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flask.testing import FlaskClient

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:device_code"


class Clock:
    """StoredFlow still until it is told to go on. Starts on a Tuesday in November 2026."""

    def __init__(self) -> None:
        self.now = 1_795_500_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Page(HTMLParser):
    """What a person finds on a page: its text, and its one form."""

    def __init__(self, status: int, headers: Mapping[str, str], html: str) -> None:
        super().__init__()
        self.status = status
        self.headers = headers
        self.html = html
        self.title = ""
        self.texts: list[str] = []
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.buttons: dict[str, tuple[str, str] | None] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found["action"]
        elif tag == "input":
            self.fields[str(found["name"])] = found.get("value") or ""
        self._open.append((tag, found))

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        tag, found = self._open[-1] if self._open else ("", {})
        if not text:
            return
        if tag == "title":
            self.title = text
        elif tag == "button":
            name = found.get("name")
            self.buttons[text] = (name, found.get("value") or "") if name else None
        self.texts.append(text)


class _Answer(Protocol):
    status_code: int

    @property
    def text(self) -> str: ...

    @property
    def headers(self) -> Any: ...


class Person:
    """Uses the pages as a browser without JavaScript does: cookies, forms, redirects."""

    def __init__(self, get: Callable[[str], _Answer], post: Callable[..., _Answer]) -> None:
        self._get = get
        self._post = post

    def open(self, url: str) -> Page:
        return _page(self._get(url))

    def press(self, page: Page, button: str, **typed: str) -> Page:
        assert page.action is not None
        pressed = page.buttons[button]
        fields = page.fields | typed | (dict([pressed]) if pressed else {})
        return _page(self._post(page.action, data=fields))

    def enter(self, user_code: str) -> Page:
        return self.press(self.open("/device"), "Continue", user_code=user_code)

    def approve(self, user_code: str) -> Page:
        return self.press(self.enter(user_code), "Approve")

    def deny(self, user_code: str) -> Page:
        return self.press(self.enter(user_code), "Deny")


def _page(answer: _Answer) -> Page:
    return Page(answer.status_code, answer.headers, answer.text)


class Local:
    """The application without a socket, by a clock that obeys; a program and a person using it."""

    def __init__(self, settings: Settings) -> None:
        self.clock = Clock()
        self._app = create_app(settings, clock=self.clock)
        self.http = self._app.test_client()
        self.person = self.somebody()

    def somebody(self) -> Person:
        browser: FlaskClient = self._app.test_client()
        return Person(
            browser.get, lambda url, data: browser.post(url, data=data, follow_redirects=True)
        )

    def start(self, **asked: str) -> dict[str, Any]:
        form = {"client_id": "robot"} | asked
        answer = self.http.post("/oauth/device_authorization", data=form)
        assert answer.status_code == 200
        return dict(answer.get_json())

    def poll(self, started: Mapping[str, Any], client_id: str = "robot") -> str:
        form = {
            "grant_type": GRANT_TYPE,
            "client_id": client_id,
            "device_code": started["device_code"],
        }
        answer = self.http.post("/oauth/token", data=form)
        body = answer.get_json()
        assert (answer.status_code == 200) == ("access_token" in body)
        return str(body.get("error", "issued"))

    def start_studio(self, **asked: object) -> dict[str, Any]:
        answer = self.http.post("/api/device-login", json={"client_name": "robot"} | asked)
        assert answer.status_code == 200
        return dict(answer.get_json())

    def poll_studio(self, started: Mapping[str, Any]) -> str:
        answer = self.http.post(started["token_uri"], json={"code": started["device_code"]})
        body = answer.get_json()
        assert (answer.status_code == 200) == ("access_token" in body)
        return str(body.get("detail", "issued"))


class Remote:
    """A server behind a real port."""

    def __init__(self, server: LocalServer) -> None:
        self.url = server.url
        self.person = self.somebody()

    def somebody(self) -> Person:
        browser = requests.Session()
        return Person(
            lambda url: browser.get(urljoin(self.url, url), timeout=60),
            lambda url, data: browser.post(urljoin(self.url, url), data=data, timeout=60),
        )

    def post(self, path: str, **how: Any) -> requests.Response:
        return requests.post(urljoin(self.url, path), timeout=60, **how)

    def get(self, path: str, **how: Any) -> requests.Response:
        return requests.get(urljoin(self.url, path), timeout=60, **how)


@pytest.fixture
def local() -> Callable[..., Local]:
    """Make an application of the given settings, by a clock that obeys."""
    return lambda **settings: Local(Settings(**settings))


@pytest.fixture
def serve() -> Iterator[Callable[..., Remote]]:
    """Serve an application of the given settings on a real port until the test is over."""
    servers: list[LocalServer] = []

    def start(**settings: Any) -> Remote:
        servers.append(LocalServer(Settings(**settings)))
        return Remote(servers[-1])

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def local_server() -> Iterator[LocalServer]:
    """Serve both dialects on a real port, with the control endpoints."""
    with LocalServer(Settings(control=True)) as server:
        yield server


# Not for the whole session: while Playwright runs, no test can run an event loop of its own.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start a real browser, headless."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("DEVICEFLOW_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if path is None:
        missing = (
            "No browser to test the pages with: install the package chromium, or set"
            " DEVICEFLOW_CHROMIUM to the path of a Chromium."
        )
        pytest.skip(missing)
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()
