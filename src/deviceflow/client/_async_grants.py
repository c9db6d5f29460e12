"""The methods of `AsyncClient` that are about grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack

from deviceflow.client import grant_check, grant_end, grant_login, grant_token
from deviceflow.client._base import documented_as
from deviceflow.client._sync_grants import GrantClient, brought_token, given_token
from deviceflow.client.asking import resolve_provider
from deviceflow.client.grant_end import UNUSED, SweptGrants
from deviceflow.client.turns import NOTIFIED_AT_ONCE, NOTIFY_FOR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from deviceflow.client.context import Context
    from deviceflow.client.grant_check import GrantCheck
    from deviceflow.client.grant_token import Mint
    from deviceflow.client.world import World
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.grant_view import GrantView
    from deviceflow.core.login import Login
    from deviceflow.core.provider import LoginRequest, Provider
    from deviceflow.core.secret import Secret

_P = ParamSpec("_P")
_T = TypeVar("_T")


@documented_as(GrantClient)
class AsyncGrantClient:
    """What an async client can do with grants."""

    _context: Context

    async def _run(
        self,
        operation: Callable[Concatenate[World, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        raise NotImplementedError

    async def _at_once(self, works: Any, places: int = 0, seconds: float = 0.0) -> Any:
        raise NotImplementedError

    async def get_token(
        self,
        name: str,
        provider: Provider | None = None,
        *,
        min_ttl: float = 60.0,
        purpose: str | None = None,
        mint: Mint = "later",
        timeout: float | None = None,
        **request: Unpack[LoginRequest],
    ) -> AccessToken:
        return await self._run(
            grant_token.get_token, name, provider, purpose, request, min_ttl, mint, timeout
        )

    async def invalidate(self, name: str, token: AccessToken | Secret | str | None = None) -> bool:
        refused = given_token(token)
        del token
        return await self._run(grant_end.invalidate, name, refused)

    async def check(self, name: str) -> GrantCheck:
        checked: GrantCheck = await self._run(grant_check.check, name)
        return checked

    async def log_in(
        self,
        name: str,
        provider: Provider | None = None,
        *,
        purpose: str | None = None,
        again: bool = False,
        open_browser: bool = True,
        timeout: float | None = None,
        on_step: Callable[[Login], object] | None = None,
        **request: Unpack[LoginRequest],
    ) -> GrantView:
        await self._run(
            grant_login.log_in,
            name,
            resolve_provider(provider, request),
            purpose,
            open_browser=open_browser,
            timeout=timeout,
            on_step=on_step,
            again=again,
        )
        return await self.grant(name)

    async def adopt_grant(
        self,
        name: str,
        provider: Provider,
        *,
        refresh_token: Secret | str,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> GrantView:
        brought = brought_token(refresh_token)
        del refresh_token
        await self._run(
            grant_login.adopt_refresh_token,
            name,
            resolve_provider(provider, request),
            purpose,
            brought,
        )
        return await self.grant(name)

    async def log_out(self, name: str) -> GrantView:
        return await self._run(grant_end.log_out, name)

    async def grant(self, name: str) -> GrantView:
        return await self._run(grant_end.get, name)

    async def grants(self) -> AsyncIterator[GrantView]:
        for view in await self._run(grant_end.list_all):
            yield view

    async def sweep_grants(self, *, unused: float = UNUSED, limit: int = 100) -> SweptGrants:
        swept = SweptGrants([], [])
        for done in await self._at_once(await self._run(grant_end.due, unused, limit)):
            swept.add(done)
        notices = await self._run(grant_end.due_notices, limit)
        for done in await self._at_once(notices, NOTIFIED_AT_ONCE, NOTIFY_FOR):
            swept.add(done)
        return swept

    async def doubt_grants(self) -> int:
        return await self._run(grant_end.doubt)
