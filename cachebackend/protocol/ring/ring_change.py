"""A ring that is changed under traffic: what goes to the other ring's owners, and in which order.

Four deploys of settings, and processes of two adjacent ones may run side by side:

1. ``LOCATION=old, joining=new``: reads and fills at the old owner; deletes at both;
2. ``LOCATION=new, leaving=old``: reads and fills at the new owner, a miss looks at the old one
   first (it is warmed); deletes at both;
3. the same with ``warm=False``: nobody looks at the old owner any more;
4. ``LOCATION=new``: deletes at the new owner only.

A delete goes to the ring being left first, is confirmed, and then goes to the ring being
entered. At once would be wrong:

    1. writer    DEL at the new owner arrives, at the old one not yet
    2. reader    misses, takes a lease at the new owner
    3. reader    warms from the old owner: the old value
    4. writer    DEL at the old owner arrives
    5. reader    fills the old value under a valid lease

In order, either 3 finds nothing, or the delete at the new owner comes after 2 and takes the
lease away. Without deploy 3, a process of 4, which tells the old owner nothing, would leave
there what a process of 2 warms from.

A write over what may stand is a delete at the other ring's owner, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from cachebackend.effects import Operation, Send
from cachebackend.protocol.cache.compare_and_set import NO_EXPIRY, CompareAndSet, take
from cachebackend.protocol.cache.fill import LeaseRequest
from cachebackend.protocol.cache.get import can_warm
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import tell
from cachebackend.protocol.ring.gutter import tell_gutter

__all__ = ["tell_entered", "tell_first", "tell_left", "warm"]

K = TypeVar("K")


def tell_left(context: Context, keys: Sequence[bytes], *, in_outbox: bool = False) -> Operation[list[bytes]]:
    """Delete keys at the ring being left, before anything is told to the ring being entered.

    What every write begins with, and ``tell_entered`` what it ends with: they drop this
    process's own copies, too.

    Returns:
        Those that their node did not confirm; it is noted that it missed them.
    """
    context.drop_near(keys)
    if context.ring_change is None or not context.ring_change.is_old:
        return []
    return (yield from _tell(context, keys, in_outbox))


def tell_first(context: Context, keys: Sequence[bytes], *, in_outbox: bool = False) -> Operation[list[bytes]]:
    """Delete keys at the ring being left, then in the gutter: what every write but a fill begins with."""
    left = yield from tell_left(context, keys, in_outbox=in_outbox)
    return left + (yield from tell_gutter(context, keys, in_outbox=in_outbox))


def tell_entered(
    context: Context, keys: Sequence[bytes], *, in_outbox: bool = False
) -> Operation[list[bytes]]:
    """Delete keys at the ring being entered, after the ring being left was told; as ``tell_left``."""
    context.drop_near(keys)
    if context.ring_change is None or context.ring_change.is_old:
        return []
    return (yield from _tell(context, keys, in_outbox))


def _tell(context: Context, keys: Sequence[bytes], in_outbox: bool) -> Operation[list[bytes]]:
    assert context.ring_change is not None  # noqa: S101  # both callers have looked
    groups: dict[int, list[bytes]] = {}
    for key in keys:
        node = context.ring_change.owner(key)
        if node != context.ring.owner(key):
            groups.setdefault(node, []).append(key)
    return (yield from tell(context, groups, in_outbox=in_outbox))


def warm(context: Context, wants: Mapping[K, LeaseRequest]) -> Operation[dict[K, bytes]]:
    """Fill leased keys with what stands at the ring being left; return the records, by name.

    What is stale, due, or vouched for by tags is left to the loader.
    """
    moved = {
        name: context.ring_change.owner(want.key)
        for name, want in wants.items()
        if context.ring_change is not None and context.ring_change.is_warm and want.standing is None
        if context.ring_change.owner(want.key) != want.node
    }
    if not moved:
        return {}
    replies = yield Send(
        [
            request
            for name, node in moved.items()
            for request in ((node, (b"GET", wants[name].key)), (node, (b"PTTL", wants[name].key)))
        ]
    )
    found = {
        name: (record, life)
        for name, record, life in zip(moved, replies[::2], replies[1::2], strict=True)
        if can_warm(context, record) and isinstance(life, int) and life not in {0, -2}
    }
    swaps = [
        CompareAndSet(
            wants[name].node, wants[name].key, wants[name].record, record, life if life > 0 else NO_EXPIRY
        )
        for name, (record, life) in found.items()
    ]
    if swaps:
        filled = yield from take(context, swaps)
        context.fills_refused(filled.count(None))
    return {name: record for name, (record, _) in found.items()}
