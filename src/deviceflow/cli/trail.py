"""Open and verify the trail, for the commands of `deviceflow audit`."""

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
from deviceflow.trail import query
from deviceflow.trail.digest import Signer
from deviceflow.trail.ledger import Finding
from deviceflow.trail.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.stores.sql import Snapshot

_STEP = 1000  # events between two updates of the progress bar


class VerifiedStore(EvidenceOptions, StoreOptions):
    """The store to verify, and the evidence."""


class Verified(NamedTuple):
    """The result of a verification.

    Attributes:
        findings: The findings.
        by: The verification, with its counters.
        self_signed: Whether no public key was given, so that the digests' own key was used.
        keyed: Whether MACs were checked.
    """

    findings: list[Finding]
    by: Verification
    self_signed: bool
    keyed: bool


def store(args: StoreOptions, *, read_only: bool = True) -> SQLStore:
    """Open the store whose trail is read. A missing store is not created.

    Args:
        args: The arguments.
        read_only: Whether to open the store for reading only.

    Raises:
        UsageError: The store keeps no trail, or its URL is invalid.
        StoreError: The store does not exist, or cannot be used.
        ImportError: A library is missing.
    """
    stored.check_exists(args)
    kept = stored.store(args, **({"read_only": True} if read_only else {}))
    if not isinstance(kept, SQLStore):
        raise UsageError("A store in memory keeps no trail.", hint="Use --store URL.")
    return kept


def check(args: EvidenceOptions) -> None:
    """Check the combination of the options for digests.

    Raises:
        UsageError: `--public-key` or `--last` is used without `--digests`.
    """
    if (args.public_key or args.last) and not args.digests:
        raise UsageError(
            "--public-key and --last need the directory of the digests.",
            hint="Use --digests DIR.",
        )


def name_of(kept: SQLStore) -> str:
    """Return the store's name for people."""
    return str(kept.path) if isinstance(kept, SQLiteStore) else "PostgreSQL"


def file_of(kept: SQLStore) -> Path | None:
    """Return the store's file, if it is one."""
    return kept.path if isinstance(kept, SQLiteStore) else None


def verify(args: VerifiedStore, kept: SQLStore) -> Verified:
    """Verify a store's trail.

    Raises:
        StoreError: The store, the digests or the public key cannot be read.
        ImportError: A library is missing.
    """
    if not (kept.keyed or args.no_key):
        raise StoreError(
            "There is no key to check the MACs of events.",
            hint=f"Set the audit key ({audit.VARIABLE}) or the store's keys ({sealing.VARIABLE}),"
            " or use --no-key to rely on digests only.",
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
    """Open a part of the trail in a process that verifies it."""
    named = StoreOptions()
    named.store, named.plaintext = url, plaintext
    opened = store(named)
    with closing(opened) as kept, kept.snapshot(first, last) as snapshot:
        yield snapshot


def verify_files(args: EvidenceOptions, files: list[str]) -> Verified:
    """Verify a trail in files.

    Raises:
        StoreError: The files, the digests or the public key cannot be read.
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
        edited = [Finding("edited", None, None, problem) for problem in lines.problems]
        return done._replace(findings=[*edited, *done.findings])


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
            f"{args.public_key} does not contain a public key.",
            hint="Create the file with: deviceflow audit keygen --public",
        )
    return text


@contextmanager
def _progress(count: Callable[[], int | None]) -> Iterator[Callable[[int], object]]:
    """Yield a function that is called with the number of events read. It may draw a bar."""
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
    # stdout is for data: the bar must not redirect it.
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
