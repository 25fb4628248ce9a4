"""Folding: writes are merged into the open batch of their partition, in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeAlias

from cachebackend.effects import Argument, Operation, Reply, Request, Script, Send
from cachebackend.errors import (
    NodeReplyError,
    NodeUnavailableError,
    RingCacheError,
    UnconfirmedError,
    WriteBehindDamagedError,
    WriteBehindMovedError,
    WriteBehindUnknownError,
)
from cachebackend.protocol.queue.counts import share_partition_count
from cachebackend.protocol.queue.partition import Partition, QueueContext, checked
from cachebackend.protocol.rounds import MAX_TRIES
from cachebackend.replies import either, integer, items, text

__all__ = ["OK", "Change", "Folded", "RowWrite", "fold", "fold_request", "fold_result"]

_FOLD = Script(
    __package__,
    "fold",
    "queued_sum",
    "open_batch",
    "row_operations",
    reply=either(integer, items(integer, text)),
    is_promise=True,
)
#: The code of the error of a node whose queues have another number of partitions.
MOVED = "PARTITIONS"
#: What such a node answers that has none, because it is new or was emptied.
NO_COUNT = b"none"
#: The code of a row that was folded.
OK = b"ok"

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
            calls.append(fold_request(queue, partition, rows[len(results[index].codes) :]))
        replies = yield Send(calls)
        again, is_counted = [], True
        for index, reply in zip(unfinished, replies, strict=True):
            partition, rows = writes[index]
            codes = results[index].codes
            result = fold_result(queue, partition, len(rows) - len(codes), reply)
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


def fold_request(queue: QueueContext, partition: Partition, rows: Sequence[RowWrite]) -> Request:
    """Return the command that folds rows of one partition, with the index of its node."""
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
    return node, call


def _encodings_of(rows: Sequence[RowWrite]) -> bytes:
    """Return the encodings of all columns that the rows change, each once."""
    if len(rows) == 1:
        return b"".join(rows[0].encodings)
    return b"".join(dict.fromkeys(chain.from_iterable(row.encodings for row in rows)))


def fold_result(queue: QueueContext, partition: Partition, count: int, reply: Reply) -> Folded | None:
    """Return the result for a partition's rows; None if another batch is open than was expected."""
    if isinstance(reply, UnconfirmedError):
        result = fold_result(queue, partition, count, reply.reply)
        return None if result is None else Folded(error=_unconfirmed(queue, partition, reply))
    node = queue.ring.owner(partition.name)
    try:
        checked(reply)
    except NodeUnavailableError as error:
        unknown = f"{error}; the write was sent, and it is not known whether it was taken"
        return Folded(error=_unknown(unknown, error) if error.was_sent else error)
    except NodeReplyError as error:
        if error.code == MOVED:
            number = str(error).partition(" ")[2].encode()
            return WITHOUT_COUNT if number == NO_COUNT else Folded(error=queue.moved(number))
        return Folded(error=error)
    if isinstance(reply, int):
        queue.open_batches[node, partition.name] = abs(reply)
        if reply < 0:
            return None
        return _ONE if count == 1 else Folded([OK] * count)
    queue.open_batches[node, partition.name], *codes = reply
    return Folded(codes)


def _unconfirmed(
    queue: QueueContext, partition: Partition, error: UnconfirmedError
) -> WriteBehindUnknownError:
    name = queue.options.all_nodes[queue.ring.owner(partition.name)].name
    return _unknown(f"node {name!r} took the write, but did not confirm that it is safe: {error}", error)


def _unknown(message: str, error: NodeUnavailableError) -> WriteBehindUnknownError:
    unknown = WriteBehindUnknownError(message)
    unknown.__cause__ = error
    return unknown
