"""Reads of rows merged with their queued writes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import F
from django.db.models.functions import Greatest

from cachebackend import uuid7
from cachebackend.effects import Send
from cachebackend.errors import WriteBehindError, WriteBehindRefusedError
from cachebackend.protocol.queue import pending_writes as pending_module
from tests.integration.write_behind import drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5, seen=MOMENT)


@pytest.mark.parametrize("moment", ["seal", "contents", "apply_or_park", "invalidate_rows", "close", "after"])
def test_a_read_is_exact_at_every_step_of_a_drain(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """No batch counts twice that the row contains, and none is lost that the queue has deleted."""
    from cachebackend import protocol
    from cachebackend.writebehind import drains

    seen = []
    owner = protocol.queue if moment in {"seal", "contents", "close"} else drains
    real = None if moment == "after" else getattr(owner, moment)

    def look(*arguments: Any) -> Any:
        seen.append(read_elsewhere(meter.pk))
        return real(*arguments)  # type: ignore[misc]

    Meter.behind.update(meter.pk, count=F("count") + 1)
    drain_all()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    if real is not None:
        monkeypatch.setattr(owner, moment, look)
    drain_all()
    seen.append(Meter.behind.get(meter.pk).count)
    assert set(seen) == {2}


def read_elsewhere(pk: Any) -> int:
    """Read in a thread, which has its own connection."""
    from concurrent.futures import ThreadPoolExecutor

    def read() -> int:
        try:
            return Meter.behind.get(pk).count
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(read).result()


def test_a_batch_drained_between_the_two_reads_is_not_lost(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is read again, because the queue has deleted a batch that the row lacks."""
    from cachebackend.writebehind import reads

    read_queue = reads._read_queue
    turns = []

    def drain_first(*arguments: Any) -> Any:
        if not turns:
            turns.append(1)
            drain_all()
        return read_queue(*arguments)

    Meter.behind.update(meter.pk, count=F("count") + 1)
    monkeypatch.setattr(reads, "_read_queue", drain_first)
    assert Meter.behind.get(meter.pk).count == 1
    key = uuid7()
    Meter.behind.create(pk=key, count=5)
    turns.clear()
    assert Meter.behind.get(key).count == 5


def test_a_read_in_an_old_snapshot_raises(meter: Meter) -> None:
    """It has no exact answer, so it raises."""
    Meter.behind.update(meter.pk, count=F("count") + 1)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert Meter.behind.get(meter.pk).count == 1
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: (drain_all(), connections.close_all())).result()
        with pytest.raises(WriteBehindError, match="REPEATABLE READ"):
            Meter.behind.get(meter.pk)


def test_a_row_of_many_is_read_at_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows one call reads, the changes of one write are seen together or not at all."""
    from cachebackend import protocol
    from cachebackend.writebehind import reads

    rows = Meter.objects.bulk_create([Meter() for _ in range(9)])
    pending, writes = protocol.queue.pending, iter(range(2, 100))

    def write() -> None:
        number = next(writes)
        Meter.behind.update_many({row.pk: {"level": number, "count": number} for row in rows})

    def command_by_command(*arguments: Any) -> Any:
        operation = pending(*arguments)
        effect: Any = next(operation)
        while True:
            replies = []
            for request in effect.requests:
                replies += yield Send([request])
                write()
            try:
                effect = operation.send(replies)
            except StopIteration as end:
                return end.value

    for module in (reads, pending_module):
        monkeypatch.setattr(module, "PENDING_FIELDS", 74)  # the fields of two rows, and two more
    with one_partition():
        write()
        monkeypatch.setattr(protocol.queue, "pending", command_by_command)
        found = Meter.behind.in_bulk([row.pk for row in rows]).values()
    assert [(row.level, row.count) for row in found if row.level != row.count] == []
    assert len({row.level for row in found}) == 5


def test_pending_returns_the_queued_changes(meter: Meter) -> None:
    """One item for each batch, with values decoded."""
    Meter.behind.update(meter.pk, count=F("count") + 2, seen=None, level=Greatest(F("level"), 3))
    [batch] = Meter.behind.pending(meter.pk)
    assert batch.changes == {"count": {"add": 2}, "seen": {"put": None}, "level": {"at_least": 3}}
    assert (batch.is_created, batch.is_deleted) == (False, False)
    drain_all()
    assert Meter.behind.pending(meter.pk) == []


def test_an_instance_with_queued_writes_is_not_saved(meter: Meter) -> None:
    """A sum that is queued would count twice; columns without queued writes are saved."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    shown = Meter.behind.get(meter.pk)
    with pytest.raises(WriteBehindRefusedError, match="queued writes of count"):
        shown.save()
    shown.label = "saved"
    shown.save(update_fields=["label"])
    drain_all()
    meter.refresh_from_db()
    assert (meter.count, meter.label) == (2, "saved")
    drained = Meter.behind.get(meter.pk)
    drained.level = 9
    drained.save()
    assert Meter.objects.get().level == 9


def test_an_instance_of_a_queued_row_is_not_saved() -> None:
    """``save()`` would insert the row, and the drain would park the queued creation."""
    created = Meter.behind.create(label="queued")
    for instance in (created, Meter.behind.get(created.pk)):
        with pytest.raises(WriteBehindRefusedError):
            instance.save()
