"""``CachedManager`` and invalidation, on real nodes and a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from cachebackend import CachedManager, RingCache, protocol
from cachebackend.managers import queries
from cacheproject.demo.models import Article
from tests.upserts import unique_fields

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("each_ring", "empty_nodes")]
Call = Callable[..., Any]
Queries = Callable[[], CaptureQueriesContext]


@pytest.fixture
def article() -> Article:
    """A row."""
    return Article.objects.create(slug="first", title="First", price=Decimal("1.50"))


@pytest.fixture
def no_queries() -> Iterator[None]:
    """The test's body runs no query."""
    with CaptureQueriesContext(connection) as captured:
        yield
    assert len(captured) == 0


def titles(**lookup: Any) -> str:
    return Article.cached.get(**lookup).title


@pytest.mark.parametrize("lookup", [{"pk": None}, {"id": None}, {"slug": "first"}])
def test_a_second_read_runs_no_query(article: Article, call: Call, lookup: dict[str, Any]) -> None:
    """By primary key and by lookup; the instance has all fields, as if it had just been read."""
    lookup = {name: value or article.pk for name, value in lookup.items()}
    call(Article.cached, "get", pk=article.pk)
    call(Article.cached, "get", **lookup)
    with CaptureQueriesContext(connection) as captured:
        again = call(Article.cached, "get", **lookup)
    assert len(captured) == 0
    assert again == article
    assert again.price == Decimal("1.50")
    assert again._state.db == "default"
    assert not again._state.adding
    assert again.get_deferred_fields() == set()


def test_bulk_reads_query_once_for_what_is_missing(article: Article, call: Call) -> None:
    """It returns the rows by primary key; a row that does not exist is left out."""
    other = Article.objects.create(slug="second", title="Second")
    call(Article.cached, "get", pk=article.pk)
    keys = [other.pk, article.pk, 999_999]
    assert list(call(Article.cached, "in_bulk", keys)) == [other.pk, article.pk]
    with CaptureQueriesContext(connection) as captured:
        found = Article.cached.in_bulk([other.pk, article.pk])
    assert len(captured) == 0
    assert [row.title for row in found.values()] == ["Second", "First"]


