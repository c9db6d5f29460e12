"""Refreshes of a grant where the power fails: what was synced is all that is left.

A refresh token that comes again after a power cut, because the store has lost its successor, would
cost the grant.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import requests

from deviceflow import Client, LoginPending, OAuth
from deviceflow.core.encryption import generate_key
from deviceflow.core.states import GrantState
from deviceflow.errors import UnknownLoginError
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from tests.crash.disk import library
from tests.crash.relay import Relay
from tests.integration.powerless import NAME
from tests.postgres import PostgresServer
from tests.stored import get, load_grant

if TYPE_CHECKING:
    from pathlib import Path

    from deviceflow.core.grant import Grant


def left(disk: Path, folder: Path) -> SQLiteStore:
    """Open what would be found on the disk if the power failed now."""
    shutil.copytree(disk, folder)
    return SQLiteStore(folder / "grants.db", plaintext=True)


def grant_in(store: SQLiteStore) -> Grant:
    stored = load_grant(store, NAME, 0.0)
    assert stored is not None
    return stored.record


def provider_at(url: str) -> OAuth:
    return OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{url}/oauth/device_authorization",
        token_endpoint=f"{url}/oauth/token",
        scopes="offline_access",
    )


def log_in(client: Client, provider: OAuth, server: LocalServer) -> None:
    with pytest.raises(LoginPending) as caught:
        client.get_token(NAME, provider, mint="now")
    login: Any = caught.value.login
    approval = {"user_code": login.user_code}
    approved = requests.post(f"{server.url}/control/approve", json=approval, timeout=60)
    assert approved.status_code == 200
    client.wait(login.id)
    client.get_token(NAME)


@pytest.mark.skipif(library() is None, reason="this Python has a SQLite of its own within")
@pytest.mark.parametrize("how", ["sync", "async"])
def test_sqlite_keeps_each_step_of_a_refresh_though_the_power_fails(
    tmp_path: Path, how: str
) -> None:
    disk, path, seen = tmp_path / "disk", tmp_path / "grants.db", list[Any]()
    disk.mkdir()

    def sent(refresh: str) -> None:
        with left(disk, tmp_path / f"sent-{len(seen)}") as store:
            grant = grant_in(store)
        assert grant.token is not None
        assert grant.token.refresh_token is not None
        seen.append((grant.state, grant.token.refresh_token.reveal() == refresh))

    with (
        LocalServer(Settings(control=True, interval=0)) as server,
        Relay(server.url, sent) as relay,
    ):
        with SQLiteStore(path, plaintext=True) as store, Client(store) as client:
            log_in(client, provider_at(relay.url), server)
        shutil.copy(path, disk)
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.powerless", how, path, disk, server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin
        assert child.stdout

        given = json.loads(child.stdout.readline())["given"]
        with left(disk, tmp_path / "given") as store:
            grant = grant_in(store)
            with Client(store) as client:
                again = client.get_token(NAME)
                client.invalidate(NAME)
                after = client.get_token(NAME)
        print(file=child.stdin, flush=True)
        line = child.stdout.readline()
        assert line, child.wait()
        started = json.loads(line)["started"]
        with left(disk, tmp_path / "started") as store, pytest.raises(UnknownLoginError):
            get(store, started)
        child.kill()
        child.communicate()
        with SQLiteStore(path, plaintext=True) as store:
            assert get(store, started).id == started  # it was written, and not synced

    assert relay.wrong == []
    assert seen[0] == (GrantState.REFRESHING, True)
    assert (grant.state, grant.generation) == (GrantState.ACTIVE, 2)
    assert again.access_token.reveal() == given
    assert after.generation == 3  # the refresh token is the newest one


def test_postgres_keeps_each_step_of_a_refresh_though_the_server_dies(tmp_path: Path) -> None:
    """The database's own setting is the fast one: it writes its log seconds after a commit."""
    with (
        PostgresServer() as database,
        LocalServer(Settings(control=True, interval=0)) as server,
        Relay(server.url) as relay,
    ):
        url = database.database()
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_commit = off")
            connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            connection.execute("SELECT pg_reload_conf()")
        store = PostgresStore(url, keys=[generate_key()], pool_size=1)
        with store, Client(store) as client:
            log_in(client, provider_at(relay.url), server)
            for _ in range(15):  # the database may write its log just before it dies
                client.invalidate(NAME, client.get_token(NAME))
                given = client.get_token(NAME)
                # Each page of the log is written once it is full: what follows is on one.
                with psycopg.connect(database.url, autocommit=True) as connection:
                    connection.execute("SELECT pg_switch_wal()")
                started = client.start(provider_at(server.url)).id
                database.kill()
                database.start()
                with Client(store) as other:  # which remembers no token
                    assert other.get_token(NAME).generation == given.generation
                lost = started not in {login.id for login in client.logins()}
                if lost:
                    break

    assert lost  # what concerns a login is as durable as the database says
    assert relay.wrong == []
