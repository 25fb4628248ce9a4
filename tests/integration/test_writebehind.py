"""Write-behind, from the call to the row: fold, seal, drain with its checkpoint."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.test import override_settings

from cachebackend import protocol, writebehind
from cachebackend.errors import (
    ConfigurationError,
    NodeUnavailableError,
    WriteBehindError,
    WriteBehindRefusedError,
)
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import drains
from cachebackend.writebehind.queue import project_queue
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.fix_services import restart_queue
from tests.integration.write_behind import LOCK_CHECKPOINTS, drain_all, one_partition
from tests.sessions import session

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def articles() -> list[Article]:
    """Twenty rows."""
    return Article.objects.bulk_create([Article(slug=f"a{n}", title=f"A {n}") for n in range(20)])


def views() -> dict[int, int]:
    return dict(Article.objects.values_list("pk", "views"))


def batch_of(partition: Partition, number: int) -> dict[bytes, bytes]:
    client = project_queue()
    return client.run(protocol.queue.contents(client.context, 0, partition, number))


def test_increments_are_applied_exactly(articles: list[Article]) -> None:
    """Many writes of a row are one number in the queue and one change of the row."""
    for turn in range(500):
        Article.behind.update(articles[turn % 20].pk, views=F("views") + 1)
    assert set(views().values()) == {0}
    drained = drain_all()
    assert sum(each.rows for each in drained) == 20
    assert set(views().values()) == {25}
    assert writebehind.dirty_partitions() == []
    assert WriteBehindCheckpoint.objects.count() == len(drained)


def test_async_writes_are_applied(articles: list[Article]) -> None:
    """From many tasks at once."""

    async def main() -> None:
        await asyncio.gather(
            *[Article.behind.aupdate(article.pk, views=F("views") + 2) for article in articles * 5]
        )

    asyncio.run(main())
    drain_all()
    assert set(views().values()) == {10}


def test_a_put_replaces_earlier_changes_and_later_ones_are_added(articles: list[Article]) -> None:
    """Delta, put, delta: the result is the put plus the second delta."""
    pk = articles[0].pk
    Article.behind.update(pk, views=F("views") + 100)
    Article.behind.update(pk, views=7, last_viewed=MOMENT)
    Article.behind.update(pk, views=F("views") - 2)
    drain_all()
    row = Article.objects.get(pk=pk)
    assert (row.views, row.last_viewed) == (5, MOMENT)
    Article.behind.update(pk, last_viewed=None)
    drain_all()
    row.refresh_from_db()
    assert (row.views, row.last_viewed) == (5, None)


def test_rows_of_several_shapes_are_applied_in_one_batch(articles: list[Article]) -> None:
    """Each shape has its own statement; columns that a row does not change stay as they are."""
    Article.behind.update(articles[0].pk, views=1)
    Article.behind.update(articles[1].pk, last_viewed=MOMENT)
    Article.behind.update(articles[2].pk, views=F("views") + 3, last_viewed=MOMENT)
    drain_all()
    rows = Article.objects.order_by("pk")[:4].values_list("views", "last_viewed")
    assert list(rows) == [(1, None), (0, MOMENT), (3, MOMENT), (0, None)]


def test_a_missing_row_is_counted_and_not_created(articles: list[Article]) -> None:
    """A delta of a missing row has no effect."""
    Article.behind.update(999_999, views=F("views") + 1)
    [drained] = drain_all()
    assert (drained.rows, drained.missing) == (0, 1)
    assert not Article.objects.filter(pk=999_999).exists()


def test_a_drain_invalidates_the_rows_it_changed(articles: list[Article]) -> None:
    """A cached row shows the drained value."""
    pk = articles[0].pk
    assert Article.cached.get(pk=pk).views == 0
    Article.behind.update(pk, views=F("views") + 1)
    drain_all()
    assert Article.cached.get(pk=pk).views == 1


def test_a_refused_write_queues_nothing(articles: list[Article]) -> None:
    """Not even the valid fields of the call."""
    with pytest.raises(WriteBehindRefusedError):
        Article.behind.update(articles[0].pk, views=F("views") + 1, last_viewed="never")
    with pytest.raises(WriteBehindRefusedError, match="Article.title is not written behind"):
        Article.behind.update(articles[0].pk, title="x")
    with pytest.raises(WriteBehindRefusedError, match="no primary key like 'x'"):
        Article.behind.update("x", views=1)
    with pytest.raises(WriteBehindRefusedError, match="nothing to change"):
        Article.behind.update(articles[0].pk)
    assert writebehind.dirty_partitions() == []


def test_writes_during_a_drain_go_into_the_next_batch(
    articles: list[Article], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sealed batch never changes; writes during the drain go to the next batch."""
    pk = articles[0].pk
    Article.behind.update(pk, views=F("views") + 1)
    apply_or_park = drains.apply_or_park

    def write_meanwhile(*arguments: Any) -> Any:
        Article.behind.update(pk, views=F("views") + 10)
        return apply_or_park(*arguments)

    monkeypatch.setattr(drains, "apply_or_park", write_meanwhile)
    [(partition, _)] = writebehind.dirty_partitions()
    assert writebehind.drain(partition, max_batches=1).more
    assert views()[pk] == 1
    monkeypatch.undo()
    writebehind.drain(partition)
    assert views()[pk] == 11


