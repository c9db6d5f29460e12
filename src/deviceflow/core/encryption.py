"""Secrets sealed with `cryptography`'s MultiFernet (extra `seal`), and bound to where they belong.

The same keys authenticate what is kept in clear beside the secrets: `Sealer.mac`, by a key that is
derived from the sealing key.

A sealed text says what it is for, inside: opened for anything else it counts as damaged. In front
of it stands the name of its key, from which nothing can be learnt, so that a missing key can be
told from a text that was changed, and rotation knows what is left to do::

    df1.3f9a61c2.gAAAAABp...
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.secret import Secret, wrapped
from deviceflow.errors import SealError

if TYPE_CHECKING:
    from collections.abc import Iterable

_VERSION: Final = "df1"

PLAIN: Final = "plain."
"""What a secret begins with that is kept in clear."""


class Sealer:
    """Seals JSON values, and opens what was sealed.

    Args:
        keys: Fernet keys: 32 random bytes as URL-safe base64. The first one seals, each opens.

    Raises:
        SealError: There is no key, or one is none.
        ImportError: `cryptography` is missing.
    """

    def __init__(self, keys: Iterable[Secret | str]) -> None:
        fernet = _fernet()
        self._by_name: dict[str, Any] = {}  # first of all, since the repr shows it
        self._mac_keys: dict[str, bytes] = {}
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
                problem, hint="Make one with `deviceflow keys generate`, and keep it safe."
            )
        self._all = fernet.MultiFernet(list(self._by_name.values()))
        self._invalid: type[Exception] = fernet.InvalidToken

    def __repr__(self) -> str:
        return f"<Sealer {', '.join(self._by_name)}>"

    def _take(self, fernet: Any, key: Secret) -> bool:
        """Remember a key, and tell whether it is one."""
        try:
            name = _name_of(key.reveal())
            self._by_name[name] = fernet.Fernet(key.reveal())
        except (AttributeError, TypeError, ValueError):
            return False
        self._mac_keys[name] = hmac.digest(key.reveal().encode(), b"deviceflow row key", "sha256")
        return True

    @property
    def prefix(self) -> str:
        """What each text begins with that the first key has sealed."""
        return f"{_VERSION}.{next(iter(self._by_name))}."

    def seal(self, value: Any, *context: str) -> str:
        """Return a JSON value as a sealed, URL-safe text.

        Args:
            value: The value.
            context: What it is and where it belongs; it opens with the same only.
        """
        inside = json.dumps([context, value], separators=(",", ":")).encode()
        return f"{self.prefix}{self._all.encrypt(inside).decode().rstrip('=')}"

    def open(self, sealed: str, *context: str) -> Any:
        """Return the value that was sealed.

        Raises:
            SealError: Its key is not among these, or it was changed, or belongs elsewhere.
        """
        version, _, rest = sealed.partition(".")
        name, _, token = rest.partition(".")
        if version != _VERSION:
            raise SealError("This is no sealed text of a version that is known here.")
        self._check_name(name)
        try:
            bound, value = json.loads(self._all.decrypt(_exact(token)).decode())
        except (self._invalid, ValueError, TypeError):
            bound, value = None, None
        if bound != list(context):
            del value  # another one's, perhaps: a traceback may show this frame
            raise SealError(
                "A sealed secret was changed, or moved from where it belongs.",
                hint="Nothing was sent. Find out who can write to the store; start a new login.",
            )
        return value

    def mac(self, text: str) -> str:
        """Return what shows that whoever wrote `text` has the first key."""
        name, key = next(iter(self._mac_keys.items()))
        return f"{_VERSION}.{name}.{hmac.digest(key, text.encode(), 'sha256').hex()}"

    def check(self, text: str, mac: object) -> None:
        """See that `mac` was made of `text`, by whoever has one of the keys.

        Raises:
            SealError: It was not, or its key is not among these.
        """
        version, _, rest = mac.partition(".") if isinstance(mac, str) else ("", "", "")
        name, _, found = rest.partition(".")
        if version == _VERSION and len(name) == _NAME_LENGTH:
            self._check_name(name)
            right = hmac.digest(self._mac_keys[name], text.encode(), "sha256").hex()
            if hmac.compare_digest(right.encode(), found.encode(errors="replace")):
                return
        raise _changed()

    def _check_name(self, name: str) -> None:
        if name not in self._by_name:
            raise SealError(
                f"It was sealed with the key {name[:8]!r}; given were {', '.join(self._by_name)}.",
                hint="Give that key as well (DEVICEFLOW_KEYS, after the first). Nothing is lost.",
            )


def _changed() -> SealError:
    return SealError(
        "The row of this login was not written with this store's key: somebody has changed it.",
        hint="Nothing was sent. Find out who can write to the store: deviceflow audit verify."
        " Then start a new login.",
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
    """Return the token as Fernet takes it; it would pass over characters that do not belong in it.

    Raises:
        ValueError: It is not as it was when it was sealed.
    """
    whole = f"{token}{'=' * (-len(token) % 4)}".encode("ascii")
    if base64.urlsafe_b64encode(base64.urlsafe_b64decode(whole)) != whole:
        raise ValueError
    return whole


def _fernet() -> Any:
    try:
        from cryptography import fernet  # noqa: PLC0415  # an extra
    except ModuleNotFoundError:
        missing = ImportError("Sealing needs a library: pip install 'deviceflow[seal]'")
    else:
        return fernet
    raise missing


class Keyless:
    """StoredFlow for the key where a store is only read, and there is none: it opens nothing."""

    prefix = ""

    def _refuse(self, *_: object) -> Any:
        raise SealError(
            "The store was opened for reading only, without the key of its secrets.",
            hint="Give the key: DEVICEFLOW_KEYS.",
        )

    seal = open = mac = check = _refuse


class Plain:
    """Keeps secrets in clear, for whoever has said that the place is safe enough."""

    prefix = PLAIN

    def seal(self, value: Any, *_context: str) -> str:
        """Return a JSON value as a text that anybody can read."""
        return self.prefix + json.dumps(value, separators=(",", ":"))

    def open(self, kept: str, *_context: str) -> Any:
        """Return the value that was kept.

        Raises:
            SealError: It is sealed, or was changed.
        """
        if kept.startswith(self.prefix):
            try:
                return json.loads(kept.removeprefix(self.prefix))
            except ValueError:
                pass
        del kept
        raise _sealed_here()

    def mac(self, text: str) -> str:
        """Return a digest of a text, which shows what has come to harm, and not who did it."""
        return self.prefix + hashlib.sha256(text.encode()).hexdigest()

    def check(self, text: str, mac: object) -> None:
        """See that `mac` is that of `text`.

        Raises:
            SealError: It is not, or was made with a key.
        """
        if isinstance(mac, str) and mac.startswith(f"{_VERSION}."):
            raise _sealed_here()
        if mac != self.mac(text):
            raise _changed()


def _sealed_here() -> SealError:
    return SealError(
        "The store holds a sealed secret, and was opened with plaintext=True (--plaintext).",
        hint="Open it with its key. Nothing is lost.",
    )
