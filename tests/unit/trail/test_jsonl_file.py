"""A trail in a file, as a program leaves it that has no store: whole, whatever comes in between."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, Secret, State, Studio
from deviceflow.audit.chain import AuditKey
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.core.encryption import generate_key
from deviceflow.errors import StoreError
from deviceflow.testing import ScriptedTransport, answer
from deviceflow.trail.jsonl_file import read_lines
from deviceflow.trail.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.wire import Response
    from deviceflow.testing import VirtualClock

    CodeAnswer = Callable[..., Response]

STUDIO: Final = Studio("https://studio.example.com")
PENDING: Final = answer(400, {"detail": "authorization_pending"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
KEY: Final = Secret("an audit key")


class Stalling(JSONLinesAudit):
    """Lets one event wait until another thread has written the next."""

    def __init__(self, path: Path, action: str) -> None:
        super().__init__(path, key=KEY, fsync=False)
        self._action = action
        self.stalls, self.goes_on = threading.Event(), threading.Event()

    def write(self, event: dict[str, Any], flow: Flow | Grant) -> None:
        if event["action"] == self._action:
            self.stalls.set()
            assert self.goes_on.wait(10)
        super().write(event, flow)


class Full(JSONLinesAudit):
    """Finds the disk full, as often as it is told, where an event of a kind is to be written."""

    def __init__(self, path: Path, action: str, times: int) -> None:
        super().__init__(path, key=KEY, fsync=False)
        self._action = f'"{action}"'.encode()
        self._times = times

    def _append(self, line: bytes) -> None:
        if self._action in line and self._times:
            self._times -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._append(line)


def verified(path: Path) -> tuple[list[tuple[str, int | None]], int]:
    """Verify a file; return the findings, and how many events there are."""
    with read_lines([str(path)]) as lines:
        verification = Verification(lines.events, None, AuditKey(KEY))
        findings: list[tuple[str, int | None]] = [
            (finding.kind, finding.seq) for finding in verification.findings()
        ]
        assert lines.problems == []
        return findings, verification.events


def test_events_of_two_threads_are_one_chain_whoever_writes_first(
    tmp_path: Path, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    audit = Stalling(tmp_path / "audit.jsonl", "pending")
    script = ScriptedTransport([code_answer(), PENDING])
    client = Client(transport=script, clock=clock, audit=audit)
    flow = client.start(STUDIO)
    stepping = threading.Thread(target=client.step, args=(flow.id,))
    stepping.start()
    assert audit.stalls.wait(10)

    client.cancel(flow.id)
    audit.goes_on.set()
    stepping.join(10)

    assert verified(audit.path) == ([], 4)


@pytest.mark.parametrize("action", ["issue_token", "pending"])
def test_event_is_in_the_file_or_the_program_is_told(
    tmp_path: Path, clock: VirtualClock, code_answer: CodeAnswer, action: str
) -> None:
    """What brings a token is tried again for some seconds; the rest is not."""
    audit = Full(tmp_path / "audit.jsonl", action, times=2)
    script = ScriptedTransport([code_answer(), PENDING, GRANTED])
    client = Client(transport=script, clock=clock, audit=audit)
    flow = client.start(STUDIO)

    if action == "issue_token":
        assert client.wait_for_token(flow.id).access_token == Secret("TOKEN-CANARY")
        assert verified(audit.path) == ([], 6)
    else:
        with pytest.raises(StoreError, match="could not be written: No space left"):
            client.wait_for_token(flow.id)
        assert client.get(flow.id).state is State.AWAITING_USER


def test_token_is_held_while_its_event_cannot_be_written(
    tmp_path: Path, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    audit = Full(tmp_path / "audit.jsonl", "issue_token", times=1000)
    script = ScriptedTransport([code_answer(), GRANTED])
    client = Client(transport=script, clock=clock, audit=audit)
    flow = client.start(STUDIO)

    with pytest.raises(StoreError, match="approved, and its token is in this process"):
        client.wait_for_token(flow.id)
    audit._times = 0

    assert client.wait_for_token(flow.id).access_token == Secret("TOKEN-CANARY")
    assert verified(audit.path) == ([], 4)


def test_flow_that_goes_on_elsewhere_goes_on_with_its_chain(
    tmp_path: Path, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    path, keys = tmp_path / "audit.jsonl", [generate_key()]
    here = Client(
        transport=ScriptedTransport([code_answer(), PENDING]),
        clock=clock,
        audit=JSONLinesAudit(path, key=KEY),
    )
    flow = here.start(STUDIO)
    here.step(flow.id)
    sealed = here.export_login(flow.id, keys)

    there = Client(
        transport=ScriptedTransport([GRANTED]),
        clock=clock,
        audit=JSONLinesAudit(path, key=KEY),
    )
    there.import_login(sealed, keys)
    there.wait_for_token(flow.id)

    assert verified(path) == ([], 6)
