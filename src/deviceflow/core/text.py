"""Text from a server, in types that only cleaning makes: what is kept, logged or shown has them.

A `str` is not a `CleanText` to a type checker, so text of a server cannot get into a record, an
event or a log around this module.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from typing import TYPE_CHECKING, Final, Self

from deviceflow.core.sanitize import hidden_if_random, printable, web_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deviceflow.core.secret import Secret

LONGEST: Final = 200
"""Characters of a text that are kept."""

MOST: Final = 100
"""Texts of a list that are kept."""

PIECE: Final = 8
"""How many characters in a row of a secret are found; the whole of a shorter one."""

USER_CODE_PIECE: Final = 6
"""The same for a user code, which is short."""

_SHORTEST: Final = 4  # a shorter code is in any text, and protects nothing
_ENDLESS: Final = 65536  # beside a longer token than any server takes, no text is shown
_DEPTH: Final = 4  # hex and base64 within each other
_HIDDEN: Final = "<secret>"

_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ESCAPE: Final = re.compile(
    r"[\\%]u([0-9A-Fa-f]{4})|\\u\{([0-9A-Fa-f]{1,6})\}|\\U([0-9A-Fa-f]{8})|\\x([0-9A-Fa-f]{2})"
)
_NOT_HEX: Final = re.compile(r"0[xX]|[^0-9A-Fa-f]")
_NOT_BASE64: Final = re.compile(r"[^0-9A-Za-z+/]")
_NOT_LETTERS: Final = re.compile(r"[^0-9A-Za-z]")
_WORD: Final = re.compile(r"\S+")


class Known:
    """The secrets of a login, to be looked for in texts, however they are spelled there.

    Found are pieces of `PIECE` characters: in any case, with marks, as compatibility letters, with
    anything but letters and digits between them, and encoded as percent, backslash or HTML escapes,
    hex or base64, within each other too.

    Args:
        *secrets: Device code, verifier, tokens; what is None is left out.
        user_code: What the person types.
    """

    __slots__ = ("_endless", "_pieces")

    def __init__(self, *secrets: Secret | None, user_code: str | None = None) -> None:
        self._pieces: dict[int, set[str]] = {}
        self._endless = False
        for secret in secrets:
            if secret is not None:
                self._add(_folded(secret.reveal()), PIECE)
        if user_code is not None:
            self._add(_folded(user_code), USER_CODE_PIECE)

    def _add(self, folded: str, piece: int) -> None:
        self._endless = self._endless or len(folded) > _ENDLESS
        piece = min(piece, len(folded))
        if piece >= _SHORTEST and not self._endless:
            found = self._pieces.setdefault(piece, set())
            found.update(folded[at : at + piece] for at in range(len(folded) - piece + 1))

    def __repr__(self) -> str:
        return "<Known>"

    def found_in(self, text: str) -> bool:
        """Tell whether a piece of a secret can be read in the text."""
        if self._endless or not self._pieces:
            return self._endless
        return any(map(self._is_in, _readings(text, min(self._pieces), _DEPTH)))

    def _is_in(self, folded: str) -> bool:
        return any(
            folded[at : at + length] in pieces
            for length, pieces in self._pieces.items()
            for at in range(len(folded) - length + 1)
        )


NOTHING: Final = Known()
"""No secrets: for words of this library's own, and for what was cleaned once."""


class _Made(str):
    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class CleanText(_Made):
    """Text that may be kept, logged and printed: one line, not long, and no secret in it.

    Args:
        text: What the server sent.
        known: The secrets of the login.
        looks: Whether to hide what looks like a code or a token besides; for error messages.
    """

    __slots__ = ()

    def __new__(cls, text: str, known: Known, *, looks: bool = False) -> Self:
        def hidden(word: re.Match[str]) -> str:
            if known.found_in(word[0]):
                return _HIDDEN
            return hidden_if_random(word[0]) if looks else word[0]

        text = _WORD.sub(hidden, printable(text, 2 * LONGEST))[:LONGEST]
        # A secret may be spread over some words, and what is cut may be a piece of one.
        return super().__new__(cls, _HIDDEN if known.found_in(text) else text)


