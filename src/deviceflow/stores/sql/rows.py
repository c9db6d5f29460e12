"""A flow as a row of a database: its columns, how the row is authenticated, and the way back.

A row has two parts. What is *fixed* is written when the flow is added, and by the transitions that
change its secrets or end it. What *moves* with every other transition is small. Secrets are sealed,
by kind. Two values authenticate a row. Its *digest* covers all columns but those of the lease, the
wake time and the snoozes, which can only delay a login; the event of the flow's last transition
names it. Where the trail leaves that event out, the head has a mark of the audit key on both
instead. Its *MAC* covers the digest and that event's hash, under a key that is derived from the
sealing key. The fixed part has a digest of its own, so that a move need not look at it again.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import decode, encode
from deviceflow.core import codec
from deviceflow.core.encryption import Keyless
from deviceflow.core.flow import Flow
from deviceflow.core.omitted import Omitted
from deviceflow.core.ports import StoredFlow
from deviceflow.core.secret import Hidden, without_traceback
from deviceflow.errors import DeviceFlowError, SealError, StoreError, UsageError
from deviceflow.providers.codec import provider_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deviceflow.core.encryption import Plain, Sealer
    from deviceflow.core.provider import Provider
    from deviceflow.stores.sql.remembered import RememberedFlow

FIXED: Final = (
    "id",
    "open_name",
    "created_at",
    "ended_at",
    "provider",
    "record",
    "code",
    "token",
    "revoke",
)
"""The columns of what is fixed, in the order in which they are digested."""

MOVING: Final = ("seq", "state", "moved_at", "progress", "head", "mac")
"""The columns of what moves."""

COLUMNS: Final = (*FIXED, *MOVING)
"""The columns that are authenticated, in the order in which they are read."""

DAMAGED: Final = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What is raised where a row has something in it that was never written there."""

_RECORDED: Final = (
    "created_at",
    "ended_at",
    "name",
    "needs_approver",
    "purpose",
    "settings",
    "token_endpoint",
    "user_code",
    "verification_uri",
    "verification_uri_complete",
)
"""What of a flow is in the column `record`, beside `extra`."""

_PROGRESS: Final = (
    "attempt",
    "detail",
    "due_at",
    "expires_at",
    "failures",
    "handover",
    "id",
    "in_doubt",
    "interval",
    "last_poll_owed",
    "moved_at",
    "orphaned_tokens",
    "reason",
    "revocations",
    "seq",
    "slow_downs",
    "state",
    "unreadable",
)
"""What of a flow is in the column `progress`, with `omitted` where the trail leaves events out."""

_progress_of: Final = attrgetter(*_PROGRESS)
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: that takes its time


class Fixed:
    """What of a flow's row stays as it is while the flow moves on.

    Attributes:
        open_name: The name that the flow has taken, if it has one still.
        digest: The digest of the fixed columns.
        columns: Those that are sealed or in JSON, until they are written.
        remembered: What the flow was made of, if it was remembered by this process, and what
            `fixed_of` returned then.
    """

    __slots__ = ("columns", "digest", "open_name", "remembered")

    def __init__(
        self, open_name: str | None, digest: str, columns: Mapping[str, Any] | None = None
    ) -> None:
        self.open_name = open_name
        self.digest = digest
        self.columns: Mapping[str, Any] | None = columns
        self.remembered: tuple[RememberedFlow, object] | None = None

    def __repr__(self) -> str:
        return "<fixed part of a row>"


