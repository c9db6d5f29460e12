"""The name and the provider of a login: the words and options, the environment, a profile."""

from __future__ import annotations

import os
import re
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deviceflow.core.notice import argument
from deviceflow.core.sanitize import printable
from deviceflow.core.suggest import did_you_mean
from deviceflow.credentials import configured, profiles
from deviceflow.credentials.configured import Asked, is_address
from deviceflow.credentials.secret_refs import resolve
from deviceflow.errors import InsecureURLError, UnknownLoginError, UsageError
from deviceflow.providers import known
from deviceflow.providers.oauth import PLACES, OAuth
from deviceflow.providers.studio import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deviceflow.cli.options import StoreOptions, TargetOptions
    from deviceflow.client._sync import Client
    from deviceflow.core.provider import Provider
    from deviceflow.credentials.profiles import Settled
    from deviceflow.errors import DeviceFlowError


_CLAIMS: Final = ("email", "sub", "tenant")
_SETTING: Final = re.compile("|".join(rf"{name}\b" for name in profiles.SETTINGS))
_ARGUMENT: Final = re.compile(r"\b([a-z_]+)='env:NAME' or 'file:PATH'")


class Target:
    """What a command logs in to, as its arguments say. The settings are resolved once.

    Args:
        args: The arguments.
        named: Whether the command takes a name before the provider.

    Attributes:
        name: The name; None if the words have none.
        word: The word for the provider: a known provider, `studio`, or the host of a DVC Studio;
            None if the words have none.

    Raises:
        UsageError: The words are not `[NAME] [PROVIDER | studio [HOST]]`.
    """

    def __init__(self, args: TargetOptions, *, named: bool = True) -> None:
        self._args = args
        self.name, self.word = _read(args.words)
        if not named:
            if self.name and self.word:
                raise UsageError(
                    f"This command takes no name: {printable(self.name, 100)}.",
                    hint=f"Omit {argument(self.name)}.",
                )
            word = self.name if self.word is None else self.word
            if word and is_address(word) and not _may_be_provider(word):
                raise _unknown_server(word)
            self.name, self.word = None, word

    @property
    def is_explicit(self) -> bool:
        """Whether the command line says something of the provider, beside a single word."""
        given = (*profiles.SETTINGS, "profile", "set", "client_name", "token_name")
        given += tuple(f"require_{claim}" for claim in _CLAIMS)
        two = self.name is not None and self.word is not None
        return two or any(getattr(self._args, name, None) for name in given)

    @cached_property
    def settled(self) -> Settled:
        """The effective settings, each with its source.

        Raises:
            UsageError: A profile, the file, a secret reference or a `--set` is invalid.
        """
        given = {name: getattr(self._args, name, None) for name in profiles.SETTINGS}
        given["set"] = dict(_pair(text) for text in self._args.set or [])
        if self.word:
            given["provider"] = self.word
        return profiles.settle(given, self._args.profile)

    @property
    def names_server(self) -> bool:
        """Whether the settings name a server."""
        return any(name in self.settled.settings for name in ("provider", *PLACES))

    def provider(self) -> Provider:
        """Return the provider, with the login request. Its client's secret can be read.

        Raises:
            UsageError: The settings are incomplete or contradictory, request a scope above the
                ceiling, or the secret is missing.
        """
        require = {
            claim: value
            for claim in _CLAIMS
            if (value := getattr(self._args, f"require_{claim}", None))
        }
        explicit = (
            self.word,
            self._args.profile,
            *(getattr(self._args, one, None) for one in PLACES),
        )
        if self.is_named_as_server and not any(explicit):
            # Who names a host alone does not mean another server.
            raise _unknown_server(str(self.name))
        asked = Asked(require, self._args.client_name, self._args.token_name)
        try:
            of = configured.provider(self.settled.settings, asked)
        except UsageError as wrong:
            if isinstance(wrong, InsecureURLError) and "allow_http" in (wrong.hint or ""):
                wrong.hint = "Use https, or allow http to this server with --allow-http."
            wrong.hint = _ARGUMENT.sub(_as_option, wrong.hint or "")
            name = _SETTING.match(wrong.message)
            if name and getattr(self._args, name[0], None):
                wrong.message = f"--{name[0].replace('_', '-')}{wrong.message[name.end() :]}"
            raise
        _look_for_secret(of)
        return of

    @property
    def is_named_as_server(self) -> bool:
        """Whether the name has the form of a host, as a default name may have."""
        return self.name is not None and _is_host(self.name)

    @property
    def purpose(self) -> str | None:
        """The purpose of the login, if one is set."""
        return configured.purpose(self.settled.settings)

    def beyond_ceiling(self, scopes: Iterable[str]) -> list[str]:
        """Return the scopes that the scope ceiling does not allow, if there is a ceiling."""
        return configured.beyond_ceiling(self.settled.settings, scopes)

    def default_name(self, provider: Provider) -> str:
        """Return the name of a login without one: the profile's, the provider's, or the host."""
        if self._args.profile:
            return self._args.profile
        profile = os.environ.get("DEVICEFLOW_PROFILE")
        places = (self.settled.settings.get(name) for name in ("provider", *PLACES))
        if profile and any(one and one.source.startswith(f"profile {profile} ") for one in places):
            return profile
        if isinstance(provider, OAuth) and provider.name in known.known():
            return provider.name
        return "studio" if provider.server == DEFAULT_URL else urlsplit(provider.server).netloc


