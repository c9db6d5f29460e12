"""Our side of the comparison, by a clock that obeys; and that its page is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deviceflow import Client
from deviceflow.testing import VirtualClock
from tests.comparison.drive import drive
from tests.comparison.outcome import Outcome
from tests.comparison.scenarios import SCENARIOS, Scenario
from tests.comparison.server import Certificates, ScriptedServer
from tests.comparison.table import BEGIN, END, LIBRARIES
from tests.comparison.with_deviceflow import login

PAGE = Path(__file__).parents[2] / "docs/explanation/comparison.md"
WITHOUT_A_TOKEN = {
    "lost-answer": "raises `OutcomeUnknownError`",
    "denied": "raises `DeniedError`",
    "expired": "raises `ExpiredError`",
    "pending-for-ever": "raises `ExpiredError`",
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_what_a_login_comes_to(
    scenario: Scenario, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))
    clock = VirtualClock()

    with ScriptedServer(scenario, certificates, now=clock.monotonic, sleep=clock.advance) as server:
        outcome = drive(lambda: login(server.endpoints, Client(clock=clock)))

    record, gap = server.record, server.record.tightest()
    assert outcome == Outcome(WITHOUT_A_TOKEN.get(scenario.name, "token"))
    assert record.after_final() == record.after_lifetime() == record.strays == 0
    assert gap is not None
    assert gap.early <= 0


def test_there_are_twenty_of_them() -> None:
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS) == 20
    assert {one.name for one in SCENARIOS} >= WITHOUT_A_TOKEN.keys()


def test_the_page_says_what_was_measured() -> None:
    page = PAGE.read_text()
    assert page.count(BEGIN) == page.count(END) == 1

    measured = page.split(BEGIN)[1].split(END)[0]
    line = re.search(r"^Versions: .+$", measured, re.MULTILINE)
    assert line
    assert all(re.search(rf"\b{name} \d", line[0]) for name in LIBRARIES)
    for number, one in enumerate(SCENARIOS, 1):
        said = WITHOUT_A_TOKEN.get(one.name, "token")
        assert f"| {number} | {one.title} | {said}; " in measured
