"""Replay: a node that answers again gets the deletes that it missed, before it serves reads.

    1. replay what it missed from any process, as the outbox knows, and what this process recorded;
    2. replay what was recorded meanwhile, until nothing is left;
    3. close the breaker, in one step with the check that found nothing (``Breaker.close``).

A delete that is missed after 3 is replayed by the next round; recording it starts that round.
The same holds for the leases that this process has given up, which are released here, too.
"""

from __future__ import annotations

from cachebackend.effects import Operation, Send
from cachebackend.errors import RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.missed_deletes import MissedKeys, Outbox
from cachebackend.protocol.ring.clear import delete_matching
from cachebackend.protocol.ring.node_deletes import delete_command, release_command

__all__ = ["replay", "replay_missed"]

#: The most keys in one command.
KEYS_AT_ONCE = 1000


def replay(context: Context, node: int, outbox: Outbox | None, endpoint: str) -> Operation[None]:
    """Replay to a node what it missed from all processes, and then what this process recorded.

    Args:
        context: The alias.
        node: The index of the node.
        outbox: Stores what the node missed from other processes; None: nothing does.
        endpoint: The name of the node in the outbox.

    Raises:
        RingCacheError: The node did not confirm; what this process recorded stays recorded.
    """
    context.missed.resume(node, context.served_holder)
    if outbox is not None:
        missed = outbox.missed_by(endpoint, context.missed.limit)
        # The shards of a cluster have one endpoint: the others are replayed what they have missed themselves
        held = tuple(key for key in missed.keys if context.may_hold(node, key))
        yield from _replay_keys(context, node, MissedKeys(held, missed.is_all_keys))
    yield from replay_missed(context, node)


def _release_orphans(context: Context, node: int) -> Operation[None]:
    """Release the leases that this process has given up, so that no reader waits for them."""
    orphans = context.orphans.of(node)
    if not orphans:
        return
    replies = yield Send([(node, release_command(key, record)) for key, record in orphans])
    for (_, record), reply in zip(orphans, replies, strict=True):
        if isinstance(reply, RingCacheError):
            raise reply
        context.orphans.discard(record)


def replay_missed(context: Context, node: int) -> Operation[None]:
    """Replay to a node what this process recorded, and release its orphans; raises as ``replay`` does."""
    while missed := context.missed.take(node):
        try:
            yield from _replay_keys(context, node, missed)
        except BaseException:
            if missed.is_all_keys:
                context.missed.add(node, missed)
            else:  # slots may have moved meanwhile, without these deletes
                context.record_again(node, missed.keys, in_outbox=True)
            raise
        finally:
            context.missed.replayed(node)
    yield from _release_orphans(context, node)


def _replay_keys(context: Context, node: int, missed: MissedKeys) -> Operation[None]:
    if missed.is_all_keys:
        for pattern in context.patterns:
            cleared = yield from delete_matching(context, pattern, [node])
            for failure in cleared.failures.values():
                raise failure
    for start in range(0, len(missed.keys), KEYS_AT_ONCE):
        [reply] = yield Send([(node, delete_command(missed.keys[start : start + KEYS_AT_ONCE]))])
        if isinstance(reply, RingCacheError):
            raise reply
    context.counters.cell.deletes_replayed += len(missed.keys)
