"""Auditing a store that the auditor may read and not write, without the key of its secrets."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg import sql

from deviceflow.cli import exits
from deviceflow.core.encryption import generate_key
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.errors import StoreError
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail.digest import files_of
from tests.integration.command import decide
from tests.integration.places import new
from tests.logins import BEGIN, BOB, ROBOT, Scribe
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.server import LocalServer
    from tests.integration.command import Command, Done

pytestmark = pytest.mark.usefixtures("each_event")

ROOT: Final = os.geteuid() == 0
AUDITOR: Final = 54321 if ROOT else os.geteuid()  # nobody has this number
AUDIT_KEY: Final = "an audit key that the writer and the auditor have"
PATIENCE: Final = 60

# The interpreter and its libraries may be where the auditor cannot read. So each command is run
# once on a copy of the store, which imports what it needs, before the child becomes the auditor.
_CHILD: Final = """
import contextlib, io, json, os, sys
from deviceflow.cli import main

folder, user, commands = json.loads(sys.argv[1])

def run(folder, args):
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["audit", *args, "--store", "sqlite:///store/flows.db"])
    return code, out.getvalue(), err.getvalue()

for args in commands:
    run(folder + "/rehearsal", args)
os.chdir(folder)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
os.umask(0o077)
print(json.dumps([run(folder, args) for args in commands]))
"""


class Store:
    """A SQLite file with five logins, in a place of its own that the auditor can reach.

    Attributes:
        folder: The auditor's own folder, in which commands are run.
        path: The file.
        digests: The auditor's directory for digests.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "store" / "flows.db"
        self.digests = folder / "digests"
        for place in (self.path.parent, self.digests, folder / "rehearsal"):
            place.mkdir(0o755)
        self.keys = [generate_key()]
        self.writer = self.opened()
        self.scribe = Scribe(self.writer)
        for number in range(4):
            self.scribe.login("code", "pending", "token", at=BEGIN + 100 * number)
        self.scribe.login("code", "denied", provider=ROBOT, origin=BOB)

    def opened(self, **how: Any) -> SQLiteStore:
        return SQLiteStore(self.path, keys=self.keys, synchronous="NORMAL", **how)

    def files(self) -> dict[str, bytes]:
        """Return what is in the store's directory, but for the locks in `-shm`."""
        return {
            path.name: b"" if path.name.endswith("-shm") else path.read_bytes()
            for path in self.path.parent.iterdir()
        }

    def hand_over(self, *, directory: int = 0o555) -> None:
        """Let the auditor read the files, and nobody write them who is not root."""
        rehearsal = self.folder / "rehearsal"
        shutil.copytree(self.path.parent, rehearsal / "store")
        (rehearsal / "digests").mkdir()
        for path in self.path.parent.iterdir():
            path.chmod(0o400)
        self.path.parent.chmod(directory)
        if ROOT:
            for path in (self.folder, self.digests, *self.path.parent.iterdir()):
                os.chown(path, AUDITOR, AUDITOR)

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Let the writer write again, who is the auditor where there is no other user."""
        self.path.parent.chmod(0o755)
        self.path.chmod(0o600)
        yield
        for path in self.path.parent.iterdir():
            path.chmod(0o400)
        self.path.parent.chmod(0o555)

    def audit(self, *commands: str, **environment: str) -> list[Any]:
        """Run commands as the auditor; return the exit code and what was said of each."""
        known = {"DEVICEFLOW_AUDIT_KEY": AUDIT_KEY} | environment
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DEVICEFLOW_")}
        asked = json.dumps([str(self.folder), AUDITOR, [line.split() for line in commands]])
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, asked],
            env=kept | known,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
        return list(json.loads(done.stdout))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("DEVICEFLOW_AUDIT_KEY", AUDIT_KEY)
    # Not in pytest's folder, which is for nobody else to enter.
    folder = Path(tempfile.mkdtemp(prefix="audited-"))
    folder.chmod(0o755)
    store = Store(folder)
    yield store
    store.writer.close()
    store.path.parent.chmod(0o755)
    shutil.rmtree(folder)


def close(store: Store) -> None:
    store.writer.close()
    assert [*store.files()] == ["flows.db"]


def stay_open(store: Store) -> None:
    assert {*store.files()} == {"flows.db", "flows.db-wal", "flows.db-shm"}


def die(store: Store) -> None:
    """Leave the files as a writer does who is killed."""
    left = store.folder / "left"
    shutil.copytree(store.path.parent, left)
    store.writer.close()
    store.path.unlink()
    for path in left.iterdir():
        path.rename(store.path.parent / path.name)


@pytest.mark.parametrize("leave", [close, stay_open, die])
def test_a_store_that_may_only_be_read_is_audited(store: Store, leave: Any) -> None:
    leave(store)
    store.hand_over()
    before = store.files()
    signing = {"DEVICEFLOW_AUDIT_SIGNING_KEY": generate_signing_key()}

    verified, begun, again, digested, listed, shown, stats, *exports, pruned = store.audit(
        "verify --json",
        "digest --begin --digests digests --json",
        "digest --digests digests",
        "verify --digests digests --json",
        "list --json",
        "show login00000000001",
        "stats --json",
        "export --format jsonl",
        "export --format ecs",
        "export --format csv",
        "prune --digests digests --before 2027-01-01",
        **signing,
    )

    assert (verified[0], json.loads(verified[1])["findings"]) == (0, [])
    said = json.loads(verified[1])
    assert (said["events"], said["flows"], said["keyed"]) == (23, 5, True)
    assert (begun[0], json.loads(begun[1])["flows"]) == (0, 5)
    assert (again[0], again[1].startswith("last 1:")) == (0, True)
    assert (digested[0], json.loads(digested[1])["digests"]) == (0, 1)
    assert (listed[0], len(listed[1].splitlines())) == (0, 5)
    assert (shown[0], "authorized" in shown[1]) == (0, True)
    assert (stats[0], json.loads(stats[1])["logins"]) == (0, 5)
    assert [(code, len(out.splitlines())) for code, out, _ in exports] == [
        (0, 23),
        (0, 23),
        (0, 24),
    ]
    assert (pruned[0], "Traceback" in pruned[2]) == (exits.STORE, False)
    assert store.files() == before
    (number, path), *_ = files_of(store.digests)
    assert (number, path.stat().st_uid) == (1, AUDITOR)


def test_what_was_done_to_it_is_found_by_whoever_may_only_read_it(store: Store) -> None:
    close(store)
    with closing(sqlite3.connect(store.path)) as database:
        database.execute(
            "UPDATE audit SET text = json_set(text, '$.actor', 'mallory')"
            " WHERE flow_id = 'login00000000005'"
        )
        database.execute("UPDATE flows SET token = NULL WHERE id = 'login00000000001'")
        database.commit()
    store.hand_over()

    ((code, out, _),) = store.audit("verify --json")

    assert code == 1
    found = {(finding["kind"], finding["flow_id"]) for finding in json.loads(out)["findings"]}
    assert ("edited", "login00000000005") in found
    assert "login00000000001" in {flow_id for _, flow_id in found}


def test_without_the_audit_key_digests_alone_are_evidence_and_only_if_told_so(
    store: Store,
) -> None:
    close(store)
    store.hand_over()
    signing = {"DEVICEFLOW_AUDIT_SIGNING_KEY": generate_signing_key()}

    for key in ("", f"{AUDIT_KEY},store:"):
        begun, refused, verified = store.audit(
            "digest --begin --digests digests",
            "verify --digests digests",
            "verify --digests digests --no-key --json",
            DEVICEFLOW_AUDIT_KEY=key,
            **signing,
        )
        (store.digests / "digest-000001.jsonl").unlink()
        shutil.rmtree(store.folder / "rehearsal" / "digests")
        (store.folder / "rehearsal" / "digests").mkdir()
        assert begun[0] == 0
        assert (refused[0], refused[1]) == (exits.STORE, "")
        assert "no key to check the MACs of events" in refused[2]
        assert "DEVICEFLOW_AUDIT_KEY" in refused[2]
        assert "--no-key" in refused[2]
        assert (verified[0], json.loads(verified[1])["keyed"]) == (0, False)


@pytest.mark.parametrize("directory", [0o555, 0o777])
def test_nothing_is_made_beside_a_store_that_may_only_be_read(store: Store, directory: int) -> None:
    close(store)
    store.hand_over(directory=directory)

    digest, verify = store.audit("digest --begin --digests digests", "verify")

    assert (digest[0], digest[1]) == (exits.STORE, "")
    assert "DEVICEFLOW_AUDIT_SIGNING_KEY" in digest[2]
    assert verify[0] == 0
    assert [*store.files()] == ["flows.db"]
    assert files_of(store.digests) == []


def test_keys_that_the_auditor_may_not_read_are_passed_over(store: Store) -> None:
    close(store)
    for name in ("flows.db.key", "flows.db.signing-key"):
        file = store.path.with_name(name)
        file.write_text("for the writer only")
        file.chmod(0o600)
    store.hand_over()
    for name in ("flows.db.key", "flows.db.signing-key"):
        store.path.with_name(name).chmod(0)
        os.chown(store.path.with_name(name), os.geteuid(), os.getegid())
        (store.folder / "rehearsal" / "store" / name).unlink()

    verified, digest = store.audit("verify --json", "digest --begin --digests digests")

    assert (verified[0], json.loads(verified[1])["keyed"]) == (0, True)
    assert digest[0] == exits.STORE
    assert "no permission to read the signing key" in digest[2]
    assert "DEVICEFLOW_AUDIT_SIGNING_KEY" in digest[2]


def test_a_copy_without_its_shm_file_says_what_to_do(store: Store) -> None:
    die(store)
    store.path.with_name("flows.db-shm").unlink()
    store.hand_over()

    ((code, _, err),) = store.audit("verify")

    assert code == exits.STORE
    assert "the file flows.db-shm for flows.db-wal is missing" in err
    assert "copy the database" in err


_SLOW_READER: Final = """
import os, sys
from deviceflow.errors import StoreError
from deviceflow.stores.sqlite import SQLiteStore
path, user = sys.argv[1], int(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
with SQLiteStore(path, read_only=True) as store:
    try:
        with store.snapshot() as snapshot:
            print("reading", flush=True)
            sys.stdin.readline()
            print(len(list(snapshot.events)), flush=True)
    except StoreError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize("leave", [close, stay_open])
def test_a_store_that_is_written_meanwhile_is_read_as_of_one_moment_or_not_at_all(
    store: Store, leave: Any
) -> None:
    leave(store)
    store.hand_over()
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW_READER, str(store.path), str(AUDITOR)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        with store.writable():
            Scribe(store.writer).login("code", "denied", flow_id="another000000001")
            store.writer.close()  # and what was written goes into the file itself
        out, _ = reader.communicate("\n", timeout=PATIENCE)

    if leave is stay_open:
        assert out == "23\n"
    else:
        assert "was written while it was being read" in out
        assert "Try again" in out


def test_who_may_write_it_leaves_it_as_it_was_too(store: Store) -> None:
    close(store)
    before = store.files()

    with store.opened(read_only=True) as opened, opened.snapshot() as snapshot:
        assert len(list(snapshot.events)) == 23
        flows = [stored.authentic for stored in snapshot.flows]

    assert flows == [True] * 5
    assert store.files() == before


def test_nothing_is_written_to_a_store_that_was_opened_to_read(store: Store) -> None:
    flow = get(store.writer, "login00000000005")
    for keys in (store.keys, None):
        with SQLiteStore(store.path, keys=keys, read_only=True) as opened:
            for write, args in (
                (opened.add, (new(),)),
                (opened.delete, ([flow],)),
                (opened.claim, (flow.id, "somebody", BEGIN, 10.0)),
                (opened.prune, ([flow.id],)),
            ):
                with pytest.raises(StoreError, match="opened for reading only"):
                    write(*args)
    assert [*store.path.parent.glob("*key")] == []


def test_a_store_that_is_not_there_is_not_made_by_a_reader(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch(0o600)

    for name in ("nowhere.db", "empty.db"):
        with pytest.raises(StoreError):
            SQLiteStore(tmp_path / name, read_only=True)

    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]


# PostgreSQL.


class Database:
    """A database with five logins, and a role that may read it."""

    def __init__(self, url: str, command: Command) -> None:
        self.url = url
        self._command = command
        self.key = generate_key()
        with PostgresStore(url, keys=[self.key]) as store:
            scribe = Scribe(store)
            for number in range(5):
                scribe.login("code", "pending", "token", at=BEGIN + 100 * number)
        self.role = f"auditor_{secrets.token_hex(4)}"
        self.do(
            "CREATE ROLE {} LOGIN",
            "GRANT USAGE ON SCHEMA deviceflow TO {}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA deviceflow TO {}",
        )

    def do(self, *statements: Any) -> None:
        with psycopg.connect(self.url) as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement).format(sql.Identifier(self.role)))

    @property
    def theirs(self) -> str:
        return self.url.replace("//postgres@", f"//{self.role}@")

    def __call__(self, action: str, *args: str, **environment: str) -> Done:
        given: dict[str, Any]
        given = {"DEVICEFLOW_STORE": self.theirs, "DEVICEFLOW_AUDIT_KEY": AUDIT_KEY}
        return self._command("audit", action, *args, **(given | environment))


