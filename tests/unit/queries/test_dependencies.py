"""What the result of a query depends on."""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models import Count, Func, Max
from django.db.models.functions import Now

from cachebackend.queries.dependencies import MOST_TAGS, Dependency, compiled_aggregation, dependencies_of
from cachebackend.queries.not_cached import NotCached
from cachebackend.queries.tables import Rules
from cachebackend.shapes import NULL, Shape, value_digest
from tests.unit.queries.compiled import EVERYTHING, Catalogues, catalogues, depends
from tests.zoo.models import (
    Author,
    Desk,
    Label,
    Letter,
    Novel,
    Place,
    Poem,
    Post,
    Price,
    Pub,
    Shelf,
    Sum,
    Token,
)

__all__ = ["catalogues"]

pytestmark = pytest.mark.usefixtures("catalogues")


def by_table(found: list[Dependency]) -> dict[str, Shape]:
    return {each.table: each.shape for each in found}


def test_a_shape_has_the_bound_columns_and_those_of_the_result() -> None:
    """Of every table in the query."""
    found = depends(Poem.objects.filter(author=1).order_by("author__rank").values("name"))
    assert by_table(found) == {
        "zoo_poem": Shape(["author_id"], ["name"]),
        "zoo_author": Shape(["id"], ["rank"]),
    }
    assert {each.model for each in found} == {Poem, Author}


def test_there_is_a_tag_for_each_combination_of_values() -> None:
    """A writer makes the same tags of a row's values."""
    [found] = depends(Author.objects.filter(rank__in=[1, 2], name__in=["a", "b"]))
    digests = {"rank": value_digest("1"), "name": value_digest("b")}
    assert found.shape.tag(digests) in found.tags()
    assert len(set(found.tags())) == 4
    assert found.tag_names("s") == [f"queries:s:zoo_author:{tag}" for tag in found.tags()]


def test_the_other_end_of_a_relation_is_compared_with_its_key() -> None:
    """Of a foreign key, or a one-to-one relation: Django has the relation there, not a field."""
    for queryset, table, columns in (
        (Author.objects.filter(poem=1), "zoo_poem", ["author_id", "id"]),
        (Author.objects.filter(poem__in=[1]), "zoo_poem", ["author_id", "id"]),
        (Author.objects.filter(desk=1), "zoo_desk", ["author_id", "id"]),
        (Shelf.objects.filter(novel=1), "zoo_novel", ["id", "shelf_id"]),
    ):
        assert by_table(depends(queryset.values("pk")))[table].columns == frozenset(columns)
        assert "id" in by_table(depends(queryset.values("pk")))[table].bound


def test_null_is_a_value() -> None:
    """A row with NULL has its digest."""
    [found] = depends(Poem.objects.filter(author=None))
    assert found.tags() == [found.shape.tag({"author_id": NULL})]


def test_the_column_with_most_values_is_not_bound_if_there_are_too_many_tags() -> None:
    """A result has at most 20 tags for each alias."""
    [found] = depends(Author.objects.filter(rank__in=range(11), name__in=["a", "b"]))
    assert found.shape.bound == ("name",)
    assert len(found.tags()) == 2 <= MOST_TAGS
    assert found.shape.depends_on({"rank"})
    [found] = depends(Author.objects.filter(rank__in=range(MOST_TAGS + 1)))
    assert found.shape.bound == ()


def test_a_query_without_conditions_has_one_tag() -> None:
    """Every insert and delete concerns it."""
    [found] = depends(Author.objects.values("name"))
    assert len(found.tags()) == 1


def test_two_aliases_with_the_same_values_are_one_dependency() -> None:
    """Each tag is asked for once."""
    query = Author.objects.filter(rank=1).union(Author.objects.filter(rank=1))
    assert len(depends(query)) == 1


def test_two_aliases_with_other_values_are_two_dependencies() -> None:
    """A change of one of the rows would be missed by the values of the other one."""
    found = depends(Post.objects.filter(labels=1).filter(labels=2))
    labels = [each.values["label_id"] for each in found if "label_id" in each.values]
    assert sorted(labels) == [("1",), ("2",)]


def test_a_query_without_rows_depends_on_nothing() -> None:
    """No write gives it some."""
    assert depends(Author.objects.none()) == []
    assert depends(Author.objects.filter(pk__in=[])) == []
    assert depends(Author.objects.none().union(Author.objects.none())) == []


def test_a_generated_column_depends_on_its_sources() -> None:
    """A writer that was started before the migration does not report the column."""
    assert by_table(depends(Sum.objects.values("twice"))) == {"zoo_sum": Shape([], ["twice", "rank"])}
    assert by_table(depends(Novel.objects.order_by("loud", "pk").values("pk"))) == {
        "zoo_novel": Shape([], ["id", "loud", "shade"])
    }


def test_a_generated_column_that_django_does_not_know_depends_on_all(catalogues: Catalogues) -> None:
    """What it is made of is not known."""
    catalogues("zoo_author", generated=frozenset({"rank"}))
    assert by_table(depends(Author.objects.values("rank"))) == {"zoo_author": Shape([], None)}
    assert by_table(depends(Author.objects.values("name"))) == {"zoo_author": Shape([], ["name"])}


def test_a_trigger_before_rows_makes_all_columns_count(catalogues: Catalogues) -> None:
    """It changes columns that a statement does not name."""
    catalogues("zoo_author", has_before_row_triggers=True)
    assert by_table(depends(Author.objects.values("name"))) == {"zoo_author": Shape([], None)}


