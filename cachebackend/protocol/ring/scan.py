"""Lists the keys of an alias that hold values, one page of each node at a time."""

from __future__ import annotations

from collections.abc import Mapping

from cachebackend.codec import Kind
from cachebackend.effects import Operation, Send
from cachebackend.protocol.context import Context

__all__ = ["all_cursors", "scan"]

#: The first bytes of records that hold no value for a plain reader.
_NO_VALUES = frozenset(bytes([kind]) for kind in (Kind.LEASE, Kind.QUARANTINE, Kind.TAG, Kind.STALE))
Cursors = Mapping[int, bytes]


def all_cursors(context: Context) -> dict[int, bytes]:
    """Return the cursors that a scan of all nodes begins with."""
    return dict.fromkeys(range(len(context.ring)), b"0")


def scan(
    context: Context, pattern: bytes, cursors: Cursors, count: int
) -> Operation[tuple[list[bytes], dict[int, bytes]]]:
    """Return keys that match a Redis pattern and hold values, and the next cursors; none at the end.

    Args:
        context: The alias.
        pattern: Matches the keys.
        cursors: The cursor of each node's scan.
        count: How many keys a node examines.
    """
    replies = yield Send(
        [(node, (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", count)) for node, cursor in cursors.items()]
    )
    following: dict[int, bytes] = {}
    found: list[tuple[int, bytes]] = []
    for node, reply in zip(cursors, replies, strict=True):
        cursor, keys = context.reply_or(reply, (b"0", []))
        found += [(node, key) for key in keys]
        if cursor != b"0":
            following[node] = cursor
    if not found:
        return [], following
    firsts = yield Send([(node, (b"GETRANGE", key, 0, 0)) for node, key in found])
    values = [
        key
        for (_, key), first in zip(found, firsts, strict=True)
        if isinstance(first, bytes) and first and first not in _NO_VALUES
    ]
    return values, following
