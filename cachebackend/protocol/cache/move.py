"""Moves a value to another key, with all that its record says: tags, refresh block, time to live."""

from __future__ import annotations

from cachebackend.effects import Operation, Send
from cachebackend.protocol.cache.freshness import read_record
from cachebackend.protocol.cache.set import begin_set, settle_set
from cachebackend.protocol.cache.tags import read_tokens
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import delete
from cachebackend.protocol.ring.write import write

__all__ = ["move"]


def move(context: Context, key: bytes, target: bytes) -> Operation[bool]:
    """Store the value of a key under another one, and delete the key; return whether it was moved.

    The two keys may have different owners, so the move is not atomic. If the owner of the target does not
    confirm it, the value stays where it is.
    """
    node = context.serving_node(key)
    record, ttl_ms = yield Send([(node, (b"GET", key)), (node, (b"PTTL", key))])
    tokens = yield from read_tokens(context, Tokens(), [record])
    if read_record(context, key, record, tokens, allow_stale=False) is None or not isinstance(ttl_ms, int):
        return False
    record, life_ms = context.codec.moved(record, key, target), None if ttl_ms == -1 else ttl_ms
    [reply] = yield from write(context, [target], lambda: [begin_set(context, target, record, life_ms)])
    if not settle_set(context, reply):  # else the value would be at neither key
        return False
    yield from delete(context, key)
    return True
