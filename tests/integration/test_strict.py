"""Strict consistency, write-through, absence, and the rules of filling inside transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from cachebackend import CachedManager, RingCache, invalidation, protocol
from cachebackend.backend import ring_cache
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.upserts import unique_fields

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def article() -> Article:
    """A row."""
    return Article.objects.create(slug="first", title="First")


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The model's manager; the test changes its options."""
    for name in ("is_strict", "writes_through", "missing_timeout", "stale_for"):
        monkeypatch.setattr(Article.cached, name, getattr(Article.cached, name))
    return Article.cached


@pytest.fixture
def strict(cached: CachedManager[Article]) -> CachedManager[Article]:
    """A strict manager."""
    cached.is_strict = True
    return cached


def record_of(cached: CachedManager[Article], article: Article) -> bytes | None:
    """Return the record of a row's key, read from its node."""
    [key] = cached.keys_of([{"pk": article.pk}], "default")
    client = cached.cache.client
    record: bytes | None = client.nodes[client.ring.owner(key)].call((b"GET", key))
    return record


@pytest.fixture
def before_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[Any]]:
    """Return a function that has another function called right before each COMMIT, and its results."""

    def call(function: Callable[[], Any]) -> list[Any]:
        results: list[Any] = []
        commit = connection._commit

        def call_and_commit() -> None:
            results.append(function())
            commit()

        monkeypatch.setattr(connection, "_commit", call_and_commit)
        return results

    return call


@pytest.mark.parametrize("atomic", [False, True])
def test_a_strict_key_is_in_quarantine_while_its_row_is_committed(
    strict: CachedManager[Article],
    article: Article,
    before_commit: Callable[[Callable[[], Any]], list[Any]],
    atomic: bool,
) -> None:
    """From before the commit until after it; meanwhile readers load the row and do not fill it."""
    strict.get(pk=article.pk)
    records = before_commit(lambda: record_of(strict, article))
    article.title = "New"
    with transaction.atomic() if atomic else nullcontext():
        article.save()
    [record] = records
    assert record[:1] == b"Q"
    assert len(record) == 17
    assert record_of(strict, article) is None
    assert strict.get(pk=article.pk).title == "New"


STRICT_WRITES: dict[str, Callable[[Article], Any]] = {
    "update": lambda article: Article.objects.filter(pk=article.pk).update(title="New"),
    "upsert of another key": lambda article: Article.objects.bulk_create(
        [Article(slug=article.slug, title="New")],
        update_conflicts=True,
        unique_fields=unique_fields("slug"),
        update_fields=["title"],
    ),
    "delete": lambda article: Article.objects.filter(pk=article.pk).delete(),
}


@pytest.mark.parametrize("write", STRICT_WRITES.values(), ids=STRICT_WRITES)
def test_every_write_quarantines_its_strict_keys(
    strict: CachedManager[Article],
    article: Article,
    before_commit: Callable[[Callable[[], Any]], list[Any]],
    write: Callable[[Article], Any],
) -> None:
    """The keys are those of the rows that the statement changed."""
    records = before_commit(lambda: record_of(strict, article))
    write(article)
    assert [(record or b"")[:1] for record in records] == [b"Q"]
    assert record_of(strict, article) is None


def test_a_savepoint_that_is_rolled_back_leaves_no_quarantine(
    strict: CachedManager[Article], article: Article
) -> None:
    """Neither does a statement that fails."""
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            article.save()
            raise ZeroDivisionError
        with pytest.raises(DatabaseError), transaction.atomic():
            Article.objects.filter(pk=article.pk).update(slug=None)
        assert record_of(strict, article) is None
    assert record_of(strict, article) is None


@pytest.mark.postgres
@pytest.mark.parametrize(("own", "limit"), [("0", "27s"), ("5s", "5s"), ("1h", "27s")])
def test_a_strict_commit_arrives_before_the_quarantine_expires(
    strict: CachedManager[Article],
    article: Article,
    before_commit: Callable[[Callable[[], Any]], list[Any]],
    own: str,
    limit: str,
) -> None:
    """Postgres ends a session that is idle for longer before its COMMIT; a shorter limit remains."""

    def show() -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            return cursor.fetchone()[0]

    shown = before_commit(show)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, true)", [own])
        article.save()
    assert shown == [limit]
    assert show() == "0"


