"""A waiting flow in little memory, from which the flow is made again for its next poll.

Many flows wait at once, and most of them are alike but for their codes and times. What they have in
common is kept once. What does not change while a flow waits is kept as the bytes of a tuple, and is
written once; a poll replaces a few numbers.
"""

from __future__ import annotations

import marshal
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.flow import Flow
from deviceflow.core.secret import Secret, without_frames
from deviceflow.core.text import CleanText, PersonText

if TYPE_CHECKING:
    from deviceflow.core.provider import Provider

_ALIKE: Final = (
    *("provider", "token_endpoint", "verification_uri", "interval", "reason", "detail", "handover"),
    *("failures", "unreadable", "slow_downs", "in_doubt", "last_poll_owed", "orphaned_tokens"),
    *("revocations", "settings", "needs_approver"),
)
_ASIDE: Final = ("omitted", "to_revoke", "token", "verifier")
_FIXED: Final = (
    *("device_code", "created_at", "ended_at", "expires_at", "extra", "name", "purpose"),
    *("user_code", "verification_uri_complete"),
)
_alike_of: Final = attrgetter(*_ALIKE)
_aside_of: Final = attrgetter(*_ASIDE)
_NOTHING_ASIDE: Final = (None, (), None, None)

fixed_of: Final = attrgetter(*_FIXED)
"""Returns what of a flow is kept as bytes."""


class Parked:
    """All of a flow but its head and `as_stored`.

    It is not a tuple: what renders locals would look into that.

    Args:
        flow: The flow.
    """

    __slots__ = (
        "_alike",
        "_aside",
        "_attempt",
        "_due_at",
        "_fixed",
        "_moved_at",
        "flow_id",
        "seq",
        "state",
    )

    def __init__(self, flow: Flow) -> None:
        self.flow_id: str = flow.id
        self._alike: tuple[Any, ...] = ()
        self._aside: tuple[Any, ...] = _NOTHING_ASIDE
        self._fixed = b""
        self.update(flow, moved_only=False)

    def __repr__(self) -> str:
        return f"<parked flow {self.flow_id}>"

    @property
    def server(self) -> str:
        """The server that the flow is at."""
        provider: Provider = self._alike[0]
        return provider.server

    def update(self, flow: Flow, *, moved_only: bool) -> None:
        """Take over what has changed of the flow.

        Args:
            flow: The flow as it is now.
            moved_only: Whether `fixed_of` returns the same as when the flow was made of this.
        """
        if not moved_only:
            self._fixed = _packed(flow)
        if (alike := _alike_of(flow)) != self._alike:
            self._alike = _once(alike)
        aside = _aside_of(flow)
        self._aside = _NOTHING_ASIDE if aside == _NOTHING_ASIDE else aside
        self.state, self.seq, self._attempt = flow.state, flow.seq, flow.attempt
        self._due_at, self._moved_at = flow.due_at, flow.moved_at

    def flow(self) -> Flow:
        """Return the flow. Its head and `as_stored` are None."""
        flow = object.__new__(Flow)
        flow.id, flow.state, flow.seq = self.flow_id, self.state, self.seq
        flow.attempt, flow.due_at, flow.moved_at = self._attempt, self._due_at, self._moved_at
        # Each part at once, in the order of its names. One by one takes three times as long.
        (
            flow.provider,
            flow.token_endpoint,
            flow.verification_uri,
            flow.interval,
            flow.reason,
            flow.detail,
            flow.handover,
            flow.failures,
            flow.unreadable,
            flow.slow_downs,
            flow.in_doubt,
            flow.last_poll_owed,
            flow.orphaned_tokens,
            flow.revocations,
            flow.settings,
            flow.needs_approver,
        ) = self._alike
        flow.omitted, flow.to_revoke, flow.token, flow.verifier = self._aside
        self._unpack(flow)
        flow.head = flow.clock_ahead = flow.as_stored = flow.driver = flow.skipped = None
        flow.reserved = 0
        return flow

    def _unpack(self, flow: Flow) -> None:
        """Give a flow what `_packed` returned of it."""
        try:
            # Not by way of a local, which would show the codes.
            (
                flow.device_code,
                flow.created_at,
                flow.ended_at,
                flow.expires_at,
                flow.extra,
                flow.name,
                flow.purpose,
                flow.user_code,
                flow.verification_uri_complete,
            ) = marshal.loads(self._fixed)  # noqa: S302  # this process wrote it
            flow.device_code = _secret(flow.device_code)
            flow.extra = tuple([(name, _again(text)) for name, text in flow.extra])
            flow.user_code = _for_person(flow.user_code)
            flow.verification_uri_complete = _for_person(flow.verification_uri_complete)
        except BaseException as stop:  # noqa: BLE001  # the frames have the codes
            raise without_frames(stop) from None


def _packed(flow: Flow) -> bytes:
    """Return what of a flow does not change while the flow waits."""
    try:
        return marshal.dumps(tuple(map(_plain, fixed_of(flow))))
    except BaseException as stop:  # noqa: BLE001  # the frames have the codes
        raise without_frames(stop) from None


@lru_cache(1024)
def _once(alike: tuple[Any, ...]) -> tuple[Any, ...]:
    return alike


def _again(text: str | None) -> CleanText | None:
    # The texts were cleaned when they came, and never left this process since.
    return None if text is None else str.__new__(CleanText, text)


def _for_person(text: str | None) -> PersonText | None:
    return None if text is None else str.__new__(PersonText, text)


def _plain(value: Any) -> Any:
    """Return a value without types that `marshal` does not know."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, Secret):
        return value.reveal()
    return str(value) if isinstance(value, str) else value


def _secret(text: Any) -> Secret | None:
    return None if text is None else Secret(text)