class Rows:
    """Makes rows of flows, and flows of rows.

    Args:
        store_id: The store's own name, so that a row of another one does not count here.
        find_sealer: Finds what seals secrets; again, where a row is not readable with what it
            found before: the keys may have been rotated since.
    """

    def __init__(self, store_id: str, find_sealer: Callable[[], Sealer | Plain | Keyless]) -> None:
        self.store_id = store_id
        self._find_sealer = find_sealer
        self.sealer = find_sealer()

    # From a flow.

    def seal(self, flow: Flow) -> None:
        """Make the fixed part of the flow's row anew, its secrets sealed."""
        flow.as_stored = without_traceback(lambda: self._fixed(flow))

    def _fixed(self, flow: Flow) -> Fixed:
        # Once a flow has let go of its name, another one may have it.
        kept = flow.name if flow.as_stored is None else flow.as_stored.open_name
        provider = text_of(flow.provider)
        bound = _bound(provider, flow)
        record = {name: getattr(flow, name) for name in _RECORDED} | {"extra": dict(flow.extra)}
        open_name = kept if flow.open else None
        columns = {
            "id": flow.id,
            "open_name": open_name,
            "created_at": flow.created_at,
            "ended_at": flow.ended_at,
            "provider": provider,
            "record": _encode(record),
        }
        for kind in codec.KINDS:
            secret = codec.hidden_part(flow, kind)
            columns[kind] = secret and self.sealer.seal(secret, kind, flow.id, bound)
        return Fixed(open_name, self._fixed_digest([*columns.values()]), columns)

    def columns(self, flow: Flow) -> tuple[str, Hidden[dict[str, Any]]]:
        """Return the digest of the flow's row, and the row, which `sign` completes.

        It has all columns if the fixed part was made anew, else those that move.
        """
        fixed = flow.as_stored
        assert fixed is not None  # noqa: S101  # `seal` came before
        progress = progress_of(flow)
        state = str(flow.state)
        digest = _digest(fixed.digest, flow.seq, state, flow.moved_at, progress)
        values = {
            "id": flow.id,
            "seq": flow.seq,
            "state": state,
            "moved_at": flow.moved_at,
            "progress": progress,
            "wake_at": flow.wake_at,
        }
        if fixed.columns is not None:
            values |= fixed.columns
        return digest, Hidden(values)

    def sign(self, columns: Hidden[dict[str, Any]], digest: str, head: str | None) -> None:
        """Complete a row with its head and its MAC."""
        mac = self.sealer.mac(f"{digest} {head}")
        columns.reveal().update(head=head, mac=mac)

    # And back.

    def flow(self, row: Hidden[Sequence[Any]], *, secrets: bool = True) -> Flow:
        """Return the flow of a row that begins with `COLUMNS`.

        Raises:
            SealError: It was changed, or is sealed with a key that is not here.
            StoreError: It cannot be read.
        """
        found = without_traceback(lambda: self._read(row.reveal(), secrets=secrets))
        if isinstance(found, DeviceFlowError):
            raise found
        return found

    def _read(self, row: Sequence[Any], *, secrets: bool) -> Flow | DeviceFlowError:
        """Return the error, where there is one, without the frames that saw the row."""
        flow_id, open_name, created_at, ended_at, provider, record, *sealed = row[: len(FIXED)]
        seq, state, moved_at, progress, head = row[len(FIXED) : len(COLUMNS) - 1]
        try:
            fixed = self._check(row)
            flow = Flow(flow_id, provider_of(provider), 0.0)
            read = decode(record) | decode(progress)
            codec.fill(flow, read | {"head": head.partition(" ")[0] if seq else None})
            flow.omitted = Omitted.of(read.get("omitted"))
            flow.as_stored = Fixed(open_name, fixed)
            if secrets:
                bound = _bound(provider, flow)
                for kind, kept in zip(codec.KINDS, sealed, strict=True):
                    if kept is not None:
                        codec.fill_hidden(flow, kind, self.open(kept, kind, flow_id, bound))
            named = (flow.id, flow.seq, flow.state, flow.created_at, flow.ended_at, flow.moved_at)
            if named == (flow_id, seq, state, created_at, ended_at, moved_at) and (
                open_name in (None, flow.name)
            ):
                return flow
        except DeviceFlowError as problem:
            problem.flow_id = name_of(flow_id)
            return problem.with_traceback(None)
        except DAMAGED:
            pass
        return damaged(flow_id)

    def _check(self, row: Sequence[Any]) -> str:
        """See that a row is as it was written, and return the digest of its fixed part."""
        fixed = self._fixed_digest(row[: len(FIXED)])
        *moving, head, mac = row[len(FIXED) : len(COLUMNS)]
        self.check_mac(f"{_digest(fixed, *moving)} {head}", mac)
        return fixed

    def check_mac(self, signed: str, mac: object) -> None:
        """Check the MAC of a row; raises `SealError` where it is wrong, or the key is not here."""
        with suppress(SealError):  # whose traceback must not be kept as a context
            self.sealer.check(signed, mac)
            return
        self._find_sealer_again()
        self.sealer.check(signed, mac)

    def open(self, kept: object, *context: str) -> Any:
        """Return what was sealed; raises `SealError` where that cannot be."""
        if not isinstance(kept, str):
            raise TypeError
        with suppress(SealError):
            return self.sealer.open(kept, *context)
        self._find_sealer_again()
        return self.sealer.open(kept, *context)

    def _find_sealer_again(self) -> None:
        self.sealer = self._find_sealer()

    def stored(self, row: Sequence[Any]) -> StoredFlow:
        """Return what a row that begins with `COLUMNS` says, true or not, to compare it."""
        digest, authentic = None, False
        with suppress(SealError, *DAMAGED):
            digest = self.digest(row)
            if not isinstance(self.sealer, Keyless):
                self._check(row)
            authentic = True
        seq, state, _, progress, head = row[len(FIXED) : len(COLUMNS) - 1]
        return StoredFlow(row[0], seq, state, progress, head, digest, authentic)

    def digest(self, row: Sequence[Any]) -> str:
        """Return the digest of a row that begins with `COLUMNS`; raises one of `DAMAGED`."""
        moving = row[len(FIXED) : len(COLUMNS) - 2]
        return _digest(self._fixed_digest(row[: len(FIXED)]), *moving)

    def _fixed_digest(self, values: Sequence[Any]) -> str:
        # SQLite gives whole numbers of a column of floats as integers at times. float() would also
        # take a text or a blob with a number in it.
        flow_id, open_name, created_at, ended_at, *rest = values
        times = [None if at is None else at * 1.0 for at in (created_at, ended_at)]
        text = _encode([self.store_id, flow_id, open_name, *times, *rest])
        return hashlib.sha256(text.encode()).hexdigest()


