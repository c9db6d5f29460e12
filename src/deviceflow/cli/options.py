"""Options that several commands share, each group with a class for its types.

The parser does not instantiate the classes. They declare the attributes that argparse sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.cli import arguments, exits

if TYPE_CHECKING:
    from argparse import ArgumentParser, _ActionsContainer
    from typing import Literal

    from deviceflow.audit.mode import TrailMode
    from deviceflow.trail.digest import DigestId


class JSONOption:
    """Whether to print JSON."""

    json: bool


def add_json(parser: _ActionsContainer, what: str = "print one JSON object") -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=what)


class ChangesOption(JSONOption):
    """Whether to print JSON at the end, or at each change."""

    json_events: bool


def add_json_or_changes(parser: _ActionsContainer, what: str = "print one JSON object") -> None:
    """Add `--json` and `--json-events`, of which one can be given."""
    either = parser.add_mutually_exclusive_group()
    add_json(either, what)
    either.add_argument(
        "--json-events",
        action="store_true",
        help="print a JSON object for each change of the login, one a line",
    )


class StoreOptions:
    """Which store to use."""

    store: str | None
    plaintext: bool
    trail: TrailMode | None = None


def add_store(parser: ArgumentParser) -> None:
    """Add the options for the store."""
    where = parser.add_argument_group("store")
    where.add_argument(
        "--store",
        metavar="URL",
        help="memory:, sqlite:///PATH or postgresql://…; by default DEVICEFLOW_STORE, else a SQLite"
        " file of the user",
    )
    where.add_argument("--plaintext", action="store_true", help="do not seal secrets in the store")
    where.add_argument(
        "--trail",
        choices=("each", "summary"),
        help="store each event of a login, or the number of pending polls instead of their events;"
        " by default DEVICEFLOW_TRAIL, else summary",
    )


class JobOptions(JSONOption, StoreOptions):
    """The options of each command that uses the store."""


def add_job(
    parser: ArgumentParser, what: str = "print one JSON object", *, changes: bool = False
) -> None:
    """Add the options of each command that uses the store.

    Args:
        parser: The command's parser.
        what: The help of `--json`.
        changes: Whether the command has `--json-events`.
    """
    parser.epilog = exits.EXPLAINED
    (add_json_or_changes if changes else add_json)(parser, what)
    add_store(parser)


class RetentionOptions:
    """How long secrets and logins are kept after the login's end, in seconds."""

    tokens_after: float
    flows_after: float


def add_retention(parser: _ActionsContainer) -> None:
    """Add `--tokens-after` and `--flows-after`."""
    for name, days, what in (
        ("tokens", "7d", "wipe the token"),
        ("flows", "90d", "delete the login"),
    ):
        parser.add_argument(
            f"--{name}-after",
            type=arguments.duration,
            default=arguments.duration(days),
            metavar="AGE",
            help=f"{what} this long after the login's end: 12h, 7d; by default {days}",
        )


class NoticeOptions:
    """Whose settings say how somebody is told of needs."""

    profile: str | None


def add_notices(parser: _ActionsContainer, also: str = "") -> None:
    """Add `--profile`, for commands that name no provider.

    Args:
        parser: The parser.
        also: What else of the profile the command uses.
    """
    parser.add_argument(
        "--profile",
        help=f"use notify and public_url of this profile of the configuration file{also}",
    )


class NameArgument:
    """The name of what a person logged in to."""

    name: str | None


def add_name(parser: ArgumentParser) -> None:
    """Add the name."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the name; not needed where there is only one"
    )


class IdArgument:
    """The name or the id of a login."""

    id: str


def add_id(parser: ArgumentParser) -> None:
    """Add the login's name or id."""
    parser.add_argument("id", metavar="NAME|ID", help="the login's name or id, as given to start")


class FormatOption:
    """The format of a token."""

    format: Literal["token", "header", "json"]


def add_format(parser: _ActionsContainer) -> None:
    """Add `--format`."""
    parser.add_argument(
        "--format",
        choices=("token", "header", "json"),
        default="token",
        help="the access token only, an HTTP header for `curl -H @-`, or all fields as JSON"
        " (%(default)s)",
    )


class TargetOptions:
    """The provider and the login request. The settings of `profiles` are read by name."""

    words: list[str]
    profile: str | None
    set: list[str] | None
    client_name: str | None
    token_name: str | None
    scopes: str | None


