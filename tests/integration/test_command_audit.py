"""`deviceflow audit` as a process of its own, on trails that are whole and on some that are not."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import os
import platform
import pty
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow._version import __version__
from deviceflow.audit.events import FIELDS
from deviceflow.cli import exits, main
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.encryption import generate_key
from deviceflow.core.ports import StoreEvent
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from tests.integration.command import COMMAND
from tests.logins import ALICE, BEGIN, BOB, ROBOT, Scribe
from tests.stored import delete_ended, flows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.command import Command, Done

pytestmark = pytest.mark.usefixtures("each_event")

NASTY: Final = "\x1b[31mred\x1b]0;owned\x07 \u202eevil\u202c"


class Audit:
    """Runs the command on a store of its own."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.path = command.home / "flows.db"
        self.digests = command.home / "digests"
        self.digests.mkdir()
        self.url = f"sqlite:///{self.path}"
        with self.opened() as store:
            scribe = Scribe(store)
            self.approved = scribe.login("code", "pending", "token", "collect")
            self.denied = scribe.login(
                "code", "denied", at=BEGIN + 1000, provider=ROBOT, origin=BOB
            )
            self.open = scribe.login("code", "slow_down", at=BEGIN + 90_000)

    def opened(self) -> SQLiteStore:
        return SQLiteStore(self.path, synchronous="NORMAL")

    def __call__(self, action: str, *args: str, **environment: str) -> Done:
        environment["DEVICEFLOW_STORE"] = self.url
        return self.command("audit", action, *args, act=None, **environment)

    def digest_id(self, number: int) -> str:
        """Return the number and hash of a digest, as `head` and `sha256sum` give it."""
        with (self.digests / f"digest-{number:06}.jsonl").open("rb") as file:
            return f"{number}:{hashlib.sha256(file.readline()).hexdigest()}"

    def go_on(self, flow_id: str) -> None:
        """Have something new in the trail."""
        with self.opened() as store:
            Scribe(store).login("code", "cancel", flow_id=flow_id)

    def damage(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            assert database.execute(statement).rowcount > 0
        database.close()


@pytest.fixture
def audit(deviceflow: Command) -> Audit:
    return Audit(deviceflow)


def kinds(done: Done) -> set[tuple[str, str, int]]:
    return {(f["kind"], f["flow_id"], f["seq"]) for f in done.said["findings"]}


# Evidence.


def test_a_trail_that_is_whole_is_clean(audit: Audit) -> None:
    done = audit("verify")

    assert done.code == 0
    assert done.out.startswith("nothing found: 12 events of 3 chains, 0 digests\n")
    assert "there is no digest" in done.out
    assert done.err == ""


def test_digests_are_signed_and_followed(audit: Audit) -> None:
    first = audit("digest", "--begin", "--digests", "digests")
    nothing = audit("digest", "--digests", "digests")
    with audit.opened() as store:
        Scribe(store).login("code", "cancel", flow_id="another000000001")
    second = audit("digest", "--digests", "digests", "--json")

    assert (first.code, nothing.code, second.code) == (0, 0, 0)
    key, last = second.said["public_key"], second.said["last"]
    assert first.out == f"digest 1: 3 chains, by {key}\nlast {audit.digest_id(1)}\n"
    assert nothing.out == f"last {audit.digest_id(1)}\n"
    assert "no new events since the last digest" in nothing.err
    assert second.said == {"digest": 2, "flows": 1, "last": audit.digest_id(2), "public_key": key}
    assert audit("keygen", "--public").out == f"{key}\n"
    verified = audit("verify", "--digests", "digests", "--json")
    assert verified.code == 0
    covered = verified.said["covered_until"]
    assert verified.said == {
        "findings": [],
        "notes": [],
        "events": 14,
        "flows": 4,
        "digests": 2,
        "covered_until": covered,
        "signed_by": key,
        "last": last,
        "self_signed": True,
        "keyed": True,
    }
    said = audit("verify", "--digests", "digests")
    assert f"signed by {key} (self-signed)\n" in said.out
    assert f"\nlast {last}\n" in said.out
    assert f"removals after {covered} are not detected" in said.out
    assert "keep the public key elsewhere" in said.err


@pytest.mark.parametrize("mount", ["empty", "with other files"])
def test_digests_that_were_asked_for_and_are_not_there_are_a_finding(
    audit: Audit, mount: str
) -> None:
    audit("digest", "--begin", "--digests", "digests")
    last = audit.digest_id(1)
    (audit.command.home / "public").write_text(audit("keygen", "--public").out)
    shutil.rmtree(audit.digests)
    audit.digests.mkdir()
    if mount != "empty":
        (audit.digests / "lost+found").mkdir()
        (audit.digests / "digest-1.jsonl").touch()
    audit.damage("DELETE FROM flows")
    audit.damage("DELETE FROM audit")
    asked = ("--digests", "digests", "--public-key", "public")

    plain = audit("verify", *asked, "--json")
    by_two = audit("verify", *asked, "--json", "--processes", "2")
    known = audit("verify", *asked, "--json", "--last", last)
    page = audit("report", "-o", "r.html", *asked)

    for done in (plain, by_two):
        assert done.code == 1
        (finding,) = done.said["findings"]
        assert (finding["kind"], finding["flow_id"]) == ("missing_digest", None)
        assert finding["message"] == "there is no digest in digests"
    assert [finding["message"] for finding in known.said["findings"]] == ["digest 1 is missing"]
    assert "1 finding" in page.err
    out = audit("verify", *asked).out
    assert "missing digest" in out
    assert out.count("there is no digest in") == 1
    (audit.command.home / "trail.jsonl").touch()
    assert audit("verify", "--file", "trail.jsonl", *asked).code == 1


def test_a_directory_that_is_not_there_is_an_error(audit: Audit) -> None:
    for action in (["verify"], ["digest"], ["digest", "--begin"], ["report", "-o", "r.html"]):
        done = audit(*action, "--digests", "nowhere")
        assert done.code == exits.STORE
        assert "nowhere, cannot be read: No such file or directory" in done.err
        assert "volume is mounted" in done.err


def test_numbering_never_restarts_but_by_an_option(audit: Audit) -> None:
    refused = audit("digest", "--digests", "digests")
    pruned = audit("prune", "--digests", "digests", "--before", "2027-01-01")
    assert (refused.code, refused.out) == (exits.STORE, "")
    assert (pruned.code, pruned.out) == (exits.STORE, "")
    for done in (refused, pruned):
        assert "There is no digest in digests" in done.err
        assert "audit digest --digests digests --begin" in done.err
    assert list(audit.digests.iterdir()) == []
    assert audit("digest", "--begin", "--digests", "digests").code == 0

    again = audit("digest", "--begin", "--digests", "digests")

    assert again.code == exits.STORE
    assert "digests already" in again.err
    assert [path.name for path in audit.digests.iterdir()] == ["digest-000001.jsonl"]


def test_digests_are_begun_though_there_is_nothing_to_sign(audit: Audit) -> None:
    audit.damage("DELETE FROM flows")
    audit.damage("DELETE FROM audit")

    begun = audit("digest", "--begin", "--digests", "digests", "--json")

    assert (begun.code, begun.said["digest"], begun.said["flows"]) == (0, 1, 0)
    assert audit("verify", "--digests", "digests").code == 0
    audit.go_on("another000000001")
    assert audit("digest", "--digests", "digests", "--json").said["flows"] == 1
    assert audit("verify", "--digests", "digests").code == 0


def test_an_old_copy_of_the_digests_is_found_by_the_last_ones_number_and_hash(
    audit: Audit,
) -> None:
    audit("digest", "--begin", "--digests", "digests")
    old = audit.command.home / "old"
    shutil.copytree(audit.digests, old)
    for number in (2, 3):
        audit.go_on(f"another00000000{number}")
        last = audit("digest", "--digests", "digests", "--json").said["last"]
    assert audit("verify", "--digests", "digests", "--last", last).code == 0
    assert audit("verify", "--digests", "digests", "--last", audit.digest_id(2)).code == 0
    shutil.rmtree(audit.digests)
    shutil.copytree(old, audit.digests)
    audit.damage("DELETE FROM flows WHERE id LIKE 'another%'")
    audit.damage("DELETE FROM audit WHERE flow_id LIKE 'another%'")

    blind = audit("verify", "--digests", "digests")
    seen = audit("verify", "--digests", "digests", "--json", "--last", last)

    assert blind.code == 0  # which is why the last one is to be kept
    assert seen.code == 1
    assert [finding["message"] for finding in seen.said["findings"]] == [
        "digests 2 to 3 are missing"
    ]
    assert "1 finding" in audit("report", "-o", "r", "--digests", "digests", "--last", last).err
    # Somebody goes on from the old copy until the numbers are the same again.
    for number in (4, 5):
        audit.go_on(f"another00000000{number}")
        audit("digest", "--digests", "digests")
    redone = audit("verify", "--digests", "digests", "--json", "--last", last)
    assert redone.code == 1
    assert [(finding["kind"], finding["message"]) for finding in redone.said["findings"]] == [
        ("forged_digest", "digest-000003.jsonl: its hash is not the one given as the last digest's")
    ]


def test_digests_removed_at_the_beginning_are_a_finding(audit: Audit) -> None:
    audit("digest", "--begin", "--digests", "digests")
    for number in (2, 3):
        audit.go_on(f"another00000000{number}")
        audit("digest", "--digests", "digests")
    for number in (1, 2):
        (audit.digests / f"digest-00000{number}.jsonl").unlink()

    done = audit("verify", "--digests", "digests", "--json", "--last", audit.digest_id(3))

    assert [finding["message"] for finding in done.said["findings"]] == [
        "digests 1 to 2 are missing"
    ]


def test_a_public_key_that_was_kept_elsewhere_is_not_self_signed(audit: Audit) -> None:
    audit("digest", "--begin", "--digests", "digests")
    (audit.command.home / "public").write_text(audit("keygen", "--public").out)
    (audit.command.home / "other").write_text(
        audit("keygen", "--public", DEVICEFLOW_AUDIT_SIGNING_KEY=audit("keygen").out).out
    )

    right = audit("verify", "--digests", "digests", "--public-key", "public", "--json")
    wrong = audit("verify", "--digests", "digests", "--public-key", "other", "--json")

    assert (right.code, right.said["self_signed"], right.said["findings"]) == (0, False, [])
    assert wrong.code == 1
    assert {finding["kind"] for finding in wrong.said["findings"]} == {"forged_digest"}


def test_what_was_done_behind_our_back_is_named(audit: Audit) -> None:
    audit("digest", "--begin", "--digests", "digests")
    audit.damage(
        "UPDATE audit SET text = json_set(text, '$.actor', 'eve')"
        f" WHERE flow_id = '{audit.denied}' AND seq = 2"
    )
    audit.damage(f"DELETE FROM audit WHERE flow_id = '{audit.approved}'")

    done = audit("verify", "--digests", "digests")

    assert done.code == 1
    heading, *rows = done.out.splitlines()
    assert heading.split() == ["WHAT", "LOGIN", "EVENT", "IN", "WORDS"]
    assert any(row.startswith(f"removed flow        {audit.approved}") for row in rows)
    row = f"edited              {audit.denied}      2  the content of this event was changed"
    assert row in rows
    in_json = audit("verify", "--digests", "digests", "--json")
    assert in_json.code == 1
    assert ("edited", audit.denied, 2) in kinds(in_json)
    by_two = audit("verify", "--digests", "digests", "--json", "--processes", "2")
    assert (by_two.code, kinds(by_two)) == (1, kinds(in_json))


def test_an_event_that_is_no_text_keeps_nobody_from_reading(audit: Audit) -> None:
    half = """CAST(replace(text, '"detail":null', '"detail":"' || x'ff' || '"') AS TEXT)"""
    audit.damage(f"UPDATE audit SET text = {half} WHERE flow_id = '{audit.open}'")

    done = audit("verify", "--json")

    assert kinds(done) == {("edited", audit.open, seq) for seq in (1, 2, 3)}
    assert audit("show", audit.open).out.count("\\xff") == 3
    assert len(audit("export", "--format", "csv").out.splitlines()) == 13


def test_an_id_that_is_no_text_hides_nothing_whoever_reads(audit: Audit) -> None:
    audit.damage(f"UPDATE audit SET flow_id = CAST(flow_id AS BLOB) WHERE flow_id = '{audit.open}'")
    audit.damage(f"UPDATE flows SET id = CAST(id AS BLOB) WHERE id = '{audit.denied}'")

    done = audit("verify", "--json")

    assert {(kind, flow_id) for kind, flow_id, _ in kinds(done)} == {
        ("moved", f"\U0010ffff{audit.open.encode()!r}"),
        ("wrong_state", f"\U0010ffff{audit.denied.encode()!r}"),
    }
    for count in ("2", "4"):
        assert kinds(audit("verify", "--json", "--processes", count)) == kinds(done)


def test_nothing_of_a_trail_steers_the_terminal(audit: Audit) -> None:
    audit.damage(f"UPDATE audit SET flow_id = '{NASTY}' WHERE flow_id = '{audit.approved}'")
    for name in ("detail", "actor", "client_id", "issuer", "reason", "to"):
        edited = f"text = json_set(text, '$.{name}', '{NASTY}')"
        audit.damage(f"UPDATE audit SET {edited} WHERE flow_id = '{audit.denied}'")

    for args in (
        ("verify",),
        ("show", audit.denied),
        ("show", "--all", NASTY),
        ("list",),
        ("stats",),
        ("list", "--json"),
        ("stats", "--json"),
        ("show", audit.denied, "--json"),
        ("verify", "--json"),
        ("export", "--format", "jsonl"),
        ("export", "--format", "ecs"),
        ("export", "--format", "csv"),
    ):
        done = audit(*args)
        assert "red" in done.out, args
        assert not any(char in done.out for char in "\x1b\x07\u202e\u202c"), args


def test_a_store_that_is_not_there_is_not_made(audit: Audit) -> None:
    audit.path.rename(audit.path.with_name("moved.db"))

    for action in (["verify"], ["list"], ["digest", "--digests", "digests"]):
        done = audit(*action)
        assert done.code == exits.STORE
        assert "There is no store at" in done.err
    assert audit("verify", "--json").said["error"].startswith("There is no store at")
    assert not audit.path.exists()


def test_a_store_in_memory_keeps_no_trail(deviceflow: Command) -> None:
    done = deviceflow("audit", "list", "--store", "memory:")

    assert done.code == 2
    assert "keeps no trail" in done.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("verify", "--public-key", "nowhere"), 2, "need the directory of the digests"),
        (("report", "-o", "x", "--public-key", "nowhere"), 2, "need the directory of the digests"),
        (("verify", "--last", f"1:{'0' * 64}"), 2, "need the directory of the digests"),
        *(
            (("verify", "--digests", "digests", "--last", last), 2, "NUMBER:HASH")
            for last in ("1", f"0:{'0' * 64}", f"x:{'0' * 64}", f"1:{'0' * 63}", f"1:{'A' * 64}")
        ),
        (("verify", "--digests", "x", "--public-key", "nowhere"), 2, "nowhere cannot be read"),
        (
            ("verify", "--digests", "x", "--public-key", "flows.db"),
            2,
            "does not contain a public key",
        ),
        (("verify", "--file", "nowhere"), exits.STORE, "nowhere cannot be read"),
        (("verify", "--file", "x", "--store", "sqlite:///y"), 2, "exclude each other"),
        (("show", "nobody"), 2, "no events of this login"),
        *(
            (("list", "--since", when), 2, "an age such as 12h or 7d")
            for when in ("soon", "20261120", "2026", "1e300", "d", "infd")
        ),
        (("list", "--since", "0001-01-01T00:00+05:00"), 2, "an age such as 12h or 7d"),
        (("list", "--since", "9999-12-31T23:59:59-05:00"), 2, "an age such as 12h or 7d"),
        (("show", "caf\udce9"), 2, "The trail has no events of this login"),
        (("list", "--limit", "-1"), 2, "must be a whole number, at least 0"),
        (("verify", "--processes", "0"), 2, "must be a whole number, at least 1"),
        (("verify", "--file", "a", "--processes", "2"), 2, "Files are read by one process"),
        (("keygen", "--public"), 2, "There is no signing key"),
        (("keygen", "--public", "nowhere"), exits.STORE, "cannot be read"),
        (("report", "-o", "digests"), 2, "digests is a directory"),
        (
            ("export", "--format", "csv", "--output", "no/where"),
            5,
            "could not be written",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_said(
    audit: Audit, args: tuple[str, ...], code: int, said: str
) -> None:
    done = audit(*args)

    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_a_signing_key_is_one_to_sign_with(audit: Audit) -> None:
    key = audit("keygen").out.strip()
    file = audit.command.home / "key"
    file.write_text(key)
    file.chmod(0o600)

    public = audit("keygen", "--public", "key").out.strip()

    assert key not in audit("keygen", "--public", "key").out
    assert audit("keygen", "--public", DEVICEFLOW_AUDIT_SIGNING_KEY=key).out.strip() == public
    done = audit(
        "digest", "--begin", "--digests", "digests", "--json", DEVICEFLOW_AUDIT_SIGNING_KEY=key
    )
    assert done.said["public_key"] == public
    assert not audit.path.with_name("flows.db.signing-key").exists()


def test_old_events_are_dropped_behind_a_digest(audit: Audit) -> None:
    audit("digest", "--begin", "--digests", "digests")
    with audit.opened() as store:
        delete_ended(store, BEGIN + 50_000)
        left = {flow.id for flow in flows(store)}

    kept = audit("prune", "--digests", "digests", "--before", "2026-11-01")
    pruned = audit("prune", "--digests", "digests", "--before", "2026-11-19", "--json")

    assert "no events to prune" in kept.err
    assert (pruned.code, pruned.said["digest"]) == (0, 2)
    assert pruned.said["pruned"] + len(left) == 3
    assert audit("verify", "--digests", "digests").code == 0
    assert "prune" in audit("show", "store", "--all", "--json").out


# Files.


def test_what_was_exported_is_verified_as_the_store_is(audit: Audit) -> None:
    with audit.opened() as store:
        store.append(StoreEvent(PLAIN_HTTP, BEGIN, "f1 at http://x.example", ALICE))
    audit("digest", "--begin", "--digests", "digests")
    (audit.command.home / "public").write_text(audit("keygen", "--public").out)
    audit("export", "--format", "jsonl", "--output", "trail.jsonl")
    known = ("--digests", "digests", "--public-key", "public", "--json")

    clean = audit("verify", "--file", "trail.jsonl", *known)
    lines = (audit.command.home / "trail.jsonl").read_text().splitlines(keepends=True)
    halves = [lines[:5], lines[5:]]
    for name, half in zip(("old.jsonl", "new.jsonl"), halves, strict=True):
        (audit.command.home / name).write_text("".join(half))
    rotated = audit("verify", "--file", "new.jsonl", "--file", "old.jsonl", *known)
    (audit.command.home / "cut.jsonl").write_text("".join(lines[:2] + lines[3:]))
    cut = audit("verify", "--file", "cut.jsonl", *known)

    assert (clean.code, clean.said["events"], clean.said["keyed"]) == (0, 13, False)
    assert clean.said["self_signed"] is False
    assert (rotated.code, rotated.said["findings"]) == (0, [])
    assert (cut.code, kinds(cut)) == (1, {("removed", audit.approved, 3)})


def test_a_line_that_is_no_event_is_found(audit: Audit) -> None:
    out = audit("export", "--format", "jsonl").out
    event = json.loads(out.splitlines()[0])
    strange = [
        "{",
        "[]",
        "\xff",
        json.dumps(event | {"seq": "1"}),
        json.dumps(event | {"more": 1}),
        json.dumps(event | {"flow_id": "\ud800"}),
        json.dumps(event | {"schema": "another/1"}),
        "[" * 100_000,
    ]
    (audit.command.home / "trail.jsonl").write_text("\n".join([out, *strange]), "latin-1")

    done = audit("verify", "--file", "trail.jsonl", "--json")

    assert done.code == 1
    assert [finding["message"] for finding in done.said["findings"]] == [
        f"line {number} of trail.jsonl is not an event" for number in range(14, 22)
    ]


def test_a_file_that_a_program_wrote_is_verified(audit: Audit, tmp_path: Path) -> None:
    code = (
        "from deviceflow import Client, Studio\n"
        "from deviceflow.testing import ScriptedTransport, answer\n"
        "code = answer(200, {'device_code': 'd', 'user_code': 'u', 'verification_uri': 'https://x.example',"
        " 'token_uri': 'https://x.example/t', 'expires_in': 900, 'token_name': 'n'})\n"
        "client = Client(transport=ScriptedTransport([code]))\n"
        "client.cancel(client.start(Studio('https://x.example')).id)\n"
    )
    environment = audit.command.environment | {
        "DEVICEFLOW_AUDIT": str(tmp_path / "trail.jsonl"),
        "DEVICEFLOW_AUDIT_KEY": "key",
    }
    subprocess.run([COMMAND[0], "-c", code], check=True, env=environment)

    right = audit("verify", "--file", str(tmp_path / "trail.jsonl"), DEVICEFLOW_AUDIT_KEY="key")
    without = audit("verify", "--file", str(tmp_path / "trail.jsonl"))
    wrong = audit("verify", "--file", str(tmp_path / "trail.jsonl"), DEVICEFLOW_AUDIT_KEY="other")

    assert (right.code, "no audit key" in right.out) == (0, False)
    assert (without.code, "no audit key" in without.out) == (0, True)
    assert wrong.code == 1


# Reading.


def test_a_login_is_shown_along_its_states(audit: Audit) -> None:
    done = audit("show", audit.approved)

    assert done.code == 0
    assert [" ".join(line.split()) for line in done.out.splitlines()] == [
        f"{audit.approved} authorized",
        "nightly at https://studio.example.com",
        "for EXPERIMENTS MODELS",
        "requested by: alice on build-17, 2026-11-18 11:06:40",
        "approved by: not known: no id token, 2026-11-18 11:06:45",
        "used by: alice on build-17, 2026-11-18 11:06:47",
        "TIME (UTC) STATE FOR WHY",
        "2026-11-18 11:06:40.300 awaiting-user 0.0 s a code was issued (HTTP 200)",
        "2026-11-18 11:06:40.300 awaiting-user 5.2 s 1 poll: not approved yet (HTTP 400)",
        "2026-11-18 11:06:45.500 polling 0.2 s poll 2 is sent",
        "2026-11-18 11:06:45.700 authorized 2.0 s approved: the token arrived (HTTP 200)",
        "2026-11-18 11:06:47.700 authorized the token was collected",
    ]
    assert len(audit("show", audit.approved, "--all").out.splitlines()) == 13


def test_the_newest_is_shown_where_none_is_named(audit: Audit) -> None:
    done = audit("show", "--json")

    assert done.said["flow_id"] == audit.open
    assert (done.said["state"], done.said["ended"]) == ("awaiting-user", None)
    assert [event["action"] for event in done.said["events"]] == ["issue_code", "poll", "slow_down"]
    assert all(set(event) == set(FIELDS) for event in done.said["events"])


def test_the_newest_of_none(audit: Audit) -> None:
    audit.damage("DELETE FROM audit")

    assert "The trail has no logins" in audit("show").err
    assert audit("list").out == ""
    assert audit("stats").out == "logins            0\n"


def listed(done: Done) -> list[str]:
    assert done.code == 0
    return [json.loads(line)["flow_id"] for line in done.out.splitlines()]


def test_logins_are_listed_the_newest_first(audit: Audit) -> None:
    newest, middle, oldest = audit("list").out.splitlines()

    assert " ".join(newest.split()) == (
        f"{audit.open} - 2026-11-19 12:06:40 awaiting-user 1 poll in 0.2 s"
        " nightly at https://studio.example.com, requested by alice"
    )
    assert middle.split()[:6] == [audit.denied, "-", "2026-11-18", "11:23:20", "failed:", "denied"]
    assert oldest.startswith(audit.approved)
    facts = json.loads(audit("list", "--json", "--reason", "denied").out)
    requested_by = facts.pop("requested_by")
    assert (requested_by["time"], requested_by["actor"]) == (facts["started"], "bob")
    assert facts == {
        "flow_id": audit.denied,
        "name": None,
        "kind": "login",
        "started": "2026-11-18T11:23:20.300+00:00",
        "ended": "2026-11-18T11:23:25.600+00:00",
        "state": "failed",
        "reason": "denied",
        "client": "robot",
        "issuer": "https://login.example.com",
        "actor": "bob",
        "purpose": None,
        "approved_by": None,
        "used_by": [],
        "polls": 1,
        "seconds": 5.3,
        "approved_after": None,
    }


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ("", "open denied approved"),
        ("--state failed", "denied"),
        ("--state authorized", "approved"),
        ("--state polling", ""),
        ("--client robot", "denied"),
        ("--client nightly", "open approved"),
        ("--client night", ""),
        ("--actor alice", "open approved"),
        ("--reason denied", "denied"),
        ("--reason cancelled", ""),
        ("--since 2026-11-19", "open"),
        ("--until 2026-11-19", "denied approved"),
        ("--since 2026-11-18T11:10 --until 2026-11-18T12:30+01:00", "denied"),
        ("--since 36500d", "open denied approved"),
        ("--since 999999999d", "open denied approved"),
        ("--client caf\udce9", ""),
        ("--actor caf\udce9", ""),
        ("--until 36500d", ""),
        ("--limit 2", "open denied"),
        ("--limit 1 --client nightly --until 2026-11-19", "approved"),
        ("--limit 0", ""),
    ],
)
def test_filters(audit: Audit, filters: str, names: str) -> None:
    wanted = [getattr(audit, name) for name in names.split()]

    assert listed(audit("list", "--json", *filters.split())) == wanted
    if "--limit" not in filters:
        assert audit("stats", "--json", *filters.split()).said["logins"] == len(wanted)
        exported = audit("export", "--format", "jsonl", *filters.split()).out.splitlines()
        ids = {json.loads(line)["flow_id"] for line in exported}
        assert ids == set(wanted)


