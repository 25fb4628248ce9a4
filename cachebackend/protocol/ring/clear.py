"""Deletes of every key that matches a pattern, or of everything, on every node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

from cachebackend.effects import Ask, Operation, Reply, Request, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.protocol.context import Context, Gutter, RingChange
from cachebackend.protocol.ring.confirmations import confirm_requests
from cachebackend.protocol.ring.node_deletes import delete_command
from cachebackend.protocol.rounds import Cursor
from cachebackend.ring import ClusterRing, Ring
from cachebackend.threads import call_in_thread

__all__ = ["clear", "clear_missed", "delete_matching", "delete_misplaced", "flush", "refresh_nodes"]

#: Keys that a node examines for each SCAN, which keeps it busy for about a millisecond.
SCAN_COUNT = b"1000"


class _Nodes(NamedTuple):
    """Nodes that a caller names."""

    nodes: Sequence[int]

    @property
    def holders(self) -> Sequence[int]:
        """The nodes."""
        return self.nodes


#: What is cleared together. The nodes of a cluster may be others each time they are asked for.
_Stage: TypeAlias = Ring | ClusterRing | RingChange | Gutter | _Nodes


@dataclass(slots=True)
class Cleared:
    """The result of deleting all keys of some nodes that match a pattern.

    Attributes:
        deleted: How many keys were deleted.
        failures: The error of each node that was not cleared, by its index.
    """

    deleted: int = 0
    failures: dict[int, RingCacheError] = field(default_factory=dict)


def delete_matching(context: Context, pattern: bytes, nodes: Sequence[int]) -> Operation[Cleared]:
    """Delete the keys of some nodes that match a Redis pattern, on all of these nodes at once.

    A key that is written while this runs may stay, as with any SCAN.
    """
    cleared = Cleared()
    cursors = {node: Cursor() for node in nodes}
    while cursors:
        asked = list(cursors)
        replies = yield Send([_scan_request(node, cursors[node], pattern) for node in asked])
        deletes: list[Request] = []
        for node, reply in zip(asked, replies, strict=True):
            if isinstance(reply, RingCacheError):
                cleared.failures[node] = reply
                del cursors[node]
                continue
            text, keys = reply
            try:
                if not cursors[node].move(text, context.fail_node, node):
                    del cursors[node]
            except NodeUnavailableError as error:
                cleared.failures[node] = error
                del cursors[node]
            if keys:
                deletes.append((node, delete_command(keys)))
        counts = (yield Send(deletes)) if deletes else []
        for (node, _), count in zip(deletes, counts, strict=True):
            if isinstance(count, RingCacheError):
                cleared.failures[node] = count
                cursors.pop(node, None)
            else:
                cleared.deleted += count
    slots = [(node, context.served_slot(node)) for node in nodes if node not in cleared.failures]
    confirming = confirm_requests(context, slots)
    replies = (yield Send(confirming)) if confirming else ()
    for (node, _), reply in zip(confirming, replies, strict=True):
        if isinstance(reply, RingCacheError):
            cleared.failures[node] = reply
    return cleared


def _scan_request(node: int, cursor: Cursor, pattern: bytes) -> Request:
    return node, (b"SCAN", cursor.text, b"MATCH", pattern, b"COUNT", SCAN_COUNT)


def clear(context: Context, pattern: bytes, nodes: Sequence[int] | None = None) -> Operation[int]:
    """Delete the keys that match a Redis pattern on all (or some) nodes; return how many were deleted.

    While the ring changes, the old ring is cleared before the new one.
    """
    if context.near is not None:
        context.near.drop_all()
    deleted = 0
    failures: list[RingCacheError] = []
    for stage in _stages(context) if nodes is None else [_Nodes(nodes)]:
        yield from refresh_nodes(context)
        cleared = yield from delete_matching(context, pattern, stage.holders)
        deleted += cleared.deleted
        failures += cleared.failures.values()
        for node, failure in cleared.failures.items():
            _record_missed(context, node, failure)
    if context.near is not None:
        context.near.drop_all()
    for failure in failures:
        context.reply_or(failure, None)
    return deleted


def clear_missed(context: Context, pattern: bytes, nodes: Sequence[int]) -> Operation[bool]:
    """Clear nodes that missed a clear; return whether they confirmed it.

    While the ring changes, values that may have been warmed from them meanwhile are deleted after them:

        1. writer  clears; a node of the old ring does not answer; the new ring is cleared
        2. reader  warms from that node, which is back: the old value
        3. relay   clears the node; the new ring still holds what 2 filled
    """
    cleared = yield from delete_matching(context, pattern, nodes)
    if context.ring_change is not None:
        old = context.ring_change if context.ring_change.is_old else context.ring
        if any(node in old.holders for node in nodes):
            for stage in _stages(context):
                if stage is not old:
                    cleared.failures |= (yield from delete_matching(context, pattern, stage.holders)).failures
    return not cleared.failures


def flush(context: Context) -> Operation[None]:
    """Delete everything in the nodes' databases, foreign keys included; in the order of ``clear``."""
    if context.near is not None:
        context.near.drop_all()
    for stage in _stages(context):
        yield from refresh_nodes(context)
        nodes = stage.holders
        replies = yield Send([(node, (b"FLUSHDB",)) for node in nodes])
        for node, reply in zip(nodes, replies, strict=True):
            _record_missed(context, node, reply)
        for reply in replies:
            context.reply_or(reply, None)
    if context.near is not None:
        context.near.drop_all()


def refresh_nodes(context: Context) -> Operation[None]:
    """Read the table of a cluster again, before all of its nodes are asked.

    No server redirects a command that names no key. So a server that got slots since the table was read would
    not be asked.
    """
    for ring in context.rings:
        if ring.refresh is not None:
            yield Ask(ring.refresh, partial(call_in_thread, ring.refresh))


def _stages(context: Context) -> list[_Stage]:
    """Return what must be cleared, in this order: the old ring, the gutter, the new ring."""
    own: list[_Stage] = [context.ring] * context.ring.passes
    if context.gutter is not None:
        own.insert(0, context.gutter)
    change = context.ring_change
    if change is None:
        return own
    other = [change] * change.ring.passes
    return [*other, *own] if change.is_old else [*own, *other]


def _record_missed(context: Context, node: int, reply: Reply) -> None:
    """Record a node that did not answer: it missed the delete of every key."""
    if isinstance(reply, NodeUnavailableError):
        context.record_missed_clear(node)


def delete_misplaced(
    context: Context, pattern: bytes, *, delete: bool, progress: Callable[[int], None]
) -> Operation[int]:
    """Find keys that match a Redis pattern on nodes that do not own them, and delete them; return how many.

    Args:
        context: The alias.
        pattern: Matches its keys.
        delete: Whether to delete the keys, or only to count them.
        progress: Called after each page of keys with the number of keys examined so far.

    Raises:
        NodeUnavailableError: A node did not answer.
    """
    misplaced = examined = 0
    yield from refresh_nodes(context)
    for node in context.ring.nodes:
        cursor, is_unfinished = Cursor(), True
        while is_unfinished:
            [reply] = yield Send([_scan_request(node, cursor, pattern)])
            if isinstance(reply, RingCacheError):
                raise reply
            text, keys = reply
            is_unfinished = cursor.move(text, context.fail_node, node)
            examined += len(keys)
            strays = [key for key in keys if context.ring.owner(key) != node]
            misplaced += len(strays)
            if strays and delete:
                yield Send([(node, delete_command(strays))])
        progress(examined)
    return misplaced
