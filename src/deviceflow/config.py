"""The configuration file, and where each setting comes from.

What is said on the command line goes before the environment, that before the profile in the file::

    # ~/.config/deviceflow/config.toml
    [profiles.work]
    provider = "github"
    client_id = "Iv1.0123456789abcdef"
    client_secret = "env:GITHUB_SECRET"
    scope = "repo read:org"
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS: Final = (
    "provider",
    "issuer",
    "device_authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "client_id",
    "client_secret",
    "private_key",
    "client_auth",
    "scope",
    "audience",
    "resource",
    "pkce",
    "allow_http",
)
"""What a profile and the environment (`DEVICEFLOW_` and the name in capitals) can set."""

_LITERAL: Final = ("client_secret", "private_key")
_REFERENCES: Final = ("env:", "file:", "profile:")


class Setting(NamedTuple):
    """A setting's value, and who says so, in words."""

    value: Any
    source: str


class Config:
    """What a configuration file says.

    Attributes:
        path: The file, whether it is there or not.
    """

    def __init__(self, path: Path, read: Mapping[str, Any]) -> None:
        self.path = path
        self._profiles: Mapping[str, Mapping[str, Any]] = read.get("profiles", {})

    def profiles(self) -> list[str]:
        """Return the profiles' names."""
        return sorted(self._profiles)

    def profile(self, name: str) -> Mapping[str, Any]:
        """Return a profile's settings.

        Raises:
            UsageError: There is none of that name, or it has a secret in it that others can read.
        """
        found = self._profiles.get(name)
        if found is None:
            known = ", ".join(self.profiles()) or "none"
            raise UsageError(
                f"There is no profile {name!r} in {self.path}.", hint=f"There are: {known}."
            )
        exposed = self.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if exposed and os.name == "posix" and any(map(_is_literal, map(found.get, _LITERAL))):
            raise UsageError(
                f"{self.path} has a secret in it, and others can read it.",
                hint=f"Mend that: chmod 600 {self.path}",
            )
        return found


def load() -> Config:
    """Return the configuration: `DEVICEFLOW_CONFIG`, else the file in the user's own place.

    Raises:
        UsageError: The file is not TOML, or its profiles are not tables of known settings.
    """
    path = _path()
    try:
        read = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        read = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as trouble:
        raise UsageError(f"{path} cannot be read: {trouble}.") from None
    profiles = read.get("profiles", {})
    for name, profile in profiles.items():
        unknown = set(profile) - {*SETTINGS, "set"} if isinstance(profile, dict) else {"no table"}
        if unknown:
            raise UsageError(
                f"{path}: profile {name!r} has {', '.join(sorted(unknown))} in it.",
                hint=f"It can have {', '.join(SETTINGS)}, and a table 'set'.",
            )
    return Config(path, read)


def settle(given: Mapping[str, Any], profile: str | None) -> dict[str, Setting]:
    """Return the settings that are there, each with where it comes from.

    Args:
        given: What was said on the command line; None for what was not.
        profile: The profile to use; `DEVICEFLOW_PROFILE` where none is named.

    Raises:
        UsageError: The profile or the file cannot be used.
    """
    profile = profile or os.environ.get("DEVICEFLOW_PROFILE")
    config = load() if profile else None
    in_file = config.profile(profile) if config and profile else {}
    settled: dict[str, Setting] = {}
    for name in (*SETTINGS, "set"):
        variable = f"DEVICEFLOW_{name.upper()}"
        if given.get(name) not in (None, (), {}, False):
            settled[name] = Setting(given[name], "the command line")
        elif name != "set" and (value := os.environ.get(variable)):
            # A secret stays where it is: what goes on is the way to it.
            value = f"env:{variable}" if name in _LITERAL and _is_literal(value) else value
            settled[name] = Setting(value, f"the environment ({variable})")
        elif config and name in in_file:
            value = in_file[name]
            value = f"profile:{profile}" if name in _LITERAL and _is_literal(value) else value
            settled[name] = Setting(value, f"profile {profile} in {config.path}")
    return settled


def _is_literal(value: object) -> bool:
    return isinstance(value, str) and not value.startswith(_REFERENCES)


def _path() -> Path:
    if named := os.environ.get("DEVICEFLOW_CONFIG"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "deviceflow" / "config.toml"
