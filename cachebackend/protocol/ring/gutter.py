"""The gutter: a spare ring that takes the keys of a node that is ejected, each for a short time.

A process whose breaker is open reads, sets, leases and fills such a key in the gutter; others
may go on at the owner. Neither is ever copied to the other, and each has its own leases; so
it is enough that whatever takes a key back takes it back at both:

    1. reader A   its breaker is open: leases in the gutter, loads the old row
    2. writer     UPDATE, COMMIT; DEL in the gutter -> A's lease is gone; DEL at the owner
    3. reader A   fills in the gutter: refused
    4. reader B   its breaker is closed: finds nothing at the owner

A set is such a write, too: what stands in the gutter is older. It is told before the owner is,
and after the ring that is being left, from which a reader may warm the gutter (see ``moving``).

What the gutter holds when the owner is back stays unread, and is gone after ``gutter_timeout``;
so if a process that is ejected again reads there, it finds nothing that was not told of every
delete. A gutter node that did not confirm a delete is told when it is back, as any node is.

``add``, ``incr`` and ``touch`` do not use the gutter: a lock or a counter in two places is
neither. Nor do the keys of strict managers.

Source: Nishtala et al., "Scaling Memcache at Facebook", NSDI '13, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Operation
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import tell

__all__ = ["tell_gutter"]


def tell_gutter(
    context: Context, keys: Sequence[bytes], *, in_outbox: bool = False
) -> Operation[list[bytes]]:
    """Delete keys in the gutter; return those that their node did not confirm, and note it missed them."""
    gutter = context.gutter
    if gutter is None:
        return []
    groups: dict[int, list[bytes]] = {}
    for key in keys:
        groups.setdefault(gutter.owner(key), []).append(key)
    return (yield from tell(context, groups, in_outbox=in_outbox))
