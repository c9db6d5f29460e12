"""`deviceflow providers`: list the known providers, and check a provider file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import arguments, options, streams
from deviceflow.cli.commands import Command
from deviceflow.errors import UsageError
from deviceflow.providers import known
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import DEFAULT_URL

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Mapping

    from deviceflow.providers.dialect import Dialect

_STUDIO: Final = {"title": "DVC Studio", "server": DEFAULT_URL}
_ANSWERED: Final = frozenset(
    {
        "access_token",
        "device_code",
        "expires_in",
        "interval",
        "user_code",
        "verification_uri",
        "verification_uri_complete",
    }
)
_ASKED: Final = frozenset(
    {
        "audience",
        "code_challenge",
        "code_challenge_method",
        "code_verifier",
        "device_code",
        "grant_type",
        "resource",
        "scope",
    }
)


class ShowOptions(options.JSONOption):
    """The options of `show`."""

    name: str


class CheckOptions:
    """The options of `check`."""

    file: str


def _add_providers(parser: ArgumentParser) -> None:
    parser.description = "Known providers. DEVICEFLOW_PROVIDERS names a file with further ones."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the providers and their required options")
    Command(options.add_json, _list).add_to(listing)
    show = actions.add_parser("show", help="show a provider's entry as TOML")
    Command(_add_show, _show).add_to(show)
    check = actions.add_parser("check", help="check a provider file")
    Command(_add_check, _check).add_to(check)


def _add_show(parser: ArgumentParser) -> None:
    arguments.completed(parser.add_argument("name"), arguments.providers)
    options.add_json(parser)


def _add_check(parser: ArgumentParser) -> None:
    parser.add_argument("file")


def _list(args: options.JSONOption) -> int:
    entries = known.known()
    if args.json:
        listed: dict[str, Any] = {name: entry.to_dict() for name, entry in entries.items()}
        streams.show(json.dumps(dict(sorted((listed | {"studio": _STUDIO}).items()))))
        return 0
    rows = {name: _row(entry) for name, entry in entries.items()}
    rows["studio"] = f"{_STUDIO['title']} (or the host of your own installation)"
    width = max(map(len, rows))
    for name, row in sorted(rows.items()):
        streams.show(f"{name:<{width}}  {row}")
    return 0


def _row(entry: Dialect) -> str:
    needs = [f"--set {key}=…" for key, value in entry.parameters.items() if not value]
    needs += ["--client-secret"] if entry.needs_secret else []
    needs += [f"--{key}" for key in entry.requires]
    return f"{entry.title} (needs {', '.join(needs)})" if needs else entry.title


def _show(args: ShowOptions) -> int:
    """Print a provider's entry as it could be in a provider file."""
    entry = _STUDIO if args.name == "studio" else known.entry(args.name).to_dict()
    if args.json:
        streams.show(json.dumps(entry))
        return 0
    streams.show(f"[{args.name}]")
    for key, value in entry.items():
        streams.show(f"{key} = {_toml(value)}")
    return 0


def _toml(value: Any) -> str:
    """Return a value as TOML. Strings, numbers and lists are written as in JSON."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value, ensure_ascii=False)


def _check(args: CheckOptions) -> int:
    entries = known.read_file(Path(args.file))
    if not entries:
        raise UsageError(
            f"{args.file} contains no provider.", hint="A provider is a table: [name]."
        )
    wrong = [f"Provider {n!r}: {what}" for n, entry in entries.items() for what in _try(n, entry)]
    if wrong:
        raise UsageError(f"{args.file}: {' '.join(wrong)}")
    streams.show(f"{args.file}: {len(entries)} valid: {', '.join(entries)}")
    return 0


def _try(name: str, entry: Dialect) -> list[str]:
    """Return the errors in an entry. A provider is created from it, as for a login."""
    wrong = _unknown("answer_names", entry.answer_names, _ANSWERED)
    wrong += _unknown("request_names", entry.request_names, _ASKED)
    if invalid := [status for status in entry.statuses if not status.isdigit()]:
        wrong.append(f"statuses has {', '.join(invalid)}, which is not an HTTP status.")
    parameters = {
        key: default or ("https://example.com" if key == "base" else "example.com")
        for key, default in entry.parameters.items()
    }
    try:
        OAuth.named(name, entry, client_id="x", client_secret="env:X", **parameters)  # noqa: S106
    except UsageError as trouble:
        wrong.append(trouble.message)
    return wrong


def _unknown(what: str, names: Mapping[str, str], known_names: frozenset[str]) -> list[str]:
    unknown = sorted(set(names) - known_names)
    if not unknown:
        return []
    expected = ", ".join(sorted(known_names))
    return [f"{what} has the unknown keys {', '.join(unknown)}. The keys must be {expected}."]


COMMANDS: Final = {"providers": Command(_add_providers)}
