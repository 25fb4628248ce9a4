"""The number of partitions, as the queue nodes have it.

Each process chooses a row's partition by this number. If two processes used different numbers, the
writes of one row would be in two partitions, in no order. So the nodes store the number, and each
write names the number that it used: a node that has another one takes nothing and answers with its
own. A node that has none, because it is new or was emptied, gets that of the others, and only if no
node has one, that of the settings. To change it, no partition may hold writes:

    1. the number of each node is made negative: it takes no more writes, except additions to sums
       that are queued already;
    2. the partitions are drained;
    3. the new number is stored on each node.

If the process that changes it dies, no other write is taken until it is run again. Each step changes a
number only if it is the one that the step before left, so two processes that change it do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cachebackend.effects import Operation, Reply, Request, Script, Send
from cachebackend.errors import NodeUnavailableError, WriteBehindDamagedError, WriteBehindMovedError
from cachebackend.protocol.queue.partition import QueueContext, checked
from cachebackend.replies import integer

__all__ = [
    "are_empty",
    "count_of",
    "count_request",
    "exchange_partition_counts",
    "partition_counts",
    "share_partition_count",
]

# If a failover brought an old number back, the writes of one row could be in two partitions
_EXCHANGE = Script(__package__, "exchange", reply=integer, is_promise=True)


def partition_counts(
    queue: QueueContext, nodes: Iterable[int], *, complete: bool = False
) -> Operation[dict[int, int]]:
    """Return the number of partitions by node: negative if it is being changed. A node may have none.

    Args:
        queue: The queue.
        nodes: The nodes to ask.
        complete: Whether every node must answer; otherwise those that do not are left out.

    Raises:
        WriteBehindDamagedError: A node holds something else.
        NodeUnavailableError: ``complete``, and a node did not answer.
    """
    counts, unanswered = yield from _ask(queue, nodes)
    if complete:
        for error in unanswered.values():
            raise error
    return counts


def _ask(
    queue: QueueContext, nodes: Iterable[int]
) -> Operation[tuple[dict[int, int], dict[int, NodeUnavailableError]]]:
    """Return the number of partitions by node, and the errors of the nodes that did not answer."""
    asked = list(nodes)
    replies = yield Send([count_request(queue, node) for node in asked])
    counts: dict[int, int] = {}
    unanswered: dict[int, NodeUnavailableError] = {}
    for node, reply in zip(asked, replies, strict=True):
        if isinstance(reply, NodeUnavailableError):
            unanswered[node] = reply
        elif (count := count_of(queue, node, reply)) is not None:
            counts[node] = count
    return counts, unanswered


def count_request(queue: QueueContext, node: int) -> Request:
    """Return the request for the number of partitions of a node."""
    return node, (b"GET", queue.count_keys[node])


def count_of(queue: QueueContext, node: int, reply: Reply) -> int | None:
    """Return the number of partitions in the reply of a node; None if the node has none.

    Raises:
        WriteBehindDamagedError: The node holds something else.
        NodeUnavailableError: The node did not answer.
    """
    text = checked(reply)
    if text is not None and (count := queue.parse_count(text)) is None:
        key = queue.count_keys[node].decode()
        message = f"{key} is damaged: {text[:40]!r} is not a number of partitions"
        raise WriteBehindDamagedError(message)
    return None if text is None else count


def exchange_partition_counts(
    queue: QueueContext, counts: Mapping[int, tuple[int | None, int]]
) -> Operation[dict[int, bool | NodeUnavailableError]]:
    """Set the number of partitions of nodes, if they have the expected ones.

    Args:
        queue: The queue.
        counts: For each node the expected number, None if it has none, and the new number.

    Returns:
        For each node whether it was set, or its error: then it may be set or not.
    """
    replies = yield Send(
        [
            (node, _EXCHANGE.call([queue.count_keys[node]], _text(before), _text(after)))
            for node, (before, after) in counts.items()
        ]
    )
    return {
        node: reply if isinstance(reply, NodeUnavailableError) else checked(reply) == 1
        for node, reply in zip(counts, replies, strict=True)
    }


def _text(count: int | None) -> bytes:
    return b"" if count is None else b"%d" % count


def share_partition_count(queue: QueueContext) -> Operation[None]:
    """Give the number of partitions to the nodes that have none.

    If no node has one, all processes store that of their settings on the same node first, so that one of
    them decides.

    Raises:
        WriteBehindMovedError: The nodes have different numbers, so a write could be in two partitions.
        NodeUnavailableError: No node that answers has a number, and another one may have one.
    """
    counts, unanswered = yield from _ask(queue, queue.nodes)
    if not counts:
        for error in unanswered.values():
            message = (
                "the number of partitions is not known, because no other queue node has it and one does not "
                f"answer: {error}; start it, or remove it from WRITE_BEHIND"
            )
            raise NodeUnavailableError(message) from error
        first = min(queue.nodes, key=lambda node: queue.options.all_nodes[node].name)
        yield from exchange_partition_counts(queue, {first: (None, queue.options.partitions)})
        counts = yield from partition_counts(queue, [first], complete=True)
    if len(numbers := sorted(set(map(abs, counts.values())))) > 1:
        message = (
            f"the queue nodes have different numbers of partitions ({', '.join(map(str, numbers))}), so "
            "the write is not taken; run `manage.py writebehind partitions N` with the right one"
        )
        raise WriteBehindMovedError(message, is_closed=True)
    shared = min(counts.values())  # negative if a change has begun
    new = {node: (None, shared) for node in queue.nodes if node not in {*counts, *unanswered}}
    if new:
        yield from exchange_partition_counts(queue, new)


def are_empty(queue: QueueContext) -> Operation[bool]:
    """Return whether no partition of any node holds writes.

    Raises:
        NodeUnavailableError: A node did not answer.
    """
    replies = yield Send([(node, (b"ZCARD", queue.dirty_keys[node])) for node in queue.nodes])
    return all(checked(reply) == 0 for reply in replies)
