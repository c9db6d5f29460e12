"""The actions of `deviceflow audit` that create evidence, and verify the trail."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import arguments, options, streams, trail
from deviceflow.cli.commands import Command
from deviceflow.core.sanitize import printable
from deviceflow.credentials.keys import audit, read_keys, signing
from deviceflow.errors import UsageError
from deviceflow.stores.url import sqlite_file
from deviceflow.trail import maintenance as whole_trail
from deviceflow.trail.digest import Signer, last_digest
from deviceflow.trail.login_view import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.cli.trail import Verified
    from deviceflow.core.secret import Secret
    from deviceflow.trail.digest import Digest
    from deviceflow.trail.ledger import Finding

FOUND: Final = 1
"""The exit code of a verification with findings."""


class VerifyOptions(trail.VerifiedStore, options.JSONOption):
    """The options of `verify`."""

    file: list[str] | None


class PruneOptions(options.JobOptions):
    """The options of `prune`."""

    digests: str
    before: float
    waiting: bool


class DigestOptions(options.JobOptions):
    """The options of `digest`."""

    digests: str
    begin: bool


class KeygenOptions(options.StoreOptions):
    """The options of `keygen`."""

    public: str | None


def _add_verify(parser: ArgumentParser) -> None:
    options.add_evidence(parser)
    parser.add_argument(
        "--file",
        metavar="TRAIL.jsonl",
        action="append",
        help="verify this file instead of a store; repeat it for rotated files",
    )
    options.add_json(parser)


def _add_directory(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--digests", metavar="DIR", required=True, help="the directory of the digests"
    )
    options.add_json(parser)


def _add_digest(parser: ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument(
        "--begin",
        action="store_true",
        help="write the first digest of a directory: once, and not from a timer",
    )


def _add_keygen(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--public",
        nargs="?",
        const="",
        metavar="FILE",
        help="print a public key instead: that of DEVICEFLOW_AUDIT_SIGNING_KEY, of the store's own"
        " signing key, or of the key in FILE",
    )


def _add_prune(parser: ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument(
        "--before",
        type=arguments.moment,
        metavar="WHEN",
        required=True,
        help="prune logins that ended before this time: 400d for 400 days ago, or 2026-01-31",
    )
    parser.add_argument(
        "--waiting",
        action="store_true",
        help="also delete the events before this time of logins that have not ended, except the"
        " last event of each",
    )


def _verify(args: VerifyOptions) -> int:
    trail.check(args)
    if args.file:
        if args.store:
            raise UsageError("--file and --store exclude each other.", hint="Omit --store.")
        if args.processes > 1:
            raise UsageError("Files are read by one process only.", hint="Omit --processes.")
        verified = trail.verify_files(args, args.file)
    else:
        with closing(trail.store(args)) as kept:
            verified = trail.verify(args, kept)
    if args.json:
        streams.show(json.dumps(_as_dict(verified)))
    else:
        _print(verified)
    return FOUND if verified.findings else 0


def _as_dict(verified: Verified) -> dict[str, Any]:
    by = verified.by
    return {
        "findings": [finding._asdict() for finding in verified.findings],
        "notes": [note._asdict() for note in verified.by.notes],
        "events": by.events,
        "flows": by.flows,
        "digests": by.digests,
        "covered_until": by.covered_until,
        "signed_by": by.signed_by if by.digests else None,
        "last": by.newest and str(by.newest),
        "self_signed": verified.self_signed,
        "keyed": verified.keyed,
    }


def _print(verified: Verified) -> None:
    rows = [*verified.findings, *verified.by.notes]
    if rows:
        streams.show(_row("WHAT", "LOGIN", "EVENT", "IN WORDS"))
    for finding in rows:
        streams.show(_finding(finding))
    by, count = verified.by, len(verified.findings)
    found = counted(count, "finding") if count else "nothing found"
    if by.notes:
        found += f", {counted(len(by.notes), 'note')} about a wrong clock, which is not a finding"
    read = f"{counted(by.events, 'event')} of {counted(by.flows, 'chain')}"
    streams.show(f"{found}: {read}, {counted(by.digests, 'digest')}")
    if by.digests:
        streams.show(f"signed by {by.signed_by}{' (self-signed)' * verified.self_signed}")
        streams.show(f"last {by.newest}")
        streams.show(f"removals after {by.covered_until} are not detected")
    else:
        streams.show("there is no digest: removed logins, or removed last events, are not detected")
    if not verified.keyed:
        streams.show(
            f"there is no audit key ({audit.VARIABLE}): replaced events that no digest covers are"
            " not detected"
        )
    if verified.self_signed:
        streams.say("Self-signed: keep the public key elsewhere, and pass it with --public-key.")


def _finding(finding: Finding) -> str:
    seq = "-" if finding.seq is None else str(finding.seq)
    return _row(
        finding.kind.replace("_", " "), printable(finding.flow_id or "-", 40), seq, finding.message
    )


def _row(what: str, login: str, event: str, message: str) -> str:
    return f"{what:<18}  {login:<16}  {event:>5}  {printable(message)}"


def _digest(args: DigestOptions) -> int:
    directory = Path(args.digests)
    with closing(trail.store(args)) as kept:
        signer = whole_trail.signer(trail.file_of(kept))
        digest = whole_trail.take_digest(kept, directory, signer, begin=args.begin)
    last = digest or last_digest(directory)
    if args.json:
        flows = digest.flows if digest else 0
        streams.show(json.dumps(_about(digest, last, signer) | {"flows": flows}))
        return 0
    if digest is None:
        streams.say("There are no new events since the last digest.")
    else:
        named = counted(digest.flows, "chain")
        streams.show(f"digest {digest.number}: {named}, by {signer.public_key}")
    _show_last(last)
    return 0


def _prune(args: PruneOptions) -> int:
    directory = Path(args.digests)
    with closing(trail.store(args, read_only=False)) as kept:
        signer = whole_trail.signer(trail.file_of(kept))
        pruned, digest, waiting = whole_trail.prune(
            kept, directory, signer, args.before, waiting=args.waiting
        )
    last = digest or last_digest(directory)
    if args.json:
        streams.show(
            json.dumps(_about(digest, last, signer) | {"pruned": pruned, "waiting": waiting})
        )
        return 0
    if not pruned and not waiting:
        streams.say("There were no events to prune.")
    else:
        behind = f"digest {digest.number}" if digest else "earlier digests"
        summary = f"{behind}: pruned {counted(pruned, 'login')}"
        if waiting:
            summary += f", and the first events of {counted(waiting, 'login')} not ended"
        streams.show(f"{summary}, by {signer.public_key}" if digest else summary)
    _show_last(last)
    return 0


def _about(digest: Digest | None, last: Digest | None, signer: Signer) -> dict[str, Any]:
    return {
        "digest": digest and digest.number,
        "last": last and str(last.id),
        "public_key": signer.public_key,
    }


def _show_last(last: Digest | None) -> None:
    """Print the value for `verify --last`, whether a digest was written or not."""
    if last is not None:
        streams.show(f"last {last.id}")


def _keygen(args: KeygenOptions) -> int:
    if args.public is None:
        streams.show(signing.generate_signing_key())
        return 0
    if args.public:
        key: Secret | None = read_keys(Path(args.public))[0]
    else:
        key = signing.signing_key_if_there(sqlite_file(args.store))
    if key is None:
        raise UsageError(
            "There is no signing key.",
            hint=f"Write a digest first, set {signing.VARIABLE}, or use --public FILE.",
        )
    streams.show(Signer(key).public_key)
    return 0


ACTIONS: Final = {
    "verify": ("detect whether anybody changed the trail", Command(_add_verify, _verify)),
    "digest": ("sign the current state of the trail, from a timer", Command(_add_digest, _digest)),
    "keygen": ("print a new key to sign digests", Command(_add_keygen, _keygen)),
    "prune": ("delete the events of old logins, behind a digest", Command(_add_prune, _prune)),
}
