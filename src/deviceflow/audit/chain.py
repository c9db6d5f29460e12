"""The evidence in an event: each one's hash takes in the hash of the one before.

A chain is a flow's events in their order. An event is hashed in its canonical form (RFC 8785), all
of it but `hash` and `mac`; `prev_hash` is the hash of the one before, or 64 zeros. So nothing in
the middle can be changed, dropped, put in or moved without the rest being made anew, and `mac`
(HMAC-SHA256 of the hash) shows whether that was done by somebody who has the key.

What a chain cannot show is that its end was cut off; see `deviceflow.trail.digest`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

from deviceflow.audit.events import FIELDS, LISTS, NUMBERS, REQUIRED, WHOLE
from deviceflow.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deviceflow.core.flow import Flow


START: Final = "0" * 64
"""What an event has for the hash of the one before, where there is none."""

HASHED: Final = tuple(sorted({*FIELDS} - {"hash", "mac"}))
"""The fields that are hashed, in the order in which they are."""

STORED: Final = (*HASHED, "hash", "mac")
"""All fields, in an order that is good for checking them."""

DAMAGED: Final = (LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What is raised for an event that is none: that has something in it which no event can have."""

_COUNTED: Final = tuple(sorted(NUMBERS - {"seq"}))
_GREATEST: Final = 2**53  # up to which whole numbers are exact for every reader of JSON
_FLAGS: Final = {0: False, 1: True}
_list_text: Final = json.JSONEncoder(separators=(",", ":")).encode
_json_text: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_slowly(event: Mapping[str, Any]) -> bytes:
    """Write JSON by the standard library."""
    return _json_text(event).encode()


# For what an event can hold both encoders write RFC 8785's form: keys in order, texts without NUL
# and lone surrogates, whole numbers, and fractions of few digits.
encode: Callable[[Any], bytes]
"""Writes JSON, by the fastest way there is; raises a `ValueError` or `TypeError` if it cannot."""
decode: Callable[[str | bytes], Any]
"""Reads JSON, by the fastest way there is; raises a `ValueError` where it is none."""
try:
    from orjson import dumps as encode
    from orjson import loads as decode
except ImportError:
    encode, decode = encode_slowly, json.loads


def canonical(event: Mapping[str, Any]) -> bytes:
    """Return an event's canonical form (RFC 8785): that of the fields in `HASHED`."""
    return _written({name: event[name] for name in HASHED})


def canonical_of_row(row: Sequence[Any]) -> bytes:
    """Return the canonical form of an event as a database has it.

    Args:
        row: The values of the fields in `STORED`, in that order.

    Raises:
        DAMAGED: A value is of another type than the schema gives its field, or otherwise one that
            is never written.
    """
    event = dict(zip(HASHED, row, strict=False))
    if not _are_types_of_an_event(tuple(map(type, event.values()))):
        raise TypeError("an event's field has a value of another type")
    event["in_doubt"] = _FLAGS[event["in_doubt"]]
    for name in LISTS:
        if event[name] is not None:
            event[name] = _list_of(event[name])
    return _written(event)


def _written(event: dict[str, Any]) -> bytes:
    for name in _COUNTED:
        number = event[name]
        if number is None:
            continue
        if not -_GREATEST < number < _GREATEST:
            raise OverflowError(name)
        if number == (whole := int(number)):
            event[name] = whole
    return encode(event)


@lru_cache(1024)
def _list_of(text: str) -> list[str]:
    try:
        read: Any = json.loads(text)
    except RecursionError:
        raise ValueError(text[:10]) from None
    if _list_text(read) != text:
        raise ValueError(text)  # it says the same, but not in the words that were written
    if not (isinstance(read, list) and all(isinstance(item, str) for item in read)):
        raise TypeError(text)
    return read


def _types_of(name: str) -> set[type]:
    """Return of which types a field may be in a database; there a list is the text of one."""
    types: set[type] = {str}
    if name in NUMBERS:
        types = {int} if name in WHOLE else {int, float}
    elif name == "in_doubt":
        types = {bool, int}
    return types if name in REQUIRED else types | {type(None)}


_TYPES: Final = tuple(map(_types_of, HASHED))


