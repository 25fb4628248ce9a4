"""Partitions, their keys, and the nodes that hold them."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import NodeUnavailableError, WriteBehindDamagedError, WriteBehindMovedError
from cachebackend.options import CLUSTER_PARTS, WriteBehindOptions
from cachebackend.protocol.queue.partition import Partition, QueueContext, checked
from cachebackend.ring import Ring, cluster_slot
from tests.unit.protocol.stepping import DOWN, StillClock, queue_of


def test_the_keys_of_a_partition_share_a_hash_tag() -> None:
    """So a cluster stores all of them on one node."""
    partition = Partition("shop.meter", 3)
    assert str(partition) == partition.name.decode() == "shop.meter:3"
    queue = queue_of("a")
    assert queue.meta(partition) == b"wb:{shop.meter:3}:meta"
    assert queue.batch(partition, 12) == b"wb:{shop.meter:3}:12"


def queue_on_cluster(**options: Any) -> QueueContext:
    made = WriteBehindOptions.read({"nodes": "redis+cluster://unused:7000"} | options)
    return QueueContext(made, Ring([(name, 1.0) for name in CLUSTER_PARTS]), StillClock())


def test_all_keys_of_a_part_of_a_cluster_are_in_one_slot() -> None:
    """So a script may use several of them, and they move together. The owner of a partition never changes."""
    queue = queue_on_cluster()
    for partition in [Partition("shop.meter", number) for number in range(32)]:
        node = queue.ring.owner(partition.name)
        keys = [*queue.fold_keys(partition, 1), queue.request(partition)]
        slots = {cluster_slot(key) for key in (*keys, queue.dirty_keys[node], queue.count_keys[node])}
        assert slots == {cluster_slot(CLUSTER_PARTS[node].encode())}
        assert list(queue.holders(partition)) == [node]
    assert queue.meta(Partition("shop.meter", 3)).endswith(b"}:{shop.meter:3}:meta")


def test_a_retiring_node_has_the_keys_of_a_plain_node() -> None:
    """While the queue moves to a cluster, a partition has other keys on each."""
    queue, partition = queue_on_cluster(retiring=["redis://unused-a?name=a"]), Partition("shop.meter", 3)
    assert queue.meta(partition, 16) == b"wb:{shop.meter:3}:meta"
    assert queue.batch(partition, 12, 16) == b"wb:{shop.meter:3}:12"
    assert queue.dirty_keys[16:] == [b"wb:dirty"]
    assert list(queue.holders(partition)) == [16, queue.ring.owner(partition.name)]
    assert queue.required_nodes(partition) == {16, queue.ring.owner(partition.name)}


def test_every_key_begins_with_the_prefix_of_the_settings() -> None:
    """So two projects can share a node."""
    queue, partition = queue_of("a", prefix="blog"), Partition("shop.meter", 3)
    assert queue.dirty_keys == [b"blog:dirty"]
    assert queue.meta(partition) == b"blog:{shop.meter:3}:meta"
    assert queue.batch(partition, 12) == b"blog:{shop.meter:3}:12"


@pytest.mark.parametrize("name", [b"", b"shop.meter", b"shop.meter:x", b"a b:1", b"a:12345", b"\xff:1"])
def test_an_invalid_name_is_not_a_partition(name: bytes) -> None:
    """A node may have keys of another program."""
    assert Partition.parse(name) is None


def test_a_name_is_parsed_to_the_same_partition() -> None:
    """The reverse of ``name``."""
    partition = Partition("shop.meter", 1023)
    assert Partition.parse(partition.name) == partition


def test_retiring_nodes_come_before_the_owner() -> None:
    """Their batches are older; an owner that is being retired from elsewhere is named once, last."""
    queue = queue_of("a", "b", retiring=["redis://unused-old?name=old", "redis://unused-a?name=a"])
    partitions = [Partition("shop.meter", number) for number in range(8)]
    for partition in partitions:
        owner = queue.ring.owner(partition.name)
        assert queue.nodes_of(partition) == ([2, 0, 1] if owner == 1 else [2, 0])
    assert {queue.ring.owner(partition.name) for partition in partitions} == {0, 1}
    assert list(queue.nodes) == [0, 1, 2]


def test_a_partition_needs_its_owner_and_its_owner_before() -> None:
    """Other nodes that are being retired may be away, unless queues in memory have no checkpoints."""
    urls = ["redis://unused-a?name=a", "redis://unused-b?name=b", "redis://unused-c?name=c"]
    queue = queue_of("a", retiring=urls)
    memory = queue_of("a", retiring=urls, durability="memory")
    old = Ring([("a", 1.0), ("b", 1.0), ("c", 1.0)])
    for partition in [Partition("shop.meter", number) for number in range(8)]:
        assert queue.required_nodes(partition) == {0, old.owner(partition.name)}
        assert memory.required_nodes(partition) == {0, 1, 2}
        assert queue_of("a").required_nodes(partition) == {0}


def test_the_room_of_a_model_is_shared_by_its_partitions() -> None:
    """Evenly, and each has room for at least one write; by the number of partitions that a write used."""
    partition = Partition("shop.meter", 3)
    queue = queue_of("a", high_water=1000, partitions=8)
    assert queue.limits(partition) == b"10000 125 16777216 33554432 8 shop.meter:3"
    small = queue_of("a", high_water=3, high_water_bytes=7, batch_bytes=9, partitions=8)
    assert small.limits(partition) == b"10000 1 9 1 8 shop.meter:3"
    assert queue.limits(Partition("shop.meter", 3, 4)) == b"10000 250 16777216 67108864 4 shop.meter:3"
    queue.adopt(10)
    assert queue.limits(partition) == b"10000 100 16777216 26843545 10 shop.meter:3"


def test_the_time_is_in_whole_milliseconds() -> None:
    """The unit of the scripts' arguments."""
    assert queue_of("a").now_ms() == 1_000_000


def test_an_error_among_the_replies_is_raised() -> None:
    """It is never parsed as a reply."""
    assert checked([1, b"x"]) == [1, b"x"]
    with pytest.raises(NodeUnavailableError):
        checked(DOWN)


def test_a_context_follows_the_number_of_partitions_of_a_node() -> None:
    """The error says whether the change has ended."""
    queue = queue_of("a", partitions=8)
    error = queue.moved(b"4")
    assert isinstance(error, WriteBehindMovedError)
    assert (queue.partitions, error.is_closed) == (4, False)
    error = queue.moved(b"-8")
    assert isinstance(error, WriteBehindMovedError)
    assert (queue.partitions, error.is_closed) == (8, True)
    assert isinstance(queue.moved(b"x"), WriteBehindDamagedError)
    assert queue.partitions == 8
