"""Which tables are watched, and which of their columns a write must return."""

from __future__ import annotations

from cachebackend.invalidation.tables import watched_table
from tests.shop.models import Book, Product, Review, Sonnet, Tag, Target


def columns(table: str) -> list[str]:
    watched = watched_table(table)
    assert watched is not None
    return [field.attname for field in watched.fields]


def test_a_table_returns_the_primary_key_and_the_lookup_columns() -> None:
    """A column that no key is made of is not read back."""
    assert columns(Tag._meta.db_table) == ["id", "name"]
    assert columns(Review._meta.db_table) == ["id"]


def test_the_tables_of_parents_are_watched_for_their_children() -> None:
    """A child's row is changed by a write to the table of its parent, and not the other way round."""
    parent, child = watched_table(Product._meta.db_table), watched_table(Book._meta.db_table)
    assert parent is not None
    assert child is not None
    assert {model for model, _ in parent.dependents} >= {Product, Book}
    assert {model for model, _ in child.dependents} == {Book}
    assert columns(Sonnet._meta.db_table) == ["poem_ptr_id"]


def test_the_tables_between_watched_models_are_watched() -> None:
    """Their rows belong to the rows at both ends."""
    assert columns(Product.tags.through._meta.db_table) == ["id", "product_id", "tag_id"]


def test_a_table_of_which_nothing_is_cached_is_not_watched() -> None:
    """Writes to it cost one lookup."""
    assert watched_table(Target._meta.db_table) is None
