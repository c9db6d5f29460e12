"""Flows in this process's memory."""

from __future__ import annotations

import marshal
import threading
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.errors import UnknownFlowError
from deviceflow.flow import Flow
from deviceflow.secret import Secret
from deviceflow.stores.base import Claim, Held

if TYPE_CHECKING:
    from deviceflow.flow import Transition
    from deviceflow.machine import State


class MemoryStore:
    """Keeps flows while the process lives; nothing of them is written anywhere."""

    persistent = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flows: dict[str, _Parked] = {}
        self._keys: dict[str, str] = {}
        self._leases: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: Flow) -> Flow:
        """Keep a new flow, or return the live one of the same key instead."""
        with self._lock:
            if flow.key is not None:
                lives = self._flows.get(self._keys.get(flow.key, ""))
                if lives is not None and not lives.state.ended:
                    return _unpark(lives)
                self._keys[flow.key] = flow.id
            self._flows[flow.id] = _park(flow)
        return flow

    def get(self, flow_id: str) -> Flow:
        """Return a copy of the flow, or raise `UnknownFlowError`."""
        with self._lock:
            return self._find(flow_id)

    def claim(self, flow_id: str, owner: str, now: float, seconds: float) -> Claim | Held:
        """Take the flow's lease for so many seconds, or say who has it."""
        with self._lock:
            flow = self._find(flow_id)
            left_by, until = self._leases.get(flow_id, (None, now))
            if until > now:
                return Held(flow, until - now)
            self._leases[flow_id] = (owner, now + seconds)
            return Claim(flow, now, left_by)

    def commit(self, flow: Flow, transition: Transition, *, release: str | None = None) -> bool:
        """Keep the flow as it is after `transition`, unless others went on meanwhile."""
        with self._lock:
            if release is not None:
                self._release(flow.id, release)
            stored = self._flows.get(flow.id)
            if stored is None or stored.seq != transition.seq - 1:
                return False
            self._flows[flow.id] = _park(flow)
            return True

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""
        with self._lock:
            self._release(flow_id, owner)

    def remove(self, flow_id: str) -> None:
        """Forget the flow."""
        with self._lock:
            parked = self._flows.pop(flow_id, None)
            self._leases.pop(flow_id, None)
            key = None if parked is None else _unpark(parked).key
            if key is not None and self._keys.get(key) == flow_id:
                del self._keys[key]

    def _find(self, flow_id: str) -> Flow:
        parked = self._flows.get(flow_id)
        if parked is None:
            raise UnknownFlowError(flow_id=flow_id)
        return _unpark(parked)

    def _release(self, flow_id: str, owner: str) -> None:
        if self._leases.get(flow_id, ("", 0.0))[0] == owner:
            del self._leases[flow_id]


# Many flows wait at once, most of them alike but for their codes and times. What they have in
# common is kept once, and the rest as the bytes of a tuple: half of what a `Flow` takes.

_ALIKE: Final = ("provider", "interval", "reason", "token_endpoint", "verification_uri")
_ASIDE: Final = ("token", "verifier", "to_revoke")
_OWN: Final = tuple(
    sorted({*Flow.__slots__} - {*_ALIKE, *_ASIDE, "device_code", "id", "seq", "state"})
)
_alike_of: Final = attrgetter(*_ALIKE)
_aside_of: Final = attrgetter(*_ASIDE)
_own_of: Final = attrgetter(*_OWN)
_NOTHING_ASIDE: Final = (None, None, ())


class _Parked(NamedTuple):
    flow_id: str
    state: State
    seq: int
    aside: tuple[Any, ...]
    alike: tuple[Any, ...]
    own: bytes

    def __repr__(self) -> str:
        return f"<parked flow {self.flow_id}>"


@lru_cache(1024)
def _once(alike: tuple[Any, ...]) -> tuple[Any, ...]:
    return alike


def _park(flow: Flow) -> _Parked:
    code = flow.device_code
    own = marshal.dumps((None if code is None else code.reveal(), *_own_of(flow)))
    aside = _aside_of(flow)
    if aside == _NOTHING_ASIDE:
        aside = _NOTHING_ASIDE
    return _Parked(flow.id, flow.state, flow.seq, aside, _once(_alike_of(flow)), own)


def _unpark(parked: _Parked) -> Flow:
    flow = object.__new__(Flow)
    flow.id, flow.state, flow.seq = parked[:3]
    for name, value in zip(_ALIKE + _ASIDE, parked.alike + parked.aside, strict=True):
        setattr(flow, name, value)
    # Behind an iterator, since a list would show the code where a traceback shows locals.
    own = iter(marshal.loads(parked.own))  # noqa: S302  # this process wrote it
    flow.device_code = _secret(next(own))
    for name, value in zip(_OWN, own, strict=True):
        setattr(flow, name, value)
    return flow


def _secret(text: str | None) -> Secret | None:
    return None if text is None else Secret(text)
