"""What is public: the names that the reference documents, the command, and the events.

`tests/unit/public.txt` is a record of these, so that a review sees each change of what programs
use. After a change that is meant, `python -m tests.public` writes the record again.
"""

from __future__ import annotations

import argparse
import enum
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, is_typeddict

from deviceflow.audit.events import SCHEMA, schema
from deviceflow.cli import exits
from deviceflow.cli.commands import COMMANDS
from deviceflow.cli.parser import build
from deviceflow.core.actions import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
RECORD: Final = ROOT / "tests" / "unit" / "public.txt"
REFERENCE: Final = ROOT / "docs" / "reference"
PAGES: Final = (
    *sorted((REFERENCE / "api").glob("*.md")),
    REFERENCE / "typing.md",
    REFERENCE / "logs.md",
)

WHOLE: Final = (
    "deviceflow",
    "deviceflow.auth",
    "deviceflow.errors",
    "deviceflow.integrations.celery",
    "deviceflow.logs",
    "deviceflow.testing",
    "deviceflow.typing",
    "deviceflow.worker",
)
"""Modules whose names are all public. Of other modules, only what the reference documents is."""

_DIRECTIVE: Final = re.compile(
    r"^\.\. auto(?P<kind>class|function|module):: (?P<path>[\w.]+)\n(?P<options>(?:   :.*\n)*)",
    re.MULTILINE,
)
_MEMBERS: Final = re.compile(r"^ *:members:(.*)$", re.MULTILINE)
_ABSENT: Final[dict[str, object]] = {}
_PLAIN: Final = (bool, int, float, str, tuple, type(None))


class Documented(NamedTuple):
    """A name that the reference documents.

    Attributes:
        path: The module and the name.
        members: Which members of a class the reference documents; None for all.
    """

    path: str
    members: tuple[str, ...] | None = ()

    @property
    def value(self) -> Any:
        """What has that name, or what stands for it if a library is missing, as Airflow is."""
        try:
            return resolved(self.path)
        except ImportError:
            return _ABSENT.setdefault(self.path, object())


def resolved(path: str) -> Any:
    """Return what a path names: a module, or what is in one.

    Raises:
        ImportError: A library is missing.
    """
    module, names = path, list[str]()
    while True:
        try:
            value: Any = importlib.import_module(module)
        except ModuleNotFoundError as missing:
            if not path.startswith(str(missing.name)):
                raise
            module, _, name = module.rpartition(".")
            names.insert(0, name)
        else:
            break
    for name in names:
        value = getattr(value, name)
    return value


def documented() -> list[Documented]:
    """Return what the pages of the reference document, in their order."""
    found = []
    for page in PAGES:
        for directive in _DIRECTIVE.finditer(page.read_text()):
            kind, path, options = directive.group("kind", "path", "options")
            listed = _MEMBERS.search(options)
            members: tuple[str, ...] | None = ()
            if listed:
                members = tuple(re.findall(r"\w+", listed[1])) or None
            if "inherited-members" in options:
                members = None
            if kind != "module":
                found.append(Documented(path, members))
            elif listed:
                names = own_names(path) if members is None else members
                found += [Documented(f"{path}.{name}", None) for name in names]
    return found


def own_names(module: str) -> list[str]:
    """Return the public names of a module: those of `__all__`, else what is defined in it."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return sorted(loaded.__all__)
    return sorted(
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module
    )


def record() -> str:
    """Return the record's lines."""
    parts = [*_modules(), "", *_command(), "", *_events()]
    return "".join(f"{line}\n" for line in parts)


def names_of(module: str) -> set[str]:
    """Return the names that the record has for a module."""
    _, _, part = f"\n{RECORD.read_text()}".partition(f"\n{module}\n")
    lines = part.partition("\n\n")[0].splitlines()
    kinds = r"  (?:(?:class|dict|enum|error|protocol) )?(\w+)"
    return {found[1] for line in lines if (found := re.match(kinds, line))}


