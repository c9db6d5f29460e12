"""Logins and grants as rows of a database: how a row is authenticated, and the way back.

All kinds of records go through one path. A table says which columns it has, and what is in them.
Secrets are sealed, each kind of secret in a column of its own. Two values authenticate a row. Its
*digest* covers all columns but those of the lease, the wake time and the like, which can only delay
or bring forward what is done; the event of the record's last transition names it. Where the trail
leaves that event out, the head has a mark of the audit key on both instead. The row's *MAC* covers
the digest and the head, under a key that is derived from the sealing key.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeVar

from deviceflow.audit.chain import decode, encode
from deviceflow.core import codec, grant_codec
from deviceflow.core.encryption import Keyless
from deviceflow.core.flow import Flow
from deviceflow.core.grant import Grant
from deviceflow.core.omitted import MOST_RESERVED, Omitted
from deviceflow.core.ports import StoredFlow
from deviceflow.core.secret import Hidden, without_traceback
from deviceflow.core.uses import of_json
from deviceflow.errors import DeviceFlowError, SealError, StoreError, UsageError
from deviceflow.providers.codec import provider_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deviceflow.core.encryption import Plain, Sealer
    from deviceflow.core.provider import Provider
    from deviceflow.core.uses import Use

_R = TypeVar("_R", Flow, Grant)

DAMAGED: Final = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What is raised where a row has something in it that was never written there."""

_MOVING: Final = ("seq", "state", "moved_at", "progress")
_SIGNED: Final = ("head", "mac")

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: that takes its time


class Table(ABC, Generic[_R]):
    """The table of a kind of records.

    Attributes:
        name: Its name.
        secrets: The kinds of the records' secrets, which are the names of their columns.
        columns: The columns that are authenticated, in the order in which they are read; the head
            and the MAC are the last two.
        times: The columns with the time of the next step, and with the holder of the lease.
        others: What is read of a row beside, in SQL: when it was used, by what, and who holds it.
    """

    name: ClassVar[str]
    secrets: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]]
    times: ClassVar[tuple[str, ...]]
    others: ClassVar[str]

    @abstractmethod
    def plain(self, record: _R) -> dict[str, Any]:
        """Return the columns but the provider's, those of secrets, the head and the MAC."""

    @abstractmethod
    def times_of(self, record: _R) -> dict[str, Any]:
        """Return the columns of `times`."""

    @abstractmethod
    def context(self, record: _R, provider: str) -> tuple[str, ...]:
        """Return what a sealed secret is bound to."""

    @abstractmethod
    def hidden_part(self, record: _R, secret: Any) -> Any:
        """Return the secrets of a kind in clear, or None if there are none."""

    @abstractmethod
    def digest(self, store_id: str, values: Sequence[Any]) -> str:
        """Return the digest of the columns but the head and the MAC; it may raise `DAMAGED`."""

    @abstractmethod
    def read(self, row: Mapping[str, Any], open_secret: Callable[..., Any] | None) -> _R:
        """Return the record of a row; it may raise `DAMAGED`.

        Args:
            row: The columns.
            open_secret: Opens a sealed secret; None for a record without its secrets.
        """


