"""Search for secrets, in each of the spellings in which a program may have written them."""

from __future__ import annotations

import base64
import subprocess
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from tests.postgres import debian_binaries

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CONTEXT: Final = 200
"""How many bytes before a secret say where it is."""


class Search:
    """Texts by name, and whether secrets are in them."""

    def __init__(self) -> None:
        self._texts: Final = dict[str, bytes]()

    def add(self, name: str, text: bytes) -> None:
        """Add a text; behind what is there already, if the name is known."""
        self._texts[name] = self._texts.get(name, b"") + b"\n" + text

    @property
    def names(self) -> list[str]:
        """The names of all texts."""
        return [*self._texts]

    def size(self, name: str) -> int:
        """Return how many bytes a text has."""
        return len(self._texts[name])

    def find(self, name: str, secrets: Iterable[str]) -> str | None:
        """Return what is before the first secret in a text; None if no secret is there."""
        text = self._texts[name]
        places = (text.find(spelling) for one in secrets for spelling in spellings(one))
        at = min((place for place in places if place >= 0), default=None)
        if at is None:
            return None
        return text[max(0, at - _CONTEXT) : at].decode(errors="replace").replace("\n", " ")


def spellings(secret: str) -> set[bytes]:
    """Return a secret as it is, in a URL, and the part of it that base64 always has."""
    found = {secret.encode(), quote(secret, safe="").encode()}
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + secret.encode())
        found.add(encoded[4 * (shift > 0) : -4])
    return found


def dump(database: str) -> bytes:
    """Return all that is in a database, as `pg_dump` prints it."""
    folder = debian_binaries()
    program: Path | str = "pg_dump" if folder is None else folder / "pg_dump"
    return subprocess.run([program, database], check=True, capture_output=True).stdout


def files(folder: Path) -> bytes:
    """Return all that is in the files of a folder, with their names."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in found)