def _modules() -> Iterator[str]:
    modules: dict[str, dict[str, Documented]] = {}
    homes: dict[int, str] = {}
    for name in documented():
        module, _, last = name.path.rpartition(".")
        modules.setdefault(module, {})[last] = name
        homes.setdefault(id(name.value), name.path)
    for module in WHOLE:
        for last in own_names(module):
            path = f"{module}.{last}"
            modules.setdefault(module, {}).setdefault(last, Documented(path))
    for number, module in enumerate(sorted(modules)):
        yield from [""] if number else []
        yield module
        for last, name in sorted(modules[module].items()):
            home = homes.get(id(name.value), name.path)
            if home != name.path:
                yield f"  {last} = {home}"
            else:
                yield from _described(last, name)


def _described(last: str, name: Documented) -> Iterator[str]:
    value = name.value
    if not inspect.isclass(value):
        yield f"  {last}{_signature(value)}" if callable(value) else f"  {last}"
        return
    if issubclass(value, enum.Enum):
        yield f"  enum {last}: {', '.join(str(one.value) for one in value)}"
    elif is_typeddict(value):
        yield f"  dict {last}: {', '.join(value.__annotations__)}"
    elif getattr(value, "_is_protocol", False):
        yield f"  protocol {last}"
    elif issubclass(value, BaseException):
        bases = ", ".join(base.__name__ for base in value.__bases__)
        yield f"  error {last}({bases})"
    else:
        yield f"  class {last}{_signature(value)}"
    for member, found in sorted(_members(value, name.members)):
        if not isinstance(found, str | None):  # as an error's usual message and hint are
            yield f"    {member}{_signature(found) if callable(found) else ''}"


def _members(value: Any, chosen: tuple[str, ...] | None) -> Iterator[tuple[str, Any]]:
    if issubclass(value, enum.Enum) or is_typeddict(value):
        return
    special = ("__call__",) if getattr(value, "_is_protocol", False) else ()
    ours = [one for one in value.__mro__ if one.__module__.startswith("deviceflow")]
    for name in dict.fromkeys(name for one in ours for name in vars(one)):
        public = not name.startswith("_") and (chosen is None or name in chosen)
        if public or name in special:
            found = inspect.getattr_static(value, name)
            yield name, getattr(found, "__func__", found)


def _signature(value: Any) -> str:
    """Return the parameters with their kinds and defaults. A test of types has the annotations."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return "(…)"
    parameters = [
        one.replace(
            annotation=one.empty,
            default=_Default(one.default) if one.default is not one.empty else one.default,
        )
        for one in found.parameters.values()
    ]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


class _Default:
    """A default as the record shows it: its value where that is plain."""

    def __init__(self, value: object) -> None:
        self._text = repr(value) if type(value) in _PLAIN else "…"

    def __repr__(self) -> str:
        return self._text


def _command() -> Iterator[str]:
    yield "the command deviceflow"
    for name in sorted(COMMANDS):
        parsers: list[tuple[str, argparse.ArgumentParser]] = [(name, _choices(build([name]))[name])]
        for path, parser in parsers:
            parsers += [(f"{path} {one}", below) for one, below in _choices(parser).items()]
            yield f"  {path}{''.join(f' {one}' for one in _arguments(parser))}"
    codes = {name: value for name, value in vars(exits).items() if isinstance(value, int)}
    yield f"  exit codes: {', '.join(f'{value} {name}' for name, value in codes.items())}"


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    below = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return {name: one for action in below for name, one in action.choices.items()}


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            yield "/".join(action.option_strings)
        elif not (action.option_strings or isinstance(action, argparse._SubParsersAction)):
            yield str(action.metavar or action.dest.upper())


def _events() -> Iterator[str]:
    yield f"events: deviceflow.transition, {SCHEMA}"
    yield f"  fields: {', '.join(schema()['properties'])}"
    for name, action in ACTIONS.items():
        yield f"  {name}: {action.outcome}"


if __name__ == "__main__":
    RECORD.write_text(record())
