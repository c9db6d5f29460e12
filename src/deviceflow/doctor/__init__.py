"""Check whether a login to a provider would work: `deviceflow doctor`."""

from __future__ import annotations

from deviceflow.doctor._check import Check, as_dict
from deviceflow.doctor._conformance import conformance
from deviceflow.doctor._examine import examine
from deviceflow.doctor._recorder import Exchange, Recorder

__all__ = ["Check", "Exchange", "Recorder", "as_dict", "conformance", "examine"]
