"""The page on Celery, followed to the letter: its files, and its commands in their order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests
from celery import Celery

from deviceflow.server import LocalServer, Settings
from tests.integration.celery_brokers import Redis, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

HOW_TO: Final = Path(__file__).parents[2] / "docs/how-to"
LIVES: Final = int(os.environ.get("DEVICEFLOW_LIVES", "3"))
"""How many lives of a token the task is to go through."""

pytest_plugins = ["pytester"]


def commands() -> dict[str, str]:
    """Return the commands of the page, by their names."""
    shown = re.finditer(
        r"^<!-- command: (\w+) -->\n```sh\n(.*?)^```$",
        (HOW_TO / "celery.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return {block[1]: block[2].strip() for block in shown}


class Reader:
    """Somebody who does as the page says, in a directory with its files."""

    def __init__(self, folder: Path, server: LocalServer, redis: Redis) -> None:
        self.folder = folder
        self.log = folder / "log"
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name in ("celery", "deviceflow"):
            command = shlex.join([sys.executable, "-m", name])
            (bin_folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (bin_folder / name).chmod(0o755)
        for name in ("tasks.py", "celeryconfig.py", "profiles.toml"):
            shutil.copy(HOW_TO / "celery" / name, folder)
        profile = (folder / "profiles.toml").read_text()
        (folder / "profiles.toml").write_text(profile.replace("http://127.0.0.1:8628", server.url))
        with (folder / "celeryconfig.py").open("a") as config:
            config.write("deviceflow_longest_wait = 1\n")
        self._environment: Mapping[str, str] = {
            "PATH": f"{bin_folder}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(folder),
            "CELERY_BROKER_URL": redis.url,
            "REPORT_API": f"{server.url}/oauth/resource",
        }

    def script(self, command: str) -> list[str]:
        return ["sh", "-euc", f"{commands()['settings']}\n{command}"]

    def run(self, command: str) -> str:
        done = subprocess.run(
            self.script(command),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.script(f"exec {command}"),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def says(self, text: str) -> None:
        wait_until(lambda: text in self.log.read_text(), text)


def test_a_person_logs_in_once_and_the_task_goes_through_many_tokens(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"control": True, "interval": 1, "access_token_lifetime": 4}
    page = commands()
    with LocalServer(Settings(**asked)) as server, Redis() as redis:
        reader = Reader(tmp_path, server, redis)
        with reader.running(page["worker"]):
            reader.run(page["call"])
            reader.says("LoginPending(\"A person must log in before 'report' gives a token.\")")
            with reader.running(page["login"]) as login:
                wait_until(lambda: waiting(server), "a code is shown")
                [code] = waiting(server)
                url = f"{server.url}/control/approve"
                requests.post(url, json={"user_code": code}, timeout=60).raise_for_status()
                assert login.wait(60) == 0
            reader.says("'done with the token of generation ")

            app = Celery("reader", broker=redis.url, set_as_current=False)

            def refreshed() -> bool:
                app.send_task("tasks.report")
                return int(grant(server)["generation"]) > LIVES

            wait_until(refreshed, "many tokens", 60 + 5 * LIVES)
            app.close()
            shown = reader.run("deviceflow status report; deviceflow audit show report")
            assert "refresh" in shown


def waiting(server: LocalServer) -> list[str]:
    log = requests.get(f"{server.url}/control/log", timeout=60).json()
    return [login["user_code"] for login in log["logins"] if login["state"] == "waiting"]


def grant(server: LocalServer) -> dict[str, Any]:
    [found] = requests.get(f"{server.url}/control/grants", timeout=60).json()["grants"]
    assert found["state"] == "active"
    return dict(found)


def test_the_test_of_the_page_passes(pytester: pytest.Pytester) -> None:
    for name in ("tasks.py", "celeryconfig.py", "test_tasks.py"):
        shutil.copy(HOW_TO / "celery" / name, pytester.path)

    plugin = ("-p", "no:deviceflow", "-p", "deviceflow.testing.plugin", "-p", "no:randomly")
    result = pytester.runpytest_subprocess(*plugin)

    result.assert_outcomes(passed=1)


def test_the_page_has_each_setting() -> None:
    page = (HOW_TO / "celery.md").read_text()
    code = (HOW_TO.parents[1] / "src/deviceflow/integrations/celery.py").read_text()
    for name in re.findall(r"_setting\(\w+(?:\.\w+)?, \"(\w+)\"\)", code):
        assert f"`deviceflow_{name}`" in page
