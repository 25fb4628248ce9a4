"""Databases that fail, and queues or databases that come back with older data."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection, connections
from django.db.models import F
from django.test import override_settings

from cachebackend import protocol, writebehind
from cachebackend.errors import WriteBehindError, WriteBehindStoppedError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.monitoring.reasons import find_reasons
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import partition_statuses
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.integration.write_behind import command, drain_all, one_partition, restore_keys, saved_keys
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5, seen=MOMENT)


def test_a_transaction_with_a_deadlock_is_tried_again(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loser of a deadlock is tried again at once, and the batch is applied once."""
    from cachebackend.writebehind import drains

    apply_or_park = drains.apply_or_park
    broken = []

    def break_off(*arguments: Any) -> Any:
        done = apply_or_park(*arguments)
        if len(broken) < 2:
            broken.append(1)
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$")
        return done

    monkeypatch.setattr(drains, "apply_or_park", break_off)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [drained] = drain_all()
    assert (drained.rows, len(broken)) == (1, 2)
    assert Meter.objects.get(pk=meter.pk).count == 1


def test_an_unreachable_database_is_not_tried_for_a_while(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait doubles with each failure, and ends when the database answers."""
    from cachebackend.writebehind import drains
    from cachebackend.writebehind.backoff import Backoff
    from tests.interleavings.clocks import StepClock

    clock = StepClock("worker")
    backoff = Backoff(clock)
    monkeypatch.setattr(drains, "database_backoff", backoff)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [(partition, _)] = writebehind.dirty_partitions()

    def away(*_: Any) -> Any:
        raise OperationalError

    with monkeypatch.context() as patch:
        patch.setattr("cachebackend.writebehind.transactions.limit_times", away)
        patch.setattr(connections["default"], "is_usable", lambda: False)
        with pytest.raises(OperationalError):
            writebehind.drain(partition)
    assert backoff.wait_seconds("default") > 0
    assert writebehind.drain(partition).more
    assert Meter.objects.get(pk=meter.pk).count == 0
    backoff.answered("default")
    writebehind.drain(partition)
    assert Meter.objects.get(pk=meter.pk).count == 1


def restored(services: Services, meter: Meter) -> None:
    """Restore the queue node's data from before its last batch was drained."""
    node = project_queue().nodes[0]
    [(partition, _)] = writebehind.dirty_partitions()
    keys = [project_queue().context.meta(partition), project_queue().context.batch(partition, 1), b"wb:dirty"]
    dumps = [node.call((b"DUMP", key)) for key in keys]
    drain_all()
    for key, dump in zip(keys, dumps, strict=True):
        node.call((b"RESTORE", key, b"0", dump, b"REPLACE"))


@pytest.mark.parametrize(("choice", "count"), [("--keep", 3), ("--drop", 1)])
def test_a_queue_older_than_its_checkpoint_waits_for_a_person(
    meter: Meter, services: Services, choice: str, count: int
) -> None:
    """The person keeps its batches, drained before or not, or drops them."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        restored(services, meter)
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindStoppedError, match="came back with an older file"):
            drain_all()
        report = command("repair", code=1)["faults"]
        assert [(f["trouble"], f["landed"], f["open"]) for f in report] == [
            ("the queue node came back with an older file", 1, 2)
        ]
        assert command("status", code=1)["stopped"] == ["shop.meter:0"]
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("writebehind", "repair", stdout=out)
        assert "no terminal: --keep drains" in " ".join(out.getvalue().split())
        [reason] = find_reasons(partition_statuses())
        assert reason.since is not None
        command("repair", choice)
        drain_all()
        assert Meter.objects.get(pk=meter.pk).count == count
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
        assert Meter.objects.get(pk=meter.pk).count == count + 1
        assert command("repair") == {"faults": [], "unanswered": {}}


@pytest.mark.parametrize(("keep", "count"), [(True, 113), (False, 101)])
@pytest.mark.parametrize("before_the_look", [0, 10])
def test_writes_between_the_look_and_the_answer_are_drained(
    meter: Meter, services: Services, keep: bool, count: int, before_the_look: int
) -> None:
    """The answer is about the batches that the person saw; what is queued later is drained in any case."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        restored(services, meter)
        drain_stops()
        Meter.behind.update(meter.pk, count=F("count") + 1)
        Meter.behind.update(meter.pk, count=F("count") + before_the_look)
        [fault] = writebehind.find_faults(seal=True)
        Meter.behind.update(meter.pk, count=F("count") + 100)
        writebehind.repair(fault, keep=keep)
        drain_all()
        assert Meter.objects.get(pk=meter.pk).count == (count if before_the_look else min(count, 103))
        assert Meter.behind.get(meter.pk).count == Meter.objects.get(pk=meter.pk).count
        assert writebehind.find_faults() == []
        assert command("status")["waiting"] == 0


def drain_stops() -> None:
    with pytest.raises(WriteBehindStoppedError):
        drain_all()


def test_an_answer_to_a_queue_that_changed_is_refused(meter: Meter, services: Services) -> None:
    """Another person's answer came first, or the node came back with yet another file."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        restored(services, meter)
        [fault] = writebehind.find_faults(seal=True)
        writebehind.repair(fault, keep=False)
        with pytest.raises(WriteBehindError, match="has changed since it was inspected"):
            writebehind.repair(fault, keep=True)
        drain_all()
        assert Meter.objects.get(pk=meter.pk).count == 1


def test_reads_raise_while_an_older_queue_is_stopped(meter: Meter, services: Services) -> None:
    """Which of its batches the row contains is not known, so no answer would be right."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        restored(services, meter)
        Meter.behind.update(meter.pk, count=F("count") + 100)
        reads_stop(meter, "came back with an older file")
        command("repair", "--keep")
        assert Meter.behind.get(meter.pk).count == 102


def reads_stop(meter: Meter, why: str) -> None:
    """Every way to read the row raises."""
    with pytest.raises(WriteBehindStoppedError, match=why):
        Meter.behind.get(meter.pk)
    with pytest.raises(WriteBehindStoppedError, match=why):
        Meter.behind.in_bulk([meter.pk])
    with pytest.raises(WriteBehindStoppedError, match=why):
        Meter.behind.pending(meter.pk)


def test_reads_raise_while_a_queue_is_gone_or_the_database_is_older(meter: Meter) -> None:
    """Until a person has answered. With ``memory`` an emptied queue continues by itself."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
        project_queue().nodes[0].call((b"FLUSHALL",))
        reads_stop(meter, "was emptied or replaced")
        Meter.behind.update(meter.pk, count=F("count") + 1)
        reads_stop(meter, "was emptied or replaced")
    with one_partition(durability="memory"):
        assert Meter.behind.get(meter.pk).count == 2
    with one_partition():
        command("repair", "--keep")
        drain_all()
        WriteBehindCheckpoint.objects.filter(is_ended=False).update(batch=0, seal="")
        reads_stop(meter, "came back with an older state")


def test_a_batch_that_is_missing_is_seen_and_skipped(meter: Meter) -> None:
    """Someone deleted its key; the batches after it are drained."""
    with one_partition():
        for _ in range(2):
            Meter.behind.update(meter.pk, count=F("count") + 1)
            writebehind.seal_dirty()
        project_queue().nodes[0].call((b"DEL", project_queue().context.batch(Partition("shop.meter", 0), 1)))
        drain_stops()
        assert [fault["trouble"] for fault in command("repair", "--keep")["faults"]] == [
            "the queue node lost a sealed batch"
        ]
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 1


def test_a_person_gives_up_a_queue_that_is_gone(meter: Meter) -> None:
    """Then its partition continues with the new queue."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
        project_queue().nodes[0].call((b"FLUSHALL",))
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindStoppedError, match="was emptied or replaced"):
            drain_all()
        assert command("repair", "--keep")["faults"][0]["repaired"]
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 2


