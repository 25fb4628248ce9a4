"""The SQL of a statement that writes its own outbox row."""

from __future__ import annotations

from cachebackend.invalidation.statement_outbox import StatementOutbox
from cachebackend.invalidation.tables import watched_tables
from tests.zoo.models import Author


def outbox(*, is_large: bool = False) -> StatementOutbox:
    [table] = watched_tables(Author._meta.db_table)
    return StatementOutbox(table, lambda name: f'"{name}"', is_large=is_large)


def test_a_statement_returns_its_rows_and_the_key_of_its_outbox_row() -> None:
    """The marker remains the name of the first column."""
    sql = outbox().around("DELETE", "marker", 2, 1)
    assert sql.startswith('WITH ringcache_rows ("marker", c1) AS (DELETE), ringcache_outbox AS (INSERT INTO')
    assert "'zoo.author'" in sql


def test_columns_of_the_caller_are_no_part_of_the_outbox_row() -> None:
    """They follow those of the row, in each of its states."""
    sql = outbox().around("UPDATE", "marker", 6, 2)
    assert '("marker", c1) IS DISTINCT FROM (c3, c4)' in sql
    assert "c2" not in sql.partition("INSERT")[2]


def test_a_large_statement_writes_rows_of_a_limited_length() -> None:
    """They are numbered in groups."""
    assert "GROUP BY chunk" in outbox(is_large=True).around("UPDATE", "marker", 2, 1)
    assert "GROUP BY" not in outbox().around("UPDATE", "marker", 2, 1)


def test_a_statement_of_any_number_of_rows_returns_a_limited_number() -> None:
    """Above the limit it returns how many rows it has changed, and the keys of its outbox rows."""
    [table] = watched_tables(Author._meta.db_table)
    rows = StatementOutbox(table, str, is_large=True, returns_all=False)
    assert "ON total <= 2500 WHERE total > 0" in rows.around("UPDATE", "marker", 2, 1)
    assert rows.take([(1, "a", [7], 1)]) == [(1, "a")]
    assert (rows.pks, rows.omitted) == ([7], 0)
    assert rows.take([(None, None, [8, 9], 2501)]) == []
    assert (rows.pks, rows.omitted) == ([7, 8, 9], 2501)


def test_the_keys_of_outbox_rows_are_taken_from_the_result() -> None:
    """A wrapper of another package may leave them out."""
    rows = outbox()
    assert rows.take([(1, "a", [7]), (2, "b", [7])]) == [(1, "a"), (2, "b")]
    assert (rows.take([]), rows.take([(3, "c", None)])) == ([], [(3, "c")])
    assert rows.pks == [7]


def test_no_function_has_more_than_a_hundred_arguments() -> None:
    """Postgres allows no more; a model may have more columns of which keys are made."""
    rows = outbox()
    rows._names = [f"column{number}" for number in range(120)]
    sql = rows._texts(rows._names)
    parts = sql.split("jsonb_build_object(")[1:]
    assert sum(part.count("#>>") for part in parts) == 120
    assert all(part.count("#>>") <= 50 for part in parts)
