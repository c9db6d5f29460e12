"""`requests`' convention: a session that logs in when it is first used.

session = requests.Session()
session.auth = DeviceFlowAuth(client, provider, scopes="repo")
session.get("https://api.example.com/me")  # a person is asked once, here
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlsplit

from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar
from requests.utils import rewind_body

from deviceflow import _forks as forks
from deviceflow.errors import LoginError, RejectedError, ServerError, WaitTimeoutError

if TYPE_CHECKING:
    import requests

    from deviceflow.client._sync import Client
    from deviceflow.core.provider import LoginRequest, Provider, Token


class DeviceFlowAuth(AuthBase):
    """Attaches a login's token to each request (RFC 6750 section 2.1). Threads may share it.

    The token goes wherever requests with this `auth` go, so give it to sessions that talk to the
    server it is for. `requests` takes it off where a redirect leads to another host.

    On an answer of 401 the token is refreshed, if a refresh token came with it; if that is refused,
    a person is asked again, if one is there. Then the request is sent once more, with its body from
    the start; with a body that cannot be had twice, such as a generator's, it is not, and the 401
    is returned. So it is where no other token could be had, and that token is then not replaced any
    more; nor is one that was refused as soon as it was new. So nobody is made to approve without
    end. Set `token` to None to begin anew.

    Args:
        client: What logs in.
        provider: Where.
        token: A token from before, so that nobody is asked at first.
        interactive: Whether a person is there to be asked *again*; by default, whether the program
            has a terminal. The first login is made in any case.
        name: The caller's own name for the login, as for `Client.start`.
        purpose: Why the login is needed, as for `Client.start`.
        **request: What to ask for, such as `scopes`, as for `Client.start`.

    Attributes:
        token: The token in use; None before the first request. It may be set.

    Raises:
        DeviceFlowError: From the request that makes the first login: as `Client.login`.
    """

    def __init__(
        self,
        client: Client,
        provider: Provider,
        *,
        token: Token | None = None,
        interactive: bool | None = None,
        name: str | None = None,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> None:
        self.token = token
        self._client = client
        self._provider = provider
        self._interactive = _terminal() if interactive is None else interactive
        self._name, self._purpose, self._request = name, purpose, request
        self._renew_lock()
        forks.in_child(self._renew_lock)
        self._hopeless: Token | None = None

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Attach the token, after logging in if there is none yet (called by `requests`)."""
        with self._lock:
            if self.token is None:
                self.token = self._log_in()
            used = self.token
        origin = _origin(request.url)

        def on_response(response: requests.Response, **how: Any) -> requests.Response:
            if response.status_code != 401:
                self._accepted(used)
                return response
            # Led to another host, the token was taken off, and is not for it.
            carried = "Authorization" in response.request.headers
            if not carried or _origin(response.url) != origin:
                return response
            fresh = self._renew(used)
            if fresh is None or not _can_be_sent_again(response.request):
                return response
            answer = _send_again(response, fresh, on_response, how)
            if answer.status_code == 401:
                self._refused(fresh)
            else:
                self._accepted(fresh)
            return answer

        hooks: Any = request
        hooks.register_hook("response", on_response)
        _attach(request, used)
        return request

    # These two wait for no lock: while a person is asked, other threads' answers go on.
    def _accepted(self, token: Token) -> None:
        if token is self._hopeless:
            self._hopeless = None

    def _refused(self, token: Token) -> None:
        if token is self.token:
            self._hopeless = token

    def _renew(self, used: Token) -> Token | None:
        """Return a token to try instead of `used`, or None if there is no way to get one."""
        with self._lock:
            if self.token is not used:
                return self.token  # another thread was faster
            if used is self._hopeless:
                return None
            try:
                fresh = self._refreshed(used) or (self._log_in() if self._interactive else None)
            except (LoginError, RejectedError, WaitTimeoutError):
                fresh = None
            except ServerError:
                return None  # it may work next time
            if fresh is None:
                # Whoever waits for the lock with the same token need not try it too.
                self._hopeless = used
                return None
            self.token = fresh
            return fresh

    def _refreshed(self, used: Token) -> Token | None:
        if used.refresh_token is None:
            return None
        try:
            return self._client.refresh(self._provider, used)
        except RejectedError:
            return None

    def _log_in(self) -> Token:
        # Acknowledged, also under a name: a later purge must not revoke the token that is in use.
        return self._client.login(
            self._provider,
            name=self._name,
            purpose=self._purpose,
            acknowledge=True,
            **self._request,
        )


def _can_be_sent_again(request: requests.PreparedRequest) -> bool:
    """Tell whether the body can be had twice."""
    body: Any = request.body
    # `requests` has noted where a stream began, if that can be gone back to.
    return body is None or isinstance(body, str | bytes) or isinstance(_begin(request), int)


def _begin(request: requests.PreparedRequest) -> object:
    return getattr(request, "_body_position", None)


def _send_again(
    response: requests.Response, token: Token, hook: Any, how: dict[str, Any]
) -> requests.Response:
    response.content  # noqa: B018  # read to its end, so that the connection serves again
    response.close()
    again: Any = response.request.copy()
    # The hooks are shared with the request that was copied, and being gone through right now.
    again.hooks = {
        event: [one for one in hooks if one is not hook] for event, hooks in again.hooks.items()
    }
    if again.body is not None and isinstance(_begin(again), int):
        rewind_body(again)
    jar = again._cookies  # noqa: SLF001  # as `HTTPDigestAuth` does
    extract_cookies: Any = extract_cookies_to_jar  # untyped
    extract_cookies(jar, response.request, response.raw)
    again.prepare_cookies(jar)
    _attach(again, token)
    answer: requests.Response = response.connection.send(again, **how)
    answer.history.append(response)
    answer.request = again
    return answer


def _attach(request: requests.PreparedRequest, token: Token) -> None:
    request.headers["Authorization"] = f"Bearer {token.access_token.reveal()}"


def _origin(url: str | None) -> tuple[str, str]:
    parts = urlsplit(url or "")
    return parts.scheme, parts.netloc


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
