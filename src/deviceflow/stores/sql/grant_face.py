"""The methods of a sync SQL store that are about grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from deviceflow.stores.sql.grant_methods import GrantMethods
from deviceflow.stores.sql.grants import OvertakenError

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease, StoredGrant
    from deviceflow.core.secret import Secret
    from deviceflow.core.uses import Use
    from deviceflow.stores.sql.methods import Method

_T = TypeVar("_T")


class GrantFace(GrantMethods):
    """The methods of `Store` that are about grants."""

    def _run(self, method: Method[_T]) -> _T:
        raise NotImplementedError

    def find(self, name: str) -> Flow | None:
        """Return a copy of the open flow of a name, without its secrets; None if there is none."""
        return self._run(self._find(name))

    def load_grant(self, name: str, client_now: float) -> StoredGrant | None:
        """Return the grant of a name; None if there is none."""
        return self._run(self._load_grant("get_grant", client_now, name=name))

    def load_grant_by_id(self, grant_id: str, client_now: float) -> StoredGrant | None:
        """Return the grant of an id; None if there is none."""
        return self._run(self._load_grant("get_grant_by_id", client_now, id=grant_id))

    def load_grant_by_link(self, link: Secret, client_now: float) -> StoredGrant | None:
        """Return the grant whose last need has this link; None if there is none."""
        return self._run(self._load_grant_by_link(link, client_now))

    def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        """Keep a grant as it is after `event`, and a flow with it, unless others went on."""
        try:
            return self._run(self._commit_grant(grant, event, lease, release, flow, flow_event))
        except OvertakenError:
            return False

    def use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        """Note that the grant is used."""
        self._run(self._use_grant(grant_id, client_now, uses))

    def grants(self, client_now: float, after: str | None = None) -> list[StoredGrant | str]:
        """Return a page of all grants by their names; the name only, of one that is unreadable."""
        return self._run(self._grants(client_now, after))

    def due_grants(self, client_now: float, unused: float, limit: int) -> list[tuple[str, str]]:
        """Return the names and servers of grants that are due, and nobody has a lease of."""
        return self._run(self._due_grants(client_now, unused, limit))

    def due_notices(self, client_now: float, limit: int) -> list[str]:
        """Return names of grants with a need that the program is to be notified of."""
        return self._run(self._due_notices(client_now, limit))

    def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        """Put off what is to be notified of a grant, and return whether it was due."""
        return self._run(self._claim_notice(grant_id, client_now, seconds))

    def snooze_grant(self, name: str, client_now: float) -> None:
        """Have no sweep find a grant for an hour."""
        self._run(self._snooze_grant(name, client_now))

    def ended_grants(self, ended_before: float, after: str | None = None) -> list[str]:
        """Return a page of names of grants that ended before a time, in their order."""
        return self._run(self._ended_grants(ended_before, after))

    def delete_grant(self, grant: Grant) -> bool:
        """Delete a grant, if it is still at the same transition; return whether it was deleted."""
        return self._run(self._delete_grant(grant))
