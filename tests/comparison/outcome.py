"""How a login ended, as the process that made it tells the one that measures."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Self


class RefusedError(Exception):
    """A library returned an error as a value."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.code = result.get("error")
        super().__init__(json.dumps(result))


class Outcome(NamedTuple):
    """How a login ended.

    Attributes:
        said: `token`, or which error, in Markdown.
        in_error: The secrets in the error's text.
        in_logs: The secrets in the logs.
    """

    said: str
    in_error: tuple[str, ...] = ()
    in_logs: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what `write` gave `text` of."""
        said, in_error, in_logs = json.loads(text)
        return cls(said, tuple(in_error), tuple(in_logs))

    def write(self) -> str:
        """Return it as one line."""
        return json.dumps(self)
