"""A signal handler that raises anywhere in a write of rows leaves no stale copy, and no write is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, TypeAlias

import pytest
from django.db import DatabaseError, close_old_connections, connections, models, router, transaction
from django.db.models import F
from django.db.models.functions import Now

from cachebackend import RingCache, invalidation, writebehind
from cachebackend.invalidation import outbox_databases
from cachebackend.invalidation.outbox import write_row
from cachebackend.models import OutboxRow
from cachebackend.writebehind.queue import project_queue
from cacheproject.demo.models import Article
from tests.integration.test_interrupts import check_client, check_node
from tests.integration.write_behind import drain_all, one_partition
from tests.interrupting import FORGOTTEN_THREADS, SoftLimitError, handler, interrupted_everywhere
from tests.shop.models import Author, Meter

__all__ = ["handler"]

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("handler", "empty_nodes"),
    pytest.mark.postgres,
    FORGOTTEN_THREADS,
]
#: One in ``STEP`` places of a write is interrupted: a write has thousands.
STEP = 97
_numbers = count(1)
Operation: TypeAlias = Callable[[], object]


class Rows:
    """The rows of one model in one database, as they are stored and as they are cached.

    Attributes:
        pk: The row that the operations change.
        field: The field that they change.
        pks: The rows that are compared.
    """

    def __init__(self, model: type[Any], field: str, using: str, cache: RingCache) -> None:
        self.model, self.field, self.using, self.cache = model, field, using, cache
        self.objects: models.Manager[Any] = model.objects.db_manager(using)
        self.pk = self.create().pk
        self.pks = {self.pk}

    def values(self) -> dict[str, Any]:
        """Return the columns of a new row."""
        number = next(_numbers)
        return {"name": f"{number}"} if self.model is Author else {"slug": f"{number}", "title": f"{number}"}

    def create(self) -> Any:
        row = self.model(pk=next(_numbers), **self.values())
        row.save(using=self.using)
        return row

    def changed(self) -> Any:
        """Return the row with a new value that is not saved."""
        row = self.objects.get(pk=self.pk)
        setattr(row, self.field, f"changed {next(_numbers)}")
        return row

    def stored(self) -> dict[Any, str]:
        rows = self.objects.filter(pk__in=self.pks)
        return {row.pk: getattr(row, self.field) for row in rows}

    def cached(self) -> dict[Any, str]:
        rows = self.model.cached.in_bulk(self.pks)
        return {row.pk: getattr(row, self.field) for row in rows.values()}

    def check(self) -> None:
        """Check that the cached rows are those that are stored, or become them with the relay."""
        connection = connections[self.using]
        assert not connection.in_atomic_block
        close_old_connections()  # as Django does when a request ends
        stored = self.stored()
        if self.cached() != stored:
            assert relay_all(self.using)
            assert self.cached() == stored
        relay_all(self.using)
        check_client(self.cache.client)


def relay_all(using: str) -> int:
    """Relay the outbox of a database, also its young rows; return how many rows were in it."""
    for asker in outbox_databases._askers.get(using, ()):
        answer = asker.answer
        if answer is not None and not answer.is_awaited:  # an interrupted relay may still lock rows
            answer.result(10)
    rows = OutboxRow.objects.using(using)
    number = rows.update(created=Now() - timedelta(seconds=60))
    if number:
        result = invalidation.relay()
        assert (result.pending, result.failed) == (0, {})
        assert not rows.exists()
    return number


class Router:
    """Stores the articles in one database."""

    def __init__(self, using: str) -> None:
        self._using = using

    def db_for_read(self, model: type[models.Model], **_: Any) -> str | None:
        return self._using if model is Article else None

    db_for_write = db_for_read


@pytest.fixture(params=["Postgres", "triggers", "SQLite", "strict"])
def rows(request: pytest.FixtureRequest, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The rows of a model, one of which is cached."""
    monkeypatch.setattr(Article.cached, "is_strict", request.param == "strict")
    using = "lite" if request.param == "SQLite" else "default"
    monkeypatch.setattr(router, "routers", [Router(using)])
    of_model = (Author, "name") if request.param == "triggers" else (Article, "title")
    return Rows(*of_model, using, ring_cache)


def save(rows: Rows) -> Operation:
    return partial(rows.changed().save, using=rows.using)


def update(rows: Rows) -> Operation:
    return lambda: rows.objects.filter(pk=rows.pk).update(**{rows.field: f"updated {next(_numbers)}"})


def delete(rows: Rows) -> Operation:
    row = rows.create()
    rows.pks = {rows.pk, row.pk}
    assert len(rows.cached()) == 2
    return row.delete  # type: ignore[no-any-return]  # a row of any model


