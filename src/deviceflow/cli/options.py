"""Options that several commands share, each kind with the class that types what was given.

The classes are never instantiated by the parser: they say which attributes argparse sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.cli import arguments, exits

if TYPE_CHECKING:
    from argparse import ArgumentParser, _ActionsContainer
    from typing import Literal

    from deviceflow.trail.digest import DigestId


class JSONOption:
    """Whether to print JSON."""

    json: bool


def add_json(parser: _ActionsContainer) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


class StoreOptions:
    """Where logins are kept."""

    store: str | None
    plaintext: bool


def add_store(parser: ArgumentParser) -> None:
    """Add what says where logins are kept."""
    where = parser.add_argument_group("where logins are kept")
    where.add_argument(
        "--store",
        metavar="URL",
        help="memory:, sqlite:///PATH or postgresql://…; by default DEVICEFLOW_STORE, or your own",
    )
    where.add_argument("--plaintext", action="store_true", help="keep secrets there in clear")


class JobOptions(JSONOption, StoreOptions):
    """What each command on the store takes."""


def add_job(parser: ArgumentParser) -> None:
    """Add what each command on the store takes."""
    parser.epilog = exits.EXPLAINED
    add_json(parser)
    add_store(parser)


class IdArgument:
    """The login that is meant."""

    id: str


def add_id(parser: ArgumentParser) -> None:
    """Add the login's id."""
    parser.add_argument("id", metavar="ID", help="the login, as start has printed it")


class FormatOption:
    """What is printed or written of a token."""

    format: Literal["token", "json"]


def add_format(parser: _ActionsContainer) -> None:
    """Add `--format`."""
    parser.add_argument(
        "--format",
        choices=("token", "json"),
        default="token",
        help="the bare access token, or all that came with it (%(default)s)",
    )


class TargetOptions:
    """Whom to log in to, and what to ask for. The settings of `profiles` are read by name."""

    target: str | None
    profile: str | None
    set: list[str] | None
    client_name: str | None
    token_name: str | None
    scopes: str | None


def add_target(parser: ArgumentParser) -> None:
    """Add what says whom to log in to, and what to ask for."""
    parser.add_argument(
        "target", nargs="?", metavar="PROVIDER|HOST", help="such as github, or studio.example.com"
    )
    where = parser.add_argument_group("whom to log in to")
    where.add_argument("--profile", help="the settings of this profile in the configuration file")
    where.add_argument("--issuer", metavar="URL", help="an issuer whose metadata says the rest")
    where.add_argument("--device-authorization-endpoint", metavar="URL", help="or both endpoints")
    where.add_argument("--token-endpoint", metavar="URL", help="of a server without metadata")
    where.add_argument("--revocation-endpoint", metavar="URL", help="where it revokes tokens")
    where.add_argument(
        "--set", metavar="NAME=VALUE", action="append", help="what a provider needs: tenant=…"
    )
    where.add_argument("--allow-http", action="store_true", help="allow http to another machine")
    client = parser.add_argument_group("as which client (never a secret itself, but where it is)")
    client.add_argument("--client-id", metavar="ID", help="as the server knows this program")
    client.add_argument("--client-secret", metavar="REF", help="env:NAME or file:PATH")
    client.add_argument("--private-key", metavar="REF", help="likewise, to sign with")
    client.add_argument("--client-auth", metavar="METHOD", help="client_secret_post, say")
    client.add_argument("--pkce", choices=("auto", "on", "off"), help="RFC 7636")
    asks = parser.add_argument_group("what to ask for")
    asks.add_argument(
        "--scopes", metavar="'A B'", help="with spaces between; for DVC Studio, or commas"
    )
    asks.add_argument("--audience", help="whom the token is for")
    asks.add_argument("--resource", metavar="URL", action="append", help="where it will be used")
    asks.add_argument("--purpose", metavar="TEXT", help="why, for the person and for the record")
    who = parser.add_argument_group("who must approve, by the id token")
    who.add_argument("--require-email", metavar="EMAIL", help="verified, by a known issuer")
    who.add_argument("--require-sub", metavar="SUB", help="by the issuer's own name for the person")
    who.add_argument("--require-tenant", metavar="ID", help="by the tenant (Entra's tid)")
    studio = parser.add_argument_group("DVC Studio only")
    studio.add_argument("--client-name", help="who asks, as Studio shows it")
    studio.add_argument("--token-name", help="what to call the token")


class EvidenceOptions:
    """What a verification goes by, and how it is done."""

    digests: str | None
    public_key: str | None
    last: DigestId | None
    no_key: bool
    processes: int


def add_evidence(parser: ArgumentParser) -> None:
    """Add what a verification goes by, and how it is done."""
    parser.add_argument(
        "--digests", metavar="DIR", help="the signed digests: what was cut off is seen by them"
    )
    parser.add_argument(
        "--public-key", metavar="FILE", help="whose signature they must bear, as keygen --public"
    )
    parser.add_argument(
        "--last",
        type=arguments.digest_id,
        metavar="NUMBER:HASH",
        help="the last digest, as digest has printed it: an older copy of DIR is found by it",
    )
    parser.add_argument(
        "--no-key",
        action="store_true",
        help="do without the audit key: no MACs are checked; the digests alone are evidence",
    )
    parser.add_argument(
        "--processes",
        type=arguments.positive,
        metavar="N",
        default=1,
        help="read it in so many at once",
    )
