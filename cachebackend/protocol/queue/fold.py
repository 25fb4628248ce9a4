"""Folding: writes merged into the open batch of their partition, in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from cachebackend.effects import Argument, Command, Operation, Reply, Script, Send
from cachebackend.errors import (
    NodeReplyError,
    NodeUnavailableError,
    WriteBehindDamagedError,
    WriteBehindUnknownError,
)
from cachebackend.protocol.queue.partition import DIRTY, Partition, QueueContext, checked

__all__ = ["OK", "Change", "Folded", "RowWrite", "fold", "fold_requests", "found_of"]

_FOLD = Script(__package__, "fold")
#: What a node says of a row that it folded.
OK = b"ok"
#: Milliseconds that a node may take to have its file on the disk; it does so once a second.
FSYNC_MS = 1500
#: How often writes are sent again of which none was folded: another batch was open than was thought.
_TRIES = 100

#: Row and column as the opening of a field's name, the kind of change, and its value.
Change: TypeAlias = tuple[bytes, bytes, Argument]


class RowWrite(NamedTuple):
    """What is to be done to one row.

    Attributes:
        operation: ``u`` to change it, ``c`` to create it, ``x`` to delete it.
        row: Its key and a NUL.
        changes: At most one for each column.
    """

    operation: bytes
    row: bytes
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a partition's writes.

    Attributes:
        codes: For each row ``ok``, ``overflow``, ``full`` or ``exists``.
        error: Why the rows at the end have no codes.
    """

    codes: Sequence[bytes] = ()
    error: Exception | None = None


#: What becomes of one row, almost always.
_ONE = Folded((OK,))


def fold(
    queue: QueueContext, writes: Sequence[tuple[Partition, Sequence[RowWrite]]]
) -> Operation[list[Folded]]:
    """Fold writes into the open batches, all partitions in one round trip; return what became of each.

    Args:
        queue: The queue.
        writes: For each partition its rows, each row once.
    """
    results = [Folded()] * len(writes)
    left = list(range(len(writes)))
    idle = 0
    while left and idle < _TRIES:
        idle += 1
        calls = []
        for at in left:
            partition, rows = writes[at]
            calls.append(fold_requests(queue, partition, rows[len(results[at].codes) :]))
        replies = yield Send([request for requests in calls for request in requests])
        again = []
        for at, requests in zip(left, calls, strict=True):
            mine, replies = replies[: len(requests)], replies[len(requests) :]
            partition, rows = writes[at]
            codes = results[at].codes
            found = found_of(queue, partition, len(rows) - len(codes), mine)
            if found is not None:
                idle = 0 if found.codes else idle
                results[at] = Folded([*codes, *found.codes], found.error)
            if found is None or (found.error is None and len(results[at].codes) < len(rows)):
                again.append(at)
        left = again
    for at in left:
        message = f"the queue of {writes[at][0]} is damaged: what it says is open takes no writes"
        results[at] = Folded(results[at].codes, WriteBehindDamagedError(message))
    return results


def fold_requests(
    queue: QueueContext, partition: Partition, rows: Sequence[RowWrite]
) -> list[tuple[int, Command]]:
    """Return the commands that fold rows of one partition, for its node."""
    node = queue.ring.owner(partition.name)
    opened = queue.opened.get((node, partition.name), 1)
    flat: list[Argument] = []
    for operation, row, changes in rows:
        flat += (operation, row, len(changes))
        for change in changes:
            flat += change
    call = _FOLD.call(
        [partition.meta, partition.batch(opened), partition.batch(opened + 1), DIRTY],
        opened,
        queue.now_ms(),
        partition.name,
        queue.clock.token().hex(),
        queue.batch_fields,
        queue.most_fields,
        *flat,
    )
    if queue.options.durability != "fsync":
        return [(node, call)]
    # With its source: were it unknown and sent again, WAITAOF would have been answered before it ran
    return [(node, call.with_source), (node, (b"WAITAOF", 1, 0, FSYNC_MS))]


def found_of(
    queue: QueueContext, partition: Partition, count: int, replies: Sequence[Reply]
) -> Folded | None:
    """Return what became of a partition's rows; None if another batch is open than was thought."""
    node = queue.ring.owner(partition.name)
    taken, *synced = replies
    try:
        reply = checked(taken)
        if synced and isinstance(synced[0], NodeUnavailableError):
            raise synced[0]
    except NodeUnavailableError as error:
        return Folded(error=_unknown(error) if error.was_sent else error)
    except NodeReplyError as error:
        return Folded(error=error)
    if isinstance(reply, int):
        queue.opened[node, partition.name] = abs(reply)
        if reply < 0:
            return None
        if count == 1 and not synced:
            return _ONE
        codes: Sequence[bytes] = [OK] * count
    else:
        queue.opened[node, partition.name], *codes = reply
    if synced and (isinstance(synced[0], NodeReplyError) or synced[0][0] < 1):
        why = synced[0] if isinstance(synced[0], NodeReplyError) else "not in time"
        name = queue.options.all_nodes[node].name
        message = f"node {name!r} took the write, but did not tell that it is on its disk: {why}"
        return Folded(error=WriteBehindUnknownError(message))
    return Folded(codes)


def _unknown(error: NodeUnavailableError) -> WriteBehindUnknownError:
    unknown = WriteBehindUnknownError(f"{error}; the write was sent, and whether it was taken is not known")
    unknown.__cause__ = error
    return unknown
