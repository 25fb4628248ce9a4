"""The number of partitions, as the queue nodes have it.

Each process chooses a row's partition by this number. If two processes used different numbers, the
writes of one row would be in two partitions, in no order. So the first writer stores the number of
its settings on the node, and each write names the number that it used: a node that has another one
takes nothing and answers with its own. To change it, no partition may hold writes:

    1. the number of each node is made negative: it takes no more writes, except additions to sums
       that are queued already;
    2. the partitions are drained;
    3. the new number is stored on each node.

If the process that changes it dies, no other write is taken until it is run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cachebackend.effects import Operation, Send
from cachebackend.errors import NodeUnavailableError, WriteBehindDamagedError
from cachebackend.protocol.queue.partition import QueueContext, checked

__all__ = ["are_empty", "partition_counts", "set_partition_counts"]


def partition_counts(queue: QueueContext, nodes: Iterable[int]) -> Operation[dict[int, int]]:
    """Return the number of partitions by node: negative if it is being changed. A node may have none.

    A node that does not answer is left out.

    Raises:
        WriteBehindDamagedError: A node holds something else.
    """
    asked = list(nodes)
    replies = yield Send([(node, (b"GET", queue.partitions_key)) for node in asked])
    counts: dict[int, int] = {}
    for node, reply in zip(asked, replies, strict=True):
        if reply is None or isinstance(reply, NodeUnavailableError):
            continue
        text = checked(reply)
        if (count := queue.parse_count(text)) is None:
            key = queue.partitions_key.decode()
            message = f"{key} is damaged: {text[:40]!r} is not a number of partitions"
            raise WriteBehindDamagedError(message)
        counts[node] = count
    return counts


def set_partition_counts(queue: QueueContext, counts: Mapping[int, int]) -> Operation[None]:
    """Set the number of partitions of nodes.

    Raises:
        NodeUnavailableError: A node did not answer.
    """
    replies = yield Send(
        [(node, (b"SET", queue.partitions_key, b"%d" % count)) for node, count in counts.items()]
    )
    for reply in replies:
        checked(reply)


def are_empty(queue: QueueContext) -> Operation[bool]:
    """Return whether no partition of any node holds writes.

    Raises:
        NodeUnavailableError: A node did not answer.
    """
    replies = yield Send([(node, (b"ZCARD", queue.dirty)) for node in queue.nodes])
    return all(checked(reply) == 0 for reply in replies)
