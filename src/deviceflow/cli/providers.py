"""`deviceflow providers`: whom this version knows, and whether a file of one's own is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import streams
from deviceflow.errors import UsageError
from deviceflow.providers import known
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import DEFAULT_URL

if TYPE_CHECKING:
    from argparse import Namespace
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


def run(args: Namespace) -> int:
    """List the providers, show one, or check a file.

    Raises:
        UsageError: There is no such provider, or the file is not right.
    """
    match args.action:
        case "list":
            _list(json_wanted=args.json)
        case "show":
            _show(args.name, json_wanted=args.json)
        case _:
            _check(args.file)
    return 0


def _list(*, json_wanted: bool) -> None:
    entries = known.known()
    if json_wanted:
        listed: dict[str, Any] = {name: entry.to_dict() for name, entry in entries.items()}
        streams.show(json.dumps(dict(sorted((listed | {"studio": _STUDIO}).items()))))
        return
    rows = {name: _row(entry) for name, entry in entries.items()}
    rows["studio"] = f"{_STUDIO['title']} (or give the host of your own)"
    width = max(map(len, rows))
    for name, row in sorted(rows.items()):
        streams.show(f"{name:<{width}}  {row}")


def _row(entry: Dialect) -> str:
    needs = [f"--set {key}=…" for key, value in entry.parameters.items() if not value]
    needs += ["--client-secret"] if entry.needs_secret else []
    needs += [f"--{key}" for key in entry.requires]
    return f"{entry.title} (needs {', '.join(needs)})" if needs else entry.title


def _show(name: str, *, json_wanted: bool) -> None:
    """Print an entry as it may stand in a file of one's own."""
    entry = _STUDIO if name == "studio" else known.entry(name).to_dict()
    if json_wanted:
        streams.show(json.dumps(entry))
        return
    streams.show(f"[{name}]")
    for key, value in entry.items():
        streams.show(f"{key} = {_toml(value)}")


def _toml(value: Any) -> str:
    """Return a value as TOML, whose texts, numbers and lists are written as JSON's are."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value, ensure_ascii=False)


def _check(file: str) -> None:
    entries = known.read_file(Path(file))
    if not entries:
        raise UsageError(f"{file} has no provider in it.", hint="Each is a table: [name].")
    wrong = [f"Provider {n!r}: {said}" for n, entry in entries.items() for said in _try(n, entry)]
    if wrong:
        raise UsageError(f"{file}: {' '.join(wrong)}")
    streams.show(f"{file}: {len(entries)} right: {', '.join(entries)}")


def _try(name: str, entry: Dialect) -> list[str]:
    """Say what is wrong with an entry, after making a provider of it as a login would."""
    wrong = _strange("answer_names", entry.answer_names, _ANSWERED)
    wrong += _strange("request_names", entry.request_names, _ASKED)
    if nothing := [status for status in entry.statuses if not status.isdigit()]:
        wrong.append(f"statuses has {', '.join(nothing)}, which is no HTTP status.")
    parameters = {
        key: default or ("https://example.com" if key == "base" else "example.com")
        for key, default in entry.parameters.items()
    }
    try:
        OAuth.named(name, entry, client_id="x", client_secret="env:X", **parameters)  # noqa: S106
    except UsageError as trouble:
        wrong.append(trouble.message)
    return wrong


def _strange(what: str, names: Mapping[str, str], known_names: frozenset[str]) -> list[str]:
    strange = sorted(set(names) - known_names)
    if not strange:
        return []
    names_there = ", ".join(sorted(known_names))
    return [f"{what} has {', '.join(strange)}; on its left are RFC 8628's names: {names_there}."]
