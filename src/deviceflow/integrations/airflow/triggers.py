"""A trigger that waits until a grant gives tokens."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from deviceflow.credentials import configured
from deviceflow.errors import (
    LoginPending,
    SealError,
    StoreError,
    UnknownLoginError,
    UnreachableError,
)
from deviceflow.integrations.airflow._clients import shared_client
from deviceflow.integrations.airflow._token import closed, log_need, origin_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deviceflow.client._async import AsyncClient

ASK_EACH: Final = 5.0
"""Seconds after which the trigger asks for the token again, at most.

That reads the store, and polls an open login if it is due.
"""

SHORTEST_WAIT: Final = 1.0
"""Seconds after which the trigger asks again, at least."""

PATIENCE: Final = 600.0
"""Seconds that the store may fail before the task fails."""


class DeviceLoginTrigger(BaseTrigger):
    """Waits until a grant gives tokens, and drives an open login for it meanwhile.

    Any number of triggerers may wait for the same grant: a login is polled under a lease. Airflow
    keeps the arguments in its database.

    Args:
        grant: The grant's name.
        profile: The profile that says where to log in; by default the one of the grant's name.
        until: When to give up, in seconds since 1970; None for never. A code that somebody is about
            to approve is waited for as long as the code lives.
        need_id: The need whose link is in the task's log already.
        show_link: Whether to log the link of another need.
        purpose: Why the grant is needed; by default the profile's purpose.
    """

    def __init__(
        self,
        grant: str,
        profile: str | None = None,
        until: float | None = None,
        need_id: str | None = None,
        *,
        show_link: bool = True,
        purpose: str | None = None,
    ) -> None:
        super().__init__()
        self.grant = grant
        self.profile = profile
        self.until = until
        self.need_id = need_id
        self.show_link = show_link
        self.purpose = purpose

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path, and the arguments."""
        return f"{__name__}.{type(self).__name__}", {
            "grant": self.grant,
            "profile": self.profile,
            "until": self.until,
            "need_id": self.need_id,
            "show_link": self.show_link,
            "purpose": self.purpose,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: the grant gives tokens, or the time is over."""
        timed_out = await self._wait()
        yield TriggerEvent({"grant": self.grant, "until": self.until, "timed_out": timed_out})

    async def _wait(self) -> bool:
        with origin_of(getattr(self, "task_instance", None)):
            async with shared_client(self.profile or self.grant) as client:
                return await self._until_token(client)

    async def _until_token(self, client: AsyncClient) -> bool:
        """Wait for a token; return whether the time was over before."""
        failing_since: float | None = None
        while True:
            ends: float | None = None
            try:
                stop = await self._ask(client)
                if stop is None:
                    return False
                if isinstance(stop, LoginPending):
                    ends = await _code_ends(client, stop)
                wait, failing_since = stop.wait_seconds or 0.0, None
            except SealError:
                raise
            except StoreError as problem:
                if failing_since is None:
                    failing_since = time.monotonic()
                    self.log.warning("The wait for %s goes on: %s", self.grant, problem)
                if time.monotonic() - failing_since > PATIENCE:
                    raise
                wait = ASK_EACH
            wait = max(SHORTEST_WAIT, min(wait, ASK_EACH))
            if self.until is not None:
                left = max(self.until, ends or 0.0) - time.time()
                if left <= 0:
                    return True
                wait = min(wait, left)
            # Hundreds of triggers that began together do not stay together.
            await asyncio.sleep(wait * random.uniform(0.8, 1.0))  # noqa: S311  # no secret

    async def _ask(self, client: AsyncClient) -> LoginPending | UnreachableError | None:
        """Ask for a token, which takes a step of an open login; return why there is none."""
        profile = self.profile or self.grant
        provider, stated = await asyncio.to_thread(configured.of_profile, profile)
        try:
            await client.get_token(self.grant, provider, purpose=self.purpose or stated)
        except LoginPending as pending:
            if pending.need_id not in (None, self.need_id):
                self.need_id = pending.need_id
                log_need(self.log, pending, show_link=self.show_link)
            return closed(pending)
        except UnreachableError as unreachable:
            if unreachable.wait_seconds is None:
                raise
            return unreachable
        return None


async def _code_ends(client: AsyncClient, pending: LoginPending) -> float | None:
    """Return when the code of an open login expires, if there is one."""
    if pending.flow_id is None:
        return None
    try:
        return (await client.get(pending.flow_id)).expires_at
    except UnknownLoginError:
        return None