def test_a_column_that_cannot_be_bound_is_one_of_the_result(catalogues: Catalogues) -> None:
    """The database holds values equal that differ in Python."""
    catalogues("zoo_author", kinds={})
    assert by_table(depends(Author.objects.filter(name="a").values("pk"))) == {
        "zoo_author": Shape([], ["id", "name"])
    }


def test_a_dependency_says_which_changes_count() -> None:
    """The rows by their values, and the columns."""
    [found] = depends(Author.objects.filter(rank__in=[1, 2], name="a").values("pk"))
    assert str(found) == "zoo_author: rows with name = a and rank in 1, 2; id, name, rank"
    [found] = depends(Poem.objects.filter(author=None).order_by("name"), leaves_out_rows=True)
    assert str(found) == "zoo_poem: rows with author_id = NULL; author_id, name"
    [found] = depends(Author.objects.all(), depends_on=[Author])[:1]
    assert str(found) == "zoo_author: all rows; all columns"


def test_ignored_columns_are_left_out() -> None:
    """A result may be older than they are. A bound column is not ignored."""
    rules = Rules(is_watched=lambda _: True, ignored=lambda table: ["rank", "name"])
    [found] = depends(Author.objects.filter(name="a"), rules=rules)
    assert found.shape == Shape(["name"], ["id"])


def test_counts_depend_on_conditions_alone() -> None:
    """No column is returned."""
    found = compiled_aggregation(
        Author.objects.filter(rank=1).query, "lite", {"__count": Count("*")}, rules=EVERYTHING
    )
    assert by_table(list(found.dependencies)) == {"zoo_author": Shape(["rank"], [])}
    assert found.sql is not None
    assert "COUNT(*)" in found.sql


def test_aggregates_over_a_subquery_are_read() -> None:
    """Django aggregates a slice in a query around it."""
    query = Author.objects.order_by("name")[:2]
    found = compiled_aggregation(query.query, "lite", {"most": Max("rank")}, rules=EVERYTHING)
    assert by_table(list(found.dependencies)) == {"zoo_author": Shape([], ["name", "rank"])}
    assert not query.query.annotations  # the query of the caller is not changed


def test_an_aggregate_of_nothing_depends_on_nothing() -> None:
    """Django knows its value."""
    found = compiled_aggregation(Author.objects.none().query, "lite", {"n": Count("*")}, rules=EVERYTHING)
    assert (found.sql, found.dependencies) == (None, ())


def test_every_table_of_a_child_is_one_of_the_query() -> None:
    """Its columns are in the tables of its parents."""
    assert {each.table for each in depends(Pub.objects.all())} == {"zoo_place", "zoo_bar", "zoo_pub"}


@pytest.mark.parametrize(
    "query",
    [
        Author.objects.annotate(x=Func("name", function="F")),
        Author.objects.extra(where=["true"]),
        Author.objects.extra(tables=["zoo_label"]),
    ],
)
def test_what_is_not_known_is_not_cached_without_depends_on(query: Any) -> None:
    """With it, all columns of the named models count, of their relations, and of the tables of the query."""
    with pytest.raises(NotCached):
        depends(query)
    tables = ["zoo_author", "zoo_label", "zoo_novel_labels", "zoo_post_labels"]
    assert by_table(depends(query, depends_on=[Label])) == dict.fromkeys(tables, Shape([], None))


def test_the_models_of_depends_on_have_one_order() -> None:
    """The key of the result is made of their catalogues: every process finds the results of the others."""
    given = [Poem, Letter, Author, Sum, Token, Price, Desk]
    query = Place.objects.annotate(x=Func("rank", function="OWN"))
    *found, _ = [each.model for each in depends(query, depends_on=given)]
    assert found == [Author, Desk, Letter, Poem, Price, Sum, Token]


def test_the_relations_of_depends_on_have_one_order() -> None:
    """They follow their model; a model of the project between two others is named itself."""
    query = Place.objects.annotate(x=Func("rank", function="OWN"))
    *found, _ = [each.table for each in depends(query, depends_on=[Post])]
    assert found == ["zoo_post", "zoo_post_friends", "zoo_post_labels"]


def test_depends_on_includes_the_tables_of_parents() -> None:
    """A row of a child is in all of them."""
    query = Author.objects.annotate(x=Func("name", function="F"))
    assert {each.table for each in depends(query, depends_on=[Pub])} >= {"zoo_place", "zoo_bar", "zoo_pub"}


def test_time_is_not_cached_with_depends_on_either() -> None:
    """No write says that it is over."""
    with pytest.raises(NotCached, match="Now"):
        depends(Price.objects.filter(since__lt=Now()), depends_on=[Label])


def test_a_view_needs_depends_on(catalogues: Catalogues) -> None:
    """The models say whose rows it shows."""
    catalogues("zoo_place", is_table=False)
    with pytest.raises(NotCached, match="view"):
        depends(Place.objects.all())
    assert by_table(depends(Place.objects.all(), depends_on=[Author])) == {"zoo_author": Shape([], None)}


def test_a_table_that_nothing_watches_is_not_cached() -> None:
    """Not even among others, or as a model of ``depends_on``."""
    rules = Rules(is_watched=lambda table: table != "zoo_author")
    for query, models in ((Poem.objects.filter(author__rank=1), ()), (Label.objects.all(), [Author])):
        with pytest.raises(NotCached, match="zoo_author"):
            depends(query, rules=rules, depends_on=models)


def test_the_default_rules_are_those_of_the_invalidation() -> None:
    """A model with a ``CachedManager`` is watched."""
    [found] = dependencies_of(Author.objects.filter(rank=1).query, "lite")
    assert found.shape.bound == ("rank",)
