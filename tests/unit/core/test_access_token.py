"""An access token as a context manager: which exceptions say that a server refused it."""

from __future__ import annotations

import asyncio
import urllib.error
from email.message import Message
from typing import Any

import httpx
import pytest
import requests

from deviceflow.core.access_token import AccessToken
from deviceflow.core.secret import Secret
from deviceflow.core.text import trusted
from deviceflow.core.wire import is_token_refused
from deviceflow.errors import StoreError, UsageError

INVALID = 'Bearer realm="x", error="invalid_token", error_description="expired"'


def token(invalidate: Any, statuses: tuple[int, ...] = (401,)) -> AccessToken:
    return AccessToken(Secret("T"), trusted("Bearer"), None, None, 1, statuses, invalidate)


@pytest.mark.parametrize(
    ("status", "challenge", "statuses", "refused"),
    [
        (401, None, (401,), True),
        (401, "Basic", (401,), True),
        (403, None, (401,), False),
        (403, None, (401, 403), True),
        (403, INVALID, (401,), True),
        (400, "Bearer error=invalid_token", (401,), True),
        (403, 'Bearer error="insufficient_scope"', (401, 403), False),
        (401, 'Bearer error="insufficient_scope"', (401,), False),
        (200, INVALID, (200,), False),
        (500, None, (401,), False),
    ],
)
def test_what_says_that_a_token_is_not_valid(
    status: int, challenge: str | None, statuses: tuple[int, ...], refused: bool
) -> None:
    assert is_token_refused(status, challenge, statuses) is refused


def of_requests(status: int) -> Exception:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def of_httpx(status: int) -> Exception:
    request = httpx.Request("GET", "https://api.example.com")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status))


def of_urllib(status: int) -> Exception:
    return urllib.error.HTTPError("https://api.example.com", status, "", Message(), None)


class OfAiohttp(Exception):  # noqa: N818  # as `aiohttp.ClientResponseError` is
    headers = None

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize("make", [of_requests, of_httpx, of_urllib, OfAiohttp])
@pytest.mark.parametrize("status", [401, 404])
def test_exception_of_a_refusal_has_the_token_invalidated(make: Any, status: int) -> None:
    told = list[AccessToken]()
    one = token(told.append)

    with pytest.raises(type(make(status))), one:
        raise make(status)

    assert told == ([one] if status == 401 else [])


@pytest.mark.parametrize("error", [ValueError("401"), SystemExit(401), KeyboardInterrupt()])
def test_other_exceptions_say_nothing_of_the_token(error: BaseException) -> None:
    told = list[AccessToken]()

    with pytest.raises(type(error)), token(told.append):
        raise error
    with token(told.append):
        pass

    assert told == []


def test_what_goes_wrong_meanwhile_is_a_note_beside_the_callers_own_error() -> None:
    def fails(_: AccessToken) -> bool:
        raise StoreError("The disk is full.")

    async def fails_too(_: AccessToken) -> bool:
        raise StoreError("The disk is full.")

    async def main() -> None:
        async with token(fails_too):
            raise of_requests(401)

    with pytest.raises(requests.HTTPError) as caught, token(fails):
        raise of_requests(401)
    with pytest.raises(requests.HTTPError) as awaited:
        asyncio.run(main())

    for one in (caught, awaited):
        assert one.value.__notes__ == ["deviceflow: The disk is full."]


def test_token_of_an_async_client_is_awaited() -> None:
    told = list[AccessToken]()

    async def invalidate(refused: AccessToken) -> bool:
        told.append(refused)
        return True

    async def main() -> None:
        async with token(invalidate):
            pass
        async with token(None):
            raise of_requests(401)

    with pytest.raises(requests.HTTPError):
        asyncio.run(main())
    for wrong in (invalidate, None):
        with pytest.raises(UsageError, match="not of a Client"):
            token(wrong).invalidate()
    assert told == []
    assert "invalidate" not in repr(token(invalidate))
