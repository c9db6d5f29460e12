"""`login NAME`, and all that shows or ends what it brought: as a shell uses them."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from deviceflow import AsyncClient
from deviceflow.audit.events import text_of
from deviceflow.cli import exits
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from tests.grant_lives import DAY, HOUR, GrantLife
from tests.integration.command import decide
from tests.logins import BEGIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.command import Command


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=0)) as one:
        yield one


def test_name_from_its_login_to_its_end(deviceflow: Command, server: LocalServer) -> None:
    before = deviceflow("token", "nightly")
    assert (before.code, before.out) == (exits.STORE, "")

    logged_in = deviceflow(
        *("login", "nightly", "--client-id", "robot", "--no-browser", "--json"),
        *("--device-authorization-endpoint", f"{server.url}/oauth/device_authorization"),
        *("--token-endpoint", f"{server.url}/oauth/token"),
        *("--revocation-endpoint", f"{server.url}/oauth/revoke"),
        *("--scopes", "read offline_access", "--purpose", "the nightly report"),
        act=decide(server, "approve"),
    )
    assert (logged_in.code, logged_in.said["state"]) == (0, "active")
    again = deviceflow("login", "nightly", "--json")
    assert (again.code, again.said["generation"]) == (0, 1)
    assert "nightly is logged in already." in again.err

    token = deviceflow("token", "nightly")
    whole = deviceflow("token", "nightly", "--json")
    assert (token.code, token.err) == (0, "")
    assert whole.said["token"] == token.out.strip()
    assert whole.said["purpose"] == "the nightly report"

    listed, shown = deviceflow("list"), deviceflow("status", "nightly")
    assert listed.out.split()[:2] == ["nightly", "active"]
    assert shown.out.startswith("nightly active, until ")
    assert "purpose: the nightly report" in shown.out
    assert token.out.strip() not in listed.out + shown.out
    assert deviceflow("sweep", "--json").said["grants"] == []
    assert deviceflow("doubt", "--json").said == {"marked": 1}

    ended = deviceflow.fresh("logout", "nightly", "--json")
    assert (ended.code, ended.said["state"], ended.said["revocations"]) == (0, "revoked", 0)
    assert deviceflow("list").out == ""
    assert deviceflow("list", "--all").out.splitlines()[-1].split()[:2] == ["nightly", "revoked"]
    pending = deviceflow("token", "nightly", "--json")
    assert (pending.code, pending.said["wait_seconds"]) == (75, 60.0)
    one = json.loads(deviceflow("list", "--json").out)  # one object a line
    assert (one["kind"], one["name"], one["need_id"] is not None) == ("grant", "nightly", True)
    told = deviceflow("audit", "show", "nightly")
    assert "a person logged in" in told.out
    assert deviceflow("audit", "verify").code == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((one, "The store has no login 'weekly'.") for one in ("logout", "status", "token")),
        *((one, "The store has no login 'weekly'.") for one in ("check", "invalidate")),
        ("login", "There is no provider and no login 'weekly'. Nothing was sent."),
    ],
)
@pytest.mark.usefixtures("kept")
def test_unknown_name_is_an_error_that_says_so(
    deviceflow: Command, command: str, words: str
) -> None:
    done = deviceflow(command, "weekly")

    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert f"The store: {deviceflow.store}." in done.err


@pytest.fixture
def led(deviceflow: Command) -> GrantLife:
    """Lead a grant through a need, a login, eight refreshes, a loss and another need."""
    deviceflow.store.parent.mkdir(mode=0o700, parents=True)
    with SQLiteStore(deviceflow.store) as store:
        life = GrantLife(store)
        life.ask()
        life.clock.advance(DAY)
        life.log_in()
        life.refresh(8)
        life.lose()
    return life


def test_trail_tells_what_a_token_descends_from(deviceflow: Command, led: GrantLife) -> None:
    told = deviceflow("audit", "show", "nightly")
    whole = deviceflow("audit", "show", "nightly", "--all")
    said = deviceflow("audit", "show", "nightly", "--json").said

    [login] = [one["login"] for one in said["descent"] if one["login"]]
    assert f"login {login['flow_id']}: requested 2026-11-19 11:06:40 by alice" in told.out
    assert "approved after 1 min" in told.out
    lost = "the grant was lost (HTTP 400): The server refused its refresh token: invalid_grant"
    first = "generation 1: 2026-11-19 11:07:40, from that login, token"
    for line in (first, "… 2 refreshes", lost):
        assert line in told.out
    assert told.out.count("  generation ") == 6 + 1
    assert "8 refreshes: generations 2 to 9" in told.out
    assert whole.out.count("  generation ") == 9
    assert whole.out.count("a refresh is sent") == 9
    assert login["is_its_token"] is True
    assert [one["generation"] for one in said["descent"]] == [*range(1, 10)]
    assert all(one["token_fingerprint"] for one in said["descent"])
    assert (said["kind"], said["refreshes"], said["losses"]) == ("grant", 8, 1)
    assert [need["until"] is None for need in said["needs"]] == [False, True]
    for secret in ("ACCESS-", "REFRESH-", "CANARY", "WDJB"):
        assert secret not in told.out + whole.out + json.dumps(said)


def test_trail_tells_how_things_stood(deviceflow: Command, led: GrantLife) -> None:
    def at(seconds: float, *more: str, of: str = "nightly") -> tuple[int, str, str]:
        done = deviceflow("audit", "show", of, "--at", text_of(BEGIN + seconds), *more)
        return done.code, done.out, done.err

    code, before, _ = at(HOUR)
    assert code == 0
    assert "state: wanted, since 2026-11-18 11:06:40 (1 h)" in before
    assert f"need: {led.told[0].id}, since 2026-11-18 11:06:40 (1 h), 1 notification" in before
    code, refreshed, _ = at(DAY + 60 + 2.5 * HOUR, "--json")
    said = json.loads(refreshed)
    assert (said["state"], said["generation"], said["need"]) == ("active", 3, None)
    assert said["expires_at"] == text_of(BEGIN + DAY + 60 + 3 * HOUR)
    _, in_words, _ = at(DAY + 60 + 2.5 * HOUR)
    assert f"token: {said['token_fingerprint']}" in in_words
    assert "expires: 2026-11-19 14:07:40 (30 min left)" in in_words
    assert "need: none" in in_words
    _, lost, _ = at(DAY * 3)
    assert "state: lost: refused, since" in lost
    assert at(-DAY)[0] == 2
    assert re.search(r"no events of \S+ before .*Choose a later time", at(-DAY)[2])

    [login] = [
        one["login"]["flow_id"]
        for one in deviceflow("audit", "show", "nightly", "--json").said["descent"]
        if one["login"]
    ]
    _, waiting, _ = at(DAY + 30, of=login)
    assert f"login nightly {login} at" in waiting
    assert "state: awaiting-user" in waiting
    assert "user code: " in waiting
    assert "expires: 2026-11-19 11:16:40 (9 min 30 s left)" in waiting
    for secret in ("ACCESS-", "REFRESH-", "CANARY", "WDJB"):
        assert secret not in before + refreshed + in_words + lost + waiting
    assert deviceflow("audit", "show", "nightly", "--at", "2d ago").code == 0
    assert deviceflow("audit", "show", "store", "--at", "2d ago").code == 2
    assert deviceflow("audit", "show", "nightly", "--at", "yesterday").code == 2


def test_list_stats_report_and_export_have_the_grants(deviceflow: Command, led: GrantLife) -> None:
    listed = deviceflow("audit", "list")
    facts = [json.loads(line) for line in deviceflow("audit", "list", "--json").out.splitlines()]
    stats, counts = deviceflow("audit", "stats"), deviceflow("audit", "stats", "--json").said

    assert "8 refreshes in " in listed.out
    assert sorted(one["kind"] for one in facts) == ["grant", "login"]
    assert [one["state"] for one in facts if one["kind"] == "grant"] == ["lost"]
    lost = deviceflow("audit", "list", "--state", "lost", "--reason", "refused").out.splitlines()
    assert len(lost) == 1
    for line in ("grants            1", "refreshes         8", "lost: refused     1"):
        assert line in stats.out
    assert "needs             2, 1 open" in stats.out
    assert "needs lasted      p50 1 d" in stats.out
    assert counts["grants"]["needs"]["open"] == 1

    done = deviceflow("audit", "report", "-o", "r.html")
    page = (deviceflow.home / "r.html").read_text()
    assert "1 login, 1 grant, nothing found." in done.err
    assert "8 refreshes: generations 2 to 9" in page
    assert "a person must log in" in page
    assert "Lost because: refused 1." in page

    events = deviceflow("audit", "export", "--format", "jsonl").out
    (deviceflow.home / "t.jsonl").write_text(events)
    assert "renew" in {json.loads(line)["action"] for line in events.splitlines()}
    checked = deviceflow("audit", "verify", "--file", "t.jsonl", "--json").said
    assert (checked["findings"], checked["flows"]) == ([], 2)
    assert deviceflow("audit", "verify").code == 0
    for secret in ("ACCESS-", "REFRESH-", "CANARY", "WDJB"):
        assert secret not in page + events + stats.out + listed.out


def test_ended_grants_are_purged_and_their_events_pruned_behind_a_digest(
    deviceflow: Command,
) -> None:
    deviceflow.store.parent.mkdir(mode=0o700, parents=True)
    with SQLiteStore(deviceflow.store) as store:
        ids = {}
        for name in ("lost", "revoked", "kept"):
            life = GrantLife(store, name)
            life.log_in()
            life.refresh(3)
            if name == "lost":
                life.refresh_answers.append(answer(400, {"error": "invalid_grant"}))
                life.clock.advance(HOUR)
                life.client.sweep_grants()
                life.client.log_out("lost")
            if name == "revoked":
                life.revocation_status = 503
                assert life.client.log_out(name).revocations == 2
            ids[name] = life.client.grant(name).id
    digests = ("--digests", "digests")
    (deviceflow.home / "digests").mkdir()
    assert deviceflow("audit", "digest", *digests, "--begin").code == 0

    # By the store's clock, all of it was long ago, and the logins' tokens are the grants'.
    purged = deviceflow("purge", "--flows-after", "1s", "--json").said

    assert (purged["flows"], purged["grants"], purged["problems"]) == (3, 2, [])
    left = [json.loads(line) for line in deviceflow("list", "--json").out.splitlines()]
    assert [one["name"] for one in left] == ["kept"]
    told = deviceflow("audit", "show", ids["revoked"]).out
    assert "a token that could not be revoked was wiped: revoke the grant's tokens" in told
    assert deviceflow("audit", "verify", *digests).code == 0
    assert deviceflow("purge", "--flows-after", "1s").out.endswith("deleted 0 logins\n")

    pruned = deviceflow("audit", "prune", *digests, "--before", "0s", "--waiting", "--json").said
    # Three logins and two grants are gone; the chain of the grant that is in use begins later.
    assert (pruned["pruned"], pruned["waiting"]) == (5, 1)
    last = ("--last", pruned["last"])
    assert deviceflow("audit", "verify", *digests, *last).code == 0
    for name in ("lost", "revoked"):
        assert deviceflow("audit", "show", ids[name]).code == 2
    shown = deviceflow("audit", "show", "kept")
    assert "earlier events were pruned" in shown.out
    assert "generation 4" in shown.out
    stats = deviceflow("audit", "stats", "--json").said
    assert (stats["logins"], stats["grants"]["states"]) == (0, {"active": 1})


def test_purge_by_an_async_client(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "g.db") as store:
        life = GrantLife(store)
        life.log_in()
        life.client.log_out("nightly")

    async def purge() -> list[str]:
        async with AsyncClient(f"sqlite:///{tmp_path}/g.db") as client:
            assert (await client.purge(flows_after=0)).grants == 1
            return [view.name async for view in client.grants()]

    assert asyncio.run(purge()) == []


def test_descent_says_where_the_login_is_gone_or_gave_another_token(
    deviceflow: Command, led: GrantLife
) -> None:
    def damage(statement: str, *values: str) -> None:
        with closing(sqlite3.connect(deviceflow.store)) as database:
            database.execute(statement, values)
            database.commit()

    said = deviceflow("audit", "show", "nightly", "--json").said
    first = said["descent"][0]
    login_id, fingerprint = first["login"]["flow_id"], first["token_fingerprint"]

    damage(
        "UPDATE audit SET text = replace(text, ?, ?) WHERE flow_id = ?",
        *(fingerprint, "0" * 16, login_id),
    )
    assert "its token has another fingerprint" in deviceflow("audit", "show", "nightly").out
    said = deviceflow("audit", "show", "nightly", "--json").said
    assert said["descent"][0]["login"]["is_its_token"] is False
    assert deviceflow("audit", "verify").code == 1

    damage("DELETE FROM audit WHERE flow_id = ?", login_id)
    told = deviceflow("audit", "show", "nightly").out
    assert f"login {login_id}: the trail has no events of it any more" in told
    said = deviceflow("audit", "show", "nightly", "--json").said
    assert said["descent"][0]["login"] == {"flow_id": login_id}


def test_job_says_why_a_grant_that_gave_tokens_needs_a_person(
    deviceflow: Command, led: GrantLife
) -> None:
    done = deviceflow("token", "nightly")

    assert done.code == 75
    why = "The server refused its refresh token: invalid_grant."
    assert f"{why} Ask again in 60 seconds." in done.err


def test_no_secret_is_in_what_is_listed(deviceflow: Command, led: GrantLife) -> None:
    shown = [
        deviceflow(*command).out
        for command in (
            ("list",),
            ("list", "--json"),
            ("status", "nightly"),
            ("status", "nightly", "--json"),
            ("audit", "list", "--json"),
            ("audit", "export", "--format", "csv"),
            ("audit", "export", "--format", "ecs"),
            ("purge", "--json"),
            ("providers", "list", "--json"),
        )
    ]

    assert all(shown)
    for secret in ("ACCESS-", "REFRESH-", "CANARY", "WDJB"):
        assert secret not in "".join(shown)
