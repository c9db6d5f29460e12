"""The audit report in a real browser. What it looks like is kept in artifacts/."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.sync_api import expect

from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.ports import StoreEvent
from deviceflow.providers.studio import Studio
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail import query
from deviceflow.trail.ledger import Finding
from deviceflow.trail.login_view import Login
from deviceflow.trail.report import Source, Verdict, render
from deviceflow.trail.selection import Selection
from deviceflow.trail.stats import Stats
from tests.integration.command import Command
from tests.logins import ALICE, BEGIN, Scribe, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

ARTIFACTS: Final = Path(__file__).parents[2] / "artifacts"
SIZES: Final = {"phone": (390, 844), "desktop": (1280, 800)}
LOOKS: Final = [f"{size}-{scheme}" for size in SIZES for scheme in ("light", "dark")]
HOSTILE: Final = (
    "<script>document.title = 'owned'</script>\"'><img src=https://x.example/x onerror=alert(1)>"
    "</style><link rel=stylesheet href=https://x.example/y>\u202eevil\u202c"
    " \u05e9\u05dc\u05d5\u05dd "
)

# By https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio, of each text against what is behind it.
CONTRAST: Final = """() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const ratio = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    const says = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!says) continue;
    const found = ratio(channels(getComputedStyle(element).color), behind(element));
    if (found < 4.5) poor.push([element.tagName, element.className, found]);
  }
  for (const shape of document.querySelectorAll("section svg:not(.swatch) [class^=o-]")) {
    const found = ratio(channels(getComputedStyle(shape).fill), behind(shape.closest("svg")));
    if (found < 3) poor.push([shape.tagName, shape.className.baseVal, found]);
  }
  return poor;
}"""

# Lays the page out in columns as high as a page of paper, which break as pages do.
BROKEN: Final = """() => {
  const [width, height] = [680, 950];
  Object.assign(document.body.style, {
    width: `${width}px`, height: `${height}px`, margin: 0,
    columnWidth: `${width}px`, columnGap: 0, columnFill: "auto",
  });
  const page = rect => Math.floor((rect.left + 1) / width);
  const seen = element => element && element.getClientRects().length > 0;
  const broken = [];
  for (const part of document.querySelectorAll("tr, .tiles, .login, details.matters, h2")) {
    const rects = [...part.getClientRects()];
    const whole = rects.reduce((sum, rect) => sum + rect.height, 0);
    if (new Set(rects.map(page)).size > 1 && whole < height) {
      broken.push([part.tagName, part.className, part.textContent.trim().slice(0, 40)]);
    }
  }
  for (const heading of document.querySelectorAll("h2, h3, summary, p.who, .legend")) {
    let next = heading.nextElementSibling;
    while (next && !seen(next)) next = next.nextElementSibling;
    if (!seen(heading) || !next) continue;
    if (page([...heading.getClientRects()].at(-1)) !== page(next.getClientRects()[0])) {
      broken.push(["after", heading.tagName, heading.textContent.trim().slice(0, 40)]);
    }
  }
  return { broken, pages: Math.round(document.documentElement.scrollWidth / width) };
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have the command write a report of many logins, some hostile, of a trail that was changed."""
    deviceflow = Command(tmp_path_factory.mktemp("home"))
    path = deviceflow.home / "flows.db"
    with SQLiteStore(path, synchronous="NORMAL", trail="each") as store:
        fill(store, 60)
        scribe = Scribe(store)
        scribe.login(
            "code",
            "pending",
            "refused",
            at=BEGIN + 1e6,
            says=HOSTILE + "x" * 300,
            flow_id="hostile000000001",
            provider=Studio("https://studio.example.com").with_request(
                client_name=HOSTILE + "y" * 300
            ),
            origin=ALICE._replace(actor=HOSTILE, host=HOSTILE),
        )
        many = ["pending"] * 170
        scribe.login("code", *many, "expire", at=BEGIN + 1.1e6, flow_id="long000000000001")
        scribe.login("code", at=BEGIN + 1.2e6, flow_id="short00000000001")
        store.append(StoreEvent(PLAIN_HTTP, BEGIN, HOSTILE, ALICE._replace(actor=HOSTILE)))
    (deviceflow.home / "digests").mkdir()
    url = f"sqlite:///{path}"
    args = ("--store", url, "--digests", "digests")
    assert deviceflow("audit", "digest", "--begin", *args).code == 0
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            """UPDATE audit
            SET text = json_set(text, '$.to', '"><script>x</script>', '$.detail', 'x')
            WHERE flow_id = 'login00000000007' AND seq > 1"""
        )
        database.execute("DELETE FROM audit WHERE flow_id = 'login00000000009'")
    database.close()
    done = deviceflow("audit", "report", "-o", "report.html", *args)
    assert (done.code, done.out) == (0, "")
    return deviceflow.home / "report.html"


@pytest.fixture
def look_at(chromium: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Open the report, and keep watch."""
    contexts = []

    def look(look: str, **how: Any) -> Page:
        size, scheme = look.split("-")
        width, height = SIZES[size]
        context = chromium.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": height},
            **how,
        )
        contexts.append(context)
        page = context.new_page()
        seen: list[str] = []
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        page.goto(report.as_uri())
        page.wait_for_load_state("networkidle")
        assert seen == [report.as_uri()]
        return page

    yield look
    for context in contexts:
        context.close()


