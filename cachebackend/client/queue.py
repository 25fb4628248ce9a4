"""The client of the write-behind queue: its nodes and counters, one for each process."""

from __future__ import annotations

from cachebackend.client.base import CLIENTS, Client
from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.counters import Counters, DrainCounts
from cachebackend.effects import is_unknown_script
from cachebackend.node import Breaker, DiskWait, Node, PromiseWait, ReplicaWait
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol import QueueContext
from cachebackend.protocol.queue.fold import (
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
        options: The project's settings, with at least one node.
        clock: The source of time.
    """

    def __init__(self, options: WriteBehindOptions, clock: Clock = SYSTEM_CLOCK) -> None:
        # A write waits for the disk only with "fsync"; a drain that does so has a client of its own
        timeout = options.socket_timeout + (FSYNC_MS / 1000 if options.durability == "fsync" else 0)
        super().__init__([Node(node, options.connect_timeout, timeout, clock) for node in options.all_nodes])
        self.ring = Ring([(node.name, node.weight) for node in options.nodes])
        self.options = options
        self.context = QueueContext(options, self.ring, clock)
        self.context.fail_node = self.fail_node
        self.counters = Counters(DrainCounts)
        for node in self.nodes:
            node.breaker = Breaker(node.name, clock, _PROBE_SECONDS, opens_on_timeout=True)
            node.promise_wait = _promise_wait(options)
        CLIENTS.add(self)

    def after_fork(self) -> None:
        """Reset, in a forked child, the counters of the parent's threads."""
        self.counters.after_fork()

    def fold_one(self, partition: Partition, write: RowWrite) -> Folded:
        """Fold one row's write. Like ``protocol.fold``, but without its generator if one reply is enough."""
        node, command = fold_request(self.context, partition, [write])
        reply = self.nodes[node].call(command)
        if not is_unknown_script(reply):
            result = fold_result(self.context, partition, 1, reply)
            if result is not None and result is not WITHOUT_COUNT:
                return result
        [result] = self.run(fold(self.context, [(partition, [write])]))
        return result


def _promise_wait(options: WriteBehindOptions) -> PromiseWait | None:
    """Return what a write waits for after a node has taken it; None: nothing."""
    if options.durability == "fsync":
        return DiskWait(options.wait_replicas, FSYNC_MS)
    return ReplicaWait(options.wait_replicas, options.socket_timeout) if options.wait_replicas else None
