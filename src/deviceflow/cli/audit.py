"""`deviceflow audit`: the trail's evidence, and what is in it."""

from __future__ import annotations

import json
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import KEY_VARIABLE
from deviceflow.cli import stored, streams, trail
from deviceflow.core.sanitize import printable
from deviceflow.credentials.keys import read_keys
from deviceflow.errors import UsageError
from deviceflow.stores.url import sqlite_file
from deviceflow.trail import maintenance as whole_trail
from deviceflow.trail.digest import Signer, generate_signing_key, last_digest
from deviceflow.trail.login_view import counted

if TYPE_CHECKING:
    from argparse import Namespace

    from deviceflow.cli.trail import Verified
    from deviceflow.trail.digest import Digest
    from deviceflow.trail.ledger import Finding

FOUND: Final = 1
"""The exit code where a verification has found something."""


def run(args: Namespace) -> int:
    """Do one of the actions, and return the exit code."""
    work = _WORK.get(args.action)
    if work is None:
        work = import_module("deviceflow.cli.audit_reading").WORK[args.action]
    return stored.reporting(work, args)


def _verify(args: Namespace) -> int:
    trail.check(args)
    if args.file:
        if args.store:
            raise UsageError("Verify a store or files, not both.", hint="Leave --store out.")
        if args.processes > 1:
            raise UsageError("Files are read by one process.", hint="Leave --processes out.")
        verified = trail.verify_files(args)
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
    if verified.findings:
        streams.show(_row("WHAT", "LOGIN", "EVENT", "IN WORDS"))
    for finding in verified.findings:
        streams.show(_finding(finding))
    by, count = verified.by, len(verified.findings)
    found = counted(count, "finding") if count else "nothing found"
    read = f"{counted(by.events, 'event')} of {counted(by.flows, 'chain')}"
    streams.show(f"{found}: {read}, {counted(by.digests, 'digest')}")
    if by.digests:
        streams.show(f"signed by {by.signed_by}{' (self-signed)' * verified.self_signed}")
        streams.show(f"last {by.newest}")
        streams.show(f"what was removed after {by.covered_until} cannot be seen")
    else:
        streams.show("there is no digest: an end that was cut off, or a whole login, is not seen")
    if not verified.keyed:
        streams.show(
            f"there is no audit key ({KEY_VARIABLE}): what no digest covers may be made anew"
        )
    if verified.self_signed:
        streams.say("Self-signed: to be sure, keep the public key elsewhere, and name it.")


def _finding(finding: Finding) -> str:
    seq = "-" if finding.seq is None else str(finding.seq)
    return _row(
        finding.kind.replace("_", " "), printable(finding.flow_id or "-", 40), seq, finding.said
    )


def _row(what: str, login: str, event: str, said: str) -> str:
    return f"{what:<18}  {login:<16}  {event:>5}  {printable(said)}"


def _digest(args: Namespace) -> int:
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
        streams.say("Nothing has happened since the last digest.")
    else:
        named = counted(digest.flows, "chain")
        streams.show(f"digest {digest.number}: {named}, by {signer.public_key}")
    _show_last(last)
    return 0


def _prune(args: Namespace) -> int:
    directory = Path(args.digests)
    with closing(trail.store(args, read_only=False)) as kept:
        signer = whole_trail.signer(trail.file_of(kept))
        dropped, digest = whole_trail.prune(kept, directory, signer, args.before)
    last = digest or last_digest(directory)
    if args.json:
        streams.show(json.dumps(_about(digest, last, signer) | {"dropped": dropped}))
        return 0
    if not dropped:
        streams.say("There was nothing to drop.")
    else:
        behind = f"digest {digest.number}" if digest else "by digests that were signed before"
        said = f"{behind}: dropped {counted(dropped, 'login')}"
        streams.show(f"{said}, by {signer.public_key}" if digest else said)
    _show_last(last)
    return 0


def _about(digest: Digest | None, last: Digest | None, signer: Signer) -> dict[str, Any]:
    return {
        "digest": digest and digest.number,
        "last": last and str(last.id),
        "public_key": signer.public_key,
    }


def _show_last(last: Digest | None) -> None:
    """Print what `verify --last` takes, in the same way whether a digest was written or not."""
    if last is not None:
        streams.show(f"last {last.id}")


def _keygen(args: Namespace) -> int:
    if args.public is None:
        streams.show(generate_signing_key())
        return 0
    if args.public:
        signer: Signer | None = Signer(read_keys(Path(args.public))[0])
    else:
        signer = trail.signer_if_there(sqlite_file(args.store))
    if signer is None:
        raise UsageError(
            "There is no signing key yet.",
            hint=f"Take a digest, set {whole_trail.KEY_VARIABLE}, or name a file: --public FILE",
        )
    streams.show(signer.public_key)
    return 0


_WORK: Final = {"verify": _verify, "digest": _digest, "keygen": _keygen, "prune": _prune}
