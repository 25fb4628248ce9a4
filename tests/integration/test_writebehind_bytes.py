"""The limits of the queue in bytes, beside those in fields: large values fill it before many rows do."""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models import F
from django.db.models.functions import Greatest, Least

from cachebackend import writebehind
from cachebackend.errors import WriteBehindFullError, WriteBehindPartialError, WriteBehindRefusedError
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.queue import project_queue
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]

PARTITION = Partition("shop.meter", 0)
#: A value of 100 bytes in the queue: with its sign and its quotes.
LARGE = "x" * 97
#: The bytes of a row with that value: 32 of the key, ``data``, the kind, two NUL, and the value.
ROW_BYTES = 32 + 4 + 1 + 2 + 100


def queued_bytes() -> int:
    """Return the bytes that the queue counts."""
    [status] = command("status", code=None)["partitions"]
    return int(status["bytes"])


def held_bytes() -> int:
    """Return the bytes of what the open batch holds; a number counts with 20 digits."""
    client = project_queue()
    key = client.context.batch(PARTITION, 1)
    flat = client.nodes[0].call((b"HGETALL", key))
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return sum(len(name) + (20 if name[-1:] in b"dglh" else len(value)) for name, value in fields.items())


def test_every_kind_of_write_changes_the_count_by_its_bytes() -> None:
    """Of names and values, also if it replaces a value, deletes a row, or is refused in part."""
    meter, other = Meter.objects.bulk_create([Meter(), Meter()])
    update = Meter.behind.update
    created = Meter(label="new")
    with one_partition():
        steps: list[Any] = [
            lambda: update(meter.pk, count=F("count") + 1),
            lambda: update(meter.pk, count=F("count") + 2**40, level=7),
            lambda: update(meter.pk, level=Greatest(F("level"), 70_000)),
            lambda: update(meter.pk, level=Least(F("level"), 5)),
            lambda: update(meter.pk, level=F("level") + 1),
            lambda: update(other.pk, level=Least(F("level"), 5)),
            lambda: update(other.pk, level=Greatest(F("level"), 9)),
            lambda: update(meter.pk, data=LARGE, level=1),
            lambda: update(meter.pk, data="x", label="yy"),
            lambda: Meter.behind.create(pk=created.pk, label="new"),
            lambda: Meter.behind.delete(meter.pk),
            lambda: Meter.behind.delete(meter.pk),
            lambda: Meter.behind.create(pk=meter.pk, data=LARGE),
        ]
        for number, step in enumerate(steps):
            step()
            assert queued_bytes() == held_bytes() > 0, number
        update(other.pk, count=F("count") + 2**62)
        with pytest.raises(WriteBehindRefusedError, match="beyond 64 bits"):
            update(other.pk, seen=None, total=F("total") + 1, count=F("count") + 2**62)
        assert queued_bytes() == held_bytes()
        drain_all()
        assert queued_bytes() == 0


def test_the_limits_hold_within_one_call() -> None:
    """A batch is sealed at its bytes, and rows above the limit are refused; what is drained makes room."""
    rows = Meter.objects.bulk_create([Meter() for _ in range(20)])
    changes = {row.pk: {"data": LARGE} for row in rows}
    with one_partition(batch_bytes=4 * ROW_BYTES, high_water_bytes=14 * ROW_BYTES):
        with pytest.raises(WriteBehindPartialError) as caught:
            Meter.behind.update_many(changes)
        assert list(caught.value.errors) == [row.pk for row in rows[14:]]
        assert all(isinstance(error, WriteBehindFullError) for error in caught.value.errors.values())
        assert queued_bytes() == 14 * ROW_BYTES
        drained = writebehind.drain(PARTITION)
        assert (drained.batches, drained.rows) == (3, 14)  # of 4, 8 and 2 rows
        Meter.behind.update_many(dict(list(changes.items())[14:]))
        drain_all()
    assert not Meter.objects.exclude(data=LARGE).exists()


def test_a_full_queue_takes_what_needs_no_more_bytes() -> None:
    """Additions to queued sums, and values that are not longer than the ones that they replace."""
    one, other = Meter.objects.bulk_create([Meter(), Meter()])
    with one_partition(high_water_bytes=ROW_BYTES):
        Meter.behind.update(one.pk, data=LARGE, count=F("count") + 1)
        Meter.behind.update(one.pk, count=F("count") + 10**15)
        Meter.behind.update(one.pk, data=LARGE.upper())
        for pk, change in ((one.pk, {"data": LARGE + "x"}), (other.pk, {"count": F("count") + 1})):
            with pytest.raises(WriteBehindFullError, match="high_water_bytes"):
                Meter.behind.update(pk, **change)
        drain_all()
    one.refresh_from_db()
    assert (one.data, one.count) == (LARGE.upper(), 10**15 + 1)


def test_a_batch_of_an_earlier_release_has_no_limit_in_bytes() -> None:
    """Its bytes were not counted; those of the next batch are."""
    rows = Meter.objects.bulk_create([Meter() for _ in range(4)])
    with one_partition(high_water_bytes=2 * ROW_BYTES):
        client = project_queue()
        Meter.behind.update(rows[0].pk, data=LARGE)
        client.nodes[0].call((b"HDEL", client.context.meta(PARTITION), b"bytes", b"base:1"))
        Meter.behind.update_many({row.pk: {"data": LARGE} for row in rows})
        assert queued_bytes() == 0
        drain_all()
        with pytest.raises(WriteBehindPartialError):
            Meter.behind.update_many({row.pk: {"data": LARGE} for row in rows})
        drain_all()
