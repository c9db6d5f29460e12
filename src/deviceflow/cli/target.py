"""The provider of a login, from the command line, the environment, a profile and an entry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from deviceflow.credentials import configured, profiles
from deviceflow.credentials.configured import Asked
from deviceflow.credentials.secret_refs import resolve
from deviceflow.errors import InsecureURLError, UsageError
from deviceflow.providers.oauth import OAuth

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.cli.options import TargetOptions
    from deviceflow.core.provider import Provider
    from deviceflow.credentials.profiles import Settled


_ARGUMENT: Final = re.compile(r"\b([a-z_]+)='env:NAME' or 'file:PATH'")


def settled(args: TargetOptions) -> Settled:
    """Return the effective settings for the arguments, each with its source.

    Raises:
        UsageError: A profile, the file, a secret reference or a `--set` is invalid.
    """
    given = {name: getattr(args, name, None) for name in profiles.SETTINGS}
    given["set"] = dict(_pair(text) for text in getattr(args, "set", None) or [])
    if args.target:
        given["provider"] = args.target
    return profiles.settle(given, args.profile)


def provider(args: TargetOptions) -> Provider:
    """Return the provider for the arguments, with the login request.

    Raises:
        UsageError: The arguments are incomplete or contradictory, or request a scope above the
            ceiling.
    """
    require = {
        claim: value
        for claim in ("email", "sub", "tenant")
        if (value := getattr(args, f"require_{claim}", None))
    }
    asked = Asked(require, args.client_name, args.token_name)
    try:
        return configured.provider(settled(args).settings, asked)
    except InsecureURLError as insecure:
        if "allow_http" in (insecure.hint or ""):
            insecure.hint = "Use https, or allow http to this server with --allow-http."
        raise
    except UsageError as wrong:
        wrong.hint = _ARGUMENT.sub(_as_option, wrong.hint or "")
        raise


def of_profile(name: str | None) -> tuple[Provider, str | None] | None:
    """Return a profile's provider and purpose; None if no profile is named, or it has no server.

    Raises:
        UsageError: The profile or the file cannot be used, or the client's secret is missing.
    """
    if name is None or not profiles.names_server(name):
        return None
    of, why = configured.of_profile(name)
    look_for_secret(of)
    return of, why


def purpose(args: TargetOptions) -> str | None:
    """Return the purpose of the login, if one is set. It raises the same errors as `settled`."""
    return configured.purpose(settled(args).settings)


def beyond_ceiling(args: TargetOptions, scopes: Iterable[str]) -> list[str]:
    """Return the scopes that the scope ceiling does not allow, if there is a ceiling."""
    return configured.beyond_ceiling(settled(args).settings, scopes)


def look_for_secret(provider: Provider) -> None:
    """Check that the client's secret can be read, before a person is asked to approve.

    Raises:
        UsageError: The secret is missing.
    """
    if not isinstance(provider, OAuth):
        return
    auth = provider.authentication
    if auth.reference is not None and auth.method == "private_key_jwt":
        resolve(auth.reference, "private_key")
    elif auth.reference is not None:
        resolve(auth.reference)


def _as_option(argument: re.Match[str]) -> str:
    """Return an argument of Python's in a hint as the command spells it."""
    return f"--{argument[1].replace('_', '-')} env:NAME or file:PATH"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"--set must be NAME=VALUE, not {text!r}.")
    return name, value
