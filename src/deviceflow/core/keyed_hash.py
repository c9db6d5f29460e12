"""HMAC-SHA256 (RFC 2104) of many short texts under one key."""

from __future__ import annotations

import hashlib
from typing import Final

_BLOCK: Final = 64


class KeyedHash:
    """The part of HMAC that needs only the key, done once: of a short text it is most of the time.

    Args:
        key: The key.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK:
            key = hashlib.sha256(key).digest()
        self._inner, self._outer = (
            hashlib.sha256(bytes(byte ^ pad for byte in key.ljust(_BLOCK, b"\0")))
            for pad in (0x36, 0x5C)
        )

    def __repr__(self) -> str:
        return "<KeyedHash>"

    def of(self, text: bytes) -> str:
        """Return the HMAC of a text, in hex digits."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest()