@lru_cache(1024)  # an event's types are one of few combinations
def _are_types_of_an_event(types: tuple[type, ...]) -> bool:
    return all(found in allowed for found, allowed in zip(types, _TYPES, strict=True))


def hash_of(event: Mapping[str, Any]) -> str:
    """Return the hash that an event should have."""
    return hashlib.sha256(canonical(event)).hexdigest()


def hash_of_row(row: Sequence[Any]) -> str:
    """Return the hash that an event should have, of the values that a database has.

    Args:
        row: As for `canonical_of_row`, which also says what is raised.
    """
    return hashlib.sha256(canonical_of_row(row)).hexdigest()


class AuditKey:
    """The key that authenticates events. It is not the one that seals secrets.

    Args:
        key: Any text that nobody can guess.
        older: Those that events are not authenticated by any more; the events still are.
        store: The id of the store whose events they are; None takes those of any.

    Attributes:
        name: What an event's `key_id` says: the key, from which nothing can be learnt, and the
            store. It is hashed, so an event of another store does not count here.
    """

    def __init__(self, key: Secret, *older: Secret, store: str | None = None) -> None:
        self._older = {old.name: old for old in map(AuditKey, older)}
        self._store = store
        block = key.reveal().encode()
        if len(block) > 64:
            block = hashlib.sha256(block).digest()
        # HMAC (RFC 2104) as far as it can be done before the text is known: of a trail's texts
        # each is so short that setting it up would take most of the time.
        self._inner, self._outer = (
            hashlib.sha256(bytes(byte ^ pad for byte in block.ljust(64, b"\0")))
            for pad in (0x36, 0x5C)
        )
        short_name = self._hmac(b"deviceflow audit key")[:8]
        self.name: str = short_name if store is None else f"{short_name}@{store}"

    def __repr__(self) -> str:
        return f"<AuditKey {self.name}>"

    @classmethod
    def of(cls, keys: Sequence[Secret]) -> Self | None:
        """Return the first of the keys, with the others as its older ones; None of none."""
        return cls(*keys) if keys else None

    def mac(self, digest: str, name: object = None) -> str:
        """Return what shows that whoever wrote this hash has the key.

        Args:
            digest: The hash.
            name: The event's `key_id`, by which one of the older keys may be meant. Where it names
                another store, what is returned is right for no event.
        """
        if name in (None, self.name):
            return self._hmac(digest.encode())
        short_name, _, store = str(name).partition("@")
        if self._store not in (None, store):
            return self._hmac(f"{digest} of another store".encode())
        older = self._older.get(short_name)
        return self._hmac(digest.encode()) if older is None else older.mac(digest)

    def mark(self, digest: str) -> str:
        """Return what shows that a row of that digest was made by whoever has the key."""
        return f"{self.name}:{self.mac(digest)}"

    def has_marked(self, digest: str, mark: str) -> bool:
        """Tell whether `mark` was made of that digest, by one of the keys."""
        name, _, mac = mark.rpartition(":")
        return hmac.compare_digest(self.mac(digest, name).encode(), mac.encode(errors="replace"))

    def fingerprint(self, secret: Secret) -> str:
        """Return 16 hex digits by which the same secret is known again, under this key."""
        return self._hmac(secret.reveal().encode(errors="surrogatepass"))[:16]

    def _hmac(self, text: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest()


def link(
    event: dict[str, Any], previous: str | None, key: AuditKey | None, flow: Flow | None = None
) -> str:
    """Make an event the next link of a chain, and return its hash.

    Done once; an event that is a link already stays as it is.

    Args:
        event: The event; its evidence is filled in, but for the digest of the row.
        previous: The hash of the one before, if there is one.
        key: What authenticates it; without a key it is only chained.
        flow: The flow that it happened to, for the fingerprints.
    """
    if event["hash"] is None:
        event["prev_hash"] = previous or START
        if key is not None:
            event["key_id"] = key.name
            if flow is not None and flow.token is not None:
                event["token_fingerprint"] = key.fingerprint(flow.token.access_token)
            if flow is not None and flow.user_code is not None:
                event["code_fingerprint"] = key.fingerprint(Secret(flow.user_code))
        digest = event["hash"] = hash_of(event)
        event["mac"] = key and key.mac(digest)
    found: str = event["hash"]
    return found
