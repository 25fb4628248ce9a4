"""Folds of writes into the queues of a model's rows: each write goes to the partition of its row."""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.effects import Operation
from cachebackend.errors import (
    RingCacheError,
    WriteBehindFullError,
    WriteBehindMovedError,
    WriteBehindRefusedError,
)
from cachebackend.protocol.queue import Folded, Partition, RowWrite
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.queue import project_queue

__all__ = ["afold_rows", "fold_row", "fold_rows"]

#: How many times a write follows a changed number of partitions.
_MOVES = 3
#: The number of rows that one script call folds.
_ROWS_A_CALL = 1000


def fold_row(rows: Rows, write: RowWrite) -> dict[bytes, Exception]:
    """Fold the write of one row; return its error by row, or nothing if it was queued."""
    client = project_queue()
    folded = client.fold_one(rows.partition(write.row, client.context.partitions), write)
    if isinstance(folded.error, WriteBehindMovedError):
        return client.run(_fold(rows, client, [write]))
    return _settled(rows, client, [write], folded)


def fold_rows(rows: Rows, writes: Sequence[RowWrite]) -> dict[bytes, Exception]:
    """Fold the writes of many rows; return the error of each row that was not queued."""
    client = project_queue()
    return client.run(_fold(rows, client, writes))


async def afold_rows(rows: Rows, writes: Sequence[RowWrite]) -> dict[bytes, Exception]:
    """Fold the writes of many rows, as ``fold_rows``."""
    client = project_queue()
    return await client.arun(_fold(rows, client, writes))


def _fold(rows: Rows, client: QueueClient, writes: Sequence[RowWrite]) -> Operation[dict[bytes, Exception]]:
    """Fold the writes, and those again whose partition depends on a changed number of partitions."""
    errors = yield from _fold_once(rows, client, writes)
    for _ in range(_MOVES):
        moved = {row for row, error in errors.items() if _is_moved(error)}
        if not moved:
            break
        try:
            yield from protocol.queue.share_partition_count(client.context)
        except RingCacheError as error:  # the nodes have different numbers: none is followed
            return errors | dict.fromkeys(moved, error)
        errors = {row: error for row, error in errors.items() if row not in moved}
        errors |= yield from _fold_once(rows, client, [write for write in writes if write.row in moved])
    return errors


def _fold_once(
    rows: Rows, client: QueueClient, writes: Sequence[RowWrite]
) -> Operation[dict[bytes, Exception]]:
    groups: dict[Partition, list[RowWrite]] = {}
    for write in writes:
        partition = rows.partition(write.row, client.context.partitions)
        groups.setdefault(partition, []).append(write)
    errors: dict[bytes, Exception] = {}
    while groups:
        calls = [(partition, members[:_ROWS_A_CALL]) for partition, members in groups.items()]
        results = yield from protocol.queue.fold(client.context, calls)
        for (_, members), folded in zip(calls, results, strict=True):
            errors.update(_settled(rows, client, members, folded))
        groups = {p: left for p, members in groups.items() if (left := members[_ROWS_A_CALL:])}
    return errors


def _settled(
    rows: Rows, client: QueueClient, writes: Sequence[RowWrite], folded: Folded
) -> dict[bytes, Exception]:
    """Count the writes that the node took; return the error of each row that was not queued."""
    accepted = folded.codes.count(protocol.queue.OK)
    if accepted:
        client.counters.cell.accepted += accepted
    if folded.error is None and accepted == len(writes):
        return {}
    answered, unanswered = writes[: len(folded.codes)], writes[len(folded.codes) :]
    errors = {
        write.row: _error(rows, code)
        for write, code in zip(answered, folded.codes, strict=True)
        if code != protocol.queue.OK
    }
    if folded.error is not None:
        errors |= dict.fromkeys((write.row for write in unanswered), folded.error)
    return errors


def _error(rows: Rows, code: bytes) -> Exception:
    name = rows.model.__name__
    if code == b"full":
        return WriteBehindFullError(
            f"{name}: the queue holds as much as WRITE_BEHIND['high_water'] (fields) or "
            "['high_water_bytes'] allows; nothing was queued. Check the workers and the database with "
            "`manage.py writebehind status`"
        )
    if code == b"overflow":
        return WriteBehindRefusedError(
            f"{name}: the sum of the queued changes for the row is beyond 64 bits; nothing was queued"
        )
    return WriteBehindRefusedError(
        f"{name}: the row's creation is queued already, with other values; nothing was queued"
    )


def _is_moved(error: Exception) -> bool:
    """Return whether a write was sent to a partition of a number of partitions that has changed."""
    return isinstance(error, WriteBehindMovedError) and not error.is_closed
