"""What the auth objects share: which requests get a token, which token, and what a refusal means.

The operations here are like those of `deviceflow.client`, and both clients run them.
"""

from __future__ import annotations

import sys
import threading
import warnings
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from requests import PreparedRequest

from deviceflow import _forks as forks
from deviceflow._environment import http_allowed
from deviceflow.client import grant_end, grant_login, grant_token
from deviceflow.client.asking import resolve_provider
from deviceflow.core.sanitize import crosses_in_clear
from deviceflow.core.wire import is_token_refused
from deviceflow.errors import (
    InsecureURLError,
    InvalidArgumentError,
    LoginError,
    LoginPending,
    ProtocolError,
    RejectedError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.client.world import World
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.provider import LoginRequest, Provider

    Origin = tuple[str, str | None, int | None]

_LOOK: Final = 0.1
"""Seconds between two looks whether another thread's login has ended."""

_PORTS: Final = {"http": 80, "https": 443}
_SCHEME: Final = "Bearer "


class Bearer:
    """The token of one grant, for the requests of one auth object (RFC 6750 section 2.1).

    Args:
        world: What the operation works with.
        name: The grant's name.
        provider: Where to log in; None for a grant that there is already.
        min_ttl: As for `Client.get_token`.
        interactive: Whether a person is there to log in; None if the program's terminal tells.
        purpose: As for `Client.get_token`.
        origins: What gets the token; None for the server of the first request.
        invalid_token_statuses: The statuses that refuse the token; None for the provider's.
        request: What to ask for.

    Raises:
        InvalidArgumentError: One of the origins is not the URL of a server.
    """

    def __init__(
        self,
        name: str,
        provider: Provider | None,
        *,
        min_ttl: float,
        interactive: bool | None,
        purpose: str | None,
        origins: Iterable[str] | None,
        invalid_token_statuses: Iterable[int] | None,
        request: LoginRequest,
    ) -> None:
        self._name, self._provider, self._request = name, provider, request
        self._min_ttl, self._purpose = min_ttl, purpose
        self._interactive = _terminal() if interactive is None else interactive
        self._origins = None if origins is None else {_given_origin(url) for url in origins}
        self._first: Origin | None = None
        self._declined = self._warned = False
        statuses = invalid_token_statuses
        self._statuses = None if statuses is None else frozenset(statuses)
        self._renew_locks()
        forks.in_child(self._renew_locks)

    def _renew_locks(self) -> None:
        self._asking, self._binding = threading.Lock(), threading.Lock()

    def is_for(self, server: Origin) -> bool:
        """Tell whether requests to a server get the token.

        Nobody may have meant the token for a second server, of which there is a warning.

        Raises:
            InsecureURLError: Without `origins`, the token would be sent by plain http to another
                machine (RFC 6750 section 5.3).
        """
        if self._origins is not None:
            return server in self._origins
        if self._first is None and crosses_in_clear(_in_words(server)) and not http_allowed():
            raise InsecureURLError(
                f"The request to {_in_words(server)} would send the token of the grant"
                f" {self._name!r} unencrypted.",
                hint="Use https. On a network that you trust, DeviceFlowAuth(…, origins=[…]) with"
                " this server, or DEVICEFLOW_ALLOW_HTTP=1.",
            )
        with self._binding:
            self._first = first = self._first or server
            warns = server != first and not self._warned
            self._warned = self._warned or warns
        if warns:
            warnings.warn(
                f"The request to {_in_words(server)} goes without the token of the grant"
                f" {self._name!r}: the first request of this auth object went to"
                f" {_in_words(first)}, so only that server gets the token. If more servers should:"
                " DeviceFlowAuth(…, origins=[…]).",
                stacklevel=2,
            )
        return server == first

    # Which token.

    async def token(self, world: World) -> AccessToken:
        """Return a token that can be used now. If there is none, have a person log in.

        A person who said no, or did not come, is not asked again.

        Raises:
            LoginPending: A person must log in, and is not to be asked here.
            DeviceFlowError: As for `Client.get_token` and `Client.log_in`.
        """
        while True:
            asks = self._interactive and not self._declined
            with suppress(LoginPending) if asks else nullcontext():
                token = await grant_token.get_token(
                    world,
                    self._name,
                    self._provider,
                    self._purpose,
                    self._request,
                    self._min_ttl,
                    "here" if asks else "later",
                )
                self._declined = False
                return token
            await self._log_in(world)

    async def _log_in(self, world: World) -> None:
        """Ask the person, or wait while another thread or task does that."""
        if not self._asking.acquire(blocking=False):
            while self._asking.locked():
                await world.sleep(_LOOK)
            return
        try:
            if not self._declined:
                await self._ask(world)
        finally:
            self._asking.release()

    async def _ask(self, world: World) -> None:
        provider = resolve_provider(self._provider, self._request)
        try:
            await grant_login.log_in(
                world,
                self._name,
                provider,
                self._purpose,
                open_browser=True,
                timeout=None,
            )
        except (LoginError, RejectedError, WaitTimeoutError):
            self._declined = True
            raise

    # After an answer.

    def is_refused(self, token: AccessToken, status: int, challenge: str | None) -> bool:
        """Tell whether a response says that the token of its request is not valid.

        Args:
            token: The token.
            status: The HTTP status.
            challenge: The header `WWW-Authenticate`.
        """
        statuses = token.invalid_token_statuses if self._statuses is None else self._statuses
        return is_token_refused(status, challenge, statuses)

    async def another(self, world: World, refused: AccessToken) -> AccessToken | None:
        """Return the token to send a request again with, after a server refused its token.

        Args:
            world: What the operation works with.
            refused: The token of the request.

        Returns:
            The token; None if there is no other one, so that the response counts: the former token
            was refused as well, just before, or the server issues the same one again.

        Raises:
            DeviceFlowError: There is no token; as for `token`.
        """
        await grant_end.refuse(world, self._name, refused)
        token = await self.token(world)
        return None if token.access_token == refused.access_token else token

    async def refuse(self, world: World, token: AccessToken) -> None:
        """Say that a server refused a token: the next request gets another one, if there is one."""
        await grant_end.invalidate(world, self._name, token)


def origin(scheme: str, host: str | None, port: int | None) -> Origin:
    """Return the origin of the parts of a URL (RFC 6454 section 4)."""
    return scheme, host, port or _PORTS.get(scheme)


def _in_words(server: Origin) -> str:
    scheme, host, port = server
    shown = f"[{host}]" if host and ":" in host else host
    return f"{scheme}://{shown}" + ("" if port == _PORTS.get(scheme) else f":{port}")


def origin_of(url: str) -> Origin:
    """Return the origin of a URL.

    Raises:
        ValueError: It is not a URL.
    """
    parts = urlsplit(url)
    return origin(parts.scheme, parts.hostname, parts.port)


def is_carried(authorization: str | None) -> bool:
    """Tell whether the header `Authorization` of a request has a token.

    It has none after a redirect to another host, even if a later one led back.
    """
    return authorization is not None and authorization.startswith(_SCHEME)


def _given_origin(url: str) -> Origin:
    with suppress(ValueError):
        given = origin_of(url)
        if given[0] in _PORTS and given[1]:
            request = PreparedRequest()
            request.prepare_url(url, None)  # which has an international name in ASCII (RFC 5891)
            return origin_of(request.url or "")
    raise InvalidArgumentError(
        f"{url!r} is not an origin.", hint="Write the scheme as well: https://api.example.com"
    )


def value(token: AccessToken) -> str:
    """Return a token as the value of the header `Authorization` (RFC 6750 section 2.1).

    Raises:
        ProtocolError: The token is of another type, which needs more than that header.
    """
    if token.token_type.lower() != "bearer":
        raise ProtocolError(
            f"The server issued an access token of the type {token.token_type!r}, which may not be"
            " sent as a bearer token.",
            hint="Have the server issue bearer tokens to this client; or use Client.get_token, and"
            " send the token as its type needs.",
        )
    return f"{_SCHEME}{token.access_token.reveal()}"


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
