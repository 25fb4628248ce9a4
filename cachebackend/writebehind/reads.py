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

The number of partitions says which queue holds a row. The number that is known before step 1 must still
be that of each node after its queue is read in step 3. Else the queue may have been drained for the
change after step 1, and the row is read again. A number that was changed twice in between, and back, is
not noticed.

In a transaction with a fixed snapshot (REPEATABLE READ), reading again returns the same row. If
a batch was drained since the snapshot, there is no exact answer, and WriteBehindError is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connections, models, router

from cachebackend import protocol
from cachebackend.effects import Operation
from cachebackend.errors import NodeUnavailableError, WriteBehindError, WriteBehindStoppedError
from cachebackend.protocol.queue import Partition, Pending
from cachebackend.protocol.queue.pending_writes import PENDING_FIELDS, PendingFields
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.checkpoints import WAY_OUT, Mismatch, Position, require_readable
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
    missing = dict(pk_of)
    for _ in range(_TRIES if missing else 0):
        count = project_queue().context.partitions
        read = read_rows(rows, missing, count)
        queued = _read_queue(rows, {row: snapshot.checkpoints for row, (_, snapshot) in read.items()}, count)
        for row, batches in queued.items():
            instance, (_, parked) = read[row]
            waits, parked_batches = parked.get(row[:-1], (True, []))
            merged[row] = merged_row(
                rows, row, missing.pop(row), instance, parked_batches + batches if waits else []
            )
        if not missing:
            break
    if missing:
        raise _no_exact_answer(rows, missing)
    return {pk_of[row]: instance for row, instance in merged.items() if instance is not None}


def pending(rows: Rows, pk: Any) -> list[PendingFields]:
    """Return the queued writes of a row that are not drained, oldest batch first.

    Raises:
        NodeUnavailableError: A queue node did not answer.
        WriteBehindStoppedError: The drains of the row's partition have stopped.
    """
    row = rows.row(pk)
    for _ in range(_TRIES):
        count = project_queue().context.partitions
        checkpoints, _ = take_snapshot(rows, [row], count)
        if row in (queued := _read_queue(rows, {row: checkpoints}, count)):
            return queued[row]
    raise _no_exact_answer(rows, [row])


def _read_queue(
    rows: Rows, keys: Mapping[bytes, Checkpoints], count: int
) -> dict[bytes, list[PendingFields]]:
    """Return for each row what the queues hold of it that is not drained, in order of the drains.

    A row is left out if it must be read again.

    Args:
        rows: The rows' model.
        keys: The rows, each with the checkpoints that were read with it.
        count: The number of partitions that was known before they were read.

    Raises:
        NodeUnavailableError: A queue node did not answer.
        WriteBehindStoppedError: A queue contradicts its checkpoint.
    """
    client = project_queue()
    partition_of = {row: rows.partition(row, count) for row in keys}
    queued, counts = _read_partitions(rows, keys, partition_of)
    if changed := [each for each in counts if abs(each) != count]:
        client.context.adopt(changed[0])
        return {}
    batches: dict[bytes, list[PendingFields]] = {}
    for row, queues in queued.items():
        positions = keys[row].get(partition_of[row].number, {})
        if all(positions.get(queue.incarnation, Position()).batch >= queue.done for queue in queues):
            batches[row] = _not_drained(queues, positions)
    return batches


def _read_partitions(
    rows: Rows, keys: Mapping[bytes, Checkpoints], partition_of: Mapping[bytes, Partition]
) -> tuple[dict[bytes, list[Pending]], set[int]]:
    """Return what the queues hold of each row; the queue that is drained first comes first.

    Returns:
        This, and the numbers of partitions that the nodes had after their queues were read.
    """
    groups: dict[Partition, list[bytes]] = {}
    for row, partition in partition_of.items():
        groups.setdefault(partition, []).append(row)
    client = project_queue()
    chunk_rows = max(PENDING_FIELDS // len(rows.names(b"")), 1)  # each row is read whole, at one instant
    queued: dict[bytes, list[Pending]] = {}
    counts: set[int] = set()
    for partition, members in groups.items():
        for start in range(0, len(members), chunk_rows):
            chunk = members[start : start + chunk_rows]
            queues = client.run(_read_queues(rows, partition, chunk, counts))
            checked: list[Mapping[str, Position]] = []
            for row in chunk:
                if (positions := keys[row].get(partition.number, {})) not in checked:
                    require_readable(client, partition, positions, queues)
                    checked.append(positions)
            by_row = [_by_row(queue, chunk) for queue in queues]
            queued |= {row: [each[row] for each in by_row] for row in chunk}
    return queued, counts


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


def _read_queues(
    rows: Rows, partition: Partition, members: Sequence[bytes], counts: set[int]
) -> Operation[list[Pending]]:
    """Return what the queues of a partition hold of some rows; add the nodes' numbers of partitions."""
    context = project_queue().context
    names = [name for row in members for name in rows.names(row)]
    queues = []
    required = context.required_nodes(partition)
    for node in context.nodes_of(partition):
        try:
            queue, count = yield from protocol.queue.pending(context, node, partition, names)
        except NodeUnavailableError:
            if node in required:
                raise
            continue  # if a checkpoint shows that its queue is not ended, the caller raises
        if count is not None:
            counts.add(count)
        if queue is not None:
            queues.append(queue)
    return queues


def _not_drained(queues: Sequence[Pending], positions: Mapping[str, Position]) -> list[PendingFields]:
    return [
        batch
        for queue in queues
        for batch in queue.batches
        if batch.fields and batch.number > positions.get(queue.incarnation, Position()).batch
    ]


def _no_exact_answer(rows: Rows, keys: Iterable[bytes]) -> WriteBehindError:
    """Return the error for rows that were read again and again.

    The nodes have different numbers of partitions, or the database does not show batches that the
    queue has deleted.
    """
    context = project_queue().context
    counts = project_queue().run(protocol.queue.partition_counts(context, context.nodes))
    if len({abs(count) for count in counts.values()}) > 1:
        return WriteBehindError(
            f"{rows.model.__name__}: the queue nodes have different numbers of partitions; "
            "`manage.py writebehind partitions N` sets one number"
        )
    with connections[router.db_for_write(rows.model)].cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        [isolation] = cursor.fetchone()
    if isolation != "read committed":
        return WriteBehindError(
            f"{rows.model.__name__}: batches were drained after this transaction's snapshot; "
            "read outside of a REPEATABLE READ or SERIALIZABLE transaction"
        )
    partitions = ", ".join(sorted({str(rows.partition(row, context.partitions)) for row in keys}))
    return WriteBehindStoppedError(f"{partitions}: {Mismatch.DATABASE_IS_OLDER}; {WAY_OUT}")
