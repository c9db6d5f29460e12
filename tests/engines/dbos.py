"""DBOS: a process with its workflows, on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import sql

from tests.engines.trial import Engine
from tests.integration.celery_brokers import wait_until
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from tests.engines.trial import Trial

_TRIGGER: Final = """
import os
from dbos import DBOSClient
DBOSClient(system_database_url=os.environ["DEVICEFLOW_STORE"]).trigger_schedule("nightly")
"""


class Dbos(Engine):
    """The workflow sleeps durably. DBOS and deviceflow share a database."""

    name = "dbos"
    package = "dbos"
    requirements = ("dbos>=3.4,<4",)

    def __init__(self) -> None:
        self._server = PostgresServer()

    def settings(self, trial: Trial) -> dict[str, str]:
        # The server asks for no password. This one must not be logged.
        return {"DEVICEFLOW_STORE": self._server.url.replace("postgres@", "postgres:hush-hush@")}

    def start(self, trial: Trial) -> None:
        started = trial.log().count("DBOS launched!")
        trial.launch("worker", "python", "worker.py")
        wait_until(lambda: trial.log().count("DBOS launched!") > started, "the worker starts")

    def submit(self, trial: Trial, number: int) -> None:
        trial.do("python", "-c", _TRIGGER)

    def raise_it(self, trial: Trial) -> None:
        trial.do("python", "raising.py", fails=True)

    def shown(self, trial: Trial) -> bytes:
        named = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'dbos'"
        rows = []
        with psycopg.connect(self._server.url) as connection:
            for (table,) in connection.execute(named).fetchall():
                query = sql.SQL("SELECT kept::text FROM dbos.{} AS kept")
                kept = connection.execute(query.format(sql.Identifier(table)))
                rows += [row.encode() for (row,) in kept]
        return b"\n".join(rows)

    def close(self) -> None:
        self._server.close()
