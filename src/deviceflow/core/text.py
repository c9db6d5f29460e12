"""Types for cleaned text from a server. Only cleaned text is stored, logged or shown.

To a type checker, a `str` is not a `CleanText`. So a server's text cannot reach a record, an event
or a log without passing through this module.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING, Final, Self

from deviceflow.core.sanitize import hidden_if_random, printable, web_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deviceflow.core.secret import Secret

LONGEST: Final = 200
"""The most characters of a text that are kept."""

MOST: Final = 100
"""The most texts of a list that are kept."""

PIECE: Final = 8
"""How many consecutive characters of a secret are recognised; a shorter secret as a whole."""

USER_CODE_PIECE: Final = 6
"""The same for a user code, which is short."""

_SHORTEST: Final = 4  # shorter codes occur in any text by chance
_ENDLESS: Final = 65536  # with a longer secret, no text is shown at all
_DEPTH: Final = 4  # how often hex and base64 may be nested
_HIDDEN: Final = "<secret>"
_DIGEST: Final = "sha256:"

_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ESCAPE: Final = re.compile(
    r"[\\%]u([0-9A-Fa-f]{4})|\\u\{([0-9A-Fa-f]{1,6})\}|\\U([0-9A-Fa-f]{8})|\\x([0-9A-Fa-f]{2})"
)
_NOT_HEX: Final = re.compile(r"0[xX]|[^0-9A-Fa-f]")
_NOT_BASE64: Final = re.compile(r"[^0-9A-Za-z+/]")
_NOT_LETTERS: Final = re.compile(r"[^0-9A-Za-z]")
_WORD: Final = re.compile(r"\S+")


class SecretMatcher:
    """The secrets of a login. Finds pieces of them in texts, in any spelling.

    A piece has `PIECE` characters. It is found in upper or lower case, with accents, as
    compatibility letters, with other characters than letters and digits in between, and encoded
    as percent, backslash or HTML escapes, hex or base64, also nested.

    Args:
        *secrets: The device code, the verifier and tokens; None is ignored.
        user_code: The code that the person types.
        piece: How many characters make a piece of a secret.
    """

    __slots__ = ("_endless", "_pieces")

    def __init__(
        self, *secrets: Secret | None, user_code: str | None = None, piece: int = PIECE
    ) -> None:
        self._pieces: dict[int, set[str]] = {}
        self._endless = False
        for secret in secrets:
            if secret is not None:
                self._add(_folded(secret.reveal()), piece)
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
        """Return whether a piece of a secret can be read in the text."""
        if self._endless or not self._pieces:
            return self._endless
        return any(map(self._is_in, _readings(text, min(self._pieces), _DEPTH)))

    def _is_in(self, folded: str) -> bool:
        return any(
            folded[at : at + length] in pieces
            for length, pieces in self._pieces.items()
            for at in range(len(folded) - length + 1)
        )


NOTHING: Final = SecretMatcher()
"""No secrets: for this library's own texts, and for texts that were cleaned before."""


class _Made(str):
    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class CleanText(_Made):
    """Text that may be stored, logged and printed: one line of limited length, without secrets.

    Args:
        text: The text from the server.
        known: The secrets of the login.
        looks: Whether to hide everything that looks like a code or a token too; for error
            messages.
    """

    __slots__ = ()

    def __new__(cls, text: str, known: SecretMatcher, *, redact_lookalikes: bool = False) -> Self:
        def hidden(word: re.Match[str]) -> str:
            if known.found_in(word[0]):
                return _HIDDEN
            if not redact_lookalikes:
                return word[0]
            plain = _unescaped(word[0])
            if plain != word[0] and plain != hidden_if_random(plain):
                return "<hidden>"
            return hidden_if_random(word[0])

        text = _WORD.sub(hidden, printable(text, 2 * LONGEST))[:LONGEST]
        # A secret may be spread over several words, or begin before the cut.
        return super().__new__(cls, _HIDDEN if known.found_in(text) else text)


class PersonText(_Made):
    """Text for the person who logs in only: printed, never logged.

    Args:
        text: The text from the server.
        limit: The most characters to keep.
    """

    __slots__ = ()

    def __new__(cls, text: str, limit: int) -> Self:
        return super().__new__(cls, printable(text, limit))


