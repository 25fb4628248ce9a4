"""Requests for drains: one task at a time waits for each partition, however long Celery's queue is.

A request is a key on the partition's node. It is set before the task is sent, deleted when the drain
begins, and expires if the task is lost. Only the node's own clock measures that time, so the clocks
of the machines that run beat and the workers do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Operation, Send
from cachebackend.protocol.queue.partition import Partition, QueueContext

__all__ = ["begin_drain", "pending_requests", "request_drains", "request_seconds"]

#: After this many flush intervals a request expires, and the drain is requested again.
_INTERVALS = 10


def request_seconds(queue: QueueContext) -> float:
    """Return the number of seconds after which a request expires: its task is lost, or late."""
    return _INTERVALS * queue.options.flush_interval


def request_drains(queue: QueueContext, partitions: Sequence[Partition]) -> Operation[list[Partition]]:
    """Request drains; return the partitions for which no request was pending.

    If a node stores no request, because it is full for example, its partitions are returned: a drain
    too many does no harm.
    """
    milliseconds = b"%d" % (int(request_seconds(queue) * 1000) or 1)
    requests = [
        (
            queue.ring.owner(partition.name),
            (b"SET", queue.request(partition), b"1", b"NX", b"PX", milliseconds),
        )
        for partition in partitions
    ]
    replies = (yield Send(requests)) if requests else []
    return [partition for partition, reply in zip(partitions, replies, strict=True) if reply is not None]


def begin_drain(queue: QueueContext, partition: Partition) -> Operation[None]:
    """Delete a partition's request: its drain begins, and later writes need another one."""
    yield Send([(queue.ring.owner(partition.name), (b"DEL", queue.request(partition)))])


def pending_requests(queue: QueueContext, partitions: Sequence[Partition]) -> Operation[set[Partition]]:
    """Return the partitions that have a pending request; one whose node does not answer has none."""
    requests = [
        (queue.ring.owner(partition.name), (b"EXISTS", queue.request(partition))) for partition in partitions
    ]
    replies = (yield Send(requests)) if requests else []
    return {partition for partition, reply in zip(partitions, replies, strict=True) if reply == 1}
