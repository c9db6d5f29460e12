"""Find out what was changed in a flow's events, once verification has found a discrepancy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.trail.evidence import is_new, told_by_record
from deviceflow.trail.history import EDITED_ROW, faults_of_chain
from deviceflow.trail.ledger import Finding, Hole
from deviceflow.trail.reconstruct import ChainRebuild

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.trail.evidence import Evidence
    from deviceflow.trail.ledger import Ledger


def diagnose(evidence: Evidence, ledger: Ledger) -> Iterator[Finding]:
    """Yield what is wrong with a flow.

    Args:
        evidence: The evidence on the flow.
        ledger: Collects events that may have been moved from one flow to another.
    """
    if not evidence.rows:
        yield from _gone(evidence, ledger)
        return
    recognition = ChainRebuild(evidence, ledger)
    yield from recognition.findings()
    if recognition.is_sound:
        yield from faults_of_chain(evidence)


def _gone(evidence: Evidence, ledger: Ledger) -> Iterator[Finding]:
    """Report a flow that should have events and has none."""
    flow_id, stored = evidence.flow_id, evidence.stored
    told = told_by_record(evidence)
    if stored is not None and stored.seq == 0:
        if not is_new(stored, evidence.key):
            yield Finding("edited_row", flow_id, None, EDITED_ROW)
    elif stored is not None and told is None:
        yield Finding("wrong_state", flow_id, None, "the flow's row does not match its last event")
    known = {head.seq: head.hash for head in evidence.heads}
    if told is not None and told[0]:
        known.setdefault(*told)
    last = max(known, default=0)
    pruned = max((head.seq for head in evidence.heads if head.pruned), default=0)
    if last > pruned:
        message = "all events of the flow are missing"
        ledger.hole(Hole(flow_id, pruned + 1, last, known[last], "removed_flow", message))
