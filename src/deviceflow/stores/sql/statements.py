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
from deviceflow.stores.sql.grant_rows import GRANT_COLUMNS
from deviceflow.stores.sql.rows import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MANY: Final = 128
"""For how many sets of values a statement is run at most."""

IDS: Final = tuple(f"id{number}" for number in range(50))
"""The names of the values of the query `histories`: flow ids."""

MIGRATIONS: Final = ("0001_flows_and_audit",)
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
        skip_locked: The SQL for passing over rows that others have locked.
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
    skip_locked: str = ""
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


class ManyStatement(NamedTuple):
    """A statement for many sets of values.

    Attributes:
        text: The SQL, with placeholders for arrays.
        types: The types of their elements.
        values_of: Returns one set of the statement's own values, as that of a `Statement`.
        event_of: Returns those of an event; None if the statement adds none.
    """

    text: str
    types: tuple[str, ...]
    values_of: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    event_of: Callable[[Mapping[str, Any]], tuple[Any, ...]] | None


class Statements(dict[str, Statement]):
    """All statements in one dialect, by their names; each is worded when it is first needed.

    Args:
        dialect: The dialect.
    """

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self._placeholder = dialect.placeholder
        named, fragments = _read_queries()
        self._named = dict(named)
        for number, text in enumerate(dialect.before_migrating):
            self._named[f"before_migrating_{number}"] = text
        self._words: dict[str, str] = {
            **fragments,
            **{name: f"{dialect.namespace}{name}" for name in ("flows", "grants", "audit", "meta")},
            "now": dialect.now,
            "steady": dialect.steady,
            "clock": dialect.clock,
            "is_unicode": dialect.is_unicode,
            "has_meta": dialect.has_meta,
            "for_update": dialect.for_update,
            "skip_locked": dialect.skip_locked,
            "bytewise": dialect.bytewise,
            "columns": ", ".join(COLUMNS),
            "column_values": _values(COLUMNS),
            "grant_columns": ", ".join(GRANT_COLUMNS),
            "grant_values": _values(GRANT_COLUMNS),
            "grant_set": ", ".join(f"{name} = :{name}" for name in GRANT_COLUMNS),
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
        self.before_migrating: Final = [
            f"before_migrating_{number}" for number in range(len(dialect.before_migrating))
        ]

    def __missing__(self, name: str) -> Statement:
        statement = self[name] = self._worded(self._named[name])
        return statement

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

    def for_many(self, name: str, *, with_event: bool = False) -> ManyStatement:
        """Return a statement that does what the one of this name does, for many sets of values.

        It is PostgreSQL's. Its values are arrays, each of the values of one name. An UPDATE and a
        SELECT return the number of each row's values in front, from 1 on.

        Args:
            name: The name of an UPDATE of one row or of a SELECT, each with a WHERE; or of an
                INSERT of one row.
            with_event: Whether an UPDATE also adds an event for each row that it changed. It then
                returns the number of added events behind.
        """
        text = self._expanded(self._named[name])
        event = self._expanded(self._named["add_event"]) if with_event else ""
        event = _VALUE.sub(lambda value: f":{_EVENT}{value[1]}", event)
        names = list(dict.fromkeys(_VALUE.findall(f"{text} {event}")))
        columns = {value: f"many.v{number}" for number, value in enumerate(names)}
        text, event = (_VALUE.sub(lambda value: columns[value[1]], one) for one in (text, event))
        types = [_TYPES.get(value.removeprefix(_EVENT), "text") for value in names]
        arrays = ", ".join(f"{self._placeholder}::{kind}[]" for kind in types)
        named = ", ".join(f"v{number}" for number in range(len(names)))
        # Without the limit, the planner would expect so many rows that it reads the whole table.
        many = (
            f"SELECT * FROM unnest({arrays}) WITH ORDINALITY AS many ({named}, n)"  # noqa: S608  # our own
            f" LIMIT {MANY}"
        )
        if text.startswith("INSERT"):
            text = _inserted(text, f"({many}) AS many")
        elif text.startswith("SELECT"):
            before, _, after = text.removeprefix("SELECT ").partition(" WHERE ")
            after = after.replace("FOR UPDATE", "FOR UPDATE OF flows")
            text = f"SELECT many.n, {before}, ({many}) AS many WHERE {after}"
        else:
            before, _, after = text.partition(" WHERE ")
            changed = f"{before} FROM many WHERE {after} RETURNING many.n"
            if with_event:
                added = _inserted(event, "many JOIN changed ON many.n = changed.n")
                text = (
                    f"WITH many AS ({many}), changed AS ({changed}), added AS ({added} RETURNING 1)"  # noqa: S608  # our own
                    " SELECT n, (SELECT count(*) FROM added) FROM changed"
                )
            else:
                text = f"WITH many AS ({many}) {changed}"
        own = [value for value in names if not value.startswith(_EVENT)]
        events = [value.removeprefix(_EVENT) for value in names if value.startswith(_EVENT)]
        return ManyStatement(text, tuple(types), _getter(own), _getter(events) if events else None)

    def reworded(self, name: str, word: Callable[[str], str]) -> str:
        """Return the text of a statement, with other words for its values.

        Args:
            name: The statement's name.
            word: Returns what stands for the value of a name, at each place in their order.
        """
        return _VALUE.sub(lambda value: word(value[1]), self._expanded(self._named[name]))

    def _expanded(self, text: str) -> str:
        while "{" in text:
            text = _WORD.sub(lambda word: self._words[word[1]], text)
        return " ".join(text.split())

    def _worded(self, text: str) -> Statement:
        text = self._expanded(text)
        names = _VALUE.findall(text)
        return Statement(_VALUE.sub(self._placeholder, text), _getter(names))


_TYPES: Final = {
    **dict.fromkeys(("seq", "before"), "bigint"),
    **dict.fromkeys(
        ("moved_at", "old_moved_at", "wake_at", "notify_at", "ended_at", "seconds"),
        "double precision",
    ),
}
"""The types of values that are no texts, by their names."""

_EVENT: Final = "event_"
"""What the names of an event's values begin with, where those of its flow are beside."""

_WORD: Final = re.compile(r"\{(\w+)\}")
_VALUE: Final = re.compile(r":(\w+)")
_SECTION: Final = re.compile(r"^-- (name|fragment): (\w+)$", re.MULTILINE)


def _getter(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _inserted(text: str, source: str) -> str:
    """Return an INSERT of one row's values as one of many rows."""
    into, _, values = text.partition(" VALUES ")
    return f"{into} SELECT {values.strip('() ')} FROM {source}"  # noqa: S608  # our own


def _values(names: tuple[str, ...]) -> str:
    return ", ".join(f":{name}" for name in names)


@cache
def _read_queries() -> tuple[dict[str, str], dict[str, str]]:
    """Return the statements of `queries.sql`, and its fragments."""
    found: dict[str, dict[str, str]] = {"name": {}, "fragment": {}}
    _, *parts = _SECTION.split(_read("queries.sql"))
    for kind, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        found[kind][name] = _without_comments(text).strip()
    return found["name"], found["fragment"]


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))


def _read(name: str) -> str:
    # By the loader, which costs nothing; `importlib.resources` is slow to import.
    loader: Any = __spec__.loader
    path = re.sub(r"\w+\.\w+$", name, __file__)
    data: bytes = loader.get_data(path)
    return data.decode()
