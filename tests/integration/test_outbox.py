"""The outbox and its relay: a delete that is owed is made, whoever dies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.signals import setting_changed
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache, invalidation
from cachebackend.invalidation import deletes, outbox, transactions
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


class Killed(BaseException):
    """Stands for the end of an application's process."""


@pytest.fixture
def article() -> Article:
    """A row that is cached."""
    article = Article.objects.create(slug="first", title="First")
    Article.cached.get(slug="first")
    return article


@pytest.fixture
def dies_after_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process ends between its commit and its delete."""

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(deletes.PendingDeletes, "delete", die)
        yield


def age_rows(seconds: float) -> None:
    OutboxRow.objects.update(created=Now() - timedelta(seconds=seconds))


def save(article: Article, title: str) -> None:
    article.title = title
    article.save()


def in_atomic(article: Article) -> None:
    with transaction.atomic():
        save(article, "New")


WRITES: dict[str, Callable[[Article], object]] = {
    "save in autocommit": lambda article: save(article, "New"),
    "save in a transaction": in_atomic,
    "update": lambda article: Article.objects.filter(pk=article.pk).update(title="New"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_settled_write_leaves_no_row(article: Article, write: Callable[[Article], object]) -> None:
    """Every node confirmed, so nothing is owed."""
    write(article)
    assert OutboxRow.objects.count() == 0
    assert Article.cached.get(pk=article.pk).title == "New"


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_process_that_dies_after_its_commit_leaves_a_row_that_the_relay_settles(
    article: Article,
    write: Callable[[Article], object],
    dies_after_commit: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then readers have the old row; afterwards the new one."""
    with pytest.raises(Killed):
        write(article)
    monkeypatch.undo()
    assert Article.objects.get(pk=article.pk).title == "New"
    assert Article.cached.get(pk=article.pk).title == "First"
    assert OutboxRow.objects.count() == 1
    intent = OutboxRow.objects.get().is_intent
    assert invalidation.relay().rows == 0  # too young: its writer may be about to settle it
    age_rows(5)
    relayed = invalidation.relay()
    assert relayed.keys >= 1
    assert relayed.lag >= 5 or intent
    assert Article.cached.get(pk=article.pk).title == "New"
    age_rows(outbox.INTENT_SECONDS + 1)
    invalidation.relay()
    assert OutboxRow.objects.count() == 0


def test_a_transaction_owes_one_row_whatever_it_changes(article: Article) -> None:
    """Written by its last statement."""
    others = [Article.objects.create(slug=f"s{n}", title="x") for n in range(5)]
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        for other in others:
            save(other, "y")
        assert OutboxRow.objects.count() == 0
    rows = [query for query in captured if 'INSERT INTO "cachebackend_outboxrow"' in query["sql"]]
    assert len(rows) == 1
    assert OutboxRow.objects.count() == 0


def test_a_transaction_that_changes_nothing_cached_owes_nothing(article: Article) -> None:
    """Not a statement more than Django's."""
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        list(Article.objects.all())
    assert not any("outboxrow" in query["sql"] for query in captured)


def test_a_rolled_back_transaction_owes_nothing(article: Article) -> None:
    """And the next one is its own."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        save(article, "New")
        raise ZeroDivisionError
    assert OutboxRow.objects.count() == 0
    assert Article.cached.get(pk=article.pk).title == "First"


@pytest.mark.hangs
def test_a_node_that_is_down_is_owed_its_delete(article: Article, services: Services) -> None:
    """The write succeeds; the row stays until the node is there to confirm."""
    keys = Article.cached.keys_of([{"pk": article.pk}])
    ring = Article.cached.cache.client.ring
    owner = f"ring-{'abc'[ring.owner(keys[0])]}"
    services.stop(owner)
    try:
        Article.objects.filter(pk=article.pk).update(title="New")
        assert OutboxRow.objects.count() == 1
        age_rows(5)
        relayed = invalidation.relay()
        assert (relayed.rows, relayed.pending) == (0, 1)
    finally:
        services.resume(owner)
    assert Article.cached.get(pk=article.pk).title == "New"  # the node is ejected, and not asked
    # The relay is another process, and has seen nothing fail
    setting_changed.send(sender=None, setting="CACHES", value=None, enter=True)
    invalidation.relay()
    assert OutboxRow.objects.count() == 0
    assert Article.cached.get(pk=article.pk).title == "New"


@pytest.mark.hangs
def test_rows_of_a_node_that_is_away_keep_no_others_waiting(
    ring_cache: RingCache, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and though they are older."""
    monkeypatch.setattr(sys.modules["cachebackend.invalidation.relay"], "ROWS_PER_PAGE", 2)
    ring, keys = ring_cache.client.ring, {f"k{n}": ring_cache.key_bytes(f"k{n}") for n in range(30)}
    away = [key for key in keys.values() if ring.names[ring.owner(key)] == "ring-a"][:5]
    healthy = next(name for name, key in keys.items() if ring.names[ring.owner(key)] == "ring-b")
    ring_cache.set(healthy, "old")
    for key in [*away, keys[healthy]]:
        outbox.write_row("default", {"default": {key}})
    age_rows(5)
    services.stop("ring-a")
    try:
        relayed = invalidation.relay()
    finally:
        services.resume("ring-a")
    assert (relayed.rows, relayed.pending) == (1, len(away))
    assert ring_cache.get(healthy) is None


def test_an_alias_that_is_gone_is_owed_nothing(ring_cache: RingCache) -> None:
    """Its rows are dropped, and those of the others are acted on."""
    ring_cache.set("k", "old")
    outbox.write_row("default", {"gone": {b"x"}, "default": {ring_cache.key_bytes("k")}})
    age_rows(5)
    invalidation.relay()
    assert OutboxRow.objects.count() == 0
    assert ring_cache.get("k") is None


def test_an_intent_is_kept_while_its_statement_may_run(article: Article, ring_cache: RingCache) -> None:
    """A slow statement of a process that dies is still acted on after its commit."""
    owed = outbox.write_row("default", {"default": {ring_cache.key_bytes("k")}}, is_intent=True)
    for age, left in ((5, 1), (outbox.INTENT_SECONDS - 5, 1), (outbox.INTENT_SECONDS + 5, 0)):
        ring_cache.set("k", "old")
        age_rows(age)
        invalidation.relay()
        assert ring_cache.get("k") is None
        assert OutboxRow.objects.filter(pk=owed).count() == left


def test_the_row_is_dropped_only_after_the_nodes_confirmed(
    article: Article, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, the relay deletes once more, which is harmless."""

    def die(*_: Any) -> None:
        assert Article.cached.cache.get(f"demo.article:id:{article.pk}") is None
        raise Killed

    monkeypatch.setattr(transactions, "delete_rows", die)
    with pytest.raises(Killed):
        in_atomic(article)
    monkeypatch.undo()
    assert OutboxRow.objects.count() == 1


def test_the_relay_task_runs(article: Article) -> None:
    """In place, as Celery would."""
    from cachebackend.tasks import relay

    outbox.write_row("default", {"default": {b"k"}})
    age_rows(5)
    assert relay.apply().get() == 1
