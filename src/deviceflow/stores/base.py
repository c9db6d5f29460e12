"""What the drivers need of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from deviceflow.flow import Flow, Transition


class Claim(NamedTuple):
    """The flow's lease was taken.

    Attributes:
        flow: The flow as stored; the caller's own copy.
        now: What time it is, in seconds since 1970; it decides everything in this step.
        left_by: Who held the lease before, if it ran out and was not given back.
    """

    flow: Flow
    now: float
    left_by: str | None = None


class Held(NamedTuple):
    """Somebody else holds the flow's lease.

    Attributes:
        flow: The flow as stored; the caller's own copy.
        seconds: What is left of the lease.
    """

    flow: Flow
    seconds: float


class Store(Protocol):
    """Keeps flows. Every method may be called from any thread.

    Attributes:
        persistent: Whether flows outlive the process.
    """

    @property
    def persistent(self) -> bool: ...

    def add(self, flow: Flow) -> Flow:
        """Keep a new flow, or return the live one of the same key instead."""

    def get(self, flow_id: str) -> Flow:
        """Return a copy of the flow.

        Raises:
            UnknownFlowError: There is none of that id.
        """

    def claim(self, flow_id: str, owner: str, now: float, seconds: float) -> Claim | Held:
        """Take the flow's lease for so many seconds, or say who has it.

        Raises:
            UnknownFlowError: There is none of that id.
        """

    def commit(self, flow: Flow, transition: Transition, *, release: str | None = None) -> bool:
        """Keep the flow as it is after `transition`, and the transition with it: both or none.

        Args:
            flow: The flow.
            transition: Its latest one. If the stored flow is not at the one before, others went
                on meanwhile, and nothing is kept.
            release: The owner whose lease is given back in the same breath.

        Returns:
            Whether it was kept.
        """

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""

    def remove(self, flow_id: str) -> None:
        """Forget the flow; unknown ones are forgotten already."""
