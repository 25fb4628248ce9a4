"""Folding: writes are merged into the open batch of their partition, in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeAlias

from cachebackend.effects import Argument, Command, Operation, Reply, Script, Send
from cachebackend.errors import (
    NodeReplyError,
    NodeUnavailableError,
    RingCacheError,
    WriteBehindDamagedError,
    WriteBehindMovedError,
    WriteBehindUnknownError,
)
from cachebackend.protocol.queue.counts import share_partition_count
from cachebackend.protocol.queue.partition import Partition, QueueContext, checked
from cachebackend.protocol.rounds import MAX_TRIES
from cachebackend.replies import either, integer, items, text

__all__ = ["OK", "Change", "Folded", "RowWrite", "fold", "fold_requests", "fold_result"]

_FOLD = Script(
    __package__,
    "fold",
    "queued_sum",
    "open_batch",
    "row_operations",
    reply=either(integer, items(integer, text)),
)
#: The code of the error of a node whose queues have another number of partitions.
MOVED = "PARTITIONS"
#: What such a node answers that has none, because it is new or was emptied.
NO_COUNT = b"none"
#: The code of a row that was folded.
OK = b"ok"
#: Milliseconds that a node may take to sync its append-only file; with ``everysec`` it does so once a second.
FSYNC_MS = 1500

#: A prefix of field names (row and column), the kind of change, and its value.
Change: TypeAlias = tuple[bytes, bytes, bytes]


class RowWrite(NamedTuple):
    """One write of one row.

    Attributes:
        operation: ``u`` changes the row, ``c`` creates it, ``x`` deletes it.
        row: The row's key and a NUL.
        changes: At most one change for each column.
        encodings: For each column that gets a value its entry, as ``encoding_entry`` returns it.
    """

    operation: bytes
    row: bytes
    changes: Sequence[Change]
    encodings: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Folded:
    """The result of folding a partition's writes.

    Attributes:
        codes: For each row ``ok``, ``overflow``, ``full`` or ``exists``.
        error: Why the rows at the end have no code; None if all have one.
    """

    codes: Sequence[bytes] = ()
    error: Exception | None = None


#: The result of nearly every call: one row, folded.
_ONE = Folded((OK,))
#: The result of a call to a node that has no number of partitions yet: ``fold`` gives it one.
WITHOUT_COUNT = Folded(
    error=WriteBehindMovedError("the node has no number of partitions yet", is_closed=False)
)


def fold(
    queue: QueueContext, writes: Sequence[tuple[Partition, Sequence[RowWrite]]]
) -> Operation[list[Folded]]:
    """Fold writes into the open batches, all partitions in one round trip; return each one's result.

    Args:
        queue: The queue.
        writes: For each partition its writes, each row once.
    """
    results = [Folded()] * len(writes)
    unfinished = list(range(len(writes)))
    idle = 0
    while unfinished and idle < MAX_TRIES:  # a call may fold nothing, because another batch is open
        idle += 1
        calls = []
        for index in unfinished:
            partition, rows = writes[index]
            calls.append(fold_requests(queue, partition, rows[len(results[index].codes) :]))
        replies = yield Send([request for requests in calls for request in requests])
        again, is_counted = [], True
        for index, requests in zip(unfinished, calls, strict=True):
            own_replies, replies = replies[: len(requests)], replies[len(requests) :]
            partition, rows = writes[index]
            codes = results[index].codes
            result = fold_result(queue, partition, len(rows) - len(codes), own_replies)
            if result is WITHOUT_COUNT:
                result, is_counted = None, False
            if result is not None:
                idle = 0 if result.codes else idle
                results[index] = Folded([*codes, *result.codes], result.error)
            if result is None or (result.error is None and len(results[index].codes) < len(rows)):
                again.append(index)
        unfinished = again
        if not is_counted:
            try:
                yield from share_partition_count(queue)
            except RingCacheError as error:
                for index in unfinished:
                    results[index] = Folded(results[index].codes, error)
                return results
    for index in unfinished:
        message = (
            f"the queue of {writes[index][0]} is damaged: the batch that it names as open takes no writes"
        )
        results[index] = Folded(results[index].codes, WriteBehindDamagedError(message))
    return results


def fold_requests(
    queue: QueueContext, partition: Partition, rows: Sequence[RowWrite]
) -> list[tuple[int, Command]]:
    """Return the commands that fold rows of one partition, with the index of its node."""
    node = queue.ring.owner(partition.name)
    open_batch = queue.open_batches.get((node, partition.name), 1)
    flat: list[Argument] = []
    for operation, row, changes, _ in rows:
        flat += (operation, row, b"%d" % len(changes))
        for change in changes:
            flat += change
    call = _FOLD.call(
        queue.fold_keys(partition, open_batch),
        b"%d" % open_batch,
        b"%d" % queue.now_ms(),
        queue.clock.token().hex(),
        queue.limits(partition),
        _encodings_of(rows),
        *flat,
    )
    if queue.options.durability != "fsync":
        return [(node, call)]
    # With the script's source: if the node did not know the script, it would answer WAITAOF before the
    # script is sent again and runs
    return [(node, call.with_source), (node, (b"WAITAOF", b"1", b"0", b"%d" % FSYNC_MS))]


def _encodings_of(rows: Sequence[RowWrite]) -> bytes:
    """Return the encodings of all columns that the rows change, each once."""
    if len(rows) == 1:
        return b"".join(rows[0].encodings)
    return b"".join(dict.fromkeys(chain.from_iterable(row.encodings for row in rows)))


def fold_result(
    queue: QueueContext, partition: Partition, count: int, replies: Sequence[Reply]
) -> Folded | None:
    """Return the result for a partition's rows; None if another batch is open than was expected."""
    node = queue.ring.owner(partition.name)
    folded, *synced = replies
    try:
        reply = checked(folded)
        if synced and isinstance(synced[0], NodeUnavailableError):
            raise synced[0]
    except NodeUnavailableError as error:
        return Folded(error=_unknown(error) if error.was_sent else error)
    except NodeReplyError as error:
        if error.code == MOVED:
            number = str(error).partition(" ")[2].encode()
            return WITHOUT_COUNT if number == NO_COUNT else Folded(error=queue.moved(number))
        return Folded(error=error)
    if isinstance(reply, int):
        queue.open_batches[node, partition.name] = abs(reply)
        if reply < 0:
            return None
        if count == 1 and not synced:
            return _ONE
        codes: Sequence[bytes] = [OK] * count
    else:
        queue.open_batches[node, partition.name], *codes = reply
    if synced and (isinstance(synced[0], NodeReplyError) or synced[0][0] < 1):
        why = synced[0] if isinstance(synced[0], NodeReplyError) else f"not within {FSYNC_MS} ms"
        name = queue.options.all_nodes[node].name
        message = f"node {name!r} took the write, but did not confirm that it is on its disk: {why}"
        return Folded(error=WriteBehindUnknownError(message))
    return Folded(codes)


def _unknown(error: NodeUnavailableError) -> WriteBehindUnknownError:
    unknown = WriteBehindUnknownError(
        f"{error}; the write was sent, and it is not known whether it was taken"
    )
    unknown.__cause__ = error
    return unknown
