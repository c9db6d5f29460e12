"""Where a client's secret or key is read from, at the moment that it is needed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Literal

from deviceflow.errors import UsageError
from deviceflow.secret import Secret

# What Python makes of bytes that are no UTF-8. An error of encoding it would quote the secret.
_UNSENDABLE: Final = "[\ud800-\udfff]"


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
        from deviceflow.config import load  # noqa: PLC0415  # most programs have no profiles

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
