"""An auth object for `httpx`, sync and async: requests that carry a grant's token.

auth = DeviceFlowAuth(client, "nightly", login, origins=["https://api.example.com"])
async with httpx.AsyncClient(auth=auth) as session:
    await session.get("https://api.example.com/me")

Programs that take an `httpx.Auth`, such as the Python MCP SDK, take this one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

from deviceflow.client._async import AsyncClient
from deviceflow.client._sync import Client
from deviceflow.errors import UsageError
from deviceflow.integrations._bearer import Bearer, is_carried, origin, value

try:
    import httpx
except ImportError:
    raise ImportError(
        "deviceflow.integrations.httpx needs httpx: pip install 'deviceflow[httpx]'"
    ) from None

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable

    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.provider import LoginRequest, Provider
    from deviceflow.integrations._bearer import Origin


class DeviceFlowAuth(httpx.Auth):
    """Attaches a grant's access token to each request (RFC 6750 section 2.1).

    For an `httpx.Client` with a `Client`, and for an `httpx.AsyncClient` with an `AsyncClient` of
    the same event loop. `deviceflow.DeviceFlowAuth` describes how it works, and the arguments.

    Only a body that is in memory is sent again after a 401, such as `json=`, `data=` or bytes:
    httpx does not say where a file began. Neither the body of a request nor that of a response is
    read here, so both may be streams.

    Args:
        client: What logs in and refreshes.
        name: As for `deviceflow.DeviceFlowAuth`.
        provider: Likewise.
        min_ttl: Likewise.
        interactive: Likewise.
        purpose: Likewise.
        origins: Likewise. httpx takes the token off where a redirect leads to another host; but it
            attaches the token again to a `next_request` that a program sends by itself.
        **request: Likewise.

    Raises:
        InvalidArgumentError: One of the origins is not the URL of a server.
        UsageError: From a request: the client is of the other kind.
        LoginPending: From a request: a person must log in.
        DeviceFlowError: From a request: as for `Client.get_token` and `Client.log_in`.
    """

    requires_request_body = False
    requires_response_body = False

    def __init__(
        self,
        client: Client | AsyncClient,
        name: str,
        provider: Provider | None = None,
        *,
        min_ttl: float = 60.0,
        interactive: bool | None = None,
        purpose: str | None = None,
        origins: Iterable[str] | None = None,
        **request: Unpack[LoginRequest],
    ) -> None:
        self._client = client
        self._bearer = Bearer(
            client._context,  # noqa: SLF001  # it performs operations of its own by a client
            name,
            provider,
            min_ttl=min_ttl,
            interactive=interactive,
            purpose=purpose,
            origins=origins,
            request=request,
        )

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Attach the token (called by an `httpx.Client`)."""
        if not isinstance(self._client, Client):
            raise _other_kind("httpx.Client", "Client")
        course = self._course(request)
        answer: Any = None
        with suppress(StopIteration):
            while True:
                wanted = course.send(answer)
                if isinstance(wanted, httpx.Request):
                    answer = yield wanted
                else:
                    answer = self._client._run(wanted)  # noqa: SLF001

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Attach the token (called by an `httpx.AsyncClient`)."""
        if not isinstance(self._client, AsyncClient):
            raise _other_kind("httpx.AsyncClient", "AsyncClient")
        course = self._course(request)
        answer: Any = None
        with suppress(StopIteration):
            while True:
                wanted = course.send(answer)
                if isinstance(wanted, httpx.Request):
                    answer = yield wanted
                else:
                    answer = await self._client._run(wanted)  # noqa: SLF001

    def _course(self, request: httpx.Request) -> Generator[Any, Any, None]:
        """Yield what is to be sent, and the operations between that; each is answered."""
        bearer, first = self._bearer, _origin(request)
        if not bearer.is_for(first):
            yield request
            return
        used: AccessToken = yield bearer.token()
        request.headers["Authorization"] = value(used)
        response: httpx.Response = yield request
        sent = response.request
        # Led to another host, the token was taken off, and is not for it.
        if not is_carried(sent.headers.get("Authorization")) or _origin(sent) != first:
            return
        bearer.learn(used, response.status_code)
        if response.status_code != 401:
            return
        if not isinstance(sent.stream, httpx.ByteStream):
            yield bearer.refuse(used)
            return
        fresh: AccessToken | None = yield bearer.another(used)
        if fresh is not None:
            response = yield _again(response, fresh)
            bearer.learn(fresh, response.status_code, new=True)


def _again(response: httpx.Response, token: AccessToken) -> httpx.Request:
    """Return a response's request with another token. The history keeps the request as it was."""
    sent = response.request
    again = httpx.Request(
        sent.method, sent.url, headers=sent.headers, stream=sent.stream, extensions=sent.extensions
    )
    again.headers["Authorization"] = value(token)
    if response.cookies:  # as `httpx.DigestAuth` does
        httpx.Cookies(response.cookies).set_cookie_header(again)
    return again


def _origin(request: httpx.Request) -> Origin:
    url = request.url  # not as a text, which might be parsed in another way
    return origin(url.scheme, url.raw_host.decode("ascii"), url.port)


def _other_kind(theirs: str, ours: str) -> UsageError:
    return UsageError(
        f"The auth object of an {theirs} was made with another kind of client.",
        hint=f"Make it with a deviceflow.{ours}.",
    )
