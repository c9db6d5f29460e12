"""The report's page: all there, and nothing in it that does anything."""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
import sys
from contextlib import closing
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.audit.events import FIELDS
from deviceflow.audit.reading import readable
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.encryption import generate_key
from deviceflow.core.ports import StoreEvent
from deviceflow.core.states import State
from deviceflow.providers.studio import Studio
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail import query, report
from deviceflow.trail.ledger import Finding
from deviceflow.trail.login_view import Login
from deviceflow.trail.report import OUTCOMES, Source, Verdict
from deviceflow.trail.selection import EACH, WHOLE, Selection
from deviceflow.trail.stats import Stats
from tests.logins import ALICE, BEGIN, ROBOT, Scribe, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLEAN: Final = Verdict([], 0, 100, 9, 2, "2026-11-20T10:00:00.000+00:00", "cHVibGlj", False)
NO_DIGEST: Final = Verdict([], 0, 100, 9, 0, None, None, False)
SOURCE: Final = Source("ab" * 32, "deviceflow audit export | sha256sum", "deviceflow audit verify")
HOSTILE: Final = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "'><svg/onload=alert(1)>",
    "</style><script>alert(1)</script>",
    "]]><!--",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "\u202egnp.exe\u202c\u2066\u200f",
    "\x1b[31mred\x1b]0;title\x07",
    "x" * 5000,
)
VOID: Final = frozenset({"meta", "link", "line", "rect", "circle", "path", "use"})


