"""The provider of a login, from its settings: those of a profile, the environment and a command.

`settle` of `deviceflow.credentials.profiles` finds the settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from deviceflow.core.sanitize import is_loopback, printable
from deviceflow.credentials import profiles
from deviceflow.errors import UsageError
from deviceflow.providers import known
from deviceflow.providers.oauth import PLACES, OAuth, elsewhere
from deviceflow.providers.studio import DEFAULT_URL, Studio

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deviceflow.core.provider import Provider
    from deviceflow.credentials.profiles import Setting
    from deviceflow.providers.dialect import Dialect

_OF_THE_LOGIN: Final = ("purpose", "scope_ceiling")
_FOR_STUDIO: Final = ("allow_http", "scopes")
_ENDPOINTS: Final = ("device_authorization_endpoint", "token_endpoint")
_WHERE: Final = ("issuer", *_ENDPOINTS)


class Asked(NamedTuple):
    """What a login asks for that no setting names.

    Attributes:
        require: The claims of the person who must approve, such as `email`.
        client_name: The program's name, as DVC Studio shows it.
        token_name: The name of DVC Studio's token.
    """

    require: Mapping[str, str] = {}
    client_name: str | None = None
    token_name: str | None = None


_NOTHING_ELSE: Final = Asked()


def of_profile(name: str) -> tuple[Provider, str | None]:
    """Return the provider of a profile, with the login request, and the purpose of its logins.

    Raises:
        UsageError: The profile or the file cannot be used, or it requests a scope above the
            ceiling.
    """
    found = profiles.settle({}, name).settings
    return provider(found), purpose(found)


def provider(found: Mapping[str, Setting], asked: Asked = _NOTHING_ELSE) -> Provider:
    """Return the provider of settings, with the login request.

    Raises:
        UsageError: The settings are incomplete or contradictory, or request a scope above the
            ceiling.
    """
    of = _provider(asked, {k: found[k] for k in found if k not in _OF_THE_LOGIN})
    if (limit := found.get("scope_ceiling")) is None:
        return of
    if not of.scopes:
        raise UsageError(
            "The login requests no scope, so the server would choose the scopes, but"
            f" {limit.source} sets a scope ceiling.",
            hint=f"Request some of {_listed(limit)}.",
        )
    # Only Studio accepts scopes in upper and lower case.
    any_case = isinstance(of, Studio)
    if beyond := _beyond(limit, of.scopes, any_case=any_case):
        raise UsageError(
            f"The scope ceiling does not allow {', '.join(beyond)}. Nothing was sent.",
            hint=f"The ceiling from {limit.source} allows {_listed(limit)}.",
        )
    if _beyond(limit, set(of.for_grant().scopes) - {*of.scopes}):
        assert isinstance(of, OAuth)  # noqa: S101  # no other asks for more
        return replace(of, offline="off")
    return of


def purpose(found: Mapping[str, Setting]) -> str | None:
    """Return the purpose of the login, if one is set."""
    setting = found.get("purpose")
    return None if setting is None else setting.value


def beyond_ceiling(found: Mapping[str, Setting], scopes: Iterable[str]) -> list[str]:
    """Return the scopes that the scope ceiling does not allow, if there is a ceiling."""
    limit = found.get("scope_ceiling")
    return [] if limit is None else _beyond(limit, scopes)


def _beyond(limit: Setting, scopes: Iterable[str], *, any_case: bool = False) -> list[str]:
    fold = str.upper if any_case else str
    allowed = [fold(scope) for scope in profiles.texts(limit.value)]
    return [printable(scope, 100) for scope in scopes if fold(scope) not in allowed]


def _listed(ceiling: Setting) -> str:
    return ", ".join(profiles.texts(ceiling.value))


def _provider(asked: Asked, found: Mapping[str, Setting]) -> Provider:
    settings = {name: setting.value for name, setting in found.items()}
    parameters = {
        name.removeprefix("set."): settings.pop(name) for name in found if name.startswith("set.")
    }
    name: str | None = settings.pop("provider", None)
    places = {key: found[key] for key in PLACES if key in found}
    for flag in settings.keys() & {*profiles.FLAGS}:
        settings[flag] = settings[flag] in (True, "1", "true")
    required = dict(asked.require)
    if name is None:
        if not any(key in settings for key in _WHERE):
            raise UsageError(
                "Where to log in is missing. Nothing was sent.",
                hint="Name a provider (deviceflow providers list), use --issuer URL, or for DVC"
                " Studio: studio [HOST].",
            )
        _no_studio_options(asked)
        _check_both_endpoints(settings)
        _no_parameters(parameters, {}, "A server that is not named")
        _check_places(places)
        return OAuth(**_with_id(settings), require=required)
    supplied, path = known_at(name) if is_address(name) else (None, "")
    if supplied and not places and not path:
        name = supplied
    if name != "studio" and not is_address(name):
        entry = known.entry(name)
        _no_studio_options(asked)
        _no_parameters(parameters, entry.parameters, entry.title)
        _check_complete(entry, settings, parameters)
        if not any(getattr(entry, key) for key in PLACES):  # it says how a server answers only
            _check_places(places)
            return known.provider(name, **_with_id(settings), **parameters, require=required)
        rest = {key: value for key, value in _with_id(settings).items() if key not in PLACES}
        of = known.provider(name, **rest, **parameters, require=required)
        urls = [url for key in PLACES if (url := getattr(of, key))]
        _check_one_server({"provider": found["provider"]}, urls, places)
        return replace(of, **{key: setting.value for key, setting in places.items()})
    if places:
        raise _mixed({"provider": found["provider"]}, places)
    if supplied:
        raise UsageError(
            f"{printable(name, 100)} is the provider {supplied!r}, not a DVC Studio."
            " Nothing was sent.",
            hint=f"Name the provider: {supplied}",
        )
    _no_parameters(parameters, {}, "DVC Studio")
    # A client id in the environment is for other servers: Studio has no client ids.
    settings = {
        key: value
        for key, value in settings.items()
        if key in _FOR_STUDIO or "environment" not in found[key].source
    }
    return _studio(asked, None if name == "studio" else name, settings, required)


def _check_both_endpoints(settings: Mapping[str, Any]) -> None:
    """Check that a server without an issuer has both endpoints."""
    missing = [key for key in _ENDPOINTS if key not in settings]
    if "issuer" not in settings and missing:
        option = f"--{missing[0].replace('_', '-')}"
        raise UsageError(
            f"The {missing[0].replace('_', ' ')} is missing.",
            hint=f"Add {option} URL; or use --issuer URL only, if the server has metadata.",
        )


def _check_complete(
    entry: Dialect, settings: Mapping[str, Any], parameters: Mapping[str, str]
) -> None:
    """Check that a known provider has all that it needs, so that one error names all of it."""
    missing = {
        f"--set {key}=…": key
        for key, default in entry.parameters.items()
        if not (default or parameters.get(key))
    }
    if not settings.get("client_id"):
        missing["--client-id ID"] = "a client id"
    if entry.needs_secret and not (settings.get("client_secret") or settings.get("private_key")):
        missing["--client-secret env:NAME or file:PATH"] = "a client secret"
    if len(missing) > 1:
        *first, last = missing.values()
        raise UsageError(
            f"{entry.title} needs {', '.join(first)} and {last}. Nothing was sent.",
            hint=f"Register the program at the server, then add {' '.join(missing)}; or use a"
            " profile.",
        )


def _check_places(places: Mapping[str, Setting]) -> None:
    """Check that all URLs among the settings are on one server, that of the first."""
    for key, setting in [*places.items()][:1]:
        _check_one_server({key: setting}, [setting.value], places)


def _check_one_server(
    one: Mapping[str, Setting], urls: Iterable[str], places: Mapping[str, Setting]
) -> None:
    """Check that no URL is on another server.

    Args:
        one: The setting that names the server.
        urls: Where that server is.
        places: The URLs among the settings.
    """
    values = {key: setting.value for key, setting in places.items()}
    if (key := elsewhere(urls, values)) is not None:
        raise _mixed(one, {key: places[key]})


def _mixed(one: Mapping[str, Setting], other: Mapping[str, Setting]) -> UsageError:
    return UsageError(
        f"{profiles.spelled(one)} and {profiles.spelled(other)} each name a server."
        " Nothing was sent.",
        hint="Leave out one of the two. If they belong together, describe the server in a provider"
        " file (DEVICEFLOW_PROVIDERS).",
    )


def _no_parameters(given: Mapping[str, str], known: Mapping[str, str], title: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise UsageError(
            f"{title} has no parameter {', '.join(unknown)}.",
            hint=f"Its parameters are {', '.join(known)}." if known else "Omit --set.",
        )


def _with_id(settings: dict[str, Any]) -> dict[str, Any]:
    if not settings.get("client_id"):
        raise UsageError(
            "The client id is missing. It identifies this program at the server.",
            hint="Register the program at the server, then use --client-id ID,"
            " DEVICEFLOW_CLIENT_ID or a profile.",
        )
    return settings


def _studio(
    asked: Asked, host: str | None, settings: dict[str, Any], required: dict[str, str]
) -> Studio:
    beside = [key for key in settings if key not in _FOR_STUDIO]
    if beside or required:
        names = ", ".join(key.replace("_", "-") for key in (*beside, *required))
        raise UsageError(
            f"DVC Studio does not support {names}.",
            hint="If the server is not a DVC Studio, name the provider or pass --issuer.",
        )
    http = {name: settings[name] for name in ("allow_http",) if name in settings}
    return Studio(_address(host), **http).with_request(
        client_name=asked.client_name or "deviceflow",
        token_name=asked.token_name,
        scopes=",".join(profiles.texts(settings.get("scopes", ""))),
    )


def _no_studio_options(asked: Asked) -> None:
    given = [name for name in ("client_name", "token_name") if getattr(asked, name)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            f"Only DVC Studio supports {names}.", hint="Use --client-id for other providers."
        )


def is_address(target: str) -> bool:
    """Tell a host from a provider's name, which has no dots, colons or slashes."""
    return any(char in target for char in ".:/") or target == "localhost"


def known_at(address: str) -> tuple[str | None, str]:
    """Return the name of the known provider at an address, if there is one, and the path.

    Raises:
        UsageError: It is not an address.
    """
    try:
        url = urlsplit(_address(address))
    except ValueError:
        raise UsageError(f"{printable(address, 100)} is not a host or a URL.") from None
    return known.at(url.hostname or ""), url.path.strip("/")


def _address(host: str | None) -> str:
    """Return the server's URL. A host name means https, or http on this machine."""
    if not host:
        return DEFAULT_URL
    if "://" in host:
        return host
    scheme = "http" if is_loopback(urlsplit(f"//{host}").hostname or "") else "https"
    return f"{scheme}://{host}"
