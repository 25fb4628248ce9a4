"""Queue nodes that are replaced while partitions are written and while they are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from django.db.models import F
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.errors import WriteBehindStoppedError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.writebehind import seals, waiting
from cacheproject.services import Services
from tests.fix_services import flush
from tests.integration.write_behind import command, drain_all
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
#: The old and the new nodes.
MOVES = [("a", "b"), ("a", "ab"), ("ab", "a"), ("ab", "b")]


@pytest.fixture
def urls(services: Services, new_node: str) -> dict[str, str]:
    """The URLs of the two queue nodes, both empty."""
    flush(new_node)
    return {"a": services.queue_urls[0], "b": new_node}


@pytest.fixture
def meters() -> list[Meter]:
    """Rows of all partitions."""
    return Meter.objects.bulk_create([Meter() for _ in range(60)])


def on(
    urls: dict[str, str], nodes: str, retiring: str = "", durability: str = "everysec"
) -> override_settings:
    """Return settings with these nodes."""
    named = {"nodes": [urls[each] for each in nodes], "retiring": [urls[each] for each in retiring]}
    return override_settings(WRITE_BEHIND=named | {"durability": durability})


def add_one(meters: Sequence[Meter]) -> None:
    Meter.behind.update_many({meter.pk: {"count": F("count") + 1} for meter in meters})


def tick() -> None:
    for partition in writebehind.seal_dirty():
        writebehind.drain(partition)


@pytest.mark.parametrize("durability", ["everysec", "fsync"])
@pytest.mark.parametrize(("old", "new"), MOVES)
def test_nodes_are_replaced_while_writes_continue(
    urls: dict[str, str], meters: list[Meter], old: str, new: str, durability: str
) -> None:
    """``nodes`` says when ``retiring`` may be removed, also for partitions that nothing writes to."""
    with on(urls, old, durability=durability):
        add_one(meters)
        tick()
        add_one(meters[:1])
    with on(urls, new, retiring=old, durability=durability):
        add_one(meters[:2])
        report = command("nodes", code=1)
        assert not report["done"]
        assert sum(len(node["left"]) for node in report["nodes"]) > 0
        assert Meter.behind.get(meters[0].pk).count == 3
        tick()
        assert command("nodes")["done"]
        assert Meter.behind.get(meters[5].pk).count == 1
    with on(urls, new, durability=durability):
        add_one(meters)
        tick()
        assert command("nodes") == command("nodes") | {"done": True, "gone": []}
        assert command("repair") == {"faults": [], "unanswered": {}}
        counts = list(Meter.objects.order_by("pk").values_list("count", flat=True))
        assert sorted(counts) == [2] * 58 + [3, 4]
        assert [
            row.count for _, row in sorted(Meter.behind.in_bulk([m.pk for m in meters]).items())
        ] == counts


@pytest.mark.parametrize(("old", "new"), MOVES)
def test_nodes_are_replaced_in_a_pause(urls: dict[str, str], meters: list[Meter], old: str, new: str) -> None:
    """Without workers ``drain`` does the same, before and after the settings change."""
    with on(urls, old):
        add_one(meters)
        command("drain")
    with on(urls, new, retiring=old):
        assert command("nodes", code=1)["gone"] == []
        command("drain")
        assert command("nodes")["done"]
    with on(urls, new):
        add_one(meters)
        command("drain")
    assert set(Meter.objects.values_list("count", flat=True)) == {2}


def test_partitions_return_to_a_node_that_they_left(urls: dict[str, str], meters: list[Meter]) -> None:
    """Their queue there continues where it ended."""
    for nodes, retiring in (("a", ""), ("ab", "a"), ("ab", ""), ("a", "ab"), ("a", "")):
        with on(urls, nodes, retiring):
            add_one(meters)
            tick()
            if retiring:
                assert command("nodes")["done"]
    assert set(Meter.objects.values_list("count", flat=True)) == {5}


def test_a_wait_ends_while_a_node_is_replaced(
    urls: dict[str, str], meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batches of the old and the new queue have the same numbers, but only one of them is waited for."""
    row = meters[0]
    with on(urls, "a"):
        add_one([row])
        with on(urls, "b", retiring="a"):

            def drain_and_write(_: float) -> None:
                tick()
                add_one([row])

            monkeypatch.setattr(waiting.time, "sleep", drain_and_write)
            assert Meter.behind.wait(row.pk, timeout=60.0)
            assert Meter.behind.get(row.pk).count == 2


def test_a_node_that_was_replaced_without_being_named_is_noticed(
    urls: dict[str, str], meters: list[Meter]
) -> None:
    """The partitions stop, ``nodes`` lists them, and naming the old node is enough to continue."""
    with on(urls, "a"):
        add_one(meters)
        tick()
    with on(urls, "b"):
        add_one(meters)
        with pytest.raises(WriteBehindStoppedError, match=r"name the old node in WRITE_BEHIND\['retiring'\]"):
            drain_all()
        assert len(command("nodes", code=1)["gone"]) == WriteBehindCheckpoint.objects.count()
    with on(urls, "b", retiring="a"):
        tick()
        assert command("nodes")["done"]
    assert set(Meter.objects.values_list("count", flat=True)) == {2}


def test_a_node_that_does_not_answer_is_not_done(urls: dict[str, str]) -> None:
    """Its queues are unknown."""
    away = {"a": "redis://127.0.0.1:1/0?name=away", "b": urls["b"]}
    with on(away, "b", retiring="a"):
        report = command("nodes", code=1)
    assert [(node["node"], node["done"]) for node in report["nodes"]] == [
        ("queue-new", True),
        ("away", False),
    ]


def test_a_queue_that_is_in_use_again_is_sampled(urls: dict[str, str], meters: list[Meter]) -> None:
    """Its partitions left and ended it before; a node that is emptied after a tick stops them."""
    with on(urls, "a"):
        add_one(meters)
        tick()
    for nodes, retiring in (("b", "a"), ("a", "b")):
        with on(urls, nodes, retiring):
            tick()
            assert command("nodes")["done"]
    with on(urls, "a"):
        add_one(meters)
        assert writebehind.seal_dirty()
        flush(urls["a"])
        with pytest.raises(WriteBehindStoppedError, match="was emptied or replaced"):
            Meter.behind.get(meters[0].pk)
        add_one(meters)
        with pytest.raises(WriteBehindStoppedError):
            drain_all()


def test_a_sample_of_a_drained_batch_starts_no_ended_queue(
    urls: dict[str, str], meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick is slow: the queue was drained and ended between its seals and its samples."""
    stored = seals.store_samples

    def late(*arguments: Any) -> None:
        drain_all()
        drain_all()
        stored(*arguments)

    with on(urls, "a"):
        add_one(meters)
    with on(urls, "b", "a"), monkeypatch.context() as patch:
        patch.setattr(seals, "store_samples", late)
        writebehind.seal_dirty()
        assert command("nodes")["done"]
    with on(urls, "b"):
        assert command("nodes")["gone"] == []


@pytest.mark.parametrize("emptied", ["a", "b"])
def test_every_queue_of_a_partition_is_sampled(
    urls: dict[str, str], meters: list[Meter], emptied: str
) -> None:
    """While nodes are replaced a partition has two queues with writes."""
    with on(urls, "a"):
        add_one(meters)
        tick()
        add_one(meters)
    with on(urls, "b", "a"):
        add_one(meters)
        assert writebehind.seal_dirty()
        assert Meter.behind.get(meters[0].pk).count == 3
        flush(urls[emptied])
        with pytest.raises(WriteBehindStoppedError, match="was emptied or replaced"):
            Meter.behind.get(meters[0].pk)