def test_a_login_whose_first_event_is_gone_is_listed_all_the_same(audit: Audit) -> None:
    audit.damage(f"DELETE FROM audit WHERE flow_id = '{audit.denied}' AND seq = 1")

    assert audit.denied in listed(audit("list", "--json", "--until", "2026-11-19"))


def test_exports_hold_every_event(audit: Audit) -> None:
    with audit.opened() as store:
        store.append(StoreEvent(PLAIN_HTTP, BEGIN, "f1 at http://x.example", ALICE))

    jsonl = audit("export", "--format", "jsonl").out
    ecs = audit("export", "--format", "ecs").out
    table = audit("export", "--format", "csv").out

    events = [json.loads(line) for line in jsonl.splitlines()]
    assert [event["flow_id"] for event in events] == (
        [audit.approved] * 6 + [audit.denied] * 3 + [audit.open] * 3 + ["store"]
    )
    with audit.opened() as store:
        assert events[:6] == store.events(audit.approved)
    assert [json.loads(line)["event"]["id"] for line in ecs.splitlines()] == [
        event["event_id"] for event in events
    ]
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["hash"] for row in rows] == [event["hash"] for event in events]
    assert list(rows[0]) == list(FIELDS)
    assert "store" not in audit("export", "--format", "jsonl", "--client", "nightly").out


