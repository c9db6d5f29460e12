"""Answers that say that a login is pending, recognised without being parsed again.

Almost all answers to polls say that, and a server says it in the same words each time.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from deviceflow.core.provider import Answer, Provider
    from deviceflow.core.wire import Response

LONGEST: Final = 1024
"""The longest body in bytes that is recognised."""

MOST: Final = 256
"""How many answers are recognised at a time."""

_known: Final[dict[tuple[int, int, str | None, bytes], tuple[Provider, Answer]]] = {}
"""What pending answers meant, by the `id` of the settings, which are kept as well, and by a hash.

A body is not kept: a server may repeat a code in it.
"""


def read_token(provider: Provider, response: Response, now: float) -> Answer:
    """Return what `provider.read_token` returns."""
    if len(response.body) > LONGEST:
        return provider.read_token(response, now)
    digest = blake2b(response.body, digest_size=16).digest()
    key = (id(provider), response.status, response.headers.get("content-type"), digest)
    known = _known.get(key)
    if known is not None and known[0] is provider:
        return known[1]
    answer = provider.read_token(response, now)
    if answer.outcome == "pending":
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = provider, answer
    return answer
