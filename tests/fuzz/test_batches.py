"""Batches whose fields have valid names and any value, and queues whose own fields have any value."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import F
from django.test import Client
from django.urls import reverse

from cachebackend import writebehind
from cachebackend.errors import RingCacheError, WriteBehindError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.changes import MARKER, SEPARATOR
from cachebackend.writebehind.expressions import KINDS
from cachebackend.writebehind.queue import project_queue
from tests.fuzz.mutants import count, mutant
from tests.integration.write_behind import one_partition
from tests.shop.models import Everything, Meter

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
OWN, OTHER = Partition("shop.everything", 0), Partition("shop.meter", 0)
#: The most bytes that reading and draining such a queue may take at once.
MAX_BYTES = 64 * 2**20
_DEEP = b"=" + b"[" * 3000 + b"]" * 3000
#: Values as some column encodes them, in columns of any type; and values that no column encodes so.
VALUES = [
    b"", b"0", b"1", b"-1", b"5", b"=", b"=0", b"=5", b"=x", b"=-5", b"=1e400", b"=nan", b"=inf", b"=-0.0",
    b"nan", b"9" * 18, b"9" * 19, b"-" + b"9" * 19, b"=" + b"9" * 19, b"9" * 400, b"=-" + b"9" * 30,
    b"=" + b"9" * 6000, b"=\xff", b"=\0", b"=a\0b", b"={}", b"={", b"=[1e999]", b"=" + b"[" * 3000, _DEEP,
    b'="\\u0000"', b"=" + b"x" * 400, b"=00000000000000000000000000000001", b"=::1", b"=1_0", b"+1", b" 1",
    b"1.5", b"=1.5", b"=4611686018427387904", b"=3652060", b"c", b"x", b"r",
]  # fmt: skip
NUMBERS = [b"0", b"1", b"2", b"-1", b"7", b"99999999999999", b"9" * 400, b"nan", b"", b"x", b"1.5", b"\xff"]
CODES = [b"i", b"n2", b"n16383", b"n99999", b"ts", b"d", b"t", b"b", b"f", b"s", b"u", b"x", b"j", b"zz", b""]


def field_of(generator: random.Random, row: Everything) -> bytes:
    """Return the name of a field of the row: each column with each kind, and its marker."""
    column = generator.choice(Everything._meta.concrete_fields).column
    prefix = b"%d" % row.pk + SEPARATOR
    if generator.random() < 0.1:
        return prefix + SEPARATOR + MARKER
    return prefix + str(column).encode() + SEPARATOR + generator.choice(KINDS)


def damage(generator: random.Random, partition: Partition, row: Everything) -> str:
    """Set fields of the batch; return their description."""
    batch, done = project_queue().context.batch(partition, 1), []
    for _ in range(generator.randrange(1, 4)):
        name = field_of(generator, row)
        value = generator.choice(VALUES) if generator.random() < 0.8 else mutant(generator, VALUES)
        project_queue().nodes[0].call((b"HSET", batch, name, value))
        done.append(f"{name!r}={value[:40]!r}")
    return ", ".join(done)


def damage_meta(generator: random.Random, partition: Partition) -> str:
    """Set a field of the queue's own hash, a number or the encodings of the batch; return its description."""
    node, meta = project_queue().nodes[0], project_queue().context.meta(partition)
    names: list[bytes] = node.call((b"HKEYS", meta))  # type: ignore[assignment]  # a list of them
    name, value = generator.choice(names), generator.choice(NUMBERS)
    if generator.random() < 0.5:
        column = str(generator.choice(Everything._meta.concrete_fields).column).encode()
        name, value = b"enc:1", b"\0" + column + b"\0" + generator.choice(CODES) + b"\0"
    node.call((b"HSET", meta, name, value))
    return f"; meta {name!r}={value[:40]!r}"


READERS: dict[str, Callable[[Everything], object]] = {
    "get": lambda row: Everything.behind.get(row.pk),
    "pending": lambda row: Everything.behind.pending(row.pk),
    "status": lambda _: writebehind.partition_statuses(),
    "faults": lambda _: writebehind.find_faults(),
}


@pytest.fixture
def rows() -> Iterator[tuple[Everything, Meter]]:
    """A row whose writes are right, and a row of another model, with their partitions and tables."""
    with one_partition(durability="memory"):
        yield Everything.objects.create(), Meter.objects.create()


def write(good: Everything, bad: Everything, meter: Meter) -> None:
    """Queue writes of all three rows, in queues that held none."""
    project_queue().nodes[0].call((b"FLUSHALL",))
    project_queue().context.open_batches.clear()
    ParkedWrite.objects.all().delete()
    WriteBehindCheckpoint.objects.all().delete()
    Everything.objects.all().update(large=0)
    Meter.objects.all().update(count=0)
    Everything.behind.update(good.pk, large=F("large") + 3)
    Everything.behind.update(bad.pk, line="x", large=F("large") + 1, day="2024-01-01")
    Meter.behind.update(meter.pk, count=F("count") + 5)


def read_and_drain(bad: Everything, done: str) -> bool:
    """Read and drain both partitions; return whether the damaged one was drained."""
    for name, read in READERS.items():
        try:
            read(bad)
        except (RingCacheError, Everything.DoesNotExist):  # the marker may delete the row
            pass
        except Exception as error:
            raise AssertionError(f"{name} of {done}: {type(error).__name__}: {error}") from error
    stopped = []
    for partition in (OWN, OTHER):
        try:
            writebehind.seal_dirty()
            writebehind.drain(partition)
        except WriteBehindError:
            stopped.append(partition)
        except Exception as error:
            raise AssertionError(f"drain of {done}: {type(error).__name__}: {error}") from error
    assert OTHER not in stopped, done
    return not stopped


def test_no_batch_stops_the_others(rows: tuple[Everything, Meter]) -> None:
    """A row of it that Postgres cannot take is parked, its other rows and other partitions are written.

    A batch that cannot be read at all stays, and is reported as such.
    """
    generator, tried, parked, left = random.Random(random.getrandbits(32)), count(12), 0, 0
    client, pages = Client(), ["cachebackend_ring_changelist", "cachebackend_parkedwrite_changelist"]
    client.force_login(User.objects.create_superuser("root"))
    good, meter = rows
    tracemalloc.start()
    try:
        for turn in tried:
            bad = Everything.objects.create()
            write(good, bad, meter)
            done = damage(generator, OWN, bad)
            if has_odd_meta := turn % 3 == 0:
                done += damage_meta(generator, OWN)
            is_drained = read_and_drain(bad, done)
            assert Meter.objects.get(pk=meter.pk).count == 5, done
            large = Everything.objects.get(pk=good.pk).large
            assert large in {0, 3} if has_odd_meta else large == (3 if is_drained else 0), done
            if turn % 10 == 0:
                assert {client.get(reverse(f"admin:{page}")).status_code for page in pages} == {200}, done
            parked, left = parked + ParkedWrite.objects.count(), left + (not is_drained)
            assert connection.connection is None or not connection.connection.broken
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
    print(f"{len(tried)} batches: {parked} rows parked, {left} batches left")
    assert parked
