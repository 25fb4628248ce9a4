"""Queue nodes that lack what write-behind needs, and queues that hold bytes which no write puts there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from django.db.models import F
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.errors import (
    RingCacheError,
    WriteBehindDamagedError,
    WriteBehindError,
    WriteBehindUnknownError,
)
from cachebackend.models import ParkedWrite
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.descriptions import describe_row
from cachebackend.writebehind.parked import row_of
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5)


def add_one(meter: Meter) -> None:
    Meter.behind.update(meter.pk, count=F("count") + 1)


@pytest.fixture
def old_node(own_services: Services) -> Iterator[str]:
    """A node that lacks WAITAOF, as Redis before 7.2 does."""
    settings = ("--appendonly", "yes", "--maxmemory-policy", "noeviction", "--rename-command", "WAITAOF", "")
    own_services.add_node("old", *settings)
    yield own_services.node_url("old")
    own_services.kill("old")


def test_a_node_without_waitaof_is_reported(meter: Meter, old_node: str) -> None:
    """The checks of the nodes report it, and so does the drain; with ``memory`` it is not needed."""
    cannot_sync = (
        "'old' cannot report that its append-only file is on disk .*must be Redis 7.2 or later, or Valkey"
    )
    with override_settings(WRITE_BEHIND={"nodes": [old_node]}):
        add_one(meter)
        with pytest.raises(WriteBehindError, match=cannot_sync):
            drain_all()
        [fault] = writebehind.node_faults()
        assert "7.2" in fault
        assert command("status", code=1)["faults"] == [fault]
    unconfirmed = pytest.raises(WriteBehindUnknownError, match="took the write, but did not confirm")
    with override_settings(WRITE_BEHIND={"nodes": [old_node], "durability": "fsync"}), unconfirmed:
        add_one(meter)
    with override_settings(WRITE_BEHIND={"nodes": [old_node], "durability": "memory"}):
        assert writebehind.node_faults() == []
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 2


def test_a_node_with_too_few_replicas_is_reported(meter: Meter) -> None:
    """With ``wait_replicas`` it acknowledges no write; each one says so, too."""
    with one_partition(wait_replicas=1):
        with pytest.raises(WriteBehindUnknownError, match="0 of 1 replicas"):
            add_one(meter)
        [fault] = writebehind.node_faults()
        assert fault == (
            "queue node 'queue-a' has 0 replicas that are connected, and each write waits for 1 of them "
            "(wait_replicas); start the replicas, or set a lower number"
        )
    with one_partition():
        assert writebehind.node_faults() == []
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 1


# Queues with bytes that no write puts there


PARTITION = Partition("shop.meter", 0)


def put(key: bytes, field: bytes, value: bytes) -> None:
    project_queue().nodes[0].call((b"HSET", key, field, value))


def row_name(meter: Meter) -> bytes:
    return Meter.behind.rows.row(meter.pk)


@pytest.fixture
def batch(meter: Meter) -> Iterator[bytes]:
    """The key of the open batch, which holds one write of the row."""
    with one_partition():
        add_one(meter)
        yield project_queue().context.batch(PARTITION, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"noseparators", b"1"),
        (b"%b\0count", b"1"),
        (b"%b\0Odd Name\0d\0d", b"1"),
        (b"%b\0Odd Name\0z", b"1"),
        (b'%b\0Odd Name\0d" integer); DROP TABLE shop_meter; --', b"1"),
        (b"%b\0\0m", b"z"),
        (b"\xff\0count\0d", b"1"),
        (b"1\0count\0d", b"1"),
    ],
)
def test_a_field_with_an_invalid_name_stops_its_batch(
    meter: Meter, batch: bytes, name: bytes, value: bytes
) -> None:
    """Its row is unknown, so the error names batch, node, field and the way out, and nothing is applied."""
    name = name.replace(b"%b\0", row_name(meter))
    put(batch, name, value)
    with pytest.raises(WriteBehindDamagedError) as raised:
        drain_all()
    error = str(raised.value)
    assert error.startswith("batch 1 of shop.meter:0 on node 'queue-a' is damaged")
    assert f"HDEL it from {batch.decode()}" in error
    assert Meter.behind.get(meter.pk).count == 1
    project_queue().nodes[0].call((b"HDEL", batch, name))
    drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (b"Odd Name\0d", b"1x"),
        (b"Odd Name\0p", b"=\xff"),
        (b"label\0d", b"1"),
        (b"label\0p", b"=\xff"),
        (b"total\0g", b""),
    ],
)
def test_a_value_that_cannot_be_decoded_parks_its_row(
    meter: Meter, batch: bytes, column: bytes, value: bytes
) -> None:
    """The batch's other rows are applied; a read of the row raises, and the parked write shows the bytes."""
    other = Meter.objects.create(level=5)
    add_one(other)
    put(batch, row_name(meter) + column, value)
    with pytest.raises(
        WriteBehindDamagedError, match=r"what is queued of shop.Meter.\w+, row .*cannot be read"
    ):
        Meter.behind.get(meter.pk)
    assert Meter.behind.pending(meter.pk)
    [drained] = drain_all()
    assert (drained.rows, drained.parked) == (1, 1)
    assert Meter.objects.get(pk=other.pk).count == 1
    [parked] = ParkedWrite.objects.all()
    assert "cannot be read" in parked.error
    assert repr(value) in describe_row(Meter, row_of(parked, Meter))
    command("retry", "--all", code=1)
    assert ParkedWrite.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"open", b"9" * 400),
        (b"open", b"99999999"),
        (b"open", b"0"),
        (b"open", b"1x"),
        (b"open", b"01"),
        (b"done", b"nan"),
        (b"done", b"-5"),
        (b"born", b"\xff"),
        (b"born", b"a b"),
        (b"since:1", b"\xff"),
        (b"sealed", b"1.5"),
    ],
)
def test_invalid_numbers_are_reported_as_damage(
    meter: Meter, batch: bytes, name: bytes, value: bytes
) -> None:
    """Every reader, writer, drain and status gets an error, and none waits forever."""
    put(project_queue().context.meta(PARTITION), name, value)
    with pytest.raises(WriteBehindDamagedError, match=r"the queue of shop.meter:0 is damaged"):
        drain_all()
    [status] = [each for each in writebehind.partition_statuses() if each.partition == PARTITION]
    assert "is damaged" in (status.error or "")
    with suppress(RingCacheError):
        add_one(meter)
    with suppress(RingCacheError):
        Meter.behind.get(meter.pk)
    assert Meter.objects.get(pk=meter.pk).count == 0


def test_an_invalid_partition_name_is_ignored(meter: Meter, batch: bytes) -> None:
    """An invalid name in the set of partitions with writes is ignored."""
    for name in (b"\xff", b"x", b"shop.meter:", b"shop.meter:" + b"9" * 5000):
        project_queue().nodes[0].call((b"ZADD", project_queue().context.dirty_keys[0], b"1", name))
    assert writebehind.seal_dirty() == [PARTITION]
    drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 1