def _read(words: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the name and the word for the provider.

    One word alone is a provider if it can be one, and a name otherwise.

    Raises:
        UsageError: The words are not of this form.
    """
    studio = words.index("studio") if "studio" in words[:2] else len(words)
    before, host = words[:studio], words[studio + 1 :]
    is_studio = studio < len(words)
    if len(host) > 1 or len(before) > (1 if is_studio else 2):
        raise UsageError(
            f"There are too many words: {' '.join(map(printable, words))}.",
            hint="Give a name and a provider: [NAME] [PROVIDER | studio [HOST]]",
        )
    if host and not is_address(host[0]):
        raise UsageError(
            f"{printable(host[0], 100)!r} is not the host of a DVC Studio.",
            hint="Behind studio comes its host, such as studio.example.com. A name comes first.",
        )
    if host and _may_be_provider(host[0]):
        raise UsageError(
            f"{printable(host[0], 100)} is the host of a known provider, not of a DVC Studio.",
            hint="Leave out studio.",
        )
    if is_studio:
        return (before[0] if before else None), (host[0] if host else "studio")
    if not before or (len(before) == 1 and not _may_be_provider(before[0])):
        return (before[0] if before else None), None
    word = before[-1]
    if not _may_be_provider(word) and _may_be_provider(before[0]):
        raise UsageError(
            f"There is no provider {printable(word, 100)!r}.",
            hint=f"The name comes first: {argument(word)} {argument(before[0])}",
        )
    if is_address(word) and not _may_be_provider(word):
        raise _unknown_server(word)
    return (before[0] if len(before) > 1 else None), word


def _is_host(word: str) -> bool:
    """Tell whether a word is a host or a URL. A name may have slashes and spaces, too."""
    return " " not in word and is_address(word.removeprefix("https://").partition("/")[0])


def _may_be_provider(word: str) -> bool:
    at_host = is_address(word) and configured.known_at(word)[0] is not None
    return at_host or word in known.known()


def unknown(args: StoreOptions, client: Client | None, word: str, server: str) -> DeviceFlowError:
    """Return the error for a word that names neither a provider nor a login in the store.

    Args:
        args: The arguments.
        client: A client of the store; None if there is no store.
        word: What is neither.
        server: The arguments that log in to another server.

    Raises:
        StoreError: A store was named that does not exist.
    """
    from deviceflow.cli import stored  # costs, and other commands of a target need no store

    if stored.new_file(args):
        stored.check_exists(args)
    if _is_host(word):
        return _unknown_server(word)
    may_be = (*known.known(), *([] if client is None else stored.names(client)))
    meant = did_you_mean(word, may_be) or did_you_mean(word.lower(), may_be)
    return UnknownLoginError(
        f"There is no provider and no login {printable(word, 100)!r}. Nothing was sent.",
        hint=f"{meant}Name a provider (deviceflow providers list), or a"
        f" server: {stored.command(args, server)}",
    )


def _unknown_server(word: str) -> UsageError:
    """Return the error for an address of which nothing says what is spoken there."""
    server = word if "://" in word else f"https://{word}"
    return UsageError(
        f"{printable(word, 100)} is not the host of a known provider. Nothing was sent.",
        hint=f"If it is a DVC Studio: studio {word}; any other server: --issuer {server}",
    )


def of_profile(name: str | None) -> tuple[Provider, str | None] | None:
    """Return a profile's provider and purpose; None if no profile is named, or it has no server.

    Raises:
        UsageError: The profile or the file cannot be used, or the client's secret is missing.
    """
    if name is None or not profiles.names_server(name):
        return None
    of, why = configured.of_profile(name)
    _look_for_secret(of)
    return of, why


def _look_for_secret(provider: Provider) -> None:
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
