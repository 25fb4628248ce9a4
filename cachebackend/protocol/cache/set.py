"""Writes that the caller asks for: set, add, replace, touch, incr, make_stale.

Each changes or removes the one string that is the key. So a lease that the key held is revoked,
and a fill that is under way is refused.

A time to live is in milliseconds; None: the value does not expire; 0 or less: it is not stored.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, TypeVar

from cachebackend.codec import stored_of
from cachebackend.effects import Command, Operation, Reply, Request, Script, Send
from cachebackend.errors import NodeReplyError
from cachebackend.protocol.cache.compare_and_set import KEEP_TTL, NO_EXPIRY, CompareAndSet, send_conditional
from cachebackend.protocol.cache.freshness import read_record
from cachebackend.protocol.cache.tags import read_tokens, with_checked_tags
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import delete
from cachebackend.protocol.ring.node_deletes import delete_command
from cachebackend.protocol.ring.write import delete_elsewhere, write, write_by
from cachebackend.replies import either, integer, optional_text, text

__all__ = [
    "add",
    "begin_set",
    "incr",
    "make_stale",
    "replace",
    "set_",
    "set_many",
    "settle_set",
    "touch",
]

_ADD = Script(__package__, "add", "readable_value", "is_quarantined", "store", reply=either(integer, text))
_INCR = Script(__package__, "incr", "readable_value", reply=either(integer, optional_text))
_REPLACE = Script(__package__, "replace", "readable_value", "store", reply=either(integer, text))
_TOUCH = Script(__package__, "touch", "readable_value", reply=either(integer, text))
_STALE = Script(__package__, "make_stale", "is_quarantined", reply=integer, is_promise=True)
K = TypeVar("K")


def _script_ttl(ttl_ms: int | None) -> int:
    """Return a time to live in the form that the scripts take: -1: no expiry; 0: not stored."""
    return -1 if ttl_ms is None else max(0, ttl_ms)


def begin_set(context: Context, key: bytes, record: bytes, ttl_ms: int | None) -> Request:
    """Return the request that stores a record."""
    if ttl_ms is not None and ttl_ms <= 0:
        return context.serving_node(key), delete_command([key])
    if context.gutter is None:
        return context.ring.owner(key), _set_command(key, record, ttl_ms)
    node = context.serving_node(key)
    capped_ms = context.ttl_at(node, NO_EXPIRY if ttl_ms is None else ttl_ms)
    return node, _set_command(key, record, None if capped_ms == NO_EXPIRY else capped_ms)


def _set_command(key: bytes, record: bytes, ttl_ms: int | None) -> Command:
    return (b"SET", key, record) if ttl_ms is None else (b"SET", key, record, b"PX", b"%d" % ttl_ms)


def settle_set(context: Context, reply: Reply) -> bool:
    """Return whether the node confirmed that it stored the value.

    Raises:
        NodeUnavailableError: The node did not answer and ``on_node_failure`` is "raise".
        NodeReplyError: The node refused the command.
    """
    return reply.__class__ is bytes or context.reply_or(reply, None) is not None


def set_(context: Context, key: bytes, value: Any, ttl_ms: int | None) -> Operation[bool]:
    """Store a value and replace the old record, if any; return whether the node confirmed it."""
    record = context.codec.encode(value, key)
    [reply] = yield from write(context, [key], lambda: [begin_set(context, key, record, ttl_ms)])
    return settle_set(context, reply)


def set_many(
    context: Context, keys: Mapping[K, bytes], values: Mapping[K, Any], ttl_ms: int | None
) -> Operation[list[K]]:
    """Store many values in one scatter; return the caller's names of the keys that were not confirmed."""
    encode = context.codec.encode
    records = [(key, encode(values[name], key)) for name, key in keys.items()]
    replies = yield from write(
        context,
        list(keys.values()),
        lambda: [begin_set(context, key, record, ttl_ms) for key, record in records],
    )
    return [name for name, reply in zip(keys, replies, strict=True) if not settle_set(context, reply)]


def add(context: Context, key: bytes, value: Any, ttl_ms: int | None) -> Operation[bool]:
    """Store a value where there is none; return whether there was none."""
    return (yield from _set_if(context, key, _ADD, value, ttl_ms, overwrites=False))


def replace(context: Context, key: bytes, value: Any, ttl_ms: int | None) -> Operation[bool]:
    """Store a value where there is one; return whether there was one."""
    return (yield from _set_if(context, key, _REPLACE, value, ttl_ms, overwrites=True))