def test_an_export_of_some_time_is_verified(audit: Audit) -> None:
    with audit.opened() as store:
        store.append(StoreEvent(PLAIN_HTTP, BEGIN, "f1 at http://x.example", ALICE))
        store.append(StoreEvent(PLAIN_HTTP, BEGIN + 1e6, "f2 at http://x.example", ALICE))
    for name, when in (("old", "--until 2026-11-19"), ("new", "--since 2026-11-18T12:00")):
        audit("export", "--format", "jsonl", "--output", name, *when.split())

    for files in (["old"], ["new"], ["old", "new"]):
        named = [arg for name in files for arg in ("--file", name)]
        assert audit("verify", *named).code == 0


def test_a_store_with_nothing_to_note_says_so(audit: Audit) -> None:
    done = audit("show", "store")

    assert (done.code, done.out) == (0, "")
    assert "The trail has no store events" in done.err
    assert audit("show", "store", "--json").said == {"flow_id": "store", "events": []}


def test_a_file_is_its_owners_alone_and_whole(audit: Audit) -> None:
    file = audit.command.home / "trail.csv"
    file.write_text("before")

    done = audit("export", "--format", "csv", "--output", "trail.csv")

    assert (done.code, done.out) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("schema,event_id,")
    audit.path.write_bytes(b"this is no database, and it is longer than a header of one is" * 20)
    assert audit("export", "--format", "csv", "--output", "trail.csv").code == exits.STORE
    assert file.read_text().startswith("schema,event_id,")
    assert [p.name for p in audit.command.home.iterdir() if p.name.startswith(".trail")] == []


