"""Signed digests: what a chain cannot show, that its end or a whole flow was cut off.

A digest is a file that says, of every flow whose last event is a new one since the digest before,
which that is; or which flows were dropped from the trail on purpose. Its first line is signed
(Ed25519), names the digest before by its hash, and the lines behind it by theirs: one for each
flow, however many there are. Kept where the store's writers cannot reach, a row of digests shows
whatever happens to the trail behind their back; to check them the public key is enough.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self

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
"""Bytes of a line at the most."""


class DigestId(NamedTuple):
    """What a digest is known by: whoever keeps that of the last digest can tell a later copy of it.

    Attributes:
        number: The digest's number.
        hash: The SHA-256 of its first line, in hex.
    """

    number: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id that `str()` has written: `NUMBER:HASH`.

        Raises:
            ValueError: The text is not of that form.
        """
        match = _ID.fullmatch(text.strip())
        if match is None:
            raise ValueError(text)
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class Entry(NamedTuple):
    """What a digest says of a flow.

    Attributes:
        flow_id: The flow.
        seq: The number of its last event.
        hash: The hash of that.
        dropped: Whether its events were dropped from the trail.
    """

    flow_id: str
    seq: int
    hash: str
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Digest:
    """The first line of a digest.

    Attributes:
        number: Its number, from 1.
        time: When it was taken, in UTC.
        previous: The SHA-256 of the first line of the one before; None for the first.
        flows: How many flows it says something of.
        entries: The SHA-256 of all other lines.
        public_key: Whose signature it bears: 32 bytes of Ed25519 as base64.
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
        """Return what is signed: all of it but the signature, in canonical form (RFC 8785)."""
        return encode(dict(sorted(self._fields().items())))

    def line(self) -> bytes:
        """Return what is in the file."""
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

    def sign(self, digest: Digest) -> Digest:
        """Return the digest with this key's signature."""
        signature = self._key.sign(digest.signed_part())
        return replace(digest, signature=base64.b64encode(signature).decode())

    def write(
        self, directory: Path, time: str, entries: Iterable[Entry], *, begin: bool = False
    ) -> Digest | None:
        """Write the next digest into a directory, whole or not at all. No file is overwritten.

        Args:
            directory: Where the digests are.
            time: When what it says was so, in UTC.
            entries: What it says; taken one by one.
            begin: Write the first digest, into a directory that has none. It is written even
                where there are no entries.

        Returns:
            The digest; None where there are no entries.

        Raises:
            StoreError: The directory has no digest, and `begin` is not set; or it has some, and
                `begin` is set; or the digest could not be written, because another one was
                written at the same moment, for example.
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
                # To be copied, and it holds no secret: others may read it.
                with written_whole(path, new=True, mode=0o644) as file:
                    file.write(signed.line())
                    shutil.copyfileobj(body, file)
        except OSError as error:
            raise StoreError(f"{path} could not be written: {error.strerror}.") from None
        return signed


def files_of(directory: Path) -> list[tuple[int, Path]]:
    """Return the digests' files in a directory, each with its number, in their order.

    Raises:
        StoreError: The directory cannot be read.
    """
    try:
        found = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    except OSError as error:
        raise StoreError(
            f"The directory of the digests, {directory}, cannot be read: {error.strerror}.",
            hint="Check the path, and that its volume is mounted.",
        ) from None
    return sorted((int(match[1]), path) for match, path in found if match)


def last_digest(directory: Path) -> Digest | None:
    """Return the digest with the highest number in a directory; None where there is none.

    Raises:
        StoreError: The directory or the digest cannot be read.
    """
    files = files_of(directory)
    return read_digest(files[-1][1]) if files else None


def _has_none(directory: Path) -> StoreError:
    return StoreError(
        f"There is no digest in {directory}, and nothing was signed.",
        hint="Check the path, and that its volume is mounted. If no digest was ever taken here,"
        " begin with number 1: deviceflow audit digest --begin",
    )


def _has_some(directory: Path) -> StoreError:
    return StoreError(
        f"There are digests in {directory} already, and nothing was signed.",
        hint="Leave --begin out to write the next one.",
    )


def read_digest(path: Path) -> Digest:
    """Return the digest in a file, of which the first line was read only.

    Raises:
        StoreError: It cannot be read, or is no digest.
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
        # What is not signed must not be there, or another reader could take it for signed.
        as_written = digest.line() == line
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        as_written = False
    if not as_written:
        raise _damaged(path)
    return digest


def read_entries(path: Path, digest: Digest) -> Iterator[Entry]:
    """Yield what a digest says, one by one.

    Raises:
        StoreError: The file cannot be read, or is not what the digest says it is. That is known
            at its end: whatever was yielded until then must not be believed.
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
    return StoreError(f"{path} is no digest of this version, or is damaged.")


def _put(entries: Iterable[Entry], file: BinaryIO) -> tuple[int, str]:
    """Write entries as lines; return how many, and their SHA-256."""
    flows, digest = 0, hashlib.sha256()
    for entry in entries:
        try:
            *said, dropped = _entry(*entry)
        except (TypeError, ValueError):
            raise StoreError(
                "The trail has an event in it that was never written there.",
                hint="Nothing was signed. See what was done to it: deviceflow audit verify",
            ) from None
        line = encode([*said, True] if dropped else said) + b"\n"
        digest.update(line)
        file.write(line)
        flows += 1
    return flows, digest.hexdigest()


def _entry(flow_id: object, seq: object, head: object, dropped: object = False) -> Entry:
    if not (isinstance(flow_id, str) and isinstance(head, str) and isinstance(dropped, bool)):
        raise TypeError
    flow_id.encode()  # else it could not be looked for
    return Entry(flow_id, _count(seq), head, dropped)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**53:  # which every reader of JSON takes
        raise ValueError
    return value


def _ed25519() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ImportError("Signing needs a library: pip install 'deviceflow[seal]'") from None
    return ed25519, InvalidSignature
