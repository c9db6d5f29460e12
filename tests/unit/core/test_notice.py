from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deviceflow.core.grant import Grant
from deviceflow.core.need import WHY
from deviceflow.core.notice import LoginNeed, page_of
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import Loss
from deviceflow.providers.oauth import OAuth

NOW = 1_800_000_000.0
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "ask-a-person.md"
PAGES = "https://jobs.example.com"
PROVIDER = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://login.example.com/d",
    token_endpoint="https://login.example.com/t",
    scopes="read write",
)


def needing(name: str = "nightly", purpose: str | None = None) -> Grant:
    grant = Grant("g1", name, PROVIDER, NOW, purpose=purpose)
    grant.raise_need("n1", Secret("LINK-CANARY"), NOW, host="box")
    return grant


def told(grant: Grant, pages: str | None = PAGES) -> LoginNeed:
    assert grant.need is not None
    return LoginNeed.of(grant, grant.need, pages)


def test_need_is_told_in_fields_and_in_words() -> None:
    grant = needing(purpose="the nightly report")
    need = told(grant)

    assert need.to_dict() == {
        "schema": "deviceflow.need/1",
        "id": "n1",
        "kind": "needed",
        "name": "nightly",
        "purpose": "the nightly report",
        "reason": "never_logged_in",
        "server": "https://login.example.com",
        "scopes": ["read", "write"],
        "host": "box",
        "since": NOW,
        "number": 1,
        "ended_at": None,
        "end": None,
        "command": "deviceflow login nightly",
        "link": "https://jobs.example.com/need/LINK-CANARY",
        "how_to_log_in": "https://jobs.example.com/need/LINK-CANARY",
        "text": "nightly needs somebody to log in at https://login.example.com, since"
        " 2027-01-15 08:00 UTC. Nobody has logged in yet. Purpose: the nightly report. To log in:"
        " https://jobs.example.com/need/LINK-CANARY",
    }
    assert "LINK-CANARY" not in f"{need} {need!r} {need.in_words()}"
    assert "deviceflow login nightly" in need.in_words()


def test_need_that_lasts_and_its_end_are_told_as_such() -> None:
    grant = needing()
    assert grant.need is not None
    grant.notified(grant.need, NOW + 1)
    assert told(grant).kind == "still_needed"
    assert "nightly still needs somebody" in told(grant).in_words()

    grant.end_need(NOW + 5)
    ended = told(grant)

    assert (ended.kind, ended.number, ended.ended_at) == ("ended", 2, NOW + 5)
    parts = ended.to_dict()
    assert [parts[name] for name in ("link", "command", "how_to_log_in")] == [None] * 3
    assert ended.in_words() == (
        "nightly needs no login any more. The need was ended without a login."
    )


@pytest.mark.parametrize("loss", [None, *Loss])
def test_every_notice_says_why_a_person_must_log_in(loss: Loss | None) -> None:
    grant = Grant("g1", "nightly", PROVIDER, NOW)
    grant.log_in(Token(Secret("AT")), PROVIDER, NOW, flow_id="f1")
    if loss is None:
        grant.log_out(NOW)
    else:
        grant.lose(loss, NOW)
    grant.raise_need("n1", Secret("LINK"), NOW)
    reason = "logged_out" if loss is None else loss.value

    assert told(grant).to_dict()["reason"] == reason
    assert WHY[reason] in told(grant).in_words()
    grant.end_need(NOW + 1)
    assert told(grant).to_dict()["reason"] == reason


@pytest.mark.parametrize("pages", [None, ""])
def test_link_is_told_where_somebody_said_where_the_pages_are(pages: str | None) -> None:
    need = told(needing(), pages)

    assert need.link is None
    assert "LINK-CANARY" not in json.dumps(need.to_dict())
    assert need.to_dict()["how_to_log_in"] == "deviceflow login nightly"
    assert need.to_dict()["text"].endswith("To log in: deviceflow login nightly")
    assert page_of(PAGES, Secret("")) is None


def test_documentation_has_each_field_that_is_told() -> None:
    page = PAGE.read_text("utf-8")
    _, _, behind = page.partition("### What a notification contains")
    table = behind.partition("\n\nThe URL must")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert named == set(told(needing()).to_dict())


def test_command_is_safe_for_a_shell() -> None:
    assert told(needing("a job; rm -rf /")).command == "deviceflow login 'a job; rm -rf /'"


def test_name_that_looks_like_an_option_is_none() -> None:
    assert told(needing("-rf")).command == "deviceflow login -- -rf"


def test_words_are_safe_for_a_terminal() -> None:
    words = told(needing("nightly\x1b[31m\nAll is well.")).in_words()

    assert words.isprintable()
    assert words.startswith("nightly All is well. needs somebody")