class Killed(BaseException):
    """Raised where a worker's process would end."""


@pytest.mark.parametrize("step", ["seal", "contents", "apply_or_park", "invalidate_rows", "_commit", "close"])
def test_a_worker_killed_at_any_step_loses_and_doubles_nothing(
    articles: list[Article], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The next drain continues after the checkpoint."""
    pk = articles[0].pk
    Article.behind.update(pk, views=F("views") + 1)
    [(partition, _)] = writebehind.dirty_partitions()

    def die(*_: Any) -> None:
        if step == "_commit":
            connection.rollback()  # as Postgres does when the connection is lost
        raise Killed

    queue = protocol.queue
    owner = {"seal": queue, "contents": queue, "close": queue, "_commit": BaseDatabaseWrapper}.get(
        step, drains
    )
    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, step, die)
            writebehind.drain(partition)
        Article.behind.update(pk, views=F("views") + 1)
    drain_all()
    assert views()[pk] == 4
    assert writebehind.dirty_partitions() == []


def test_the_number_is_committed_with_the_rows(
    articles: list[Article], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after the commit, every reader sees both."""
    pk = articles[0].pk
    commit, seen = BaseDatabaseWrapper._commit, []  # type: ignore[attr-defined]  # Django's own

    def look(self: BaseDatabaseWrapper) -> None:
        commit(self)
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(read).result())

    def read() -> tuple[int, int]:
        try:
            batches = WriteBehindCheckpoint.objects.values_list("batch", flat=True)
            return views()[pk], sum(batches)
        finally:
            connections.close_all()

    Article.behind.update(pk, views=F("views") + 1)
    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", look)
    drain_all()
    monkeypatch.undo()
    assert seen[-1] == (1, 1)