def test_a_database_that_lost_its_checkpoint_is_seen_and_released(meter: Meter) -> None:
    """It was flushed or created again, or rolled back as by a TestCase: there is no row to compare with."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
        WriteBehindCheckpoint.objects.all().delete()
        reads_stop(meter, "or was emptied")
        [fault] = writebehind.find_faults()
        assert (fault.drained_batch, fault.queued_batches) == (0, ())
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindStoppedError, match="or was emptied"):
            drain_all()
        assert command("status", code=1)["stopped"] == ["shop.meter:0"]
        assert command("repair", "--keep")["faults"][0]["repaired"]
        drain_all()
        assert command("status")["well"]
    assert Meter.objects.get(pk=meter.pk).count == 2


def test_an_older_database_continues_after_the_deleted_batches(meter: Meter) -> None:
    """Restored from a backup, it lacks batches that the queue has deleted."""
    with one_partition():
        for _ in range(3):
            Meter.behind.update(meter.pk, count=F("count") + 1)
            drain_all()
        WriteBehindCheckpoint.objects.update(batch=1)
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindStoppedError, match="database came back with an older state"):
            drain_all()
        [report] = command("repair", "--drop", code=1)["faults"]
        assert not report["repaired"]
        assert "were never drained, and only the database came back" in report["error"]
        [report] = command("repair", "--keep")["faults"]
        assert (report["repaired"], report["error"]) == (True, None)
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 4


@pytest.mark.ring_of_nodes
def test_queues_on_retiring_nodes_are_drained_first(meter: Meter, services: Services) -> None:
    """Their writes are older; reads merge both queues; afterwards the old checkpoint is ended."""
    old = settings.WRITE_BEHIND["nodes"]
    new = [f"{services.ring_urls[0].partition('?')[0]}?name=queue-b"]
    rest = {"partitions": 1, "durability": "memory"}
    with override_settings(WRITE_BEHIND={"nodes": old} | rest):
        Meter.behind.update(meter.pk, level=1, count=F("count") + 1)
        drain_all()
        Meter.behind.update(meter.pk, level=2, count=F("count") + 1)
    with override_settings(WRITE_BEHIND={"nodes": new, "retiring": old} | rest):
        Meter.behind.update(meter.pk, level=3, count=F("count") + 1)
        row = Meter.behind.get(meter.pk)
        assert (row.level, row.count) == (3, 3)
        drain_all()
        row = Meter.objects.get(pk=meter.pk)
        assert (row.level, row.count) == (3, 3)
    with override_settings(WRITE_BEHIND={"nodes": new} | rest):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 4
    assert WriteBehindCheckpoint.objects.filter(is_ended=True).count() == 1


# Queues that lost writes before the first drain after them


def test_a_late_close_deletes_no_other_batch_of_the_same_number(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker commits and freezes; the node comes back older, is repaired and reaches the number again."""
    close = protocol.queue.close
    late: list[Any] = []
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        older = saved_keys()
        with monkeypatch.context() as patch:
            patch.setattr(protocol.queue, "close", lambda *arguments: iter(late.append(arguments) or ()))
            drain_all()
        restore_keys(older)
        Meter.behind.update(meter.pk, count=F("count") + 10)
        command("repair", "--keep")
        project_queue().run(close(*late[0]))
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 12


