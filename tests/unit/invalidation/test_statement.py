"""What is known of a statement before it runs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, connections, models
from django.db.models import F, OuterRef, Subquery
from django.db.models.constants import OnConflict

from cachebackend.invalidation.statement import Statement
from cachebackend.invalidation.tables import WatchedTable, watched_tables
from tests.second_models import second_model
from tests.zoo.models import Author, Branch, Sum

pytestmark = pytest.mark.usefixtures("no_queried_tables")


@pytest.fixture
def no_queried_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no statement ask the database what it knows of a table."""
    for model in (Author, Branch, Sum):
        for table in watched_tables(model._meta.db_table):
            monkeypatch.setattr(table, "result_aliases", set())


def update_of(rows: models.QuerySet[Any, Any], **values: Any) -> Statement:
    """Return the UPDATE of some rows."""
    query = rows.query.chain(models.sql.UpdateQuery)
    query.add_update_values(values)
    return Statement(query.get_compiler(connection=connection), watched_tables(rows.model._meta.db_table))


def test_an_update_of_a_lookup_changes_keys() -> None:
    """So does one of a column on which a generated lookup depends."""
    assert update_of(Author.objects.all(), name="a")._changes_keys
    assert not update_of(Author.objects.all(), rank=1)._changes_keys
    assert update_of(Sum.objects.all(), rank=1)._changes_keys


def test_an_update_of_the_primary_key_moves_rows() -> None:
    """Rows may be new then."""
    moved = update_of(Author.objects.all(), id=F("id") + 1)
    assert (moved._moves_rows, moved._is_new) == (True, True)
    assert not update_of(Author.objects.all(), rank=1)._is_new


def test_generated_columns_may_differ() -> None:
    """They follow from the columns that are set."""
    assert update_of(Author.objects.all(), rank=1)._set_columns == {"rank"}
    assert "twice" in update_of(Sum.objects.all(), rank=1)._set_columns


def test_a_statement_that_names_one_row_is_small() -> None:
    """Any other may change more rows than an outbox row names."""
    assert not update_of(Author.objects.filter(pk=1), rank=1)._is_large
    for rows in (
        Author.objects.all(),
        Author.objects.exclude(pk=1),
        Author.objects.filter(name="a"),
        Author.objects.filter(pk__in=[1, 2]),
        Author.objects.filter(models.Q(pk=1) | models.Q(rank=1)),
        Author.objects.filter(pk=F("rank")),
        Author.objects.filter(pk=Subquery(Author.objects.filter(rank=OuterRef("rank")).values("pk")[:1])),
    ):
        assert update_of(rows, rank=1)._is_large


def test_the_primary_key_of_a_related_row_may_name_many_rows() -> None:
    """Of the same model, such as a row with the same parent."""
    assert update_of(Branch.objects.filter(parent__children__pk=1), rank=1)._is_large
    assert not update_of(Branch.objects.filter(pk=1), rank=1)._is_large


def test_a_primary_key_that_is_not_that_of_the_table_may_name_many_rows() -> None:
    """A model whose table Django does not manage may declare any column."""
    other = second_model(Author, name=models.CharField(max_length=40, primary_key=True))
    delete = other._base_manager.filter(pk="a").query.chain(models.sql.DeleteQuery)
    assert Statement(delete.get_compiler(connection=connection), [WatchedTable(other)])._is_large


def test_an_upsert_may_update_rows_that_it_has_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it returns no old values, and other transactions can insert meanwhile."""
    query = models.sql.InsertQuery(
        Author, on_conflict=OnConflict.UPDATE, update_fields=[Author._meta.get_field("name")]
    )
    query.insert_values(list(Author._meta.local_concrete_fields), [Author(name="a")])
    upsert = Statement(query.get_compiler(connection=connection), watched_tables(Author._meta.db_table))
    for returns, vendor, may_miss in (
        (True, "postgresql", False), (False, "postgresql", True), (False, "sqlite", False)
    ):  # fmt: skip
        monkeypatch.setattr(Statement, "_returns_old_rows", returns)
        monkeypatch.setattr(type(connections["default"]), "vendor", vendor)
        assert upsert._may_miss_old_rows is may_miss