def test_numbers(audit: Audit) -> None:
    out = audit("stats").out

    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:2] == ["logins 3", "started 2026-11-18 11:06:40 to 2026-11-19 12:06:40"]
    for line in ("authorized 1", "denied 1", "unfinished 1", "time to approval p50 5.4 s"):
        assert line in lines
    assert "clients 2, 1 approved: nightly" in lines
    assert audit("stats", "--json").said["outcomes"] == {
        "authorized": 1,
        "denied": 1,
        "unfinished": 1,
    }


def test_a_report_is_written(audit: Audit) -> None:
    audit("digest", "--begin", "--digests", "digests")

    done = audit("report", "-o", "r.html", "--digests", "digests", "--state", "failed")

    assert (done.code, done.out) == (0, "")
    assert "The report was written to r.html: 1 login, nothing found." in done.err
    page = (audit.command.home / "r.html").read_text()
    assert audit.denied in page
    assert audit.approved not in page
    audit.damage(f"DELETE FROM audit WHERE flow_id = '{audit.approved}'")
    again = audit("report", "-o", "r.html", "--digests", "digests")
    assert again.code == 0
    assert "1 finding" in again.err
    assert audit.approved in (audit.command.home / "r.html").read_text()


def test_a_report_can_be_checked_by_the_commands_in_it(audit: Audit) -> None:
    audit("digest", "--begin", "--digests", "digests")
    filters = (("--since", "2026-11-18", "--until", "1h ago"), ("--actor", "bob"), ())
    for chosen in filters:
        asked = (*chosen, "--digests", "digests", "--last", audit.digest_id(1))
        assert audit("report", "-o", "r.html", *asked).code == 0
        page = html.unescape((audit.command.home / "r.html").read_text())

        verify, export = re.findall(
            r"<code>deviceflow audit ((?:verify|export) [^<]+)</code>", page
        )
        assert audit(*shlex.split(verify)).code == 0
        exported = audit(*shlex.split(export.removesuffix(" | sha256sum")))

        assert exported.code == 0
        assert f"<code>{hashlib.sha256(exported.out.encode()).hexdigest()}</code>" in page
        assert (audit.denied in page, audit.approved in page) == (True, "bob" not in chosen)


