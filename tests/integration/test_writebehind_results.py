"""What a drain makes wrong of the results of queries: those with the values of its rows, and no others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections, models
from django.db.models import F

from cachebackend import writebehind
from cachebackend.invalidation import old_rows
from cachebackend.invalidation.catalogue import catalogue_of
from cachebackend.writebehind import apply
from cacheproject.demo.models import Article
from tests.integration.results import Pages
from tests.integration.write_behind import drain_all, one_partition
from tests.second_models import second_model

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes", "ring_cache")]

VERSIONS = pytest.mark.parametrize(
    "version", [old_rows.POSTGRES_18, 10**9], ids=["this version", "before 18"]
)


@pytest.fixture
def articles() -> list[Article]:
    """Three rows, none of which was viewed."""
    return Article.objects.bulk_create([Article(slug=f"a{n}", title=f"A {n}", price=n) for n in range(3)])


@pytest.fixture
def pages(articles: list[Article]) -> Pages:
    """Cached results: some depend on the views, some on the values of one row, and some on neither."""
    pages = Pages(
        {
            "all": lambda: Article.cached.order_by("slug"),
            "cheap": lambda: Article.cached.filter(price=1),
            "never viewed": lambda: Article.cached.filter(views=0),
            "viewed once": lambda: Article.cached.filter(views=1),
            "viewed often": lambda: Article.cached.filter(views=100),
            "cheap by views": lambda: Article.cached.filter(price=1).order_by("views").values_list("slug"),
            "dear by views": lambda: Article.cached.filter(price=2).order_by("views").values_list("slug"),
            "seen never": lambda: Article.cached.filter(last_viewed=None).values_list("slug"),
        }
    )
    pages.read()
    return pages


@VERSIONS
def test_a_changed_counter_leaves_the_results_that_do_not_depend_on_it(
    articles: list[Article], pages: Pages, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that do, the ones with the row's old and new values are wrong. The row is loaded again."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)
    Article.behind.update(articles[1].pk, views=F("views") + 1)
    drain_all()
    assert Article.cached.get(pk=articles[1].pk).views == 1
    assert pages.loaded() == {"never viewed", "viewed once", "cheap by views"}


def test_an_addition_of_nothing_makes_no_result_wrong(articles: list[Article], pages: Pages) -> None:
    """The row has the same values as before."""
    Article.behind.update(articles[1].pk, views=F("views") + 0)
    drain_all()
    assert Article.cached.get(pk=articles[1].pk).views == 0
    assert pages.loaded() == set()


@VERSIONS
def test_many_rows_make_every_result_wrong_that_depends_on_their_columns(
    articles: list[Article], pages: Pages, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their values are not followed."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)
    monkeypatch.setattr(apply, "ROWS_WITH_VALUES", 1)
    with one_partition():
        Article.behind.update_many({article.pk: {"views": 1} for article in articles})
        drain_all()
    catalogue_of(Article._meta.db_table, "default")  # a changed setting lets processes forget it
    assert [Article.cached.get(pk=article.pk).views for article in articles] == [1, 1, 1]
    depend_on_views = {"never viewed", "viewed once", "viewed often", "cheap by views", "dear by views"}
    assert pages.loaded() >= depend_on_views


def test_many_rows_leave_the_results_that_depend_on_other_columns(
    articles: list[Article], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which columns a batch changes is known of any number of rows."""
    monkeypatch.setattr(apply, "ROWS_WITH_VALUES", 1)
    pages = Pages({"all": Article.cached.all, "cheap": lambda: Article.cached.filter(price=1)})
    pages.read()
    with one_partition():
        Article.behind.update_many({article.pk: {"views": 1} for article in articles})
        drain_all()
    catalogue_of(Article._meta.db_table, "default")
    assert [Article.cached.get(pk=article.pk).views for article in articles] == [1, 1, 1]
    assert pages.loaded() == set()


def test_a_created_and_a_deleted_row_are_in_the_results_with_their_values(
    articles: list[Article], pages: Pages
) -> None:
    """A row that is created has values before it is in the results, and one that is deleted had them."""
    Article.behind.create(pk=1000, slug="new", title="new", price=7, views=100)
    drain_all()
    assert pages.loaded() == {"all", "viewed often", "seen never"}
    Article.behind.delete(1000)
    drain_all()
    assert pages.loaded() == {"all", "viewed often", "seen never"}


@VERSIONS
def test_a_value_that_python_cannot_read_makes_everything_of_the_table_wrong(
    articles: list[Article], pages: Pages, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is drained all the same."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE demo_article SET last_viewed = 'infinity' WHERE slug = 'a2'")
    Article.behind.update_many({article.pk: {"views": 5} for article in articles})
    assert sum(drained.rows for drained in drain_all()) == 3
    with connection.cursor() as cursor:
        cursor.execute("UPDATE demo_article SET last_viewed = NULL")
    assert [Article.cached.get(pk=article.pk).views for article in articles] == [5, 5, 5]
    assert pages.loaded() >= {"all", "cheap", "never viewed", "viewed often"}


@VERSIONS
def test_a_row_that_is_inserted_before_the_update_has_old_values(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Postgres 18, the drain has looked for the old values by then."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)

    def never_viewed() -> list[str]:
        return list(Article.cached.filter(views=0).values_list("slug", flat=True))

    def insert() -> None:
        try:
            Article.objects.create(pk=1000, slug="new", title="new", price=7)
            assert never_viewed() == ["new"]
        finally:
            connections.close_all()

    waiting = [insert]

    def before_update(execute: Any, sql: str, *given: Any) -> Any:
        if waiting and sql.startswith('UPDATE "demo_article"'):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(waiting.pop()).result()
        return execute(sql, *given)

    Article.behind.update(1000, views=5)
    with connection.execute_wrapper(before_update):
        drain_all()
    assert not waiting
    assert never_viewed() == []


def test_a_column_that_the_table_has_lost_is_not_read(
    articles: list[Article], pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of the release before drains on after the migration that removes a column."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE demo_article RENAME price TO cost")
    try:
        Article.behind.update(articles[1].pk, views=1)
        assert sum(drained.rows for drained in drain_all()) == 1
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE demo_article RENAME cost TO price")
    assert pages.loaded() >= {"never viewed", "viewed once", "cheap by views", "dear by views"}


def test_a_drain_into_another_model_of_the_table_invalidates_as_well(articles: list[Article]) -> None:
    """What is cached of a table does not depend on the model through which it is written."""
    plain = second_model(Article, views=models.BigIntegerField())
    assert Article.cached.get(pk=articles[1].pk).views == 0
    Article.behind.update(articles[1].pk, views=1)
    [(partition, _)] = writebehind.dirty_partitions()
    assert writebehind.drain(partition, into=plain).rows == 1
    assert Article.cached.get(pk=articles[1].pk).views == 1
