"""Delete every key that matches a pattern, on every node."""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Command, Operation, Send
from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.context import Context

__all__ = ["clear"]

#: Keys that a node looks at for each SCAN; a node is busy for about a millisecond.
SCAN_COUNT = 1000


def clear(context: Context, pattern: bytes, nodes: Sequence[int] | None = None) -> Operation[int]:
    """Delete the keys that match a Redis pattern, all nodes (or some) at once; return how many.

    A key that is written while this runs may stay, as with any SCAN.
    """
    cursors: dict[int, bytes] = dict.fromkeys(range(len(context.ring)) if nodes is None else nodes, b"0")
    deleted = 0
    while cursors:
        asked = list(cursors)
        replies = yield Send(
            [(node, (b"SCAN", cursors[node], b"MATCH", pattern, b"COUNT", SCAN_COUNT)) for node in asked]
        )
        unlinks: list[tuple[int, Command]] = []
        for node, reply in zip(asked, replies, strict=True):
            if isinstance(reply, NodeUnavailableError):
                context.missed.add_everything(node)
                if context.on_missed is not None:
                    context.on_missed(node, [])
            cursor, keys = context.settle(reply, (b"0", []))
            cursors[node] = cursor
            if cursor == b"0":
                del cursors[node]
            if keys:
                unlinks.append((node, (b"UNLINK", *keys)))
        if unlinks:
            counts = yield Send(unlinks)
            deleted += sum(context.settle(count, 0) for count in counts)
    return deleted
