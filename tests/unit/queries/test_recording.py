"""What a recorder notes of the SQL of a query."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connections
from django.db.models import Count, Exists, F, FilteredRelation, IntegerField, OuterRef, Q, Window
from django.db.models.functions import RowNumber

from cachebackend.queries.recording import Recorder, columns_in
from tests.unit.queries.compiled import selects_of
from tests.zoo.models import Author, Label, Novel, Place, Poem, Post, Stock, Visit


def columns(queryset: Any, **options: Any) -> dict[str, set[str]]:
    """Return the columns of all aliases in a query."""
    found: dict[str, set[str]] = {}
    for select in selects_of(queryset, **options):
        for alias, names in select.columns.items():
            found.setdefault(alias, set()).update(names)
    return found


def test_the_selected_columns_are_noted() -> None:
    """And those of conditions and orderings."""
    found = columns(Author.objects.filter(rank=1).order_by("name").values("pk"))
    assert found == {"zoo_author": {"id", "rank", "name"}}


def test_joins_that_exist_only_in_the_compiled_query_are_noted() -> None:
    """Those of ``Meta.ordering`` and ``select_related``."""
    [select] = selects_of(Novel.objects.select_related("author").only("name", "author__name"))
    assert set(select.tables) == {"zoo_novel", "zoo_author", "zoo_genre"}
    assert select.columns["zoo_genre"] >= {"rank", "id"}
    assert select.columns["zoo_author"] == {"id", "name"}


def test_a_column_of_an_outer_query_belongs_to_it() -> None:
    """The subquery names it."""
    inner, outer = "U0", "zoo_author"
    found = columns(
        Author.objects.filter(Exists(Poem.objects.filter(author=OuterRef("rank")))).values("name")
    )
    assert found[outer] == {"name", "rank"}
    assert found[inner] == {"author_id"}


def test_the_conditions_of_joins_are_noted() -> None:
    """A filtered relation and a generic relation have some."""
    found = columns(
        Author.objects.annotate(p=FilteredRelation("poem", condition=Q(poem__rank=1))).values("p__name")
    )
    assert found["p"] == {"name", "rank", "author_id"}
    found = columns(Visit.objects.filter(shelf__sign="a").values("pk"))
    assert found == {"zoo_visit": {"id", "hall", "side"}, "zoo_shelf": {"sign", "hall", "side"}}


def test_parts_that_django_compiles_by_themselves_are_noted() -> None:
    """Filters of aggregates, windows, groups, and columns of composite keys."""
    found = columns(Author.objects.values("name").annotate(n=Count("pk", filter=Q(rank=1))))
    assert found["zoo_author"] == {"name", "id", "rank"}
    found = columns(
        Author.objects.values("name").annotate(n=Window(RowNumber(), partition_by="rank")).filter(n=1)
    )
    assert found["zoo_author"] == {"name", "rank"}
    assert columns(Stock.objects.values("pk"))["zoo_stock"] == {"shop", "sku"}


def test_the_columns_of_whole_rows_can_be_left_out() -> None:
    """Those of conditions, orderings, annotations and related rows cannot."""
    query = Author.objects.filter(rank=1)
    assert columns(query, leaves_out_rows=True) == {"zoo_author": {"rank"}}
    assert columns(query.annotate(x=F("name")), leaves_out_rows=True) == {"zoo_author": {"rank", "name"}}
    assert columns(query.values("name"), leaves_out_rows=True) == {"zoo_author": {"rank", "name"}}
    found = columns(Poem.objects.select_related("author"), leaves_out_rows=True)
    assert found == {"zoo_poem": {"author_id"}, "zoo_author": {"id", "name", "rank"}}


def test_a_child_that_comes_with_its_parent_has_columns_of_it() -> None:
    """So these are not left out, although they are columns of whole rows."""
    found = columns(Place.objects.select_related("inn"), leaves_out_rows=True)
    assert found["zoo_place"] == {"id", "name", "rank"}


def test_a_position_in_the_selected_columns_is_a_column() -> None:
    """The ordering refers to a column that may have been left out."""
    query = Author.objects.order_by(Author._meta.get_field("rank").get_col("zoo_author").asc())
    assert str(query.query).endswith("ORDER BY 3 ASC")
    assert columns(query, leaves_out_rows=True) == {"zoo_author": {"rank"}}


def test_the_column_that_a_prefetch_adds_is_noted() -> None:
    """Django selects the column of the many-to-many table by ``extra()``."""
    query = Post(pk=1).labels.get_prefetch_querysets([Post(pk=1), Post(pk=2)])[0]
    assert columns(query)["zoo_post_labels"] == {"post_id", "label_id"}


@pytest.mark.parametrize(
    "sql", ['"zoo_label"."rank" + 1', '"none"."post_id"', "now()", '(SELECT 1) "x"."post_id"']
)
def test_other_sql_under_that_name_is_not_known(sql: str) -> None:
    """Only the name of a column of the query is."""
    query = Label.objects.extra(select={"_prefetch_related_val_post_id": sql})
    recorder = Recorder(query.query)
    with recorder.recording(connections["lite"]):
        query.query.get_compiler("lite").execute_sql()
    assert recorder.unknown is not None


def test_nothing_is_run_and_the_statement_is_kept() -> None:
    """The recorder compiles it."""
    recorder = Recorder(query := Author.objects.filter(rank=1).query)
    with recorder.recording(connections["lite"]):
        assert query.get_compiler("lite").execute_sql() is None
    assert recorder.statement is not None
    assert recorder.statement == query.get_compiler("lite").as_sql()


def test_an_empty_query_has_no_statement() -> None:
    """Django knows its result."""
    recorder = Recorder(query := Author.objects.none().query)
    with recorder.recording(connections["lite"]):
        query.get_compiler("lite").execute_sql()
    assert recorder.statement is None


def test_another_thread_is_not_recorded() -> None:
    """Two threads may share a connection."""
    connection, made = connections["lite"], []
    with Recorder(Author.objects.all().query).recording(connection):
        thread = threading.Thread(target=lambda: made.append(connection.ops.compiler("SQLCompiler")))
        thread.start()
        thread.join()
    assert made == [connection.ops.compiler("SQLCompiler")]


def test_two_threads_record_at_once() -> None:
    """The one that ends first does not end the recording of the other."""
    connection, query = (
        connections["lite"],
        Poem.objects.filter(author__in=Author.objects.filter(rank=1)).query,
    )
    inside, recorded = threading.Barrier(2), []

    def record() -> None:
        with Recorder(Author.objects.all().query).recording(connection):
            inside.wait(timeout=60)

    thread = threading.Thread(target=record)
    thread.start()
    recorder = Recorder(query)
    with recorder.recording(connection):
        inside.wait(timeout=60)
        thread.join()
        query.get_compiler(connection=connection).execute_sql()
        recorded += [set(select.tables.values()) for select in recorder.selects]
    assert len(recorded) == 2


def test_a_statement_is_recorded_while_another_one_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of a field that converts a value may evaluate a cached queryset."""
    connection = connections["lite"]
    inner, outer = (
        Author.objects.filter(rank=2).query,
        Poem.objects.filter(rank=1, author__in=Author.objects.filter(name="a")).query,
    )
    of_inner, of_outer = Recorder(inner), Recorder(outer)
    convert, converted = IntegerField.get_db_prep_value, []

    def converting(field: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not converted:
            converted.append(value)
            with of_inner.recording(connection):
                inner.get_compiler(connection=connection).execute_sql()
        return convert(field, value, *args, **kwargs)

    monkeypatch.setattr(IntegerField, "get_db_prep_value", converting)
    with of_outer.recording(connection):
        outer.get_compiler(connection=connection).execute_sql()
    assert [set(select.tables) for select in of_inner.selects] == [{"zoo_author"}]
    assert {"zoo_poem", "U0"} <= {alias for select in of_outer.selects for alias in select.tables}
    assert of_inner.statement is not None
    assert of_outer.statement == outer.get_compiler(connection=connection).as_sql()


def test_columns_in_an_expression_are_found() -> None:
    """At any depth."""
    query = Author.objects.annotate(x=F("rank") + F("id") * 2).query
    assert {column.target.name for column in columns_in(query.annotations["x"])} == {"rank", "id"}
