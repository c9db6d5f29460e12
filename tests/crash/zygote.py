"""A process that has imported everything, has one thread, and forks on demand.

To start a Python that imports the library costs a hundred times what a fork does. The tests' own
process cannot fork: it has threads.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from deviceflow.audit.mode import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.audit.mode import TrailMode
    from tests.crash.worker import Job

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one

_ROOT: Final = Path(__file__).parents[2]
_LEFT_OUT: Final = ("COV", "DEVICEFLOW")


class Child:
    """A process that the zygote forked.

    Attributes:
        pid: Its id, until it has ended.
        status: How it ended: its exit code, or a signal's number, negative.
        stopped: Whether it is stopped just now.
    """

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self.status: int | None = None
        self.stopped = False

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        self._zygote.tell(signal=[self.pid, int(number)])

    def has_ended(self, within: float = 0.0) -> bool:
        """Tell whether it has ended, or does so within some seconds."""
        self._zygote.listen(lambda: self.status is not None, within)
        return self.status is not None

    def wait(self) -> int:
        """Wait until it has ended, and return how."""
        self._zygote.listen(lambda: self.status is not None, PATIENCE)
        assert self.status is not None, "a child does not end"
        return self.status

    def wait_until_stopped(self) -> None:
        """Wait until it is stopped."""
        self._zygote.listen(lambda: self.stopped or self.status is not None, PATIENCE)
        assert self.stopped, f"the child is not stopped; its status is {self.status}"


class Zygote:
    """Starts children by way of that process. Only one thread may use it.

    Args:
        trail: What the children's stores keep of a trail.
    """

    def __init__(self, trail: TrailMode = "each") -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # What measures coverage would slow each child down, and is not saved by who is killed.
            env = {k: v for k, v in os.environ.items() if not k.startswith(_LEFT_OUT)}
            env[VARIABLE] = trail
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=_ROOT,
                env=env,
            )
        self._socket = ours
        self._unread = b""
        self._children: dict[int, Child] = {}
        self._forked: Child | None = None

    def fork(self, job: Job) -> Child:
        """Start a child on a job."""
        from tests.crash.worker import to_json  # noqa: PLC0415  # the zygote itself is `__main__`

        self._forked = None
        self.tell(fork=to_json(job))
        self.listen(lambda: self._forked is not None, PATIENCE)
        child = self._forked
        assert child is not None, "the zygote does not fork"
        return child

    def tell(self, **what: object) -> None:
        """Send it a message."""
        self._socket.settimeout(PATIENCE)
        self._socket.sendall(json.dumps(what).encode() + b"\n")

    def listen(self, until: Callable[[], bool], seconds: float) -> None:
        """Take in what it says until that is so, or the time is up."""
        end = time.monotonic() + seconds
        while not until():
            self._socket.settimeout(max(end - time.monotonic(), 0.0))
            try:
                read = self._socket.recv(65536)
            except (TimeoutError, BlockingIOError):
                return
            assert read, "the zygote has ended"
            *lines, self._unread = (self._unread + read).split(b"\n")
            for line in lines:
                self._apply_response(**json.loads(line))

    def _apply_response(self, pid: int, what: str, status: int = 0) -> None:
        if what == "forked":
            self._forked = self._children[pid] = Child(self, pid)
        elif what == "ended":
            self._children.pop(pid).status = status
        else:
            self._children[pid].stopped = what == "stopped"

    def close(self) -> None:
        """End it, and whoever of its children is left."""
        self._socket.close()
        self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Nursery:
    """What that process does: it forks, passes signals on, and says what becomes of children."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._children: set[int] = set()
        self._unread = b""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wakes, self._wake = socket.socketpair()
        self._wakes.setblocking(False)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())

    def serve(self) -> None:
        """Do that until the connection is closed."""
        selector = selectors.DefaultSelector()
        selector.register(self._connection, selectors.EVENT_READ)
        selector.register(self._wakes, selectors.EVENT_READ)
        try:
            self._serve(selector)
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)

    def _serve(self, selector: selectors.BaseSelector) -> None:
        read = b"-"
        while read:
            ready = {key.fileobj for key, _ in selector.select()}
            if self._wakes in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wakes.recv(4096)
                self._reap()
            if self._connection in ready:
                with contextlib.suppress(ConnectionResetError):
                    read = b""
                    read = self._connection.recv(65536)
                *lines, self._unread = (self._unread + read).split(b"\n")
                for line in lines:
                    self._obey(**json.loads(line))

    def _obey(self, fork: str | None = None, signal: tuple[int, int] = (0, 0)) -> None:
        if fork is not None:
            pid = os.fork()
            if pid == 0:
                self._live(fork)
            self._children.add(pid)
            self._say(pid, "forked")
            return
        self._reap()
        if signal[0] in self._children:  # else the id may be somebody else's by now
            os.kill(*signal)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._say(pid, "stopped")
            elif os.WIFCONTINUED(status):
                self._say(pid, "continued")
            else:
                self._children.discard(pid)
                self._say(pid, "ended", os.waitstatus_to_exitcode(status))

    def _say(self, pid: int, what: str, status: int = 0) -> None:
        message = {"pid": pid, "what": what, "status": status}
        with contextlib.suppress(BrokenPipeError):  # it was closed, as will be read next
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _live(self, job: str) -> NoReturn:
        from tests.crash.worker import run  # noqa: PLC0415  # loaded before

        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for inherited in (self._connection, self._wakes, self._wake):
            inherited.close()
        try:
            run(job)
        except BaseException:  # noqa: BLE001  # it is in the job's report
            os._exit(1)
        os._exit(0)


def warm_up() -> None:
    """Import all that a child needs, and use it once where it has more to load then."""
    for name in _NEEDED:
        importlib.import_module(name)
    from deviceflow.core.encryption import Sealer, generate_key  # noqa: PLC0415  # loaded just now

    Sealer([generate_key()]).seal("warm")
    gc.collect()
    gc.freeze()


_NEEDED: Final = (
    "deviceflow.stores.async_postgres",
    "deviceflow.stores.async_sqlite",
    "deviceflow.stores.postgres",
    "deviceflow.stores.sqlite",
    "tests.crash.worker",
)


if __name__ == "__main__":
    warm_up()
    with socket.socket(fileno=int(sys.argv[1])) as own:
        _Nursery(own).serve()
