"""Where a client's secret or key is read from, at the moment that it is needed.

A stored login names the place of its client's secret. Whoever can write to the store could name any
variable or file there, and have it sent away. So a stored login may name what this process was set
up for, and nothing else: what its settings and profiles name, what `DEVICEFLOW_ALLOW_SECRETS`
lists, and what the process has itself begun a login with.
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
"""References that stored logins may name, with commas or white space in between."""

_begun: Final[set[str]] = set()

# What Python makes of bytes that are no UTF-8. An error of encoding it would quote the secret.
_UNSENDABLE: Final = "[\ud800-\udfff]"


def allow(provider: Provider) -> None:
    """Remember where a login's client secret is: this process begins the login by itself."""
    if (reference := _reference_of(provider)) is not None:
        _begun.add(reference)


def begun_here(provider: Provider) -> bool:
    """Tell, without a look at settings, whether a login may name its client secret's place.

    It may if it names none, or if this process has begun a login that names the same.
    """
    reference = _reference_of(provider)
    return reference is None or reference in _begun


def check(provider: Provider) -> None:
    """See that a stored login names no other place than this process may read.

    Raises:
        UsageError: It does. Nothing was read.
    """
    reference = _reference_of(provider)
    if reference is None or begun_here(provider) or reference in _configured():
        return
    shown = printable(reference, 200)
    raise UsageError(
        f"This stored login names {shown} as the place of its client's secret, and this process was"
        " not set up to read that.",
        hint=f"Nothing was read or sent. If the login is yours, allow it: {ALLOWED}={shown}, or"
        " name the place in a profile. If not, find out who can write to the store.",
    )


def variables(provider: Provider | None = None) -> set[str]:
    """Return the environment variables that are known to hold a client's secret or key.

    Args:
        provider: A provider whose variable counts as well.
    """
    named = {*_begun, _reference_of(provider) or ""}
    with suppress(UsageError):  # a configuration that cannot be used
        named |= _configured()
    return {reference[4:] for reference in named if reference.startswith("env:")}


def _reference_of(provider: Provider | None) -> str | None:
    authentication = getattr(provider, "authentication", None)  # not every dialect has one
    return authentication and authentication.reference


def _configured() -> set[str]:
    from deviceflow.credentials.profiles import references  # noqa: PLC0415  # most programs have no secrets

    return {*references(), *re.split(r"[\s,]+", os.environ.get(ALLOWED, ""))}


def resolve(
    reference: str, what: Literal["client_secret", "private_key"] = "client_secret"
) -> Secret:
    """Return the text that a reference leads to.

    Args:
        reference: `env:NAME` for an environment variable, `file:PATH` for a file's text without
            the white space around it, `profile:NAME` for a profile in the configuration file, whose
            setting may be the text or one of the other two in turn.
        what: Which setting of a profile is meant.

    Raises:
        UsageError: There is nothing there, or it cannot be read.
    """
    where = reference
    if where.startswith("profile:"):
        from deviceflow.credentials.profiles import load  # noqa: PLC0415  # most programs have no profiles

        text = load().profile(where.removeprefix("profile:")).get(what)
        if not (isinstance(text, str) and text.startswith(("env:", "file:"))):
            return _found(None if str(text).startswith("profile:") else text, reference, what)
        where = text
    kind, _, name = where.partition(":")
    return _found(os.environ.get(name) if kind == "env" else _text_of(name), reference, what)


def _found(text: object, reference: str, what: str) -> Secret:
    if not text or re.search(_UNSENDABLE, str(text)):
        raise UsageError(
            f"The client's {what.replace('_', ' ').removeprefix('client ')} is not at {reference}.",
            hint="Nothing was sent. Put it there, or say where it is.",
        )
    return Secret(str(text))


def _text_of(path: str) -> str | None:
    try:
        return Path(path).expanduser().read_text("utf-8").strip()
    except (OSError, ValueError, RuntimeError):  # the last: there is no such user's home
        return None
