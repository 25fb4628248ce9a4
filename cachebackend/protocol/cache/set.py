"""Writes that the caller asks for: set, add, touch, incr, delete, and their many-key forms.

Each changes or removes the one string that is the key, so a lease that stood there is
revoked, and a fill that is under way is refused.

A time to live is in milliseconds; None is for ever, 0 or less is not at all.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cachebackend.effects import Command, Operation, Reply, Script, Send
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.cache.compare_and_set import NO_EXPIRY
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import delete_command
from cachebackend.protocol.ring.ring_change import tell_entered, tell_first

__all__ = [
    "add",
    "delete",
    "delete_many",
    "expiry",
    "incr",
    "make_stale",
    "replace",
    "set_",
    "set_command",
    "set_many",
    "touch",
    "was_deleted",
    "was_stored",
]

_ADD = Script(__package__, "add", "readable_value", "store")
_INCR = Script(__package__, "incr", "readable_value")
_REPLACE = Script(__package__, "replace", "readable_value", "store")
_TOUCH = Script(__package__, "touch", "readable_value")
_STALE = Script(__package__, "make_stale")
K = TypeVar("K")


def expiry(ttl_ms: int | None) -> int:
    """Return a time to live as the scripts take it: -1 for ever, 0 for not at all."""
    return -1 if ttl_ms is None else max(0, ttl_ms)


def _set_request(context: Context, key: bytes, record: bytes, ttl_ms: int | None) -> tuple[int, Command]:
    node = context.serving_node(key)
    if ttl_ms is not None and ttl_ms <= 0:
        return node, delete_command([key])
    life = context.ttl_at(node, NO_EXPIRY if ttl_ms is None else ttl_ms)
    return node, set_command(key, record, None if life == NO_EXPIRY else life)


def set_command(key: bytes, record: bytes, ttl_ms: int | None) -> Command:
    """Return what stores a record for so long."""
    return (b"SET", key, record) if ttl_ms is None else (b"SET", key, record, b"PX", ttl_ms)


def set_(context: Context, key: bytes, value: Any, ttl_ms: int | None) -> Operation[bool]:
    """Store a value, whatever stood there; return whether the node confirmed it."""
    record = context.codec.encode(value)
    yield from tell_first(context, [key])
    node, command = _set_request(context, key, record, ttl_ms)
    [reply] = yield Send([(node, command)])
    _note(context, node, [key], reply)
    yield from tell_entered(context, [key])
    return context.reply_or(reply, None) is not None


def was_stored(context: Context, node: int, key: bytes, reply: Reply) -> bool:
    """Return whether a node confirmed a SET; note that it missed it if not.

    Raises:
        RingCacheError: It did not, and the settings say that that is to be raised.
    """
    _note(context, node, [key], reply)
    return context.reply_or(reply, None) is not None


def _note(context: Context, node: int, keys: Sequence[bytes], reply: Reply) -> None:
    """Note keys whose owner did not confirm that what stood there is gone: it was another that was asked."""
    if isinstance(reply, NodeUnavailableError):
        context.record_missed(node, keys)
    for key in keys if context.gutter is not None else ():
        if (owner := context.ring.owner(key)) != node:
            context.record_missed(owner, [key])


def set_many(
    context: Context, keys: Mapping[K, bytes], values: Mapping[K, Any], ttl_ms: int | None
) -> Operation[list[K]]:
    """Store many values in one scatter; return the caller's names of those not confirmed."""
    encode = context.codec.encode
    records = [(key, encode(values[name])) for name, key in keys.items()]
    yield from tell_first(context, list(keys.values()))
    if context.gutter is None and (ttl_ms is None or ttl_ms > 0):
        owner = context.ring.owner
        requests = [(owner(key), set_command(key, record, ttl_ms)) for key, record in records]
    else:
        requests = [_set_request(context, key, record, ttl_ms) for key, record in records]
    replies = yield Send(requests)
    yield from tell_entered(context, list(keys.values()))
    if context.gutter is None and all(reply.__class__ is bytes for reply in replies):
        return []
    for (node, _), key, reply in zip(requests, keys.values(), replies, strict=True):
        _note(context, node, [key], reply)
    return [name for name, reply in zip(keys, replies, strict=True) if context.reply_or(reply, None) is None]


def add(context: Context, key: bytes, value: Any, ttl_ms: int | None) -> Operation[bool]:
    """Store a value where there is none; return whether there was none."""
    call = _ADD.call([key], context.clock.now(), context.codec.encode(value), expiry(ttl_ms))
    yield from tell_first(context, [key])
    [reply] = yield Send([(context.ring.owner(key), call)])
    yield from tell_entered(context, [key])
    return bool(context.reply_or(reply, 0))


