"""The outbox and its relay: a pending delete is made, whichever process dies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.core.signals import setting_changed
from django.db import OperationalError, connection, connections, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache, invalidation
from cachebackend.invalidation import (
    confirmed_rows,
    outbox,
    outbox_pages,
    pending_deletes,
    transaction_deletes,
)
from cachebackend.models import OutboxRow
from cachebackend.monitoring import outbox_figures
from cacheproject.demo.models import Article
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


class Killed(BaseException):
    """Simulates the end of an application's process."""


@pytest.fixture
def article() -> Article:
    """A row that is cached."""
    article = Article.objects.create(slug="first", title="First")
    Article.cached.get(slug="first")
    Article.cached.get(pk=article.pk)
    return article


@pytest.fixture
def dies_after_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process ends between its commit and its delete."""

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pending_deletes.PendingDeletes, "delete", die)
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
def test_a_confirmed_write_leaves_no_row(article: Article, write: Callable[[Article], object]) -> None:
    """Every node confirmed, so no delete is pending."""
    write(article)
    assert OutboxRow.objects.count() == 0
    assert Article.cached.get(pk=article.pk).title == "New"


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_process_that_dies_after_its_commit_leaves_a_row_for_the_relay(
    article: Article,
    write: Callable[[Article], object],
    dies_after_commit: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readers get the old row until the relay has run, and the new row afterwards."""
    with pytest.raises(Killed):
        write(article)
    monkeypatch.undo()
    assert Article.objects.get(pk=article.pk).title == "New"
    assert Article.cached.get(pk=article.pk).title == "First"
    assert OutboxRow.objects.count() == 1
    assert invalidation.relay().rows == 0  # too young: its writer may still be handling it
    age_rows(5)
    relayed = invalidation.relay()
    assert relayed.keys >= 1
    assert relayed.lag >= 5
    assert Article.cached.get(pk=article.pk).title == "New"
    assert OutboxRow.objects.count() == 0


def test_a_transaction_writes_one_outbox_row(article: Article) -> None:
    """Its last statement writes the row, for all changed rows."""
    others = [Article.objects.create(slug=f"s{n}", title="x") for n in range(5)]
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        for other in others:
            save(other, "y")
        assert OutboxRow.objects.count() == 0
    insert = f"INSERT INTO {connection.ops.quote_name('cachebackend_outboxrow')}"
    rows = [query for query in captured if insert in query["sql"]]
    assert len(rows) == 1
    assert OutboxRow.objects.count() == 0


def test_a_transaction_without_cached_changes_writes_no_outbox_row(article: Article) -> None:
    """It runs no statement beside Django's."""
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        list(Article.objects.all())
    assert not any("outboxrow" in query["sql"] for query in captured)


def test_a_rolled_back_transaction_leaves_no_outbox_row(article: Article) -> None:
    """And nothing of it remains for the next transaction."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        save(article, "New")
        raise ZeroDivisionError
    assert OutboxRow.objects.count() == 0
    assert Article.cached.get(pk=article.pk).title == "First"


@pytest.mark.hangs
@pytest.mark.ring_of_nodes
def test_the_delete_of_a_node_that_is_down_stays_pending(article: Article, services: Services) -> None:
    """The write succeeds; the outbox row remains until the node confirms."""
    keys = Article.cached.keys_of([{"pk": article.pk}], "default")
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
    assert Article.cached.get(pk=article.pk).title == "New"  # the node is ejected, so it is not read
    # A relay in another process has seen no failure
    setting_changed.send(sender=None, setting="CACHES", value=None, enter=True)
    invalidation.relay()
    assert OutboxRow.objects.count() == 0
    assert Article.cached.get(pk=article.pk).title == "New"


@pytest.mark.hangs
@pytest.mark.ring_of_nodes
def test_rows_of_a_node_that_is_down_do_not_delay_others(
    ring_cache: RingCache, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although they fill several pages and are older."""
    monkeypatch.setattr(outbox_pages, "ROWS_PER_PAGE", 2)
    ring, keys = ring_cache.client.ring, {f"k{n}": ring_cache.key_bytes(f"k{n}") for n in range(30)}
    on_stopped_node = [key for key in keys.values() if ring.names[ring.owner(key)] == "ring-a"][:5]
    healthy = next(name for name, key in keys.items() if ring.names[ring.owner(key)] == "ring-b")
    ring_cache.set(healthy, "old")
    for key in [*on_stopped_node, keys[healthy]]:
        outbox.write_row("default", {"default": {key}})
    age_rows(5)
    services.stop("ring-a")
    try:
        relayed = invalidation.relay()
    finally:
        services.resume("ring-a")
    assert (relayed.rows, relayed.pending) == (1, len(on_stopped_node))
    assert ring_cache.get(healthy) is None


