"""Where the command keeps logins, by what keys, and what is to be seen of either from outside."""

from __future__ import annotations

import re
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow import Client, LoginPending, OAuth
from deviceflow.cli import exits
from deviceflow.core.encryption import generate_key
from deviceflow.core.secret import Secret
from deviceflow.server import LocalServer, Settings
from deviceflow.stores._option import option_of
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from tests.integration.command import answered, begun, decide, granted
from tests.stored import flows, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.command import Command, Done

PASSWORD: Final = "hunter2hunter2"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as one:
        yield one


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Where it is.


def test_the_users_own_store_is_theirs_alone(deviceflow: Command) -> None:
    done = deviceflow.shell("umask 000; deviceflow worker --until-idle")

    assert done.code == 0
    assert mode(deviceflow.store.parent) == 0o700
    assert {file.name: mode(file) for file in deviceflow.store.parent.iterdir()} == {
        "flows.db": 0o600,
        "flows.db.key": 0o600,
    }


CONTINUE: Final = (
    *("step x", "wait x", "status", "status report", "list", "cancel x", "token", "token report"),
    *("export-env x", "logout", "logout report", "check report", "invalidate report", "doubt"),
    *("sweep", "purge", "audit verify", "audit list", "audit show", "audit report -o x"),
    *("config show", "keys rotate"),
)


def test_what_continues_or_reads_creates_nothing(deviceflow: Command) -> None:
    for words in CONTINUE:
        done = deviceflow(*words.split())

        assert not deviceflow.store.parent.exists(), words
        if words != "config show":
            assert done.code == exits.STORE, words
            assert "There is no store at" in done.err, words
            assert done.err.endswith("To log in: deviceflow login PROVIDER\n"), words


@pytest.mark.parametrize(
    "words",
    [
        *("login", "login report", "login --again report", "login --once --show-token"),
        "login --once report --show-token",
    ],
)
def test_a_login_nowhere_creates_nothing(deviceflow: Command, words: str) -> None:
    done = deviceflow(*words.split())

    assert (done.code, done.out) == (exits.USAGE, "")
    assert "Nothing was sent. Name a provider" in done.err
    assert not deviceflow.store.parent.exists()


def test_a_hint_names_the_store(deviceflow: Command, server: LocalServer) -> None:
    url = f"sqlite:///{deviceflow.home}/mine.db"
    with Client(url) as client, pytest.raises(LoginPending) as pending:
        client.get_token("nightly", OAuth(issuer=server.url, client_id="robot"))

    command = pending.value.command
    assert command is not None
    assert command == f"deviceflow login --store {url} nightly"
    assert f"To log in: {command}" in str(pending.value)
    assert option_of(Secret("postgresql://robot:SECRET@db/jobs")) == '--store "$DEVICEFLOW_STORE"'


def test_another_store_is_named_by_an_option_or_by_the_environment(
    deviceflow: Command, server: LocalServer
) -> None:
    url = f"sqlite:///{deviceflow.home}/mine.db"

    flow_id = deviceflow("start", "studio", server.url, "--store", url).out.strip()

    assert deviceflow("list", DEVICEFLOW_STORE=url).out.startswith(flow_id)
    assert deviceflow("list", DEVICEFLOW_STORE="").out == ""
    assert (deviceflow.home / "mine.db").exists()


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "status",
        "step an-id",
        "wait an-id",
        "cancel an-id",
        "login",
        "login nightly",
        "login --once --show-token",
        "login --once an-id --show-token",
        "token an-id",
        "token",
        "export-env an-id --variable TOKEN",
        "status nightly",
        "logout",
        "logout nightly",
        "check nightly",
        "invalidate nightly",
        "doubt",
        "sweep",
        "purge",
        "keys rotate",
        "audit list",
        "audit verify",
    ],
)
def test_a_mistyped_store_is_not_created_by_what_begins_nothing(
    deviceflow: Command, command: str
) -> None:
    (deviceflow.home / "jobs.db").touch()

    done = deviceflow(*command.split(), "--store", "sqlite:///job.db")

    assert (done.code, done.out) == (exits.STORE, "")
    assert done.err.startswith("deviceflow: There is no store at job.db. Did you mean jobs.db? ")
    assert [file.name for file in deviceflow.home.iterdir()] == ["jobs.db"]


def test_a_worker_may_come_before_the_first_login_and_says_that_the_store_is_new(
    deviceflow: Command,
) -> None:
    first, again = (
        deviceflow("worker", "--until-idle", "--store", "sqlite:///jobs.db") for _ in range(2)
    )

    assert (first.code, first.err) == (0, "The store jobs.db is new.\n")
    assert (again.code, again.err) == (0, "")