def test_a_report_says_who_made_it(audit: Audit) -> None:
    assert audit("report", "-o", "r.html", "--no-key", DEVICEFLOW_ACTOR="carol <c>").code == 0

    page = (audit.command.home / "r.html").read_text()
    assert f"<bdi>carol &lt;c&gt; on {platform.node()}</bdi>" in page
    assert f"<bdi>deviceflow {__version__}</bdi>" in page
    assert "verify --store sqlite:///" in page
    assert " --no-key</code>" in page


def test_a_missing_extra_is_named(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "DEVICEFLOW_STORE", audit.url)
    monkeypatch.setitem(sys.modules, "jinja2", None)

    assert main(["audit", "report", "-o", str(audit.command.home / "r.html")]) == 2
    assert "deviceflow[audit]" in capsys.readouterr().err


def test_a_bar_is_drawn_on_a_terminal_only(audit: Audit) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "audit", "verify"],
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
        cwd=audit.command.home,
        env=audit.command.environment | {"DEVICEFLOW_STORE": audit.url, "TERM": "xterm"},
    )
    os.close(follower)
    drawn = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:
            break
        if not chunk:
            break
        drawn += chunk
    out, _ = process.communicate(timeout=60)
    os.close(leader)

    assert process.returncode == 0
    assert b"Verifying" in drawn
    assert out.startswith("nothing found: 12 events")
    assert "\x1b" not in out


