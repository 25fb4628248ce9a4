"""Batches sealed so that they never change again, brought to the disk, and dropped once they landed.

A seal is on its node's disk before its batch lands: else a crash of the node could take it back,
and what is written then would be folded into a batch that the database has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cachebackend.effects import Command, Operation, Script, Send
from cachebackend.errors import NodeReplyError, WriteBehindError
from cachebackend.protocol.queue.fold import FSYNC_MS
from cachebackend.protocol.queue.partition import DIRTY, Partition, QueueContext, checked
from cachebackend.protocol.queue.queue_state import Place

__all__ = ["Sealed", "close", "seal", "seal_many", "sync", "sync_fault"]

_SEAL = Script(__package__, "seal")
_CLOSE = Script(__package__, "close")


class Sealed(NamedTuple):
    """How a partition stands after a batch was to be sealed.

    Attributes:
        opened: The number of the open batch.
        done: The last batch that was dropped.
        synced: The last batch known to be sealed on the disk.
        before: The seal of the batch before; empty if it has none.
        seal: The seal of the batch; empty if it is not sealed.
    """

    opened: int
    done: int
    synced: int
    before: str
    seal: str


def seal(queue: QueueContext, place: Place, partition: Partition, number: int) -> Operation[Sealed]:
    """Seal a batch if it is the open one and not empty; return how the partition stands after it.

    Raises:
        NodeUnavailableError: The node did not answer.
        WriteBehindError: It holds another queue by now.
    """
    [reply] = yield Send([_seal_request(queue, place, partition, number)])
    if not checked(reply):
        name = queue.options.all_nodes[place.node].name
        message = f"the queue of {partition} on node {name!r} was emptied while it was drained; drain again"
        raise WriteBehindError(message)
    opened, done, synced, before, seal = reply
    return Sealed(opened, done, synced, before.decode(), seal.decode())


def seal_many(queue: QueueContext, places: Mapping[Partition, Place]) -> Operation[None]:
    """Seal the open batches on one node where no other is sealed, and bring all seals to its disk.

    While a sealed batch waits to land, writes fold into the open one: else the queue would
    grow with every call, and not with the rows that are written.

    Raises:
        NodeUnavailableError, WriteBehindError: As ``sync``.
    """
    asked = places.items()
    replies = yield Send([_seal_request(queue, place, part, place.done + 1) for part, place in asked])
    unsynced: dict[int, dict[Partition, int]] = {}
    for (partition, place), reply in zip(asked, replies, strict=True):
        if checked(reply):  # else another queue stands there by now
            opened, _, synced, *_ = reply
            if synced < opened - 1:
                unsynced.setdefault(place.node, {})[partition] = opened - 1
    for node, sealed in unsynced.items():
        yield from sync(queue, node, sealed)


def _seal_request(
    queue: QueueContext, place: Place, partition: Partition, number: int
) -> tuple[int, Command]:
    keys = [partition.meta, partition.batch(number)]
    return place.node, _SEAL.call(keys, number, queue.clock.token().hex(), place.born)


def sync(queue: QueueContext, node: int, sealed: Mapping[Partition, int]) -> Operation[None]:
    """See to it that what is sealed stays so: return once the node's disk has it.

    1. a batch is sealed, in memory;  2. it lands, the database has its number;  3. the node
    dies before its file has the seal;  4. it comes back with the batch open, and takes
    writes into it that will never land. So 2 waits for the file.

    Args:
        queue: The queue.
        node: The node.
        sealed: For each partition the last batch that is sealed.

    Raises:
        WriteBehindError: The node writes no append-only file, or not in time.
    """
    # A write of this connection, for what WAITAOF waits for is the connection's own last one
    touches: list[tuple[int, Command]] = [
        (node, (b"HINCRBY", partition.meta, b"syncs", 1)) for partition in sealed
    ]
    replies = yield Send([*touches, (node, (b"WAITAOF", 1, 0, FSYNC_MS))])
    name = queue.options.all_nodes[node].name
    if isinstance(replies[-1], NodeReplyError):
        message = (
            f"queue node {name!r} {_no_sync(replies[-1])}, "
            "or set WRITE_BEHIND['durability'] to 'memory' if its writes may be lost with it"
        )
        raise WriteBehindError(message) from replies[-1]
    if checked(replies[-1])[0] < 1:
        message = f"queue node {name!r} did not get its file to the disk within {FSYNC_MS} ms"
        raise WriteBehindError(message)
    yield Send([(node, (b"HSET", partition.meta, b"synced", number)) for partition, number in sealed.items()])


def sync_fault(queue: QueueContext, node: int) -> Operation[str | None]:
    """Return why a node could not tell when its file is on its disk; None if it can.

    Raises:
        NodeUnavailableError: The node did not answer.
    """
    [reply] = yield Send([(node, (b"WAITAOF", 0, 0, 1))])  # asks for nothing, so nothing is waited for
    if isinstance(reply, NodeReplyError):
        return _no_sync(reply)
    checked(reply)
    return None


def _no_sync(error: NodeReplyError) -> str:
    """Return what a node cannot do that answered WAITAOF so, and what to do about it."""
    if "unknown command" in str(error):
        way_out = "a queue node must be Redis 7.2 or later, or Valkey"
    elif error.code == "NOPERM":
        way_out = "let its user call WAITAOF"
    else:
        way_out = "turn its append-only file on"
    return f"cannot tell when its file is on its disk ({error}); {way_out}"


def close(queue: QueueContext, place: Place, partition: Partition, numbers: range) -> Operation[bool]:
    """Drop batches that the database holds; return whether more writes wait. May be repeated."""
    batches = [partition.batch(number) for number in (*numbers, numbers[-1] + 1)]
    keys = [partition.meta, DIRTY, *batches]
    call = _CLOSE.call(keys, numbers[0], numbers[-1], queue.now_ms(), partition.name, place.born)
    [reply] = yield Send([(place.node, call)])
    return bool(checked(reply))