class _Logins(Table[Flow]):
    name = "flows"
    secrets = codec.KINDS
    columns = (
        *("id", "name", "created_at", "ended_at", "provider", "record"),
        *(*codec.KINDS, *_MOVING, *_SIGNED),
    )
    times = ("wake_at", "held_by")
    others = "NULL, NULL, held_by"

    def plain(self, record: Flow) -> dict[str, Any]:
        # Once a login has let go of its name, another one may have it.
        name = record.name if record.as_stored is None else record.as_stored.name
        progress = codec.progress(record)
        if record.omitted is not None:
            progress["omitted"] = record.omitted.as_fields()
        if record.reserved:
            progress["reserved"] = record.reserved
        return {
            "id": record.id,
            "name": name if record.open else None,
            "created_at": record.created_at,
            "ended_at": record.ended_at,
            "record": _encode(codec.recorded(record)),
            "seq": record.seq,
            "state": str(record.state),
            "moved_at": record.moved_at,
            "progress": encode(progress).decode(),
        }

    def times_of(self, record: Flow) -> dict[str, Any]:
        return {"wake_at": record.wake_at, "held_by": record.driver}

    def context(self, record: Flow, provider: str) -> tuple[str, ...]:
        bound = hashlib.sha256(f"{provider}\n{record.token_endpoint}".encode()).hexdigest()[:32]
        return record.id, bound

    def hidden_part(self, record: Flow, secret: codec.Kind) -> Any:
        return codec.hidden_part(record, secret)

    def digest(self, store_id: str, values: Sequence[Any]) -> str:
        # SQLite gives whole numbers of a column of floats as integers at times. float() would also
        # take a text or a blob with a number in it.
        login_id, name, created_at, ended_at, *rest = values[: -len(_MOVING)]
        times = [None if at is None else at * 1.0 for at in (created_at, ended_at)]
        fixed = _sha256(_encode([store_id, login_id, name, *times, *rest]))
        # No two rows give one text: the first four parts have no line breaks where they are right,
        # and in JSON there is none.
        seq, state, moved_at, progress = values[-len(_MOVING) :]
        if not (type(seq) is int and isinstance(state, str) and isinstance(progress, str)):
            raise TypeError
        return _sha256(f"{fixed}\n{seq}\n{state}\n{moved_at * 1.0!r}\n{progress}")

    def read(self, row: Mapping[str, Any], open_secret: Callable[..., Any] | None) -> Flow:
        flow = Flow(row["id"], provider_of(row["provider"]), 0.0)
        read = decode(row["record"]) | decode(row["progress"])
        head = row["head"].partition(" ")[0] if row["seq"] else None
        codec.fill(flow, read | {"head": head})
        flow.omitted = Omitted.of(read.get("omitted"))
        flow.reserved = read.get("reserved", 0)
        if type(flow.reserved) is not int or not 0 <= flow.reserved <= MOST_RESERVED:
            raise ValueError
        if open_secret is not None:
            for kind in codec.KINDS:
                if row[kind] is not None:
                    codec.fill_hidden(flow, kind, open_secret(flow, kind))
        told = (flow.id, flow.seq, flow.state, flow.created_at, flow.ended_at, flow.moved_at)
        fields = ("id", "seq", "state", "created_at", "ended_at", "moved_at")
        if told != tuple(row[field] for field in fields) or row["name"] not in (None, flow.name):
            raise ValueError
        return flow


class _Grants(Table[Grant]):
    name = "grants"
    secrets = grant_codec.KINDS
    columns = (
        *("id", "name", "created_at", "asked", "provider"),
        *(*grant_codec.KINDS, "link_hash", *_MOVING, *_SIGNED),
    )
    times = ("wake_at", "notify_at", "ended_at")
    others = "used_at, used_by, NULL"

    def plain(self, record: Grant) -> dict[str, Any]:
        return {
            "id": record.id,
            "name": record.name,
            "created_at": record.created_at,
            "asked": text_of(record.asked),
            "link_hash": record.need and link_hash(record.need.link.reveal()),
            "seq": record.seq,
            "state": str(record.state),
            "moved_at": record.moved_at,
            "progress": encode(grant_codec.open_part(record)).decode(),
        }

    def times_of(self, record: Grant) -> dict[str, Any]:
        return {
            "wake_at": record.wake_at,
            "notify_at": record.notify_at,
            "ended_at": record.purge_from,
        }

    def context(self, record: Grant, provider: str) -> tuple[str, ...]:
        return record.id, record.name, str(record.generation), _sha256(provider)[:32]

    def hidden_part(self, record: Grant, secret: grant_codec.Kind) -> Any:
        return grant_codec.hidden_part(record, secret)

    def digest(self, store_id: str, values: Sequence[Any]) -> str:
        plain = dict(zip(self.columns, values, strict=False))
        for name in ("created_at", "moved_at"):
            plain[name] = plain[name] * 1.0
        return _sha256(_encode(["grant", store_id, *plain.values()]))

    def read(self, row: Mapping[str, Any], open_secret: Callable[..., Any] | None) -> Grant:
        grant = Grant(row["id"], row["name"], provider_of(row["asked"]), row["created_at"] * 1.0)
        grant.provider = provider_of(row["provider"])
        record = decode(row["progress"])
        grant_codec.fill(grant, record)
        grant.head = row["head"]
        assert open_secret is not None  # noqa: S101  # a grant is never read without its secrets
        for kind in grant_codec.KINDS:
            if row[kind] is not None:
                grant_codec.fill_hidden(grant, kind, open_secret(grant, kind))
        told = (record["id"], grant.seq, grant.state, grant.moved_at)
        has_token = grant.token is not None
        if told != tuple(row[field] for field in ("id", "seq", "state", "moved_at")) or (
            has_token is not grant.state.gives_tokens
        ):
            raise ValueError
        return grant