@pytest.fixture
def audited(
    postgres_url: str, deviceflow: Command, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    monkeypatch.setenv("DEVICEFLOW_AUDIT_KEY", AUDIT_KEY)
    database = Database(postgres_url, deviceflow)
    yield database
    database.do("DROP OWNED BY {}", "DROP ROLE {}")


def test_a_database_that_may_only_be_read_is_audited(audited: Database, tmp_path: Path) -> None:
    signing = {"DEVICEFLOW_AUDIT_SIGNING_KEY": generate_signing_key()}
    (tmp_path / "d").mkdir()
    digests = ("--digests", str(tmp_path / "d"))
    with psycopg.connect(audited.theirs) as theirs, pytest.raises(psycopg.Error):
        theirs.execute("DELETE FROM deviceflow.audit")

    verified = audited("verify", "--json")
    assert (verified.code, verified.said["findings"]) == (0, [])
    assert (verified.said["events"], verified.said["keyed"]) == (25, True)
    assert audited("verify", "--json", "--processes", "2").said == verified.said
    assert audited("digest", "--begin", *digests, "--json", **signing).said["flows"] == 5
    assert audited("verify", *digests, **signing).code == 0
    assert len(audited("list").out.splitlines()) == 5
    assert "authorized" in audited("show").out
    assert audited("stats", "--json").said["logins"] == 5
    for form in ("jsonl", "ecs", "csv"):
        assert audited("export", "--format", form).code == 0
    assert audited("report", "-o", str(tmp_path / "r.html"), *digests).code == 0
    pruned = audited("prune", *digests, "--before", "2027-01-01", **signing)
    assert pruned.code == exits.STORE


def test_what_was_done_to_a_database_is_found_by_whoever_may_only_read_it(
    audited: Database,
) -> None:
    audited.do(
        "UPDATE deviceflow.audit SET text = jsonb_set(text::jsonb, '{{actor}}', '\"mallory\"')"
        " WHERE flow_id = 'login00000000002'"
    )

    found = audited("verify", "--json").said["findings"]

    assert {(finding["kind"], finding["flow_id"]) for finding in found} == {
        ("edited", "login00000000002")
    }


def test_a_database_is_verified_without_the_audit_key_only_if_told_so(
    audited: Database, tmp_path: Path
) -> None:
    refused = audited("verify", DEVICEFLOW_AUDIT_KEY="")
    told = audited("verify", "--no-key", "--json", DEVICEFLOW_AUDIT_KEY="")
    sealed = audited("verify", "--json", DEVICEFLOW_KEYS=audited.key.reveal())

    assert refused.code == exits.STORE
    assert "--no-key" in refused.err
    assert (told.code, told.said["keyed"]) == (0, False)
    assert (sealed.code, sealed.said["keyed"]) == (0, True)
    page = tmp_path / "r.html"
    assert audited("report", "-o", str(page), DEVICEFLOW_AUDIT_KEY="").code == exits.STORE
    assert audited("report", "-o", str(page), "--no-key", DEVICEFLOW_AUDIT_KEY="").code == 0
    assert "There was no audit key" in page.read_text()
    assert audited("report", "-o", str(page)).code == 0
    assert "There was no audit key" not in page.read_text()


def test_a_role_without_rights_is_told_which_it_needs(audited: Database) -> None:
    audited.do("REVOKE ALL ON ALL TABLES IN SCHEMA deviceflow FROM {}")

    done = audited("verify")

    assert done.code == exits.STORE
    assert "GRANT USAGE ON SCHEMA deviceflow" in done.err


def test_a_database_that_takes_no_writes_is_audited(audited: Database) -> None:
    """As a standby is, which a read replica may be."""
    name = sql.Identifier(audited.url.rpartition("/")[2])
    with psycopg.connect(audited.url, autocommit=True) as connection:
        read_only = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
        connection.execute(read_only.format(name))

    assert audited("verify", DEVICEFLOW_STORE=audited.url).code == 0
    assert len(audited("list", DEVICEFLOW_STORE=audited.url).out.splitlines()) == 5
    with psycopg.connect(audited.url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        writable = sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only")
        connection.execute(writable.format(name))


# What is left lying about.


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Have whatever this process starts make files that all may write, unless it says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_everything_that_is_made_is_its_owners_alone_under_any_umask(
    deviceflow: Command, local_server: LocalServer
) -> None:
    """All but digests, which are to be copied, and hold no secret."""
    (deviceflow.home / "digests").mkdir(0o700)
    approve = decide(local_server, "approve")
    trail = {"DEVICEFLOW_AUDIT": str(deviceflow.home / "trail.jsonl")}
    login = ("login", "--once", "studio", local_server.url, "--no-browser", "--output", "token")
    for done in (
        deviceflow(*login, act=approve, **trail),
        deviceflow("audit", "digest", "--begin", "--digests", "digests"),
        deviceflow("audit", "export", "--format", "csv", "--output", "trail.csv"),
        deviceflow("audit", "report", "--digests", "digests", "--output", "report.html"),
    ):
        assert done.code == 0, done.err

    made = [*deviceflow.home.rglob("*"), *deviceflow.store.parents[1].rglob("*")]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes.pop("digest-000001.jsonl") == 0o644
    assert {"flows.db", "flows.db.key", "flows.db.signing-key", "deviceflow"} <= {*modes}
    assert {"token", "trail.jsonl", "trail.csv", "report.html"} <= {*modes}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
