"""The configuration file, and where each setting comes from.

The command line has precedence over the environment, and the environment over the profile. All that
says where requests go comes from one source: the provider, its parameters, and the URLs. A source
that does not repeat what one with higher precedence says of that is ignored as a whole, so that no
secret is sent to a server that it is not for::

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
import sys
import tomllib
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.core.need import OUTAGE_AFTER
from deviceflow.core.sanitize import printable
from deviceflow.core.suggest import did_you_mean
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import PLACES, origin_of

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
    "offline",
    "refresh_ends_token",
    "keep_id_token",
    "allow_http",
)
"""What a profile and the environment (`DEVICEFLOW_` and the name in capitals) can set."""

FLAGS: Final = ("refresh_ends_token", "keep_id_token", "allow_http")
"""The settings that are true or false."""

NOTICES: Final = ("notify", "public_url", "outage_after")
"""What a profile and the environment can set besides: how somebody is told of needs, where the
pages of needs are, and when somebody is told of an outage. None belongs to a server."""

COMMAND_LINE: Final = "the command line"

_PLACES: Final = ("provider", *PLACES)
_LISTS: Final = ("resource", "scopes", "scope_ceiling")
_LITERAL: Final[tuple[str, ...]] = ("client_secret", "private_key")
_REFERENCES: Final = ("env:", "file:", "profile:")
_FILE: Final[ContextVar[Path | None]] = ContextVar("deviceflow_config", default=None)


class Setting(NamedTuple):
    """The value of a setting, and its source in words."""

    value: Any
    source: str


class Config:
    """A configuration file.

    Attributes:
        path: The file, even if it does not exist.
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
            UsageError: There is no profile of this name, or the file contains a secret and other
                users can read it.
        """
        found = self._profiles.get(name)
        if found is None:
            known = ", ".join(self.profiles()) or "none"
            raise UsageError(
                f"{self.path} has no profile {name!r}.",
                hint=f"{did_you_mean(name, self.profiles())}Its profiles are: {known}.",
            )
        exposed = self.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if exposed and os.name == "posix" and any(map(_is_literal, map(found.get, _LITERAL))):
            raise UsageError(
                f"{self.path} contains a secret, and other users can read the file.",
                hint=f"Fix it with: chmod 600 {self.path}",
            )
        return found


@contextmanager
def reading(path: Path | None) -> Iterator[None]:
    """Use a configuration file in a `with` block, whatever the environment says.

    Args:
        path: The file; None for the one that is used anyway.
    """
    before = _FILE.set(path or _FILE.get())
    try:
        yield
    finally:
        _FILE.reset(before)


def load() -> Config:
    """Return the configuration: the file `DEVICEFLOW_CONFIG`, else the user's configuration file.

    Within `reading` it is the file that was named there.

    Raises:
        UsageError: The file is not TOML, or it contains anything but profiles with known settings
            of the right types. Or another user owns it or can write to it: the file names servers
            and commands to run.
    """
    path = _path()
    try:
        _check_owner(path)
        read = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        read = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as trouble:
        raise UsageError(f"{path} cannot be read: {trouble}.") from None
    _check(path, read)
    return Config(path, read)


def _check_owner(path: Path) -> None:
    found = path.stat()
    if sys.platform == "win32" or not stat.S_ISREG(found.st_mode):
        return
    if found.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"Another user owns the configuration file {path}.",
            hint="Copy it to a file of your own, and name that: DEVICEFLOW_CONFIG=PATH",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"Other users can write to the configuration file {path}.",
            hint=f"Fix it with: chmod go-w {path}",
        )


def references(*others: str) -> Iterator[str]:
    """Yield the references to client secrets and keys in the environment and in all profiles.

    Args:
        *others: Further settings, whose texts are yielded too.

    Raises:
        UsageError: The configuration file cannot be used.
    """
    for name in others:
        yield os.environ.get(f"DEVICEFLOW_{name.upper()}", "")
    for name, setting in _environment().items():
        if name in _LITERAL:
            yield setting.value
    config = load()
    for profile in config.profiles():
        for name, setting in _of_profile(profile, config).items():
            if name in _LITERAL:
                yield from (setting.value, f"profile:{profile}")
        yield from (v for v in map(config.profile(profile).get, others) if isinstance(v, str))


class Settled(NamedTuple):
    """The effective settings.

    Attributes:
        settings: Each setting with its source. A provider's parameter NAME is `set.NAME`.
        passed_over: The sources that were ignored because they are for another server, in words.
    """

    settings: dict[str, Setting]
    passed_over: list[str]


def settle(given: Mapping[str, Any], profile: str | None) -> Settled:
    """Return the effective settings, each with its source.

    Args:
        given: The settings from the command line; `set` is a dict. None is an option that was not
            given.
        profile: The profile to use; by default `DEVICEFLOW_PROFILE`.

    Raises:
        UsageError: The profile or the file cannot be used, a secret was passed instead of a
            reference, or the profile is for another server than the command line names.
    """
    chosen = profile or os.environ.get("DEVICEFLOW_PROFILE")
    arguments, in_profile = _of_arguments(given), _of_profile(chosen) if chosen else {}
    layers = {
        COMMAND_LINE: arguments,
        "the environment": _environment(),
        f"profile {chosen}": in_profile,
    }
    server = _server(arguments)
    if profile and (own := _server(in_profile)):
        if not _says(own, server):
            raise UsageError(
                f"Profile {profile!r} is for another server: it has {spelled(own)}, and the command"
                f" line has {spelled(server)}.",
                hint="The profile's client and secret belong to its server: name the profile or"
                " the server, not both.",
            )
        server = own  # as if it were named on the command line
    found: dict[str, Setting] = {}
    ceilings: list[Setting] = []
    passed_over: list[str] = []
    for layer, settings in layers.items():
        own = _server(settings)
        if layer != COMMAND_LINE and own and not _says(own, server):
            passed_over.append(f"{layer}, which is for {spelled(own)}")
            continue
        server = own or server
        found = settings | found
        ceilings += [settings["scope_ceiling"]] if "scope_ceiling" in settings else []
    if ceilings:
        found["scope_ceiling"] = reduce(_both, ceilings)
    ordered = [name for name in SETTINGS if name in found]
    ordered += sorted(name for name in found if name not in SETTINGS)
    return Settled({name: found[name] for name in ordered}, passed_over)


def _both(one: Setting, other: Setting) -> Setting:
    """Return the scopes that both ceilings allow. No source can raise another one's ceiling."""
    allowed = texts(other.value)
    scopes = [scope for scope in texts(one.value) if scope in allowed]
    source = f"{one.source}, and {other.source}"
    if not scopes:
        raise UsageError(f"No scope is allowed by both scope ceilings, from {source}.")
    return Setting(" ".join(scopes), source)


