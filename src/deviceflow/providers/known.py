"""The providers that are known by name: those that come along, and the user's own."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow._environment import providers_file
from deviceflow.errors import UsageError
from deviceflow.providers.dialect import Dialect, read_dialect
from deviceflow.providers.oauth import OAuth

if TYPE_CHECKING:
    from collections.abc import Mapping


# A name with a dot or a colon in it would be taken for a host.
_NAME: Final = re.compile(r"[\w-]+")
_TAKEN: Final = ("localhost", "studio")


def provider(name: str, **settings: Any) -> OAuth:
    """Return the provider of that name, for one client.

    Args:
        name: One of `known()`, such as `github`.
        **settings: `OAuth`'s arguments, `client_id` at least, and what the entry needs besides,
            such as `tenant` or `domain`.

    Raises:
        UsageError: There is no such provider, or a setting is missing or wrong.
    """
    return OAuth.named(name, entry(name), **settings)


def entry(name: str) -> Dialect:
    """Return the entry of that name.

    Raises:
        UsageError: There is no such provider.
    """
    entries = known()
    if name not in entries:
        raise UsageError(
            f"There is no provider {name!r}.",
            hint=f"Known are {', '.join(sorted(entries))}; or give the issuer's address.",
        )
    return entries[name]


def known() -> Mapping[str, Dialect]:
    """Return all entries by name; those in the file `DEVICEFLOW_PROVIDERS` go first.

    Raises:
        UsageError: That file cannot be read, or has an entry that means nothing.
    """
    own = providers_file()
    return {**_supplied(), **(read_file(Path(own).expanduser()) if own else {})}


def read_file(path: Path) -> dict[str, Dialect]:
    """Return the entries of a provider file: TOML, a table for each, with `Dialect`'s fields.

    Raises:
        UsageError: It cannot be read, or has an entry that means nothing.
    """
    try:
        return _read(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as trouble:
        raise UsageError(f"{path} is no provider file: {trouble}.") from None
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
            raise UsageError(f"{name!r} stands outside of any provider's table.")
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise UsageError(
                f"Provider {name!r} cannot be called that.",
                hint="A name has letters, digits, dashes and underscores in it; studio is taken.",
            )
        entries[name] = read_dialect(name, entry)
    return entries
