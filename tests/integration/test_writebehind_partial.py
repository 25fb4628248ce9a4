"""Servers that do not answer: what the others hold is reported and drained, and the missing part is named."""

from __future__ import annotations

from contextlib import suppress

import pytest
from django.test import override_settings

from cachebackend import protocol, writebehind
from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.queue import Partition
from cachebackend.testing import drain_now, empty_queue
from cachebackend.writebehind.queue import project_queue
from tests.integration import test_writebehind_moves
from tests.integration.test_writebehind_moves import add_one, on
from tests.integration.write_behind import command, drain_all
from tests.shop.models import Meter

urls, meters = test_writebehind_moves.urls, test_writebehind_moves.meters
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def one_away(urls: dict[str, str], meters: list[Meter]) -> override_settings:
    """Settings in which one of two nodes, which holds queued writes, does not answer."""
    with on(urls, "ab"):
        add_one(meters)
    return on(urls | {"b": "redis://127.0.0.1:1/0?name=queue-new"}, "ab")


def landed() -> int:
    return Meter.objects.filter(count=1).count()


def test_a_drain_is_not_complete_while_a_node_is_away(
    urls: dict[str, str], meters: list[Meter], one_away: override_settings
) -> None:
    """The writes on the other node are drained; the exit code is 1 and the node is named."""
    with one_away:
        report = command("drain", "--timeout", "3", code=1)
        assert report["left"] == 0
        assert list(report["unanswered"]) == ["node 'queue-new'"]
        assert 0 < landed() < len(meters)
        report = command("removed", code=1)
        assert report["models"] == []
        assert list(report["unanswered"]) == ["node 'queue-new'"]
    with on(urls, "ab"):
        assert command("drain")["unanswered"] == {}
        assert landed() == len(meters)


def test_only_the_tick_takes_a_part_of_the_partitions(
    one_away: override_settings, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs the node; every other caller gets its error."""
    with one_away:
        assert writebehind.seal_dirty()
        assert "queue-new" in caplog.text
        with pytest.raises(NodeUnavailableError, match="queue-new"):
            writebehind.dirty_partitions()
        assert all(isinstance(partition, Partition) for partition, _ in writebehind.find_dirty())
    with one_away, pytest.raises(NodeUnavailableError, match="queue-new"), empty_queue():
        drain_now()


def owners(urls: dict[str, str], meters: list[Meter]) -> dict[str, list[Meter]]:
    """Return the rows by the node that owns their partitions while both nodes take writes."""
    with on(urls, "ab"):
        context, rows = project_queue().context, Meter.behind.rows
        owned: dict[str, list[Meter]] = {"a": [], "b": []}
        for meter in meters:
            partition = rows.partition(rows.row(meter.pk), context.partitions)
            owned["ab"[context.ring.owner(partition.name)]].append(meter)
        return owned


def test_a_dead_node_among_the_retiring_stops_only_its_own_partitions(
    urls: dict[str, str], meters: list[Meter]
) -> None:
    """The node is replaced because it died; the partitions that stay on the other one do not need it."""
    owned = owners(urls, meters)
    with on(urls, "ab"):
        add_one(meters)
        drain_all()
    with on(urls | {"b": "redis://127.0.0.1:1/0?name=queue-new"}, "a", retiring="ab"):
        add_one(owned["a"])
        assert Meter.behind.get(owned["a"][0].pk).count == 2
        with pytest.raises(NodeUnavailableError, match="queue-new"):
            Meter.behind.get(owned["b"][0].pk)
        drained = 0
        for partition in writebehind.seal_dirty():
            with suppress(NodeUnavailableError):
                drained += writebehind.drain(partition).rows
        assert drained == len(owned["a"])
    assert {row.count for row in Meter.objects.filter(pk__in=[each.pk for each in owned["a"]])} == {2}


def test_a_queue_that_is_not_ended_is_waited_for_on_any_node(
    urls: dict[str, str], meters: list[Meter]
) -> None:
    """Its writes are older, and a checkpoint shows it although the node did not own its partition last."""
    owned = owners(urls, meters)
    with on(urls, "b"):
        add_one(meters)
        drain_all()
    with on(urls, "a"):
        project_queue().run(protocol.queue.share_partition_count(project_queue().context))
    with on(urls | {"b": "redis://127.0.0.1:1/0?name=queue-new"}, "a", retiring="ab"):
        add_one(owned["a"])
        with pytest.raises(NodeUnavailableError, match="queue-new"):
            Meter.behind.get(owned["a"][0].pk)
        for partition in writebehind.seal_dirty():
            with pytest.raises(NodeUnavailableError, match="queue-new"):
                writebehind.drain(partition)