def _set_if(
    context: Context, key: bytes, script: Script, value: Any, ttl_ms: int | None, *, overwrites: bool
) -> Operation[bool]:
    arguments = str(context.clock.now()), context.codec.encode(value, key), b"%d" % _script_ttl(ttl_ms)
    node = context.ring.owner(key)

    def attempt(verdict: bytes) -> Operation[Reply]:
        request = node, script.call([key], *arguments, verdict)
        [reply] = yield from write(context, [key], lambda: [request], overwrites=overwrites)
        return reply

    return bool(context.reply_or((yield from with_checked_tags(context, node, attempt)), 0))


def touch(context: Context, key: bytes, ttl_ms: int | None) -> Operation[bool]:
    """Give a value a new time to live; return whether there is a value. 0 or less deletes it."""
    now, life_ms = context.clock.now(), _script_ttl(ttl_ms)
    fresh_until = struct.pack(">d", math.inf if ttl_ms is None else now + ttl_ms / 1000)
    arguments = str(now), b"%d" % life_ms, fresh_until
    node = context.ring.owner(key)

    def attempt(verdict: bytes) -> Operation[Reply]:
        request = node, _TOUCH.call([key], *arguments, verdict)
        if life_ms == 0:
            [reply] = yield from write(context, [key], lambda: [request])
        else:
            [reply] = yield Send([request])
        return reply

    context.drop_near([key])
    reply = yield from with_checked_tags(context, node, attempt)
    if life_ms and reply == 1:
        # A copy elsewhere could outlive the new time; a value that was not yet moved stays
        yield from delete_elsewhere(context, [key])
    if life_ms == 0:
        yield from _delete_at_replicas(context, key)
    context.drop_near([key])
    return bool(context.reply_or(reply, 0))


def incr(context: Context, key: bytes, delta: int) -> Operation[int | None]:
    """Add to an integer and return the sum; None if there is no value.

    Raises:
        TypeError: The value is not an integer.
        OverflowError: The sum is beyond 64 bits.
    """
    if isinstance(delta, bool) or not isinstance(delta, int):
        message = f"the delta must be an integer, not {delta!r}"
        raise TypeError(message)
    if not -(2**63) <= delta < 2**63:
        message = f"{delta} is beyond 64 bits"
        raise OverflowError(message)
    request = context.ring.owner(key), _INCR.call([key], str(context.clock.now()), b"%d" % delta)
    [reply] = yield from write(context, [key], lambda: [request], overwrites=False)
    if isinstance(reply, bytes):
        return (yield from _incr_loaded(context, key, delta, reply))
    if isinstance(reply, NodeReplyError):
        if "overflow" in str(reply):
            message = "the sum is beyond 64 bits"
            raise OverflowError(message) from reply
        if "not an integer" in str(reply):
            message = "the value is not an integer"
            raise TypeError(message) from reply
    total: int | None = context.reply_or(reply, None)
    return total


def _incr_loaded(context: Context, key: bytes, delta: int, record: bytes) -> Operation[int | None]:
    """Add to an integer that is not stored bare: it has tags, or it is refreshed.

    Its record is replaced, if the key still holds it; else the whole ``incr`` is made again.
    """
    tokens = yield from read_tokens(context, Tokens(), [record])
    cached = read_record(context, key, record, tokens, allow_stale=False)
    if cached is None:
        return None
    if type(cached.value) is not int:
        message = "the value is not an integer"
        raise TypeError(message)
    total = cached.value + delta
    if not -(2**63) <= total < 2**63:
        message = "the sum is beyond 64 bits"
        raise OverflowError(message)
    stored = stored_of(record)
    new = context.codec.encode(total, key, stored.refresh, stored.tags)
    swap = CompareAndSet(context.ring.owner(key), key, record, new, KEEP_TTL)
    [reply], _ = yield from write_by(context, [key], send_conditional(context, [swap]))
    if reply is None:
        return (yield from incr(context, key, delta))
    return total if context.reply_or(reply, None) is not None else None


def make_stale(context: Context, key: bytes, stale_ms: int) -> Operation[bool]:
    """Invalidate a value, but let callers that allow stale values be served it for ``stale_ms``.

    Returns whether the key holds a stale value now. A value that was not loaded is deleted, as is a lease.
    """
    if stale_ms <= 0:
        yield from delete(context, key)
        return False
    request = context.ring.owner(key), _STALE.call([key], b"%d" % stale_ms)
    [reply] = yield from write(context, [key], lambda: [request])
    if reply == 0:
        yield from _delete_at_replicas(context, key)
    return bool(context.reply_or(reply, 0))


def _delete_at_replicas(context: Context, key: bytes) -> Operation[None]:
    """Wait until replicas have the delete of a key that its owner does not hold any more, if deletes wait."""
    if context.options.wait_replicas:
        yield from delete(context, key)
