"""The client of the queue nodes."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.client.queue import QueueClient
from cachebackend.cluster import SlotNode
from cachebackend.errors import NodeReplyError
from cachebackend.node import Node
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol.queue import Partition, RowWrite
from cachebackend.protocol.queue.folding import fold_request

FSYNC = (b"WAITAOF", b"1", b"0", b"1500")
METER = Partition("shop.meter", 0)
WRITE = RowWrite(b"u", b"1\0", ((b"1\0count\0", b"d", b"1"),), ())


def client_of(**options: Any) -> QueueClient:
    return QueueClient(WriteBehindOptions.read({"nodes": ["redis://unused?name=q"]} | options))


@pytest.mark.parametrize(("durability", "seconds"), [("memory", 1.0), ("everysec", 1.0), ("fsync", 2.5)])
def test_a_node_that_syncs_each_write_has_longer_to_answer(durability: str, seconds: float) -> None:
    """Its timeout is longer by the 1.5 seconds that a sync may take."""
    assert client_of(durability=durability).nodes[0]._timeout == seconds


def test_a_queue_on_a_cluster_has_parts_and_may_have_retiring_nodes() -> None:
    """The parts are on the servers of the cluster: until its topology is read, on one."""
    nodes, retiring = "redis+cluster://127.0.0.1:1", ["redis://unused?name=old"]
    client = client_of(nodes=nodes, retiring=retiring, connect_timeout=0.01, wait_replicas=1)
    assert client.cluster is not None
    assert [type(node) for node in client.nodes] == [SlotNode] * 16 + [Node]
    assert list(client.servers().values()) == [list(range(16)), [16]]
    assert client.ring.copies(b"key", 2) == [client.ring.owner(b"key")]
    shard, old = client.cluster.shards[0], client.nodes[16]
    assert isinstance(old, Node)
    for node in (shard, old):
        assert node.breaker is not None
        assert node.breaker.opens_on_timeout


def test_beside_a_cluster_only_its_servers_wait_for_replicas() -> None:
    """The plain nodes that it replaces have none, and their batches must be drained."""
    nodes, retiring = "redis+cluster://127.0.0.1:1", ["redis://unused?name=old"]
    client = client_of(
        nodes=nodes, retiring=retiring, connect_timeout=0.01, wait_replicas=1, durability="fsync"
    )
    assert client.cluster is not None
    shard, old = client.cluster.shards[0], client.nodes[16]
    _, promise = fold_request(client.context, METER, [WRITE])
    assert isinstance(old, Node)
    assert added_by(shard, promise) == [(b"WAIT", b"1", b"500"), FSYNC]
    assert added_by(old, promise) == [FSYNC]
    assert (client.replicas_of(0), client.replicas_of(16)) == (1, 0)


def added_by(node: Node, promise: Any) -> list[Any]:
    return [] if node.promise_wait is None else list(node.promise_wait.added([promise]))[1:]


def test_plain_nodes_are_their_own_servers() -> None:
    """With their names."""
    assert client_of().servers() == {"q": [0]}


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        ({}, []),
        ({"wait_replicas": 1}, [(b"WAIT", b"1", b"500")]),
        ({"durability": "fsync"}, [FSYNC]),
        ({"durability": "fsync", "wait_replicas": 2}, [(b"WAIT", b"2", b"500"), FSYNC]),
    ],
)
def test_a_write_waits_for_what_the_settings_name(options: Any, commands: Any) -> None:
    """For replicas, for the disk of the node, or for both."""
    client = client_of(**options)
    _, promise = fold_request(client.context, METER, [WRITE])
    [node] = client.nodes
    assert isinstance(node, Node)
    assert added_by(node, promise) == commands


def test_one_write_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a generator; it is sent to the owner of the partition."""
    called: list[Any] = []
    monkeypatch.setattr(Node, "call", lambda _, command: called.append(command) or 1)
    assert client_of().fold_one(METER, WRITE).codes == (b"ok",)
    assert called[0].script.name == "fold"


@pytest.mark.parametrize("first", [NodeReplyError("NOSCRIPT No matching script"), -3])
def test_a_write_that_one_call_cannot_fold_is_folded_by_the_operation(
    monkeypatch: pytest.MonkeyPatch, first: Any
) -> None:
    """Because the node has not cached the script, or another batch is open."""
    client = client_of()
    monkeypatch.setattr(Node, "call", lambda *_: first)
    monkeypatch.setattr(client, "run", lambda operation: [operation.close() or "folded"])
    assert client.fold_one(METER, WRITE) == "folded"
