"""The trail that the commands on it share, and its verification."""

from __future__ import annotations

import base64
import sys
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deviceflow.audit.chain import AuditKey
from deviceflow.cli import stored
from deviceflow.cli.options import EvidenceOptions, StoreOptions
from deviceflow.credentials.keys import audit, sealing, signing
from deviceflow.errors import StoreError, UsageError
from deviceflow.stores.sql import SQLStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.stores.url import VARIABLE, sqlite_file
from deviceflow.trail import query
from deviceflow.trail.digest import Signer
from deviceflow.trail.ledger import Finding
from deviceflow.trail.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.stores.sql import Snapshot

_STEP = 1000  # events between two looks at the progress


class VerifiedStore(EvidenceOptions, StoreOptions):
    """What says which store is verified, and by what."""


class Verified(NamedTuple):
    """What a verification has found.

    Attributes:
        findings: What should not be so.
        by: The verification, with what it has read.
        self_signed: Whether nobody said beforehand whose signature the digests must bear.
        keyed: Whether there was a key by which to tell who has written the events.
    """

    findings: list[Finding]
    by: Verification
    self_signed: bool
    keyed: bool


def store(args: StoreOptions, *, read_only: bool = True) -> SQLStore:
    """Open the store whose trail is meant. None is made where there is none.

    Args:
        args: The arguments.
        read_only: Whether the user need not be able to write to it.

    Raises:
        UsageError: It keeps no trail, or cannot be named so.
        StoreError: It is not there, or cannot be used.
        ImportError: A library is missing.
    """
    file = sqlite_file(args.store)
    if file is not None and not file.exists():
        raise StoreError(
            f"There is no store at {file}.", hint=f"Name the one that is meant: --store, {VARIABLE}"
        )
    kept = stored.store(args, **({"read_only": True} if read_only else {}))
    if not isinstance(kept, SQLStore):
        raise UsageError("A store in memory keeps no trail.", hint="Name another one by --store.")
    return kept


def check(args: EvidenceOptions) -> None:
    """See that what is said of digests makes sense.

    Raises:
        UsageError: It does not.
    """
    if (args.public_key or args.last) and not args.digests:
        raise UsageError(
            "A public key, or the last digest, is of a directory of digests, and none is named.",
            hint="Say where it is: --digests DIR",
        )


def name_of(kept: SQLStore) -> str:
    """Return what to call a store, for a person."""
    return str(kept.path) if isinstance(kept, SQLiteStore) else "PostgreSQL"


def file_of(kept: SQLStore) -> Path | None:
    """Return the store's file, if it is one."""
    return kept.path if isinstance(kept, SQLiteStore) else None


def verify(args: VerifiedStore, kept: SQLStore) -> Verified:
    """Verify a store's trail.

    Raises:
        StoreError: It, the digests or the public key cannot be read.
        ImportError: A library is missing.
    """
    if not (kept.keyed or args.no_key):
        raise StoreError(
            "There is no key to check the events' MACs with.",
            hint=f"Give the audit key ({audit.VARIABLE}) or the store's keys ({sealing.VARIABLE});"
            " or do without, and rely on the digests alone: --no-key",
        )
    public_key = _pinned(args)
    if public_key is None and args.digests and (key := signing.signing_key_if_there(file_of(kept))):
        public_key = Signer(key).public_key
    digests = Path(args.digests) if args.digests else None
    with ExitStack() as stack:
        if args.processes == 1:
            snapshot = stack.enter_context(kept.snapshot())
            verification = Verification(
                *snapshot, digests=digests, public_key=public_key, last=args.last
            )
        else:
            from deviceflow.trail.parallel import PartedVerification

            verification = PartedVerification(
                partial(_part, args.store, args.plaintext),
                kept.bounds(args.processes),
                digests=digests,
                public_key=public_key,
                last=args.last,
            )
        progress = stack.enter_context(_progress(lambda: query.count(kept)))
        return _found(args, verification, progress, keyed=kept.keyed)


@contextmanager
def _part(url: str | None, plaintext: bool, first: str, last: str | None) -> Iterator[Snapshot]:
    """Give a part of the trail to a process that verifies it."""
    named = StoreOptions()
    named.store, named.plaintext = url, plaintext
    opened = store(named)
    with closing(opened) as kept, kept.snapshot(first, last) as snapshot:
        yield snapshot


def verify_files(args: EvidenceOptions, files: list[str]) -> Verified:
    """Verify a trail in files.

    Raises:
        StoreError: They, the digests or the public key cannot be read.
        ImportError: A library is missing.
    """
    from deviceflow.trail.jsonl_file import read_lines

    key = AuditKey.of(audit.configured())
    with ExitStack() as stack:
        lines = stack.enter_context(read_lines(files))
        verification = Verification(
            lines.events,
            None,
            key,
            digests=Path(args.digests) if args.digests else None,
            public_key=_pinned(args),
            last=args.last,
        )
        progress = stack.enter_context(_progress(lambda: None))
        done = _found(args, verification, progress, keyed=key is not None)
        strange = [Finding("edited", None, None, said) for said in lines.strange]
        return done._replace(findings=[*strange, *done.findings])


def _found(
    args: EvidenceOptions,
    verification: Verification,
    progress: Callable[[int], object],
    *,
    keyed: bool,
) -> Verified:
    findings = list(verification.findings(progress))
    self_signed = bool(verification.digests) and not args.public_key
    return Verified(findings, verification, self_signed, keyed)


def _pinned(args: EvidenceOptions) -> str | None:
    if args.public_key is None:
        return None
    try:
        text = Path(args.public_key).read_text("ascii").strip()
        sound = len(base64.b64decode(text, validate=True)) == 32
    except OSError as error:
        raise UsageError(f"{args.public_key} cannot be read: {error.strerror}.") from None
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(
            f"{args.public_key} has no public key in it.",
            hint="It is one line, from: deviceflow audit keygen --public",
        )
    return text


@contextmanager
def _progress(count: Callable[[], int | None]) -> Iterator[Callable[[int], object]]:
    """Give what is told how many events were read: a bar on a terminal with rich."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    try:
        from rich.console import Console  # an extra
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    except ImportError:
        yield lambda _: None
        return
    columns = (TextColumn("Verifying"), BarColumn(), TaskProgressColumn(show_speed=True))
    # What goes to stdout is for others: it is not the bar's to print.
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("", total=count())
        shown = 0

        def tell(read: int) -> None:
            nonlocal shown
            if read - shown >= _STEP:
                shown = read
                bar.update(task, completed=read)

        yield tell
