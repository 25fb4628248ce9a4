"""Rows before and after a statement."""

from __future__ import annotations

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


def test_the_states_of_rows_hold_an_unchanged_row_once() -> None:
    """So its keys are made once."""
    [table] = watched_tables(Author._meta.db_table)
    old, new, same = {"pk": 1}, {"pk": 2}, {"pk": 3}
    rows = [
        ChangedRow(old, new),
        ChangedRow(same, same),
        ChangedRow(None, {"pk": 4}),
        ChangedRow({"pk": 5}, None),
    ]
    changes = TableChanges(table, rows, frozenset(), is_new=False, in_migration=False)
    assert [row["pk"] for row in changes.states()] == [1, 3, 5, 2, 4]