@pytest.mark.parametrize("drained_before", [0, 1])
@pytest.mark.parametrize("is_emptied", [False, True])
def test_an_older_file_of_the_same_batch_is_noticed_after_a_tick(
    meter: Meter, drained_before: int, is_emptied: bool
) -> None:
    """Nothing was drained since, but the tick has sampled what the queue held; the next tick keeps that."""
    with one_partition():
        for _ in range(drained_before):
            Meter.behind.update(meter.pk, count=F("count") + 1)
            drain_all()
        Meter.behind.update(meter.pk, count=F("count") + 10)
        older = {} if is_emptied else saved_keys()
        Meter.behind.update(meter.pk, count=F("count") + 100)
        writebehind.seal_dirty()
        [status] = [each for each in writebehind.partition_statuses() if each.partition.label == "shop.meter"]
        assert status.sampled_at is not None
        restore_keys(older)
        why = "was emptied or replaced" if is_emptied else "came back with an older file"
        reads_stop(meter, why)
        Meter.behind.update(meter.pk, count=F("count") + 1000)
        reads_stop(meter, why)
        for _ in range(2):
            writebehind.seal_dirty()
            reads_stop(meter, why)
        with pytest.raises(WriteBehindStoppedError, match=why):
            drain_all()
        assert command("status", code=1)["stopped"] == ["shop.meter:0"]
        command("repair", "--keep")
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == drained_before + 1000 + (0 if is_emptied else 10)


def test_a_tick_that_cannot_sample_returns_its_partitions(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The drains are sent nevertheless, and nothing is stored."""
    from cachebackend.writebehind import seals

    def away(*_: Any) -> None:
        raise OperationalError

    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        monkeypatch.setattr(seals, "store_samples", away)
        assert writebehind.seal_dirty() == [Partition("shop.meter", 0)]
        assert "are not sampled" in caplog.text
        assert WriteBehindCheckpoint.objects.count() == 0


def test_a_drain_beside_a_tick_spoils_no_sample(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tick has looked, a drain deletes the batch, and what the tick samples then is still true later."""
    seal_many = protocol.queue.seal_many

    def drained_before(*arguments: Any) -> Any:
        drain_all()
        Meter.behind.update(meter.pk, count=F("count") + 10)
        return seal_many(*arguments)

    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with monkeypatch.context() as patch:
            patch.setattr(protocol.queue, "seal_many", drained_before)
            writebehind.seal_dirty()
        assert Meter.behind.get(meter.pk).count == 12
        writebehind.seal_dirty()
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 12


def test_nothing_is_sampled_with_memory(meter: Meter) -> None:
    """An emptied queue continues by itself."""
    with one_partition(durability="memory"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        writebehind.seal_dirty()
        assert WriteBehindCheckpoint.objects.count() == 0
