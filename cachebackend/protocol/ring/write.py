"""The bracket around every write of a key: what must happen before it and after it.

Before: drop the copies in this process; delete at the old ring's owner, and in the gutter.
After: record what the node missed if it did not confirm; drop the copies again, for another
thread may have read the old value meanwhile; delete at the new ring's owner. ``ring_change`` and
``gutter`` explain the order.

An operation passes its requests to ``write`` and never sends them itself. Where a key can be
stored at its owner only (``context.has_one_owner``), nothing else is left of the bracket than
``context.drop_near`` before the command and ``settle_write`` after it, and a client calls these
two without a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from cachebackend.effects import Operation, Reply, Request, Send
from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.gutter import delete_in_gutter
from cachebackend.protocol.ring.ring_change import delete_in_new_ring, delete_in_old_ring

__all__ = ["delete_elsewhere", "settle_write", "write", "write_by"]

T = TypeVar("T")


def settle_write(context: Context, key: bytes, node: int, reply: Reply) -> None:
    """Drop this process's copy of a key that was overwritten, and record a node that may hold an older value.

    Args:
        context: The alias.
        key: The key.
        node: The node that the write was sent to: the owner, or one of the gutter.
        reply: Its reply.
    """
    if context.near is not None:
        context.near.drop((key,))
    if context.gutter is not None or isinstance(reply, NodeUnavailableError):
        _record_older(context, key, node, reply)


def _record_older(context: Context, key: bytes, node: int, reply: Reply) -> None:
    """Record that a node may hold an older value: it did not confirm, or the gutter got the write."""
    if isinstance(reply, NodeUnavailableError):
        context.record_missed(node, (key,))
    if context.gutter is not None and (owner := context.ring.owner(key)) != node:
        context.record_missed(owner, (key,))


def write(
    context: Context,
    keys: Sequence[bytes],
    begin: Callable[[], Sequence[Request]],
    *,
    overwrites: bool = True,
) -> Operation[list[Reply]]:
    """Send writes of keys, one request for each, inside the bracket; return the replies.

    Args:
        context: The alias.
        keys: The keys.
        begin: Returns the write of each. It is called after the deletes that come first: these may
            eject a node, or take so long that one returns, and the write must go to the node that
            serves the key then.
        overwrites: Whether a write replaces or removes what its key holds, so that a node that does
            not confirm it may hold an older value. False for ``add`` and ``incr``.
    """
    replies, _ = yield from write_by(context, keys, _send(context, keys, begin, overwrites))
    return replies


def _send(
    context: Context, keys: Sequence[bytes], begin: Callable[[], Sequence[Request]], overwrites: bool
) -> Operation[list[Reply]]:
    requests = begin()
    replies: list[Reply] = yield Send(requests)
    if overwrites:
        for key, (node, _), reply in zip(keys, requests, replies, strict=True):
            if context.gutter is not None or isinstance(reply, NodeUnavailableError):
                _record_older(context, key, node, reply)
    return replies


def write_by(
    context: Context,
    keys: Sequence[bytes],
    operation: Operation[T],
    *,
    in_outbox: bool = False,
    in_gutter: bool = True,
) -> Operation[tuple[T, list[bytes]]]:
    """Run an operation that writes keys at their owners inside the bracket.

    Args:
        context: The alias.
        keys: The keys that it writes.
        operation: It records what the owners miss.
        in_outbox: Whether an outbox keeps the keys until they are confirmed.
        in_gutter: Whether the keys are deleted in the gutter, too; False for a fill, which may
            itself be stored there.

    Returns:
        The operation's result, and the keys whose delete elsewhere was not confirmed.
    """
    context.drop_near(keys)
    unconfirmed = yield from delete_in_old_ring(context, keys, in_outbox=in_outbox)
    if in_gutter:
        unconfirmed += yield from delete_in_gutter(context, keys, in_outbox=in_outbox)
    result = yield from operation
    context.drop_near(keys)
    unconfirmed += yield from delete_in_new_ring(context, keys, in_outbox=in_outbox)
    return result, unconfirmed


def delete_elsewhere(context: Context, keys: Sequence[bytes]) -> Operation[None]:
    """Delete keys wherever a node other than their owner may hold them."""
    yield from write_by(context, keys, _nothing())


def _nothing() -> Operation[None]:
    return
    yield
