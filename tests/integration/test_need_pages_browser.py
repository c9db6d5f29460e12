"""The pages of needs in a real browser. What they look like is kept in artifacts/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.sync_api import expect

from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from tests.integration.command import Command
from tests.integration.paged import Job, worker
from tests.integration.test_report_browser import CONTRAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

ARTIFACTS: Final = Path(__file__).parents[2] / "artifacts"
SIZES: Final = {"phone": (390, 844), "desktop": (1280, 800)}
LOOKS: Final = [f"{size}-{scheme}" for size in SIZES for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    deviceflow = Command(tmp_path_factory.mktemp("home"))
    key = generate_key()
    store = f"sqlite:///{deviceflow.home}/flows.db"
    environment = {"DEVICEFLOW_KEYS": key.reveal(), "DEVICEFLOW_STORE": store}
    with (
        LocalServer(Settings(control=True, interval=1)) as server,
        worker(deviceflow, **environment) as pages,
    ):
        one = Job(store, key, server, pages.public_url)
        yield one
        one.close()


class Looks:
    """The same page in windows of all sizes and colours."""

    def __init__(self, chromium: Browser, **how: Any) -> None:
        self.foreign: list[str] = []
        self.contexts = [self._context(chromium, look, how) for look in LOOKS]
        self.pages = [context.new_page() for context in self.contexts]
        for page in self.pages:
            page.on("console", lambda message: self.foreign.append(message.text))
            page.on("pageerror", lambda error: self.foreign.append(str(error)))

    @staticmethod
    def _context(chromium: Browser, look: str, how: dict[str, Any]) -> BrowserContext:
        size, scheme = look.split("-")
        width, height = SIZES[size]
        return chromium.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": height},
            **how,
        )

    def show(self, link: str) -> Page:
        for page in self.pages:
            page.goto(link)
        return self.pages[0]

    def check(self, title: str, name: str) -> None:
        """Check what each window shows, and keep pictures."""
        ARTIFACTS.mkdir(exist_ok=True)
        for look, page in zip(LOOKS, self.pages, strict=True):
            expect(page.get_by_role("heading", level=1)).to_have_text(title)
            assert not page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth")
            assert page.evaluate(CONTRAST) == []
            page.screenshot(path=ARTIFACTS / f"need-{name}-{look}.png", full_page=True)

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture
def looks(chromium: Browser) -> Iterator[Looks]:
    one = Looks(chromium)
    yield one
    assert one.foreign == []
    one.close()


def test_person_is_led_from_the_link_to_the_providers_page_and_sees_how_it_goes(
    job: Job, looks: Looks
) -> None:
    link = job.ask()
    before = job.codes()
    page = looks.show(link)
    looks.check("Log in for nightly", "ask")
    for shown in ("the nightly sales report", "report-bot", "reports:write", job.server.url):
        expect(page.get_by_text(shown).first).to_be_visible()
    assert job.codes() == before

    with looks.contexts[0].expect_page() as opened:
        page.get_by_role("button").click()
    there = opened.value
    expect(there.get_by_label("Code")).to_have_value(
        page.locator("p.code").text_content(timeout=60_000) or ""
    )
    assert there.url.startswith(f"{job.server.url}/device?user_code=")
    assert there.evaluate("[document.referrer, window.opener]") == ["", None]
    looks.show(link)
    looks.check("Approve the login for nightly", "waiting")
    assert job.codes() == before + 1

    there.get_by_role("button", name="Continue").click()
    there.get_by_role("button", name="Approve").click()
    looks.check("Logged in", "done")
    assert job.client.get_token("nightly").generation == 1
    assert looks.foreign == []
    looks.show(link)
    looks.check("No longer needed", "ended")
    looks.foreign.clear()  # the browser says that the status is 410
    assert job.codes() == before + 1
    assert job.actions() == ["need", "request_code", "log_in"]


def test_person_who_denied_may_try_again(job: Job, looks: Looks) -> None:
    link = job.ask("weekly")
    page = looks.show(link)
    with looks.contexts[0].expect_page():
        page.get_by_role("button").click()
    code = page.locator("p.code").text_content(timeout=60_000)
    looks.show(link)
    for one in looks.pages:
        expect(one.locator("p.code")).to_have_text(str(code))
        one.wait_for_url("**login=*")
    job.decide("deny", str(code))
    looks.check("The login was denied", "denied")

    page.get_by_role("button", name="Request a new code").click()
    expect(page.get_by_label("Code")).to_be_visible()


def test_pages_need_no_script(chromium: Browser, job: Job) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(job.ask("monthly"))
    with context.expect_page() as opened:
        page.get_by_role("button").click()
    expect(opened.value.get_by_label("Code")).to_be_visible()
    expect(page.locator("p.code")).to_be_visible()
    context.close()


def test_unknown_link_in_the_browser(job: Job, looks: Looks) -> None:
    link = job.ask("yearly")
    looks.show(link[:-1] + ("A" if link[-1] != "A" else "B"))
    looks.foreign.clear()  # the browser says that the status is 404
    looks.check("There is no such page", "unknown")