LOGINS: Final = _Logins()
GRANTS: Final = _Grants()
TABLES: Final[Mapping[type[Any], Table[Any]]] = {Flow: LOGINS, Grant: GRANTS}
"""The tables by the kinds of their records."""


def table_of(record: Flow | Grant) -> Table[Any]:
    """Return the table that has a record's row."""
    return TABLES[type(record)]


class AsStored:
    """What a record's row has, and is written again as it is: the provider, and sealed secrets.

    Attributes:
        name: The name that the record has taken, if it has one still.
        columns: The columns.
        seq: The number of the last transition that the row knows of; None if that is the one before
            each event.
        moved: The number of the last event, and that of the row's transition before it.
    """

    __slots__ = ("columns", "moved", "name", "seq")

    def __init__(
        self, name: str | None, columns: Mapping[str, str | None], seq: int | None = None
    ) -> None:
        self.name = name
        self.columns: Mapping[str, str | None] = columns
        self.seq = seq
        self.moved = (-1, -1)

    def behind(self, former: AsStored | None) -> Self:
        """Return it with what a former one knows of the row's transitions."""
        if former is not None:
            self.seq, self.moved = former.seq, former.moved
        return self

    def before(self, seq: int) -> int:
        """Return the number of the row's last transition before an event, the same each time."""
        if self.moved[0] != seq:
            self.moved = (seq, seq - 1 if self.seq is None else self.seq)
        return self.moved[1]

    def __repr__(self) -> str:
        return "<stored part of a record>"


class Rows:
    """Makes rows of records, and records of rows.

    Args:
        store_id: The store's own name, so that a row of another one does not count here.
        find_sealer: Finds what seals secrets; again, where a row is not readable with what it
            found before: the keys may have been rotated since.
    """

    def __init__(self, store_id: str, find_sealer: Callable[[], Sealer | Plain | Keyless]) -> None:
        self.store_id = store_id
        self._find_sealer = find_sealer
        self.sealer = find_sealer()

    # From a record.

    def columns(self, record: Flow | Grant, *, seal: bool) -> tuple[str, Hidden[dict[str, Any]]]:
        """Return the digest of the record's row, and the row, which `sign` completes.

        Args:
            record: The record.
            seal: Whether its secrets are sealed anew.
        """
        table = table_of(record)
        values = table.plain(record)
        if seal or record.as_stored is None:
            columns = without_traceback(lambda: self._sealed(table, record))
            record.as_stored = AsStored(values["name"], columns).behind(record.as_stored)
        values |= record.as_stored.columns
        signed = [values[name] for name in table.columns[: -len(_SIGNED)]]
        return table.digest(self.store_id, signed), Hidden(values | table.times_of(record))

    def _sealed(self, table: Table[Any], record: Flow | Grant) -> dict[str, str | None]:
        provider = text_of(record.provider)
        context = table.context(record, provider)
        columns: dict[str, str | None] = {"provider": provider}
        for name in table.secrets:
            secret = table.hidden_part(record, name)
            columns[name] = secret and self.sealer.seal(secret, name, *context)
        return columns

    def sign(self, columns: Hidden[dict[str, Any]], digest: str, head: str | None) -> None:
        """Complete a row with its head and its MAC."""
        columns.reveal().update(head=head, mac=self.sealer.mac(f"{digest} {head}"))

    # And back.

    def record(self, table: Table[_R], row: Sequence[Any], *, secrets: bool = True) -> _R:
        """Return the record of a row that begins with the table's columns.

        What it raises must lose its frames, which show the row.

        Raises:
            SealError: It was changed, or is sealed with a key that is not here.
            StoreError: It cannot be read.
        """
        values = dict(zip(table.columns, row, strict=False))

        def open_secret(record: _R, name: str) -> Any:
            return self.open(values[name], name, *table.context(record, values["provider"]))

        try:
            self._check(table, row)
            record = table.read(values, open_secret if secrets else None)
        except DeviceFlowError as problem:
            problem.flow_id = name_of(values["id"])
            raise
        except DAMAGED:
            raise damaged(values["id"]) from None
        kept = {name: values[name] for name in ("provider", *table.secrets)}
        record.as_stored = AsStored(values["name"], kept, record.seq)
        return record

    def _check(self, table: Table[Any], row: Sequence[Any]) -> None:
        """See that a row is as it was written."""
        digest = self.digest(table, row)
        head, mac = row[len(table.columns) - len(_SIGNED) : len(table.columns)]
        signed = f"{digest} {head}"
        with suppress(SealError):  # whose traceback must not be kept as a context
            self.sealer.check(signed, mac)
            return
        self.sealer = self._find_sealer()
        self.sealer.check(signed, mac)

    def open(self, kept: object, *context: str) -> Any:
        """Return what was sealed; raises `SealError` where that cannot be."""
        if not isinstance(kept, str):
            raise TypeError
        with suppress(SealError):
            return self.sealer.open(kept, *context)
        self.sealer = self._find_sealer()
        return self.sealer.open(kept, *context)

    def stored(self, table: Table[Any], row: Sequence[Any]) -> StoredFlow:
        """Return what a row that begins with the table's columns says, true or not."""
        digest, authentic = None, False
        with suppress(SealError, *DAMAGED):
            digest = self.digest(table, row)
            if not isinstance(self.sealer, Keyless):
                self._check(table, row)
            authentic = True
        values = dict(zip(table.columns, row, strict=False))
        record_id, seq, state, progress, head = (
            values[name] for name in ("id", "seq", "state", "progress", "head")
        )
        return StoredFlow(record_id, seq, state, progress, head, digest, authentic)

    def digest(self, table: Table[Any], row: Sequence[Any]) -> str:
        """Return the digest of a row that begins with the table's columns; may raise `DAMAGED`."""
        return table.digest(self.store_id, row[: len(table.columns) - len(_SIGNED)])


