"""A store of each kind, in a place of its own, and a clock that obeys: the database's as well."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import Client, OAuth, Secret, export
from deviceflow.audit.events import render
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Moment, Origin
from deviceflow.core.wire import Failure
from deviceflow.stores.async_memory import AsyncMemoryStore
from deviceflow.stores.async_postgres import AsyncPostgresStore
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.crash.clock import SharedClock, set_database_clock
from tests.integration.blocking import BlockingStore
from tests.moments import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from deviceflow.core.flow import Transition
    from deviceflow.core.ports import Store
    from deviceflow.stores.sql import SQLStore

    Stage = Callable[[Flow, float], Iterator[Transition]]
    from tests.postgres import PostgresServer

_numbers: Final = itertools.count(1)

# A server, by its answers.

OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device_authorization",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
    pkce="on",
    scopes="read write",
)
CODE: Final = answer(
    200,
    {
        "device_code": "DEVICE-CANARY",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://as.example.com/device",
        "interval": 7,
        "expires_in": 900,
    },
)
_CLAIMS: Final = b'{"iss": "https://as.example.com", "aud": "robot", "sub": "a", "exp": 4e9}'
TOKEN: Final = {
    "access_token": "TOKEN-CANARY",
    "refresh_token": "REFRESH-CANARY",
    "id_token": f"e30.{base64.urlsafe_b64encode(_CLAIMS).decode().rstrip('=')}.ID-CANARY",
    "expires_in": 3600,
    "scope": "read",
    "account": {"name": "müller", "secret": "EXTRA-CANARY"},
}
PENDING: Final = answer(400, {"error": "authorization_pending"})
SLOW_DOWN: Final = answer(400, {"error": "slow_down"})
DENIED: Final = answer(400, {"error": "access_denied"})
EXPIRED: Final = answer(400, {"error": "expired_token"})
UNKNOWN_CODE: Final = answer(400, {"error": "invalid_grant"})
GRANTED: Final = answer(200, TOKEN)
REVOKED: Final = answer(200, "")
LOST: Final = Failure("timeout", sent=True)
SECRETS: Final = (
    "DEVICE-CANARY",
    "VERIFIER-CANARY",
    "TOKEN-CANARY",
    "REFRESH-CANARY",
    "ID-CANARY",
    "EXTRA-CANARY",
)


_KINDS: Final[dict[str, tuple[Any, Any]]] = {
    "memory": (MemoryStore, AsyncMemoryStore),
    "sqlite": (SQLiteStore, AsyncSQLiteStore),
    "postgres": (PostgresStore, AsyncPostgresStore),
}


class Place:
    """Where flows are kept, to be opened as often as one likes.

    Attributes:
        kind: `memory`, `sqlite` or `postgres`.
        url: The store's URL.
        keys: What seals its secrets.
        clock: What its clients go by, and itself as well.
        store: The store, opened once; an async one behind a sync face.
    """

    def __init__(
        self, kind: str, url: str, clock: VirtualClock | SharedClock, *, is_async: bool = False
    ) -> None:
        self.kind = kind
        self._is_async = is_async
        self.url = url
        self.clock = clock
        self.keys: list[Secret] = [generate_key()]
        self.plaintext = False
        self._opened: list[Store] = []
        self.store: Store = self.open()

    @property
    def now(self) -> float:
        return self.clock.time()

    @property
    def moment(self) -> Moment:
        """The same, as a client tells a store."""
        return moment(self.clock)

    @property
    def sql(self) -> SQLStore:
        """The store, where it is one in a database."""
        assert self.kind != "memory"
        store: Any = self.store
        assert isinstance(store, SQLiteStore | PostgresStore | BlockingStore)
        return store  # type: ignore[return-value]  # or what has its methods

    def open(self, **options: Any) -> Any:
        """Open the same place again, as another process would. The trail stores each event."""
        how = {"keys": None, "plaintext": True} if self.plaintext else {"keys": self.keys}
        options = {"trail": "each"} | how | options
        if self.kind == "memory" and self._opened:
            self._opened.append(self._opened[0])
        else:
            where = {"memory": (), "sqlite": (self.url.removeprefix("sqlite:///"),)}
            options = options if self.kind != "memory" else {}
            opened: Any = _KINDS[self.kind][self._is_async](
                *where.get(self.kind, (self.url,)), **options
            )
            self._opened.append(BlockingStore(opened) if self._is_async else opened)
        return self._opened[-1]

    def client(self, *script: Any, store: Store | None = None, **parts: Any) -> Client:
        """Make a client that is given these answers, one for each request."""
        transport = ScriptedTransport(script)
        return Client(store or self.store, clock=self.clock, transport=transport, **parts)

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement behind the store's back; tables are in braces: `{grants}`."""
        names = ("flows", "grants", "audit", "meta", "drivers", "taken")
        if self.kind == "sqlite":
            statement = statement.format(**{name: name for name in names})
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection:
                rows = connection.execute(statement, values).fetchall()
                connection.commit()
            return rows
        statement = statement.format(**{name: f"deviceflow.{name}" for name in names})
        with psycopg.connect(self.url) as database:
            done = database.execute(statement.replace("?", "%s").encode(), values)
            return done.fetchall() if done.description else []

    def close(self) -> None:
        for store in self._opened:
            store.close()
        if isinstance(self.clock, SharedClock):
            self.clock.close()
            self.clock.path.unlink()


