"""Queue hashes with damaged or invented fields, as everything that reads them sees them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Greatest

from cachebackend import writebehind
from cachebackend.errors import RingCacheError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.descriptions import describe_row
from cachebackend.writebehind.parked import row_of
from cachebackend.writebehind.queue import project_queue
from tests.fuzz.mutants import count, mutant
from tests.integration.write_behind import one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
PARTITION = Partition("shop.meter", 0)


def drain_all() -> list[writebehind.Drained]:
    return [writebehind.drain(partition) for partition in writebehind.seal_dirty()]


READERS: dict[str, Callable[[Meter], object]] = {
    "get": lambda meter: Meter.behind.get(meter.pk),
    "pending": lambda meter: Meter.behind.pending(meter.pk),
    "update": lambda meter: Meter.behind.update(meter.pk, count=F("count") + 1),
    "status": lambda _: writebehind.partition_statuses(),
    "faults": lambda _: writebehind.find_faults(),
    "drain": lambda _: drain_all(),
}


def write(meter: Meter) -> None:
    Meter.behind.update(
        meter.pk, count=F("count") + 1, total=5, label="x", level=Greatest(F("level"), 3), data={"a": [1]}
    )


def damage(generator: random.Random) -> str:
    """Change a field or its name, or add one, in a hash of the queue; return a description of the change."""
    node = project_queue().nodes[0]
    key = generator.choice(
        [
            project_queue().context.meta(PARTITION),
            project_queue().context.batch(PARTITION, 1),
            project_queue().context.batch(PARTITION, 1),
            project_queue().context.batch(PARTITION, 1),
        ]
    )
    flat = node.call((b"HGETALL", key))
    names, values = flat[::2], flat[1::2]  # type: ignore[index]  # a list of them
    index = generator.randrange(len(names))
    name, value = names[index], values[index]
    match generator.randrange(5):
        case 0:
            value = mutant(generator, values)
        case 1:
            name = mutant(generator, names)
        case 2:
            name, value = mutant(generator, names), mutant(generator, values)
        case 3:
            value = generator.choice([b"", b"9" * 400, b"9" * 5000, b"-1", b"nan", b"1e400", b"\xff"])
        case _:
            key, name = project_queue().context.dirty_keys[0], mutant(generator, [PARTITION.name])
            node.call((b"ZADD", project_queue().context.dirty_keys[0], b"1", name))
            return f"{project_queue().context.dirty_keys[0]!r} {name!r}"
    node.call((b"HSET", key, name, value))
    return f"{key!r} {name!r} {value[:40]!r}"


def test_no_damaged_queue_harms_its_reader() -> None:
    """It is read, parked, or reported as damaged; no other error is raised, and the table is intact."""
    generator = random.Random(random.getrandbits(32))
    meter = Meter.objects.create(level=5)
    node, tried, refused, parked = project_queue().nodes[0], count(25), 0, 0
    with one_partition(durability="memory"):
        for _ in tried:
            node.call((b"FLUSHALL",))
            project_queue().context.open_batches.clear()
            write(meter)
            done = damage(generator)
            for name, read in READERS.items():
                try:
                    read(meter)
                except RingCacheError:
                    refused += 1
                except Exception as error:
                    raise AssertionError(f"{name} of {done}: {type(error).__name__}: {error}") from error
            for each in ParkedWrite.objects.all():
                assert describe_row(Meter, row_of(each, Meter))
                parked += 1
            ParkedWrite.objects.all().delete()
            WriteBehindCheckpoint.objects.all().delete()
            assert connection.connection is None or not connection.connection.broken
    print(f"{len(tried)} damaged queues: {parked} rows parked, {refused} reads refused")
    assert parked
    assert refused
