"""Rows before and after a statement."""

from __future__ import annotations

from typing import Any

from cachebackend.invalidation.changes import ChangedRow, TableChanges, paired, unpaired
from cachebackend.invalidation.tables import watched_tables
from tests.zoo.models import Author


def test_rows_are_matched_by_primary_key() -> None:
    """A row without a counterpart was inserted, or is gone."""
    old, new = [(1, "a"), (2, "b")], [(3, "c"), (2, "d")]
    assert paired(old, new, 1) == [(None, (3, "c")), ((2, "b"), (2, "d")), ((1, "a"), None)]


def test_rows_whose_keys_have_no_hash_are_not_matched() -> None:
    """They count as deleted and inserted."""
    old, new = [([1], "a")], [([1], "b")]
    assert paired(old, new, 1) == unpaired(old, new) == [(old[0], None), (None, new[0])]


def states(*rows: tuple[Any, Any], knows_old: bool = True, is_new: bool = False) -> list[Any]:
    """Return the states of authors, given their primary keys and names."""
    [table] = watched_tables(Author._meta.db_table)
    columns = [
        ChangedRow(*({"id": row[0], "pk": row[0], "name": row[1]} if row else None for row in pair))
        for pair in rows
    ]
    changes = TableChanges(
        table, columns, frozenset(), knows_old=knows_old, is_new=is_new, in_migration=False
    )
    return [(row["pk"], row.get("name")) for row in changes.states()]


def test_a_row_has_its_states_before_and_after() -> None:
    """Its keys with the old and the new values are wrong."""
    assert states(((1, "a"), (1, "b"))) == [(1, "a"), (1, "b")]
    assert states((None, (1, "a")), ((2, "b"), None)) == [(1, "a"), (2, "b")]


def test_a_row_that_keeps_its_lookup_values_comes_without_them() -> None:
    """What is cached under them is its primary key, which is right."""
    assert states(((1, "a"), (1, "a"))) == [(1, None)]


def test_values_that_were_not_read_may_have_changed() -> None:
    """A trigger may have set them. And a new row ends the absence that is cached under its values."""
    row = (1, "a")
    assert (1, "a") in states((row, row), knows_old=False)
    assert (1, "a") in states((row, row), is_new=True)


def test_many_rows_come_in_units() -> None:
    """Everything else of the changes is the same."""
    [table] = watched_tables(Author._meta.db_table)
    rows = [ChangedRow({"pk": number}, None) for number in range(5)]
    changes = TableChanges(table, rows, frozenset(), knows_old=True, is_new=False, in_migration=False)
    assert [unit.rows for unit in changes.units(2)] == [rows[:2], rows[2:4], rows[4:]]
    assert list(changes.units(5)) == [changes]