def test_a_drained_batch_that_was_not_closed_is_deleted_and_not_applied_again(
    articles: list[Article], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was killed after the commit: the checkpoint has the number, so the next drain deletes it."""
    Article.behind.update(articles[0].pk, views=F("views") + 1)
    [(partition, _)] = writebehind.dirty_partitions()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(protocol.queue, "close", lambda *_: (_ for _ in ()).throw(Killed))
        writebehind.drain(partition)
    assert batch_of(partition, 1) != {}
    writebehind.drain(partition)
    assert batch_of(partition, 1) == {}
    assert views()[articles[0].pk] == 1
    assert writebehind.dirty_partitions() == []


def test_a_partition_that_another_worker_drains_is_skipped(articles: list[Article]) -> None:
    """The lock of the checkpoint's row is the mutex."""
    Article.behind.update(articles[0].pk, views=F("views") + 1)
    [(partition, _)] = writebehind.dirty_partitions()
    writebehind.drain(partition)
    Article.behind.update(articles[0].pk, views=F("views") + 1)
    with session(LOCK_CHECKPOINTS):
        assert writebehind.drain(partition).batches == 0
    assert writebehind.drain(partition).batches == 1


def test_a_queue_that_lost_its_batches_stops(articles: list[Article], services: Services) -> None:
    """It does not take a new batch 1 for one that was drained."""
    for _ in range(2):
        Article.behind.update(articles[0].pk, views=F("views") + 1)
        drain_all()
    [node] = project_queue().nodes
    node.call((b"FLUSHALL",))
    Article.behind.update(articles[0].pk, views=F("views") + 1)
    with pytest.raises(WriteBehindError, match=r"is not the one whose batch 2 was drained"):
        drain_all()
    assert views()[articles[0].pk] == 2


def test_a_restarted_queue_node_has_its_writes(articles: list[Article], services: Services) -> None:
    """While killed, it answers nothing; restarted, it has read its file."""
    services_queue = project_queue().nodes[0]
    Article.behind.update(articles[0].pk, views=F("views") + 1)
    services_queue.call((b"WAITAOF", b"1", b"0", b"1000"))
    services.kill("queue-a")
    try:
        for message in (
            "(is not reachable|closed the connection)",
            "is not reachable",
            "is ejected",
        ):  # the connection's error, the node's own, the breaker's
            with pytest.raises(NodeUnavailableError, match=f"node 'queue-a' {message}"):
                Article.behind.update(articles[0].pk, views=F("views") + 1)
    finally:
        restart_queue(services)
    Article.behind.update(articles[0].pk, views=F("views") + 1)
    drain_all()
    assert views()[articles[0].pk] == 2


@override_settings(WRITE_BEHIND={})
def test_without_queue_nodes_write_behind_raises() -> None:
    """The error says what to set."""
    with pytest.raises(ConfigurationError, match=r"WRITE_BEHIND\['nodes'\]: names no node"):
        Article.behind.update(1, views=1)


def test_a_queue_of_an_unknown_model_raises() -> None:
    """The model was removed while its writes were queued."""
    with pytest.raises(WriteBehindError, match="'shop.gone', but this project has no such model"):
        writebehind.drain(Partition("shop.gone", 0))


def test_a_large_batch_is_sealed(articles: list[Article]) -> None:
    """Each field of a row counts; the batches are drained in order, one transaction each."""
    with one_partition(batch_rows=7):
        for article in articles:
            Article.behind.update(article.pk, views=F("views") + 1)
        [drained] = drain_all()
    assert (drained.batches, drained.rows) == (2, 20)  # of 8 rows and of 12
    assert set(views().values()) == {1}


def test_the_tick_sends_a_drain_for_each_dirty_partition(articles: list[Article], settings: Any) -> None:
    """And the tasks, run in the same process, drain everything."""
    from celery import current_app

    from cachebackend.tasks import tick

    for article in articles:
        Article.behind.update(article.pk, views=F("views") + 1)
    waiting = len(writebehind.dirty_partitions())
    current_app.conf.task_always_eager = True
    try:
        assert tick.apply().get() == waiting
        assert tick.apply().get() == 0
    finally:
        current_app.conf.task_always_eager = False
    assert set(views().values()) == {1}


@override_settings(WRITE_BEHIND={})
def test_the_tick_of_a_project_without_write_behind_does_nothing() -> None:
    """The schedule holds it all the same, so it must not fail every second."""
    from cachebackend.tasks import tick

    assert tick.apply(throw=True).get() == 0


def test_drained_rows_are_known_while_the_queue_node_is_down(
    articles: list[Article], services: Services
) -> None:
    """Postgres holds their numbers. Only the queued writes are unknown."""
    for article in articles:
        Article.behind.update(article.pk, views=F("views") + 1)
    drain_all()
    before = {each.partition: each for each in writebehind.partition_statuses() if each.landed}
    services.kill("queue-a")
    try:
        after = {each.partition: each for each in writebehind.partition_statuses() if each.landed}
    finally:
        restart_queue(services)
    assert before.keys() == after.keys()
    assert not any(each.is_queue_seen for each in after.values())
    for partition, each in before.items():
        now = after[partition]
        assert (now.landed, now.landed_at, now.rows) == (each.landed, each.landed_at, each.rows)


def test_the_tick_survives_a_dead_queue_node(services: Services) -> None:
    """It logs the error and sends nothing."""
    from cachebackend.tasks import tick

    services.kill("queue-a")
    try:
        assert tick.apply().get() == 0
    finally:
        restart_queue(services)


def test_drains_use_one_statement_for_each_shape(articles: list[Article]) -> None:
    """A batch of counter increments is one UPDATE, for any number of rows."""
    from django.test.utils import CaptureQueriesContext

    with one_partition():
        for article in articles:
            Article.behind.update(article.pk, views=F("views") + 1)
        with CaptureQueriesContext(connection) as captured:
            drain_all()
    updates = [query["sql"] for query in captured if query["sql"].startswith('UPDATE "demo_article"')]
    assert len(updates) == 1