def replace(context: Context, key: bytes, value: Any, ttl_ms: int | None) -> Operation[bool]:
    """Store a value where there is one; return whether there was."""
    call = _REPLACE.call([key], context.clock.now(), context.codec.encode(value), expiry(ttl_ms))
    yield from tell_first(context, [key])
    node = context.ring.owner(key)
    [reply] = yield Send([(node, call)])
    _note(context, node, [key], reply)
    yield from tell_entered(context, [key])
    return bool(context.reply_or(reply, 0))


def touch(context: Context, key: bytes, ttl_ms: int | None) -> Operation[bool]:
    """Give a value a new time to live; return whether there is one; 0 or less deletes the key."""
    now, node, life = context.clock.now(), context.ring.owner(key), expiry(ttl_ms)
    fresh_until = struct.pack(">d", math.inf if ttl_ms is None else now + ttl_ms / 1000)
    call = _TOUCH.call([key], now, life, fresh_until)
    if life == 0:
        yield from tell_first(context, [key])
        [reply] = yield Send([(node, call)])
        _note(context, node, [key], reply)
        yield from tell_entered(context, [key])
    else:
        context.drop_near([key])
        [reply] = yield Send([(node, call)])
        if reply == 1:  # a copy elsewhere may outlive it; but what has not moved yet stays
            yield from tell_first(context, [key])
            yield from tell_entered(context, [key])
        context.drop_near([key])
    return bool(context.reply_or(reply, 0))


def incr(context: Context, key: bytes, delta: int) -> Operation[int | None]:
    """Add to an integer and return the sum; None if there is no value.

    Raises:
        TypeError: The value is not an integer.
        OverflowError: The sum is beyond 64 bits.
    """
    if isinstance(delta, bool) or not isinstance(delta, int):
        message = f"an integer can be added, not {delta!r}"
        raise TypeError(message)
    if not -(2**63) <= delta < 2**63:
        message = f"{delta} is beyond 64 bits"
        raise OverflowError(message)
    yield from tell_first(context, [key])
    [reply] = yield Send([(context.ring.owner(key), _INCR.call([key], context.clock.now(), delta))])
    yield from tell_entered(context, [key])
    if isinstance(reply, NodeReplyError):
        if "overflow" in str(reply):
            message = "the sum is beyond 64 bits"
            raise OverflowError(message) from reply
        if "not an integer" in str(reply):
            message = "the value is not an integer"
            raise TypeError(message) from reply
    total: int | None = context.reply_or(reply, None)
    return total


def make_stale(context: Context, key: bytes, stale_ms: int) -> Operation[bool]:
    """Invalidate a value, letting those who allow stale values be served it for a while.

    Returns whether it stands as stale; a value that was not loaded is deleted, as is a lease.
    """
    if stale_ms <= 0:
        yield from delete(context, key)
        return False
    node = context.ring.owner(key)
    yield from tell_first(context, [key])
    [reply] = yield Send([(node, _STALE.call([key], stale_ms))])
    _note(context, node, [key], reply)
    yield from tell_entered(context, [key])
    return bool(context.reply_or(reply, 0))


def delete(context: Context, key: bytes) -> Operation[bool]:
    """Delete whatever the key holds; return whether it held a value or a lease."""
    node = context.ring.owner(key)
    yield from tell_first(context, [key])
    [reply] = yield Send([(node, delete_command([key]))])
    _note(context, node, [key], reply)
    yield from tell_entered(context, [key])
    return bool(context.reply_or(reply, 0))


def was_deleted(context: Context, node: int, key: bytes, reply: Reply) -> bool:
    """Return whether a node says that there was something to delete; note that it missed it if it does not.

    Raises:
        RingCacheError: It does not, and the settings say that that is to be raised.
    """
    _note(context, node, [key], reply)
    return bool(context.reply_or(reply, 0))


def delete_many(
    context: Context, keys: Sequence[bytes], *, in_outbox: bool = False
) -> Operation[list[bytes]]:
    """Delete many keys in one scatter; return those whose node did not confirm it.

    The one operation that never raises for a node's failure: the caller decides what
    becomes of the keys that are left.

    Args:
        context: The alias.
        keys: The keys.
        in_outbox: Whether an outbox has them until they are confirmed.
    """
    left = yield from tell_first(context, keys, in_outbox=in_outbox)
    groups = context.ring.by_owner((key, key) for key in keys)
    replies = yield Send([(node, delete_command(group)) for node, group in groups.items()])
    for (node, group), reply in zip(groups.items(), replies, strict=True):
        if isinstance(reply, NodeUnavailableError | NodeReplyError):
            context.counters.cell.node_failures += 1
            if isinstance(reply, NodeUnavailableError):
                context.record_missed(node, group, in_outbox=in_outbox)
            left += group
    left += yield from tell_entered(context, keys, in_outbox=in_outbox)
    return list(dict.fromkeys(left))
