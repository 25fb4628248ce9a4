"""Servers that do not answer: what the others hold is reported and drained, and the missing part is named."""

from __future__ import annotations

import pytest
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol import Partition
from cachebackend.testing import drain_now, empty_queue
from tests.integration import test_writebehind_moves
from tests.integration.test_writebehind_moves import add_one, on
from tests.integration.write_behind import command
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
