"""Secret references: read a client's secret or private key at the moment that it is needed.

A stored login contains the reference of its client's secret. Somebody who can write to the store
could put the name of any variable or file there, and have its content sent away. So only references
are followed that this process was configured for: those in its settings and profiles, those in
`DEVICEFLOW_ALLOW_SECRETS`, and those of logins that this process itself began.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from deviceflow.core.sanitize import printable
from deviceflow.core.secret import Secret
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.core.provider import Provider

ALLOWED: Final = "DEVICEFLOW_ALLOW_SECRETS"
"""The variable with references that stored logins may use, separated by commas or white space."""

_begun: Final[set[str]] = set()
_read: Final[set[str]] = set()
_resolved: Final[set[str]] = set()

_OTHERS: Final = ("notify",)
"""The settings that may be references, besides a client's secret and key."""

# Surrogates, from bytes that are not UTF-8. The error of encoding them would quote the secret.
_UNSENDABLE: Final = "[\ud800-\udfff]"


def allow(provider: Provider) -> None:
    """Allow the reference of a login that this process begins."""
    if (reference := _reference_of(provider)) is not None:
        _begun.add(reference)


def begun_here(provider: Provider) -> bool:
    """Tell, without reading settings, whether a login's reference is allowed.

    It is if the login has no reference, if this process began a login with the same one, or if
    `read_configured` found it.
    """
    reference = _reference_of(provider)
    return reference is None or reference in _begun or reference in _read


def read_configured() -> None:
    """Read which references are configured, and go by that until the next call.

    For a process that drives many logins: otherwise the settings are read at each step.

    Raises:
        UsageError: The configuration file cannot be used. What was read before stays.
    """
    configured = _configured()
    _read.clear()
    _read.update(configured)


def check(provider: Provider) -> None:
    """Check that this process may follow the reference of a stored login.

    Raises:
        UsageError: The reference is not allowed. Nothing was read.
    """
    reference = _reference_of(provider)
    if reference is None or begun_here(provider) or reference in _configured():
        return
    shown = printable(reference, 200)
    raise UsageError(
        f"This stored login has {shown} as the reference of its client's secret, which this process"
        " is not configured to read.",
        hint=f"Nothing was read or sent. If the login is yours, set {ALLOWED}={shown}, or put the"
        " reference into a profile. If not, find out who can write to the store.",
    )


def variables(provider: Provider | None = None) -> set[str]:
    """Return the environment variables that contain what a setting refers to, such as a secret.

    Args:
        provider: A provider whose variable is included.
    """
    named = {*_begun, *_resolved, _reference_of(provider) or ""}
    with suppress(UsageError):  # a configuration that cannot be used
        named |= _configured(*_OTHERS)
    return {reference[4:] for reference in named if reference.startswith("env:")}


def _reference_of(provider: Provider | None) -> str | None:
    authentication = getattr(provider, "authentication", None)  # not every dialect has one
    return authentication and authentication.reference


def _configured(*others: str) -> set[str]:
    from deviceflow.credentials.profiles import references  # noqa: PLC0415  # most programs have no secrets

    return {*references(*others), *re.split(r"[\s,]+", os.environ.get(ALLOWED, ""))}


def resolve(
    reference: str, what: Literal["client_secret", "private_key", "notify"] = "client_secret"
) -> Secret:
    """Return the secret that a reference names.

    Args:
        reference: `env:NAME` for an environment variable; `file:PATH` for a file, whose leading
            and trailing white space is removed; `profile:NAME` for a profile in the configuration
            file, whose setting is the secret or one of the other two references.
        what: The setting of the profile, or what the secret is.

    Raises:
        UsageError: The secret is missing, or cannot be read.
    """
    where = reference
    if where.startswith("profile:"):
        from deviceflow.credentials.profiles import load  # noqa: PLC0415  # most programs have no profiles

        text = load().profile(where.removeprefix("profile:")).get(what)
        if not (isinstance(text, str) and text.startswith(("env:", "file:"))):
            return _found(None if str(text).startswith("profile:") else text, reference, what)
        where = text
    kind, _, name = where.partition(":")
    _resolved.add(where)
    return _found(os.environ.get(name) if kind == "env" else _text_of(name), reference, what)


def _found(text: object, reference: str, what: str) -> Secret:
    if not text or re.search(_UNSENDABLE, str(text)):
        owner = "URL to notify" if what == "notify" else f"client's {what.removeprefix('client_')}"
        raise UsageError(
            f"The {owner.replace('_', ' ')} was not found at {reference}.",
            hint="Nothing was sent. Put the secret there, or correct the reference.",
        )
    return Secret(str(text))


def _text_of(path: str) -> str | None:
    try:
        return Path(path).expanduser().read_text("utf-8").strip()
    except (OSError, ValueError, RuntimeError):  # the last: the user has no home directory
        return None
