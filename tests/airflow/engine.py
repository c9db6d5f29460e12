"""Airflow in a folder: each of its parts is a process of its own, so that each can be killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.airflow.api import Api
from tests.airflow.environment import variables
from tests.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

PARTS: Final = ("api-server", "scheduler", "dag-processor", "triggerer")

_PATIENCE: Final = 180.0
"""Seconds within which Airflow starts; it takes 15 on an idle machine."""


class Part:
    """One process of Airflow, with the processes that it starts."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self._left: list[int] = []
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=log.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self, *, children: bool = True) -> None:
        """Kill it, by default with all of its children at once, as systemd and containers do.

        A killed scheduler's children would keep its database connection open, and so the lock on
        the run that it was looking at: no other scheduler would ever look at that run.
        """
        if not self.runs:
            return  # another process may have its number
        family = descendants(self.pid)
        self._process.kill()
        if children:
            _signal(signal.SIGKILL, *family)
        else:
            self._left += _held(family)
        self._process.wait(60)

    def freeze(self) -> None:
        """Suspend it with all of its children, as a machine that sleeps does."""
        _signal(signal.SIGSTOP, self.pid, *descendants(self.pid))

    def thaw(self) -> None:
        """Have what was suspended go on."""
        _signal(signal.SIGCONT, self.pid, *descendants(self.pid))

    def close(self) -> None:
        """Kill it, and all of its children."""
        self.kill()
        for held in self._left:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, signal.SIGKILL)
            os.close(held)


class Airflow:
    """Airflow with a LocalExecutor and a database in PostgreSQL.

    Attributes:
        api: What its REST API can do.
        folder: Its files: a log of each part, and in `logs` those of tasks and triggers.
    """

    def __init__(
        self,
        programs: Path,
        folder: Path,
        database: str,
        dags: Path,
        environment: Mapping[str, str],
        settings: Mapping[str, str],
    ) -> None:
        """Make its database.

        Args:
            programs: The folder of the command `airflow`.
            folder: Where its files will be.
            database: The URL of an empty database.
            dags: The folder of the DAGs.
            environment: Variables for all processes.
            settings: More settings of Airflow: `section.name` to value.
        """
        self.folder = folder
        self._program = programs / "airflow"
        self._parts: list[Part] = []
        port = free_port()
        self.api = Api(f"http://127.0.0.1:{port}")
        told = _settings(folder, database, dags, port) | dict(settings)
        self._environment = (
            variables(programs)
            | dict(environment)
            | {"AIRFLOW_HOME": str(folder)}
            | {_variable(name): value for name, value in told.items()}
        )
        subprocess.run(
            [self._program, "db", "migrate"],
            env=self._environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            check=True,
            capture_output=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            part.close()

    def start(self, name: str) -> Part:
        """Start a part, also when another of the same name runs."""
        ports = {
            _variable(f"logging.{server}_log_server_port"): str(free_port())
            for server in ("trigger", "worker")
        }
        number = sum(part.name == name for part in self._parts) + 1
        command = [str(self._program), name]
        part = Part(name, command, self._environment | ports, self.folder / f"{name}-{number}.log")
        self._parts.append(part)
        return part

    def wait_until_healthy(self) -> None:
        """Wait until each part says by its heartbeat that it works."""
        deadline = time.monotonic() + _PATIENCE
        while not self.api.is_healthy():
            for part in self._parts:
                assert part.runs, f"{part.name} ended; see its log in {self.folder}"
            assert time.monotonic() < deadline, f"Airflow did not start: see {self.folder}"
            time.sleep(0.2)

    def command_lines(self) -> bytes:
        """Return the arguments and the environment of each of its processes that runs."""
        found = b""
        for part in self._parts:
            if part.runs:
                for pid in (part.pid, *descendants(part.pid)):
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        found += Path(f"/proc/{pid}/cmdline").read_bytes() + b"\n"
                        found += Path(f"/proc/{pid}/environ").read_bytes() + b"\n"
        return found


def _signal(number: signal.Signals, *processes: int) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _held(processes: list[int]) -> list[int]:
    """Return descriptors of processes, which name no other process once these have ended."""
    found = list[int]()
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    children = dict[int, list[int]]()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The program's name is in brackets, and may hold anything; the parent is behind.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _settings(folder: Path, database: str, dags: Path, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return {
        "api.base_url": url,
        "api.host": "127.0.0.1",
        "api.port": str(port),
        "api.secret_key": secrets.token_hex(16),
        "api.workers": "1",
        "api_auth.jwt_secret": secrets.token_hex(32),
        "core.dags_are_paused_at_creation": "False",
        "core.dags_folder": str(dags),
        "core.execution_api_server_url": f"{url}/execution/",
        "core.executor": "LocalExecutor",
        "core.fernet_key": "",  # so that nothing in the database is hidden from a search
        "core.load_examples": "False",
        "core.parallelism": "4",  # processes, which LocalExecutor starts at once
        "core.simple_auth_manager_all_admins": "True",
        "dag_processor.parsing_processes": "1",
        "database.load_default_connections": "False",
        "database.sql_alchemy_conn": database.replace("postgresql:", "postgresql+psycopg2:"),
        "logging.base_log_folder": str(folder / "logs"),
        "logging.logging_level": "DEBUG",
        "usage_data_collection.enabled": "False",
    }


def _variable(setting: str) -> str:
    return "AIRFLOW__" + setting.upper().replace(".", "__")
