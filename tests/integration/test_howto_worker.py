"""The worker's unit and Deployment, run as the how-tos show them, and the worker's own page."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from deviceflow import Client, OAuth, State
from deviceflow.cli import main
from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.url import open_store
from deviceflow.worker._worker import SHUTDOWN_TIMEOUT
from tests.integration.test_howto_jobs import HOW_TO, Place, files, unit
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deviceflow.core.login import Login
    from deviceflow.core.ports import Store

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with LocalServer(Settings(control=True, interval=1)) as server:
        yield Place(tmp_path, server)


@contextmanager
def running(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def approved(place: Place, store: Store) -> Login:
    url = f"{place.server.url}/oauth"
    provider = OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{url}/device_authorization",
        token_endpoint=f"{url}/token",
    )
    with Client(store) as client:
        login = client.start(provider)
    place.decide("approve")
    return login


def wait_for_token(store: Store, login: Login) -> None:
    deadline = time.monotonic() + PATIENCE
    while get(store, login.id).state is not State.AUTHORIZED:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_systemd_runs_the_worker_as_a_service(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = unit(place.adapted(files("systemd.md")["deviceflow-worker.service"]))["Service"]
    state, credentials = tmp_path / "state", tmp_path / "credentials"
    for folder in (state / service["StateDirectory"][0], credentials):
        folder.mkdir(mode=0o700, parents=True)
    key = generate_key().reveal()
    (credentials / "keys").write_text(key)
    (credentials / "keys").chmod(0o400)
    given = dict(item.split("=", 1) for item in service["Environment"])
    environment = {
        name: value.replace("%S", str(state)).replace("%d", str(credentials))
        for name, value in given.items()
    }
    told = tmp_path / "notify"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(told))
        systemd.settimeout(PATIENCE)
        watchdog = float(service["WatchdogSec"][0].removesuffix("s"))
        environment |= {
            "NOTIFY_SOCKET": str(told),
            "WATCHDOG_USEC": str(int(watchdog * 1e6)),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        }
        [command] = service["ExecStart"]
        with running(shlex.split(command), environment) as process:
            assert systemd.recv(4096) == b"READY=1"
            monkeypatch.setenv("DEVICEFLOW_KEYS", key)
            with closing(open_store(environment["DEVICEFLOW_STORE"])) as store:
                wait_for_token(store, approved(place, store))
            assert systemd.recv(4096).startswith(b"WATCHDOG=1\nSTATUS=")
            reload = shlex.split(service["ExecReload"][0].replace("$MAINPID", str(process.pid)))
            subprocess.run(reload, check=True)
            assert systemd.recv(4096).startswith(b"RELOADING=1\n")
            assert systemd.recv(4096) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert systemd.recv(4096) == b"STOPPING=1"
            assert process.wait(PATIENCE) == 0
    assert float(service["TimeoutStopSec"][0].removesuffix("s")) > SHUTDOWN_TIMEOUT


def test_systemd_accepts_all_units(place: Place, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        missing = "No systemd to check the unit with: install the package systemd."
        pytest.skip(missing)
    shown = files("systemd.md")
    units = [name for name in shown if name.endswith((".service", ".timer"))]
    assert len(units) == 10
    for name in [*units, *(name for name in shown if name.endswith(".conf"))]:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(place.adapted(shown[name]).replace("/usr/local/bin", str(place.bin)))
    for name in ("nightly", "report-begin", "report-run"):
        place.program(place.bin / name, shown[name])

    done = subprocess.run(
        [analyze, "verify", *(str(tmp_path / name) for name in units)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert not [name for name in (*units, str(tmp_path)) if name in done.stderr], done.stderr
    assert done.returncode == 0, done.stderr


def test_kubernetes_runs_workers_and_probes_them(
    place: Place, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment: Any = yaml.safe_load(files("kubernetes.md")["worker.yaml"])
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > SHUTDOWN_TIMEOUT
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    key = generate_key().reveal()
    environment = {
        "DEVICEFLOW_STORE": postgres_url,
        "DEVICEFLOW_KEYS": key,
        "PATH": f"{place.bin}:/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    monkeypatch.setenv("DEVICEFLOW_KEYS", key)
    [mount] = container["volumeMounts"]

    def adapted(words: list[str]) -> list[str]:
        program = [str(place.bin / words[0]), *words[1:]]
        return [word.replace(mount["mountPath"], str(tmp_path)) for word in program]

    probes = [container[name]["exec"]["command"] for name in ("startupProbe", "livenessProbe")]
    assert place.run(adapted(probes[0]), tmp_path, environment).code != 0
    with running(adapted(container["command"]), environment) as process:
        with closing(open_store(postgres_url)) as store:
            wait_for_token(store, approved(place, store))
        for probe in probes:
            assert place.run(adapted(probe), tmp_path, environment).code == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert place.run(adapted(probes[1]), tmp_path, environment).code != 0


def test_the_page_has_each_option_and_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["worker", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    reference = (HOW_TO.parent / "reference/command.md").read_text()
    section = reference.split("## deviceflow worker", 1)[1].split("\n## ", 1)[0]
    assert options <= set(re.findall(r"--[a-z-]+", section))
    page = (HOW_TO / "worker.md").read_text()
    for event in ("started", "ended", "problem", "reloaded", "stopping", "stopped"):
        assert f"| `{event}`" in page
