"""Parts for tests of programs that log in: a clock that obeys, a server that answers by a list."""

from __future__ import annotations

from deviceflow.testing.clock import AsyncVirtualClock as AsyncVirtualClock
from deviceflow.testing.clock import VirtualClock as VirtualClock
from deviceflow.testing.transport import AsyncScriptedTransport as AsyncScriptedTransport
from deviceflow.testing.transport import ScriptedTransport as ScriptedTransport
from deviceflow.testing.transport import answer as answer
