"""One login by one library, in a process of its own: `python -m tests.comparison.drive …`.

It prints how that ended, and which secrets were in the error's text and in the logs at DEBUG.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from tests.comparison.outcome import Outcome, RefusedError
from tests.comparison.scenarios import ACCESS_TOKEN, SECRETS, Endpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINGER: Final = 1.5
"""Seconds for which the process lives on, to see whether something polls after the end."""


def drive(login: Callable[[], str]) -> Outcome:
    """Log in, and say how that ended."""
    with _listening() as heard:
        said, error = _attempt(login)
    return Outcome(said, _secrets_in(error), _secrets_in("\n".join(heard)))


def _attempt(login: Callable[[], str]) -> tuple[str, str]:
    try:
        token = login()
    except RefusedError as refused:
        said = f"returns `{refused.code}`" if refused.code else "returns an answer without `error`"
        return said, str(refused)
    except Exception as error:  # noqa: BLE001  # which one is the question
        return f"raises `{type(error).__name__}`", "".join(traceback.format_exception(error))
    return ("token" if token == ACCESS_TOKEN else "another token"), ""


def _secrets_in(text: str) -> tuple[str, ...]:
    return tuple(name for name, secret in SECRETS.items() if secret in text)


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The record itself as well: fields beside the message reach structured logs.
        self.heard += [self.format(record), repr(record.__dict__)]


@contextmanager
def _listening() -> Iterator[list[str]]:
    listener, root = _Listener(), logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        yield listener.heard
    finally:
        root.removeHandler(listener)
        root.setLevel(level)


def main() -> None:
    """Log in with the library that is named, where the other arguments say."""
    library, where = sys.argv[1], Endpoints(*sys.argv[2:])
    with_it = import_module(f"tests.comparison.with_{library}")
    outcome = drive(lambda: str(with_it.login(where)))
    time.sleep(LINGER)
    print(outcome.write())


if __name__ == "__main__":
    main()
