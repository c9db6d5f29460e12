"""A server that is a list of answers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from deviceflow.core.wire import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deviceflow.core.wire import Request

    Scripted = Response | Failure | BaseException | Callable[[Request], Response | Failure]


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
        self.requests: list[Request] = []

    def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ARG002
        """Return the script's next answer.

        Raises:
            AssertionError: The script is over, and yet a request came.
        """
        self.requests.append(request)
        following = next(self._script, None)
        if following is None:
            raise AssertionError(f"no answer is left for request {len(self.requests)}")
        if isinstance(following, BaseException):
            raise following
        return following(request) if callable(following) else following

    def close(self) -> None:
        """Do nothing."""


class AsyncScriptedTransport:
    """The same for an `AsyncClient`.

    Args:
        script: As for `ScriptedTransport`.

    Attributes:
        requests: What was sent, in order.
    """

    def __init__(self, script: Iterable[Scripted]) -> None:
        self._scripted = ScriptedTransport(script)
        self.requests = self._scripted.requests

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109  # as in `AsyncTransport`
        """Let other tasks run, and return the script's next answer.

        Raises:
            AssertionError: The script is over, and yet a request came.
        """
        await asyncio.sleep(0)
        return self._scripted.send(request, timeout)

    async def close(self) -> None:
        """Do nothing."""
