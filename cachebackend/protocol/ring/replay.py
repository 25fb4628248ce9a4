"""A node that answers again is told what it missed, before anybody reads it.

    1. what any process owes it, as the outbox knows, and what this process noted, are told;
    2. what was noted while they were told is told too, until nothing is left;
    3. the breaker closes, in one step with the look that found nothing (``Breaker.close``).

What is noted after 3 is told by the next round, which noting it starts.
"""

from __future__ import annotations

from cachebackend.effects import Operation, Send
from cachebackend.errors import RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.missed_deletes import MissedKeys, Outbox
from cachebackend.protocol.ring.clear import wipe
from cachebackend.protocol.ring.node_deletes import delete_command

__all__ = ["replay", "replay_missed"]

#: Keys in one command.
KEYS_AT_ONCE = 1000


def replay(context: Context, node: int, outbox: Outbox | None, place: str) -> Operation[None]:
    """Tell a node, by its index, what all processes owe it, and then what this one noted.

    Args:
        context: The alias.
        node: The node.
        outbox: What knows of other processes, if anything does.
        place: What the outbox knows the node by.

    Raises:
        RingCacheError: The node did not confirm; what this process noted is noted again.
    """
    if outbox is not None:
        yield from _tell(context, node, outbox.missed_by(place, context.missed.limit))
    yield from replay_missed(context, node)


def replay_missed(context: Context, node: int) -> Operation[None]:
    """Tell a node what this process noted; raises as ``replay``."""
    while owed := context.missed.take(node):
        try:
            yield from _tell(context, node, owed)
        except BaseException:
            context.missed.add(node, owed)
            raise


def _tell(context: Context, node: int, owed: MissedKeys) -> Operation[None]:
    if owed.is_all_keys:
        for pattern in context.patterns:
            wiped = yield from wipe(context, pattern, [node])
            for failure in wiped.failures.values():
                raise failure
    for at in range(0, len(owed.keys), KEYS_AT_ONCE):
        [reply] = yield Send([(node, delete_command(owed.keys[at : at + KEYS_AT_ONCE]))])
        if isinstance(reply, RingCacheError):
            raise reply
    context.counters.cell.deletes_replayed += len(owed.keys)
