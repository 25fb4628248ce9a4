"""The rows of a large statement, as they are made from the texts of its outbox rows."""

from __future__ import annotations

from cachebackend.invalidation.changes import TableChanges
from cachebackend.invalidation.stored_changes import _changed_rows
from cachebackend.invalidation.tables import watched_tables
from tests.zoo.models import Author

TEXTS = [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}, {"id": "1", "name": "c"}]


def changes() -> TableChanges:
    """Return the changes of an update, without rows."""
    [table] = watched_tables(Author._meta.db_table)
    return TableChanges(table, (), frozenset({"name"}), knows_old=True, is_new=False, in_migration=False)


def test_an_updated_row_has_two_states_if_its_keys_have_changed() -> None:
    """A row that is named once has the same keys as before."""
    first, second = _changed_rows(changes(), TEXTS, "default", are_updated=True)
    assert (first.old, first.new) == ({"id": 1, "pk": 1, "name": "a"}, {"id": 1, "pk": 1, "name": "c"})
    assert second.old is second.new
    assert second.old == {"id": 2, "pk": 2, "name": "b"}


def test_other_rows_are_each_a_row_that_is_gone() -> None:
    """It is not known which became which."""
    rows = _changed_rows(changes(), TEXTS, "default", are_updated=False)
    assert [row.old and row.old["name"] for row in rows] == ["a", "b", "c"]
    assert {row.new for row in rows} == {None}  # type: ignore[comparison-overlap]
