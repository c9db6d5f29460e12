"""The SQL statements, by their names, in the words of one database."""

from __future__ import annotations

import re
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.audit.chain import STORED
from deviceflow.core.actions import ENDS_HANDOVER, IMPORT
from deviceflow.core.ports import FIRST_SNOOZE
from deviceflow.stores._leases import LONGEST_LEASE
from deviceflow.stores.sql.rows import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.stores.sql.rows import Table

IDS: Final = tuple(f"id{number}" for number in range(50))
"""The names of the values of the query `histories`: flow ids."""

_TABLES: Final = ("flows", "grants", "audit", "meta", "drivers", "taken")

MIGRATIONS: Final = ("0001_flows_and_audit", "0002_alike", "0003_hold")
"""The files that bring a database from each version of the schema to the next."""


class Dialect(NamedTuple):
    """How a database says it.

    Attributes:
        placeholder: What stands for a value.
        now: The SQL for the time of day, in seconds since 1970. A database without a clock that
            all its clients share takes the value `:now`.
        steady: The SQL for the time that leases go by, and
        clock: for the name of its clock, as in `deviceflow.core.ports.Moment`.
        is_unicode: The SQL that finds a row if the database keeps texts in Unicode, where it may
            not.
        has_meta: The SQL that finds a row if there is a table `meta`.
        find: The function that returns where in a text another one is, or 0.
        for_update: The SQL for locking the rows that are read.
        namespace: The schema in which the tables are, with a dot behind it.
        bytewise: What makes a column be compared byte by byte, as Python does.
        before_migrating: What is run first where the schema is brought up to date.
        overwrite_deleted: The statement that overwrites what was deleted in what the database keeps
            besides, if there is one.
        notifies: Whether others can be told of changes, by the statement `notify`.
    """

    placeholder: str
    now: str
    has_meta: str
    find: str
    steady: str = ":steady"
    clock: str = ":clock"
    is_unicode: str = ""
    for_update: str = ""
    namespace: str = ""
    bytewise: str = ""
    before_migrating: tuple[str, ...] = ()
    overwrite_deleted: str = ""
    notifies: bool = False

    @property
    def has_clock(self) -> bool:
        """Whether all clients go by the database's clock."""
        return self.now != ":now"


class Statement(NamedTuple):
    """A statement as the database takes it.

    Attributes:
        text: The SQL, with placeholders.
        values_of: Returns the values for them, in their order, of a mapping that has them by name.
    """

    text: str
    values_of: Callable[[Mapping[str, Any]], tuple[Any, ...]]


class Statements(dict[str, Statement]):
    """All statements in one dialect, by their names; each is worded when it is first needed.

    Args:
        dialect: The dialect.

    Attributes:
        dialect: The same.
    """

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.dialect: Final = dialect
        self._placeholder = dialect.placeholder
        named, fragments = _read_queries()
        self._named = dict(named)
        for number, text in enumerate(dialect.before_migrating):
            self._named[f"before_migrating_{number}"] = text
        self._words: dict[str, str] = {
            **fragments,
            **{name: f"{dialect.namespace}{name}" for name in _TABLES},
            "now": dialect.now,
            "steady": dialect.steady,
            "clock": dialect.clock,
            "is_unicode": dialect.is_unicode,
            "has_meta": dialect.has_meta,
            "for_update": dialect.for_update,
            "bytewise": dialect.bytewise,
            "stored": ", ".join(f'"{name}"' for name in STORED),
            "stored_values": _values(STORED),
            "find": dialect.find,
            "token_gone": " OR ".join(
                f"""{dialect.find}(its."text", '"action":"{name}"') > 0"""
                for name in (*ENDS_HANDOVER, IMPORT)
            ),
            "ids": _values(IDS),
            "longest_lease": str(LONGEST_LEASE),
            "first_snooze": str(FIRST_SNOOZE),
        }
        self._of_table = {table.name: _words_of(table, self._words) for table in TABLES.values()}
        logins = self._words | self._of_table["flows"]
        self._words["login_row"] = _expanded(fragments["row"], logins)
        self.before_migrating: Final = [
            f"before_migrating_{number}" for number in range(len(dialect.before_migrating))
        ]

    def __missing__(self, name: str) -> Statement:
        table, _, own = name.rpartition(".")
        words = self._words | self._of_table.get(table, {})
        text = _expanded(self._named.get(name) or self._named[f"each.{own}"], words)
        names = _VALUE.findall(text)
        statement = self[name] = Statement(_VALUE.sub(self._placeholder, text), _getter(names))
        return statement

    def names(self) -> list[str]:
        """Return the names of all statements."""
        named = [name for name in self._named if not name.startswith("each.")]
        each = [name.removeprefix("each.") for name in self._named if name.startswith("each.")]
        return named + [f"{table.name}.{name}" for table in TABLES.values() for name in each]

    def table(self, name: str) -> str:
        """Return a table's whole name."""
        return self._words[name]

    def migration(self, number: int) -> list[str]:
        """Return the names of the statements that bring version `number` to the next."""
        names = []
        script = _without_comments(_read(f"migrations/{MIGRATIONS[number]}.sql"))
        for place, text in enumerate(filter(str.strip, script.split(";"))):
            names.append(f"migration_{number + 1}_{place}")
            self._named[names[-1]] = text
        return names


_WORD: Final = re.compile(r"\{(\w+)\}")
_VALUE: Final = re.compile(r":(\w+)")
_SECTION: Final = re.compile(r"^-- (name|each|fragment): ([\w.]+)$", re.MULTILINE)


def _getter(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _expanded(text: str, words: Mapping[str, str]) -> str:
    while "{" in text:
        text = _WORD.sub(lambda word: words[word[1]], text)
    return " ".join(text.split())


def _words_of(table: Table[Any], words: Mapping[str, str]) -> dict[str, str]:
    """Return the words of a table."""
    written = (*table.columns, *table.times)
    return {
        "table": words[table.name],
        "columns": ", ".join(table.columns),
        "times": ", ".join(table.times),
        "values": _values(written),
        "set": ", ".join(f"{name} = :{name}" for name in written if name != "id"),
        "others": table.others,
        "other_keys": " OR ".join(f"{name} NOT LIKE :prefix" for name in ("mac", *table.secrets)),
    }


def _values(names: tuple[str, ...]) -> str:
    return ", ".join(f":{name}" for name in names)


@cache
def _read_queries() -> tuple[dict[str, str], dict[str, str]]:
    """Return the statements of `queries.sql`, and its fragments."""
    named, fragments = dict[str, str](), dict[str, str]()
    _, *parts = _SECTION.split(_read("queries.sql"))
    for what, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        kept = fragments if what == "fragment" else named
        kept[f"each.{name}" if what == "each" else name] = _without_comments(text).strip()
    return named, fragments


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))


def _read(name: str) -> str:
    # By the loader, which costs nothing; `importlib.resources` is slow to import.
    loader: Any = __spec__.loader
    path = re.sub(r"\w+\.\w+$", name, __file__)
    data: bytes = loader.get_data(path)
    return data.decode()
