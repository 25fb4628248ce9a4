"""Asks nodes to wait for their replicas although the caller has nothing to delete there.

A node answers from its own memory. With ``wait_replicas`` the answer must also be right for the replica that
may take over, or has done so already:

    1. primary  evicts a key, or deletes it for another connection; its replica does not know yet
    2. caller   clears: the scan does not find the key, so there is nothing to delete, or to wait for
    3. primary  dies; the replica, which has the key, is promoted

    1. primary  is suspended; its replica is promoted
    2. reader   registers a shape at the promoted replica, and stores a result
    3. primary  continues
    4. writer   reads the registry at the primary, which does not know the shape, or that it was replaced

So the node also deletes a key that it does not have, which makes a write, and WAIT comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from cachebackend.effects import Request
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.node_deletes import delete_command

__all__ = ["confirm_requests"]

#: How many keys are tried, to find one that a server of a cluster owns: enough for a hundredth of the slots.
MAX_TRIES = 1000


def confirm_requests(context: Context, nodes: Iterable[int]) -> list[Request]:
    """Return a request for each node whose reply is an error if replicas have not confirmed.

    Without ``wait_replicas`` there are none. A node of a cluster that has no slots, or very few, has none.
    """
    if not context.options.wait_replicas:
        return []
    keys = {node: _key_at(context, node) for node in nodes}
    return [(node, delete_command((key,))) for node, key in keys.items() if key is not None]


def _key_at(context: Context, node: int) -> bytes | None:
    """Return a key that a node may be asked for, and does not have."""
    keys = (b"ringcache:confirm:%d" % number for number in range(MAX_TRIES))
    return next((key for key in keys if context.holder(node, key) == node), None)
