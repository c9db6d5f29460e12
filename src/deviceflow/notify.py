"""Tell somebody of a need: by a command, or by a POST to a URL. For `Client(notify=…)`.

Both get the JSON object of `LoginNeed.to_dict`, with the need's link in it. A command reads the
object from its standard input, because others can see its arguments and environment. A failure
raises `NotifyError`: the client records the failure, and notifies again later.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deviceflow._environment import http_allowed
from deviceflow.core.sanitize import endpoint, printable
from deviceflow.core.secret import Hidden, Secret, without_traceback
from deviceflow.core.wire import Failure, Request
from deviceflow.credentials.secret_refs import resolve, variables
from deviceflow.errors import DeviceFlowError, InsecureURLError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.wire import Response

COMMAND_TIMEOUT: Final = 60.0
"""Seconds that a command may take."""

URL_TIMEOUT: Final = 10.0
"""Seconds that a POST may take, all in all."""

_OURS: Final = ("DEVICEFLOW_", "PG")
_REFERENCES: Final = ("env:", "file:")
_URLS: Final = ("https://", "http://")


class NotifyError(DeviceFlowError):
    """Nobody could be told of a need. The client tries again later."""

    default_message = "Nobody could be told of the need."


class NotifyCommand:
    """Runs a command for each notification, without a shell.

    Its output is discarded. Variables that begin with `DEVICEFLOW_` or `PG`, or that a setting
    refers to (`env:NAME`), are not in its environment.

    Args:
        command: The program and its arguments.
        timeout: Seconds that the command may take. After that, the command and the processes that
            it started are killed, but for those that have left the command's session (`setsid`).
    """

    def __init__(self, command: Sequence[str], *, timeout: float = COMMAND_TIMEOUT) -> None:
        if not command:
            raise UsageError("The command to notify by is empty.")
        self._command = [*command]
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<NotifyCommand {self._command[0]!r}>"

    def __call__(self, need: LoginNeed) -> None:
        """Run the command.

        Raises:
            NotifyError: It could not be run, was too slow, or ended with another code than 0.
        """
        name = self._command[0]
        try:
            code = without_traceback(lambda: self._run(json.dumps(need.to_dict()).encode()))
        except OSError as trouble:
            raise NotifyError(f"{name} could not be run: {trouble.strerror}.") from None
        except subprocess.TimeoutExpired:
            raise NotifyError(f"{name} took more than {self._timeout:g} seconds.") from None
        if code:
            raise NotifyError(f"{name} ended with the code {code}.")

    def _run(self, told: bytes) -> int:
        hidden = variables()
        environment = {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith(_OURS) and variable not in hidden
        }
        process = subprocess.Popen(  # noqa: S603  # the owner of the configuration chose it
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            process.communicate(told, self._timeout)
        finally:
            if process.poll() is None:
                _kill(process)
        return process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and, where the system knows them, its descendants."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":  # it has no groups of processes; descendants stay
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class NotifyURL:
    """POSTs each notification to a URL, as JSON. Redirects are not followed.

    The field `text` has the notification in words, for chat services. A repeated notification has
    the same header `Idempotency-Key`.

    Args:
        url: The URL; https, or http to this machine. It counts as a secret, because the URL of a
            chat service's webhook is one: logs and errors contain only its host.
        timeout: Seconds that the whole POST may take.
        allow_http: Whether to allow plain http to other machines; by default
            `DEVICEFLOW_ALLOW_HTTP`.

    Raises:
        InsecureURLError: The URL may not be used.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        timeout: float = URL_TIMEOUT,
        allow_http: bool | None = None,
    ) -> None:
        self._url = url if isinstance(url, Secret) else Secret(url)
        del url
        self._host = ""
        allowed = http_allowed() if allow_http is None else allow_http
        self._host = without_traceback(lambda: _host_of(self._url.reveal(), allow_http=allowed))
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<NotifyURL {self._host}>"

    def __call__(self, need: LoginNeed) -> None:
        """Send the POST.

        Raises:
            NotifyError: It could not be sent, or the answer is not a success.
        """
        result = without_traceback(lambda: self._send(need))
        if isinstance(result, Failure):
            raise NotifyError(f"{self._host} gave no answer: {result.kind}.")
        if not 200 <= result.status < 300:
            raise NotifyError(f"{self._host} answered with the status {result.status}.")

    def _send(self, need: LoginNeed) -> Response | Failure:
        from deviceflow.transports.requests import RequestsTransport  # noqa: PLC0415  # it costs

        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": f"{need.id}-{need.kind}-{need.number}",
        }
        body = json.dumps(need.to_dict()).encode()
        transport = RequestsTransport()
        try:
            request = Request("notify", self._url.reveal(), headers, body)
            return transport.send(request, self._timeout)
        finally:
            transport.close()


def _host_of(url: str, *, allow_http: bool) -> str:
    """Return the host of a URL that notifications can be sent to.

    Raises:
        InsecureURLError: The URL may not be used. The URL is not in the message.
    """
    try:
        return urlsplit(endpoint(url, allow_http=allow_http)).netloc
    except InsecureURLError as refused:
        hint = refused.hint
    raise InsecureURLError(
        "The URL to notify by is invalid, has a user name in it, or is plain http to another"
        " machine.",
        hint=hint,
    )


def notifier(setting: str | Sequence[str]) -> NotifyCommand | NotifyURL:
    """Return what notifies as a profile's setting `notify` says.

    Args:
        setting: A URL; a reference to one, `env:NAME` or `file:PATH`; or a command, as a list or as
            a line that is split as a shell does.

    Raises:
        UsageError: The setting cannot be used: a command must exist, for example.
    """
    given = Hidden(setting)  # a webhook's URL is a secret
    del setting
    return without_traceback(lambda: _notifier(given.reveal()))


def _notifier(setting: str | Sequence[str]) -> NotifyCommand | NotifyURL:
    if not isinstance(setting, str):
        return _command(setting)
    if setting.startswith(_REFERENCES):
        return NotifyURL(resolve(setting, "notify"))
    if setting.lower().startswith(_URLS):
        return NotifyURL(setting)
    try:
        words = shlex.split(setting)
    except ValueError:
        raise UsageError("The command to notify by is not a line that a shell accepts.") from None
    return _command(words)


def _command(words: Sequence[str]) -> NotifyCommand:
    """Return what runs a command that exists.

    Raises:
        UsageError: The command is empty, or there is no such program.
    """
    command = NotifyCommand(words)
    name = words[0]
    if shutil.which(name) is None:
        # A webhook's URL without its scheme is a secret all the same.
        is_path = "/" not in name or name.startswith(("/", "./", "../", "~/"))
        shown = f" {printable(name, 100)!r}" if is_path else ""
        raise UsageError(
            f"notify names the command{shown}, and there is no such program.",
            hint="Give a program on PATH or with its whole path, a URL that begins with https://,"
            " or env:NAME or file:PATH, where such a URL is. A function is for Client(notify=…).",
        )
    return command
