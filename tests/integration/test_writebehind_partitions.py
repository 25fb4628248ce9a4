"""The number of partitions: the queue nodes have it, and a command changes it."""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models import F

from cachebackend import writebehind
from cachebackend.errors import WriteBehindError, WriteBehindMovedError
from cachebackend.writebehind.queue import project_queue
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def meters() -> list[Meter]:
    """Rows that are spread over any number of partitions."""
    return Meter.objects.bulk_create([Meter() for _ in range(20)])


def count_all(meters: list[Meter], call: str = "update_many") -> None:
    changes = {"count": F("count") + 1, "label": "x"}
    if call == "update_many":
        Meter.behind.update_many({row.pk: changes for row in meters})
    else:
        for row in meters:
            Meter.behind.update(row.pk, **changes)


@pytest.mark.parametrize("call", ["update", "update_many"])
def test_a_process_with_another_number_follows_the_nodes(meters: list[Meter], call: str) -> None:
    """Its writes fold into those of the others, and its reads and its status show all of them."""
    with one_partition(partitions=5):
        count_all(meters)
    with one_partition(partitions=2):
        count_all(meters, call)
    with one_partition(partitions=9):
        assert {row.count for row in Meter.behind.in_bulk([row.pk for row in meters]).values()} == {2}
        assert sum(each.fields for each in writebehind.partition_statuses()) == 2 * len(meters)
        partitions = {partition.number for partition, _ in writebehind.dirty_partitions()}
        assert 2 < len(partitions) <= 5
        assert partitions <= set(range(5))
        assert sum(each.rows for each in drain_all()) == len(meters)
    assert set(Meter.objects.values_list("count", flat=True)) == {2}


@pytest.mark.parametrize("count", [1, 16])
def test_the_number_is_changed_while_processes_run(meters: list[Meter], count: int) -> None:
    """What is queued is drained first; processes that run use the new number from their next call on."""
    with one_partition(partitions=4):
        count_all(meters)
        assert command("partitions", str(count)) == {"partitions": count}
        assert set(Meter.objects.values_list("count", flat=True)) == {1}
        project_queue().context.adopt(4)  # as another process, which does not know of the change
        assert Meter.behind.get(meters[0].pk).count == 1
        project_queue().context.adopt(4)
        count_all(meters)
        assert {row.count for row in Meter.behind.in_bulk([row.pk for row in meters]).values()} == {2}
        partitions = {partition.number for partition, _ in writebehind.dirty_partitions()}
        assert (max(partitions) >= 4) is (count == 16)
        assert (partitions == {0}) is (count == 1)
        drain_all()
    assert set(Meter.objects.values_list("count", flat=True)) == {2}


def test_no_write_is_taken_during_the_change(meters: list[Meter]) -> None:
    """It is refused before it is sent to another partition; reads are exact all the time."""
    refused: list[Exception] = []

    def drain() -> None:
        with pytest.raises(WriteBehindMovedError, match="is being changed") as caught:
            Meter.behind.update(meters[0].pk, count=F("count") + 1)
        refused.append(caught.value)
        assert Meter.behind.get(meters[0].pk).count == 1
        drain_all()

    count_all(meters)
    assert writebehind.change_partitions(3, drain) == 3
    assert len(refused) == 1
    Meter.behind.update(meters[0].pk, count=F("count") + 1)
    assert Meter.behind.get(meters[0].pk).count == 2


def test_queues_that_cannot_be_drained_keep_their_number(meters: list[Meter]) -> None:
    """The change is given up, and writes are taken again; a later try succeeds."""
    count_all(meters)
    assert writebehind.change_partitions(3, lambda: None) == project_queue().options.partitions
    count_all(meters)
    assert command("partitions", "3") == {"partitions": 3}
    assert set(Meter.objects.values_list("count", flat=True)) == {2}


def test_a_change_that_was_interrupted_is_run_again(meters: list[Meter]) -> None:
    """Until then the nodes take no writes."""

    def killed() -> Any:
        raise KeyboardInterrupt

    count_all(meters)
    with pytest.raises(KeyboardInterrupt):
        writebehind.change_partitions(3, killed)
    with pytest.raises(WriteBehindMovedError):
        Meter.behind.update(meters[0].pk, count=F("count") + 1)
    assert command("partitions", "3") == {"partitions": 3}
    Meter.behind.update(meters[0].pk, count=F("count") + 1)


@pytest.mark.parametrize("text", [b"x", b"", b"0", b"99999"])
def test_a_damaged_number_is_reported(meters: list[Meter], text: bytes) -> None:
    """By writes and by reads; no write is taken."""
    project_queue().nodes[0].call((b"SET", project_queue().context.partitions_key, text))
    with pytest.raises(WriteBehindError, match="is not a number of partitions"):
        Meter.behind.update(meters[0].pk, count=F("count") + 1)
    with pytest.raises(WriteBehindError, match="is not a number of partitions"):
        Meter.behind.get(meters[0].pk)
