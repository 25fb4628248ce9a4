"""Which tables are watched, and which of their columns a write must return."""

from __future__ import annotations

from cachebackend.invalidation.tables import (
    WatchedTable,
    has_rows_of,
    table_name,
    tables_of,
    watched_tables,
)
from tests.shop.models import Book, Product, Review, Sonnet, Tag, Target
from tests.zoo.models import EarlyPlace, Inn, Place, Pub, Singer


def only(table: str) -> WatchedTable:
    [watched] = watched_tables(table)
    return watched


def columns(table: str) -> list[str]:
    watched = only(table)
    return [field.attname for field in watched.fields]


def test_a_table_returns_the_primary_key_and_the_lookup_columns() -> None:
    """A column that no key is made of is not read back."""
    assert columns(Tag._meta.db_table) == ["id", "name"]
    assert columns(Review._meta.db_table) == ["id"]


def test_the_tables_of_parents_are_watched_for_their_children() -> None:
    """A child's row is changed by a write to the table of its parent, and not the other way round."""
    parent, child = only(Product._meta.db_table), only(Book._meta.db_table)
    assert {model for model, _ in parent.dependents} >= {Product, Book}
    assert {model for model, _ in child.dependents} == {Book}
    assert columns(Sonnet._meta.db_table) == ["poem_ptr_id"]


def test_the_tables_between_watched_models_are_watched() -> None:
    """Their rows belong to the rows at both ends."""
    assert columns(Product.tags.through._meta.db_table) == ["id", "product_id", "tag_id"]


def test_a_table_of_which_nothing_is_cached_is_not_watched() -> None:
    """Writes to it cost one lookup."""
    assert not watched_tables(Target._meta.db_table)


def test_a_table_may_be_named_with_quotes_and_the_schema_public() -> None:
    """Postgres looks for a name without a schema there. A table of another schema is another table."""
    assert table_name('"public"."shop_tag"') == table_name('"shop_tag"') == "shop_tag"
    assert table_name('public"."shop_tag') == "shop_tag"
    assert table_name('"archive"."shop_tag"') == "archive.shop_tag"
    assert only('"public"."shop_tag"') is only("shop_tag")


def test_unknown_rows_of_a_table_between_models_concern_both_ends() -> None:
    """Everything that is cached of their rows may be wrong."""
    through = only(Product.tags.through._meta.db_table)
    found = through.all_dependents()
    for table in (Product._meta.db_table, Tag._meta.db_table):
        assert all(dependent in found for _, dependent in only(table).dependents)


def test_a_table_has_rows_of_its_model_and_of_the_children() -> None:
    """And not of another model of the table."""
    table = only(Place._meta.db_table)
    assert all(has_rows_of(table, model) for model in (Place, EarlyPlace, Inn, Pub))
    assert not has_rows_of(table, Singer)
    names = {each.model.__name__ for each in tables_of(Pub)}
    assert names == {"Pub", "Bar", "Place"}
