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

So the node also deletes a key that it does not have, which makes a write, and WAIT comes after it. The key is
in a slot that the node serves: none would confirm for as long as no server has the slot. A node that does not
have the slot any more, or moves it, redirects the command. The other node would confirm for itself, so the
redirection is not followed, and the node has not confirmed.

What a node has answered about a key of a slot may come from another one, to which the slot moves. So this one
must confirm too: by a key of that slot, whose redirection is followed as that of the question was.
"""

from __future__ import annotations

from collections.abc import Iterable

from cachebackend.effects import Request
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.node_deletes import confirm_command, delete_command
from cachebackend.ring import key_in_slot

__all__ = ["confirm_requests"]

#: The first bytes of the keys that are deleted; no such key is ever stored.
PREFIX = b"ringcache:confirm:"


def confirm_requests(
    context: Context, slots: Iterable[tuple[int, int | None]], *, is_followed: bool = False
) -> list[Request]:
    """Return a request for each node whose reply is an error if replicas have not confirmed.

    Without ``wait_replicas`` there are none.

    Args:
        context: The alias.
        slots: Nodes, each with a slot of a cluster that it serves; None: it serves none, and is left out.
        is_followed: Whether the server that has the slot confirms, if it is another one.
    """
    if not context.options.wait_replicas:
        return []
    keys = [(node, key_in_slot(PREFIX, slot)) for node, slot in dict.fromkeys(slots) if slot is not None]
    return [(node, delete_command((key,)) if is_followed else confirm_command(key)) for node, key in keys]
