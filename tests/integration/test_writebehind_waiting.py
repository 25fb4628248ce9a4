"""Rows that wait for another row or for a lock: they are set aside, and retried by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from cachebackend import tasks, writebehind
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.written_rows import WrittenChange
from cachebackend.models import ParkedWrite
from cachebackend.writebehind import limits
from tests.integration.write_behind import command, drain_all, one_partition
from tests.sessions import session
from tests.shop.models import Meter, Stamped, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def meters() -> list[Meter]:
    """Rows, in the order of their keys."""
    return sorted(Meter.objects.bulk_create([Meter() for _ in range(6)]), key=lambda meter: meter.pk)


@pytest.fixture(autouse=True)
def short_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain waits 50 ms for a lock."""
    monkeypatch.setattr(limits, "LOCK_MS", 50)


def locks(row: Meter) -> str:
    """Return the statement that locks a row."""
    return f"SELECT 1 FROM shop_meter WHERE id = '{row.pk}' FOR UPDATE"


def add(meters: list[Meter], count: int) -> None:
    Meter.behind.update_many({meter.pk: {"count": F("count") + count} for meter in meters})


def counts(meters: list[Meter]) -> list[int]:
    stored = Meter.objects.in_bulk([meter.pk for meter in meters])
    return [stored[meter.pk].count for meter in meters]


def read_behind(meters: list[Meter]) -> list[int]:
    read = Meter.behind.in_bulk([meter.pk for meter in meters])
    return [read[meter.pk].count for meter in meters]


def make_due() -> None:
    """Let the time of the next retry pass."""
    ParkedWrite.objects.filter(retry_at__isnull=False).update(retry_at=Now())


def test_only_a_locked_row_waits(meters: list[Meter], caplog: pytest.LogCaptureFixture) -> None:
    """The other rows are applied; the row's writes are read, and applied in order when it is free."""
    row = meters[3]
    with one_partition():
        with session(locks(row)):
            add(meters, 1)
            [drained] = drain_all()
            assert (drained.rows, drained.parked, drained.waiting) == (5, 0, 1)
            assert "wait for other rows, for locks or for a deploy" in caplog.text
            assert counts(meters) == [1, 1, 1, 0, 1, 1]
            assert read_behind(meters) == [1] * 6
            for _ in range(3):
                Meter.behind.update(row.pk, count=F("count") + 10, level=7)
                assert [each.waiting for each in drain_all()] == [1]
            Meter.behind.update(row.pk, count=F("count") + 100)
            assert Meter.behind.get(row.pk).count == 131
            assert ParkedWrite.objects.count() == 2
            make_due()
            assert writebehind.retry_waiting("default").applied == 0
        make_due()
        assert writebehind.due_databases() == ["default"]
        retried = writebehind.retry_waiting("default")
        assert (retried.applied, retried.remaining) == (2, [])
        assert writebehind.due_databases() == []
        assert counts([row]) == [31]
        assert Meter.behind.get(row.pk).count == 131
        drain_all()
    row.refresh_from_db()
    assert (row.count, row.level) == (131, 7)
    assert not ParkedWrite.objects.exists()


def test_a_locked_table_makes_the_batch_wait(meters: list[Meter]) -> None:
    """No row is at fault, so none is set aside."""
    with one_partition():
        add(meters, 1)
        with session("LOCK TABLE shop_meter IN SHARE MODE"), pytest.raises(DatabaseError, match="lock"):
            drain_all()
        assert not ParkedWrite.objects.exists()
        assert [each.rows for each in drain_all()] == [6]


def test_a_child_is_applied_when_its_parent_exists(meters: list[Meter]) -> None:
    """The parent may be drained later; a retry happens by itself, and not before its time."""
    child = meters[0]
    with one_partition():
        Meter.behind.update(child.pk, tag=404, count=F("count") + 1)
        assert [each.waiting for each in drain_all()] == [1]
        assert writebehind.due_databases() == []
        make_due()
        assert writebehind.retry_waiting("default").applied == 0
        parked = ParkedWrite.objects.get()
        assert parked.retry_at is not None
        assert parked.retry_at - parked.created >= timedelta(seconds=1)
        assert command("parked", code=1)["writes"][0]["retry_at"] is not None
        Tag.objects.create(pk=404, name="parent")
        assert writebehind.retry_waiting("default").applied == 0
        make_due()
        assert writebehind.retry_waiting("default").applied == 1
    child.refresh_from_db()
    assert (child.tag_id, child.count) == (404, 1)


