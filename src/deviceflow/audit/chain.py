"""The hash chain: each event contains the hash of the previous event of its flow.

A chain is the events of one flow in order. The hash of an event is the SHA-256 of its canonical
form (RFC 8785), without the fields `hash` and `mac`. `prev_hash` is the hash of the previous event,
or 64 zeros. So nobody can change, remove, insert or move an event without computing all following
events again. `mac`, the HMAC-SHA256 of the hash, shows whether somebody with the audit key did so.

A chain does not show that its last events were removed. Signed digests do: see
`deviceflow.trail.digest`.
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
"""The `prev_hash` of the first event of a chain."""

HASHED: Final = tuple(sorted({*FIELDS} - {"hash", "mac"}))
"""The fields that are hashed, in the order of the canonical form."""

STORED: Final = (*HASHED, "hash", "mac")
"""All fields: the hashed ones first, in the order of the canonical form."""

DAMAGED: Final = (LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""The exceptions that are raised for a damaged event, with a value that no event can have."""

_COUNTED: Final = tuple(sorted(NUMBERS - {"seq"}))
_GREATEST: Final = 2**53  # larger integers are not exact in every JSON parser
_FLAGS: Final = {0: False, 1: True}
_list_text: Final = json.JSONEncoder(separators=(",", ":")).encode
_json_text: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_slowly(event: Mapping[str, Any]) -> bytes:
    """Encode JSON with the standard library."""
    return _json_text(event).encode()


# For the values of events, both encoders write the form of RFC 8785: sorted keys, texts without NUL
# and lone surrogates, integers, and fractions with few digits.
encode: Callable[[Any], bytes]
"""Encodes JSON with the fastest encoder installed. Raises `ValueError` or `TypeError`."""
decode: Callable[[str | bytes], Any]
"""Decodes JSON with the fastest decoder installed. Raises `ValueError` for invalid JSON."""
try:
    from orjson import dumps as encode
    from orjson import loads as decode
except ImportError:
    encode, decode = encode_slowly, json.loads


def canonical(event: Mapping[str, Any]) -> bytes:
    """Return an event's canonical form (RFC 8785), with the fields in `HASHED`."""
    return _written({name: event[name] for name in HASHED})


def canonical_of_row(row: Sequence[Any]) -> bytes:
    """Return the canonical form of an event that was read from a database.

    Args:
        row: The values of the fields in `STORED`, in that order.

    Raises:
        DAMAGED: A value has the wrong type for its field, or is one that deviceflow never writes.
    """
    event = dict(zip(HASHED, row, strict=False))
    if not _are_types_of_an_event(tuple(map(type, event.values()))):
        raise TypeError("a field of the event has a value of the wrong type")
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
        raise ValueError(text)  # the same list, but not the text that deviceflow writes
    if not (isinstance(read, list) and all(isinstance(item, str) for item in read)):
        raise TypeError(text)
    return read


def _types_of(name: str) -> set[type]:
    """Return the types that a field may have in a database, where lists are JSON texts."""
    types: set[type] = {str}
    if name in NUMBERS:
        types = {int} if name in WHOLE else {int, float}
    elif name == "in_doubt":
        types = {bool, int}
    return types if name in REQUIRED else types | {type(None)}


_TYPES: Final = tuple(map(_types_of, HASHED))


@lru_cache(1024)  # only a few combinations of types occur
def _are_types_of_an_event(types: tuple[type, ...]) -> bool:
    return all(found in allowed for found, allowed in zip(types, _TYPES, strict=True))


def hash_of(event: Mapping[str, Any]) -> str:
    """Return the hash of an event's canonical form."""
    return hashlib.sha256(canonical(event)).hexdigest()


def hash_of_row(row: Sequence[Any]) -> str:
    """Return the hash of an event that was read from a database.

    Args:
        row: As for `canonical_of_row`, whose exceptions are raised.
    """
    return hashlib.sha256(canonical_of_row(row)).hexdigest()


class AuditKey:
    """The key that authenticates events. It is not the sealing key.

    Args:
        key: A text that nobody can guess.
        older: Previous keys. New events do not use them; old events are verified with them.
        store: The id of the store; None accepts the events of every store.

    Attributes:
        name: The `key_id` of events: a hash that identifies the key without revealing it, and the
            store's id. The `key_id` is hashed, so events of another store are not accepted.
    """

    def __init__(self, key: Secret, *older: Secret, store: str | None = None) -> None:
        self._older = {old.name: old for old in map(AuditKey, older)}
        self._store = store
        block = key.reveal().encode()
        if len(block) > 64:
            block = hashlib.sha256(block).digest()
        # The part of HMAC (RFC 2104) that does not depend on the text, computed once. The texts
        # are so short that this part would take most of the time.
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
        """Return an audit key from the current key and the older ones; None if there is no key."""
        return cls(*keys) if keys else None

    def mac(self, digest: str, name: object = None) -> str:
        """Return the MAC of a hash.

        Args:
            digest: The hash.
            name: The event's `key_id`, which may name an older key. If it names another store, the
                returned MAC is valid for no event.
        """
        if name in (None, self.name):
            return self._hmac(digest.encode())
        short_name, _, store = str(name).partition("@")
        if self._store not in (None, store):
            return self._hmac(f"{digest} of another store".encode())
        older = self._older.get(short_name)
        return self._hmac(digest.encode()) if older is None else older.mac(digest)

    def mark(self, digest: str) -> str:
        """Return a mark for a row's digest, which only a holder of the key can make."""
        return f"{self.name}:{self.mac(digest)}"

    def has_marked(self, digest: str, mark: str) -> bool:
        """Tell whether `mark` was made of that digest with one of the keys."""
        name, _, mac = mark.rpartition(":")
        return hmac.compare_digest(self.mac(digest, name).encode(), mac.encode(errors="replace"))

    def fingerprint(self, secret: Secret) -> str:
        """Return a keyed hash of 16 hex digits, by which a secret is recognised."""
        return self._hmac(secret.reveal().encode(errors="surrogatepass"))[:16]

    def _hmac(self, text: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest()


def link(
    event: dict[str, Any], previous: str | None, key: AuditKey | None, flow: Flow | None = None
) -> str:
    """Link an event to its chain, and return its hash.

    An event that is linked already is not changed.

    Args:
        event: The event. Its hashes, MAC and fingerprints are filled in; `row_digest` is not.
        previous: The hash of the previous event, if there is one.
        key: The audit key; None for a chain without MACs.
        flow: The flow of the event, for the fingerprints.
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