def trusted(text: str) -> CleanText:
    """Return one of this library's own texts as text that may be stored and logged."""
    return CleanText(text, NOTHING)


def cleaned(texts: Iterable[str], known: SecretMatcher) -> tuple[CleanText, ...]:
    """Return a server's list of texts as texts that may be stored and logged, at most `MOST`."""
    kept = tuple(filter(None, (CleanText(text, known) for text in [*texts][:MOST])))
    # A secret may be spread over several texts.
    return (CleanText(_HIDDEN, NOTHING),) if known.found_in("".join(kept)) else kept


def identifier(text: str, known: SecretMatcher) -> CleanText:
    """Return a server's identifier, such as a subject, as text that may be stored and logged.

    It is kept as it is, or else as its SHA-256: if it is too long, not printable, or contains a
    secret. So two identifiers are never kept as the same text.
    """
    clean = CleanText(text, known)
    return clean if clean == text and not text.startswith(_DIGEST) else _digest(text)


def same_identifier(one: str, other: str) -> bool:
    """Tell whether two kept identifiers are the same, whichever secrets were known of each."""
    digests = {kept if kept.startswith(_DIGEST) else _digest(kept) for kept in (one, other)}
    return len(digests) == 1


def _digest(text: str) -> CleanText:
    return trusted(f"{_DIGEST}{hashlib.sha256(text.encode()).hexdigest()}")


def link(url: object, known: SecretMatcher = NOTHING) -> PersonText | None:
    """Return the URL if it may be shown as a link and opened, else None.

    Args:
        url: The value from the server.
        known: The secrets of the login, which the URL must not contain. It may contain the user
            code.
    """
    page = web_url(url)
    return None if page is None or known.found_in(page) else PersonText(page, len(page))


def _folded(text: str) -> str:
    """Return only the letters and digits, normalised and in lower case."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(filter(str.isalnum, plain))


def _readings(text: str, shortest: int, depth: int) -> Iterator[str]:
    """Yield each reading of the text, folded: as it is, and with its encodings undone."""
    if len(text) < shortest:
        return
    decoded, text = text, ""
    while decoded != text:  # this ends, because decoding shortens the text
        text = _without_marks(decoded)
        yield _folded(text)
        decoded = _unescaped(text)
    if depth:
        for data in _decoded(text, shortest):
            # UTF-16 has zeros between ASCII letters.
            inner = data.replace(b"\0", b"").decode(errors="replace")
            for run in re.findall(rf"[^\x00-\x1f\x7f-\x9f\ufffd]{{{shortest},}}", inner):
                yield from _readings(run, shortest, depth - 1)


def _without_marks(text: str) -> str:
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text)
    return "".join(char for char in plain if unicodedata.category(char)[0] not in "CM")


def _unescaped(text: str) -> str:
    """Return the text with each percent, backslash and HTML escape decoded once."""
    text = _PERCENT.sub(
        lambda run: bytes.fromhex(run[0].replace("%", "")).decode(errors="ignore"), text
    )
    text = _ESCAPE.sub(_char, text)
    if "&" in text:
        from html import unescape  # noqa: PLC0415  # imports a large table that few texts need

        text = unescape(text)
    # Two escapes may be a surrogate pair.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")


def _char(escape: re.Match[str]) -> str:
    number = int(next(filter(None, escape.groups())), 16)
    return chr(number) if number <= 0x10FFFF else ""


def _decoded(text: str, shortest: int) -> Iterator[bytes]:
    """Yield the bytes that parts of the text may encode as hex or base64, at any offset."""
    digits = _NOT_HEX.sub("", text)
    if len(digits) >= 2 * shortest:
        for at in range(2):
            yield bytes.fromhex(digits[at : at + (len(digits) - at) // 2 * 2])
    base64 = _NOT_BASE64.sub("", text.replace("-", "+").replace("_", "/"))
    for chars in {base64, _NOT_LETTERS.sub("", text)}:
        for at in range(4) if len(chars) * 3 >= 4 * shortest else ():
            part = chars[at : len(chars) - ((len(chars) - at) % 4 == 1)]
            yield binascii.a2b_base64(part + "=" * (-len(part) % 4))
