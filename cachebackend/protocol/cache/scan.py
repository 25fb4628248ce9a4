"""Lists the keys of an alias that hold values, one page of each node at a time."""

from __future__ import annotations

from collections.abc import Mapping

from cachebackend.codec import HEAD_BYTES, Kind, fresh_until_of, has_tags, tag_block_span
from cachebackend.effects import Operation, Reply, Request, Send
from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.cache.tags import read_block_tokens
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.clear import refresh_nodes
from cachebackend.protocol.rounds import Cursor

__all__ = ["KeyScan", "all_cursors", "scan"]

#: The first bytes of records that hold no value for a plain reader.
_NO_VALUES = frozenset(bytes([kind]) for kind in (Kind.LEASE, Kind.QUARANTINE, Kind.TAG, Kind.STALE))
Cursors = Mapping[int, Cursor]


class KeyScan:
    """A scan of all nodes for keys that hold values, one page at a time.

    The nodes of a cluster are scanned twice: a key may move from a node that is not scanned yet to one
    that is. Each key is returned once then.

    Args:
        context: The alias.
        pattern: Matches the keys.
        count: How many keys a node examines for a page.

    Attributes:
        is_over: Whether there are no more pages.
    """

    def __init__(self, context: Context, pattern: bytes, count: int) -> None:
        self._context, self._pattern, self._count = context, pattern, count
        self._cursors: dict[int, Cursor] = {}
        self._passes = context.ring.passes
        self._seen: set[bytes] | None = set() if context.ring.keys_move else None
        self.is_over = False

    def page(self) -> Operation[list[bytes]]:
        """Return the keys of the next page."""
        if not self._cursors:
            yield from refresh_nodes(self._context)
            self._cursors = all_cursors(self._context)
            self._passes -= 1
        found, self._cursors = yield from scan(self._context, self._pattern, self._cursors, self._count)
        self.is_over = not (self._cursors or self._passes)
        if self._seen is None:
            return found
        new = [key for key in found if key not in self._seen]
        self._seen.update(new)
        return new


def all_cursors(context: Context) -> dict[int, Cursor]:
    """Return the cursors that a scan of all nodes begins with."""
    return {node: Cursor() for node in context.ring.holders}


def scan(
    context: Context, pattern: bytes, cursors: Cursors, count: int
) -> Operation[tuple[list[bytes], dict[int, Cursor]]]:
    """Return keys that match a Redis pattern and hold values, and the next cursors; none at the end.

    Args:
        context: The alias.
        pattern: Matches the keys.
        cursors: The cursor of each node's scan.
        count: How many keys a node examines.
    """
    # The shards of the registry of shapes are hashes, which cannot be read as records
    options = b"MATCH", pattern, b"COUNT", b"%d" % count, b"TYPE", b"string"
    replies = yield Send([(node, (b"SCAN", cursor.text, *options)) for node, cursor in cursors.items()])
    following: dict[int, Cursor] = {}
    found: list[tuple[int, bytes]] = []
    for node, reply in zip(cursors, replies, strict=True):
        text, keys = context.reply_or(reply, (b"0", []))
        found += [(node, key) for key in keys]
        try:
            if cursors[node].move(text, context.fail_node, node):
                following[node] = cursors[node]
        except NodeUnavailableError as error:
            context.reply_or(error, None)
    if not found:
        return [], following
    last = b"%d" % (HEAD_BYTES - 1)
    heads = yield Send([(node, (b"GETRANGE", key, b"0", last)) for node, key in found])
    now = context.clock.now()
    readable = {
        key: (node, head)
        for (node, key), head in zip(found, heads, strict=True)
        if _may_hold_a_value(head) and fresh_until_of(head) > now
    }
    void = yield from _with_changed_tags(context, readable)
    return [key for key in readable if key not in void], following


def _may_hold_a_value(head: Reply) -> bool:
    return isinstance(head, bytes) and bool(head) and head[:1] not in _NO_VALUES


def _with_changed_tags(context: Context, heads: Mapping[bytes, tuple[int, bytes]]) -> Operation[set[bytes]]:
    """Return the keys whose values have tags that have changed; the payloads are not read."""
    spans = {key: tag_block_span(head) for key, (_, head) in heads.items() if has_tags(head)}
    if not spans:
        return set()
    requests: list[Request] = [
        (heads[key][0], (b"GETRANGE", key, b"%d" % begin, b"%d" % (end - 1)))
        for key, (begin, end) in spans.items()
    ]
    replies = zip(spans, (yield Send(requests)), strict=True)
    blocks: dict[bytes, bytes] = {key: reply if isinstance(reply, bytes) else b"" for key, reply in replies}
    tokens = yield from read_block_tokens(context, Tokens(), blocks.values())
    return {key for key, block in blocks.items() if not block or not tokens.are_recorded_in(block)}