def progress_of(flow: Flow) -> str:
    """Return what the column `progress` of the flow's row has."""
    fields = dict(zip(_PROGRESS, _progress_of(flow), strict=True))
    if flow.omitted is not None:
        fields["omitted"] = flow.omitted._asdict()
    return encode(fields).decode()


def _digest(fixed: str, seq: Any, state: Any, moved_at: Any, progress: Any) -> str:
    # No two rows give one text: the first four parts have no line breaks where they are right, and
    # in JSON there is none.
    if not (type(seq) is int and isinstance(state, str) and isinstance(progress, str)):
        raise TypeError
    text = f"{fixed}\n{seq}\n{state}\n{moved_at * 1.0!r}\n{progress}"
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(flow_id: object) -> StoreError:
    """Return the error for a row that has something in it that was never written there."""
    return StoreError(
        "The record of this flow is damaged.",
        flow_id=name_of(flow_id),
        hint="Nothing was sent. Restore the store from a backup, or start a new login.",
    )


def rewound() -> StoreError:
    """Return the error for an event whose number is taken: the row is older than its events."""
    return StoreError(
        "The row of this login or grant was set back to an earlier state: its trail goes on behind"
        " it. Somebody has put an old copy of it into the store, or has added an event.",
        hint="Nothing was changed. What it was: deviceflow audit verify. Restore the whole store"
        " from a backup, or log in anew under another name.",
    )


def name_of(flow_id: object) -> str:
    """Return an id as it can be shown, whatever a database has there."""
    return flow_id if isinstance(flow_id, str) else repr(flow_id)


def _bound(provider: str, flow: Flow) -> str:
    """Return a digest of the endpoints, the client and the requirements of a flow."""
    return hashlib.sha256(f"{provider}\n{flow.token_endpoint}".encode()).hexdigest()[:32]


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
