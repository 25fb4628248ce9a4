"""Changing the number of partitions, while the project runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.errors import NodeUnavailableError, RingCacheError, WriteBehindMovedError
from cachebackend.writebehind.queue import project_queue

__all__ = ["change_partitions"]

#: For each node whether its number was set, or its error.
_Exchanged: TypeAlias = dict[int, bool | NodeUnavailableError]


def change_partitions(count: int, drain: Callable[[], object]) -> int:
    """Change the number of partitions on all queue nodes; return the number afterwards.

    From the first step to the last a write is taken only if it adds to a sum that is queued and not
    sealed. Any other raises WriteBehindMovedError, which ``on_unavailable`` handles like that of a node that
    is away. All processes then follow the nodes.

    Nothing is changed unless all nodes answer. If the change fails later, each node gets back the number
    that it had. A node that does not answer then, or a process that is killed, leaves nodes without
    writes: running it again finishes the change.

    Args:
        count: The new number.
        drain: Drains the queues. If they hold writes afterwards, the numbers stay as they were.

    Raises:
        NodeUnavailableError: A queue node did not answer; the message names the nodes that take no writes.
        WriteBehindMovedError: Another process changes the number.
    """
    client = project_queue()
    context = client.context
    found = client.run(protocol.queue.partition_counts(context, context.nodes, complete=True))
    usual = max(map(abs, found.values()), default=context.partitions)
    numbers = {node: abs(found.get(node, usual)) for node in context.nodes}
    _close(client, found, numbers)
    try:
        drain()
        is_empty = client.run(protocol.queue.are_empty(context))
    except BaseException as error:
        closed = _reopen(client, numbers)
        if closed and isinstance(error, RingCacheError):
            raise NodeUnavailableError(f"{error}; {closed}") from error
        error.add_note(closed or "The number of partitions is as it was.")
        raise
    if not is_empty:
        if closed := _reopen(client, numbers):
            raise NodeUnavailableError(closed)
        return usual
    # A node that fails now stays closed: the others may have the new number already
    _require_set(client, _exchange(client, {node: (-numbers[node], count) for node in numbers}))
    context.adopt(count)
    return count


def _close(client: QueueClient, found: Mapping[int, int], numbers: Mapping[int, int]) -> None:
    """Make the number of each node negative, or of none.

    Args:
        client: The project's queue.
        found: The numbers that the nodes have; negative where a change was broken off or another runs.
        numbers: The numbers without sign.

    Raises:
        NodeUnavailableError, WriteBehindMovedError: As ``change_partitions``.
    """
    exchanged: _Exchanged = dict.fromkeys(numbers, True)  # interrupted: each of them may be closed
    try:
        exchanged = _exchange(client, {node: (found.get(node), -number) for node, number in numbers.items()})
        _require_set(client, exchanged)
    except BaseException:
        closed_here = [node for node, each in exchanged.items() if each and found.get(node, 1) > 0]
        _reopen(client, {node: numbers[node] for node in closed_here})
        raise


def _reopen(client: QueueClient, numbers: Mapping[int, int]) -> str | None:
    """Give nodes their numbers back; return which nodes may take no writes, None if all do."""
    return _closed_text(
        client, _exchange(client, {node: (-number, number) for node, number in numbers.items()})
    )


def _exchange(client: QueueClient, counts: Mapping[int, tuple[int | None, int]]) -> _Exchanged:
    return client.run(protocol.queue.exchange_partition_counts(client.context, counts))


def _require_set(client: QueueClient, exchanged: _Exchanged) -> None:
    if closed := _closed_text(client, exchanged):
        raise NodeUnavailableError(closed)
    if not all(exchanged.values()):
        message = "another process changes the number of partitions too; wait for it, and run this again"
        raise WriteBehindMovedError(message, is_closed=True)


def _closed_text(client: QueueClient, exchanged: _Exchanged) -> str | None:
    """Return which nodes did not answer, so that they may have a negative number; None if all did."""
    errors = [
        f"{each}; until `manage.py writebehind partitions N` is run again, "
        f"{client.nodes[node].name!r} may take no writes"
        for node, each in exchanged.items()
        if isinstance(each, NodeUnavailableError)
    ]
    return "; ".join(errors) or None