def is_wide(page: Page) -> bool:
    return bool(page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth"))


def keep(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"report-{name}.png", full_page=True)


@pytest.mark.parametrize("look", LOOKS)
def test_it_can_be_read(look_at: Callable[..., Page], look: str) -> None:
    page = look_at(look)

    assert page.title().startswith("Logins and grants: audit report of")
    assert page.get_by_role("heading", level=1).inner_text() == "Logins and grants: audit report"
    assert "findings" in page.get_by_role("heading", level=2).first.inner_text()
    assert page.get_by_role("article").count() == 62
    assert page.evaluate(CONTRAST) == []
    assert not is_wide(page)
    page.evaluate("document.querySelectorAll('details').forEach(found => { found.open = true; })")
    assert not is_wide(page)
    page.evaluate(
        "document.querySelectorAll('details').forEach((found, i) => { found.open = i < 4; })"
    )
    keep(page, look)


def test_what_others_have_said_is_inert(look_at: Callable[..., Page]) -> None:
    page = look_at("desktop-light")

    hostile = page.get_by_role("article").filter(has_text="hostile000000001")
    hostile.locator("summary").click()
    assert "<script>document.title" in hostile.inner_text()
    assert page.evaluate("document.scripts.length + document.images.length") == 0
    assert page.evaluate("document.querySelectorAll('form, iframe, object').length") == 0
    assert page.evaluate("document.styleSheets.length") == 1
    links = page.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert links
    assert all(link.startswith(("#login-", "#grant-")) for link in links)


def test_its_policy_would_stop_what_got_in(look_at: Callable[..., Page]) -> None:
    page = look_at("desktop-light")
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))

    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'owned'";
          document.body.append(script);
          document.body.append(Object.assign(new Image(), { src: "https://x.example/x" }));
          document.body.setAttribute("style", "background: url(https://x.example/y)");
        }"""
    )

    page.wait_for_load_state("networkidle")
    assert page.title().startswith("Logins")
    assert sum("Content Security Policy" in said for said in refused) >= 3


def test_no_script_is_needed(look_at: Callable[..., Page]) -> None:
    page = look_at("phone-light", java_script_enabled=False)

    article = page.get_by_role("article").filter(has_text="long000000000001")
    page.get_by_role("link", name="long000000000001").click()  # opens what it leads to
    expect(article.get_by_text("170 polls: not approved yet")).to_be_visible()
    name = "The login along its states: expired after 15 min, 170 polls"
    expect(article.get_by_role("img", name=name, exact=True)).to_be_visible()


def test_it_can_be_printed(look_at: Callable[..., Page]) -> None:
    page = look_at("desktop-dark")

    ARTIFACTS.mkdir(exist_ok=True)
    pdf = page.pdf(path=ARTIFACTS / "report.pdf", format="A4")
    page.emulate_media(media="print", color_scheme="dark")

    assert pdf.startswith(b"%PDF")
    for flow_id, printed in (("hostile000000001", True), ("short00000000001", False)):
        told = page.locator(f"#login-{flow_id}")
        assert told.is_visible() == printed
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST) == []


def test_paper_breaks_between_what_belongs_together(look_at: Callable[..., Page]) -> None:
    page = look_at("desktop-light")
    page.emulate_media(media="print")

    laid_out = page.evaluate(BROKEN)

    assert laid_out["pages"] > 5
    assert laid_out["broken"] == []


def test_ten_thousand_logins_fit_a_phone_and_paper(
    chromium: Browser, report: Path, tmp_path: Path
) -> None:
    stats, selection = Stats(), Selection({"many0000009990"})
    with SQLiteStore(report.parent / "flows.db") as store, query.chains(store) as found:
        chains = [chain for chain in found if len(chain.events) < 30]
    for number in range(10_000):
        login = Login.of(f"many{number:010}", chains[number % len(chains)].events)
        stats.take(login)
        selection.take(login)
    edited = [Finding("edited", f"many{number:010}", 2, "changed") for number in range(100)]
    verdict = Verdict(edited, 100, 0, 10_000, 0, None, None, self_signed=False)
    written = tmp_path / "many.html"
    written.write_text(
        render(
            stats,
            selection.newest_first(),
            [],
            verdict,
            about={},
            made_at=BEGIN,
            source=Source("0" * 64, "deviceflow audit export", "deviceflow audit verify"),
        ),
        "utf-8",
    )
    width, height = SIZES["phone"]
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.goto(written.as_uri())

    assert written.stat().st_size < 4e6
    assert page.get_by_text("of 10,000: the newest").is_visible()
    findings = page.locator("section.bad table.stacks tbody tr")
    assert findings.filter(visible=True).count() == 20
    assert not is_wide(page)
    page.emulate_media(media="print")
    assert findings.filter(visible=True).count() == 100
    laid_out = page.evaluate(BROKEN)
    assert laid_out["broken"] == []
    assert laid_out["pages"] < 150
    page.close()
