"""A ring that changes under traffic: deletes at the other ring's owners, and their order.

A change takes four deploys of settings. Processes of two adjacent deploys may run side by side:

1. ``LOCATION=old, joining=new``: reads and fills at the old owner; deletes at both;
2. ``LOCATION=new, leaving=old``: reads and fills at the new owner; a miss reads the old owner
   first and copies the value (it is warmed); deletes at both;
3. the same with ``warm=False``: nobody reads the old owner any more;
4. ``LOCATION=new``: deletes at the new owner only.

A delete goes to the old ring first, is confirmed, and then goes to the new ring. Sending both
at once would be wrong:

    1. writer    DEL at the new owner arrives, at the old one not yet
    2. reader    misses, acquires a lease at the new owner
    3. reader    warms from the old owner: the old value
    4. writer    DEL at the old owner arrives
    5. reader    fills the old value under a valid lease

In order, either 3 finds nothing, or the delete at the new owner comes after 2 and revokes the
lease. Without deploy 3, a process of deploy 4, which sends no delete to the old owner, would
leave a value there that a process of deploy 2 warms from.

Any other write of a key is a delete at the other ring's owner, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Operation
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.node_deletes import delete_at

__all__ = ["delete_in_new_ring", "delete_in_old_ring"]


def delete_in_old_ring(context: Context, keys: Sequence[bytes], *, in_outbox: bool) -> Operation[list[bytes]]:
    """Delete keys in the old ring, if this process uses the new one; return those not confirmed."""
    if context.ring_change is None or not context.ring_change.is_old:
        return []
    return (yield from _delete_in_other_ring(context, keys, in_outbox))


def delete_in_new_ring(context: Context, keys: Sequence[bytes], *, in_outbox: bool) -> Operation[list[bytes]]:
    """Delete keys in the new ring, if this process uses the old one; return those not confirmed."""
    if context.ring_change is None or context.ring_change.is_old:
        return []
    return (yield from _delete_in_other_ring(context, keys, in_outbox))


def _delete_in_other_ring(context: Context, keys: Sequence[bytes], in_outbox: bool) -> Operation[list[bytes]]:
    assert context.ring_change is not None  # noqa: S101  # both callers checked it
    groups: dict[int, list[bytes]] = {}
    for key in keys:
        node = context.ring_change.owner(key)
        if node != context.ring.owner(key):
            groups.setdefault(node, []).append(key)
    return (yield from delete_at(context, groups, in_outbox=in_outbox))