@pytest.mark.parametrize("field_name", ["pk", "slug"])
@pytest.mark.parametrize("target", [(queries, "VALUES_PER_QUERY"), (connection.features, "max_query_params")])
def test_a_query_has_a_limited_number_of_parameters(
    field_name: str, target: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database refuses more: a list of many rows could not be read."""
    monkeypatch.setattr(*target, 2)
    created = [Article.objects.create(slug=f"a{number}", title="A") for number in range(5)]
    articles = {getattr(row, field_name): row for row in created}
    with CaptureQueriesContext(connection) as captured:
        assert Article.cached.in_bulk(list(articles), field_name=field_name) == articles
    assert sum('FROM "demo_article"' in query["sql"] for query in captured) == 3
    assert len(Article.cached.all()) == 5


def test_an_absent_row_raises(call: Call) -> None:
    """The model's DoesNotExist; the message names the lookup."""
    with pytest.raises(Article.DoesNotExist, match="Article with slug='nothing' does not exist"):
        call(Article.cached, "get", slug="nothing")
    with pytest.raises(Article.DoesNotExist):
        call(Article.cached, "get", pk=12345)


def _save(article: Article) -> None:
    article.title = "New"
    article.save()


CHANGES: dict[str, Callable[[Article], object]] = {
    "save": _save,
    "update": lambda article: Article.objects.filter(slug=article.slug).update(title="New"),
    "update by expression": lambda article: Article.objects.update(title="New", price=F("price") + 1),
    "bulk_update": lambda article: Article.objects.bulk_update(
        [Article(pk=article.pk, title="New")], ["title"]
    ),
    "update_or_create": lambda article: Article.objects.update_or_create(
        slug=article.slug, defaults={"title": "New"}
    ),
    "bulk_create with conflicts": lambda article: Article.objects.bulk_create(
        [Article(pk=article.pk, slug="first", title="New")],
        update_conflicts=True,
        unique_fields=unique_fields("id"),
        update_fields=["title"],
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_way_to_change_a_row_invalidates_it(
    article: Article, change: Callable[[Article], object]
) -> None:
    """A read after the write returns the new row, by primary key and by lookup."""
    assert (titles(pk=article.pk), titles(slug="first")) == ("First", "First")
    change(article)
    assert (titles(pk=article.pk), titles(slug="first")) == ("New", "New")


@pytest.mark.parametrize("delete", [lambda a: a.delete(), lambda a: Article.objects.filter(pk=a.pk).delete()])
def test_a_deleted_row_does_not_exist(article: Article, delete: Callable[[Article], object]) -> None:
    """By primary key and by lookup."""
    pk = article.pk
    titles(slug="first")
    delete(article)
    for lookup in ({"pk": pk}, {"slug": "first"}):
        with pytest.raises(Article.DoesNotExist):
            Article.cached.get(**lookup)


def test_a_lookup_value_that_moves_to_another_row_finds_that_row(article: Article) -> None:
    """A cached lookup holds only a primary key, and is compared with the row."""
    titles(slug="first")
    Article.objects.filter(pk=article.pk).update(slug="moved")
    with pytest.raises(Article.DoesNotExist):
        Article.cached.get(slug="first")
    Article.objects.create(slug="first", title="Heir")
    assert titles(slug="first") == "Heir"
    assert titles(slug="moved") == "First"


def test_nothing_is_deleted_before_the_commit(article: Article, ring_cache: RingCache) -> None:
    """Until then other readers get the old row; the writer gets its own."""
    titles(pk=article.pk)
    key = Article.cached.key_of(pk=article.pk)
    with transaction.atomic():
        _save(article)
        assert ring_cache.get(key) is not None
        assert titles(pk=article.pk) == "New"
        assert Article.cached.in_bulk([article.pk])[article.pk].title == "New"
        assert ring_cache.get(key) is not None
    assert ring_cache.get(key) is None


@pytest.mark.postgres
def test_cached_rows_are_read_inside_a_transaction(article: Article) -> None:
    """Without a query; a row that is not cached is loaded and, at READ COMMITTED, filled."""
    other = Article.objects.create(slug="second", title="Second")
    assert titles(pk=article.pk) == titles(slug="first")
    with transaction.atomic():
        with CaptureQueriesContext(connection) as captured:
            assert titles(slug="first") == "First"
            assert list(Article.cached.in_bulk([article.pk])) == [article.pk]
        assert len(captured) == 0
        assert list(Article.cached.in_bulk([article.pk, other.pk])) == [article.pk, other.pk]
    with CaptureQueriesContext(connection) as captured:
        assert titles(pk=other.pk) == "Second"
    assert len(captured) == 0


def test_a_rollback_deletes_nothing(article: Article, ring_cache: RingCache) -> None:
    """And leaves no pending delete to the next transaction."""
    titles(pk=article.pk)

    @transaction.atomic
    def fail() -> None:
        _save(article)
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert ring_cache.get(Article.cached.key_of(pk=article.pk)) is not None
    assert titles(pk=article.pk) == "First"


def test_a_save_after_an_inner_rollback_is_invalidated(article: Article) -> None:
    """The rollback removed the collected keys; the next save collects keys again."""
    titles(pk=article.pk)
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            _save(article)
            raise ZeroDivisionError
        article.title = "Outer"
        article.save()
    assert titles(pk=article.pk) == "Outer"


def test_a_save_after_a_rolled_back_transaction_is_invalidated(article: Article) -> None:
    """The same ``atomic`` object begins both transactions; the second does not use the keys of the first."""
    titles(pk=article.pk)
    block = transaction.atomic()
    with pytest.raises(ZeroDivisionError), block:
        _save(article)
        raise ZeroDivisionError
    with block:
        article.title = "Second"
        article.save()
    assert titles(pk=article.pk) == "Second"


def test_a_row_of_another_shape_is_a_miss(article: Article, ring_cache: RingCache) -> None:
    """A process with another version of the model fills such rows. They are filled again."""
    titles(pk=article.pk)
    ring_cache.set(Article.cached.key_of(pk=article.pk), ["other shape", 1, 2])
    assert titles(pk=article.pk) == "First"
    ring_cache.set(Article.cached.key_of(pk=article.pk), ["other shape", 1, 2])
    assert Article.cached.in_bulk([article.pk])[article.pk].title == "First"
    with CaptureQueriesContext(connection) as captured:
        assert titles(pk=article.pk) == "First"
        assert Article.cached.in_bulk([article.pk])[article.pk].title == "First"
    assert len(captured) == 0


def test_a_row_is_found_while_another_version_of_the_model_fills_it(
    article: Article, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a rolling deploy two shapes of one row replace each other; a query decides in the end."""
    key = Article.cached.key_of(pk=article.pk)
    delete_many = protocol.delete_many

    def and_fill_again(*args: Any) -> Any:
        result = yield from delete_many(*args)
        ring_cache.set(key, ["other shape", 1, 2])
        return result

    monkeypatch.setattr(protocol, "delete_many", and_fill_again)
    ring_cache.set(key, ["other shape", 1, 2])
    assert Article.cached.get(pk=article.pk) == article
    assert Article.cached.get(slug=article.slug) == article
    assert Article.cached.in_bulk([article.pk]) == {article.pk: article}


@pytest.mark.parametrize(("name", "arguments"), [("get", {"pk": 1}), ("in_bulk", {"id_list": [1]})])
def test_a_blocking_read_is_refused_in_an_event_loop(
    ring_cache: RingCache, name: str, arguments: dict[str, Any]
) -> None:
    """As a query is; also if the row is cached."""
    Article.objects.create(pk=1, slug="first", title="First")
    call = partial(getattr(Article.cached, name), **arguments)
    call()

    async def in_event_loop() -> None:
        call()

    with pytest.raises(SynchronousOnlyOperation, match="Use aget"):
        asyncio.run(in_event_loop())


def test_fields_that_are_no_lookup_are_a_query(article: Article) -> None:
    """Its result is cached, and the row is read from its own entry."""
    for lookup in ({"title": "First"}, {"pk": article.pk, "slug": "first"}, {}):
        assert Article.cached.get(**lookup) == article
        with CaptureQueriesContext(connection) as captured:
            assert Article.cached.get(**lookup) == article
        assert len(captured) == 0
    with pytest.raises(Article.DoesNotExist):
        Article.cached.get(title="Second")


def test_a_lookup_must_be_unique() -> None:
    """Otherwise it could find one of many rows."""
    manager: CachedManager[Article] = CachedManager(lookups=["title"])
    manager.model = Article
    with pytest.raises(ImproperlyConfigured, match="'title' is not a unique field"):
        manager.get(title="x")


def test_update_changes_and_counts_the_matching_rows_only(article: Article) -> None:
    """The filter decides which rows."""
    Article.objects.create(slug="second", title="Second")
    assert Article.objects.filter(title="First").update(price=5) == 1
    assert Article.objects.filter(title="none").update(price=6) == 0
    assert sorted(Article.objects.values_list("price", flat=True)) == [0, 5]
