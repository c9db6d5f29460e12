"""A Python that has imported the command, and forks a process for each run of it.

To start a Python that imports the library costs ten times what a fork does. Such a run is a process
of its own like any other, with its own directory, environment, umask, output and exit code.
`test_command_fresh` runs each command in a Python that has imported nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE: Final = 60.0

_READ_ONCE: Final = ("LANG", "LC_", "LD_", "MALLOC_", "OPENSSL_", "PYTHON", "TZ")
"""How the variables begin that a Python reads when it starts, and not again."""

_ROOT: Final = Path(__file__).parents[2]


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(_READ_ONCE)}


class Warm:
    """Forks runs of the command.

    Args:
        environment: What that Python is started with.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._alone = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=_ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait(PATIENCE)

    def can_run(self, environment: Mapping[str, str]) -> bool:
        """Tell whether a run in that environment is as if a Python had been started in it."""
        return _read_once(environment) == _read_once(self._environment)

    def start(self, args: list[str], cwd: Path, environment: Mapping[str, str]) -> Run:
        """Run the command with these arguments, that directory and that environment."""
        umask = os.umask(0o077)
        os.umask(umask)
        pipes = [os.pipe() for _ in range(3)]
        said = json.dumps([args, str(cwd), dict(environment), umask]).encode()
        with self._alone:
            self._socket.settimeout(PATIENCE)
            header = len(said).to_bytes(8, "big")
            socket.send_fds(self._socket, [header], [write for _, write in pipes])
            self._socket.sendall(said)
        for _, write in pipes:
            os.close(write)
        return Run(*(read for read, _ in pipes))


class Run:
    """One run of the command, with the part of `subprocess.Popen` that its tests need.

    Attributes:
        pid: Its process id.
        stdout: What it prints.
        stderr: What it reports.
    """

    def __init__(self, stdout: int, stderr: int, status: int) -> None:
        self.stdout = os.fdopen(stdout, encoding="utf-8")
        self.stderr = os.fdopen(stderr, encoding="utf-8")
        self._status = os.fdopen(status, encoding="ascii")
        pid = self._status.readline()
        assert pid, "the process that forks has ended"
        self.pid = int(pid)
        self._code: int | None = None

    def wait(self, timeout: float) -> int:
        """Return its exit code, or the negative number of the signal that has ended it.

        It is killed in time by whoever started it, so this does not look at a clock.
        """
        if self._code is None:
            self._code = int(self._status.readline())
        return self._code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(PATIENCE)
        for file in (self.stdout, self.stderr, self._status):
            file.close()


# What that process does.

_NEEDED: Final = (
    "cryptography.fernet",
    "deviceflow.stores.sqlite",
    "deviceflow.trail.verify",
    "deviceflow.transports.requests",
)


def warm_up() -> None:
    """Import all that the command may need."""
    commands = importlib.import_module("deviceflow.cli.commands")
    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        importlib.import_module(module.name)
    for name in _NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def serve(connection: socket.socket) -> None:
    """Fork a process for each request, until the connection is closed.

    In a forked process this returns by the `SystemExit` of the command.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        header, files, _, _ = socket.recv_fds(connection, 8, 3)
        if not header:
            return
        request = connection.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
        if os.fork() == 0:
            connection.close()
            _keep(files, *json.loads(request))
        for file in files:
            os.close(file)


def _keep(files: list[int], *request: Any) -> None:
    """Fork the command, and say its process id and how it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, err, status = files
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _run(out, err, *request)
    os.close(out)
    os.close(err)
    os.write(status, f"{pid}\n".encode())
    _, ended = os.waitpid(pid, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    os._exit(0)


def _run(
    out: int, err: int, args: list[str], cwd: str, environment: dict[str, str], umask: int
) -> None:
    os.setpgid(0, 0)
    os.umask(umask)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.argv[1:] = args
    runpy.run_module("deviceflow", run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    warm_up()
    with socket.socket(fileno=int(sys.argv[1])) as own:
        serve(own)
