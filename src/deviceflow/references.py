"""Where a client's secret or key is read from, at the moment that it is needed."""

from __future__ import annotations

import os
from pathlib import Path

from deviceflow.errors import UsageError
from deviceflow.secret import Secret


def resolve(reference: str) -> Secret:
    """Return the text that a reference leads to.

    Args:
        reference: `env:NAME` for an environment variable, `file:PATH` for a file's text without
            the white space around it, `profile:NAME` for the `client_secret` of a profile in the
            configuration file.

    Raises:
        UsageError: There is nothing there, or it cannot be read.
    """
    kind, _, where = reference.partition(":")
    match kind:
        case "env":
            text = os.environ.get(where)
        case "file":
            text = _text_of(where)
        case _:
            from deviceflow.config import load  # noqa: PLC0415  # most programs have no profiles

            text = load().profile(where).get("client_secret")
    if not text:
        raise UsageError(
            f"The client's secret is not at {reference}.",
            hint="Nothing was sent. Put it there, or say where it is.",
        )
    return Secret(str(text))


def _text_of(path: str) -> str | None:
    try:
        return Path(path).expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
