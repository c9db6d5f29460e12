"""Real brokers, started in temporary folders on free ports: Redis and RabbitMQ."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
import redis

from tests.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE: Final = 60.0  # seconds, for what takes a few
_RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def wait_until(is_so: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for something that happens elsewhere."""
    deadline = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < deadline, f"This did not happen: {what}"
        time.sleep(0.05)


def missing(program: str, package: str) -> None:
    """Skip the test, and say what to install."""
    pytest.skip(f"No {program} to test Celery with: install the package {package}.")


class _Broker:
    """A server of its own, with its files in a folder that is gone once it is closed."""

    program: str
    package: str

    def __init__(self) -> None:
        self.port: Final = free_port()
        self.folder: Final = Path(tempfile.mkdtemp(prefix="broker-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server, also once more after it was killed: the same files and port."""
        command, environment = self._command()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self._process
        # RabbitMQ starts hundreds of modules: where much else goes on, that takes a minute.
        started = lambda: self._is_ready() or process.poll() is not None  # noqa: E731
        wait_until(started, "the broker starts", 4 * PATIENCE)
        assert process.poll() is None, (self.folder / "log").read_text()[-2000:]

    def kill(self) -> None:
        """Kill the server and all of its processes, as a power cut does."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)

    def close(self) -> None:
        """Kill the server, and delete its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def files(self) -> bytes:
        """Return everything in the server's files."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return b"\n".join(path.read_bytes() for path in found)

    def _command(self) -> tuple[list[str], Mapping[str, str]]:
        raise NotImplementedError

    def _is_ready(self) -> bool:
        raise NotImplementedError


class Redis(_Broker):
    """A Redis whose file has every command that ever changed a key, unless it is to forget.

    Attributes:
        url: Where its database is.
    """

    def __init__(self) -> None:
        if shutil.which("redis-server") is None:
            missing("Redis", "redis-server")
        super().__init__()
        self.url: Final = f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a client that sees bytes."""
        return redis.Redis.from_url(self.url)

    def forget(self) -> None:
        """Remove what is persisted of it; for a server that was killed."""
        for path in (self.folder / "appendonlydir", self.folder / "dump.rdb"):
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True) if path.is_file() else None

    def keys(self) -> bytes:
        """Return all keys with their values."""
        with self.client() as client:
            client.config_set("appendfsync", "always")
            dumps = [(key, self._value(client, key)) for key in client.keys("*")]
        return b"\n".join(b"%b %b" % pair for pair in dumps)

    @staticmethod
    def _value(client: Any, key: bytes) -> bytes:
        kinds: Mapping[bytes, Callable[[], object]] = {
            b"string": lambda: client.get(key),
            b"list": lambda: client.lrange(key, 0, -1),
            b"hash": lambda: client.hgetall(key),
            b"set": lambda: client.smembers(key),
            b"zset": lambda: client.zrange(key, 0, -1),
            b"none": lambda: b"",  # removed since
        }
        value = kinds[client.type(key)]()
        return value if isinstance(value, bytes) else repr(value).encode()

    def _command(self) -> tuple[list[str], Mapping[str, str]]:
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "no",  # a killed process loses nothing by that
            "auto-aof-rewrite-percentage": 0,
            "save": "''",
        }
        command = ["redis-server"]
        for name, value in options.items():
            command += [f"--{name}", str(value).strip("'")]
        return command, {}

    def _is_ready(self) -> bool:
        with contextlib.suppress(redis.exceptions.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False


class RabbitMQ(_Broker):
    """A RabbitMQ with nothing but AMQP.

    Attributes:
        url: Where it is.
    """

    def __init__(self) -> None:
        if not _RABBITMQ.is_file():
            missing("RabbitMQ", "rabbitmq-server")
        super().__init__()
        self.url: Final = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._epmd = free_port()

    def close(self) -> None:
        """Kill the server and its port mapper, and delete its files."""
        self.kill()
        with contextlib.suppress(OSError):
            subprocess.run(
                ["epmd", "-port", str(self._epmd), "-kill"], capture_output=True, check=False
            )
        super().close()

    def _command(self) -> tuple[list[str], Mapping[str, str]]:
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console.level = warning\n"
        )
        environment = {
            "HOME": self.folder,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": self._epmd,
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # so that the port mapper can be ended
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
            "RABBITMQ_DIST_PORT": free_port(),
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": self.folder / "logs",
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        return [str(_RABBITMQ)], {name: str(value) for name, value in environment.items()}

    def _is_ready(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as server,
        ):
            server.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(server.recv(8))
        return False