class Parsed(HTMLParser):
    """A page's elements and its text; it complains where they are not closed as they are opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.tags)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(tmp_path / "t.db", keys=[generate_key()], synchronous="NORMAL") as store:
        yield store


def page_of(
    logins: list[Login], verdict: Verdict = CLEAN, notes: list[dict[str, Any]] | None = None
) -> str:
    suspects = {finding.flow_id for finding in verdict.findings}
    return report.render(
        Stats(logins),
        Selection.of(reversed(logins), suspects).newest_first(),
        notes or [],
        verdict,
        about={"store": "t.db", "since": "2026-11-18 11:06:40 UTC"},
        made_at=BEGIN,
        source=SOURCE,
    )


def of(store: SQLiteStore, verdict: Verdict = CLEAN) -> Parsed:
    with query.logins(store) as logins:
        return Parsed(page_of(list(logins), verdict, query.notes(store)))


def test_the_page_loads_nothing_and_runs_nothing(store: SQLiteStore) -> None:
    fill(store, 40)

    page = of(store)

    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "img", "object", "embed", "form", "base", "style "}
    for tag, found in page.tags:
        assert not any(name.startswith("on") or name in ("style", "src") for name in found), tag
        assert tag != "a" or (found["href"] or "").startswith("#")
        assert (found.get("href") or "#").startswith(("#", "data:,")), tag


def test_the_policy_allows_the_pages_own_style_only() -> None:
    page = page_of([])

    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'Security-Policy" content="([^"]+)"', page)
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none';"
        " form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_is_said_by_others_is_text(store: SQLiteStore, text: str) -> None:
    hostile = dict.fromkeys(FIELDS, text) | {"time": "2026-11-18T11:06:40.000+00:00"}
    plain = Parsed(page_of([Login.of("f1", [readable(hostile | dict.fromkeys(FIELDS, "x"))])]))
    event = readable(hostile | {"scopes": [text], "granted_scopes": [text], "seq": 1})
    finding = Finding("edited", text, 1, text)
    verdict = Verdict([finding], 1, 1, 1, 1, text, text, True)

    page = page_of([Login.of(text, [event, event])], verdict, [event])

    parsed = Parsed(page)
    assert {tag for tag, _ in parsed.tags} <= {tag for tag, _ in plain.tags} | {
        tag for tag, _ in Parsed(page_of([], verdict, [event])).tags
    }
    assert parsed.count("script") == parsed.count("img") == 0
    assert "49" not in parsed.text
    assert not any(char in page for char in "\u202e\u202c\u2066\u200f\x1b\x07")
    assert max(map(len, parsed.text.split())) < 400


def test_the_findings_are_on_top(store: SQLiteStore) -> None:
    flow_id = Scribe(store).login("code", "token")
    findings = [
        Finding("edited", flow_id, 2, "the content of this event was changed"),
        Finding("missing_digest", None, None, "digest 3 is missing"),
    ]
    verdict = Verdict(findings, 2, 100, 9, 2, "2026-11-20T10:00:00.000+00:00", "cHVi", True)

    text = of(store, verdict).text

    assert text.index("2 findings") < text.index("Summary")
    assert re.search("missing digest . . digest 3 is missing", text)
    assert f"edited {flow_id} 2 the content of this event was changed" in text
    assert "Self-signed:" in text
    assert "until 2026-11-20 10:00:00 UTC. What was removed after that cannot be seen." in text
    assert f"{flow_id} authorized 1 finding nightly" in text


def test_without_findings_it_says_how_far_that_goes(store: SQLiteStore) -> None:
    assert "No tampering detected" in of(store).text
    assert "Self-signed" not in of(store).text
    assert "There is no digest" in of(store, NO_DIGEST).text


def test_more_findings_than_are_listed_are_counted() -> None:
    findings = [Finding("removed", f"f{number}", 1, "gone") for number in range(1200)]

    text = Parsed(page_of([], CLEAN._replace(findings=findings, found=1200))).text

    assert "the first 1,000 of 1,200" in text
    assert "f999" in text
    assert "f1000" not in text


def test_the_numbers(store: SQLiteStore) -> None:
    scribe = Scribe(store)
    scribe.login("code", "pending", "token")
    scribe.login("code", "denied", provider=ROBOT, at=BEGIN + 50)
    scribe.login("code", "refused", provider=ROBOT, at=BEGIN + 60)
    scribe.login("code", "slow_down", at=BEGIN + 9000)

    text = of(store).text

    assert "logins 4 approved 1 half" in text
    assert "authorized 1 expired 0 denied 1 cancelled 0 failed 1 unfinished 1" in text
    assert "Failed because: rejected 1." in text
    assert "https://studio.example.com 2 1 https://login.example.com 2 0" in text
    assert "store t.db since 2026-11-18 11:06:40 UTC" in text


@pytest.mark.usefixtures("each_event")
def test_each_login_is_drawn_along_its_states(store: SQLiteStore) -> None:
    Scribe(store).login("code", "pending", "slow_down", "crash", "lost", "token", "collect")

    page = of(store)

    assert page.count("article") == 1
    assert page.count("rect", **{"class": "s-awaiting-user"}) >= 2
    assert page.count("rect", **{"class": "s-polling"}) >= 2  # one in the legend
    for mark in ("slow_down", "recover", "retry"):
        assert page.count("use", href=f"#mark-{mark}") == 2
    assert page.count("use", **{"class": "end o-authorized"}) == 1
    assert "1 poll: not approved yet (HTTP 400)" in page.text
    assert "the token was collected" in page.text


@pytest.mark.parametrize(
    "end", [("token",), ("expire",), ("denied",), ("cancel",), ("refused",), ()]
)
def test_every_outcome_has_its_mark(store: SQLiteStore, end: tuple[str, ...]) -> None:
    Scribe(store).login("code", *end)

    page = of(store)

    used = {found["href"] for tag, found in page.tags if tag == "use"}
    there = {
        f"#{found['id']}" for tag, found in page.tags if tag in ("path", "circle") and "id" in found
    }
    assert used <= there
    styles = page_of([])
    for outcome in OUTCOMES:
        assert f".o-{outcome}" in styles
        assert f".b-{outcome}" in styles
    for state in State:
        assert f".s-{state}" in styles


def test_every_mark_is_drawn_and_explained(store: SQLiteStore) -> None:
    fill(store, 1)
    page = of(store)

    for action, said in report._MARKED.items():
        assert page.count("path", id=f"mark-{action}") == 1
        assert page.count("use", href=f"#mark-{action}") == 1
        assert said in page.text


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59.999+00:00", "0001-01-01T00:00:00.000+00:00"])
def test_a_time_of_another_age_stops_nothing(store: SQLiteStore, time: str) -> None:
    fill(store, 3)
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(
            "UPDATE audit SET time = :time, text = json_set(text, '$.time', :time)"
            " WHERE flow_id <> 'store'",
            {"time": time},
        )

    assert of(store).text


def test_a_login_of_no_length_is_drawn_too(store: SQLiteStore) -> None:
    Scribe(store).login("code")

    assert of(store).count("article") == 1


def test_of_many_those_that_matter_are_shown(store: SQLiteStore) -> None:
    scribe = Scribe(store)
    ids = [scribe.login("code", "denied"), scribe.login("code", "lost"), scribe.login("code")]
    failed, doubtful, suspect = (query.one(store, flow_id) for flow_id in ids)
    fine = query.one(store, scribe.login("code", "token"))
    few = [fine] * (WHOLE - 3)
    # As in the trail, but for the order: the newest is first.
    logins = [*few, failed, doubtful, suspect]
    verdict = CLEAN._replace(findings=[Finding("edited", suspect.id, 1, "changed")], found=1)

    whole, part = (Parsed(page_of(these, verdict)) for these in (logins, [fine, *logins]))

    assert whole.count("article") == WHOLE
    assert part.count("article") == EACH + 3
    assert f"{EACH + 3} of {WHOLE + 1}: the newest" in part.text
    assert f"{WHOLE} of" not in whole.text
    for page in (whole, part):
        assert page.count("details", **{"class": "matters"}) == 3
        for flow_id in ids:
            assert page.count("a", href=f"#login-{flow_id}") == 1
            assert page.count("p", id=f"login-{flow_id}") == 1


def test_the_many_that_matter_are_limited_too(store: SQLiteStore) -> None:
    denied = query.one(store, Scribe(store).login("code", "denied"))

    assert Parsed(page_of([denied] * (WHOLE + 1))).count("article") == EACH


def test_a_long_login_is_drawn_in_few_elements(store: SQLiteStore) -> None:
    polls = ["slow_down", "pending"] * 60 + ["pending"] * 500
    login = query.one(store, Scribe(store).login("code", *polls, lives=10**6))

    page = page_of([login])

    assert len(page) - len(page_of([])) < 30_000
    assert "more: deviceflow audit show" in Parsed(page).text


@pytest.mark.parametrize(
    ("apart", "name"),
    [
        (0.5, "minute"),
        (60.0, "minute"),
        (300.0, "5 minutes"),
        (1500.0, "15 minutes"),
        (4000.0, "hour"),
        (40_000.0, "6 hours"),
        (100_000.0, "day"),
        (600_000.0, "7 days"),
        (3_000_000.0, "30 days"),
        (30_000_000.0, "163 days"),
    ],
)
def test_bars_are_few_whatever_the_time(store: SQLiteStore, apart: float, name: str) -> None:
    scribe = Scribe(store)
    for number in range(30):
        scribe.login("code", "token", at=BEGIN + number * apart)

    page = of(store)

    assert f"one bar: {name}" in page.text
    bars = [
        found for tag, found in page.tags if tag == "rect" and found.get("class") == "o-authorized"
    ]
    assert 1 <= len(bars) <= 80


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)

    with pytest.raises(ImportError, match=r"deviceflow\[audit\]"):
        page_of([])


def test_what_belongs_to_no_login(store: SQLiteStore) -> None:
    store.append(StoreEvent(PLAIN_HTTP, BEGIN, "f1 at http://x.example", ALICE))
    Scribe(store).login("code", provider=Studio("https://studio.example.com"))

    assert "2026-11-18 11:06:40 plain http f1 at http://x.example alice" in of(store).text
