"""Signed digests, which show that the end of a chain or a whole flow was removed.

A digest is a file. It names the last event of each flow that has new events since the previous
digest, and the flows that were pruned. Its first line is signed (Ed25519), and contains the hash of
the previous digest's first line and the hash of the other lines, one for each flow. Keep digests
where writers of the store have no access. The public key is enough to verify them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self

from deviceflow._files import written_whole
from deviceflow.audit.chain import decode, encode
from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from deviceflow.core.secret import Secret

SCHEMA: Final = "deviceflow.digest/1"

_NAME: Final = re.compile(r"digest-(\d{6,})\.jsonl", re.ASCII)
_ID: Final = re.compile(r"([1-9]\d{0,14}):([0-9a-f]{64})", re.ASCII)
_LONGEST: Final = 2**20
"""The longest line in bytes."""


class DigestId(NamedTuple):
    """The id of a digest. With the id of the last digest, an old copy of a directory is detected.

    Attributes:
        number: The digest's number.
        hash: The SHA-256 of its first line, in hex.
    """

    number: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `NUMBER:HASH`, as returned by `str()`.

        Raises:
            ValueError: The text is not of this form.
        """
        match = _ID.fullmatch(text.strip())
        if match is None:
            raise ValueError(text)
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class Entry(NamedTuple):
    """A digest's entry for a flow.

    Attributes:
        flow_id: The flow.
        seq: The number of its last event.
        hash: The hash of its last event.
        pruned: Whether the flow's events up to this one were pruned.
    """

    flow_id: str
    seq: int
    hash: str
    pruned: bool = False


@dataclass(frozen=True, slots=True)
class Digest:
    """The first line of a digest.

    Attributes:
        number: Its number, from 1.
        time: When it was written, in UTC.
        previous: The SHA-256 of the previous digest's first line; None for the first digest.
        flows: The number of entries.
        entries: The SHA-256 of all other lines.
        public_key: The signer's Ed25519 public key: 32 bytes as base64.
        signature: The signature, as base64.
    """

    number: int
    time: str
    previous: str | None
    flows: int
    entries: str
    public_key: str
    signature: str = ""

    @property
    def hash(self) -> str:
        """The SHA-256 of the line, as the next digest names it."""
        return hashlib.sha256(self.line()).hexdigest()

    @property
    def id(self) -> DigestId:
        """Its number and hash."""
        return DigestId(self.number, self.hash)

    def signed_part(self) -> bytes:
        """Return the signed bytes: the line without the signature, in canonical form (RFC 8785)."""
        return encode(dict(sorted(self._fields().items())))

    def line(self) -> bytes:
        """Return the line as it is in the file."""
        fields = self._fields() | {"signature": self.signature}
        return encode(dict(sorted(fields.items()))) + b"\n"

    def _fields(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "number": self.number,
            "time": self.time,
            "previous": self.previous,
            "flows": self.flows,
            "entries": self.entries,
            "public_key": self.public_key,
        }

    def is_signed_by(self, public_key: str) -> bool:
        """Tell whether the key signed the digest.

        Args:
            public_key: An Ed25519 public key: 32 bytes as base64.

        Raises:
            StoreError: The public key is invalid.
            ImportError: `cryptography` is missing (extra `seal`).
        """
        ed25519, invalid = _ed25519()
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
        except ValueError:
            raise StoreError("The public key is not an Ed25519 key in base64.") from None
        try:
            key.verify(base64.b64decode(self.signature), self.signed_part())
        except (invalid, ValueError):
            return False
        return True

    def is_signed_by_its_own_key(self) -> bool:
        """Tell whether the key in the digest signed it."""
        try:
            return self.is_signed_by(self.public_key)
        except StoreError:
            return False


class Signer:
    """Signs digests.

    Args:
        key: An Ed25519 private key: 32 bytes as base64.

    Attributes:
        public_key: The public key, as base64.

    Raises:
        StoreError: The key is invalid.
        ImportError: `cryptography` is missing (extra `seal`).
    """

    def __init__(self, key: Secret) -> None:
        ed25519, _ = _ed25519()
        problem = None
        try:
            self._key = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(key.reveal()))
        except ValueError:
            problem = StoreError(
                "The signing key is not an Ed25519 key: 32 bytes as base64.",
                hint="Create one with: deviceflow audit keygen",
            )
        if problem:
            raise problem
        self.public_key: str = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def __repr__(self) -> str:
        return f"<Signer {self.public_key}>"

    def sign(self, digest: Digest) -> Digest:
        """Return the digest with this key's signature."""
        signature = self._key.sign(digest.signed_part())
        return replace(digest, signature=base64.b64encode(signature).decode())

    def write(
        self, directory: Path, time: str, entries: Iterable[Entry], *, begin: bool = False
    ) -> Digest | None:
        """Write the next digest into a directory, atomically. No file is overwritten.

        Args:
            directory: The directory of the digests.
            time: The time of the snapshot, in UTC.
            entries: The entries, consumed one by one.
            begin: Write the first digest, into a directory without digests, even if there are no
                entries.

        Returns:
            The digest; None if there are no entries.

        Raises:
            StoreError: The directory has no digest and `begin` is not set, or it has one and
                `begin` is set, or the digest could not be written, for example because another
                process wrote one at the same time.
        """
        last = last_digest(directory)
        if begin != (last is None):
            raise _has_some(directory) if begin else _has_none(directory)
        number = 1 if last is None else last.number + 1
        path = directory / f"digest-{number:06}.jsonl"
        try:
            with tempfile.TemporaryFile(dir=directory) as body:
                flows, digest = _put(entries, body)
                if not flows and not begin:
                    return None
                previous = None if last is None else last.hash
                unsigned = Digest(number, time, previous, flows, digest, self.public_key)
                signed = self.sign(unsigned)
                body.seek(0)
                # A digest is to be copied and contains no secrets, so other users may read it.
                with written_whole(path, new=True, mode=0o644) as file:
                    file.write(signed.line())
                    shutil.copyfileobj(body, file)
        except OSError as error:
            raise StoreError(f"{path} could not be written: {error.strerror}.") from None
        return signed


