"""Parked writes with parts of any type: their neighbours are read, drained and retried."""

from __future__ import annotations

import random
from typing import Any

import ormsgpack
import pytest
from django.db.models import F
from django.db.models.functions import Now

from cachebackend import tasks
from cachebackend.errors import WriteBehindError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.monitoring.parked import changes_text
from cachebackend.writebehind.queue import project_queue
from tests.fuzz.mutants import count, mutant
from tests.integration.write_behind import drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
#: Parts of each type that MessagePack has.
LEAVES: list[Any] = [
    None,
    5,
    1.5,
    True,
    "count",
    "d",
    "nul\0",
    b"",
    b"d",
    b"5",
    b"\xff",
    b"x",
    [],
    {},
    [b"d"],
]
COUNT = str(Meter._meta.get_field("count").column)
COLUMNS = [COUNT, "label", "total", "data", "gone", "id"]


def right(generator: random.Random) -> dict[str, Any]:
    """Return a write as it is stored."""
    change = [
        generator.choice(COLUMNS),
        generator.choice([b"d", b"p", b"g"]),
        generator.choice([b"5", b"=5"]),
    ]
    marker = generator.choice([b"", b"", b"", b"c", b"x", b"r"])
    return {"marker": marker, "changes": [change], "codes": [generator.choice(["i", "s", None])]}


def damaged(generator: random.Random) -> bytes:
    """Return the bytes of a write of which one part has any type, or of which some bytes are changed."""
    write = right(generator)
    change: list[Any] = write["changes"][0]
    match generator.randrange(6):
        case 0:
            change[generator.randrange(3)] = generator.choice(LEAVES)
        case 1:
            write[generator.choice(list(write))] = generator.choice(LEAVES)
        case 2:
            write["codes"][0] = generator.choice(LEAVES)
        case 3:
            change[generator.randrange(3) :] = []
        case 4:
            return mutant(generator, [ormsgpack.packb(write)])
        case _:
            pass
    return ormsgpack.packb(write)


def key(generator: random.Random, meter: Meter) -> str:
    """Return the key of a row, as it is stored or as only a person would write it."""
    text = meter.pk.hex
    return generator.choice([text] * 6 + [str(meter.pk), text.upper(), f"{{{text}}}", f" {text}", "", "5"])


def park(key: str, changes: bytes, *, waits: bool = True) -> None:
    ParkedWrite.objects.create(
        label="shop.meter",
        partition=0,
        batch=1,
        key=key,
        changes=changes,
        error="e",
        retry_at=Now() if waits else None,
    )


def test_no_parked_row_stops_the_others() -> None:
    """It stays parked or is applied; reads of another row, drains and retries work beside it."""
    generator, tried, refused = random.Random(random.getrandbits(32)), count(25), 0
    good, change = Meter.objects.create(), {"marker": b"", "changes": [[COUNT, b"d", b"5"]], "codes": ["i"]}
    with one_partition(durability="memory"):
        for _ in tried:
            project_queue().nodes[0].call((b"FLUSHALL",))
            project_queue().context.open_batches.clear()
            ParkedWrite.objects.all().delete()
            WriteBehindCheckpoint.objects.all().delete()
            Meter.objects.filter(pk=good.pk).update(count=0)
            bad = Meter.objects.create()
            own, first, second = key(generator, bad), damaged(generator), damaged(generator)
            done = f"{own!r} {first!r} {second!r}"
            park(own, first)
            park(own, second, waits=generator.random() < 0.5)
            park(good.pk.hex, ormsgpack.packb(change))
            Meter.behind.update(good.pk, count=F("count") + 1)
            Meter.behind.update(bad.pk, count=F("count") + 1)
            try:
                assert Meter.behind.get(good.pk).count == 6, done
                assert Meter.behind.in_bulk([good.pk, bad.pk])[good.pk].count == 6, done
            except WriteBehindError:  # the bytes of a value
                refused += 1
            drain_all()
            tasks.retry_waiting("default")
            assert Meter.objects.get(pk=good.pk).count == 6, done
            assert all(changes_text(each) for each in ParkedWrite.objects.all()), done
            bad.delete()
    print(f"{len(tried)} damaged parked writes, {refused} reads refused")