class PersonText(_Made):
    """Text for the person who logs in, and nobody else: printed, never logged.

    Args:
        text: What the server sent.
        limit: How many characters to keep at the most.
    """

    __slots__ = ()

    def __new__(cls, text: str, limit: int) -> Self:
        return super().__new__(cls, printable(text, limit))


def ours(text: str) -> CleanText:
    """Return words of this library's own as what may be kept and logged."""
    return CleanText(text, NOTHING)


def cleaned(texts: Iterable[str], known: Known) -> tuple[CleanText, ...]:
    """Return a list of a server's texts as what may be kept and logged, `MOST` at the most."""
    kept = tuple(filter(None, (CleanText(text, known) for text in [*texts][:MOST])))
    # A secret may be spread over some of them.
    return (CleanText(_HIDDEN, NOTHING),) if known.found_in("".join(kept)) else kept


def link(url: object, known: Known = NOTHING) -> PersonText | None:
    """Return the address if it is one to show as a link and to open, else None.

    Args:
        url: What the server sent.
        known: The secrets of the login that must not be in it; the user code may be.
    """
    page = web_url(url)
    return None if page is None or known.found_in(page) else PersonText(page, len(page))


def _folded(text: str) -> str:
    """Return the letters and digits alone, as what is meant by all their forms."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(filter(str.isalnum, plain))


def _readings(text: str, shortest: int, depth: int) -> Iterator[str]:
    """Yield what can be read in the text, folded, with all that is encoded in it decoded."""
    if len(text) < shortest:
        return
    decoded, text = text, ""
    while decoded != text:  # which ends: what is left to decode gets less
        text = _without_marks(decoded)
        yield _folded(text)
        decoded = _unescaped(text)
    if depth:
        for data in _decoded(text, shortest):
            # Zeros stand between the letters of UTF-16.
            inner = data.replace(b"\0", b"").decode(errors="replace")
            for run in re.findall(rf"[^\x00-\x1f\x7f-\x9f\ufffd]{{{shortest},}}", inner):
                yield from _readings(run, shortest, depth - 1)


def _without_marks(text: str) -> str:
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text)
    return "".join(char for char in plain if unicodedata.category(char)[0] not in "CM")


def _unescaped(text: str) -> str:
    """Return the text with each percent, backslash and HTML escape in it decoded once."""
    text = _PERCENT.sub(
        lambda run: bytes.fromhex(run[0].replace("%", "")).decode(errors="ignore"), text
    )
    text = _ESCAPE.sub(_char, text)
    if "&" in text:
        from html import unescape  # noqa: PLC0415  # a large table, and few texts need it

        text = unescape(text)
    # Two escapes may be the halves of one character.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")


def _char(escape: re.Match[str]) -> str:
    number = int(next(filter(None, escape.groups())), 16)
    return chr(number) if number <= 0x10FFFF else ""


def _decoded(text: str, shortest: int) -> Iterator[bytes]:
    """Yield what the text may be the hex or base64 of, wherever in it that begins."""
    digits = _NOT_HEX.sub("", text)
    if len(digits) >= 2 * shortest:
        for at in range(2):
            yield bytes.fromhex(digits[at : at + (len(digits) - at) // 2 * 2])
    base64 = _NOT_BASE64.sub("", text.replace("-", "+").replace("_", "/"))
    for chars in {base64, _NOT_LETTERS.sub("", text)}:
        for at in range(4) if len(chars) * 3 >= 4 * shortest else ():
            part = chars[at : len(chars) - ((len(chars) - at) % 4 == 1)]
            yield binascii.a2b_base64(part + "=" * (-len(part) % 4))
