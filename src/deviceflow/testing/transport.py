"""A server that is a list of answers."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.wire import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deviceflow.core.wire import Request

    Scripted = Response | Failure | BaseException | Callable[[Request], Response | Failure]

_MOST_SHOWN: Final = 20  # a script may have no end


def answer(status: int, body: Any = None, **headers: str) -> Response:
    """Return a response with a JSON body, or with `body` as it is where that is text or bytes.

    Args:
        status: The HTTP status code.
        body: The body.
        **headers: The headers; an underscore stands for a dash.
    """
    if isinstance(body, str):
        body = body.encode()
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, encoded)


class ScriptedTransport:
    """Gives the answers of a script, one for each request, and keeps the requests.

    Args:
        script: Responses and failures to give, exceptions to raise, or functions of the request.

    Attributes:
        requests: What was sent, in order.
    """

    def __init__(self, script: Iterable[Scripted]) -> None:
        self._script = iter(script)
        self._given: list[str] = []
        self.requests: list[Request] = []

    def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ARG002
        """Return the script's next answer.

        Raises:
            AssertionError: The script is over, and yet a request came.
        """
        self.requests.append(request)
        following = next(self._script, None)
        if following is None:
            came = f"no answer is left for request {len(self.requests)}, {_shown(request)}"
            had = f"the script has {_count(len(self._given))}"
            raise AssertionError(f"{came}: {had}.{self._so_far()}")
        self._given.append(f"{_shown(request)} → {_told(following)}")
        if isinstance(following, BaseException):
            raise following
        return following(request) if callable(following) else following

    def assert_finished(self) -> None:
        """Check that each answer was asked for.

        Raises:
            AssertionError: Answers are left.
        """
        left = list(islice(self._script, _MOST_SHOWN))
        if left:
            raise AssertionError(
                f"{_count(len(left))} of the script left after {len(self.requests)} requests:"
                f" {', '.join(map(_told, left))}.{self._so_far()}"
            )

    def close(self) -> None:
        """Do nothing."""

    def _so_far(self) -> str:
        if not self._given:
            return ""
        lines = (f"  {number}. {line}" for number, line in enumerate(self._given, 1))
        return "\n".join(["\nSo far:", *lines])


class AsyncScriptedTransport:
    """The same for an `AsyncClient`.

    Args:
        script: As for `ScriptedTransport`.

    Attributes:
        requests: What was sent, in order.
    """

    def __init__(self, script: Iterable[Scripted]) -> None:
        self._scripted = ScriptedTransport(script)
        self.requests: list[Request] = self._scripted.requests

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109  # as in `AsyncTransport`
        """Let other tasks run, and return the script's next answer.

        Raises:
            AssertionError: The script is over, and yet a request came.
        """
        await asyncio.sleep(0)
        return self._scripted.send(request, timeout)

    def assert_finished(self) -> None:
        """Check that each answer was asked for.

        Raises:
            AssertionError: Answers are left.
        """
        self._scripted.assert_finished()

    async def close(self) -> None:
        """Do nothing."""


def _shown(request: Request) -> str:
    return f"{request.method} {request.url} ({request.purpose})"


def _told(scripted: Scripted) -> str:
    """Say what an answer is, without its body, which may hold secrets."""
    if isinstance(scripted, Response):
        fields = scripted.fields()
        error = fields and next(filter(None, map(fields.text, ("error", "detail"))), None)
        return f"{scripted.status} {error}" if error else str(scripted.status)
    if isinstance(scripted, BaseException):
        return f"raises {type(scripted).__name__}"
    if isinstance(scripted, Failure):
        return f"no answer ({scripted.kind})"
    return f"a function, {getattr(scripted, '__name__', scripted)}"


def _count(number: int) -> str:
    return "1 answer" if number == 1 else f"{number} answers"