def link_hash(link: str) -> str:
    """Return what finds the need whose page has this link."""
    return hashlib.sha256(f"deviceflow need {link}".encode(errors="replace")).hexdigest()


def uses_of(used_by: object) -> tuple[Use, ...]:
    """Return the uses in a column `used_by`, which is not authenticated: none of junk."""
    try:
        return of_json(decode(used_by)) if isinstance(used_by, str) else ()
    except DAMAGED:
        return ()


def damaged(record_id: object) -> StoreError:
    """Return the error for a row that has something in it that was never written there."""
    return StoreError(
        "The record of this flow is damaged.",
        flow_id=name_of(record_id),
        hint="Nothing was sent. Restore the store from a backup, or start a new login.",
    )


def rewound(record_id: str) -> StoreError:
    """Return the error for an event whose number is taken: the row is older than its events."""
    return StoreError(
        "The row of this login or grant was set back to an earlier state: its trail goes on behind"
        " it. Somebody has put an old copy of it into the store, or has added an event.",
        flow_id=record_id,
        hint="Nothing was changed. What it was: deviceflow audit verify. Restore the whole store"
        " from a backup, or log in anew under another name.",
    )


def ignored(record_id: str) -> StoreError:
    """Return the error for a statement that did nothing, where it should have."""
    return StoreError(
        "The database ignored a statement without an error.",
        flow_id=record_id,
        hint="Check whether its tables have triggers or rules, or lack their primary keys. Restore"
        " the store from a backup.",
    )


def name_of(record_id: object) -> str:
    """Return an id as it can be shown, whatever a database has there."""
    return record_id if isinstance(record_id, str) else repr(record_id)


def by_id(row: Any) -> str:
    """Return what rows are sorted by: an id that is not text comes last, as in a database."""
    return row.flow_id if isinstance(row.flow_id, str) else f"\U0010ffff{row.flow_id!r}"


@lru_cache(256)
def text_of(provider: Provider) -> str:
    """Return a provider's settings as the text that a row has."""
    return json.dumps(provider.to_dict(), sort_keys=True, separators=(",", ":"))


@lru_cache(256)
def provider_of(text: str) -> Provider:
    """Return the provider of such a text."""
    return provider_from_dict(json.loads(text))


@lru_cache(256)
def server_of(text: str) -> str:
    """Return the server of such a text; nothing if the text is damaged."""
    with suppress(UsageError, *DAMAGED):
        return provider_of(text).server
    return ""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