def memory(*, is_async: bool = False) -> Place:
    return Place("memory", "memory:", VirtualClock(), is_async=is_async)


def sqlite(folder: Any, *, is_async: bool = False) -> Place:
    url = f"sqlite:///{folder / 'flows.db'}"
    return Place("sqlite", url, VirtualClock(), is_async=is_async)


def postgres(server: PostgresServer, url: str, *, is_async: bool = False) -> Place:
    # Where the server may read it, which runs as somebody else.
    clock = SharedClock.make(server.folder / f"clock-{next(_numbers)}", pace=0)
    return Place("postgres", set_database_clock(url, clock), clock, is_async=is_async)


def placed(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Make the place of which the parameter says the kind, and whether its store is async."""
    kind = request.param.removeprefix("async ")
    is_async = kind != request.param
    if kind == "memory":
        place = memory(is_async=is_async)
    elif kind == "sqlite":
        place = sqlite(request.getfixturevalue("tmp_path"), is_async=is_async)
    else:
        url = request.getfixturevalue("postgres_url")
        server = request.getfixturevalue("postgres_server")
        place = postgres(server, url, is_async=is_async)
    yield place
    place.close()


KINDS: Final = ("memory", "sqlite", "postgres")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Give a place of each kind."""
    yield from placed(request)


@pytest.fixture(params=KINDS[1:])
def database(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Give a place of each kind that outlives a process."""
    yield from placed(request)


def in_clear(place: Place) -> None:
    """Put a store in the place of the one there that keeps its secrets in clear."""
    place.plaintext = True
    place.store.close()
    if place.kind == "sqlite":
        place.url = place.url.replace("flows.db", "plain.db")
    else:
        place.ask("DROP SCHEMA deviceflow CASCADE")
    place.store = place.open()


# Flows, and what happens to them.


def new(flow_id: str = "f1", name: str | None = None, *, at: float = 1_800_000_000.0) -> Flow:
    return Flow(flow_id, OAUTH, at, name=name, verifier=Secret("VERIFIER-CANARY"))


def coded(flow: Flow, now: float) -> Iterator[Transition]:
    yield flow.receive(CODE, now, duration=0.25)


def polled(flow: Flow, now: float, *said: Any) -> Iterator[Transition]:
    yield from coded(flow, now)
    for result in said:
        yield flow.poll(now, 10.0)
        if result is not None:
            yield flow.receive(result, now, duration=0.5)


def stage(*said: Any, then: Iterable[Callable[[Flow, float], Transition]] = ()) -> Stage:
    def play(flow: Flow, now: float) -> Iterator[Transition]:
        yield from polled(flow, now, *said)
        for happen in then:
            yield happen(flow, now)

    return play


def second_token(flow: Flow, now: float) -> Transition:
    token = OAUTH.read_token(answer(200, TOKEN | {"access_token": "SECOND-CANARY"}), now).token
    assert token is not None
    return flow.late_token(token, 1, now)


def recovered(flow: Flow, now: float) -> Transition:
    return flow.recover(now, "the dead")


STAGES: Final[dict[str, Stage]] = {
    "created": lambda flow, now: iter(()),
    "waiting": coded,
    "polling": stage(None),
    "pending": stage(PENDING),
    "slowed down": stage(SLOW_DOWN, SLOW_DOWN),
    "in doubt": stage(LOST),
    "recovered": stage(None, then=[recovered]),
    "authorized": stage(GRANTED),
    "collected": stage(GRANTED, then=[Flow.collect]),
    "acknowledged": stage(GRANTED, then=[Flow.collect, Flow.acknowledge]),
    "purged": stage(GRANTED, then=[Flow.purge]),
    "denied": stage(DENIED),
    "expired": stage(EXPIRED),
    "unknown": stage(LOST, UNKNOWN_CODE),
    "cancelled": stage(then=[Flow.cancel]),
    "with a second token": stage(GRANTED, then=[second_token]),
    "with a token too many": stage(then=[Flow.cancel, second_token]),
}


def commit(
    store: Store, flow: Flow, moved: Transition, worker: str = "w1", release: str | None = None
) -> bool:
    return store.commit(flow, render(flow, moved, Origin(worker)), release=release)


def kept(place: Place, stage: str, flow_id: str = "f1", name: str | None = None) -> Flow:
    """Bring a flow to a stage, one commit after another, and return it as it is in the store."""
    flow = new(flow_id, name, at=place.now)
    assert place.store.add(flow) is flow
    for moved in STAGES[stage](flow, place.now):
        assert commit(place.store, flow, moved)
    return flow


def hidden(flow: Flow) -> bool:
    """Tell whether the flow comes without any of its secrets."""
    return not any((flow.device_code, flow.verifier, flow.token, flow.to_revoke))


def everything(flow: Flow) -> str:
    """Return all of it, as a text that can be compared."""
    return json.dumps(export.to_dict(flow, secrets=True), sort_keys=True)


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Give the events of flows that were logged so far."""
    caplog.set_level(logging.INFO, logger="deviceflow")

    def logged() -> list[dict[str, Any]]:
        found = [vars(record).get("deviceflow", {}) for record in caplog.records]
        return [event for event in found if "action" in event]

    return logged
