"""Types that hide secrets from reprs, logs, pickles, and tracebacks with local variables."""

from __future__ import annotations

import hmac
import os
from typing import TYPE_CHECKING, ClassVar, Final, Generic, NoReturn, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T")

_PROCESS_KEY: Final = os.urandom(32)


class Secret:
    """A secret text: a device code, a token, a key.

    `str`, `repr` and f-strings show `<secret>`, and pickling raises. `secret.reveal()` returns the
    text.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def of(cls, text: object) -> Self:
        """Return the secret for a value that was read from somewhere.

        Raises:
            TypeError: The value is not a string. The message does not quote it.
        """
        if not isinstance(text, str):
            raise TypeError("A secret must be a string.")
        return cls(text)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def fingerprint(self, key: bytes | None = None) -> str:
        """Return 16 hex digits that identify the text under a key (HMAC-SHA256).

        A hash without a key would not do: a short code is guessed from it in seconds.

        Args:
            key: The key; by default a random key of this process.
        """
        return hmac.digest(key or _PROCESS_KEY, self._bytes(), "sha256")[:8].hex()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # a hash would reveal something about the text

    def _bytes(self) -> bytes:
        # An encoding error would quote the text.
        return self._text.encode(errors="surrogatepass")

    def __repr__(self) -> str:
        return "<secret>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A Secret cannot be pickled. Seal it, or call reveal().")


class Hidden(Generic[_T]):
    """Hides a value that may contain secrets from tracebacks with local variables.

    It is not a dict, tuple or str, because tools that render locals look into those, whatever
    their `repr` returns.
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
    """Return the exception without its traceback, whose local variables may contain secrets."""
    stop.__context__ = stop.__cause__ = None
    return stop.with_traceback(None)


def without_traceback(work: Callable[[], _T]) -> _T:
    """Return what `work` returns. If it raises, raise the same exception without its frames."""
    try:
        return work()
    except BaseException as stop:  # noqa: BLE001  # raised again without its frames
        raise without_frames(stop) from None


def wrapped(texts: Iterable[Secret | str]) -> tuple[Secret, ...]:
    """Return texts, such as keys from a caller, as secrets."""
    return tuple(text if isinstance(text, Secret) else Secret(text) for text in texts)
