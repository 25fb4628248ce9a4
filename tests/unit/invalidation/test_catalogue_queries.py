"""What SQLite says of tables, read from a database in memory.

Other databases are in the integration tests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cachebackend.invalidation.catalogue_queries import read_table


class Connection:
    """A connection as Django has it, to a database in memory."""

    vendor = "sqlite"

    def __init__(self, *statements: str) -> None:
        self._connection = sqlite3.connect(":memory:")
        for statement in statements:
            self._connection.execute(statement)

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        cursor = self._connection.cursor()
        yield Cursor(cursor)
        cursor.close()

    def close(self) -> None:
        self._connection.close()


class Cursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self.fetchall = cursor.fetchall

    def execute(self, sql: str, parameters: list[Any]) -> None:
        self._cursor.execute(sql.replace("%s", "?"), parameters)


def read(*statements: str, table: str = "t") -> dict[str, Any] | None:
    connection = Connection(*statements)
    found = read_table(connection, table)  # type: ignore[arg-type]  # it has what is used
    connection.close()
    return found


def test_the_kinds_of_columns_are_read_from_their_types() -> None:
    """Floats, texts of other types and decimals, which SQLite holds as floats, are left out."""
    found = read(
        """CREATE TABLE t
            (a integer, b bigint unsigned, c varchar(40), d real, e decimal, f date, g bool, h char(32))"""
    )
    assert found is not None
    assert found["kinds"] == {
        "a": "integer", "b": "integer", "c": "text", "f": "date", "g": "boolean", "h": "uuid",
    }  # fmt: skip
    assert found["is_table"]
    assert not found["has_before_row_triggers"]


def test_a_collation_of_a_column_excludes_all_texts_of_the_table() -> None:
    """SQLite does not report which column has it."""
    found = read("CREATE TABLE t (a integer, b varchar(40) COLLATE NOCASE)")
    assert found is not None
    assert found["kinds"] == {"a": "integer"}


def test_generated_columns_triggers_cascades_and_views_are_found() -> None:
    """Each changes rows, or their values, without a statement that names them."""
    table = """CREATE TABLE t (
        a integer, b integer AS (a * 2) STORED, c integer REFERENCES p (id) ON DELETE CASCADE
    )"""
    trigger = "CREATE TRIGGER g AFTER UPDATE ON t BEGIN UPDATE t SET a = 1; END"
    found = read("CREATE TABLE p (id integer PRIMARY KEY)", table, trigger)
    assert found is not None
    assert found["generated"] == {"b"}
    assert found["has_before_row_triggers"]
    assert found["is_changed_by_cascade"]
    view = read("CREATE VIEW t AS SELECT 1 AS a")
    assert view is not None
    assert not view["is_table"]


def test_nothing_is_known_of_absent_tables_and_other_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is cached."""
    assert read(table="none") is None
    monkeypatch.setattr(Connection, "vendor", "oracle")
    assert read("CREATE TABLE t (a integer)") is None
