"""Delete every key that matches a pattern, or everything, on every node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cachebackend.effects import Command, Operation, Reply, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.node_deletes import delete_command

__all__ = ["clear", "clear_owed", "flush", "sweep", "wipe"]

#: Keys that a node looks at for each SCAN; a node is busy for about a millisecond.
SCAN_COUNT = 1000


@dataclass(slots=True)
class Wiped:
    """What came of deleting all keys of some nodes that match a pattern.

    Attributes:
        deleted: How many there were.
        failures: What each node answered that was not wiped, by its index.
    """

    deleted: int = 0
    failures: dict[int, RingCacheError] = field(default_factory=dict)


def wipe(context: Context, pattern: bytes, nodes: Sequence[int]) -> Operation[Wiped]:
    """Delete the keys of some nodes that match a Redis pattern, at all of them at once.

    A key that is written while this runs may stay, as with any SCAN.
    """
    wiped = Wiped()
    cursors = dict.fromkeys(nodes, b"0")
    while cursors:
        asked = list(cursors)
        replies = yield Send(
            [(node, (b"SCAN", cursors[node], b"MATCH", pattern, b"COUNT", SCAN_COUNT)) for node in asked]
        )
        drops: list[tuple[int, Command]] = []
        for node, reply in zip(asked, replies, strict=True):
            if isinstance(reply, RingCacheError):
                wiped.failures[node] = reply
                del cursors[node]
                continue
            cursors[node], keys = reply
            if cursors[node] == b"0":
                del cursors[node]
            if keys:
                drops.append((node, delete_command(keys)))
        counts = (yield Send(drops)) if drops else []
        for (node, _), count in zip(drops, counts, strict=True):
            if isinstance(count, RingCacheError):
                wiped.failures[node] = count
                cursors.pop(node, None)
            else:
                wiped.deleted += count
    return wiped


def clear(context: Context, pattern: bytes, nodes: Sequence[int] | None = None) -> Operation[int]:
    """Delete the keys that match a Redis pattern at all (or some) nodes, as ``wipe``; return how many.

    While the ring is changed, the one that is left is cleared before the one that is entered.
    """
    if context.near is not None:
        context.near.drop_all()
    deleted = 0
    failures: list[RingCacheError] = []
    for stage in _stages(context) if nodes is None else [nodes]:
        wiped = yield from wipe(context, pattern, stage)
        deleted += wiped.deleted
        failures += wiped.failures.values()
        for node, failure in wiped.failures.items():
            _note(context, node, failure)
    if context.near is not None:
        context.near.drop_all()
    for failure in failures:
        context.reply_or(failure, None)
    return deleted


def clear_owed(context: Context, pattern: bytes, nodes: Sequence[int]) -> Operation[bool]:
    """Delete the keys of nodes that missed it when others were told; return whether they confirmed it.

    While the ring is changed, what may have been warmed from them meanwhile is deleted after them:

        1. writer  clears; a node of the ring that is left does not answer; the ring that is
                   entered is cleared
        2. reader  warms from that node, which is back: the old value
        3. relay   clears the node; what 2 filled stands in the ring that is entered
    """
    wiped = yield from wipe(context, pattern, nodes)
    others: list[Sequence[int]] = []
    if context.ring_change is not None:
        left = context.ring_change.nodes if context.ring_change.is_old else range(len(context.ring))
        if any(node in left for node in nodes):
            others = [stage for stage in _stages(context) if stage != left]
    for stage in others:
        wiped.failures |= (yield from wipe(context, pattern, stage)).failures
    return not wiped.failures


def flush(context: Context) -> Operation[None]:
    """Delete everything that the nodes' databases hold, whoever wrote it; in the order of ``clear``."""
    if context.near is not None:
        context.near.drop_all()
    for stage in _stages(context):
        replies = yield Send([(node, (b"FLUSHDB",)) for node in stage])
        for node, reply in zip(stage, replies, strict=True):
            _note(context, node, reply)
        for reply in replies:
            context.reply_or(reply, None)
    if context.near is not None:
        context.near.drop_all()


def _stages(context: Context) -> list[Sequence[int]]:
    """Return all nodes, those first that must be told first: of the ring that is left, then the gutter's."""
    own: list[Sequence[int]] = [range(len(context.ring))]
    if context.gutter is not None:
        own.insert(0, context.gutter.nodes)
    other: list[Sequence[int]] = [] if context.ring_change is None else [context.ring_change.nodes]
    is_old = context.ring_change is not None and context.ring_change.is_old
    return other + own if is_old else own + other


def _note(context: Context, node: int, reply: Reply) -> None:
    """Note that a node that did not answer should have deleted every key."""
    if isinstance(reply, NodeUnavailableError):
        context.record_missed_clear(node)


def sweep(context: Context, pattern: bytes, *, delete: bool, tell: Callable[[int], None]) -> Operation[int]:
    """Find keys that match a Redis pattern on nodes that do not own them, and delete them; return how many.

    Args:
        context: The alias.
        pattern: What its keys look like.
        delete: Whether to delete them, or only to count.
        tell: Called now and then with how many keys were looked at.

    Raises:
        NodeUnavailableError: A node did not answer.
    """
    foreign = looked = 0
    for node in range(len(context.ring)):
        cursor = b""
        while cursor != b"0":
            scan = (b"SCAN", cursor or b"0", b"MATCH", pattern, b"COUNT", SCAN_COUNT)
            [reply] = yield Send([(node, scan)])
            if isinstance(reply, RingCacheError):
                raise reply
            cursor, keys = reply
            looked += len(keys)
            strays = [key for key in keys if context.ring.owner(key) != node]
            foreign += len(strays)
            if strays and delete:
                yield Send([(node, delete_command(strays))])
        tell(looked)
    return foreign