def files_of(directory: Path) -> list[tuple[int, Path]]:
    """Return the digest files in a directory with their numbers, in order.

    Raises:
        StoreError: The directory cannot be read.
    """
    try:
        found = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    except OSError as error:
        raise StoreError(
            f"The directory of the digests, {directory}, cannot be read: {error.strerror}.",
            hint="Check the path, and check that its volume is mounted.",
        ) from None
    return sorted((int(match[1]), path) for match, path in found if match)


def last_digest(directory: Path) -> Digest | None:
    """Return the digest with the highest number in a directory; None if there is none.

    Raises:
        StoreError: The directory or the digest cannot be read.
    """
    files = files_of(directory)
    return read_digest(files[-1][1]) if files else None


def _has_none(directory: Path) -> StoreError:
    return StoreError(
        f"There is no digest in {directory}, so nothing was signed.",
        hint="Check the path, and check that its volume is mounted. To write the first digest:"
        f" deviceflow audit digest --digests {shlex.quote(str(directory))} --begin",
    )


def _has_some(directory: Path) -> StoreError:
    return StoreError(
        f"There are digests in {directory} already, so nothing was signed.",
        hint="Omit --begin to write the next digest.",
    )


def read_digest(path: Path) -> Digest:
    """Return the digest in a file. Only the first line is read.

    Raises:
        StoreError: The file cannot be read, or is not a digest.
    """
    with _open(path) as file:
        line = file.readline(_LONGEST)
    try:
        read = json.loads(line)
        digest = Digest(
            _count(read["number"]),
            str(read["time"]),
            read["previous"],
            _count(read["flows"]),
            str(read["entries"]),
            str(read["public_key"]),
            str(read["signature"]),
        )
        # Reject additional fields: they are not signed, but another reader could trust them.
        as_written = digest.line() == line
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        as_written = False
    if not as_written:
        raise _damaged(path)
    return digest


def read_entries(path: Path, digest: Digest) -> Iterator[Entry]:
    """Yield the entries of a digest, one by one.

    Raises:
        StoreError: The file cannot be read, or its hash does not match the first line. The hash is
            known only at the end: then the entries yielded before must be discarded.
    """
    found, flows = hashlib.sha256(), 0
    with _open(path) as file:
        file.readline(_LONGEST)
        while line := file.readline(_LONGEST):
            found.update(line)
            flows += 1
            try:
                yield _entry(*decode(line))
            except (ValueError, TypeError, RecursionError):
                raise _damaged(path) from None
    if (found.hexdigest(), flows) != (digest.entries, digest.flows):
        raise _damaged(path)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.") from None


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is damaged, or is not a digest of this version.")


def _put(entries: Iterable[Entry], file: IO[bytes]) -> tuple[int, str]:
    """Write entries as lines. Return their number and their SHA-256."""
    flows, digest = 0, hashlib.sha256()
    for entry in entries:
        try:
            *head, pruned = _entry(*entry)
        except (TypeError, ValueError):
            raise StoreError(
                "The trail contains an invalid event, which deviceflow did not write.",
                hint="Nothing was signed. Verify the trail: deviceflow audit verify",
            ) from None
        line = encode([*head, True] if pruned else head) + b"\n"
        digest.update(line)
        file.write(line)
        flows += 1
    return flows, digest.hexdigest()


def _entry(flow_id: object, seq: object, head: object, pruned: object = False) -> Entry:
    if not (isinstance(flow_id, str) and isinstance(head, str) and isinstance(pruned, bool)):
        raise TypeError
    flow_id.encode()  # raises for ids that cannot be queried
    return Entry(flow_id, _count(seq), head, pruned)


def _count(value: object) -> int:
    if (
        type(value) is not int or not 0 <= value < 2**53
    ):  # the integers that every JSON parser reads exactly
        raise ValueError
    return value


def _ed25519() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ImportError("Signing needs a library: pip install 'deviceflow[seal]'") from None
    return ed25519, InvalidSignature
