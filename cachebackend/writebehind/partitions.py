"""Changing the number of partitions, while the project runs."""

from __future__ import annotations

from collections.abc import Callable

from cachebackend import protocol
from cachebackend.writebehind.queue import project_queue

__all__ = ["change_partitions"]


def change_partitions(count: int, drain: Callable[[], object]) -> int:
    """Change the number of partitions on all queue nodes; return the number afterwards.

    From the first step to the last a write is taken only if it adds to a sum that is queued and not
    sealed. Any other raises WriteBehindMovedError, which ``on_unavailable`` handles like that of a node that
    is away. All processes then follow the nodes.

    Args:
        count: The new number.
        drain: Drains the queues. If they hold writes afterwards, the number stays as it was.

    Raises:
        NodeUnavailableError: A queue node did not answer. Call it again: until then, that node or all
            nodes may take no other writes.
    """
    client = project_queue()
    context = client.context
    before = client.run(protocol.partition_counts(context, context.nodes))
    old = max(map(abs, before.values()), default=context.partitions)
    client.run(protocol.set_partition_counts(context, dict.fromkeys(context.nodes, -old)))
    drain()
    after = count if client.run(protocol.are_empty(context)) else old
    client.run(protocol.set_partition_counts(context, dict.fromkeys(context.nodes, after)))
    context.adopt(after)
    return after
