"""Providers that are known by name: those in this package, and those in the user's own file."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deviceflow._environment import providers_file
from deviceflow.core.suggest import did_you_mean
from deviceflow.errors import UsageError
from deviceflow.providers.dialect import Dialect, read_dialect
from deviceflow.providers.oauth import PLACES, OAuth

if TYPE_CHECKING:
    from collections.abc import Mapping


# The command line reads a name with a dot or a colon as a host.
_NAME: Final = re.compile(r"[\w-]+")
_TAKEN: Final = ("localhost", "studio")


def provider(name: str, **settings: Any) -> OAuth:
    """Return the provider of that name, for one client.

    Args:
        name: One of `known()`, such as `github`.
        **settings: `OAuth`'s arguments, at least `client_id`, and the entry's own parameters,
            such as `tenant` or `domain`.

    Raises:
        UsageError: There is no provider of that name, or a setting is missing or invalid.
    """
    return OAuth.named(name, entry(name), **settings)


def entry(name: str) -> Dialect:
    """Return the entry of that name.

    Raises:
        UsageError: There is no provider of that name.
    """
    entries = known()
    if name not in entries:
        raise UsageError(
            f"Unknown provider {name!r}.",
            hint=f"{did_you_mean(name, entries)}Use one of {', '.join(sorted(entries))};"
            " or give the issuer's URL.",
        )
    return entries[name]


def known() -> Mapping[str, Dialect]:
    """Return all entries by name. Entries in the file `DEVICEFLOW_PROVIDERS` take precedence.

    Raises:
        UsageError: That file cannot be read, or has an invalid entry.
    """
    own = providers_file()
    return {**_supplied(), **(read_file(Path(own).expanduser()) if own else {})}


def at(host: str) -> str | None:
    """Return the supplied provider whose server has this host name; None without one."""
    for name, found in _supplied().items():
        urls = [getattr(found, key) for key in PLACES if getattr(found, key)]
        if host in (urlsplit(url.format(**found.parameters)).hostname for url in urls):
            return name
    return None


def read_file(path: Path) -> dict[str, Dialect]:
    """Return the entries of a provider file: TOML, one table for each, with `Dialect`'s fields.

    Raises:
        UsageError: The file cannot be read, or has an invalid entry.
    """
    try:
        return _read(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as trouble:
        raise UsageError(f"{path} cannot be read as a provider file: {trouble}.") from None
    except UsageError as wrong:
        problem, hint = wrong.message, wrong.hint
    raise UsageError(f"{path}: {problem}", hint=hint)


@cache
def _supplied() -> Mapping[str, Dialect]:
    return _read(files("deviceflow.providers").joinpath("known.toml").read_text("utf-8"))


def _read(text: str) -> dict[str, Dialect]:
    entries: dict[str, Dialect] = {}
    for name, entry in tomllib.loads(text).items():
        if not isinstance(entry, dict):
            raise UsageError(
                f"{name!r} is not in a provider's table.",
                hint="Each provider has a table of its own, such as [ours].",
            )
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise UsageError(
                f"Invalid provider name {name!r}.",
                hint="Use letters, digits, dashes and underscores; localhost and studio are"
                " reserved.",
            )
        entries[name] = read_dialect(name, entry)
    return entries
