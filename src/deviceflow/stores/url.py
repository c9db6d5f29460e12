"""Open a store by its URL, by `DEVICEFLOW_STORE`, or in the user's state directory."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote

from deviceflow.core.sanitize import printable
from deviceflow.core.secret import Hidden, without_traceback
from deviceflow.errors import StoreError, UsageError
from deviceflow.stores._option import SQLITE, VARIABLE, quoted, state_directory

if TYPE_CHECKING:
    from deviceflow.core.ports import AsyncStore, Store

SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
"""How the names of SQLite files end."""

_LONGEST_OPTION: Final = 40


def open_store(url: str | None = None, **options: Any) -> Store:
    """Open the store that a URL names.

    Args:
        url: `memory:`, `sqlite:///relative/path`, `sqlite:////absolute/path`, or
            `postgresql://…` in libpq's format. By default `DEVICEFLOW_STORE`, else a SQLite file
            in the user's state directory. The URL of a SQLite file has no options: a `?` in the
            file's name is written as `%3F`.
        **options: Further arguments of `SQLiteStore` or `PostgresStore`: `keys`, `plaintext`,
            `read_only`, …

    Raises:
        UsageError: The URL is invalid.
        StoreError: The store cannot be used.
        ImportError: A library is missing (extras `seal`, `postgres`).
    """
    given = Hidden((url, options))  # a password may be in the URL, and keys in the options
    del url, options
    return without_traceback(lambda: _opened(*given.reveal()))


def _opened(url: str | None, options: dict[str, Any]) -> Store:
    kind, where = _place(url)
    if kind == "sqlite":
        from deviceflow.stores.sqlite import SQLiteStore  # noqa: PLC0415  # one of three is loaded

        return SQLiteStore(where, **options)
    if kind == "postgres":
        from deviceflow.stores.postgres import PostgresStore  # noqa: PLC0415

        return PostgresStore(where, **options)
    from deviceflow.stores.memory import MemoryStore  # noqa: PLC0415

    return MemoryStore()


def open_async_store(url: str | None = None, **options: Any) -> AsyncStore:
    """Return the store for asyncio that a URL names. It is opened where it is first used.

    Args:
        url: As for `open_store`.
        **options: Further arguments of `AsyncSQLiteStore` or `AsyncPostgresStore`.

    Raises:
        UsageError: The URL is invalid.
        StoreError: The user's state directory cannot be used.
        ImportError: A library is missing (extra `postgres`).
    """
    given = Hidden((url, options))
    del url, options
    return without_traceback(lambda: _opened_async(*given.reveal()))


def _opened_async(url: str | None, options: dict[str, Any]) -> AsyncStore:
    kind, where = _place(url)
    if kind == "sqlite":
        from deviceflow.stores.async_sqlite import AsyncSQLiteStore  # noqa: PLC0415

        return AsyncSQLiteStore(where, **options)
    if kind == "postgres":
        from deviceflow.stores.async_postgres import AsyncPostgresStore  # noqa: PLC0415

        return AsyncPostgresStore(where, **options)
    from deviceflow.stores.async_memory import AsyncMemoryStore  # noqa: PLC0415

    return AsyncMemoryStore()


def _place(url: str | None) -> tuple[Literal["memory", "sqlite", "postgres"], str]:
    """Return what kind of store a URL names, and the file or URL for it."""
    url = url or os.environ.get(VARIABLE)
    if not url:
        return "sqlite", str(_private_directory() / "flows.db")
    scheme, _, _ = url.partition(":")
    if scheme == "memory":
        return "memory", ""
    if (file := _file_in(url)) is not None:
        return "sqlite", str(file)
    if scheme in ("postgresql", "postgres"):
        return "postgres", url
    raise UsageError(
        "The URL of the store is invalid.",  # the URL may contain a password
        hint=_url_of_file(url) or "Use memory:, sqlite:///path or postgresql://…",
    )


def _file_in(url: str) -> Path | None:
    """Return the SQLite file that a URL names; None for another URL.

    Raises:
        UsageError: The URL has options.
    """
    path, asks, options = url.partition("?")
    if not path.startswith(SQLITE) or path == SQLITE:
        return None
    if asks:
        name = printable(options.partition("=")[0], _LONGEST_OPTION)
        raise UsageError(
            f"The URL of a SQLite store has no options, and this one has {name!r}.",
            hint="Leave out the ? and what follows. A ? in the file's name is written as %3F.",
        )
    return Path(unquote(path.removeprefix(SQLITE))).expanduser()


def _url_of_file(text: str) -> str | None:
    """Return a hint with the URL of a file, if somebody has named a file instead of a URL."""
    path = text.removeprefix("sqlite:").removeprefix("//")
    # Anything else may contain a password.
    if any(sign in path for sign in ":@=") or not path.lower().endswith(SUFFIXES):
        return None
    return f"For a SQLite file, use {SQLITE}{quoted(printable(path, 1000))}"


def sqlite_file(url: str | None = None) -> Path | None:
    """Return the file of the store that `open_store` would open, if it is a SQLite file.

    Raises:
        UsageError: As for `open_store`, for the URL of a SQLite file.
    """
    named = Hidden(url or os.environ.get(VARIABLE))
    del url
    with suppress(RuntimeError):  # raised by pathlib if the user has no home directory
        return without_traceback(lambda: _file_of(named.reveal()))
    return None


def _file_of(url: str | None) -> Path | None:
    return _file_in(url) if url else state_directory() / "flows.db"


def _private_directory() -> Path:
    """Create the state directory with access for its owner only, or check an existing one."""
    elsewhere = f"Use a writable store: {VARIABLE}=sqlite:///PATH"
    try:
        path = state_directory()
        for folder in (*reversed(path.parents), path):
            # One by one: `parents=True` would create the parents with the umask's mode.
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
        exposed = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except RuntimeError:  # raised by pathlib
        problem = StoreError("This user has no home directory for the store.", hint=elsewhere)
    except OSError as error:
        problem = StoreError(f"{path} cannot be used: {error.strerror}.", hint=elsewhere)
    else:
        if os.name != "posix" or not exposed:
            return path
        problem = StoreError(
            f"Other users have access to the store's directory {path}.",
            hint=f"Fix it with: chmod 700 {path}",
        )
    raise problem
