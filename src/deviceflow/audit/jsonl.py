"""An audit file in JSON Lines, for programs without a store. Its events are chained too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from deviceflow._files import open_to_append
from deviceflow.audit.chain import AuditKey, encode, link, omit
from deviceflow.audit.mode import is_summarized
from deviceflow.core.grant import Grant
from deviceflow.credentials.keys.audit import configured
from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.flow import Flow
    from deviceflow.core.secret import Secret

VARIABLE: Final = "DEVICEFLOW_AUDIT"


class JSONLinesAudit:
    """Appends each event to a file, as one line of JSON.

    Several processes may write to one file: each line is one append. The file may be moved away at
    any time, for example by logrotate. The next line then creates a new file.

    Args:
        path: The file. It is created with access for its owner only (0600).
        key: The audit key; by default `DEVICEFLOW_AUDIT_KEY`. Without a key, events are chained
            without MACs, so anybody could replace the whole chain.
        fsync: Whether each line is synced to the disk before the login continues.
        trail: As for `SQLiteStore`, but `each` by default. With a store that keeps a trail of its
            own, events are left out of the file only if they are left out of the store.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: Secret | None = None,
        fsync: bool = True,
        trail: TrailMode | None = None,
    ) -> None:
        self._summarize = is_summarized(trail, "each")
        self.path: Path = Path(path).absolute()
        self._key = AuditKey.of([key] if key else configured())
        self._fsync = fsync

    @classmethod
    def from_env(cls) -> Self | None:
        """Return an audit file for the path in `DEVICEFLOW_AUDIT`; None if it is not set."""
        path = os.environ.get(VARIABLE)
        return cls(path) if path else None

    def link(self, event: dict[str, Any], flow: Flow | Grant) -> None:
        """Make an event the next link of its flow's or grant's chain, if it is not one yet.

        Args:
            event: The event.
            flow: The flow or grant that it happened to, which keeps the head of the chain.
        """
        if event["hash"] is None and not isinstance(flow, Grant):
            omit(event, flow, summarize=self._summarize)
        link(event, flow.head, self._key, flow)
        flow.head = event["hash"]

    def write(self, event: dict[str, Any], flow: Flow | Grant) -> None:
        """Append an event. Link the event to its chain first, if it is not linked yet.

        Args:
            event: The event.
            flow: The flow or grant that it happened to.

        Raises:
            StoreError: The event could not be written. The action that it records has happened.
        """
        self.link(event, flow)
        if self._summarize and not isinstance(flow, Grant) and flow.omitted is not None:
            return
        problem: StoreError | None = None
        try:
            self._append(encode(event) + b"\n")
        except OSError as error:
            problem = StoreError(
                f"The audit file {self.path} could not be written: {error.strerror}.",
                flow_id=flow.id,
                hint="The login has moved on, but its last event is missing in the file.",
            )
        if problem is not None:
            raise problem

    def _append(self, line: bytes) -> None:
        # Opened for each line, because the file may have been moved since the previous line.
        handle = open_to_append(self.path)
        try:
            if os.write(handle, line) != len(line):
                raise OSError(0, "only a part of the line was written")
            if self._fsync:
                os.fsync(handle)
        finally:
            os.close(handle)