def test_the_tick_retries_waiting_writes(meters: list[Meter]) -> None:
    """Also when nothing is queued, because the parent may belong to another model."""
    from celery import current_app

    from cachebackend.tasks import tick

    Meter.behind.update(meters[0].pk, tag=404)
    drain_all()
    Tag.objects.create(pk=404, name="parent")
    make_due()
    current_app.conf.task_always_eager = True
    try:
        assert tick.apply().get() == 0
    finally:
        current_app.conf.task_always_eager = False
    assert Meter.objects.get(pk=meters[0].pk).tag_id == 404


def test_the_drain_command_applies_waiting_writes(meters: list[Meter]) -> None:
    """Without waiting for the time of their next retry."""
    Meter.behind.update(meters[0].pk, tag=404)
    drain_all()
    assert command("drain")["waiting"] == 1
    Tag.objects.create(pk=404, name="parent")
    report = command("drain")
    assert (report["rows"], report["waiting"]) == (1, 0)


def test_a_waiting_write_that_is_refused_needs_a_person(meters: list[Meter]) -> None:
    """A retry may meet another error; the writes behind it wait for the person too."""
    row = meters[0]
    with one_partition():
        with session(locks(row)):
            Meter.behind.update(row.pk, level=500)
            drain_all()
            Meter.behind.update(row.pk, level=5)
            drain_all()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE shop_meter ADD CONSTRAINT low CHECK (level < 100)")
        try:
            retried = writebehind.retry_waiting("default", due_only=False)
            assert (retried.applied, len(retried.remaining)) == (0, 2)
            assert not ParkedWrite.objects.filter(retry_at__isnull=False).exists()
            assert Meter.behind.get(row.pk).level is None
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE shop_meter DROP CONSTRAINT low")
        assert command("retry", "--all")["landed"] == 2
    assert Meter.objects.get(pk=row.pk).level == 5


