"""What Windows and macOS have and lack, as far as this system can stand in for them."""

from __future__ import annotations

import asyncio
import errno
import getpass
import io
import os
import signal
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Never

import pytest

from deviceflow import _files
from deviceflow.cli import exits, main
from deviceflow.cli.commands import worker
from deviceflow.client import identity
from deviceflow.errors import UsageError
from deviceflow.notify import NotifyCommand, NotifyError
from deviceflow.pages import _html
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing.conformance import Kit
from deviceflow.transports import _sockets
from tests.unit.core.test_notice import needing, told

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE: Final = 60.0


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


@pytest.mark.usefixtures("windows")
def test_a_socket_is_looked_at_without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("select.poll")
    reader, writer = os.pipe()
    try:
        look = _sockets.look(reader)
        assert not look()
        os.write(writer, b"x")
        assert look()
    finally:
        os.close(reader)
        os.close(writer)


def test_a_user_who_has_neither_name_nor_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise ModuleNotFoundError("No module named 'pwd'")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.delenv("DEVICEFLOW_ACTOR", raising=False)

    assert identity.actor() == str(os.getuid())
    monkeypatch.setattr(sys, "platform", "win32")
    assert identity.actor() is None


class GonePipe(io.StringIO):
    """A pipe whose reader has gone, as Windows says that."""

    def __init__(self) -> None:
        super().__init__()
        self._handle = os.open(os.devnull, os.O_WRONLY)

    def write(self, _text: str) -> Never:
        raise OSError(errno.EINVAL, "Invalid argument")

    def fileno(self) -> int:
        return self._handle

    def close(self) -> None:
        os.close(self._handle)


@pytest.mark.parametrize(
    ("system", "code"), [("win32", exits.NOBODY_READS), ("linux", exits.FAILED)]
)
def test_a_pipe_without_a_reader_is_no_failure(
    system: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(GonePipe()) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "platform", system)

        assert main(["providers", "list"]) == code


def test_lines_are_appended_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A flag that can be seen here stands for the one of Windows.
    monkeypatch.setattr(os, "O_BINARY", os.O_NONBLOCK, raising=False)

    handle = _files.open_to_append(tmp_path / "log")
    try:
        assert not os.get_blocking(handle)
    finally:
        os.close(handle)


class LoopWithoutSignals(asyncio.SelectorEventLoop):
    """A loop as those of Windows are."""

    def add_signal_handler(self, *_: Any) -> Never:  # type: ignore[override]
        raise NotImplementedError


def test_a_worker_hears_signals_although_its_loop_does_not() -> None:
    former = signal.getsignal(signal.SIGTERM)

    async def main() -> str:
        heard = asyncio.Event()
        worker._at_signal(signal.SIGTERM, heard.set)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
        return "heard"

    try:
        with asyncio.Runner(loop_factory=LoopWithoutSignals) as runner:
            assert runner.run(main()) == "heard"
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.mark.usefixtures("windows")
def test_a_worker_has_a_loop_that_psycopg_can_use() -> None:
    loop_factory = worker._fastest_loop()

    assert loop_factory is asyncio.SelectorEventLoop


def test_a_command_that_is_too_slow_is_killed_alone(
    windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.killpg")
    sleeper = NotifyCommand([sys.executable, "-c", "import time; time.sleep(600)"], timeout=0.1)

    with pytest.raises(NotifyError, match=r"took more than 0\.1 seconds"):
        sleeper(told(needing()))


def test_the_kit_for_clients_says_that_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.wait4")

    with pytest.raises(UsageError, match="does not run on Windows"):
        Kit("client {device}")


@pytest.mark.usefixtures("macos")
def test_a_commit_waits_for_the_disk_and_not_for_its_cache(tmp_path: Path) -> None:
    with closing(SQLiteStore(tmp_path / "flows.db", plaintext=True)) as store:
        connection = store._connection.connected()
        assert connection.execute("PRAGMA fullfsync").fetchone() == (1,)


def test_a_page_says_since_when_it_waits_without_formats_of_glibc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Strict(datetime):
        def strftime(self, format: str) -> str:  # noqa: A002  # the name is datetime's
            if "%-" in format:
                raise ValueError("Invalid format string")
            return super().strftime(format)

    monkeypatch.setattr(_html, "datetime", Strict)
    began = datetime(2026, 3, 4, 5, 6, tzinfo=UTC).timestamp()
    assert "4 March 2026, 05:06 UTC</time>, 2 minutes ago" in _html._since(began, began + 120)
