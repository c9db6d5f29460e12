"""A grant as a row of a database, and the way back.

A row is authenticated as a login's is (see `rows`): a digest of all columns but those that can only
delay or bring forward a refresh, and a MAC of the digest and of the last event's hash. Each sealed
secret is bound to the grant's id, its name, its generation, and its provider with the endpoints.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import decode, encode
from deviceflow.core import grant_codec
from deviceflow.core.encryption import Keyless
from deviceflow.core.grant import Grant
from deviceflow.core.ports import StoredFlow
from deviceflow.core.secret import Hidden, without_traceback
from deviceflow.core.uses import of_json
from deviceflow.errors import DeviceFlowError, SealError
from deviceflow.stores.sql.rows import DAMAGED, damaged, name_of, provider_of, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deviceflow.core.uses import Use
    from deviceflow.stores.sql.rows import Rows

_BEFORE: Final = ("id", "name", "created_at", "asked", "provider")
_BEHIND: Final = ("link_hash", "seq", "state", "moved_at", "progress", "head", "mac")

GRANT_COLUMNS: Final = (*_BEFORE, *grant_codec.KINDS, *_BEHIND)
"""The columns that are authenticated, in the order in which they are read."""

_DIGESTED: Final = len(GRANT_COLUMNS) - 2
_CREATED_AT: Final = GRANT_COLUMNS.index("created_at")
_MOVED_AT: Final = GRANT_COLUMNS.index("moved_at")
_PROGRESS: Final = GRANT_COLUMNS.index("progress")
_SEQ: Final = GRANT_COLUMNS.index("seq")
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def uses_of(used_by: object) -> tuple[Use, ...]:
    """Return the uses in a column `used_by`, which is not authenticated: none of junk."""
    try:
        return of_json(decode(used_by)) if isinstance(used_by, str) else ()
    except DAMAGED:
        return ()


class Sealed:
    """The secrets of a grant's row, sealed, by their kinds."""

    __slots__ = ("columns",)

    def __init__(self, columns: Mapping[str, str | None]) -> None:
        self.columns: Mapping[str, str | None] = columns

    def __repr__(self) -> str:
        return "<sealed secrets of a grant>"


def link_hash(link: str) -> str:
    """Return what finds the need whose page has this link."""
    return hashlib.sha256(f"deviceflow need {link}".encode(errors="replace")).hexdigest()


class GrantRows:
    """Makes rows of grants, and grants of rows.

    Args:
        rows: Those of the store's logins, which know its id and its keys.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    # From a grant.

    def seal(self, grant: Grant) -> None:
        """Seal the grant's secrets anew."""
        grant.as_stored = without_traceback(lambda: self._sealed(grant))

    def _sealed(self, grant: Grant) -> Sealed:
        context = _context(grant, text_of(grant.provider))
        columns: dict[str, str | None] = {}
        for kind in grant_codec.KINDS:
            secret = grant_codec.hidden_part(grant, kind)
            columns[kind] = secret and self._rows.sealer.seal(secret, kind, *context)
        return Sealed(columns)

    def columns(self, grant: Grant) -> tuple[str, Hidden[dict[str, Any]]]:
        """Return the digest of the grant's row, and the row, which `Rows.sign` completes."""
        values = {
            "id": grant.id,
            "name": grant.name,
            "created_at": grant.created_at,
            "asked": text_of(grant.asked),
            "provider": text_of(grant.provider),
            **grant.as_stored.columns,
            "link_hash": grant.need and link_hash(grant.need.link.reveal()),
            "seq": grant.seq,
            "state": str(grant.state),
            "moved_at": grant.moved_at,
            "progress": encode(grant_codec.open_part(grant)).decode(),
        }
        digest = self._digest([*values.values()])
        times = {name: getattr(grant, name) for name in ("wake_at", "notify_at")}
        return digest, Hidden(values | times | {"ended_at": grant.purge_from})

    # And back.

    def grant(self, row: Hidden[Sequence[Any]]) -> Grant:
        """Return the grant of a row that begins with `GRANT_COLUMNS`.

        Raises:
            SealError: It was changed, or is sealed with a key that is not here.
            StoreError: It cannot be read.
        """
        found = without_traceback(lambda: self._read(row.reveal()))
        if isinstance(found, DeviceFlowError):
            raise found
        return found

    def _read(self, row: Sequence[Any]) -> Grant | DeviceFlowError:
        """Return the error, where there is one, without the frames that saw the row."""
        grant_id, name, created_at, asked, provider, *sealed = row[: len(_BEFORE) + _KINDS]
        _, seq, state, moved_at, progress, head, mac = row[len(_BEFORE) + _KINDS :][: len(_BEHIND)]
        try:
            self._rows.check_mac(f"{self._digest(row[:_DIGESTED])} {head}", mac)
            grant = Grant(grant_id, name, provider_of(asked), created_at * 1.0)
            grant.provider = provider_of(provider)
            record = decode(progress)
            grant_codec.fill(grant, record)
            grant.head = head
            context = _context(grant, provider)
            for kind, kept in zip(grant_codec.KINDS, sealed, strict=True):
                if kept is not None:
                    opened = self._rows.open(kept, kind, *context)
                    grant_codec.fill_hidden(grant, kind, opened)
            kept_columns = dict(zip(grant_codec.KINDS, sealed, strict=True))
            grant.as_stored = Sealed(kept_columns)
            told = (record["id"], grant.seq, grant.state, grant.moved_at)
            has_token = grant.token is not None
            if told == (grant_id, seq, state, moved_at) and has_token is grant.state.gives_tokens:
                return grant
        except DeviceFlowError as problem:
            problem.flow_id = name_of(grant_id)
            return problem.with_traceback(None)
        except DAMAGED:
            pass
        return damaged(grant_id)

    def stored(self, row: Sequence[Any]) -> StoredFlow:
        """Return what a row that begins with `GRANT_COLUMNS` says, true or not, to compare it."""
        digest, authentic = None, False
        head, mac = row[_DIGESTED : len(GRANT_COLUMNS)]
        with suppress(SealError, *DAMAGED):
            digest = self._digest(row[:_DIGESTED])
            if not isinstance(self._rows.sealer, Keyless):
                self._rows.check_mac(f"{digest} {head}", mac)
            authentic = True
        seq, state = row[_SEQ], row[_SEQ + 1]
        return StoredFlow(row[0], seq, state, row[_PROGRESS], head, digest, authentic)

    def _digest(self, values: Sequence[Any]) -> str:
        # SQLite gives whole numbers of a column of floats as integers at times.
        plain = [*values]
        for column in (_CREATED_AT, _MOVED_AT):
            plain[column] = plain[column] * 1.0
        return hashlib.sha256(_encode(["grant", self._rows.store_id, *plain]).encode()).hexdigest()


_KINDS: Final = len(grant_codec.KINDS)


def _context(grant: Grant, provider: str) -> tuple[str, str, str, str]:
    """Return what a sealed secret is bound to."""
    bound = hashlib.sha256(provider.encode()).hexdigest()[:32]
    return grant.id, grant.name, str(grant.generation), bound
