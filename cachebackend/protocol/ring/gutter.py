"""The gutter: a spare ring that holds the keys of an ejected node, each for a short time.

A process whose breaker is open reads, sets, leases and fills such a key in the gutter; other
processes may still use the owner. No value is ever copied between the two, and each has its own
leases. So it is enough that every write that removes a key removes it at both:

    1. reader A   its breaker is open: acquires a lease in the gutter, loads the old row
    2. writer     UPDATE, COMMIT; DEL in the gutter -> A's lease is gone; DEL at the owner
    3. reader A   fills in the gutter: refused
    4. reader B   its breaker is closed: finds nothing at the owner

A set is such a write, too: the value in the gutter is older. The gutter's delete comes before
the owner's write, and after the delete in the old ring, from which a reader may warm the gutter
(see ``ring_change``).

When the owner is back, nobody reads the gutter's values, and they expire after
``gutter_timeout``. If a process that is ejected again reads there, it finds nothing that missed
a delete: a gutter node that did not confirm a delete gets a replay when it is back, like any node.

``add``, ``incr`` and ``touch`` do not use the gutter: a lock or a counter in two places is
neither. The keys of strict managers do not use it either.

Source: Nishtala et al., "Scaling Memcache at Facebook", NSDI '13, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Operation
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.node_deletes import delete_at

__all__ = ["delete_in_gutter"]


def delete_in_gutter(context: Context, keys: Sequence[bytes], *, in_outbox: bool) -> Operation[list[bytes]]:
    """Delete keys in the gutter, if there is one; return those not confirmed."""
    gutter = context.gutter
    if gutter is None:
        return []
    groups: dict[int, list[bytes]] = {}
    for key in keys:
        groups.setdefault(gutter.owner(key), []).append(key)
    return (yield from delete_at(context, groups, in_outbox=in_outbox))
