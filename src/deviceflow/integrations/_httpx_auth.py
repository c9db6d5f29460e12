"""The auth object of httpx and of httpx2, whose names and rules are the same."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from deviceflow.client._async import AsyncClient
from deviceflow.client._sync import Client
from deviceflow.errors import UsageError
from deviceflow.integrations._bearer import Bearer, is_carried, origin, value

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable

    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.provider import LoginRequest, Provider
    from deviceflow.integrations._bearer import Origin


class HttpxAuth:
    """What is an `httpx.Auth` once it is mixed into that class.

    Attributes:
        library: The module, `httpx` or `httpx2`.
    """

    library: ClassVar[Any]
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
        invalid_token_statuses: Iterable[int] | None = None,
        **request: Unpack[LoginRequest],
    ) -> None:
        self._client = client
        self._bearer = Bearer(
            name,
            provider,
            min_ttl=min_ttl,
            interactive=interactive,
            purpose=purpose,
            origins=origins,
            invalid_token_statuses=invalid_token_statuses,
            request=request,
        )

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Attach the token (called by the library's `Client`)."""
        if not isinstance(self._client, Client):
            raise self._other_kind("Client")
        course = self._course(request)
        answer: Any = None
        with suppress(StopIteration):
            while True:
                wanted = course.send(answer)
                if isinstance(wanted, self.library.Request):
                    answer = yield wanted
                else:
                    answer = self._client._run(wanted)  # noqa: SLF001

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Attach the token (called by the library's `AsyncClient`)."""
        if not isinstance(self._client, AsyncClient):
            raise self._other_kind("AsyncClient")
        course = self._course(request)
        answer: Any = None
        with suppress(StopIteration):
            while True:
                wanted = course.send(answer)
                if isinstance(wanted, self.library.Request):
                    answer = yield wanted
                else:
                    answer = await self._client._run(wanted)  # noqa: SLF001

    def _course(self, request: Any) -> Generator[Any, Any, None]:
        """Yield what is to be sent, and the operations between that; each is answered."""
        bearer, first = self._bearer, _origin(request)
        if not bearer.is_for(first):
            yield request
            return
        used: AccessToken = yield bearer.token
        request.headers["Authorization"] = value(used)
        response = yield request
        sent = response.request
        # Led to another host, the token was taken off, and is not for it.
        if not is_carried(sent.headers.get("Authorization")) or _origin(sent) != first:
            return
        challenge = response.headers.get("WWW-Authenticate")
        if not bearer.is_refused(used, response.status_code, challenge):
            return
        if not isinstance(sent.stream, self.library.ByteStream):
            yield partial(bearer.refuse, token=used)
            return
        fresh: AccessToken | None = yield partial(bearer.another, refused=used)
        if fresh is not None:
            yield self._again(response, fresh)

    def _again(self, response: Any, token: AccessToken) -> Any:
        """Return a response's request with another token. The history keeps the request."""
        sent = response.request
        again = self.library.Request(
            sent.method,
            sent.url,
            headers=sent.headers,
            stream=sent.stream,
            extensions=sent.extensions,
        )
        again.headers["Authorization"] = value(token)
        if response.cookies:  # as `httpx.DigestAuth` does
            self.library.Cookies(response.cookies).set_cookie_header(again)
        return again

    def _other_kind(self, kind: str) -> UsageError:
        return UsageError(
            f"The auth object of an {self.library.__name__}.{kind} was made with another kind of"
            " client.",
            hint=f"Make it with a deviceflow.{kind}.",
        )


def _origin(request: Any) -> Origin:
    url = request.url  # not as a text, which might be parsed in another way
    return origin(url.scheme, url.raw_host.decode("ascii"), url.port)
