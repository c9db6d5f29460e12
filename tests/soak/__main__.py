"""Celery tasks on grants for minutes, while workers are killed and Redis restarts.

python -m tests.soak
python -m tests.soak --seconds 60

The server grants a lost refresh once more within a window, and the profile says so: otherwise each
kill between a refresh and its answer costs a login.
"""

# ruff: noqa: T201  # printing is its work

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

from deviceflow import Login, State
from deviceflow.server import LocalServer, Settings
from tests.integration.celery_brokers import Redis
from tests.integration.celery_place import Place

WINDOW: Final = 60
VISIBILITY: Final = 20.0
PAUSE: Final = 10.0
PATIENCE: Final = 180.0
"""Seconds within which each task has to be done, after the time is over."""

_LOST: Final = (State.EXPIRED, State.FAILED)
_PROFILE: Final = """
[profiles.report]
provider = "soak"
set = {{ host = "{host}" }}
client_id = "robot"
scopes = "read offline_access"
purpose = "the soak"
"""
_PROVIDER: Final = f"""
[soak]
title = "The server of the soak"
device_authorization_endpoint = "http://{{host}}/oauth/device_authorization"
token_endpoint = "http://{{host}}/oauth/token"
parameters = {{ host = "" }}
replay_window = {WINDOW // 2}
"""


