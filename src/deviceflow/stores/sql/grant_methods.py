"""The methods of a SQL store that are about grants, for its faces; see `GrantOperations`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.audit.chain import encode
from deviceflow.core.actions import ACTIONS
from deviceflow.core.encryption import PLAIN
from deviceflow.core.sanitize import storable
from deviceflow.core.uses import to_json
from deviceflow.stores.sql.grant_rows import link_hash
from deviceflow.stores.sql.grants import PAGE, SNOOZE
from deviceflow.stores.sql.operations import query, statement
from deviceflow.stores.sql.rows import name_of, server_of

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease, StoredGrant
    from deviceflow.core.secret import Hidden, Secret
    from deviceflow.core.uses import Use
    from deviceflow.stores.sql.connection import Mode, Operation
    from deviceflow.stores.sql.grants import GrantOperations
    from deviceflow.stores.sql.methods import Job, Method
    from deviceflow.stores.sql.remembered import RememberedFlows
    from deviceflow.stores.sql.rows import Rows


class GrantMethods:
    """The methods about grants, as generators of jobs."""

    _rows: Rows
    _of_grants: GrantOperations
    _remembered: RememberedFlows

    def _job(
        self,
        operation: Operation[Any],
        mode: Mode = "write",
        client_now: float = 0.0,
        flow_id: str | None = None,
    ) -> Job:
        raise NotImplementedError

    def _overwrite_deleted(self) -> Method[None]:
        raise NotImplementedError

    def _find(self, name: str) -> Method[Flow | None]:
        operation = query("get_by_open_name", {"open_name": storable(name)}, secret=True)
        found: list[Hidden[Any]] = yield self._job(operation, "read")
        return self._rows.flow(found[0], secrets=False) if found else None

    def _load_grant(self, by: str, client_now: float, **value: str) -> Method[StoredGrant | None]:
        values = {name: storable(text) for name, text in value.items()}
        job = self._job(query(by, values, secret=True), "read", client_now)
        found: list[Hidden[Any]] = yield job
        return self._of_grants.stored(found[0]) if found else None

    def _load_grant_by_link(self, link: Secret, client_now: float) -> Method[StoredGrant | None]:
        found = link_hash(link.reveal())
        return (yield from self._load_grant("get_grant_by_link", client_now, link_hash=found))

    def _commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        lease: GrantLease | None,
        release: str | None,
        flow: Flow | None,
        flow_event: dict[str, Any] | None,
    ) -> Method[bool]:
        now = 0.0 if lease is None else lease.client_now
        self._job(query("now", {}), "durable")  # before anything is computed
        operation = self._of_grants.commit(grant, event, lease, release, flow, flow_event)
        if flow is not None:
            self._remembered.forget(flow.id)
        kept: bool = yield self._job(operation, "durable", now)
        if kept and ACTIONS[event["action"]].wipes and self._rows.sealer.prefix == PLAIN:
            yield from self._overwrite_deleted()
        return kept

    def _use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> Method[None]:
        values = {"id": grant_id, "used_by": encode(to_json(uses)).decode()}
        yield self._job(statement("use_grant", values), "lease", client_now)

    def _grants(self, client_now: float, after: str | None) -> Method[list[StoredGrant | str]]:
        operation = self._of_grants.page(after)
        found: list[Hidden[Any]] = yield self._job(operation, "read", client_now)
        return [self._of_grants.readable(row) for row in found]

    def _due_grants(
        self, client_now: float, unused: float, limit: int
    ) -> Method[list[tuple[str, str]]]:
        values = {"unused": unused, "limit": limit, "owner": None}
        found = yield self._job(query("due_grants", values), "read", client_now)
        return [(name, server_of(provider)) for name, provider in found if isinstance(name, str)]

    def _due_notices(self, client_now: float, limit: int) -> Method[list[str]]:
        found = yield self._job(query("due_notices", {"limit": limit}), "read", client_now)
        return [name for (name,) in found if isinstance(name, str)]

    def _claim_notice(self, grant_id: str, client_now: float, seconds: float) -> Method[bool]:
        values = {"id": grant_id, "seconds": seconds}
        changed: int = yield self._job(statement("claim_notice", values), "lease", client_now)
        return changed == 1

    def _snooze_grant(self, name: str, client_now: float) -> Method[None]:
        values = {"name": storable(name), "seconds": SNOOZE}
        yield self._job(statement("snooze_grant", values), "lease", client_now)

    def _ended_grants(self, ended_before: float, after: str | None) -> Method[list[str]]:
        values = {"ended_before": ended_before, "name": storable(after or ""), "limit": PAGE}
        found = yield self._job(query("ended_grants", values), "read")
        return [name_of(name) for (name,) in found]

    def _delete_grant(self, grant: Grant) -> Method[bool]:
        operation = self._of_grants.delete(grant)
        return bool((yield self._job(operation, "durable")))
