"""The write-behind queue: writes folded into numbered batches, a Redis hash each.

A partition has one open batch, which takes writes, and sealed ones, which never change
again. Batches are numbered from 1 without gaps, for an empty one is never sealed. The
number of the last batch that landed stands in the database, in the transaction that
landed it; the queue only ever forgets what that number covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cachebackend.clock import Clock
from cachebackend.effects import Argument, Operation, Reply, Script, Send
from cachebackend.errors import NodeReplyError, RingCacheError, WriteBehindRefusedError
from cachebackend.ring import Ring

__all__ = ["Partition", "QueueContext", "Write", "close", "contents", "dirty", "fold", "seal"]

_FOLD = Script("cachebackend.protocol", "fold")
_SEAL = Script("cachebackend.protocol", "seal")
_CLOSE = Script("cachebackend.protocol", "close")

#: Each node's sorted set of partitions that hold writes.
DIRTY = b"wb:dirty"
#: Fields that a node hands over at once; a script-free server stays responsive.
SCAN_COUNT = 5000

#: Row and column as one field name, the kind of write, and the value.
Write: TypeAlias = tuple[bytes, bytes, Argument]


@dataclass(frozen=True, slots=True)
class Partition:
    """One of the parts that a model's rows are queued in.

    Attributes:
        label: The model, as ``app_label.model_name``.
        number: From 0.
    """

    label: str
    number: int

    @property
    def name(self) -> bytes:
        """What the partition is called on its node, and what decides which node that is."""
        return f"{self.label}:{self.number}".encode()

    @classmethod
    def named(cls, name: bytes) -> Partition:
        """Return the partition that a node calls by this name."""
        label, _, number = name.decode().rpartition(":")
        return cls(label, int(number))

    @property
    def meta(self) -> bytes:
        """The key of the hash that holds ``open`` and ``done``."""
        return b"wb:{%b}:meta" % self.name

    def batch(self, number: int) -> bytes:
        """Return the key of a batch's hash."""
        return b"wb:{%b}:%d" % (self.name, number)


@dataclass(frozen=True, slots=True)
class QueueContext:
    """The ring of queue nodes, and time."""

    ring: Ring
    clock: Clock

    def now_ms(self) -> int:
        """Return the wall time in milliseconds."""
        return int(self.clock.now() * 1000)


def _checked(reply: Reply) -> Reply:
    """Return a reply; a queue takes no failure for an answer."""
    if isinstance(reply, RingCacheError):
        raise reply
    return reply


def fold(queue: QueueContext, partition: Partition, opened: int, writes: Sequence[Write]) -> Operation[int]:
    """Fold writes into the open batch; return its number.

    Args:
        queue: The queue.
        partition: Where the rows belong.
        opened: The number last known to be open; a wrong one costs a round trip.
        writes: Folded in this order.

    Raises:
        NodeUnavailableError: The node did not answer; whether it folded them is not known.
        NodeReplyError: The node refused them.
        WriteBehindRefusedError: A sum is beyond 64 bits; nothing was folded.
    """
    node = queue.ring.owner(partition.name)
    flat = [argument for write in writes for argument in write]
    while True:
        keys = [partition.meta, partition.batch(opened), DIRTY]
        [reply] = yield Send([(node, _FOLD.call(keys, opened, queue.now_ms(), partition.name, *flat))])
        if isinstance(reply, NodeReplyError) and reply.code == "OVERFLOW":
            message = "the sum of what is queued for the row is beyond 64 bits; nothing was queued"
            raise WriteBehindRefusedError(message) from reply
        found: int = _checked(reply)
        if found == 0:
            return opened
        opened = found


def seal(queue: QueueContext, partition: Partition, number: int) -> Operation[tuple[int, int]]:
    """Seal a batch if it is the open one and not empty; return ``open`` and ``done`` after it."""
    call = _SEAL.call([partition.meta, partition.batch(number)], number)
    [reply] = yield Send([(queue.ring.owner(partition.name), call)])
    opened, done = _checked(reply)
    return opened, done


def contents(queue: QueueContext, partition: Partition, number: int) -> Operation[dict[bytes, bytes]]:
    """Return the fields of a sealed batch: row, column and kind to value; empty if it is gone."""
    node = queue.ring.owner(partition.name)
    key = partition.batch(number)
    fields: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        [reply] = yield Send([(node, (b"HSCAN", key, cursor, b"COUNT", SCAN_COUNT))])
        cursor, flat = _checked(reply)
        fields.update(_pairs(flat))
        if cursor == b"0":
            return fields


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def close(queue: QueueContext, partition: Partition, number: int) -> Operation[bool]:
    """Drop a batch that the database holds; return whether more writes wait. May be repeated."""
    keys = [partition.meta, partition.batch(number), partition.batch(number + 1), DIRTY]
    call = _CLOSE.call(keys, number, queue.now_ms(), partition.name)
    [reply] = yield Send([(queue.ring.owner(partition.name), call)])
    return bool(_checked(reply))


def dirty(queue: QueueContext) -> Operation[list[tuple[Partition, float]]]:
    """Return the partitions that hold writes and the time of each one's oldest, in one round trip.

    Raises:
        NodeUnavailableError: No queue node answered; one that answers is enough to go on.
    """
    replies = yield Send(
        [(node, (b"ZRANGE", DIRTY, 0, -1, b"WITHSCORES")) for node in range(len(queue.ring))]
    )
    failures = [reply for reply in replies if isinstance(reply, RingCacheError)]
    if len(failures) == len(replies):
        raise failures[0]
    return [
        (Partition.named(name), float(score) / 1000)
        for reply in replies
        if not isinstance(reply, RingCacheError)
        for name, score in _pairs(reply)
    ]
