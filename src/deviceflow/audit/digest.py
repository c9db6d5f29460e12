"""Signed digests: what a chain cannot show, that its end or a whole flow was cut off.

A digest is a small file that says, of every flow whose last event is a new one since the digest
before, which that is. It names the digest before it by its hash, and is signed (Ed25519). Kept
where the store's writers cannot reach, a row of them shows whatever happens to the trail behind
their back; to check them the public key is enough.

A digest can also say which flows were dropped from the trail on purpose.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.secret import Secret

SCHEMA: Final = "deviceflow.digest/1"

_NAME: Final = re.compile(r"digest-(\d{6,})\.json")
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Digest:
    """One digest.

    Attributes:
        number: Its number, from 1.
        time: When it was taken, in UTC.
        previous: The SHA-256 of the file before it; None for the first.
        heads: Of each flow that had a new event, the number and the hash of its last one.
        dropped: The same of each flow that was dropped from the trail.
        public_key: Whose signature it bears: 32 bytes of Ed25519 as base64.
        signature: The signature, as base64.
        hash: The SHA-256 of the file, as the next one names it.
    """

    number: int
    time: str
    previous: str | None
    heads: Mapping[str, tuple[int, str]]
    dropped: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    public_key: str = ""
    signature: str = ""
    hash: str = ""

    def signed_part(self) -> bytes:
        """Return what is signed: all of it but the signature, in canonical form (RFC 8785)."""
        return _encode(_sorted(self._fields())).encode()

    def text(self) -> bytes:
        """Return what is in the file."""
        return _encode(_sorted(self._fields() | {"signature": self.signature})).encode() + b"\n"

    def _fields(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "number": self.number,
            "time": self.time,
            "previous": self.previous,
            "heads": _sorted(self.heads),
            "dropped": _sorted(self.dropped),
            "public_key": self.public_key,
        }

    def is_signed_by(self, public_key: str) -> bool:
        """Tell whether the signature is that key's.

        Args:
            public_key: 32 bytes of Ed25519 as base64.

        Raises:
            StoreError: That is no such key.
            ImportError: `cryptography` is missing (extra `seal`).
        """
        ed25519, invalid = _ed25519()
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
        except ValueError:
            raise StoreError("The public key is no Ed25519 key in base64.") from None
        try:
            key.verify(base64.b64decode(self.signature), self.signed_part())
        except (invalid, ValueError):
            return False
        return True

    def is_signed_by_its_own_key(self) -> bool:
        """Tell whether the signature is that of the key that it names."""
        try:
            return self.is_signed_by(self.public_key)
        except StoreError:
            return False


class Signer:
    """Signs digests.

    Args:
        key: 32 random bytes as base64: an Ed25519 private key.

    Attributes:
        public_key: The other half of it, as base64.

    Raises:
        StoreError: It is no such key.
        ImportError: `cryptography` is missing (extra `seal`).
    """

    def __init__(self, key: Secret) -> None:
        ed25519, _ = _ed25519()
        problem = None
        try:
            self._key = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(key.reveal()))
        except ValueError:
            problem = StoreError(
                "The signing key is no Ed25519 key: 32 bytes as base64.",
                hint="Make one with `deviceflow audit keygen`.",
            )
        if problem:
            raise problem
        self.public_key = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def __repr__(self) -> str:
        return f"<Signer {self.public_key}>"

    def write(
        self,
        directory: Path,
        time: str,
        heads: Mapping[str, tuple[int, str]],
        dropped: Mapping[str, tuple[int, str]] | None = None,
    ) -> Digest:
        """Write the next digest into a directory: all of it or nothing, and over none.

        Raises:
            StoreError: It could not be written; another one may have been, at the same moment.
        """
        files = files_of(directory)
        last = read_digest(files[-1][1]) if files else None
        unsigned = Digest(
            1 if last is None else last.number + 1,
            time,
            None if last is None else last.hash,
            heads,
            dropped or {},
            self.public_key,
        )
        signature = self._key.sign(unsigned.signed_part())
        text = replace(unsigned, signature=base64.b64encode(signature).decode()).text()
        path = directory / f"digest-{unsigned.number:06}.json"
        try:
            handle, draft = tempfile.mkstemp(prefix=".digest-", dir=directory)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(draft, 0o644)  # noqa: PTH101  # to be copied, and it holds no secret
                os.link(draft, path)
            finally:
                Path(draft).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path} could not be written: {error.strerror}.") from None
        return _digest(text, path)


def generate_signing_key() -> str:
    """Return a new Ed25519 private key: 32 bytes as base64."""
    return base64.b64encode(os.urandom(32)).decode()


def files_of(directory: Path) -> list[tuple[int, Path]]:
    """Return the digests' files in a directory, each with its number, in their order.

    Raises:
        StoreError: The directory cannot be read.
    """
    try:
        found = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    except OSError as error:
        raise StoreError(f"{directory} cannot be read: {error.strerror}.") from None
    return sorted((int(match[1]), path) for match, path in found if match)


def read_digest(path: Path) -> Digest:
    """Return the digest in a file.

    Raises:
        StoreError: It cannot be read, or is no digest.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.") from None
    return _digest(text, path)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**53:  # which every reader of JSON takes
        raise ValueError
    return value


def _sorted(fields: Mapping[str, Any]) -> dict[str, Any]:
    # RFC 8785 goes by UTF-16, and a flow that was brought here may have any name.
    return dict(sorted(fields.items(), key=lambda field: field[0].encode("utf-16-be")))


def _digest(text: bytes, path: Path) -> Digest:
    problem = f"{path} is no digest of this version, or is damaged."
    try:
        read: dict[str, Any] = json.loads(text)
        digest = Digest(
            _count(read["number"]),
            str(read["time"]),
            read["previous"],
            {flow: (_count(seq), str(hash_)) for flow, (seq, hash_) in read["heads"].items()},
            {flow: (_count(seq), str(hash_)) for flow, (seq, hash_) in read["dropped"].items()},
            str(read["public_key"]),
            str(read["signature"]),
            hashlib.sha256(text).hexdigest(),
        )
        # What is not signed must not be there, or another reader could take it for signed.
        as_written = digest.text() == text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StoreError(problem) from None
    if not as_written:
        raise StoreError(problem)
    return digest


def _ed25519() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ImportError("Signing needs a library: pip install 'deviceflow[seal]'") from None
    return ed25519, InvalidSignature
