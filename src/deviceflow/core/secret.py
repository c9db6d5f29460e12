"""Secrets that do not show: not in a repr, a log, a traceback's locals, or a pickle."""

from __future__ import annotations

import hmac
import os
from typing import TYPE_CHECKING, Final, Generic, NoReturn, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T")

_PROCESS_KEY: Final = os.urandom(32)


class Secret:
    """A text that must not be seen: a device code, a token, a key.

    `str`, `repr` and f-strings hide it, and it refuses to be pickled. Whoever needs the text says
    so: `secret.reveal()`.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def of(cls, text: object) -> Self:
        """Return the secret of a text that was read from somewhere.

        Raises:
            TypeError: It is no text; what it is instead is not said.
        """
        if not isinstance(text, str):
            raise TypeError("a secret is a text")
        return cls(text)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def fingerprint(self, key: bytes | None = None) -> str:
        """Return 16 hex digits that are the same for the same text under the same key.

        Keyed (HMAC-SHA256), since the plain hash of a short code is guessed in seconds.

        Args:
            key: The key; where none is given, one made at random for this process.
        """
        return hmac.digest(key or _PROCESS_KEY, self._bytes(), "sha256")[:8].hex()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret is a fact about it

    def _bytes(self) -> bytes:
        # An error for a text that cannot be encoded would quote it.
        return self._text.encode(errors="surrogatepass")

    def __repr__(self) -> str:
        return "<secret>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret does not pickle: store it sealed, or call reveal()")


class Hidden(Generic[_T]):
    """A value that may hold secrets, out of sight of a traceback that is rendered with locals.

    It is neither a dict, a tuple nor a text: tools that render locals look into those, whatever
    their `repr` says.
    """

    __slots__ = ("_value",)

    def __init__(self, value: _T) -> None:
        self._value = value

    def reveal(self) -> _T:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return "<hidden>"


def without_frames(stop: BaseException) -> BaseException:
    """Return what was raised, without the frames below and their locals, which may show secrets."""
    stop.__context__ = stop.__cause__ = None
    return stop.with_traceback(None)


def unseen(work: Callable[[], _T]) -> _T:
    """Return what `work` returns; what it raises comes without the frames that raised it."""
    try:
        return work()
    except BaseException as stop:  # noqa: BLE001  # it goes on, but bare
        raise without_frames(stop) from None


def wrapped(texts: Iterable[Secret | str]) -> tuple[Secret, ...]:
    """Return texts, such as keys that a program has given, as secrets."""
    return tuple(text if isinstance(text, Secret) else Secret(text) for text in texts)
