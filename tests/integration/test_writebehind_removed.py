"""Writes of a model that the project no longer has."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from cachebackend import writebehind
from cachebackend.errors import WriteBehindError
from cachebackend.models import ParkedWrite
from cachebackend.protocol import Partition
from cachebackend.writebehind import removed
from cachebackend.writebehind.queue import project_queue
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
GONE = "shop.gauge"


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create()


def queue_as_gone(meter: Meter, count: int) -> None:
    """Queue a change of a row under the label that its model had before."""
    client, write = project_queue(), Meter.behind.rows.change(meter.pk, {"count": F("count") + count})
    client.fold_one(Partition(GONE, 0), write)


def test_writes_of_a_removed_model_are_listed_and_drained_to_another(meter: Meter) -> None:
    """Each batch once; parked writes become those of the other model."""
    with one_partition():
        for count in (1, 10, 100):
            queue_as_gone(meter, count)
        ParkedWrite.objects.create(label=GONE, partition=0, batch=1, key="1", changes=b"", error="no")
        with pytest.raises(WriteBehindError, match="no such model"):
            drain_all()
        report = command("removed", code=1)
        assert report["models"] == [{"model": GONE, "partitions": [f"{GONE}:0"], "parked": 1}]
        report = command("removed", "--drain", GONE, "--into", "shop.Meter")
        assert (report["rows"], report["models"]) == (1, [])
        assert Meter.objects.get(pk=meter.pk).count == 111
        assert ParkedWrite.objects.get().label == "shop.meter"
        assert writebehind.dirty_partitions() == []
        queue_as_gone(meter, 1000)
        command("removed", "--drain", GONE, "--into", "shop.Meter")
    assert Meter.objects.get(pk=meter.pk).count == 1111


def test_writes_of_a_removed_model_are_dropped(meter: Meter) -> None:
    """A person confirms it; what is queued later is drained as usual if the model comes back."""
    with one_partition():
        for count in (1, 10):
            queue_as_gone(meter, count)
        ParkedWrite.objects.create(label=GONE, partition=0, batch=1, key="1", changes=b"", error="no")
        assert command("removed", "--drop", GONE, code=1) == {"dropped": 0}
        assert command("removed", "--drop", GONE, "--yes") == {"dropped": 1, "models": []}
        assert not ParkedWrite.objects.exists()
        assert command("removed") == {"models": []}
        queue_as_gone(meter, 100)
        assert writebehind.drain(Partition(GONE, 0), into=Meter).rows == 1
    assert Meter.objects.get(pk=meter.pk).count == 100


def test_the_queue_of_a_removed_model_that_is_gone_is_repaired(meter: Meter) -> None:
    """It hides no other partition that stopped, and a repair ends it, like that of any model."""
    with one_partition():
        queue_as_gone(meter, 1)
        Meter.behind.update(meter.pk, count=F("count") + 10)
        for label in (GONE, "shop.meter"):
            writebehind.drain(Partition(label, 0), into=Meter)
        client = project_queue()
        client.nodes[0].call((b"FLUSHALL",))
        assert {str(fault.partition) for fault in writebehind.find_faults()} == {f"{GONE}:0", "shop.meter:0"}
        assert len(command("repair", "--keep")["faults"]) == 2
        assert writebehind.find_faults() == []


def test_only_the_writes_of_removed_models_are_dropped_or_redirected(meter: Meter) -> None:
    """The workers drain those of the others."""
    Meter.behind.update(meter.pk, count=F("count") + 1)
    with pytest.raises(CommandError, match="no writes of a removed model 'shop.meter'"):
        call_command("writebehind", "removed", "--drop", "shop.meter", "--yes")
    with pytest.raises(WriteBehindError, match="is a model of this project"):
        writebehind.drop_removed(removed.RemovedModel("shop.meter", [], 0))
    with pytest.raises(CommandError, match="belong together"):
        call_command("writebehind", "removed", "--drain", GONE)
    queue_as_gone(meter, 1)
    with pytest.raises(CommandError, match="'shop.nope' is not a model"):
        call_command("writebehind", "removed", "--drain", GONE, "--into", "shop.nope")
