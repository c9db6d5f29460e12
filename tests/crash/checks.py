"""What must be so, however many processes died: each check returns what is wrong, in words."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from deviceflow import Secret
from deviceflow.core.actions import action_of
from deviceflow.core.omitted import Omitted
from deviceflow.core.states import Handover, State
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.trail.digest import Signer, files_of
from deviceflow.trail.maintenance import take_digest
from deviceflow.trail.verify import Verification
from tests.crash.gate import CANARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from deviceflow.core.flow import Flow
    from deviceflow.stores.sql import SQLStore

_SLOW_DOWN: Final = 5.0  # seconds (RFC 8628 section 3.5)


def unfolded(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a history with the events that the trail left out, as far as they are known.

    Where somebody died who held the login, with as many as they may have been.
    """
    whole = list[dict[str, Any]]()
    for event in history:
        run = Omitted.of(event["omitted"])
        for number in range(0 if run is None else run.events):
            assert run is not None
            before = whole[-1]
            polls = before["to"] == State.AWAITING_USER
            last = run.counted and number == run.events - 1
            whole.append(
                before
                | {
                    "seq": before["seq"] + 1,
                    "action": "poll" if polls else "pending",
                    "from": before["to"],
                    "to": (State.POLLING if polls else State.AWAITING_USER).value,
                    "attempt": before["attempt"] + polls,
                    "time": run.until if last else run.since,
                }
            )
        whole.append(event)
    return whole


def wrong_with_history(flow: Flow, history: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Check that the transitions have no gap and no fork, are legal, and lead to the flow."""
    state, attempt = State.INIT.value, 0
    handover: Handover | None = Handover.NONE
    for number, event in enumerate(history, 1):
        action, source, dest = event["action"], event["from"], event["to"]
        if event["seq"] != number:
            yield f"transition {number} has the number {event['seq']}"
        if source != state:
            yield f"{action} ({number}) begins at {source}, where the one before ended at {state}"
        declared = action_of(action)
        if handover is None or (source, dest) not in declared.login.items():
            yield f"{action} ({number}) from {source} to {dest} is illegal"
        elif handover not in declared.handover:
            yield f"{action} ({number}) is illegal where the token is {handover}"
        handover = None if handover is None else declared.handover.get(handover)
        attempt += action == "poll"
        if event["attempt"] != attempt:
            yield f"{action} ({number}) is of attempt {event['attempt']}, not {attempt}"
        state = dest
    if (len(history), state, attempt) != (flow.seq, flow.state.value, flow.attempt):
        yield (
            f"the history leads to {state} by {len(history)} transitions and {attempt} attempts;"
            f" stored is {flow.state} with {flow.seq} and {flow.attempt}"
        )


def wrong_with_polls(
    login: dict[str, Any], history: Sequence[dict[str, Any]], *, first: bool = True
) -> Iterator[str]:
    """Check by the server's log that no poll came too early, and each was announced before.

    Args:
        login: The server's entry.
        history: The flow's transitions.
        first: Whether the first one has to wait as well.
    """
    before, interval = login["asked_at"], login["interval"]
    before -= 0.0 if first else interval
    announced, slowed = _times(history, "poll"), _times(history, "slow_down")
    for number, request in enumerate(login["requests"]):
        came = request["wall"]
        # Times in a history are cut to milliseconds; what this poll itself is answered is later.
        allowed = interval + _SLOW_DOWN * sum(time < came - 0.5 for time in slowed)
        if came - before < allowed:
            yield f"poll {number + 1} came {came - before:.3f} s after the last, not {allowed:g} s"
        if request["answer"] == "slow_down":
            yield f"the server found poll {number + 1} too fast"
        if sum(time <= came for time in announced) <= number:
            yield f"poll {number + 1} was sent before it was on record"
        before = came


def _times(history: Sequence[dict[str, Any]], action: str) -> list[float]:
    return [
        datetime.fromisoformat(event["time"]).timestamp()
        for event in history
        if event["action"] == action
    ]


def wrong_with_files(files: Iterable[Path]) -> Iterator[str]:
    """Check that no device code and no token stands in a file in clear."""
    canary = CANARY.encode()
    for file in files:
        if canary in file.read_bytes():
            yield f"{file.name} has a secret in clear"


class Auditor:
    """Signs digests of a trail while others write it, and verifies it.

    Attributes:
        events: How many events the last verification read.
        digests: How many digests.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._signer = Signer(Secret(generate_signing_key()))
        self.events = self.digests = 0

    def sign(self, store: SQLStore) -> None:
        take_digest(store, self._folder, self._signer, begin=not files_of(self._folder))

    def wrong(self, store: SQLStore) -> list[str]:
        """Return what a verification finds, by the last digest and all before."""
        self.sign(store)
        with store.snapshot() as trail:
            verification = Verification(
                *trail, digests=self._folder, public_key=self._signer.public_key
            )
            findings = [f"the trail: {finding}" for finding in verification.findings()]
        self.events, self.digests = verification.events, verification.digests
        return findings
