"""Seal secrets with `cryptography`'s MultiFernet (extra `seal`), and bind them to their context.

The same keys authenticate the unencrypted part of a row: `Sealer.mac`, with a key that is derived
from the sealing key.

A sealed text contains its context. It does not open with another one. It begins with the name of
its key, which reveals nothing about the key. So a missing key can be distinguished from a changed
text, and rotation knows which texts are left::

    df1.3f9a61c2.gAAAAABp...
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.keyed_hash import KeyedHash
from deviceflow.core.secret import Secret, wrapped
from deviceflow.errors import SealError

if TYPE_CHECKING:
    from collections.abc import Iterable

_VERSION: Final = "df1"

PLAIN: Final = "plain."
"""The prefix of a secret that is stored in clear."""


class Sealer:
    """Seals JSON values, and opens sealed texts.

    Args:
        keys: Fernet keys: 32 random bytes as URL-safe base64. The first key seals; any of them
            opens.

    Raises:
        SealError: There is no key, or one is not a Fernet key.
        ImportError: `cryptography` is missing.
    """

    def __init__(self, keys: Iterable[Secret | str]) -> None:
        fernet = _fernet()
        self._by_name: dict[str, Any] = {}  # first of all, since the repr shows it
        self._macs: dict[str, KeyedHash] = {}
        keys = wrapped(keys)
        for number, key in enumerate(keys, 1):
            if not self._take(fernet, key):
                self._by_name.clear()
                problem = f"Key number {number} is not a Fernet key."
                break
        else:
            problem = "There is no key to seal with."
        if not self._by_name:
            raise SealError(
                problem, hint="Generate one with `deviceflow keys generate`, and keep it safe."
            )
        self._all = fernet.MultiFernet(list(self._by_name.values()))
        self._invalid: type[Exception] = fernet.InvalidToken

    def __repr__(self) -> str:
        return f"<Sealer {', '.join(self._by_name)}>"

    def _take(self, fernet: Any, key: Secret) -> bool:
        """Add a key. Return False if it is not a Fernet key."""
        try:
            name = _name_of(key.reveal())
            self._by_name[name] = fernet.Fernet(key.reveal())
        except (AttributeError, TypeError, ValueError):
            return False
        row_key = hmac.digest(key.reveal().encode(), b"deviceflow row key", "sha256")
        self._macs[name] = KeyedHash(row_key)
        return True

    @property
    def prefix(self) -> str:
        """The prefix of texts that the first key sealed."""
        return f"{_VERSION}.{next(iter(self._by_name))}."

    def seal(self, value: Any, *context: str) -> str:
        """Return a JSON value as a sealed, URL-safe text.

        Args:
            value: The value.
            context: What the value is and where it belongs. The text opens with the same context
                only.
        """
        inside = json.dumps([context, value], separators=(",", ":")).encode()
        return f"{self.prefix}{self._all.encrypt(inside).decode().rstrip('=')}"

    def open(self, sealed: str, *context: str) -> Any:
        """Return the value of a sealed text.

        Raises:
            SealError: None of the keys sealed the text, or the text was changed, or it belongs to
                another context.
        """
        version, _, rest = sealed.partition(".")
        name, _, token = rest.partition(".")
        if version != _VERSION:
            raise SealError(
                f"This is not a sealed text of the version {_VERSION}.",
                hint="A newer version of deviceflow may have written it: upgrade deviceflow.",
            )
        self._check_name(name)
        try:
            bound, value = json.loads(self._all.decrypt(_exact(token)).decode())
        except (self._invalid, ValueError, TypeError):
            bound, value = None, None
        if bound != list(context):
            del value  # a traceback may show this frame
            raise SealError(
                "A sealed secret was changed, or belongs to another login.",
                hint="Nothing was sent. Find out who can write to the store; start a new login.",
            )
        return value

    def mac(self, text: str) -> str:
        """Return the MAC of `text` with the first key (HMAC-SHA256)."""
        name, mac = next(iter(self._macs.items()))
        return f"{_VERSION}.{name}.{mac.of(text.encode())}"

    def check(self, text: str, mac: object) -> None:
        """Check that `mac` is the MAC of `text` with one of the keys.

        Raises:
            SealError: The MAC is wrong, or was made with another key.
        """
        version, _, rest = mac.partition(".") if isinstance(mac, str) else ("", "", "")
        name, _, found = rest.partition(".")
        if version == _VERSION and len(name) == _NAME_LENGTH:
            self._check_name(name)
            right = self._macs[name].of(text.encode())
            if hmac.compare_digest(right.encode(), found.encode(errors="replace")):
                return
        raise _changed()

    def _check_name(self, name: str) -> None:
        if name not in self._by_name:
            raise SealError(
                f"The sealing key {name[:8]!r} is missing; the given keys are"
                f" {', '.join(self._by_name)}.",
                hint="Add that key to DEVICEFLOW_KEYS, after the first one. Nothing is lost. If"
                " nobody has the key any more, log in again, with another store.",
            )


def _changed() -> SealError:
    return SealError(
        "The MAC of this login's row is wrong: somebody has changed the row.",
        hint="Nothing was sent. Run deviceflow audit verify, find out who can write to the store,"
        " and start a new login.",
    )


def generate_key() -> Secret:
    """Return a new key.

    Raises:
        ImportError: `cryptography` is missing.
    """
    return Secret(_fernet().Fernet.generate_key().decode())


_NAME_LENGTH: Final = 8


def _name_of(key: str) -> str:
    return hmac.digest(key.encode(), b"deviceflow key name", "sha256").hex()[:_NAME_LENGTH]


def _exact(token: str) -> bytes:
    """Return the token with its padding. Fernet itself would ignore invalid characters.

    Raises:
        ValueError: The token is not canonical base64, so somebody changed it.
    """
    whole = f"{token}{'=' * (-len(token) % 4)}".encode("ascii")
    if base64.urlsafe_b64encode(base64.urlsafe_b64decode(whole)) != whole:
        raise ValueError
    return whole


def _fernet() -> Any:
    try:
        from cryptography import fernet  # noqa: PLC0415  # an extra
    except ModuleNotFoundError:
        missing = ImportError("Sealing needs cryptography: pip install 'deviceflow[seal]'")
    else:
        return fernet
    raise missing


class Keyless:
    """The sealer of a store that is opened for reading without a key. It opens nothing."""

    prefix = ""

    def _refuse(self, *_: object) -> Any:
        raise SealError(
            "The store is open for reading only, without the key that sealed its secrets.",
            hint="Set the key: DEVICEFLOW_KEYS.",
        )

    seal = open = mac = check = _refuse


class Plain:
    """Keeps secrets in clear, for a caller who passed plaintext=True."""

    prefix = PLAIN

    def seal(self, value: Any, *_context: str) -> str:
        """Return a JSON value as text, not encrypted."""
        return self.prefix + json.dumps(value, separators=(",", ":"))

    def open(self, kept: str, *_context: str) -> Any:
        """Return the stored value.

        Raises:
            SealError: The value is sealed, or was changed.
        """
        if kept.startswith(self.prefix):
            try:
                return json.loads(kept.removeprefix(self.prefix))
            except ValueError:
                pass
        del kept
        raise _sealed_here()

    def mac(self, text: str) -> str:
        """Return the SHA-256 of a text. It shows accidental damage, and does not authenticate."""
        return self.prefix + hashlib.sha256(text.encode()).hexdigest()

    def check(self, text: str, mac: object) -> None:
        """Check that `mac` is the hash of `text`.

        Raises:
            SealError: The hash is wrong, or the MAC was made with a key.
        """
        if isinstance(mac, str) and mac.startswith(f"{_VERSION}."):
            raise _sealed_here()
        if mac != self.mac(text):
            raise _changed()


def _sealed_here() -> SealError:
    return SealError(
        "The store was opened with plaintext=True (--plaintext), but its secrets are sealed.",
        hint="Open the store with its key, and without plaintext. Nothing is lost.",
    )