def test_pending_deletes_of_a_removed_alias_are_dropped(ring_cache: RingCache) -> None:
    """The keys of its other aliases are still deleted."""
    ring_cache.set("k", "old")
    outbox.write_row("default", {"gone": {b"x"}, "default": {ring_cache.key_bytes("k")}})
    age_rows(5)
    invalidation.relay()
    assert OutboxRow.objects.count() == 0
    assert ring_cache.get("k") is None


def test_an_intent_is_kept_while_its_statement_may_run(article: Article, ring_cache: RingCache) -> None:
    """A process of an earlier release wrote it; the keys are deleted after the commit of a slow statement."""
    intent = outbox.write_row("default", {"default": {ring_cache.key_bytes("k")}})
    OutboxRow.objects.update(is_intent=True)
    for age, count in ((5, 1), (outbox.INTENT_SECONDS - 5, 1), (outbox.INTENT_SECONDS + 5, 0)):
        ring_cache.set("k", "old")
        age_rows(age)
        assert (invalidation.outbox_lag("default") >= age) is (count == 0)
        invalidation.relay()
        assert ring_cache.get("k") is None
        assert OutboxRow.objects.filter(pk=intent).count() == count


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_pending_delete_is_seen_whether_or_not_the_relay_runs(
    article: Article, write: Callable[[Article], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its age counts from the write: in the figures, and in ``invalidation status``, which exits with 1."""
    unconfirmed = {"default": {b"k"}}
    monkeypatch.setattr(pending_deletes.PendingDeletes, "delete", lambda _: unconfirmed)
    write(article)
    age_rows(61)
    assert OutboxRow.objects.count() == 1
    figures = outbox_figures()
    assert figures.lag is not None
    assert figures.lag >= 61
    assert [fault.message[:31] for fault in figures.faults] == ["Deletes have been pending for 6"]
    with pytest.raises(SystemExit, match="1"):
        call_command("invalidation", "status")


def test_the_row_is_deleted_only_after_the_nodes_confirmed(
    article: Article, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the process dies between the two, the relay deletes the keys again, which is harmless."""

    def die(*_: Any) -> None:
        assert Article.cached.cache.get(Article.cached.key_of(pk=article.pk)) is None
        raise Killed

    monkeypatch.setattr(transaction_deletes, "delete_confirmed", die)
    with pytest.raises(Killed):
        in_atomic(article)
    monkeypatch.undo()
    assert OutboxRow.objects.count() == 1


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete confirmed rows in batches, of which the first is empty."""
    monkeypatch.setattr(confirmed_rows, "_waiting", defaultdict(confirmed_rows._Waiting))
    monkeypatch.setattr(confirmed_rows, "BATCH_SECONDS", 60.0)
    monkeypatch.setattr(confirmed_rows, "BATCH_ROWS", 3)
    confirmed_rows._waiting["default", str(connection.settings_dict["NAME"])].take()


@pytest.mark.postgres
def test_confirmed_rows_are_deleted_together(article: Article, batches: None) -> None:
    """In one statement, which does not wait for the disk, and which changes no setting of the session."""
    save(article, "a")
    save(article, "b")
    assert OutboxRow.objects.count() == 2
    with CaptureQueriesContext(connection) as captured:
        save(article, "c")
    deletes = [query["sql"] for query in captured if query["sql"].startswith("DELETE")]
    assert len(deletes) == 1
    assert OutboxRow.objects.count() == 0
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",)


@pytest.mark.postgres
def test_confirmed_rows_are_deleted_in_no_transaction_of_the_program(article: Article, batches: None) -> None:
    """They wait: its own commit must reach the disk."""
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        confirmed_rows.delete_confirmed("default", range(1, 10))
    assert not [query for query in captured if query["sql"].startswith("DELETE")]
    with CaptureQueriesContext(connection) as captured:
        save(article, "New")
    assert len([query for query in captured if query["sql"].startswith("DELETE")]) == 1


@pytest.mark.postgres
def test_a_confirmed_row_that_a_relay_has_locked_is_left_to_it(article: Article) -> None:
    """The writer does not wait for the relay."""
    row = OutboxRow.objects.create()

    def delete() -> None:
        try:
            confirmed_rows.delete_confirmed("default", [row.pk])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor, transaction.atomic():
        OutboxRow.objects.select_for_update().get(pk=row.pk)
        executor.submit(delete).result()
    assert OutboxRow.objects.filter(pk=row.pk).exists()


def test_an_error_of_the_drop_does_not_reach_the_writer(
    article: Article, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data is committed."""

    def fail(*_: object) -> None:
        raise OperationalError

    monkeypatch.setattr(confirmed_rows, "_delete", fail)
    save(article, "New")
    assert Article.cached.get(pk=article.pk).title == "New"


def test_the_relay_task_runs(article: Article) -> None:
    """Called directly, as Celery would call it."""
    from cachebackend.tasks import relay

    outbox.write_row("default", {"default": {b"k"}})
    age_rows(5)
    assert relay.apply().get() == 1
