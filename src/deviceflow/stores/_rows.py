"""A flow as a row of a database: its columns, how the row is authenticated, and the way back.

What queries need are columns of their own, the rest is JSON, and secrets are sealed, by kind. Two
values authenticate a row. Its *digest* covers all columns but those of the lease, the wake time and
the back-off, which can only delay a login; the event of the flow's last transition names it. Its
*MAC* covers the digest and that event's hash, under a key that is derived from the sealing key.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core import codec
from deviceflow.core.encryption import Keyless
from deviceflow.core.flow import Flow
from deviceflow.core.ports import StoredFlow
from deviceflow.core.secret import Hidden, unseen
from deviceflow.errors import DeviceFlowError, SealError, StoreError
from deviceflow.providers.codec import provider_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deviceflow.core.encryption import Plain, Sealer
    from deviceflow.core.provider import Provider

COLUMNS: Final = (
    "id",
    "seq",
    "state",
    "live_name",
    "created_at",
    "ended_at",
    "moved_at",
    "provider",
    "record",
    "code",
    "token",
    "revoke",
    "head",
    "mac",
)
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

_COVERED: Final = COLUMNS[:-2]
_TIMES: Final = slice(COLUMNS.index("created_at"), COLUMNS.index("moved_at") + 1)
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: that takes its time


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
        """Seal the flow's secrets, for each row of it until they are sealed anew."""
        # Once a flow has let go of its key, another one may have it.
        live_name = flow.name if flow.as_stored is None else flow.as_stored[0]
        provider = _text_of(flow.provider)
        bound = _bound(provider, flow)

        def sealed(kind: codec.Kind) -> str | None:
            hidden = codec.hidden_part(flow, kind)
            return hidden and self.sealer.seal(hidden, kind, flow.id, bound)

        kept = unseen(lambda: Hidden([sealed(kind) for kind in codec.KINDS]))
        flow.as_stored = (live_name if flow.live else None, provider, *kept.reveal())

    def columns(self, flow: Flow) -> tuple[str, Hidden[dict[str, Any]]]:
        """Return the digest of the flow's row, and the row, which `sign` completes."""
        return unseen(lambda: self._columns(flow))

    def _columns(self, flow: Flow) -> tuple[str, Hidden[dict[str, Any]]]:
        assert flow.as_stored is not None  # noqa: S101  # `seal` came before
        live_name, provider, *sealed = flow.as_stored
        open_part = codec.open_part(flow)
        del open_part["head"]
        values: dict[str, Any] = {
            "id": flow.id,
            "seq": flow.seq,
            "state": flow.state.value,
            "live_name": live_name,
            "created_at": flow.created_at,
            "ended_at": flow.ended_at,
            "moved_at": flow.moved_at,
            "provider": provider,
            "record": _encode(open_part),
            **dict(zip(codec.KINDS, sealed, strict=True)),
        }
        digest = self._digest([values[name] for name in _COVERED])
        return digest, Hidden(values | {"wake_at": flow.wake_at})

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
        found = unseen(lambda: self._read(row.reveal(), secrets=secrets))
        if isinstance(found, DeviceFlowError):
            raise found
        return found

    def _read(self, row: Sequence[Any], *, secrets: bool) -> Flow | DeviceFlowError:
        """Return the error, where there is one, without the frames that saw the row."""
        flow_id, seq, state, live_name, created_at, ended_at, moved_at, provider, text = row[:9]
        sealed, head = row[9:12], row[12]
        try:
            self._check(row)
            flow = Flow(flow_id, _provider(provider), 0.0)
            codec.fill(flow, json.loads(text) | {"head": head if seq else None})
            flow.as_stored = (live_name, provider, *sealed)
            if secrets:
                bound = _bound(provider, flow)
                for kind, kept in zip(codec.KINDS, sealed, strict=True):
                    if kept is not None:
                        codec.fill_hidden(flow, kind, self.open(kept, kind, flow_id, bound))
            named = (flow.id, flow.seq, flow.state, flow.created_at, flow.ended_at, flow.moved_at)
            if named == (flow_id, seq, state, created_at, ended_at, moved_at) and (
                live_name in (None, flow.name)
            ):
                return flow
        except DeviceFlowError as problem:
            problem.flow_id = name_of(flow_id)
            return problem.with_traceback(None)
        except DAMAGED:
            pass
        return StoreError(
            "The record of this flow is damaged.",
            flow_id=name_of(flow_id),
            hint="Nothing was sent. Restore the store from a backup, or start a new login.",
        )

    def _check(self, row: Sequence[Any]) -> None:
        signed = f"{self._digest(row[: len(_COVERED)])} {row[12]}"
        with suppress(SealError):
            self.sealer.check(signed, row[13])
            return
        self._find_sealer_again()
        self.sealer.check(signed, row[13])

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

    def stands(self, row: Sequence[Any]) -> StoredFlow:
        """Return what a row that begins with `COLUMNS` says, true or not, to compare it."""
        digest, authentic = None, False
        with suppress(SealError, *DAMAGED):
            digest = self._digest(row[: len(_COVERED)])
            if not isinstance(self.sealer, Keyless):
                self._check(row)
            authentic = True
        flow_id, seq, state = row[:3]
        return StoredFlow(flow_id, seq, state, row[8], row[12], digest, authentic)

    def _digest(self, values: Sequence[Any]) -> str:
        # SQLite's RETURNING gives whole numbers of a column of floats as integers. float() would
        # also take a text or a blob with a number in it.
        times = [None if at is None else at * 1.0 for at in values[_TIMES]]
        values = [*values[: _TIMES.start], *times, *values[_TIMES.stop :]]
        return hashlib.sha256(_encode([self.store_id, *values]).encode()).hexdigest()


def name_of(flow_id: object) -> str:
    """Return an id as it can be shown, whatever a database has there."""
    return flow_id if isinstance(flow_id, str) else repr(flow_id)


def _bound(provider: str, flow: Flow) -> str:
    """Return a digest of where a flow's secrets may be sent, for whom, and on what conditions."""
    return hashlib.sha256(f"{provider}\n{flow.token_endpoint}".encode()).hexdigest()[:32]


@lru_cache(256)
def _text_of(provider: Provider) -> str:
    return json.dumps(provider.to_dict(), sort_keys=True, separators=(",", ":"))


@lru_cache(256)
def _provider(text: str) -> Provider:
    return provider_from_dict(json.loads(text))
