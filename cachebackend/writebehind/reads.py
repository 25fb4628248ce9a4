"""Reading rows merged with their queued writes: exact at every instant of a drain.

A row is read in one SQL statement with the checkpoints of its partition: the numbers of the
last batches that the row contains. The queue is read at one instant too: what its batches hold
of the row, and ``done``, the last batch that it deleted. Between the two reads a drain may run:

    1. the row is read, the checkpoint is c;
    2. a batch n is drained and deleted, or drained and not yet deleted, or neither;
    3. the queue is read.

A batch ``n <= c`` that still exists is in the row already and is left out: no delta counts
twice. If ``c < done``, a batch was deleted that the row does not contain, and the row is read
again: no write is lost. If the queue is read first, the same two rules hold. If the row has a
parked write, as of the same statement, its queued writes will be parked behind it. Parked writes that
are retried by themselves count as queued before all batches.

In a transaction with a fixed snapshot (REPEATABLE READ), reading again returns the same row. If
a batch was drained since the snapshot, there is no exact answer, and WriteBehindError is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connections, models, router

from cachebackend import protocol
from cachebackend.effects import Operation
from cachebackend.errors import WriteBehindError, WriteBehindStoppedError
from cachebackend.protocol import Partition, Pending
from cachebackend.protocol.queue.pending import PENDING_FIELDS, PendingFields
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.checkpoints import WAY_OUT, Mismatch, Position, require_readable
from cachebackend.writebehind.descriptions import PendingBatch, pending_batch
from cachebackend.writebehind.merged_row import merged_row
from cachebackend.writebehind.queue import project_queue
from cachebackend.writebehind.snapshots import Checkpoints, read_rows, take_snapshot

__all__ = ["merged_rows", "pending"]

#: How many times a row is read again because a drain deleted a batch between the two reads.
_TRIES = 20


def merged_rows(rows: Rows, pks: Sequence[Any]) -> dict[Any, Any]:
    """Return the rows that exist or will exist, by primary key, merged with their queued writes.

    Raises:
        NodeUnavailableError: A queue node did not answer.
        WriteBehindError: The transaction's snapshot is too old for an exact answer.
        WriteBehindStoppedError: The drains of the rows' partition have stopped.
        WriteBehindDamagedError: A queue holds bytes that no write puts there.
    """
    pk_of = {rows.row(pk): rows.model._meta.pk.to_python(pk) for pk in pks}
    merged: dict[bytes, models.Model | None] = {}
    for _ in range(_TRIES):
        missing = {row: pk for row, pk in pk_of.items() if row not in merged}
        if not missing:
            break
        read = read_rows(rows, missing)
        count, queued = _read_queue(rows, {row: snapshot.checkpoints for row, (_, snapshot) in read.items()})
        for row, (instance, (checkpoints, parked)) in read.items():
            number, queues = rows.partition(row, count).number, queued[row]
            if _are_deleted_drained(queues, number, checkpoints):
                waits, batches = parked.get(row[:-1], (True, []))
                batches = batches + _not_drained(queues, number, checkpoints) if waits else []
                merged[row] = merged_row(rows, row, pk_of[row], instance, batches)
    else:
        raise _older_database(rows, missing)
    return {pk_of[row]: instance for row, instance in merged.items() if instance is not None}


def pending(rows: Rows, pk: Any) -> list[PendingBatch]:
    """Return the queued writes of a row that are not drained, oldest batch first.

    Raises:
        NodeUnavailableError: A queue node did not answer.
        WriteBehindStoppedError: The drains of the row's partition have stopped.
    """
    row = rows.row(pk)
    for _ in range(_TRIES):
        checkpoints, _ = take_snapshot(rows, [row])
        count, queued = _read_queue(rows, {row: checkpoints})
        queues, number = queued[row], rows.partition(row, count).number
        if _are_deleted_drained(queues, number, checkpoints):
            batches = _not_drained(queues, number, checkpoints)
            return [pending_batch(rows, batch) for batch in batches]
    raise _older_database(rows, [row])


def _read_queue(rows: Rows, keys: Mapping[bytes, Checkpoints]) -> tuple[int, dict[bytes, list[Pending]]]:
    """Return the number of partitions, and for each row what the queues hold of it, in order of their drains.

    The number is compared with that of the nodes after the queues are read. If it was changed, another
    partition may hold the row, and the queues are read again.

    Args:
        rows: The rows' model.
        keys: The rows, each with the checkpoints that were read with it.

    Raises:
        NodeUnavailableError: A queue node did not answer.
        WriteBehindStoppedError: A queue contradicts its checkpoint.
    """
    client = project_queue()
    for _ in range(_TRIES):
        count = client.context.partitions
        queued = _read_partitions(rows, keys, count)
        partitions = {rows.partition(row, count) for row in keys}
        nodes = {node for partition in partitions for node in client.context.nodes_of(partition)}
        counts = client.run(protocol.partition_counts(client.context, nodes))
        if all(abs(each) == count for each in counts.values()):
            return count, queued
        client.context.adopt(next(each for each in counts.values() if abs(each) != count))
    message = f"the queue nodes of {rows.model.__name__} have different numbers of partitions"
    raise WriteBehindError(message)


def _read_partitions(rows: Rows, keys: Mapping[bytes, Checkpoints], count: int) -> dict[bytes, list[Pending]]:
    """Return what the queues hold of each row; the queue that is drained first comes first."""
    groups: dict[Partition, list[bytes]] = {}
    for row in keys:
        groups.setdefault(rows.partition(row, count), []).append(row)
    client = project_queue()
    chunk_rows = max(PENDING_FIELDS // len(rows.names(b"")), 1)  # each row is read whole, at one instant
    queued: dict[bytes, list[Pending]] = {}
    for partition, members in groups.items():
        for start in range(0, len(members), chunk_rows):
            chunk = members[start : start + chunk_rows]
            queues = client.run(_read_queues(rows, partition, chunk))
            checked: list[Mapping[str, Position]] = []
            for row in chunk:
                if (positions := keys[row].get(partition.number, {})) not in checked:
                    require_readable(client, partition, positions, queues)
                    checked.append(positions)
            by_row = [_by_row(queue, chunk) for queue in queues]
            queued |= {row: [each[row] for each in by_row] for row in chunk}
    return queued


def _by_row(queue: Pending, members: Sequence[bytes]) -> dict[bytes, Pending]:
    """Split what one queue holds of several rows by row."""
    by_row = {
        row: queue._replace(batches=[batch._replace(fields={}) for batch in queue.batches]) for row in members
    }
    for index, batch in enumerate(queue.batches):
        for name, value in batch.fields.items():
            row = name[: name.index(b"\0") + 1]
            by_row[row].batches[index].fields[name] = value
    return by_row


def _read_queues(rows: Rows, partition: Partition, members: Sequence[bytes]) -> Operation[list[Pending]]:
    context = project_queue().context
    names = [name for row in members for name in rows.names(row)]
    queues = []
    for node in context.nodes_of(partition):
        queue = yield from protocol.pending(context, node, partition, names)
        if queue is not None:
            queues.append(queue)
    return queues


def _are_deleted_drained(queues: Sequence[Pending], number: int, checkpoints: Checkpoints) -> bool:
    """Return whether a snapshot contains every batch that the queues have deleted."""
    positions = checkpoints.get(number, {})
    return all(positions.get(queue.incarnation, Position()).batch >= queue.done for queue in queues)


def _not_drained(queues: Sequence[Pending], number: int, checkpoints: Checkpoints) -> list[PendingFields]:
    positions = checkpoints.get(number, {})
    return [
        batch
        for queue in queues
        for batch in queue.batches
        if batch.fields and batch.number > positions.get(queue.incarnation, Position()).batch
    ]


def _older_database(rows: Rows, keys: Iterable[bytes]) -> WriteBehindError:
    """Return the error for a database that does not show batches which the queue has deleted."""
    with connections[router.db_for_write(rows.model)].cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        [isolation] = cursor.fetchone()
    if isolation != "read committed":
        return WriteBehindError(
            f"{rows.model.__name__}: batches were drained after this transaction's snapshot; "
            "read outside of a REPEATABLE READ or SERIALIZABLE transaction"
        )
    partitions = ", ".join(
        sorted({str(rows.partition(row, project_queue().context.partitions)) for row in keys})
    )
    return WriteBehindStoppedError(f"{partitions}: {Mismatch.DATABASE_IS_OLDER}; {WAY_OUT}")