# PostgreSQL.


@pytest.fixture
def postgres(postgres_url: str) -> dict[str, str]:
    key = generate_key().reveal()
    with PostgresStore(postgres_url, keys=[key]) as store:
        scribe = Scribe(store)
        for number in range(120):
            scribe.login("code", "pending", "token", at=BEGIN + number * 100)
        scribe.login("code", "denied", at=BEGIN + 50, provider=ROBOT, flow_id="denied0000000001")
        store.append(StoreEvent(PLAIN_HTTP, BEGIN, "f1 at http://x.example", ALICE))
    return {"DEVICEFLOW_STORE": postgres_url, "DEVICEFLOW_KEYS": key}


def test_all_of_it_on_postgres(
    deviceflow: Command, postgres: dict[str, str], tmp_path: Path
) -> None:
    def run(*args: str, **more: str) -> Done:
        return deviceflow("audit", *args, act=None, **(postgres | more))

    key = {"DEVICEFLOW_AUDIT_SIGNING_KEY": run("keygen").out.strip()}
    (tmp_path / "d").mkdir()
    digests = ("--digests", str(tmp_path / "d"))

    assert "no key to sign digests" in run("digest", "--begin", *digests).err
    assert run("digest", "--begin", *digests, **key).out.startswith("digest 1: 122 chains, by ")
    verified = run("verify", *digests, "--json", **key)
    assert (verified.code, verified.said["findings"], verified.said["flows"]) == (0, [], 122)
    assert run("verify", *digests, "--json", "--processes", "3", **key).said == verified.said
    ids = listed(run("list", "--json"))
    assert len(ids) == 121
    assert ids[-2:] == ["denied0000000001", "login00000000001"]
    assert listed(run("list", "--json", "--client", "robot")) == ["denied0000000001"]
    assert listed(run("list", "--json", "--since", "2026-11-18T14:23", "--limit", "9")) == ids[:2]
    assert run("show", "--json").said["flow_id"] == ids[0]
    assert run("stats", "--json").said["outcomes"] == {"authorized": 120, "denied": 1}
    file = tmp_path / "trail.jsonl"
    assert run("export", "--format", "jsonl", "--output", str(file)).code == 0
    assert len(file.read_text().splitlines()) == 120 * 5 + 3 + 1
    assert run("verify", "--file", str(file), *digests).code == 0
    report = run("report", "-o", str(tmp_path / "r.html"), *digests, **key)
    assert "121 logins, nothing found" in report.err
