"""Runs a client against the servers, each check in a process of its own, many at a time."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deviceflow.errors import UsageError
from deviceflow.testing.conformance._checks import CHECKS, CLIENT_ID
from deviceflow.testing.conformance._judge import Result, judge
from deviceflow.testing.conformance._server import Server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.testing.conformance._checks import Check

DEADLINE: Final = 90.0
"""Seconds after which a client is stopped."""

JOBS: Final = 8
"""How many checks run at a time."""

_OUTPUT: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a client's process ended.

    Attributes:
        code: Its exit status; None if it was stopped at the deadline, negative for a signal.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        opened: The addresses that it opened in a browser.
        seconds: How long it ran.
        memory: The most memory that it had, in bytes; 0 where that is not known.
    """

    code: int | None
    out: str
    err: str
    opened: str
    seconds: float
    memory: int


class Kit:
    """The conformance kit for one client.

    Args:
        command: The client's command, with `{device}`, `{token}`, `{issuer}`, `{host}` and
            `{client_id}` for the endpoints, the issuer, its host with the port, and the client id.
            It must log in and exit with 0, or with another status. It is not run by a shell.
        deadline: Seconds after which a client is stopped.
        jobs: How many checks run at a time.
        tls: A PEM file with a key and a certificate for `localhost`, to speak TLS; else plain http.

    Raises:
        UsageError: The command is empty, has no placeholder for the server, has an unknown one or
            an open quote, or names no program, or the PEM file is invalid, or this is Windows.
    """

    def __init__(
        self,
        command: str,
        *,
        deadline: float = DEADLINE,
        jobs: int = JOBS,
        tls: Path | None = None,
    ) -> None:
        if not hasattr(os, "wait4"):
            raise UsageError(
                "The conformance kit for clients does not run on Windows.",
                hint="Run it on Linux or macOS, or in WSL.",
            )
        self.command = command
        try:
            self._words = shlex.split(command)
        except ValueError as wrong:
            raise UsageError(f"The client's command cannot be read: {wrong}.") from None
        self._client_id = CLIENT_ID if "{client_id}" in command else None
        self._deadline = deadline
        self._jobs = jobs
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                self._context.load_cert_chain(tls)
            except OSError as wrong:
                raise UsageError(
                    f"{tls} is not a PEM file with a key and a certificate: {wrong}."
                ) from None
        arguments = self._arguments("http://localhost")
        if arguments == self._arguments("http://elsewhere"):
            raise UsageError(
                "The client's command names no server, so it would not reach the kit's.",
                hint="Put {issuer}, {host}, or {device} and {token} where it takes the server.",
            )
        program = arguments[0]
        if shutil.which(program) is None:
            raise UsageError(
                f"There is no program {program!r}, or it is not executable.",
                hint="The client's command begins with the program's name or path.",
            )

    def run(self, checks: Iterable[Check] = CHECKS) -> list[Result]:
        """Run checks side by side, and return their results in the same order."""
        with ThreadPoolExecutor(self._jobs) as pool:
            return list(pool.map(self.run_one, checks))

    def run_one(self, check: Check) -> Result:
        """Run one check."""
        with (
            Server(check, self._context, client_id=self._client_id) as server,
            tempfile.TemporaryDirectory(prefix="deviceflow-conformance-") as home,
        ):
            outcome = self._execute(self._arguments(server.url), Path(home))
            return judge(server.record, outcome)

    def _arguments(self, url: str) -> list[str]:
        values = {
            "device": f"{url}/device_authorization",
            "token": f"{url}/token",
            "issuer": url,
            "host": urlsplit(url).netloc,
            "client_id": CLIENT_ID,
        }
        try:
            words = [word.format(**values) for word in self._words]
        except (KeyError, IndexError, ValueError) as wrong:
            raise UsageError(
                f"The client's command has an unknown placeholder: {wrong}.",
                hint="Use {device}, {token}, {issuer}, {host} and {client_id}, and {{ for a brace.",
            ) from None
        if not words:
            raise UsageError("The client's command is empty.")
        return words

    def _execute(self, arguments: list[str], home: Path) -> Outcome:
        browser = home / "browser"
        browser.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{home}/opened'\n")
        browser.chmod(0o700)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
        environment = inherited | {"HOME": str(home), "BROWSER": str(browser), "NO_COLOR": "1"}
        out, err = home / "stdout", home / "stderr"
        begun = time.monotonic()
        with out.open("wb") as to_out, err.open("wb") as to_err:
            try:
                process = subprocess.Popen(  # noqa: S603  # the command is what is to be run
                    arguments,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=to_out,
                    stderr=to_err,
                    start_new_session=True,
                )
            except OSError as missing:
                raise UsageError(
                    f"The client's command cannot be run: {missing}.",
                    hint="A script needs a first line that names its interpreter.",
                ) from None
            code, memory = self._wait(process, begun + self._deadline)
        opened = home / "opened"
        return Outcome(
            code=code,
            out=_text(out),
            err=_text(err),
            opened=_text(opened) if opened.exists() else "",
            seconds=time.monotonic() - begun,
            memory=memory,
        )

    @staticmethod
    def _wait(process: subprocess.Popen[bytes], until: float) -> tuple[int | None, int]:
        if sys.platform == "win32":
            raise NotImplementedError  # the kit refuses to begin there
        stopped = False
        while True:
            pid, status, usage = os.wait4(process.pid, 0 if stopped else os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                stopped = True
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        unit = 1 if sys.platform == "darwin" else 1024
        return None if stopped else process.returncode, usage.ru_maxrss * unit


def _text(file: Path) -> str:
    with file.open("rb") as read:
        return read.read(_OUTPUT).decode(errors="replace")