class Notices(NamedTuple):
    """How somebody is told of needs.

    Attributes:
        notify: A URL, a reference to one, or a command; None where nobody is told.
        public_url: Where the pages of needs are; None where nobody said.
        outage_after: Seconds after which somebody is told of an outage.
    """

    notify: str | Sequence[str] | None
    public_url: str | None
    outage_after: float


def names_server(profile: str) -> bool:
    """Tell whether a profile names a server to log in to.

    Raises:
        UsageError: The profile or the file cannot be used.
    """
    return bool(_server(_of_profile(profile)))


def notices(profile: str | None) -> Notices:
    """Return how somebody is told of needs: as the environment says, else as the profile does.

    Args:
        profile: The profile; by default `DEVICEFLOW_PROFILE`.

    Raises:
        UsageError: The profile or the file cannot be used.
    """
    chosen = profile or os.environ.get("DEVICEFLOW_PROFILE")
    in_profile = load().profile(chosen) if chosen else {}
    found = {
        name: os.environ.get(f"DEVICEFLOW_{name.upper()}") or in_profile.get(name)
        for name in NOTICES
    }
    outage_after = found.pop("outage_after")
    seconds = OUTAGE_AFTER if outage_after is None else _seconds(outage_after)
    if seconds is None:
        raise UsageError(f"DEVICEFLOW_OUTAGE_AFTER must be {_wanted('outage_after')}.")
    return Notices(**found, outage_after=seconds)


def _seconds(value: object) -> float | None:
    """Return a number of seconds, at least 0, or None if the value is not one."""
    try:
        number = -1.0 if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 else None


def texts(value: str | Sequence[str]) -> Sequence[str]:
    """Return the items of a setting that is a list, or a string with spaces."""
    return value.split() if isinstance(value, str) else value


