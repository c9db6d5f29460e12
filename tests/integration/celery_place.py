"""Workers of Celery, a server behind a gate, and what is on record of it all."""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests
from celery import Celery

from deviceflow import Client, open_store
from deviceflow.credentials import configured, profiles
from deviceflow.trail.verify import Verification
from tests.integration.celery_brokers import PATIENCE, wait_until
from tests.integration.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.result import AsyncResult

    from deviceflow.core.login import Login
    from deviceflow.server import LocalServer

_ROOT: Final = Path(__file__).parents[2]
CELERY: Final = [sys.executable, "-m", "celery", "-A", "tests.integration.celery_app"]
_PROFILE: Final = """
[profiles.report]
device_authorization_endpoint = "{url}/oauth/device_authorization"
token_endpoint = "{url}/oauth/token"
client_id = "robot"
scopes = "read offline_access"
purpose = "the nightly report"
"""


class Worker:
    """One `celery worker`, with its children in a process group of its own."""

    def __init__(self, place: Place, name: str, *options: str) -> None:
        self.name = name
        self.options = options
        self.killed = False
        command = ["worker", "--loglevel", "DEBUG", "-n", f"{name}@here", "--without-gossip"]
        command += ["--without-mingle", "--without-heartbeat", *options]
        self.log = place.folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*CELERY, *command],
                cwd=place.folder,
                env=place.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        wait_until(
            lambda: b"ready." in self.log.read_bytes() or self.process.poll() is not None,
            f"the worker {self.name} starts",
        )
        assert self.process.poll() is None, self.log.read_text()[-3000:]

    def children(self) -> list[int]:
        """Return the processes of its pool."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def kill_children(self) -> None:
        """Kill the processes of its pool, as the kernel does where memory is short."""
        for pid in self.children():
            os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill it with all its children, as a power cut does."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


class Place:
    """A folder, a server where somebody decides, a store, and the workers.

    Attributes:
        client: A client of the same store, for a person or to look.
    """

    def __init__(
        self,
        folder: Path,
        server: LocalServer,
        settings: dict[str, Any],
        profile: str = _PROFILE,
    ) -> None:
        self.folder = folder
        self.server = server
        self.gate = Gate(server)
        self.workers: list[Worker] = []
        self._numbers = itertools.count()
        (folder / "config.toml").write_text(
            profile.format(url=self.gate.url, host=self.gate.url[7:])
        )
        self.config = folder / "config.toml"
        self.settings: dict[str, Any] = {
            "deviceflow_database_url": f"sqlite:///{folder}/grants.db",
            "deviceflow_config": str(self.config),
            "deviceflow_deadline": 1.0,
            "deviceflow_longest_wait": 1.0,
            "deviceflow_notify": "tests.integration.celery_app:write_mail",
            "broker_connection_retry_on_startup": True,
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
            "worker_send_task_events": True,
            "result_extended": True,
        } | settings
        given = self.settings | {
            "place": str(folder),
            "resource": f"{server.url}/oauth/resource",
        }
        self.environment = os.environ | {
            "CELERY_TEST_SETTINGS": json.dumps(given),
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        }
        self.client = Client(open_store(str(self.settings["deviceflow_database_url"])))
        with profiles.reading(self.config):
            self.provider, _ = configured.of_profile("report")

        self.app = Celery("sender", set_as_current=False)
        self.app.config_from_object(self.settings)

    def send(self, task_id: str, task: str = "report", **arguments: Any) -> AsyncResult[Any]:
        """Send a task of a given id."""
        name = f"tests.integration.celery_app.{task}"
        return self.app.send_task(name, task_id=task_id, kwargs=arguments)

    def start(self, *options: str, number: int = 2, ready: bool = True) -> list[Worker]:
        """Start workers with a pool of one process each, unless the options say otherwise.

        Args:
            options: The worker's options.
            number: How many.
            ready: Whether to wait until they take tasks.
        """
        started = [
            Worker(self, f"w{one}", *(options or ("-P", "prefork", "-c", "1")))
            for one in itertools.islice(self._numbers, number)
        ]
        self.workers += started
        for worker in started if ready else ():
            worker.wait_until_ready()
        return started

    def wait_until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait for something, and start workers again that have given up, as a supervisor does."""

        def looked() -> object:
            for n, worker in enumerate(self.workers):
                if not worker.killed and worker.process.poll() is not None:
                    self.workers[n] = Worker(self, worker.name, *worker.options)
            return is_so()

        wait_until(looked, what)

    def lines(self, file: str) -> list[list[str]]:
        """Return the lines that the workers have written to a file, as words."""
        path = self.folder / file
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def done(self) -> set[str]:
        """Return the ids of the tasks that were done."""
        return {words[0] for words in self.lines("done")}

    def log_in(self, name: str = "report") -> Login:
        """Ask for a code, as a person does who has been told of the need."""
        return self.client.start(self.provider, name=name)

    def approve(self, login: Login) -> None:
        """Approve a login at the server."""
        url = f"{self.server.url}/control/approve"
        requests.post(url, json={"user_code": login.user_code}, timeout=60).raise_for_status()

    def grants(self) -> list[dict[str, Any]]:
        """Return what the server has on record of its grants."""
        found = requests.get(f"{self.server.url}/control/grants", timeout=60).json()
        return list(found["grants"])

    def needs(self, name: str = "report") -> list[dict[str, Any]]:
        """Return the events on record that say that a person must log in."""
        return [event for event in self.events(name) if event["action"] == "need"]

    def events(self, name: str = "report") -> list[dict[str, Any]]:
        """Return the events of a grant."""
        store: Any = self.client._store
        return list(store.events(self.client.grant(name).id))

    def events_of(self, login: Login) -> list[dict[str, Any]]:
        """Return the events of a login."""
        store: Any = self.client._store
        return list(store.events(login.id))

    def findings(self) -> list[Any]:
        """Verify the trail, and return what is wrong with it."""
        store: Any = self.client._store
        with store.snapshot() as seen:
            return list(Verification(*seen).findings())

    def logs(self) -> bytes:
        """Return all that the workers have logged."""
        return b"\n".join(path.read_bytes() for path in self.folder.glob("w*.log"))

    def leaks(self, *places: bytes) -> list[str]:
        """Return the secrets that are in texts, or in what is in base64 there."""
        assert len(self.gate.secrets) >= 3
        words = set[bytes]()
        for text in map(_with_decoded, places):
            assert b"celery_app" in text
            words |= {*re.findall(rb"[A-Za-z0-9_-]{8,}", text)}
            words |= {*re.findall(rb"[A-Za-z0-9_-]{8,}", text.replace(b"%2D", b"-"))}
        spellings = {one: {one, one.replace("-", "")} for one in self.gate.secrets}
        return [one for one, said in spellings.items() if {*map(str.encode, said)} & words]

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.app.close()
        self.client.close()
        self.client._store.close()
        self.gate.close()


def _with_decoded(text: bytes) -> bytes:
    """Return a text, and behind it what is in base64 in it: Celery's bodies are."""
    decoded = [text]
    for found in re.findall(rb"[A-Za-z0-9+/]{24,}={0,2}", text):
        with contextlib.suppress(binascii.Error):
            decoded.append(base64.b64decode(found[: len(found) // 4 * 4]))
    return b"\n".join(decoded)
