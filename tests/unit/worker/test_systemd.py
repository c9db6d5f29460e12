"""What a worker tells systemd, by a real datagram socket."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from deviceflow.worker._systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Systemd:
    """Listens as systemd does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    if request.param == "abstract" and not os.path.exists("/proc/self"):  # noqa: PTH110
        pytest.skip("Only Linux has abstract sockets.")
    name = f"@deviceflow-{secrets.token_hex(8)}"
    listener = Systemd(name if request.param == "abstract" else str(tmp_path / "notify"))
    yield listener
    listener.close()


def test_it_says_when_it_is_ready_reloads_and_stops(systemd: Systemd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.name})
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready()
    notifier.reloading()
    notifier.ready()
    notifier.stopping()
    notifier.close()

    ready, reloading, again, stopping = systemd.heard()
    assert ready == again == "READY=1"
    assert stopping == "STOPPING=1"
    state, since = reloading.split("\n")
    assert state == "RELOADING=1"
    assert before <= int(since.removeprefix("MONOTONIC_USEC=")) < before + 60_000_000


def test_progress_feeds_the_watchdog_often_enough_and_no_more(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "3600000000"}
    with closing(Notifier(environment)) as notifier:
        for number in range(3):
            notifier.progress(f"{number} waiting".upper)

    assert systemd.heard() == ["WATCHDOG=1\nSTATUS=0 WAITING"]
    with closing(Notifier(environment | {"WATCHDOG_USEC": "4"})) as notifier:
        notifier.progress(str)
        time.sleep(0.001)
        notifier.progress(str)
    assert len(systemd.heard()) == 2


@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}]
)
def test_a_watchdog_that_is_none_or_another_process_s_is_not_fed(
    systemd: Systemd, watchdog: dict[str, str]
) -> None:
    with closing(Notifier({"NOTIFY_SOCKET": systemd.name} | watchdog)) as notifier:
        notifier.progress(str)
        assert systemd.heard() == []
        notifier.ready()
    assert systemd.heard() == ["READY=1"]


def test_without_systemd_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "none")}, {"NOTIFY_SOCKET": "vsock:"}):
        notifier = Notifier(environment)
        notifier.ready()
        notifier.stopping()
        notifier.close()
