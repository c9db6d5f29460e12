"""The configuration file, and where each setting comes from.

What is said on the command line goes before the environment, that before the profile in the file.
Each of them that names a server counts as a whole: if one before it names another, none of it is
used, so that no secret goes to a server that it is not for::

    # ~/.config/deviceflow/config.toml
    [profiles.work]
    provider = "github"
    client_id = "Iv1.0123456789abcdef"
    client_secret = "env:GITHUB_SECRET"
    scopes = "repo read:org"
    set = { host = "github.example.com" }
"""

from __future__ import annotations

import os
import stat
import tomllib
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SETTINGS: Final[tuple[str, ...]] = (
    "provider",
    "issuer",
    "device_authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "client_id",
    "client_secret",
    "private_key",
    "client_auth",
    "scopes",
    "audience",
    "resource",
    "purpose",
    "scope_ceiling",
    "pkce",
    "allow_http",
)
"""What a profile and the environment (`DEVICEFLOW_` and the name in capitals) can set."""

COMMAND_LINE: Final = "the command line"

_WHOM: Final[tuple[str, ...]] = (
    "provider",
    "issuer",
    "device_authorization_endpoint",
    "token_endpoint",
)
_LISTS: Final = ("resource", "scopes", "scope_ceiling")
_LITERAL: Final[tuple[str, ...]] = ("client_secret", "private_key")
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
        UsageError: The file is not TOML, or has something else in it than profiles with known
            settings of the right kind.
    """
    path = _path()
    try:
        read = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        read = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as trouble:
        raise UsageError(f"{path} cannot be read: {trouble}.") from None
    _check(path, read)
    return Config(path, read)


def references() -> Iterator[str]:
    """Yield where the environment and all profiles say that secrets are.

    Raises:
        UsageError: The configuration file cannot be used.
    """
    for name, setting in _environment().items():
        if name in _LITERAL:
            yield setting.value
    config = load()
    for profile in config.profiles():
        for name, setting in _of_profile(profile, config).items():
            if name in _LITERAL:
                yield from (setting.value, f"profile:{profile}")


class Settled(NamedTuple):
    """The settings that hold.

    Attributes:
        settings: Each with where it comes from. What a provider needs besides is `set.NAME`.
        passed_over: What was not used since it is for another server, in words.
    """

    settings: dict[str, Setting]
    passed_over: list[str]


def settle(given: Mapping[str, Any], profile: str | None) -> Settled:
    """Return the settings that hold, and where each comes from.

    Args:
        given: What was said on the command line, `set` a table; None for what was not.
        profile: The profile to use; `DEVICEFLOW_PROFILE` where none is named.

    Raises:
        UsageError: The profile or the file cannot be used, a secret was given itself and not where
            it is, or the profile is for another server than the command line says.
    """
    chosen = profile or os.environ.get("DEVICEFLOW_PROFILE")
    said, in_profile = _said(given), _of_profile(chosen) if chosen else {}
    layers = {
        COMMAND_LINE: said,
        "the environment": _environment(),
        f"profile {chosen}": in_profile,
    }
    # A profile that is named on the command line speaks for it.
    whom = _whom(said) or (_whom(in_profile) if profile else {})
    found: dict[str, Setting] = {}
    ceilings: list[Setting] = []
    passed_over: list[str] = []
    for layer, settings in layers.items():
        own = _whom(settings)
        if whom and own and not whom.items() <= own.items():
            where = next(iter(own.values()))
            if profile and layer == f"profile {profile}":
                raise UsageError(
                    f"Profile {profile!r} is for {where}, and the command line names another.",
                    hint="Its client and secret are for that server: name one of the two only.",
                )
            passed_over.append(f"{layer}, which is for {where}")
            continue
        whom = whom or own
        found = settings | found
        ceilings += [settings["scope_ceiling"]] if "scope_ceiling" in settings else []
    if ceilings:
        found["scope_ceiling"] = reduce(_both, ceilings)
    ordered = [name for name in SETTINGS if name in found]
    ordered += sorted(name for name in found if name not in SETTINGS)
    return Settled({name: found[name] for name in ordered}, passed_over)


def _both(one: Setting, other: Setting) -> Setting:
    """Return a ceiling that is as low as either: none of them lifts another."""
    allowed = texts(other.value)
    scopes = [scope for scope in texts(one.value) if scope in allowed]
    source = f"{one.source}, and {other.source}"
    if not scopes:
        raise UsageError(f"No scope is within both ceilings: that of {source}.")
    return Setting(" ".join(scopes), source)


def texts(value: str | Sequence[str]) -> Sequence[str]:
    """Return the texts of a setting that is a list, or one text with spaces in it."""
    return value.split() if isinstance(value, str) else value


def _whom(settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {name: settings[name].value for name in _WHOM if name in settings}


def _said(given: Mapping[str, Any]) -> dict[str, Setting]:
    for name in _LITERAL:
        if _is_literal(given.get(name)):
            raise UsageError(
                f"The {name.replace('_', ' ')} was given itself, and arguments are seen by all.",
                hint=f"Say where it is: --{name.replace('_', '-')} env:NAME, or file:PATH.",
            )
    said = {name: given[name] for name in SETTINGS if given.get(name) not in (None, (), [], False)}
    return _settings(said | {"set": given.get("set") or {}}, COMMAND_LINE)


def _environment() -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for name in SETTINGS:
        variable = f"DEVICEFLOW_{name.upper()}"
        if value := os.environ.get(variable):
            # A secret stays where it is: what goes on is the way to it.
            value = f"env:{variable}" if name in _LITERAL and _is_literal(value) else value
            found[name] = Setting(value, f"the environment ({variable})")
    return found


def _of_profile(name: str, config: Config | None = None) -> dict[str, Setting]:
    config = config or load()
    values = {
        key: f"profile:{name}" if key in _LITERAL and _is_literal(value) else value
        for key, value in config.profile(name).items()
    }
    return _settings(values, f"profile {name} in {config.path}")


def _settings(values: Mapping[str, Any], source: str) -> dict[str, Setting]:
    """Return the values with their source; each of the table `set` is one of its own."""
    flat = {name: value for name, value in values.items() if name != "set"}
    flat |= {f"set.{name}": value for name, value in values.get("set", {}).items()}
    return {name: Setting(value, source) for name, value in flat.items()}


def _check(path: Path, read: Mapping[str, Any]) -> None:
    """Refuse what means nothing, rather than to pass over it; and quote no value."""
    profiles = read.get("profiles", {})
    if strange := sorted(set(read) - {"profiles"}):
        raise UsageError(
            f"{path} has {', '.join(strange)} in it, which means nothing there.",
            hint="Settings stand in profiles: [profiles.NAME].",
        )
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise UsageError(f"{path}: a profile is a table.", hint="It begins with [profiles.NAME].")
    for name, profile in profiles.items():
        if unknown := sorted(set(profile) - {*SETTINGS, "set"}):
            raise UsageError(
                f"{path}: profile {name!r} has {', '.join(unknown)} in it.",
                hint=f"It can have {', '.join(SETTINGS)}, and a table 'set'.",
            )
        for key, value in profile.items():
            if not _fits(key, value):
                raise UsageError(f"{path}: profile {name!r}: {key} is {_wanted(key)}.")


def _fits(key: str, value: object) -> bool:
    if key == "allow_http":
        return isinstance(value, bool)
    if key == "scope_ceiling" and value in ("", []):
        return False  # it would be read as none
    if key == "set":
        return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    if key in _LISTS and isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, str)


def _wanted(key: str) -> str:
    if key == "scope_ceiling":
        return "one scope or more: a text, or a list of texts"
    if key in _LISTS:
        return "a text, or a list of texts"
    return {"allow_http": "true or false", "set": "a table of texts"}.get(key, "a text")


def _is_literal(value: object) -> bool:
    return isinstance(value, str) and not value.startswith(_REFERENCES)


def _path() -> Path:
    if named := os.environ.get("DEVICEFLOW_CONFIG"):
        return Path(named).expanduser()
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:  # this user, a container's perhaps, has no home
        return Path(os.devnull)
    return Path(base) / "deviceflow" / "config.toml"
