"""Writes of a model that the project no longer has."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F
from django.utils import timezone

from cachebackend import protocol, writebehind
from cachebackend.errors import WriteBehindError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import removed
from cachebackend.writebehind.answers import Answers
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
    """Queue an addition under the label that the row's model had before."""
    put_as_gone(meter, F("count") + count)


def put_as_gone(meter: Meter, count: Any) -> None:
    """Queue a change of a row under the label that its model had before."""
    project_queue().fold_one(Partition(GONE, 0), Meter.behind.rows.change(meter.pk, {"count": count}))


def drain_all_of_meter() -> None:
    """Drain the model's own writes, as workers do."""
    for partition, _ in writebehind.dirty_partitions():
        if partition.label != GONE:
            writebehind.drain(partition)


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
        assert command("removed", "--drop", GONE, "--yes") == {"dropped": 1, "models": [], "unanswered": {}}
        assert not ParkedWrite.objects.exists()
        assert command("removed") == {"models": [], "unanswered": {}}
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


def test_older_writes_of_a_removed_model_are_applied_first(meter: Meter) -> None:
    """What is queued for the other model was written later, after the model was renamed."""
    with one_partition():
        queue_as_gone(meter, 1)
        Meter.behind.update(meter.pk, count=50)
        command("removed", "--drain", GONE, "--into", "shop.Meter")
        drain_all_of_meter()
    assert Meter.objects.get(pk=meter.pk).count == 50


def test_writes_that_would_replace_newer_ones_need_consent(meter: Meter) -> None:
    """The workers have drained writes of the other model in the meantime."""
    with one_partition():
        put_as_gone(meter, 1)
        Meter.behind.update(meter.pk, count=50)
        drain_all_of_meter()
        report = command("removed", "--drain", GONE, "--into", "shop.Meter", code=1)
        assert report == {"rows": 0}
        assert Meter.objects.get(pk=meter.pk).count == 50
        command("removed", "--drain", GONE, "--into", "shop.Meter", "--yes")
        assert Meter.objects.get(pk=meter.pk).count == 1


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
def test_writes_of_a_removed_model_of_another_database(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are dropped there, and are not drained elsewhere: their batches and rows are counted there."""
    monkeypatch.setattr(removed, "all_databases", lambda: Answers(["default", "lite"]))
    with one_partition():
        queue_as_gone(meter, 1)
        state = project_queue().run(
            protocol.queue.queue_states(project_queue().context, [Partition(GONE, 0)])
        )
        [queue] = state[Partition(GONE, 0)].values()
        assert isinstance(queue, protocol.queue.QueueState)
        checkpoints, parked = WriteBehindCheckpoint.objects.using("lite"), ParkedWrite.objects.using("lite")
        checkpoints.create(label=GONE, partition=0, incarnation=queue.incarnation)
        parked.create(
            label=GONE, partition=0, batch=1, key="1", changes=b"", error="no", created=timezone.now()
        )
        with pytest.raises(CommandError, match="belong to the database 'lite'.*shop.Meter .*'default'"):
            call_command("writebehind", "removed", "--drain", GONE, "--into", "shop.Meter")
        assert Meter.objects.get(pk=meter.pk).count == 0
        assert command("removed", "--drop", GONE, "--yes") == {"dropped": 1, "models": [], "unanswered": {}}
        assert (checkpoints.get().batch, parked.count()) == (1, 0)
        assert not WriteBehindCheckpoint.objects.exists()


def test_a_write_of_a_renamed_model_waits_for_the_parked_writes_of_the_new_one(meter: Meter) -> None:
    """They have its label since an earlier redirection: an old process may write until it ends."""
    with one_partition():
        with connection.cursor() as cursor:
            cursor.execute('ALTER TABLE shop_meter ADD CONSTRAINT low CHECK ("Odd Name" < 100)')
        for count in (150, 7):
            put_as_gone(meter, count)
            command("removed", "--drain", GONE, "--into", "shop.Meter")
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE shop_meter DROP CONSTRAINT low")
        assert command("retry", "--all")["landed"] == 2
        assert Meter.objects.get(pk=meter.pk).count == 7
