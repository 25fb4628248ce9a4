"""Which columns a query binds to values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Exists, F, FilteredRelation, OuterRef, Q, Value
from django.utils.safestring import mark_safe

from cachebackend.invalidation.catalogue import kind_of
from cachebackend.queries.binding import Values, bound_values
from tests.unit.queries.compiled import selects_of
from tests.zoo.models import Author, Bar, Bill, Branch, Letter, Novel, Poem, Post, Stock, Visit


def bound(queryset: Any) -> dict[str, Values]:
    """Return the bound columns of each alias that has some."""
    found = {}
    for select in selects_of(queryset):
        found |= bound_values(select, lambda _, column: kind_of(column) is not None)
    return {alias: values for alias, values in found.items() if values}


def only(queryset: Any) -> Values:
    """Return the bound columns of the one alias that has some."""
    [values] = bound(queryset).values()
    return values


@pytest.mark.parametrize("rank", [1, "1", 1.0, True])
def test_a_column_is_bound_to_the_value_that_the_database_compares(rank: Any) -> None:
    """Every spelling of a value has one text."""
    assert only(Author.objects.filter(rank=rank)) == {"rank": ("1",)}


def test_every_kind_of_value_is_bound() -> None:
    """Decimals without trailing zeros, texts without their class, flags."""
    assert only(Novel.objects.filter(price="2.50").order_by()) == {"price": ("25e-1",)}
    assert only(Novel.objects.filter(price=Decimal("2.5")).order_by()) == {"price": ("25e-1",)}
    assert only(Author.objects.filter(name=mark_safe("a"))) == {"name": ("a",)}
    assert only(Novel.objects.filter(is_sold=1).order_by()) == {"is_sold": ("True",)}


def test_values_of_in_are_bound() -> None:
    """Any number of them; NULL among them is equal to nothing."""
    assert only(Author.objects.filter(rank__in=[2, 1, None])) == {"rank": ("1", "2")}
    assert len(only(Author.objects.filter(rank__in=range(1000)))["rank"]) == 1000


def test_conditions_of_one_column_narrow_it() -> None:
    """A contradiction keeps one of them: there is no row."""
    assert only(Author.objects.filter(rank__in=[1, 2]).filter(rank__in=[2, 3])) == {"rank": ("2",)}
    assert only(Author.objects.filter(rank=1).filter(rank=2)) == {"rank": ("2",)}


@pytest.mark.parametrize(
    "condition",
    [
        Q(rank=1) | Q(name="a"),
        ~Q(rank=1),
        Q(rank=1) ^ Q(name="a"),
        Q(rank__gt=1),
        Q(name__iexact="a"),
        Q(rank=F("id")),
        Q(rank=Value(1)),
        Q(rank__isnull=False),
        Q(rank__in=Poem.objects.values("rank")),
    ],
)
def test_other_conditions_bind_nothing(condition: Q) -> None:
    """Their rows have other values, too."""
    assert "zoo_author" not in bound(Author.objects.filter(condition))


def test_a_disjunction_of_one_condition_is_the_condition() -> None:
    """Django builds such nodes."""
    assert only(Author.objects.filter(Q(Q(rank=1), _connector=Q.OR))) == {"rank": ("1",)}


def test_a_field_of_another_kind_is_not_bound() -> None:
    """Its column holds other values than Python compares."""
    assert not bound(Bill.objects.filter(number=1))


def test_null_is_bound_where_no_outer_join_is() -> None:
    """A new row ends an absence without being NULL itself."""
    assert only(Poem.objects.filter(author=None)) == {"author_id": (None,)}
    assert not bound(Letter.objects.filter(author__desk__name=None))
    assert not bound(Author.objects.filter(poem__isnull=True))
    assert not bound(Branch.objects.filter(parent__parent=None))


def test_each_alias_is_bound_by_itself() -> None:
    """Two filters of one relation join it twice."""
    found = bound(Post.objects.filter(labels=1).filter(labels=2))
    assert sorted(values["label_id"] for values in found.values()) == [("1",), ("2",)]


def test_a_subquery_is_bound_by_its_own_conditions() -> None:
    """Those of the query around it are others."""
    found = bound(Author.objects.filter(Exists(Poem.objects.filter(author=OuterRef("pk"), rank=1)), name="a"))
    assert found == {"U0": {"rank": ("1",)}, "zoo_author": {"name": ("a",)}}


def test_a_join_binds_its_column_to_the_values_of_the_other_side() -> None:
    """Of the rows that pass the condition no other one joins, by an inner or an outer join."""
    found = bound(Poem.objects.filter(author=1).select_related("author"))
    assert found == {"zoo_poem": {"author_id": ("1",)}, "zoo_author": {"id": ("1",)}}
    found = bound(Bar.objects.filter(pk__in=[1, 2]))
    assert found == {"zoo_bar": {"place_ptr_id": ("1", "2")}, "zoo_place": {"id": ("1", "2")}}
    assert "zoo_author" not in bound(Poem.objects.filter(author=None).select_related("author"))


def test_the_condition_of_a_join_binds_the_joined_table() -> None:
    """A row without these values never joins; it does not bind the other side."""
    found = bound(
        Author.objects.annotate(p=FilteredRelation("poem", condition=Q(poem__rank=1))).values("p__name")
    )
    assert found == {"p": {"rank": ("1",)}}


def test_composite_keys_are_bound_by_column() -> None:
    """Rows of several keys are bound to all values of each column."""
    assert only(Stock.objects.filter(pk=(1, "a"))) == {"shop": ("1",), "sku": ("a",)}
    assert only(Stock.objects.filter(pk__in=[(1, "a"), (2, "a")])) == {"shop": ("1", "2"), "sku": ("a",)}


def test_a_join_of_several_columns_binds_each() -> None:
    """A foreign object has them."""
    found = bound(Visit.objects.filter(hall=1).select_related("shelf"))
    assert found["zoo_shelf"] == {"hall": ("1",)}
