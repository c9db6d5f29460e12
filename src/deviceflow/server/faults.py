"""Answers that a test wants to be lost, late or refused."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Final

from waitress.channel import ClientDisconnected

from deviceflow.server.pending import normalised

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask import Response

LONGEST_DELAY: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with the answer to one refresh.

    Attributes:
        status: Refresh nothing, and answer with this status and `temporarily_unavailable`.
        delay: Seconds between the refresh and its answer; less if the test releases the answer.
        cut: Refresh, and send so many bytes of the body only; 0 sends no answer at all.
        fields: Fields of the answer that have other values; None leaves a field out.
    """

    status: int | None = None
    delay: float = 0.0
    cut: int | None = None
    fields: Mapping[str, object] = field(default_factory=dict)


class Faults:
    """The faults that wait for the next refreshes of each grant. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._planned: dict[str, deque[Fault]] = {}
        self._released = Event()

    def plan(self, user_code: str, fault: Fault, times: int) -> None:
        """Spoil the answers to the next refreshes of the grant with that user code."""
        with self._lock:
            self._planned.setdefault(normalised(user_code), deque()).extend([fault] * times)

    def take(self, user_code: str) -> Fault | None:
        """Return the fault that is next, and forget it."""
        with self._lock:
            planned = self._planned.get(normalised(user_code))
            return planned.popleft() if planned else None

    def release(self) -> None:
        """Send all answers that are delayed."""
        with self._lock:
            released, self._released = self._released, Event()
        released.set()

    def spoil(self, fault: Fault, response: Response) -> Response:
        """Return the response as the fault has it, after its delay."""
        if fault.fields and response.status_code == 200:
            body = response.get_json() | fault.fields
            told = {name: value for name, value in body.items() if value is not None}
            response.set_data(json.dumps(told))
        if fault.delay:
            with self._lock:
                released = self._released
            released.wait(fault.delay)
        if fault.cut is not None:
            whole = response.get_data()
            response.response = _cut(whole[: fault.cut])
            response.content_length = len(whole)
        return response


def _cut(begun: bytes) -> Iterator[bytes]:
    if begun:
        yield begun
    # The server closes the connection without a word.
    raise ClientDisconnected