def _server(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return what says where requests go: a provider, its parameters, and URLs."""
    return {
        name: setting
        for name, setting in settings.items()
        if name in _PLACES or name.startswith("set.")
    }


def _says(own: Mapping[str, Setting], server: Mapping[str, Setting]) -> bool:
    """Tell whether a source names a server in all that was said of it already."""
    return all(name in own and own[name].value == server[name].value for name in server)


def spelled(settings: Mapping[str, Setting]) -> str:
    """Return settings as they are spelled where they come from, for a person to find them."""
    return ", ".join(_spelled(name, setting) for name, setting in settings.items())


def _spelled(name: str, setting: Setting) -> str:
    text = printable(str(setting.value), 200)
    value = origin_of(text) if "@" in text else text
    if setting.source == COMMAND_LINE:
        if name == "provider":
            return value
        option = f"--set {name[4:]}=" if name.startswith("set.") else f"--{name.replace('_', '-')} "
        return f"{option}{value}"
    if setting.source.startswith("the environment"):
        return f"DEVICEFLOW_{name.upper()}={value}"
    return f'{name} = "{value}"'


def _of_arguments(given: Mapping[str, Any]) -> dict[str, Setting]:
    for name in _LITERAL:
        if _is_literal(given.get(name)):
            raise UsageError(
                f"The {name.replace('_', ' ')} was passed on the command line, which other users of"
                " this machine can see.",
                hint=f"Pass a reference: --{name.replace('_', '-')} env:NAME or file:PATH.",
            )
    chosen = {
        name: given[name] for name in SETTINGS if given.get(name) not in (None, (), [], False)
    }
    return _settings(chosen | {"set": given.get("set") or {}}, COMMAND_LINE)


def _environment() -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for name in SETTINGS:
        variable = f"DEVICEFLOW_{name.upper()}"
        if value := os.environ.get(variable):
            # A secret is passed on as a reference.
            value = f"env:{variable}" if name in _LITERAL and _is_literal(value) else value
            found[name] = Setting(value, f"the environment ({variable})")
    return found


def _of_profile(name: str, config: Config | None = None) -> dict[str, Setting]:
    config = config or load()
    values = {
        key: f"profile:{name}" if key in _LITERAL and _is_literal(value) else value
        for key, value in config.profile(name).items()
        if key not in NOTICES
    }
    return _settings(values, f"profile {name} in {config.path}")


def _settings(values: Mapping[str, Any], source: str) -> dict[str, Setting]:
    """Return the values with their source. Each item of the table `set` is a setting."""
    flat = {name: value for name, value in values.items() if name != "set"}
    flat |= {f"set.{name}": value for name, value in values.get("set", {}).items()}
    return {name: Setting(value, source) for name, value in flat.items()}


def _check(path: Path, read: Mapping[str, Any]) -> None:
    """Reject unknown names and wrong types. Messages contain no values, which may be secret."""
    profiles = read.get("profiles", {})
    if unknown := sorted(set(read) - {"profiles"}):
        raise UsageError(
            f"{path} has unknown names at the top level: {', '.join(unknown)}.",
            hint="Put settings into a profile: [profiles.NAME].",
        )
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise UsageError(
            f"{path}: a profile must be a table.", hint="Begin it with [profiles.NAME]."
        )
    for name, profile in profiles.items():
        if unknown := sorted(set(profile) - {*SETTINGS, *NOTICES, "set"}):
            raise UsageError(
                f"{path}: profile {name!r} has unknown settings: {', '.join(unknown)}.",
                hint=f"{did_you_mean(unknown[0], (*SETTINGS, *NOTICES))}The settings are"
                f" {', '.join((*SETTINGS, *NOTICES))}, and a table 'set'.",
            )
        for key, value in profile.items():
            if not _fits(key, value):
                raise UsageError(f"{path}: profile {name!r}: {key} must be {_wanted(key)}.")


def _fits(key: str, value: object) -> bool:
    if key in FLAGS:
        return isinstance(value, bool)
    if key == "outage_after":
        return _seconds(value) is not None
    if key == "scope_ceiling" and value in ("", []):
        return False  # an empty ceiling would count as no ceiling
    if key == "set":
        return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    if key == "notify" and value in ("", []):
        return False
    if key in (*_LISTS, "notify") and isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, str)


def _wanted(key: str) -> str:
    if key == "scope_ceiling":
        return "a string or a list of strings, with at least one scope"
    if key in (*_LISTS, "notify"):
        return "a string or a list of strings"
    if key in FLAGS:
        return "true or false"
    other = {
        "set": "a table of strings",
        "outage_after": "a number of seconds, at least 0, or inf for never",
    }
    return other.get(key, "a string")


def _is_literal(value: object) -> bool:
    return isinstance(value, str) and not value.startswith(_REFERENCES)


def _path() -> Path:
    if (chosen := _FILE.get()) is not None:
        return chosen
    if named := os.environ.get("DEVICEFLOW_CONFIG"):
        return Path(named).expanduser()
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:  # the user has no home directory, as in some containers
        return Path(os.devnull)
    return Path(base) / "deviceflow" / "config.toml"