def test_the_order_is_kept_if_a_retry_ends_between_two_writes(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write behind an applied one is retried by itself."""
    row = meters[0]
    with one_partition():
        with session(locks(row)):
            for level in (1, 2):
                Meter.behind.update(row.pk, level=level)
                drain_all()
        limit, calls = limits.limit_times, []

        def end_before_the_second(using: str) -> None:
            calls.append(using)
            if len(calls) == 2:
                raise KeyboardInterrupt
            limit(using)

        monkeypatch.setattr("cachebackend.writebehind.transactions.limit_times", end_before_the_second)
        with pytest.raises(KeyboardInterrupt):
            writebehind.retry_waiting("default", due_only=False)
        assert Meter.objects.get(pk=row.pk).level == 1
        assert writebehind.retry_waiting("default").applied == 1
    assert Meter.objects.get(pk=row.pk).level == 2


def test_a_retry_waits_for_a_drain_of_the_row(meters: list[Meter]) -> None:
    """Whichever comes second sees what the first has left: a drain holds the row's parked writes."""
    row = meters[0]
    with one_partition():
        Meter.behind.update(row.pk, tag=404)
        drain_all()
        with session("SELECT 1 FROM cachebackend_parkedwrite FOR UPDATE"):
            [write] = writebehind.retry_waiting("default", due_only=False).remaining
            assert "lock" in write.error
            add([row], 1)
            with pytest.raises(DatabaseError, match="lock"):
                drain_all()
        Tag.objects.create(pk=404, name="parent")
        assert writebehind.retry_waiting("default", due_only=False).applied == 1
        assert [each.rows for each in drain_all()] == [1]


def test_a_row_that_cannot_be_retried_does_not_stop_the_others(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writes stay parked with the error, and it is retried later."""

    def invalidate(changes: list[WrittenChange], using: str) -> None:
        rows = [row for each in changes if each.changes for row in each.changes.rows]
        if any(row.new and row.new["pk"] == meters[2].pk for row in rows):
            raise NodeUnavailableError("the node of a strict row is down")

    with one_partition():
        Meter.behind.update_many({meter.pk: {"tag": 404} for meter in meters})
        assert [each.waiting for each in drain_all()] == [6]
    Tag.objects.create(pk=404, name="parent")
    make_due()
    with monkeypatch.context() as patch:
        patch.setattr(
            "cachebackend.invalidation.written_rows.watched_tables", lambda _: [WatchedTable(Meter)]
        )
        patch.setattr("cachebackend.writebehind.retries.invalidate_rows", invalidate)
        assert tasks.retry_waiting("default") == 5
    parked = ParkedWrite.objects.get()
    assert parked.error == "the node of a strict row is down"
    assert writebehind.due_databases() == []
    assert writebehind.retry_waiting("default", due_only=False).applied == 1


@pytest.mark.parametrize("first", ["refused", "missing"])
def test_a_drain_retries_the_writes_behind_those_that_cannot_be_applied(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """More of them than one transaction, and one call, handles; those of rows that are gone count as none."""
    monkeypatch.setattr("cachebackend.writebehind.retries.ROWS_RETRIED", 2)
    with one_partition():
        for number, meter in enumerate(meters[:4]):
            Meter.behind.update(meter.pk, tag=404 if number < 3 else 405)
            drain_all()
        Tag.objects.create(pk=405, name="parent")
        if first == "missing":
            Meter.objects.filter(pk__in=[meter.pk for meter in meters[:3]]).delete()
        report = command("drain")
    assert (report["rows"], report["missing"], report["waiting"]) == (
        (1, 0, 3) if first == "refused" else (1, 3, 0)
    )
    assert Meter.objects.get(pk=meters[3].pk).tag_id == 405


def test_a_locked_table_does_not_stop_the_retries_of_other_models(meters: list[Meter]) -> None:
    """The writes of each model are retried by themselves."""
    stamped = Stamped.objects.create()
    with session("SELECT 1 FROM shop_meter FOR UPDATE"), session("SELECT 1 FROM shop_stamped FOR UPDATE"):
        Meter.behind.update(meters[0].pk, level=1)
        Stamped.behind.update(stamped.pk, made=timezone.now())
        assert [each.waiting for each in drain_all()] == [1, 1]
    with session("LOCK TABLE shop_meter"):
        retried = writebehind.retry_waiting("default", due_only=False)
        assert (retried.applied, [write.label for write in retried.remaining]) == (1, ["shop.meter"])
    assert writebehind.retry_waiting("default", due_only=False).applied == 1


@pytest.fixture
def unique_levels(meters: list[Meter]) -> Iterator[list[Meter]]:
    """Rows with the levels 0 to 5, each of them only once."""
    for level, meter in enumerate(meters):
        Meter.objects.filter(pk=meter.pk).update(level=level)
    with connection.cursor() as cursor:
        cursor.execute("CREATE UNIQUE INDEX one_level ON shop_meter (level)")
    yield meters
    with connection.cursor() as cursor:
        cursor.execute("DROP INDEX one_level")


def levels(meters: list[Meter]) -> list[int | None]:
    stored = Meter.objects.in_bulk([meter.pk for meter in meters])
    return [stored[meter.pk].level for meter in meters]


def test_values_that_other_rows_of_the_batch_free_are_written(unique_levels: list[Meter]) -> None:
    """In whichever order the rows are written: a refused row is tried again while that helps."""
    with one_partition():
        for meter in reversed(unique_levels):
            Meter.behind.update(meter.pk, level=F("level") + 1)
        assert [(each.rows, each.parked + each.waiting) for each in drain_all()] == [(6, 0)]
    assert levels(unique_levels) == [1, 2, 3, 4, 5, 6]


def test_a_value_that_a_later_batch_frees_is_waited_for(unique_levels: list[Meter]) -> None:
    """The batch of another partition may be drained later; one retry writes all rows, in any order."""
    for meter in reversed(unique_levels):
        Meter.behind.update(meter.pk, level=F("level") + 1)
    drained = drain_all()
    assert sum(each.parked for each in drained) == 0
    assert command("retry", "--all")["left"] == 0
    assert levels(unique_levels) == [1, 2, 3, 4, 5, 6]


def test_a_value_that_stays_taken_needs_a_person(unique_levels: list[Meter]) -> None:
    """After some minutes no queued write will free it."""
    with one_partition():
        Meter.behind.update(unique_levels[0].pk, level=5)
        assert [(each.parked, each.waiting) for each in drain_all()] == [(0, 1)]
        Meter.behind.update(unique_levels[0].pk, level=6)
        drain_all()
        assert writebehind.retry_waiting("default", due_only=False).applied == 0
        assert ParkedWrite.objects.order_by("pk")[0].retry_at is not None
        ParkedWrite.objects.update(created=Now() - timedelta(minutes=6))
        assert writebehind.retry_waiting("default", due_only=False).applied == 0
        assert not ParkedWrite.objects.filter(retry_at__isnull=False).exists()
        Meter.objects.filter(pk=unique_levels[5].pk).update(level=50)
        assert command("retry", "--all")["landed"] == 2
    assert levels(unique_levels)[0] == 6
