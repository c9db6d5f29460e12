"""A store with logins at all stages, which is put back as it was before each run."""

from __future__ import annotations

import io
import os
import sqlite3
import time
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from unittest import mock

import psycopg

from deviceflow import OAuth, Secret, Studio, export
from deviceflow.audit.events import render
from deviceflow.cli import main
from deviceflow.core.actions import ROTATE_KEYS
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin, StoreEvent
from deviceflow.core.wire import Failure
from deviceflow.credentials.keys import audit as audit_keys
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from tests.fuzz_store.servers import CLIENT, PENDING, VERIFIER, code_of, token_of
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deviceflow.core.flow import Transition
    from deviceflow.core.provider import Provider
    from deviceflow.stores.sql import SQLStore
    from tests.fuzz_store.servers import Servers
    from tests.postgres import PostgresServer

    Move = Callable[[Flow, float], Transition]

Kind = Literal["sqlite", "postgres"]
Secrecy = Literal["sealed", "sealed, audit key", "plaintext", "plaintext, audit key"]
SECRECIES: Final[tuple[Secrecy, ...]] = (
    "sealed",
    "sealed, audit key",
    "plaintext",
    "plaintext, audit key",
)
TABLES: Final = ("flows", "audit", "meta")
HOUR: Final = 3600.0
DAY: Final = 86400.0
ALLOWED: Final = "env:FUZZ_ALLOWED"
_OURS: Final = "somebody's audit key"


def _polled(flow: Flow, now: float, result: Any) -> Iterator[Transition]:
    yield flow.poll(now, 10.0)
    if result is not None:
        yield flow.receive(result, now, duration=0.5)


# What happens to each login: answers to its polls (None: whoever polled died), then more.
_REVOKED: Final = answer(200, {})
_SAID: Final[dict[str, Any]] = {
    "pending": answer(400, {"error": PENDING}),
    "slow": answer(400, {"error": "slow_down"}),
    "denied": answer(400, {"error": "access_denied"}),
    "expired": answer(400, {"error": "expired_token"}),
    "lost": Failure("timeout", sent=True),
    "dead": None,
}
STAGES: Final[dict[str, tuple[str, ...]]] = {
    "created": (),
    "waiting": ("code",),
    "secret": ("code",),
    "studio": ("code",),
    "pending": ("code", "pending", "pending"),
    "slowed": ("code", "slow", "slow"),
    "polling": ("code", "dead"),
    "recovered": ("code", "dead", "recover"),
    "doubt": ("code", "lost"),
    "authorized": ("code", "pending", "issue_token"),
    "late": ("code", "issue_token"),
    "collected": ("code", "issue_token", "collect"),
    "acknowledged": ("code", "issue_token", "collect", "acknowledge"),
    "denied": ("code", "denied"),
    "ancient": ("code", "denied"),
    "expired": ("code", "expired"),
    "cancelled": ("code", "cancel"),
    "toomany": ("code", "issue_token", "second"),
}
"""The logins, by name, and what happened to each."""

LIVE: Final = ("waiting", "secret", "studio", "pending", "slowed", "recovered", "doubt")
"""Those that wait for an approval."""

OLD: Final = {"ancient": 100 * DAY, "late": 8 * DAY}
"""How long ago the oldest of them were, in seconds."""


def _moved(flow: Flow, move: str, now: float, base: str) -> Iterator[Transition]:
    match move:
        case "code":
            yield flow.receive(answer(200, code_of(flow.id, base)), now, duration=0.25)
        case "issue_token":
            yield from _polled(flow, now, answer(200, token_of(flow.id)))
        case "second":
            token = flow.provider.read_token(answer(200, token_of(flow.id)), now).token
            assert token is not None
            yield flow.late_token(token, 1, now)
        case "recover":
            yield flow.recover(now, "the dead")
        case "collect" | "acknowledge" | "cancel":
            yield getattr(flow, move)(now)
        case _:
            yield from _polled(flow, now, _SAID[move])


