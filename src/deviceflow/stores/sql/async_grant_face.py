"""The methods of an async SQL store that are about grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from deviceflow.stores.sql.grant_methods import GrantMethods
from deviceflow.stores.sql.grants import OvertakenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease, StoredGrant
    from deviceflow.core.secret import Secret
    from deviceflow.core.uses import Use
    from deviceflow.stores.sql.methods import Method

_T = TypeVar("_T")


class AsyncGrantFace(GrantMethods):
    """The methods of `AsyncStore` that are about grants."""

    async def _run(self, begin: Callable[[], Method[_T]]) -> _T:
        raise NotImplementedError

    async def find(self, name: str) -> Flow | None:
        return await self._run(lambda: self._find(name))

    async def load_grant(self, name: str, client_now: float) -> StoredGrant | None:
        return await self._run(lambda: self._load_grant("get_grant", client_now, name=name))

    async def load_grant_by_id(self, grant_id: str, client_now: float) -> StoredGrant | None:
        return await self._run(lambda: self._load_grant("get_grant_by_id", client_now, id=grant_id))

    async def load_grant_by_link(self, link: Secret, client_now: float) -> StoredGrant | None:
        return await self._run(lambda: self._load_grant_by_link(link, client_now))

    async def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        try:
            return await self._run(
                lambda: self._commit_grant(grant, event, lease, release, flow, flow_event)
            )
        except OvertakenError:
            return False

    async def use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        await self._run(lambda: self._use_grant(grant_id, client_now, uses))

    async def grants(self, client_now: float, after: str | None = None) -> list[StoredGrant | str]:
        return await self._run(lambda: self._grants(client_now, after))

    async def due_grants(
        self, client_now: float, unused: float, limit: int
    ) -> list[tuple[str, str]]:
        return await self._run(lambda: self._due_grants(client_now, unused, limit))

    async def due_notices(self, client_now: float, limit: int) -> list[str]:
        return await self._run(lambda: self._due_notices(client_now, limit))

    async def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        return await self._run(lambda: self._claim_notice(grant_id, client_now, seconds))

    async def snooze_grant(self, name: str, client_now: float) -> None:
        await self._run(lambda: self._snooze_grant(name, client_now))

    async def ended_grants(self, ended_before: float, after: str | None = None) -> list[str]:
        return await self._run(lambda: self._ended_grants(ended_before, after))

    async def delete_grant(self, grant: Grant) -> bool:
        return await self._run(lambda: self._delete_grant(grant))
