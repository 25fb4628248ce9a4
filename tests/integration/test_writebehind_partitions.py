"""The number of partitions: the queue nodes have it, and a command changes it."""

from __future__ import annotations

from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db.models import F
from django.test import override_settings

from cachebackend import protocol, writebehind
from cachebackend.errors import NodeUnavailableError, WriteBehindError, WriteBehindMovedError
from cachebackend.monitoring import queue_figures
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import partitions, reads
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.integration import test_writebehind_moves
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
urls = test_writebehind_moves.urls


@pytest.fixture
def meters() -> list[Meter]:
    """Rows that are spread over any number of partitions."""
    return Meter.objects.bulk_create([Meter(pk=UUID(int=n)) for n in range(20)])


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


@pytest.mark.parametrize("knows", [False, True])
def test_a_read_notices_a_change_of_the_number(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """The queues that were drained for the change are not in a row that was read before: it is read again."""
    read_rows = reads.read_rows

    def then_change(*args: Any) -> Any:
        monkeypatch.setattr(reads, "read_rows", read_rows)
        rows = read_rows(*args)
        assert command("partitions", "16") == {"partitions": 16}
        project_queue().context.adopt(
            16 if knows else 4
        )  # another thread of the process may know it, or none
        return rows

    with one_partition(partitions=4):
        count_all(meters)
        monkeypatch.setattr(reads, "read_rows", then_change)
        assert {row.count for row in Meter.behind.in_bulk([row.pk for row in meters]).values()} == {1}


def test_no_new_field_is_queued_during_the_change(meters: list[Meter]) -> None:
    """A sum that is queued takes additions until its batch is sealed; all of them are drained."""
    refused: list[Exception] = []

    def add() -> None:
        with pytest.raises(WriteBehindMovedError, match="is being changed") as caught:
            Meter.behind.update(meters[0].pk, count=F("count") + 1)
        refused.append(caught.value)

    def drain() -> None:
        Meter.behind.update(meters[0].pk, count=F("count") + 1)
        with pytest.raises(WriteBehindMovedError, match="is being changed"):
            Meter.behind.update(meters[0].pk, level=1)
        assert writebehind.seal_dirty()
        add()
        assert Meter.behind.get(meters[0].pk).count == 2
        drain_all()
        add()

    count_all(meters)
    assert writebehind.change_partitions(3, drain) == 3
    assert len(refused) == 2
    assert Meter.objects.get(pk=meters[0].pk).count == 2
    Meter.behind.update(meters[0].pk, count=F("count") + 1)
    assert Meter.behind.get(meters[0].pk).count == 3


@pytest.mark.parametrize("count", [1, 3, 16])
def test_a_write_that_arrives_after_the_change_is_in_its_partition(meters: list[Meter], count: int) -> None:
    """It is refused, unless the new number gives its row the same partition."""
    rows = Meter.behind.rows

    def queued_in(number: int) -> list[Partition]:
        return [rows.partition(rows.row(row.pk), number) for row in meters]

    with one_partition(partitions=4):
        client = project_queue()
        count_all(meters)
        late = [  # writes that are sent before the change, and arrive after it
            (partition, [rows.change(row.pk, {"count": F("count") + 1})])
            for row, partition in zip(meters, queued_in(4), strict=True)
        ]
        assert command("partitions", str(count)) == {"partitions": count}
        count_all(meters)
        folded = [client.run(protocol.queue.fold(client.context, [write]))[0] for write in late]
        taken = [each.error is None for each in folded]
        assert all(isinstance(each.error, WriteBehindMovedError | None) for each in folded)
        assert taken == [old == new for old, new in zip(queued_in(4), queued_in(count), strict=True)]
        assert any(taken)
        drain_all()
        for row, is_taken in zip(meters, taken, strict=True):
            row.refresh_from_db()
            assert row.count == 3 if is_taken else 2


def test_queues_that_cannot_be_drained_keep_their_number(meters: list[Meter]) -> None:
    """The change is given up, and writes are taken again; a later try succeeds."""
    count_all(meters)
    assert writebehind.change_partitions(3, lambda: None) == project_queue().options.partitions
    count_all(meters)
    assert command("partitions", "3") == {"partitions": 3}
    assert set(Meter.objects.values_list("count", flat=True)) == {2}


def set_numbers(*numbers: int) -> None:
    """Set the nodes' numbers, as a process leaves them that is killed or had other settings."""
    client = project_queue()
    for node, number in zip(client.nodes, numbers, strict=True):
        node.call((b"SET", client.context.count_keys[0], b"%d" % number))


def numbers() -> list[bytes]:
    client = project_queue()
    return [node.call((b"GET", client.context.count_keys[0])) for node in client.nodes]


def test_a_change_that_was_interrupted_is_undone(meters: list[Meter]) -> None:
    """By Ctrl-C, or by an error of the drain."""

    def interrupted() -> Any:
        raise KeyboardInterrupt

    count_all(meters)
    with pytest.raises(KeyboardInterrupt):
        writebehind.change_partitions(3, interrupted)
    Meter.behind.update(meters[0].pk, level=1)


def test_a_change_that_is_interrupted_while_nodes_close_is_undone(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, when the nodes have closed and their replies have not been read."""
    real = partitions._exchange

    def interrupted(*arguments: Any) -> Any:
        real(*arguments)
        monkeypatch.setattr(partitions, "_exchange", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(partitions, "_exchange", interrupted)
    count_all(meters)
    with pytest.raises(KeyboardInterrupt):
        writebehind.change_partitions(3, lambda: None)
    count_all(meters)
    drain_all()
    assert set(Meter.objects.values_list("count", flat=True)) == {2}


def test_a_change_whose_process_was_killed_is_run_again(meters: list[Meter]) -> None:
    """Until then the nodes queue no new fields, and every report says so, with the way out."""
    count_all(meters)
    set_numbers(-project_queue().options.partitions)
    with pytest.raises(WriteBehindMovedError):
        Meter.behind.update(meters[0].pk, level=1)
    report = command("status", code=1)
    assert {reason["kind"] for reason in report["reasons"]} == {"closed"}
    assert all("`writebehind partitions N`" in reason["way_out"] for reason in report["reasons"])
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("writebehind", "repair", stdout=out)
    assert "takes no writes" in out.getvalue()
    [fault] = [fault for fault in queue_figures().faults if "takes no writes" in fault.message]
    assert "more partitions" in fault.message
    assert command("partitions", "3") == {"partitions": 3}
    Meter.behind.update(meters[0].pk, count=F("count") + 1)
    assert command("status", code=1)["reasons"] == []  # the write that was refused is a fault for a minute


def test_nothing_changes_while_a_node_is_away(meters: list[Meter], urls: dict[str, str]) -> None:
    """The node that answers takes writes as before."""
    nodes = [urls["a"], "redis://127.0.0.1:1/0?name=away"]
    with one_partition(partitions=4):
        count_all(meters)
        with override_settings(WRITE_BEHIND={"nodes": nodes, "partitions": 4}):
            with pytest.raises(CommandError, match="'away'"):
                command("partitions", "8", "--timeout", "2")
            assert numbers()[0] == b"4"
        count_all(meters)


def test_a_node_that_goes_away_during_the_change_is_named(meters: list[Meter], urls: dict[str, str]) -> None:
    """The other nodes get their numbers back; the change is run again when it answers."""
    with one_partition(nodes=[urls["a"], urls["b"]], partitions=4):
        count_all(meters)
        client = project_queue()
        away = client.nodes[1].breaker
        assert away is not None

        def drain() -> None:
            drain_all()
            for _ in range(3):
                away.failed(NodeUnavailableError("gone"))

        with pytest.raises(NodeUnavailableError, match="run again, 'queue-new' may take no writes"):
            writebehind.change_partitions(8, drain)
        away.close()
        assert numbers() == [b"4", b"-4"]
        assert command("partitions", "8") == {"partitions": 8}
        count_all(meters)


def test_each_node_gets_its_own_number_back(meters: list[Meter], urls: dict[str, str]) -> None:
    """Nodes with different numbers hold writes by these."""
    with one_partition(nodes=[urls["a"], urls["b"]], partitions=4):
        count_all(meters)
        set_numbers(16, 4)
        assert writebehind.change_partitions(8, lambda: None) == 16
        assert numbers() == [b"16", b"4"]
        assert command("partitions", "8") == {"partitions": 8}
        assert numbers() == [b"8", b"8"]
        assert set(Meter.objects.values_list("count", flat=True)) == {1}


def test_a_change_does_not_undo_that_of_another_process(meters: list[Meter]) -> None:
    """Two run at once; the one that cannot drain leaves the number that the other has set."""

    def other() -> None:
        assert writebehind.change_partitions(8, drain_all) == 8
        count_all(meters)

    with one_partition(partitions=4):
        count_all(meters)
        writebehind.change_partitions(16, other)
        assert numbers() == [b"8"]


def test_a_new_node_gets_the_number_of_the_others(meters: list[Meter], urls: dict[str, str]) -> None:
    """Not that of the settings, which nobody has changed after the command."""
    with one_partition(nodes=[urls["a"]], partitions=4):
        count_all(meters)
        assert command("partitions", "16") == {"partitions": 16}
    with one_partition(nodes=[urls["a"], urls["b"]], retiring=[urls["a"]], partitions=4):
        project_queue().context.adopt(4)  # as a process that has just started
        count_all(meters)
        assert numbers() == [b"16", b"16"]


def test_no_number_is_followed_while_the_nodes_differ(meters: list[Meter], urls: dict[str, str]) -> None:
    """The write of a row could be in two partitions, in no order."""
    with one_partition(nodes=[urls["a"], urls["b"]], partitions=4):
        count_all(meters)
        set_numbers(16, 16)
        count_all(meters)
        set_numbers(4, 16)
        with pytest.raises(WriteBehindError) as raised:
            count_all(meters)
        assert "different numbers of partitions" in str(raised.value)


@pytest.mark.parametrize("text", [b"x", b"", b"0", b"99999"])
def test_a_damaged_number_is_reported(meters: list[Meter], text: bytes) -> None:
    """By writes and by reads; no write is taken."""
    project_queue().nodes[0].call((b"SET", project_queue().context.count_keys[0], text))
    with pytest.raises(WriteBehindError, match="is not a number of partitions"):
        Meter.behind.update(meters[0].pk, count=F("count") + 1)
    with pytest.raises(WriteBehindError, match="is not a number of partitions"):
        Meter.behind.get(meters[0].pk)


@pytest.mark.ring_of_nodes
def test_nodes_with_different_numbers_are_reported(meters: list[Meter], services: Services) -> None:
    """A node was emptied, or is new; the command that changes the number ends the fault."""
    nodes = f"{settings.WRITE_BEHIND['nodes']},{services.ring_urls[0].partition('?')[0]}?name=queue-b"
    with one_partition(nodes=nodes, partitions=4, durability="memory"):
        count_all(meters)
        set_numbers(4, 6)
        [fault] = [each for each in writebehind.node_faults() if "numbers of partitions" in each]
        assert "'queue-a' has 4, 'queue-b' has 6" in fault
        assert command("partitions", "4") == {"partitions": 4}
        assert not [each for each in writebehind.node_faults() if "numbers of partitions" in each]
    assert set(Meter.objects.values_list("count", flat=True)) == {1}
