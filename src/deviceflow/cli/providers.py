"""`deviceflow providers`: whom this version knows, and whether a file of one's own is right."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow.errors import UsageError
from deviceflow.providers import known
from deviceflow.providers.oauth import OAuth

if TYPE_CHECKING:
    from argparse import Namespace

    from deviceflow.providers.dialect import Dialect


def run(args: Namespace) -> int:
    """List the providers, show one, or check a file.

    Raises:
        UsageError: There is no such provider, or the file is not right.
    """
    match args.action:
        case "list":
            _list(json_wanted=args.json)
        case "show":
            _show(args.name)
        case _:
            _check(args.file)
    return 0


def _list(*, json_wanted: bool) -> None:
    entries = known.known()
    if json_wanted:
        print(json.dumps({name: entry.to_dict() for name, entry in sorted(entries.items())}))
        return
    width = max(map(len, entries))
    for name, entry in sorted(entries.items()):
        needs = [f"--set {key}=…" for key, value in entry.parameters.items() if not value]
        needs += ["--client-secret"] if entry.needs_secret else []
        needs += [f"--{key}" for key in entry.requires]
        print(f"{name:<{width}}  {entry.title}", f"(needs {', '.join(needs)})" if needs else "")


def _show(name: str) -> None:
    entry = known.known().get(name)
    if entry is None:
        raise UsageError(f"There is no provider {name!r}.", hint="deviceflow providers list")
    for key, value in entry.to_dict().items():
        shown = json.dumps(value, ensure_ascii=False)
        print(f"{key} = {shown}")


def _check(file: str) -> None:
    entries = known.read_file(Path(file))
    for name, entry in entries.items():
        _try(name, entry)
    print(f"{file}: {len(entries)} entries, all right: {', '.join(entries)}")


def _try(name: str, entry: Dialect) -> None:
    """Make a provider of the entry, as a login would, with a value for each parameter."""
    parameters = {
        key: default or ("https://example.com" if key == "base" else "example.com")
        for key, default in entry.parameters.items()
    }
    try:
        OAuth.named(name, entry, client_id="x", client_secret="env:X", **parameters)  # noqa: S106
    except (KeyError, IndexError, ValueError, tomllib.TOMLDecodeError) as wrong:
        problem = f"a placeholder has no parameter: {wrong}"
    except UsageError as wrong:
        problem = wrong.message
    else:
        return
    raise UsageError(f"Provider {name!r}: {problem}")
