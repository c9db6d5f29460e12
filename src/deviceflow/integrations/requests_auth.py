"""`requests`' convention: a session that logs in when it is first used.

session = requests.Session()
session.auth = DeviceFlowAuth(client, provider, scope="repo")
session.get("https://api.example.com/me")  # a person is asked once, here
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests.auth import AuthBase

from deviceflow.errors import LoginError, ServerError

if TYPE_CHECKING:
    import requests

    from deviceflow.client import Client
    from deviceflow.providers.base import Provider, Token


class DeviceFlowAuth(AuthBase):
    """Attaches a login's token to each request. Threads may share it.

    The token goes wherever requests with this `auth` go, so give it to sessions that talk to the
    server it is for. `requests` takes it off where a redirect leads to another host.

    On an answer of 401 the token is refreshed, if a refresh token came with it; else a person is
    asked again, if one is there. Each is tried once, and the request sent once more.

    Args:
        client: What logs in.
        provider: Where.
        token: A token from before, so that nobody is asked at first.
        interactive: Whether a person is there to be asked *again*; by default, whether the program
            has a terminal. The first login is made in any case.
        **request: What to ask for, as for `Client.start`.

    Attributes:
        token: The token in use; None before the first request.
    """

    def __init__(
        self,
        client: Client,
        provider: Provider,
        *,
        token: Token | None = None,
        interactive: bool | None = None,
        **request: Any,
    ) -> None:
        self.token = token
        self._client = client
        self._provider = provider
        self._interactive = _terminal() if interactive is None else interactive
        self._request = request
        self._lock = threading.Lock()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Attach the token, after logging in if there is none yet (called by `requests`)."""
        with self._lock:
            if self.token is None:
                self.token = self._log_in()
            used = self.token
        body: Any = request.body
        begin = body.tell() if hasattr(body, "tell") else None
        origin = _origin(request.url)

        def on_response(response: requests.Response, **how: Any) -> requests.Response:
            # Led to another host, the token was taken off, and is not for it.
            if response.status_code != 401 or _origin(response.url) != origin:
                return response
            fresh = self._renew(used)
            if fresh is None:
                return response
            response.content  # noqa: B018  # read to its end, so that the connection serves again
            response.close()
            again: Any = response.request.copy()
            again.deregister_hook("response", on_response)
            if begin is not None:
                again.body.seek(begin)
            _attach(again, fresh)
            answer: requests.Response = response.connection.send(again, **how)
            answer.history.append(response)
            answer.request = again
            return answer

        hooks: Any = request
        hooks.register_hook("response", on_response)
        _attach(request, used)
        return request

    def _renew(self, used: Token) -> Token | None:
        """Return a token to try instead of `used`, or None if there is no way to get one."""
        with self._lock:
            if self.token is not used:
                return self.token  # another thread was faster
            if used.refresh_token is not None:
                try:
                    self.token = self._client.refresh(self._provider, used)
                except ServerError:
                    pass  # the person may still know better
                else:
                    return self.token
            if not self._interactive:
                return None
            try:
                self.token = self._log_in()
            except LoginError:
                return None
            return self.token

    def _log_in(self) -> Token:
        return self._client.login(self._provider, **self._request)


def _attach(request: requests.PreparedRequest, token: Token) -> None:
    request.headers["Authorization"] = f"Bearer {token.access_token.reveal()}"


def _origin(url: str | None) -> tuple[str, str]:
    parts = urlsplit(url or "")
    return parts.scheme, parts.netloc


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
