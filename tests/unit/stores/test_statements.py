"""The statements, as files of the package, worded for each database."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from deviceflow.stores import _postgres_dialect, _sqlite
from deviceflow.stores.sql.rows import GRANTS, LOGINS
from deviceflow.stores.sql.statements import MIGRATIONS, Dialect, Statements

DIALECTS = pytest.mark.parametrize("dialect", [_sqlite.DIALECT, _postgres_dialect.DIALECT])


class Named(dict[str, object]):
    """Notes which values a statement asks for."""

    def __missing__(self, name: str) -> str:
        self[name] = name
        return name


def test_statements_and_migrations_are_in_the_package() -> None:
    package = files("deviceflow.stores.sql")

    assert package.joinpath("queries.sql").is_file()
    found = {path.name for path in package.joinpath("migrations").iterdir()}
    assert found == {f"{name}.sql" for name in MIGRATIONS}
    assert [name[:4] for name in MIGRATIONS] == [f"{n:04}" for n in range(1, len(MIGRATIONS) + 1)]


@DIALECTS
def test_each_statement_is_worded_with_as_many_places_as_values(dialect: Dialect) -> None:
    statements = Statements(dialect)

    migrations = [name for n in range(len(MIGRATIONS)) for name in statements.migration(n)]
    for name in [*statements.names(), *migrations]:
        text, values_of = statements[name]
        values = values_of(Named())
        assert text.count(dialect.placeholder) == len(values)
        assert not re.search(r"[{}]|:\w", text)
        assert "--" not in text


@DIALECTS
def test_values_are_in_the_order_of_their_places(dialect: Dialect) -> None:
    text, values_of = Statements(dialect)["release"]

    mark = dialect.placeholder
    assert text.endswith(f"WHERE id = {mark} AND lease_owner = {mark}")
    assert values_of({"owner": "w1", "id": "f1", "more": 7}) == ("f1", "w1")


@DIALECTS
def test_a_database_without_a_clock_is_told_the_time(dialect: Dialect) -> None:
    _, values_of = Statements(dialect)["now"]

    assert values_of({"now": 5.0}) == (() if dialect.has_clock else (5.0,))


def test_documentation_lists_the_columns_that_are_not_authenticated() -> None:
    script = (files("deviceflow.stores.sql") / "migrations/0001_flows_and_audit.sql").read_text()
    tables = re.findall(
        r"^CREATE TABLE {(flows|grants)} \((.*?)^\);", script, re.MULTILINE | re.DOTALL
    )
    columns = {name: re.findall(r"^    ([a-z_]+) ", text, re.MULTILINE) for name, text in tables}
    columns["flows"].remove("open_name")  # it is renamed to `name`, which is authenticated
    columns["flows"] += ["held_by"]  # by later migrations
    columns["grants"] += ["snoozes", "previous_owner"]
    page = Path(__file__).parents[3] / "docs/reference/audit.md"
    (line,) = re.findall(r"^- A change to a column.*$", page.read_text(), re.MULTILINE)
    of_login, _, of_grant = line.partition("of a grant")

    listed = [re.findall(r"`([a-z_]+)`", text) for text in (of_login, of_grant)]

    assert listed == [
        [name for name in columns["flows"] if name not in LOGINS.columns],
        [name for name in columns["grants"] if name not in GRANTS.columns],
    ]
