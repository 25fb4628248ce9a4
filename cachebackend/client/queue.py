"""The client of the write-behind queue: its nodes and counters, one for each process."""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.client.base import CLIENTS, Client
from cachebackend.client.ring import CLUSTER_PROBE_SECONDS
from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.cluster import Cluster, PartRing, ShardNode, SlotNode
from cachebackend.counters import Counters, DrainCounts
from cachebackend.effects import is_unknown_script
from cachebackend.node import Breaker, DiskWait, Node, PromiseWait, ReplicaWait, Wait
from cachebackend.options import CLUSTER_PARTS, WriteBehindOptions
from cachebackend.protocol.queue import QueueContext
from cachebackend.protocol.queue.folding import (
    WITHOUT_COUNT,
    Folded,
    RowWrite,
    fold,
    fold_request,
    fold_result,
)
from cachebackend.protocol.queue.partition import Partition
from cachebackend.ring import Ring

__all__ = ["QueueClient"]

#: Milliseconds that a node may take to sync its append-only file; with ``everysec`` it does so once a second.
FSYNC_MS = 1500
#: The most seconds between two probes of a queue node that is down; no other node takes its writes.
_PROBE_SECONDS = 5.0


class QueueClient(Client):
    """The client of the write-behind queue nodes.

    Args:
        options: The project's settings, with at least one node or a cluster.
        clock: The source of time.

    Attributes:
        nodes: The nodes by index: the parts of the cluster, if the queue is on one, and plain nodes.
        cluster: The cluster; None: the queue is on plain nodes.
    """

    nodes: Sequence[Node | SlotNode]

    def __init__(self, options: WriteBehindOptions, clock: Clock = SYSTEM_CLOCK) -> None:
        self.options = options
        # A write waits for the disk only with "fsync"; a drain that does so has a client of its own
        timeout = options.socket_timeout + (FSYNC_MS / 1000 if options.durability == "fsync" else 0)
        self._clock, self._timeouts = clock, (options.connect_timeout, timeout)
        self.cluster = self._new_cluster()
        parts: list[SlotNode] = []
        if self.cluster is not None:
            parts = [SlotNode(self.cluster, name, timeout, clock) for name in CLUSTER_PARTS]
        plain = [Node(node, *self._timeouts, clock) for node in options.all_nodes[len(parts) :]]
        for node in plain:
            self._prepare(node, _PROBE_SECONDS)
        super().__init__([*parts, *plain])
        kind = Ring if self.cluster is None else PartRing
        self.ring = kind([(node.name, node.weight) for node in options.active_nodes])
        self.context = QueueContext(options, self.ring, clock)
        self.context.fail_node = self.fail_node
        self.counters = Counters(DrainCounts)
        CLIENTS.add(self)

    def _new_cluster(self) -> Cluster | None:
        options = self.options
        if options.cluster is None:
            return None
        cluster = Cluster(
            options.cluster,
            self._timeouts,
            self._clock,
            password=options.password,
            address_map=options.address_map,
        )
        cluster.on_node = self._prepare_shard
        self._prepare_shard(0, cluster.shards[0])
        return cluster

    def _prepare_shard(self, index: int, shard: ShardNode) -> None:
        del index
        self._prepare(shard, CLUSTER_PROBE_SECONDS)

    def _prepare(self, node: Node, probe_seconds: float) -> None:
        """Prepare a node, or a shard of the cluster, for use."""
        node.breaker = Breaker(node.name, self._clock, probe_seconds, opens_on_timeout=True)
        node.promise_wait = _promise_wait(self.options, self._replicas(node))

    def _replicas(self, node: Node | SlotNode) -> int:
        # Beside a cluster, plain nodes retire, and have no replicas
        is_retiring = self.options.cluster is not None and type(node) is Node
        return 0 if is_retiring else self.options.wait_replicas

    def replicas_of(self, index: int) -> int:
        """Return how many replicas must have a write to a node before it is acknowledged."""
        return self._replicas(self.nodes[index])

    def servers(self) -> dict[str, list[int]]:
        """Return the servers that hold the queue by name, and the indexes of the nodes on each of them."""
        found: dict[str, list[int]] = {}
        for index in range(len(self.nodes)):
            found.setdefault(self.server_name(index), []).append(index)
        return found

    def server_name(self, index: int) -> str:
        """Return the name of the server that a node is on: the node itself, or a primary of the cluster."""
        if self.cluster is not None:
            self.cluster.try_load()
        node = self.nodes[index]
        return node.server if isinstance(node, SlotNode) else node.name

    def after_fork(self) -> None:
        """Reset, in a forked child, the counters of the parent's threads."""
        self.counters.after_fork()

    def fold_one(self, partition: Partition, write: RowWrite) -> Folded:
        """Fold one write like ``protocol.queue.fold``, but without its generator if one reply is enough."""
        node, command = fold_request(self.context, partition, [write])
        reply = self.nodes[node].call(command)
        if not is_unknown_script(reply):
            result = fold_result(self.context, partition, 1, reply)
            if result is not None and result is not WITHOUT_COUNT:
                return result
        [result] = self.run(fold(self.context, [(partition, [write])]))
        return result


def _promise_wait(options: WriteBehindOptions, replicas: int) -> PromiseWait | None:
    """Return what a write waits for after a node has taken it; None: nothing."""
    waits: list[Wait] = []
    if replicas:
        waits.append(ReplicaWait(replicas, options.socket_timeout))
    if options.durability == "fsync":
        waits.append(DiskWait(FSYNC_MS))
    return PromiseWait(*waits) if waits else None
