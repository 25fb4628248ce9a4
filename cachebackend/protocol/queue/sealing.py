"""Sealing batches so that they never change again, syncing the seals to disk, and deleting drained batches.

A seal is on its node's disk before its batch is drained. Otherwise a crash of the node could undo
the seal, and later writes would be folded into a batch that the database already has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cachebackend.effects import Command, Operation, Reply, Script, Send
from cachebackend.errors import NodeReplyError, RingCacheError, UnconfirmedError, WriteBehindError
from cachebackend.protocol.queue.encodings import Encodings, parse_encodings
from cachebackend.protocol.queue.partition import Partition, QueueContext, checked
from cachebackend.protocol.queue.queue_state import QueueState
from cachebackend.replies import either, integer, row, text

__all__ = ["Sealed", "close", "fail", "seal", "seal_many", "sync", "sync_fault"]

_STATE = row(integer, integer, integer, text, text, text)
_SEAL = Script(__package__, "seal", reply=either(row(), _STATE))
_CLOSE = Script(__package__, "close", reply=integer)
_SYNC = Script(__package__, "sync", reply=integer, is_promise=True)
_SYNCED = Script(__package__, "synced", reply=integer)
_FAIL = Script(__package__, "fail", reply=integer)


class Sealed(NamedTuple):
    """The state of a partition after a request to seal a batch.

    Attributes:
        open_batch: The number of the open batch.
        done: The number of the last batch that was deleted.
        synced: The number of the last batch whose seal is known to be on disk.
        previous_seal: The seal of the batch before; empty if it has none.
        seal: The seal of the batch; empty if it is not sealed.
        encodings: For each column of the batch the code of the encoding of its values.
    """

    open_batch: int
    done: int
    synced: int
    previous_seal: str
    seal: str
    encodings: Encodings


def seal(queue: QueueContext, state: QueueState, partition: Partition, number: int) -> Operation[Sealed]:
    """Seal a batch if it is the open one and not empty; return the partition's state afterwards.

    Raises:
        NodeUnavailableError: The node did not answer.
        WriteBehindError: The node holds another incarnation of the queue by now.
    """
    [reply] = yield Send([_seal_request(queue, state, partition, number)])
    if not checked(reply):
        name = queue.options.all_nodes[state.node].name
        message = f"the queue of {partition} on node {name!r} was emptied while it was drained; drain again"
        raise WriteBehindError(message)
    return _sealed(reply)._replace(encodings=parse_encodings(partition, reply[-1]))


def seal_many(
    queue: QueueContext, states: Mapping[Partition, QueueState]
) -> Operation[dict[Partition, Sealed]]:
    """Seal the open batches on one node where no other batch is sealed, and sync all seals to its disk.

    While a sealed batch waits for its drain, writes fold into the open one. With more than one
    sealed batch, the queue would grow with every call instead of with the number of rows.

    Args:
        queue: The queue.
        states: The partitions to seal, and their queues on the node.

    Returns:
        The state of each queue that still exists, after its seals are on the disk. ``seal`` is the
        seal of the batch after ``done``; ``encodings`` is empty.

    Raises:
        NodeUnavailableError, WriteBehindError: As ``sync``.
    """
    queues = states.items()
    replies = yield Send([_seal_request(queue, state, part, state.done + 1) for part, state in queues])
    unsynced: dict[int, dict[Partition, int]] = {}
    many: dict[Partition, Sealed] = {}
    for (partition, state), reply in zip(queues, replies, strict=True):
        if checked(reply):  # empty if the node holds another incarnation by now
            many[partition] = _sealed(reply)
            open_batch, _, synced, *_ = many[partition]
            if synced < open_batch - 1:
                unsynced.setdefault(state.node, {})[partition] = open_batch - 1
    for node, sealed in unsynced.items():
        yield from sync(queue, node, sealed)
    return many


def _sealed(reply: Reply) -> Sealed:
    """Return the state in a reply, without the encodings: one that is damaged stops its own drain only."""
    open_batch, done, synced, previous_seal, seal, _ = reply
    return Sealed(
        open_batch,
        done,
        synced,
        previous_seal.decode(errors="replace"),
        seal.decode(errors="replace"),
        Encodings(),
    )


def _seal_request(
    queue: QueueContext, state: QueueState, partition: Partition, number: int
) -> tuple[int, Command]:
    keys = [queue.meta(partition, state.node), queue.batch(partition, number, state.node)]
    return state.node, _SEAL.call(keys, b"%d" % number, queue.clock.token().hex(), state.incarnation)


def sync(queue: QueueContext, node: int, sealed: Mapping[Partition, int]) -> Operation[None]:
    """Return once the seals of some batches are on the node's disk, and on replicas if writes wait for these.

    So no crash and no failover can undo them:

    1. a batch is sealed, in memory;  2. it is drained, and the database stores its number;
    3. the node dies before its file holds the seal;  4. it comes back with the batch still open
    and takes writes into it that are never drained. So step 2 waits for the file.

    Args:
        queue: The queue, of a client whose promises wait for the disk, or for replicas.
        node: The node.
        sealed: For each partition the number of its last sealed batch.

    Raises:
        WriteBehindError: The node writes no append-only file.
        NodeUnavailableError: The node did not answer, or it or replicas did not confirm in time.
    """
    # The wait is for the last write of its own connection, so the connection has to make one. It sends the
    # source of the script, because a node that does not know the script would wait twice
    [reply] = yield Send([(node, _SYNC.call([queue.meta(next(iter(sealed)), node)]).with_source)])
    if isinstance(reply, UnconfirmedError):
        raise _unconfirmed(queue.options.all_nodes[node].name, reply) from reply
    checked(reply)
    yield Send(
        [
            (node, _SYNCED.call([queue.meta(partition, node)], b"%d" % number))
            for partition, number in sealed.items()
        ]
    )


def _unconfirmed(name: str, error: UnconfirmedError) -> RingCacheError:
    """Return the error for seals that are not known to be safe."""
    if isinstance(error.__cause__, NodeReplyError):
        return WriteBehindError(
            f"queue node {name!r} {_no_sync(error.__cause__)}, "
            "or set WRITE_BEHIND['durability'] to 'memory' if its writes may be lost with it"
        )
    message = f"queue node {name!r} did not confirm that batches are sealed, so they are not drained yet"
    return UnconfirmedError(f"{message}: {error}")


def sync_fault(queue: QueueContext, node: int) -> Operation[str | None]:
    """Return why a node cannot report that its append-only file is on disk; None if it can.

    Raises:
        NodeUnavailableError: The node did not answer.
    """
    [reply] = yield Send(
        [(node, (b"WAITAOF", b"0", b"0", b"1"))]
    )  # waits for 0 copies, so it returns at once
    if isinstance(reply, NodeReplyError):
        return _no_sync(reply)
    checked(reply)
    return None


def _no_sync(error: NodeReplyError) -> str:
    """Return what a node lacks that answered WAITAOF with this error, and what to do about it."""
    if "unknown command" in str(error):
        way_out = "a queue node must be Redis 7.2 or later, or Valkey"
    elif error.code == "NOPERM":
        way_out = "let its user call WAITAOF"
    else:
        way_out = "turn its append-only file on"
    return f"cannot report that its append-only file is on disk ({error}); {way_out}"


def close(
    queue: QueueContext, state: QueueState, partition: Partition, numbers: range, seal: str
) -> Operation[bool]:
    """Delete batches that are in the database; return whether more writes are queued. Idempotent.

    Args:
        queue: The queue.
        state: The partition's queue.
        partition: The partition.
        numbers: The batches' numbers.
        seal: The seal of the last of them. If the queue has another seal for that number, it came
            back with an older file, and nothing is deleted.
    """
    batches = [queue.batch(partition, number, state.node) for number in (*numbers, numbers[-1] + 1)]
    keys = [queue.meta(partition, state.node), queue.dirty_keys[state.node], *batches]
    first, last, now_ms = (b"%d" % number for number in (numbers[0], numbers[-1], queue.now_ms()))
    call = _CLOSE.call(keys, first, last, now_ms, partition.name, state.incarnation, seal)
    [reply] = yield Send([(state.node, call)])
    return bool(checked(reply))


def fail(queue: QueueContext, partition: Partition, error: str) -> Operation[None]:
    """Store why a drain of a partition failed, on the nodes that answer; ``close`` deletes it."""
    arguments = error.encode(), b"%d" % queue.now_ms()
    nodes = queue.nodes_of(partition)
    yield Send([(node, _FAIL.call([queue.meta(partition, node)], *arguments)) for node in nodes])