def test_a_commit_in_doubt_leaves_the_quarantine(
    strict: CachedManager[Article], article: Article, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was lost during the COMMIT: nobody knows which row is right until the relay has run."""

    def lose() -> None:
        raise OperationalError

    with pytest.raises(OperationalError), transaction.atomic():
        article.title = "New"
        article.save()
        monkeypatch.setattr(connection, "_commit", lose)
    monkeypatch.undo()
    assert (record_of(strict, article) or b"")[:1] == b"Q"


def test_each_writer_ends_its_own_quarantine(
    strict: CachedManager[Article], article: Article, ring_cache: RingCache
) -> None:
    """The last one deletes the key."""
    from cachebackend import protocol

    client = ring_cache.client
    [key] = strict.keys_of([{"pk": article.pk}], "default")
    for token in (b"a" * 16, b"b" * 16, b"a" * 16):
        client.run(protocol.quarantine(client.context, [key], token))
    assert record_of(strict, article) == b"Q" + b"a" * 16 + b"b" * 16
    assert strict.get(pk=article.pk) == article
    assert client.run(protocol.unquarantine(client.context, [key], b"a" * 16)) == []
    assert record_of(strict, article) == b"Q" + b"b" * 16
    client.run(protocol.unquarantine(client.context, [key], b"b" * 16))
    assert record_of(strict, article) is None


#: Other ways to delete a key while it is in quarantine.
OTHERS: dict[str, Callable[[RingCache, str], object]] = {
    "delete": lambda cache, key: cache.delete(key),
    "delete_many": lambda cache, key: cache.delete_many([key]),
    "make_stale": lambda cache, key: cache.make_stale(key, 60),
    "delete_pattern": lambda cache, key: cache.delete_pattern("*demo_article*"),
    "clear": lambda cache, _: cache.clear(),
    "invalidate": lambda *_: invalidation.invalidate(Article.objects.get()),
    "another's write": lambda *_: Article.objects.update(title="Another"),
    "the relay": lambda *_: relay_at_once(),
}


def relay_at_once() -> None:
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    invalidation.relay()


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_only_its_writer_ends_a_quarantine(
    strict: CachedManager[Article], article: Article, other: Callable[[RingCache, str], object]
) -> None:
    """The node confirms other deletes of the key without effect: the key holds no old value."""
    writing = PendingDeletes("default")  # as if its commit waited for a disk
    writing.add_rows(Article, [{"pk": article.pk}])
    writing.quarantine()
    before = record_of(strict, article)
    other(strict.cache, Article.cached.key_of(pk=article.pk))
    assert record_of(strict, article) == before
    assert strict.get(pk=article.pk) == article
    assert OutboxRow.objects.count() == 0
    writing.delete()
    assert record_of(strict, article) is None


@pytest.mark.parametrize("atomic", [False, True])
def test_a_strict_write_whose_node_is_down_fails_and_changes_nothing(
    strict: CachedManager[Article], article: Article, services: Services, atomic: bool
) -> None:
    """In autocommit and in a transaction."""
    [key] = strict.keys_of([{"pk": article.pk}], "default")
    owner = f"ring-{'abc'[strict.cache.client.ring.owner(key)]}"
    services.kill(owner)
    try:
        article.title = "New"
        with pytest.raises(
            NodeUnavailableError,
            match="a strict write needs a confirmation",
        ):
            if atomic:
                with transaction.atomic():
                    article.save()
            else:
                article.save()
        with pytest.raises(NodeUnavailableError):
            Article.objects.filter(pk=article.pk).update(title="New")
    finally:
        services.restart(owner)
    article.refresh_from_db()
    assert article.title == "First"


@pytest.mark.postgres
def test_the_quarantine_begins_at_the_commit_of_the_program(
    strict: CachedManager[Article], article: Article
) -> None:
    """Not with an earlier block, which may be longer ago than a quarantine lasts."""
    strict.get(pk=article.pk)
    transaction.set_autocommit(False)
    try:
        with transaction.atomic():
            Article.objects.update(title="New")
        before = record_of(strict, article)
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert (before or b"")[:1] == b"V"
    assert record_of(strict, article) is None


def test_a_rollback_ends_the_quarantine(strict: CachedManager[Article], article: Article) -> None:
    """Afterwards readers may fill at once."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        article.title = "New"
        article.save()
        raise ZeroDivisionError
    assert record_of(strict, article) is None
    assert strict.get(pk=article.pk).title == "First"


def test_a_quarantine_that_was_lost_still_ends_in_a_delete(
    strict: CachedManager[Article],
    article: Article,
    ring_cache: RingCache,
    before_commit: Callable[[Callable[[], Any]], list[Any]],
) -> None:
    """The node was restarted or evicted the key, and meanwhile a reader filled the old row."""
    [key] = strict.keys_of([{"pk": article.pk}], "default")
    node = ring_cache.client.nodes[ring_cache.client.ring.owner(key)]
    before_commit(lambda: node.call((b"SET", key, b"Vp\0old")))
    article.title = "New"
    article.save()
    assert record_of(strict, article) is None


def test_a_row_written_through_is_cached_after_the_commit(
    cached: CachedManager[Article], article: Article
) -> None:
    """It is loaded under a new lease before the writer continues."""
    cached.writes_through = True
    article.title = "New"
    article.save()
    with CaptureQueriesContext(connection) as captured:
        assert cached.get(pk=article.pk).title == "New"
    assert len(captured) == 0
    Article.objects.filter(pk=article.pk).update(title="Newer")
    with CaptureQueriesContext(connection) as captured:
        assert cached.get(pk=article.pk).title == "Newer"
    assert len(captured) == 0
    article.delete()


def test_absence_is_cached_on_request_until_a_row_is_created(cached: CachedManager[Article]) -> None:
    """By lookup and by primary key; created by save or bulk_create, in a transaction or in autocommit."""
    cached.missing_timeout = 60
    for title in ("once", "again"):
        with CaptureQueriesContext(connection) as captured, pytest.raises(Article.DoesNotExist):
            cached.get(slug="later")
        # The first lookup of a process also reads the collation of the column
        of_table = f"FROM {connection.ops.quote_name('demo_article')}"
        queries = [query for query in captured if of_table in query["sql"]]
        assert len(queries) == (1 if title == "once" else 0)
    Article.objects.create(slug="later", title="Here")
    assert cached.get(slug="later").title == "Here"
    with pytest.raises(Article.DoesNotExist):
        cached.get(slug="bulk")
    Article.objects.bulk_create([Article(slug="bulk", title="Here")])
    assert cached.get(slug="bulk").title == "Here"
    assert cached.in_bulk([123456]) == {}
    with CaptureQueriesContext(connection) as captured:
        assert cached.in_bulk([123456]) == {}
    assert len(captured) == 0


def test_an_absence_is_invalidated_when_a_row_gets_the_value(
    cached: CachedManager[Article], article: Article
) -> None:
    """By update and bulk_update, for which Django sends no signal."""
    cached.missing_timeout = 60
    for slug in ("second", "third"):
        with pytest.raises(Article.DoesNotExist):
            cached.get(slug=slug)
    Article.objects.filter(pk=article.pk).update(slug="second")
    assert cached.get(slug="second").title == "First"
    article.slug = "third"
    Article.objects.bulk_update([article], ["slug"])
    assert cached.get(slug="third").title == "First"
    with pytest.raises(Article.DoesNotExist):
        cached.get(slug="second")


@pytest.mark.postgres
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_fills_nothing(cached: CachedManager[Article], article: Article, level: str) -> None:
    """It may be older than the lease; a row that is already cached may be read."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert cached.get(pk=article.pk).title == "First"
        assert cached.in_bulk([article.pk])[article.pk].title == "First"
    assert record_of(cached, article) is None
    with transaction.atomic():
        assert cached.get(pk=article.pk).title == "First"
    assert record_of(cached, article) is not None


def test_options_are_checked() -> None:
    """When the manager is created."""
    with pytest.raises(ImproperlyConfigured, match="must be one of commit, strict"):
        CachedManager(consistency="eventual")
    with pytest.raises(ImproperlyConfigured, match="must be one of invalidate, through"):
        CachedManager(write="around")


def test_a_delete_of_many_keys_leaves_those_in_quarantine() -> None:
    """More keys than one command of a script takes; all others are deleted."""
    cache = ring_cache("default", "the test")
    context = cache.client.context
    cache.set_many({f"many{number}": number for number in range(2500)})
    keys = [cache.key_bytes(f"many{number}") for number in range(2500)]
    quarantined = keys[::700]
    cache.client.run(protocol.quarantine(context, quarantined, SYSTEM_CLOCK.token()))
    assert cache.client.run(protocol.delete_many(context, keys)) == []
    nodes = cache.client.nodes
    left = [key for key in keys if nodes[context.ring.owner(key)].call((b"EXISTS", key))]
    assert left == quarantined
