"""Looks at a provider as a login would, and says what it found: `deviceflow doctor`."""

from __future__ import annotations

from deviceflow.doctor._examine import examine
from deviceflow.doctor._finding import Finding, as_dict
from deviceflow.doctor._recorder import Exchange, Recorder

__all__ = ["Exchange", "Finding", "Recorder", "as_dict", "examine"]