def test_a_mistyped_store_in_the_environment_is_an_object(deviceflow: Command) -> None:
    done = deviceflow("list", "--json", DEVICEFLOW_STORE="sqlite:///no/where.db")

    assert done.code == exits.STORE
    assert done.said["error"].startswith("There is no store at no/where.db. Name the store: ")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("jobs.db", "use sqlite:///jobs.db"),
        ("/var/lib/a?b.db", "use sqlite:////var/lib/a%3Fb.db"),
        ("sqlite:jobs.db", "use sqlite:///jobs.db"),
        ("sqlite://jobs.SQLite3", "use sqlite:///jobs.SQLite3"),
        ("sqlite:///jobs.db?mode=secret", "has no options, and this one has 'mode'"),
        ("sqlite:///jobs.db?", "has no options, and this one has ''"),
        (f"mysql://u:{PASSWORD}@h/flows.db", "Use memory:, sqlite:///path or postgresql://"),
    ],
)
@pytest.mark.parametrize("command", ["list", "start studio"])
def test_a_url_that_is_none_says_which_one_to_use(
    deviceflow: Command, command: str, url: str, why: str
) -> None:
    done = deviceflow(*command.split(), DEVICEFLOW_STORE=url)

    assert done.code == exits.USAGE
    assert why in done.err
    assert "secret" not in done.err
    assert PASSWORD not in done.err
    assert not [*deviceflow.home.iterdir()]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://flows:{PASSWORD}@127.0.0.1:1/flows",
        f"postgresql://flows:{PASSWORD}@[::1/flows",
        f"postgresql://127.0.0.1:1/flows?user=flows&password={PASSWORD}",
        f"host=127.0.0.1 port=1 password = {PASSWORD}",
    ],
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    deviceflow: Command, url: str
) -> None:
    done = deviceflow("list", "--store", url)

    assert (done.code, done.out) == (2, "")
    assert "can see command line arguments" in done.err
    assert PASSWORD not in done.out + done.err


@pytest.mark.parametrize(
    ("url", "exit_code"),
    [
        (f"postgresql://flows:{PASSWORD}@[::1/flows", 2),
        (f"postgresql://flows:{PASSWORD}%zz@127.0.0.1:1/flows", 2),
        (f"postgresql:{PASSWORD}", 2),
        (f"mysql://flows:{PASSWORD}@127.0.0.1/flows", 2),
        (f"postgresql://flows:{PASSWORD}@127.0.0.1:1/flows", exits.STORE),
    ],
)
def test_a_password_in_the_environment_is_not_repeated(
    deviceflow: Command, url: str, exit_code: int
) -> None:
    done = deviceflow("list", DEVICEFLOW_STORE=url)

    assert done.code == exit_code
    assert done.err.count("\n") == 1
    assert PASSWORD not in done.out + done.err


# What cannot be used.


def readable(store: Path) -> None:
    store.chmod(0o644)


def in_the_open(store: Path) -> None:
    store.parent.chmod(0o755)


def with_another_key(store: Path) -> None:
    store.with_name("flows.db.key").write_text(generate_key().reveal())


def without_its_key(store: Path) -> None:
    store.with_name("flows.db.key").unlink()


def with_a_readable_key(store: Path) -> None:
    store.with_name("flows.db.key").chmod(0o640)


def with_no_key_in_its_file(store: Path) -> None:
    store.with_name("flows.db.key").write_text("no key\n")


def of_something_else(store: Path) -> None:
    store.write_bytes(b"This is a diary. " * 1000)


def of_the_future(store: Path) -> None:
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE meta SET value = '99' WHERE name = 'version'")
    database.close()


def a_directory(store: Path) -> None:
    store.unlink()
    store.mkdir()