class Place:
    """A database with a store in it, and a way in behind the store's back.

    Attributes:
        kind: Which database.
        secrecy: Whether secrets are sealed, and whether the audit key is kept elsewhere.
        url: The store's URL.
        servers: The servers.
        folder: An empty folder for what commands write.
        saved: All rows of each table, as they were written, by name of column.
        earlier: Each login's rows before its last one.
        logins: The logins as they are in the store, by id.
        due: The logins that a sweep steps.
        rows_of_store: What makes the rows of the store, as whoever has its sealing key can.
        broken: Whether the tables are not what they should be any more.
    """

    def __init__(
        self, kind: Kind, secrecy: Secrecy, url: str, servers: Servers, folder: Path
    ) -> None:
        self.kind = kind
        self.secrecy = secrecy
        self.url = url
        self.servers = servers
        self.folder = folder
        self.plaintext = secrecy.startswith("plaintext")
        self.audited = secrecy.endswith("audit key")
        self._keys = generate_key()
        self._signing_key = generate_signing_key()
        self.broken = False
        self._database: psycopg.Connection[Any] | None = None
        self.earlier: dict[str, list[dict[str, Any]]] = {}
        self.logins: dict[str, dict[str, Any]] = {}
        self._files: dict[Path, bytes] = {}
        with self.environment():
            self._fill()
        self.due = {
            row["id"]
            for row in self.saved["flows"]
            if row["wake_at"] is not None and row["wake_at"] <= time.time()
        }

    @contextmanager
    def environment(self, *, audit_key: bool = True) -> Iterator[None]:
        """Have the worker's environment, with what it must not give away in it."""
        values = {name: value for name, value in os.environ.items() if "DEVICEFLOW" not in name}
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "SSH_CONNECTION"):
            values.pop(name, None)
        values |= {
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "DEVICEFLOW_STORE": self.url,
            "DEVICEFLOW_ALLOW_SECRETS": ALLOWED,
            "DEVICEFLOW_AUDIT_SIGNING_KEY": self._signing_key,
            "FUZZ_ALLOWED": "ALLOWED.secret",
            "FUZZ_WORKERS": "CANARY.environment.",
        }
        if self.kind == "postgres" and not self.plaintext:
            values["DEVICEFLOW_KEYS"] = self._keys.reveal()
        if self.audited and audit_key:
            values[audit_keys.VARIABLE] = _OURS
        with mock.patch.dict(os.environ, values, clear=True):
            yield

    def open(self) -> SQLStore:
        """Open the store, as a process of its own would."""
        options: dict[str, Any] = {"plaintext": True} if self.plaintext else {}
        if self.kind == "sqlite":
            return SQLiteStore(self.path, **options)
        return PostgresStore(self.url, **options)

    @property
    def path(self) -> Path:
        """The file, where it is one."""
        return Path(self.url.removeprefix("sqlite:///"))

    @property
    def canary(self) -> Path:
        """A file that nobody is to read."""
        return self.folder / "canary"

    @property
    def digests(self) -> Path:
        """Where digests of the trail are put."""
        return self.folder / "digests"

    # Filling it.

    def provider(self, name: str) -> Provider:
        """Return where a login is, and what it asks for."""
        if name == "studio":
            return Studio(self.servers.honest).with_request(client_name=CLIENT.format(name))
        return OAuth(
            client_id=CLIENT.format(name),
            device_authorization_endpoint=f"{self.servers.honest}/code",
            token_endpoint=f"{self.servers.honest}/token",
            revocation_endpoint=f"{self.servers.honest}/revoke",
            client_secret=ALLOWED if name == "secret" else None,
            pkce="on",
            scopes="read write",
        )

    def _fill(self) -> None:
        self.canary.write_text("CANARY.file.")
        self.digests.mkdir()
        with self.open() as store:
            self.rows_of_store = store.inner._rows
            for name, moves in STAGES.items():
                self._bring(store, name, moves)
                self.logins[name] = export.to_dict(get(store, name), secrets=True)
            for _ in range(2):
                store.append(StoreEvent(ROTATE_KEYS, time.time(), "a note", Origin("w1")))
        self.saved = {table: self.rows(table) for table in TABLES}
        with redirect_stdout(io.StringIO()):
            plain = ["--plaintext"] if self.plaintext else []
            assert main(["audit", "digest", "--begin", "--digests", str(self.digests), *plain]) == 0
        self._kept = [self.folder / "store", self.digests]
        self._files = {f: f.read_bytes() for folder in self._kept for f in folder.iterdir()}
        if self.kind == "sqlite":
            return
        self.ask("CREATE SCHEMA saved")
        for table in TABLES:
            self.ask(f"CREATE TABLE saved.{table} AS SELECT * FROM deviceflow.{table}")

    def _bring(self, store: SQLStore, name: str, moves: Sequence[str]) -> None:
        at = time.time() - OLD.get(name, HOUR)
        verifier = None if name == "studio" else Secret(VERIFIER.format(name))
        flow = Flow(name, self.provider(name), at, name=f"name-{name}", verifier=verifier)
        store.add(flow)
        rows = self.earlier[name] = []
        for number, move in enumerate(moves):
            for moved in _moved(flow, move, at + 20 * number, self.servers.honest):
                rows += self.rows("flows", name)
                assert store.commit(flow, render(flow, moved, Origin("w1", pid=7)))

    # Behind the store's back.

    def rows(self, table: str, name: str | None = None) -> list[dict[str, Any]]:
        """Return what is in a table, or the row of a login."""
        order = {"flows": "id", "audit": "flow_id, seq", "meta": "name"}[table]
        where = "" if name is None else " WHERE id = ?"
        values = () if name is None else (name,)
        with self._connected() as database:
            done = database.execute(
                self._worded(f"SELECT * FROM {{{table}}}{where} ORDER BY {order}"), values
            )
            names = [column[0] for column in done.description or ()]
            return [dict(zip(names, row, strict=True)) for row in done.fetchall()]

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement; tables are `{flows}`, `{audit}` and `{meta}`, and values `?`.

        Raises:
            sqlite3.Error, psycopg.Error: The database refuses it.
        """
        with self._connected() as database:
            done = database.execute(*self._bound(statement, values))
            rows = done.fetchall() if done.description else []
            database.commit()
            return rows

    def _bound(self, statement: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        """Return a statement and its values, where texts may be none in UTF-8."""
        parts, bound = self._worded(statement).split("?" if self.kind == "sqlite" else "%s"), []
        out = parts[0]
        for part, value in zip(parts[1:], values, strict=True):
            if self.kind == "sqlite" and isinstance(value, str) and not is_proper(value):
                out += f"CAST(? AS TEXT){part}"
                bound.append(value.encode(errors="surrogateescape"))
            else:
                out += f"{'?' if self.kind == 'sqlite' else '%s'}{part}"
                bound.append(value)
        return out, bound

    def now(self) -> float:
        """Return what time it is."""
        return time.time()

    def _worded(self, statement: str) -> str:
        prefix = "" if self.kind == "sqlite" else "deviceflow."
        statement = statement.format(**{table: f"{prefix}{table}" for table in TABLES})
        return statement if self.kind == "sqlite" else statement.replace("?", "%s")

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        database: Any
        if self.kind == "sqlite":
            database = sqlite3.connect(self.path)
            database.text_factory = lambda text: text.decode(errors="surrogateescape")
            with closing(database):
                yield database
            return
        if self._database is None:
            self._database = psycopg.connect(self.url)
        try:
            yield self._database
        finally:
            self._database.rollback()

    def reset(self) -> None:
        """Put all of it back as it was."""
        self.servers.sent.clear()
        self.servers.granting.clear()
        for folder in self._kept:
            for file in folder.iterdir():
                file.unlink()
        # New files: somebody may have an old one open still.
        for file, content in self._files.items():
            file.touch(mode=0o600)
            file.write_bytes(content)
        if self.kind == "sqlite":
            return
        with self._connected() as database:
            if self.broken:
                database.execute("DROP SCHEMA deviceflow CASCADE")
                database.commit()
                with self.environment(), self.open():
                    self.broken = False
            for table in TABLES:
                database.execute(f"TRUNCATE deviceflow.{table}".encode())
                database.execute(
                    f"INSERT INTO deviceflow.{table} SELECT * FROM saved.{table}".encode()
                )
            database.commit()

    def close(self) -> None:
        """Close what is open."""
        if self._database is not None:
            self._database.close()

    def insert(self, table: str, *rows: Mapping[str, Any]) -> None:
        """Put rows into a table."""
        for row in rows:
            names = ", ".join(f'"{name}"' for name in row)
            marks = ", ".join("?" * len(row))
            self.ask(f"INSERT INTO {{{table}}} ({names}) VALUES ({marks})", *row.values())

    def put_back(self, table: str, key: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Set a row's columns, wherever it is."""
        names = ", ".join(f'"{name}" = ?' for name in row)
        same = "IS" if self.kind == "sqlite" else "IS NOT DISTINCT FROM"
        where = " AND ".join(f'"{name}" {same} ?' for name in key)
        self.ask(f"UPDATE {{{table}}} SET {names} WHERE {where}", *row.values(), *key.values())


def is_proper(text: str) -> bool:
    """Tell whether a text can be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def place(
    kind: Kind, secrecy: Secrecy, folder: Path, servers: Servers, postgres: PostgresServer | None
) -> Place:
    """Make a place of a kind."""
    (folder / "store").mkdir(parents=True)
    if kind == "sqlite":
        return Place(kind, secrecy, f"sqlite:///{folder / 'store/flows.db'}", servers, folder)
    assert postgres is not None
    return Place(kind, secrecy, postgres.database(), servers, folder)
