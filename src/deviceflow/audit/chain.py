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
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Self

from deviceflow.audit import personal
from deviceflow.audit.events import FIELDS, LISTS, NUMBERS, REQUIRED, WHOLE, text_of
from deviceflow.core.grant import Grant
from deviceflow.core.keyed_hash import KeyedHash
from deviceflow.core.omitted import Omitted, is_omissible, with_event
from deviceflow.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deviceflow.core.flow import Flow


START: Final = "0" * 64
"""The `prev_hash` of the first event of a chain."""

HASHED: Final = tuple(sorted({*FIELDS} - {"hash", "mac"}))
"""The fields that are hashed, in the order of the canonical form."""

STORED: Final = ("flow_id", "seq", "time", "hash", "mac", "text")
"""The columns of a stored event. `text` is its canonical form, which also has the first three."""

DAMAGED: Final = (LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""The exceptions that are raised for a damaged event, with a value that no event can have."""

_COUNTED: Final = tuple(sorted(NUMBERS))
_hashed_of: Final = itemgetter(*HASHED)
_GREATEST: Final = 2**53  # larger integers are not exact in every JSON parser
_MOST_KNOWN: Final = 1024
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
    kept: dict[str, Any] = dict(zip(HASHED, _hashed_of(event), strict=True))
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
    """Parse the canonical text of an event, and return the event and its hash.

    The event has no `hash` and `mac`.

    Args:
        text: The stored text of an event.

    Raises:
        DAMAGED: As for `parse`, or the text is not in canonical form.
    """
    event = parse(text)
    written = encode(event)
    if written != text.encode():  # type: ignore[attr-defined]  # a text, or `parse` had raised
        raise ValueError("the text of the event is not in canonical form")
    return event, hashlib.sha256(written).hexdigest()


def parse(text: object) -> dict[str, Any]:
    """Parse the text of an event, and check the types of its fields. It has no `hash` and `mac`.

    Args:
        text: The stored text of an event.

    Raises:
        DAMAGED: The value is not a string or not an event, its fields are in another order, or a
            field has the wrong type.
    """
    if type(text) is not str:
        raise TypeError("the text of the event is not a string")
    event = decode(text)
    if type(event) is not dict or [*event] != _ORDER:
        raise ValueError("the event has other fields, or its fields are in another order")
    types = tuple(map(type, event.values()))
    numbers_of = _known_types.get(types) or _checked(types)
    for number in numbers_of(event):
        if not (-_GREATEST < number < _GREATEST) or (type(number) is float and number.is_integer()):
            raise ValueError("a number is too large, or is not in canonical form")
    for scope in event["scopes"] + (event["granted_scopes"] or []):
        if type(scope) is not str:
            raise TypeError("a list has an item that is not a string")
    if event["omitted"] is not None:
        Omitted.of(event["omitted"])
    if "\\u" in text:
        encode(event)  # a lone surrogate cannot be encoded
    return event


def _types_of(name: str) -> set[type]:
    """Return the types that a field may have."""
    types: set[type] = {str}
    if name in NUMBERS:
        types = {int} if name in WHOLE else {int, float}
    elif name in LISTS:
        types = {list}
    elif name == "in_doubt":
        types = {bool}
    elif name == "omitted":
        types = {dict}
    return types if name in REQUIRED else types | {type(None)}


_ORDER: Final[list[str]] = [*decode(encode(dict.fromkeys(HASHED)))]  # as the decoder caches them
_TYPES: Final = tuple(map(_types_of, HASHED))
_known_types: Final[dict[tuple[type, ...], itemgetter[Any]]] = {}
"""For each valid combination of types that occurred, a function that returns the numbers."""


def _checked(types: tuple[type, ...]) -> itemgetter[Any]:
    if not all(found in allowed for found, allowed in zip(types, _TYPES, strict=True)):
        raise TypeError("a field of the event has a value of the wrong type")
    if len(_known_types) >= _MOST_KNOWN:
        _known_types.clear()
    numbers = [name for name, found in zip(HASHED, types, strict=True) if found in (int, float)]
    # With one name only, it would not return a tuple.
    found = _known_types[types] = itemgetter(*numbers, "seq", "seq")
    return found


def hash_of(event: Mapping[str, Any]) -> str:
    """Return the hash of an event's canonical form."""
    return hashlib.sha256(canonical(event)).hexdigest()


def row_of(event: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return an event as a row of the trail, by the names in `STORED`.

    Args:
        event: The event, which is linked to its chain.
        text: Its canonical form, as returned by `link`.
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
        self._hmac = KeyedHash(key.reveal().encode()).of
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


def omit(event: dict[str, Any], flow: Flow, *, summarize: bool) -> bool:
    """Tell whether a trail leaves an event out. If not, the event says which ones before it were.

    Call it before `link`, once for each event.

    Args:
        event: The event.
        flow: Its flow, which keeps the run of events that are left out.
        summarize: Whether the trail leaves events out.
    """
    if summarize and flow.head is not None and is_omissible(event):
        flow.omitted = with_event(flow.omitted, event, flow.head)
        return True
    if flow.skipped is not None and flow.head is not None:
        since, polls = flow.skipped
        begun, until = text_of(since), event["time"]
        flow.omitted = Omitted(flow.head, 2 * polls, polls, begun, until, counted=False)
        flow.skipped = None
    if flow.omitted is not None:
        event["omitted"] = flow.omitted.as_fields()
        flow.omitted = None
    return False


def link(
    event: dict[str, Any],
    previous: str | None,
    key: AuditKey | None,
    record: Flow | Grant | None = None,
) -> str:
    """Link an event to its chain, and return its canonical form, which is hashed.

    An event that is linked already is not changed.

    Args:
        event: The event. Its hashes, MAC and fingerprints are filled in; `row_digest` is not.
        previous: The hash of the previous event, if there is one.
        key: The audit key; None for a chain without MACs.
        record: The flow or the grant of the event, for the fingerprints.
    """
    if event["hash"] is not None:
        return canonical(event).decode()
    event["prev_hash"] = previous or START
    personal.seal(event, key)
    if key is not None:
        event["key_id"] = key.name
        if record is not None and record.token is not None:
            event["token_fingerprint"] = _fingerprint(key, record.token.access_token)
        if isinstance(record, Grant):
            if record.replaced is not None:
                event["previous_fingerprint"] = _fingerprint(key, record.replaced)
        elif record is not None and record.user_code is not None:
            event["code_fingerprint"] = key.fingerprint(Secret(record.user_code))
    written = canonical(event)
    digest = event["hash"] = hashlib.sha256(written).hexdigest()
    event["mac"] = key and key.mac(digest)
    return written.decode()


def _fingerprint(key: AuditKey, token: Secret) -> str | None:
    """Return the fingerprint of an access token; an adopted grant has none at first."""
    return key.fingerprint(token) if token.reveal() else None