def main() -> int:
    """Do as the command line says; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--grants", type=int, default=50)
    parser.add_argument("--lifetime", type=int, default=10, help="of an access token, in seconds")
    parser.add_argument("--kill-every", type=float, default=10.0, help="in seconds")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--keep", metavar="FOLDER", help="copy all files there at the end")
    asked = parser.parse_args()
    settings = Settings(
        control=True,
        interval=1,
        access_token_lifetime=asked.lifetime,
        reuse_grace=WINDOW,
        open_logins=asked.grants + 10,
    )
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        LocalServer(settings) as server,
        Redis() as redis,
    ):
        soak = Soak(Path(folder), server, redis, asked)
        try:
            soak.run()
            wrong = soak.wrong()
        finally:
            soak.place.close()
            if asked.keep:
                shutil.copytree(folder, asked.keep)
    for problem in wrong:
        print(problem, file=sys.stderr)
    return int(bool(wrong))


class Soak:
    """One run.

    Attributes:
        place: Its workers, its store and its server.
    """

    def __init__(
        self, folder: Path, server: LocalServer, redis: Redis, asked: argparse.Namespace
    ) -> None:
        self._redis, self._asked, self._random = redis, asked, Random(asked.seed)
        self._names = [f"grant-{n}" for n in range(asked.grants)]
        self._restarts = self._kills = 0
        self._relogins, self._lost = 0, set[str]()
        self._logins, self._served = dict[str, Login](), set[str]()
        (folder / "providers.toml").write_text(_PROVIDER)
        os.environ["DEVICEFLOW_PROVIDERS"] = str(folder / "providers.toml")
        transport = {
            "visibility_timeout": VISIBILITY,
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
        }
        celery: dict[str, Any] = {
            "broker_url": redis.url,
            "result_backend": redis.url,
            "broker_transport_options": transport,
            "deviceflow_deadline": 3.0,
            "deviceflow_longest_wait": 5.0,
        }
        self.place = Place(folder, server, celery, _PROFILE)

    def run(self) -> None:
        """Keep the tasks at work until the time is over, and then until each is done."""
        place, asked = self.place, self._asked
        place.start("-P", "prefork", "-c", "2")
        until = time.time() + asked.seconds
        for n in range(asked.tasks):
            self._send(n, until)
        kill_at, restart_at = time.time() + asked.kill_every, time.time() + asked.seconds / 2
        while time.time() < until:
            place.wait_until(self._look, "people look at what they are told")
            if time.time() >= kill_at:
                self._kill_one()
                kill_at += asked.kill_every
            if self._restarts == 0 and time.time() >= restart_at:
                self._redis.kill()
                self._redis.start()
                self._restarts += 1
            time.sleep(0.2)
        print(f"{len(place.done())} of {asked.tasks} tasks are done at the end of the time")
        # Redis hands a message out before the worker has noted that: a kill at that moment loses
        # the message. The next night sends the task again, and so is done here.
        again, last = until + 2 * VISIBILITY + PAUSE, until + PATIENCE
        while len(place.done()) < asked.tasks and time.time() < last:
            place.wait_until(self._look, "people look at what they are told")
            if time.time() >= again and not self._lost:
                self._lost = {f"task-{n}" for n in range(asked.tasks)} - place.done()
                for task in self._lost:
                    self._send(int(task.removeprefix("task-")), until)
            time.sleep(0.2)

    def _look(self) -> bool:
        """Do as people do: whoever is told of a need logs in some time later.

        A worker that is killed with a login's answer in its hands costs that login: its person sees
        that, and logs in once more.
        """
        place = self.place
        told = {words[2] for words in place.lines("mails") if words[1] == "needed"}
        for name in sorted(told):
            login = self._logins.get(name)
            if login is None:
                again = self._random.random() < 0.05
            else:
                again = name not in self._served and place.client.get(login.id).state in _LOST
            if again:
                self._relogins += login is not None
                self._logins[name] = place.log_in(name)
                place.approve(self._logins[name])
        self._served |= {words[1] for words in place.lines("uses")}
        return True

    def _send(self, number: int, until: float) -> None:
        name = self._names[number % len(self._names)]
        self.place.send(f"task-{number}", "keep_on", grant=name, until=until, pause=PAUSE)

    def _kill_one(self) -> None:
        worker = self._random.choice([one for one in self.place.workers if not one.killed])
        worker.kill()
        self.place.workers.remove(worker)
        self.place.start("-P", "prefork", "-c", "2", number=1, ready=False)
        self._kills += 1

    def wrong(self) -> list[str]:
        """Print what happened, and return what is wrong with it."""
        place, asked = self.place, self._asked
        uses = Counter(words[2] for words in place.lines("uses"))
        grants = place.grants()
        needs = {name: len(place.needs(name)) for name in self._names}
        states = Counter(grant["state"] for grant in grants)
        refreshes = sum(grant["refreshes"] for grant in grants)
        replays = sum(grant["replays"] for grant in grants)
        findings = place.findings()
        leaks = place.leaks(self._redis.keys(), self._redis.files(), place.logs())
        print(f"{len(place.done())} of {asked.tasks} tasks are done")
        missing = sorted({f"task-{n}" for n in range(asked.tasks)} - place.done())
        for line in re.findall(r".* raised unexpected: .*", place.logs().decode()):
            print(line[:300])
        print(f"not done: {missing}" if missing else "none is missing")
        print(f"{len(self._lost)} messages were lost by the broker and sent again")
        print(f"{self._relogins} logins were lost with their answer, and made again")
        print(f"{self._kills} workers killed, Redis restarted {self._restarts} times")
        print(f"{sum(uses.values())} uses of tokens: {dict(uses)}")
        print(f"{len(grants)} grants at the server: {dict(states)}")
        print(f"{refreshes} refreshes, {replays} of them answered twice")
        print(f"{len(place.gate.secrets)} secrets searched for, {len(leaks)} found")
        print(f"{sum(len(place.events(name)) for name in self._names)} events of grants")
        checks = {
            "a task is not done": len(place.done()) != asked.tasks,
            "a grant was needed more or less than once": {*needs.values()} != {1},
            "somebody logged in without need": len(grants) != asked.grants + self._relogins,
            "a family was revoked": {*states} != {"active"},
            "two requests with one code or token overlapped": place.gate.overlaps > 0,
            "the trail does not verify": findings,
            "a secret is in the broker, the results or the logs": leaks,
        }
        return [problem for problem, is_so in checks.items() if is_so]


if __name__ == "__main__":
    sys.exit(main())