def nowhere(store: Path) -> None:
    shutil.rmtree(store.parent)
    store.parent.write_text("in the way")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (readable, "chmod 600"),
        (in_the_open, "chmod 700"),
        (with_another_key, "sealing key"),
        (without_its_key, "of this store is missing"),
        (with_a_readable_key, "chmod 600"),
        (with_no_key_in_its_file, "not a Fernet key"),
        (of_something_else, "not a SQLite database"),
        (of_the_future, "made by a newer deviceflow"),
        (a_directory, "cannot be used as a store"),
        (nowhere, "There is no store at"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(
    deviceflow: Command, server: LocalServer, spoil: Callable[[Path], None], words: str
) -> None:
    deviceflow.store.parent.mkdir(parents=True)
    deviceflow.store.parent.chmod(0o700)
    with SQLiteStore(deviceflow.store) as store:
        flow = begun(store, server)
    spoil(deviceflow.store)

    done = deviceflow("step", flow.id)

    assert (done.code, done.out) == (exits.STORE, "")
    assert re.fullmatch(rf"deviceflow: .*{re.escape(words)}.*\n", done.err)


def test_a_store_that_cannot_be_used_is_an_object(deviceflow: Command, kept: SQLiteStore) -> None:
    readable(deviceflow.store)

    done = deviceflow("step", "some-id", "--json")

    assert (done.code, done.err) == (exits.STORE, "")
    assert "chmod 600" in done.said.pop("error")
    assert {**done.said, "error": None} == {
        "flow_id": "some-id",
        "state": None,
        "reason": "store",
        "wait_seconds": None,
        "error": None,
    }


def test_a_store_in_a_directory_that_is_missing(deviceflow: Command, server: LocalServer) -> None:
    done = deviceflow(
        "login", "--once", "studio", server.url, "--show-token", "--store", "sqlite:///no/such/x.db"
    )

    assert (done.code, done.out) == (exits.STORE, "")
    assert re.fullmatch(r"deviceflow: .* there is no directory .*no/such\. Create it.*\n", done.err)


def test_login_says_as_json_what_is_wrong_with_the_store(
    deviceflow: Command, server: LocalServer
) -> None:
    done = deviceflow(
        "login", "--once", "studio", server.url, "--show-token", "--json", "--store", "sqlite:"
    )

    assert (done.code, done.err) == (2, "")
    assert "The URL of the store is invalid" in done.said["error"]


# Keys.


def sealed(store: Path) -> str:
    """Return all that the store's files hold."""
    files = sorted(store.parent.glob(f"{store.name}*"))
    return "".join(file.read_bytes().decode("latin-1") for file in files)


def test_secrets_are_kept_in_clear_where_that_is_asked_for(
    deviceflow: Command, server: LocalServer
) -> None:
    started = deviceflow("start", "studio", server.url, "--plaintext", "--json").said
    decide(server, "approve")("", started["user_code"])
    step = deviceflow("step", started["flow_id"], "--plaintext")
    refused = deviceflow("token", started["flow_id"])
    token = deviceflow("token", started["flow_id"], "--plaintext")

    assert step.code == 0
    assert refused.code == exits.STORE
    assert "plaintext=True" in refused.err
    assert token.out.strip() in sealed(deviceflow.store)
    assert not deviceflow.store.with_name("flows.db.key").exists()


def test_secrets_are_sealed_otherwise(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)

    assert flow.token is not None
    assert flow.token.access_token.reveal() not in sealed(deviceflow.store)
    assert deviceflow("token", flow.id, "--plaintext").code == exits.STORE


def test_a_key_is_generated(deviceflow: Command, server: LocalServer) -> None:
    generated = [deviceflow("keys", "generate").out.strip() for _ in range(2)]

    flow_id = deviceflow("start", "studio", server.url, DEVICEFLOW_KEYS=generated[0]).out.strip()
    wrong = deviceflow("step", flow_id, DEVICEFLOW_KEYS=generated[1])
    both = deviceflow("step", flow_id, DEVICEFLOW_KEYS=" ".join(reversed(generated)))

    assert wrong.code == exits.STORE
    assert not any(key in wrong.err for key in generated)
    assert both.code == 75
    assert not deviceflow.store.with_name("flows.db.key").exists()


def test_rotation_seals_with_a_new_key_what_the_old_one_has_sealed(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    pending, done_with = begun(kept, server, "approve"), granted(kept, server)
    file = deviceflow.store.with_name("flows.db.key")
    (old,) = file.read_text().split()

    rotated = deviceflow("keys", "rotate")

    new, before = file.read_text().split()
    assert (rotated.code, rotated.out) == (0, "")
    assert "2 logins" in rotated.err
    assert before == old
    assert not any(key in rotated.err for key in (new, old))
    assert mode(file) == 0o600
    # The old one is needed no more, by the command or by who was at work meanwhile.
    file.write_text(new)
    assert deviceflow("step", pending.id).code == 0
    assert deviceflow("token", done_with.id).code == 0
    assert get(kept, pending.id).token is not None


def test_rotation_by_keys_that_are_given(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)
    file = deviceflow.store.with_name("flows.db.key")
    old, new = file.read_text().strip(), generate_key().reveal()

    rotated = deviceflow("keys", "rotate", DEVICEFLOW_KEYS=f"{new} {old}")

    assert rotated.code == 0
    assert deviceflow("token", flow.id, DEVICEFLOW_KEYS=new).code == 0
    assert deviceflow("token", flow.id, DEVICEFLOW_KEYS=old).code == exits.STORE
    assert file.read_text().strip() == old


@pytest.mark.parametrize("args", [["--store", "memory:"], ["--plaintext"]])
def test_what_has_no_key_is_not_rotated(deviceflow: Command, args: list[str]) -> None:
    done = deviceflow("keys", "rotate", *args)

    assert done.code == 2
    assert "no sealing key" in done.err


# A database that others use as well.


@pytest.fixture
def shared(deviceflow: Command, postgres_url: str) -> Callable[..., Done]:
    key = generate_key().reveal()
    return partial(deviceflow, DEVICEFLOW_STORE=postgres_url, DEVICEFLOW_KEYS=key)


def test_a_login_by_postgres(shared: Callable[..., Done], server: LocalServer) -> None:
    whom = ("start", "nightly", "--issuer", server.url, "--client-id", "robot")
    started, again = shared(*whom, "--json").said, shared(*whom)
    pending = shared("step", started["flow_id"])
    decide(server, "approve")("", started["user_code"])
    done = shared("wait", started["flow_id"])
    token = shared("token", started["flow_id"], "--acknowledge")
    gone = shared("token", started["flow_id"])

    assert again.out == f"{started['flow_id']}\n"
    assert (pending.code, done.code, token.code, gone.code) == (75, 0, 0, 2)
    assert re.fullmatch(r"\S{20,}\n", token.out)
    assert token.err == ""


def test_a_shared_store_without_a_key_is_refused(
    deviceflow: Command, postgres_url: str, server: LocalServer
) -> None:
    done = deviceflow("start", "studio", server.url, "--store", postgres_url)

    assert (done.code, done.out) == (exits.STORE, "")
    assert re.fullmatch(r"deviceflow: .*DEVICEFLOW_KEYS.*deviceflow keys generate\n", done.err)


def test_a_disk_that_is_full_burns_no_token(deviceflow: Command, postgres_url: str) -> None:
    """Where no file can grow, as a disk is full for all but the database elsewhere."""
    key = generate_key().reveal()
    with PostgresStore(postgres_url, keys=[key]) as store:
        flow = answered(store, {}, {"access_token": "the-token"})

        done = deviceflow.shell(
            'ulimit -f 0; exec deviceflow token "$ID" --acknowledge --output token.txt',
            ID=flow.id,
            DEVICEFLOW_KEYS=key,
            DEVICEFLOW_STORE=postgres_url,
            PYTHONDONTWRITEBYTECODE="1",
        )

        assert done.code == 5
        assert "could not be written to token.txt: File too large" in done.err
        assert get(store, flow.id).token is not None
    assert list(deviceflow.home.iterdir()) == []


# What can be seen of it from outside.


BROWSER: Final = """#!/bin/sh
tr '\\0' '\\n' </proc/self/environ >browser.txt
printf '%s\\n' "$@" >>browser.txt
echo 'Opening in existing browser session.'
"""


def seen_of(process: int) -> str:
    proc = Path(f"/proc/{process}")
    return "".join((proc / name).read_text() for name in ("cmdline", "environ"))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc to look at")
def test_no_secret_is_in_arguments_or_given_to_the_browser(
    deviceflow: Command, kept: SQLiteStore
) -> None:
    client_secret = "secret-of-the-robot"
    (deviceflow.home.parent / "browser").write_text(BROWSER)
    (deviceflow.home.parent / "browser").chmod(0o700)
    key = deviceflow.store.with_name("flows.db.key").read_text().strip()
    given = {
        "BROWSER": f"{deviceflow.home.parent}/browser %s",
        "DEVICEFLOW_CLIENT_SECRET": PASSWORD,
        "DEVICEFLOW_KEYS": key,
        "DEVICEFLOW_STORE": f"sqlite:///{deviceflow.store}",
        "PGPASSWORD": PASSWORD,
        "ROBOTS": client_secret,
    }
    settings = Settings(interval=1, control=True, client_secrets={"robot": client_secret})
    with (
        LocalServer(settings) as server,
        deviceflow.running(
            *("login", "--once", "--issuer", server.url, "--client-id", "robot"),
            *("--client-secret", "env:ROBOTS", "--show-token", "--verbose"),
            environment=given,
        ) as running,
    ):
        code = running.when_asked()
        (flow,) = flows(kept)
        flow = get(kept, flow.id)
        assert flow.device_code is not None
        while not (deviceflow.home / "browser.txt").exists():
            time.sleep(0.01)
        seen = seen_of(running.process.pid)
        arguments = Path(f"/proc/{running.process.pid}/cmdline").read_text()
        decide(server, "approve")("", code)
        done = running.end()

    browser = (deviceflow.home / "browser.txt").read_text()
    token = done.out.strip()
    assert done.code == 0, done.err
    assert f"user_code={code}" in browser
    for secret in (PASSWORD, client_secret, key):
        assert secret in seen  # as the test has given it
        assert secret not in browser + arguments + done.err
    for secret in (flow.device_code.reveal(), token):
        assert secret not in seen + browser + done.err
    # What a browser prints is not taken for the token.
    assert re.fullmatch(r"\S{20,}", token)
    assert "Opening in existing browser session." in done.err
