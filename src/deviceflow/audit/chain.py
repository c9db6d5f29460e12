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
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Self

from deviceflow.audit.events import FIELDS, LISTS, NUMBERS, REQUIRED, WHOLE
from deviceflow.core.keyed_hash import KeyedHash
from deviceflow.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deviceflow.core.flow import Flow


START: Final = "0" * 64
"""What an event has for the hash of the one before, where there is none."""

HASHED: Final = tuple(sorted({*FIELDS} - {"hash", "mac"}))
"""The fields that are hashed, in the order in which they are."""

STORED: Final = ("flow_id", "seq", "time", "hash", "mac", "text")
"""The columns of a stored event. `text` is its canonical form, which says the first three too."""

DAMAGED: Final = (LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What is raised for an event that is none: that has something in it which no event can have."""

_COUNTED: Final = tuple(sorted(NUMBERS))
_GREATEST: Final = 2**53  # up to which whole numbers are exact for every reader of JSON
_MOST_KNOWN: Final = 1024
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
    kept = {name: event[name] for name in HASHED}
    for name in _COUNTED:
        number = kept[name]
        if number is None:
            continue
        if not -_GREATEST < number < _GREATEST:
            raise OverflowError(name)
        if number == (whole := int(number)):
            kept[name] = whole
    return encode(kept)


def read(text: object) -> tuple[dict[str, Any], str]:
    """Return the event that a canonical text says, without `hash` and `mac`, and its hash.

    Args:
        text: What a trail has for the text of an event.

    Raises:
        DAMAGED: As for `parse`; or the text says what it says in another form than the canonical
            one.
    """
    event = parse(text)
    written = encode(event)
    if written != text.encode():  # type: ignore[attr-defined]  # a text, or `parse` had raised
        raise ValueError("an event is written in another way")
    return event, hashlib.sha256(written).hexdigest()


def parse(text: object) -> dict[str, Any]:
    """Return the event that a text says, each field of its type, without `hash` and `mac`.

    Args:
        text: What a trail has for the text of an event.

    Raises:
        DAMAGED: It is no text, or no event, or has its fields in another order, or a value is of
            another type than the schema gives its field.
    """
    if type(text) is not str:
        raise TypeError("the text of an event is no text")
    event = decode(text)
    if type(event) is not dict or [*event] != _ORDER:
        raise ValueError("an event has other fields, or has them in another order")
    types = tuple(map(type, event.values()))
    numbers_of = _known_types.get(types) or _checked(types)
    for number in numbers_of(event):
        if not (-_GREATEST < number < _GREATEST) or (type(number) is float and number.is_integer()):
            raise ValueError("a number is too great, or is written in another way")
    for scope in event["scopes"] + (event["granted_scopes"] or []):
        if type(scope) is not str:
            raise TypeError("a list has something in it that is no text")
    if "\\u" in text:
        encode(event)  # which nobody can do with half a character
    return event


def _types_of(name: str) -> set[type]:
    """Return of which types a field may be."""
    types: set[type] = {str}
    if name in NUMBERS:
        types = {int} if name in WHOLE else {int, float}
    elif name in LISTS:
        types = {list}
    elif name == "in_doubt":
        types = {bool}
    return types if name in REQUIRED else types | {type(None)}


_ORDER: Final[list[str]] = [*decode(encode(dict.fromkeys(HASHED)))]  # as the decoder caches them
_TYPES: Final = tuple(map(_types_of, HASHED))
_known_types: Final[dict[tuple[type, ...], itemgetter[Any]]] = {}
"""For each combination of types that was seen and is right, what returns the numbers."""


def _checked(types: tuple[type, ...]) -> itemgetter[Any]:
    if not all(found in allowed for found, allowed in zip(types, _TYPES, strict=True)):
        raise TypeError("an event's field has a value of another type")
    if len(_known_types) >= _MOST_KNOWN:
        _known_types.clear()
    numbers = [name for name, found in zip(HASHED, types, strict=True) if found in (int, float)]
    # Of one name it would return no tuple.
    found = _known_types[types] = itemgetter(*numbers, "seq", "seq")
    return found


def hash_of(event: Mapping[str, Any]) -> str:
    """Return the hash that an event should have."""
    return hashlib.sha256(canonical(event)).hexdigest()


def row_of(event: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return an event as a trail stores it, by the names in `STORED`.

    Args:
        event: The event, which is a link of a chain.
        text: Its canonical form, as `link` has returned it.
    """
    return {
        "flow_id": event["flow_id"],
        "seq": event["seq"],
        "time": event["time"],
        "hash": event["hash"],
        "mac": event["mac"],
        "text": text,
    }


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
        self._hmac = KeyedHash(key.reveal().encode()).of
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


def link(
    event: dict[str, Any], previous: str | None, key: AuditKey | None, flow: Flow | None = None
) -> str:
    """Make an event the next link of a chain, and return its canonical form, which is hashed.

    Done once; an event that is a link already stays as it is.

    Args:
        event: The event; its evidence is filled in, but for the digest of the row.
        previous: The hash of the one before, if there is one.
        key: What authenticates it; without a key it is only chained.
        flow: The flow that it happened to, for the fingerprints.
    """
    if event["hash"] is not None:
        return canonical(event).decode()
    event["prev_hash"] = previous or START
    if key is not None:
        event["key_id"] = key.name
        if flow is not None and flow.token is not None:
            event["token_fingerprint"] = key.fingerprint(flow.token.access_token)
        if flow is not None and flow.user_code is not None:
            event["code_fingerprint"] = key.fingerprint(Secret(flow.user_code))
    written = canonical(event)
    digest = event["hash"] = hashlib.sha256(written).hexdigest()
    event["mac"] = key and key.mac(digest)
    return written.decode()
