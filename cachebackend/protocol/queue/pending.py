"""The write-behind queue: writes folded into numbered batches, a Redis hash each.

A partition has one open batch, which takes writes, and sealed ones, which never change
again. Batches are numbered from 1 without gaps, for an empty one is never sealed. The
number of the last batch that landed stands in the database, in the transaction that
landed it; the queue only ever forgets what that number covers.

A queue is born once, with a name of its own: a node that was emptied, or is another, bears
another incarnation, and its numbers mean nothing to the checkpoint of the first. So is a
seal: a node that came back with an older file comes to the same numbers again, but not to
the same seals. The seal of the last batch that landed stands until the next one is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.protocol.queue.partition import DIRTY, Partition, QueueContext, checked
from cachebackend.protocol.queue.queue_state import Place, numbers_of, pairs_of

__all__ = ["Pending", "contents", "pending", "renumber"]

_PENDING = Script(__package__, "pending")
_RENUMBER = Script(__package__, "renumber")

#: Fields that a node hands over at once, so that it stays responsive.
SCAN_COUNT = 5000
#: Fields that one script reads; Lua's stack has room for 8000.
PENDING_FIELDS = 4000


class Pending(NamedTuple):
    """What the batches of one place hold of some rows.

    Attributes:
        born: The queue's incarnation.
        done: The last batch that was dropped.
        batches: Each batch that stands, in order: its number and the fields that it holds.
    """

    born: str
    done: int
    batches: list[tuple[int, dict[bytes, bytes]]]


def contents(
    queue: QueueContext, node: int, partition: Partition, number: int
) -> Operation[dict[bytes, bytes]]:
    """Return the fields of a sealed batch: row, column and kind to value; empty if it is gone."""
    key = partition.batch(number)
    fields: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        [reply] = yield Send([(node, (b"HSCAN", key, cursor, b"COUNT", SCAN_COUNT))])
        cursor, flat = checked(reply)
        fields.update(pairs_of(flat))
        if cursor == b"0":
            return fields


def pending(
    queue: QueueContext, node: int, partition: Partition, fields: Sequence[bytes]
) -> Operation[Pending | None]:
    """Return what the batches on one node hold of some fields, at one instant; None if it has no queue.

    Raises:
        NodeUnavailableError: The node did not answer.
        WriteBehindDamagedError: What it holds is no queue.
    """
    opened = queue.opened.get((node, partition.name), 1)
    first, last = max(opened - 1, 1), opened + 1
    while True:
        keys = [partition.batch(number) for number in range(first, last + 1)]
        calls = [
            (node, _PENDING.call([partition.meta, *keys], first, *fields[at : at + PENDING_FIELDS]))
            for at in range(0, len(fields), PENDING_FIELDS)
        ]
        replies: list[Reply] = yield Send(calls)
        for reply in replies:
            checked(reply)
        if not replies[0]:
            return None
        born, now_open, done = numbers_of(partition, *replies[0][0])
        queue.opened[node, partition.name] = now_open
        if any(reply[0] != replies[0][0] or len(reply) == 1 for reply in replies):
            first, last = done + 1, now_open + 1
            continue
        batches: dict[int, dict[bytes, bytes]] = {}
        for at, reply in zip(range(0, len(fields), PENDING_FIELDS), replies, strict=True):
            for number, values in reply[1:]:
                batches.setdefault(number, {}).update(
                    (name, value)
                    for name, value in zip(fields[at : at + PENDING_FIELDS], values, strict=True)
                    if value is not None
                )
        return Pending(born, done, sorted(batches.items()))


def renumber(
    queue: QueueContext,
    place: Place,
    partition: Partition,
    landed: tuple[int, str],
    standing: Sequence[int],
    *,
    keep: bool,
) -> Operation[int]:
    """Put a queue that is behind its checkpoint after it again; return the number then open.

    Args:
        queue: The queue.
        place: The queue as it was last seen.
        partition: The partition.
        landed: The number of the last batch that landed, and its seal.
        standing: The numbers of the batches that stand, in order, without a gap.
        keep: Whether what they hold is to land, or to be dropped.
    """
    number, seal = landed
    old = [partition.batch(each) for each in standing]
    new = [partition.batch(number + 1 + at) for at in range(len(standing))]
    call = _RENUMBER.call(
        [partition.meta, DIRTY, *old, *new],
        number,
        partition.name,
        "keep" if keep else "drop",
        place.opened,
        seal,
        queue.clock.token().hex(),
    )
    [reply] = yield Send([(place.node, call)])
    queue.opened.pop((place.node, partition.name), None)
    return int(checked(reply))