def bulk_create(rows: Rows) -> Operation:
    new = [rows.model(pk=next(_numbers), **rows.values()) for _ in range(2)]
    rows.pks = {rows.pk, *(row.pk for row in new)}
    assert len(rows.cached()) == 1  # the others' absence may be cached
    return lambda: rows.objects.bulk_create(new)


def bulk_update(rows: Rows) -> Operation:
    return partial(rows.objects.bulk_update, [rows.changed()], [rows.field])


def load(rows: Rows) -> Operation:
    rows.cache.delete_many(rows.cache.keys("*"))
    rows.cached()
    rows.cache.delete_many(rows.cache.keys("*"))

    def load_both() -> None:
        rows.model.cached.get(pk=rows.pk)
        rows.cache.get_or_set(f"{next(_numbers)}", lambda: list(rows.objects.all()), 60, tags=[rows.model])

    return load_both


OPERATIONS = [save, update, delete, bulk_create, bulk_update, load]


@pytest.mark.parametrize("prepare", OPERATIONS, ids=lambda prepare: prepare.__name__)
def test_an_interrupted_write_leaves_no_stale_copy(rows: Rows, prepare: Callable[[Rows], Operation]) -> None:
    """Before the commit nothing has changed; after it the copy is deleted, or a delete is pending."""
    operations: list[Operation] = []

    def run() -> None:
        operations.pop()()

    def make() -> None:
        operations.append(prepare(rows))

    assert interrupted_everywhere(run, rows.check, STEP, make) == []


def test_a_block_is_committed_with_its_callbacks_or_not_at_all(rows: Rows) -> None:
    """After the commit all callbacks run, even if what precedes them is interrupted."""
    block = Block(rows)
    assert interrupted_everywhere(block.run, block.check, STEP, block.prepare) == []


class Block:
    """A transaction that changes two rows, the second one in a savepoint, and has a callback."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._called: list[str] = []
        self._may_lose_callbacks = False

    def prepare(self) -> None:
        self._row, self._other = self._rows.changed(), self._rows.create()
        self._rows.pks = {self._row.pk, self._other.pk}
        self._before, self._after = self._rows.stored()[self._row.pk], getattr(self._row, self._rows.field)

    def run(self) -> None:
        self._may_lose_callbacks = False
        try:
            self._run()
        except transaction.TransactionManagementError as error:
            # Django takes a limit that is a database error for one of the rollback to the savepoint
            raise SoftLimitError from error
        except DatabaseError:  # or for one of the COMMIT: then it drops the callbacks
            self._may_lose_callbacks = True
            raise

    def _run(self) -> None:
        using = self._rows.using
        with transaction.atomic(using=using):
            self._row.save(using=using)
            with transaction.atomic(using=using):
                self._rows.objects.filter(pk=self._row.pk).delete()
                transaction.set_rollback(True, using=using)
            with transaction.atomic(using=using):
                self._other.delete(using=using)
            transaction.on_commit(lambda: self._called.append(self._after), using=using)

    def check(self) -> None:
        stored = self._rows.stored()
        is_committed = stored[self._row.pk] == self._after
        assert is_committed or stored[self._row.pk] == self._before
        are_called = self._called.count(self._after)
        assert are_called == is_committed or (self._may_lose_callbacks and not are_called)
        assert len(stored) == (1 if is_committed else 2)
        self._rows.check()


def test_an_interrupted_relay_leaves_its_rows(ring_cache: RingCache) -> None:
    """The next run processes them."""

    def prepare() -> None:
        write_row("default", {"default": {ring_cache.key_bytes("key")}})
        OutboxRow.objects.update(created=Now() - timedelta(seconds=60))

    assert interrupted_everywhere(invalidation.relay, lambda: relay_all("default"), prepare=prepare) == []
    assert not OutboxRow.objects.exists()


def test_an_interrupted_drain_writes_each_change_once() -> None:
    """The next drain continues where it was interrupted."""
    with one_partition():
        meter = Meter.objects.create()
        queued = [0]

        def drain() -> None:
            Meter.behind.update(meter.pk, count=F("count") + 1)
            drain_all()

        def prepare() -> None:
            queued[0] += 1

        def check() -> None:
            close_old_connections()
            drain_all()
            written = Meter.objects.get(pk=meter.pk).count
            assert written in {queued[0] - 1, queued[0]}  # less: interrupted before it was queued
            queued[0] = written
            assert writebehind.dirty_partitions() == []
            for node in project_queue().nodes:
                check_node(node)

        assert interrupted_everywhere(drain, check, 5 * STEP, prepare) == []