def add_target(parser: ArgumentParser, name: str = "[NAME] ") -> None:
    """Add the words and the options for the provider and the login request.

    Args:
        parser: The command's parser.
        name: The name of the login in the command's usage; empty for a command that takes none.
    """
    words = f"{name}[PROVIDER | studio [HOST]]"
    parser.usage = f"{parser.prog} {words} [OPTIONS]"
    arguments.completed(
        parser.add_argument(
            "words",
            nargs="*",
            metavar=words,
            help="such as github; work github; studio studio.example.com",
        ),
        arguments.providers,
    )
    where = parser.add_argument_group("provider")
    where.add_argument("--profile", help="use this profile of the configuration file")
    where.add_argument("--issuer", metavar="URL", help="the issuer, if its metadata has endpoints")
    where.add_argument(
        "--device-authorization-endpoint", metavar="URL", help="for servers without metadata"
    )
    where.add_argument("--token-endpoint", metavar="URL", help="for servers without metadata")
    where.add_argument("--revocation-endpoint", metavar="URL", help="the URL to revoke tokens")
    where.add_argument(
        "--set", metavar="NAME=VALUE", action="append", help="a provider's parameter: tenant=…"
    )
    where.add_argument("--allow-http", action="store_true", help="allow http to other machines")
    client = parser.add_argument_group("client (secrets are passed as references)")
    client.add_argument("--client-id", metavar="ID", help="the id of this program at the server")
    client.add_argument("--client-secret", metavar="REF", help="env:NAME or file:PATH")
    client.add_argument("--private-key", metavar="REF", help="env:NAME or file:PATH, a PEM key")
    arguments.completed(
        client.add_argument("--client-auth", metavar="METHOD", help="such as client_secret_post"),
        arguments.methods,
    )
    client.add_argument("--pkce", choices=("auto", "on", "off"), help="whether to use PKCE")
    asks = parser.add_argument_group("login request")
    asks.add_argument(
        "--scopes", metavar="'A B'", help="with spaces between; for DVC Studio, or commas"
    )
    asks.add_argument(
        "--offline",
        choices=("auto", "on", "off"),
        help="whether a grant asks for the scope that a refresh token needs",
    )
    asks.add_argument(
        "--keep-id-token",
        action="store_true",
        help="keep the id token of a login with the scope openid: `token --format json` has it",
    )
    asks.add_argument("--audience", help="the audience of the token")
    asks.add_argument("--resource", metavar="URL", action="append", help="a resource (RFC 8707)")
    asks.add_argument("--purpose", metavar="TEXT", help="why, for the approver and the trail")
    who = parser.add_argument_group("required approver, according to the id token")
    who.add_argument("--require-email", metavar="EMAIL", help="the person's verified email address")
    who.add_argument("--require-sub", metavar="SUB", help="the issuer's id of the person")
    who.add_argument("--require-tenant", metavar="ID", help="the person's tenant (Entra's tid)")
    studio = parser.add_argument_group("DVC Studio only")
    studio.add_argument("--client-name", help="the program's name, as Studio shows it")
    studio.add_argument("--token-name", help="the name of the token")


class LoginOptions(TargetOptions, FormatOption, ChangesOption, JobOptions):
    """The options of `login`."""

    id: str | None
    again: bool
    once: bool
    output: str | None
    save: str | None
    show_token: bool
    no_browser: bool
    qr: bool | None
    timeout: float | None
    verbose: bool
    argv: list[str]


class EvidenceOptions:
    """The evidence for a verification, and how many processes to use."""

    digests: str | None
    public_key: str | None
    last: DigestId | None
    no_key: bool
    processes: int


def add_evidence(parser: ArgumentParser) -> None:
    """Add the options for a verification."""
    parser.add_argument(
        "--digests", metavar="DIR", help="signed digests, to detect removed events and logins"
    )
    parser.add_argument(
        "--public-key", metavar="FILE", help="the signer's public key, from keygen --public"
    )
    parser.add_argument(
        "--last",
        type=arguments.digest_id,
        metavar="NUMBER:HASH",
        help="the last digest, as printed by digest, to detect an old copy of DIR",
    )
    parser.add_argument(
        "--no-key",
        action="store_true",
        help="verify without the audit key: MACs are not checked, only digests are evidence",
    )
    parser.add_argument(
        "--processes",
        type=arguments.positive,
        metavar="N",
        default=1,
        help="how many processes to use (%(default)s)",
    )
