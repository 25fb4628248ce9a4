"""The statement that updates rows and returns their old values, as text."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import Value
from django.db.models.sql import UpdateQuery

from cachebackend.invalidation.old_rows import update_joined
from tests.zoo.models import Author


def compiled(**filters: Any) -> tuple[str, Any]:
    """Return the UPDATE of an author's rank."""
    query: Any = Author.objects.filter(**filters).query.chain(UpdateQuery)
    query.add_update_values({"rank": Value(5)})
    compiler = query.get_compiler(connection=connection)
    compile_statement, _ = update_joined(compiler, ['"zoo_author"."id"', '"zoo_author"."name"'], 1)
    statement: tuple[str, Any] = compile_statement(compiler.as_sql)
    assert "pre_sql_setup" not in vars(compiler)
    return statement


def test_the_filter_is_evaluated_once_under_a_lock() -> None:
    """The UPDATE joins the rows that the subquery has locked. Parameters are in the order of the text."""
    sql, params = compiled(name="a")
    assert sql == (
        'UPDATE "zoo_author" SET "rank" = %s FROM (SELECT "zoo_author"."id" AS ringcache_old_0, '
        '"zoo_author"."name" AS ringcache_old_1 FROM "zoo_author" WHERE "zoo_author"."name" = %s '
        "FOR NO KEY UPDATE) AS ringcache_old "
        'WHERE "zoo_author"."id" = ringcache_old.ringcache_old_0'
    )
    assert params == (5, "a")


def test_an_update_of_all_rows_has_no_filter() -> None:
    """All rows are locked."""
    sql, params = compiled()
    assert 'FROM "zoo_author" FOR NO KEY UPDATE' in sql
    assert params == (5,)


def test_a_filter_that_matches_nothing_is_not_executed() -> None:
    """Django's compiler handles the error, as it does for its own statement."""
    with pytest.raises(EmptyResultSet):
        compiled(pk__in=[])
