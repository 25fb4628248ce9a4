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
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from django.db import connections, models, router
from django.db.models import F, Value
from django.db.models.functions import Cast, Concat

from cachebackend import protocol
from cachebackend.effects import Operation
from cachebackend.errors import WriteBehindDamagedError, WriteBehindError, WriteBehindStoppedError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition, Pending
from cachebackend.protocol.queue.pending import PENDING_FIELDS, PendingFields
from cachebackend.writebehind.batch import BatchRow, read_batch, rows_of
from cachebackend.writebehind.changes import MARKER, Rows, split_field
from cachebackend.writebehind.checkpoints import WAY_OUT, Mismatch, Position, require_readable
from cachebackend.writebehind.conversion import convert, split_code
from cachebackend.writebehind.encoding import Encoding, encoding_of, encoding_of_code
from cachebackend.writebehind.expressions import AT_LEAST, AT_LEAST_LATE, AT_MOST, BOUNDS, DELTA, PUT
from cachebackend.writebehind.parked_texts import ParkedWrites, parked_texts, parse_parked
from cachebackend.writebehind.queue import project_queue
from cachebackend.writebehind.queued_columns import mark_queued

__all__ = ["PendingBatch", "describe_row", "merged_rows", "pending"]

M = TypeVar("M", bound=models.Model)
#: How many times a row is read again because a drain deleted a batch between the two reads.
_TRIES = 20
#: How far each queue is drained, by partition number and incarnation.
Checkpoints = Mapping[int, Mapping[str, Position]]
#: The names of the kinds of change in ``PendingBatch`` and in descriptions.
_KIND_NAMES = {PUT: "put", DELTA: "add", AT_LEAST: "at_least", AT_MOST: "at_most", AT_LEAST_LATE: "at_least"}
#: The changes of one column: for each kind its encoded value.
Kinds = dict[bytes, bytes]


class Snapshot(NamedTuple):
    """What the database holds besides a row, read in the same statement.

    Attributes:
        checkpoints: The last batches that the row contains.
        parked: The parked writes of the rows that are read, by key.
    """

    checkpoints: Checkpoints
    parked: Mapping[bytes, ParkedWrites]


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """What one batch holds of a row.

    Attributes:
        number: The batch's number.
        is_created: Whether the batch creates the row.
        is_deleted: Whether the batch deletes the row; if it does both, it deletes first.
        changes: For each field its kinds of change (``put``, ``add``, ``at_least``,
            ``at_most``) and their values.
    """

    number: int
    is_created: bool
    is_deleted: bool
    changes: dict[str, dict[str, Any]]


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
        read = _read_rows(rows, missing)
        count, queued = _read_queue(rows, {row: snapshot.checkpoints for row, (_, snapshot) in read.items()})
        for row, (instance, (checkpoints, parked)) in read.items():
            number, queues = rows.partition(row, count).number, queued[row]
            if _are_deleted_drained(queues, number, checkpoints):
                waits, batches = parked.get(row[:-1], (True, []))
                batches = batches + _not_drained(queues, number, checkpoints) if waits else []
                merged[row] = _merge(rows, row, pk_of[row], instance, batches)
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
        checkpoints, _ = _snapshot(rows, [row])
        count, queued = _read_queue(rows, {row: checkpoints})
        queues, number = queued[row], rows.partition(row, count).number
        if _are_deleted_drained(queues, number, checkpoints):
            batches = _not_drained(queues, number, checkpoints)
            return [_pending_batch(rows, batch) for batch in batches]
    raise _older_database(rows, [row])


def describe_row(model: type[models.Model], row: BatchRow) -> str:
    """Return what a batch does to a row, in one line."""
    parts = {b"c": ["create"], b"x": ["delete"], b"r": ["delete, create"]}.get(row.marker, [])
    for name, kinds in _changes_of(model, row.changes).items():
        parts += [f"{name} {kind} {value!r}" for kind, value in kinds.items()]
    return "; ".join(parts)


def _changes_of(
    model: type[models.Model], changes: Mapping[tuple[str, bytes], bytes]
) -> dict[str, dict[str, Any]]:
    columns = {field.column: field for field in model._meta.local_concrete_fields}
    named: dict[str, dict[str, Any]] = {}
    for (column, kind), encoded in sorted(changes.items()):
        name, code = split_code(column)
        field = columns.get(name)
        value: Any = encoded
        with suppress(Exception):  # a value that cannot be decoded is shown as the stored bytes
            encoding = encoding_of_code(code) if code else encoding_of(columns[name])
            value = encoding and _value(encoding, kind, encoded)
        named.setdefault(name if field is None else field.name, {})[_KIND_NAMES[kind]] = value
    return named


def _pending_batch(rows: Rows, batch: PendingFields) -> PendingBatch:
    [row] = rows_of(read_batch(rows.model, batch.fields, batch.encodings))
    is_created, is_deleted = row.marker in {b"c", b"r"}, row.marker in {b"x", b"r"}
    return PendingBatch(batch.number, is_created, is_deleted, _changes_of(rows.model, row.changes))


def _read_rows(rows: Rows, pks: Mapping[bytes, Any]) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    """Return each row, or None, with a snapshot that is not newer than the row.

    A row that does not exist cannot carry a snapshot, so one is taken, and then the row is looked
    up again. Batches that are drained in between are then merged into nothing: only one that
    creates the row has an effect, with the whole row, so applying it twice does no harm.
    """
    read = _query(rows, pks)
    if missing := {row: pk for row, pk in pks.items() if row not in read}:
        before = _snapshot(rows, list(missing))
        read |= _query(rows, missing)
        read |= {row: (None, before) for row in missing if row not in read}
    return read


def _query(rows: Rows, pks: Mapping[bytes, Any]) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    from django.contrib.postgres.expressions import ArraySubquery

    using = router.db_for_write(rows.model)
    queryset = rows.model._base_manager.using(using).filter(pk__in=list(pks.values()))
    read: dict[bytes, tuple[models.Model | None, Snapshot]] = {}
    for instance in queryset.annotate(
        _writebehind=ArraySubquery(_checkpoint_texts(rows)),
        _writebehind_parked=ArraySubquery(parked_texts(rows.model, list(pks))),
    ):
        checkpoints = _parsed(instance.__dict__.pop("_writebehind"))
        parked = parse_parked(instance.__dict__.pop("_writebehind_parked"))
        read[rows.row(instance.pk)] = instance, Snapshot(checkpoints, parked)
    return read


def _snapshot(rows: Rows, keys: Sequence[bytes]) -> Snapshot:
    """Return the snapshot of some rows, without the rows."""
    from django.contrib.postgres.expressions import ArraySubquery

    texts = _checkpoint_texts(rows).using(router.db_for_write(rows.model))
    # Without a checkpoint no batch was drained, so no write can be parked
    read = list(texts.values_list("text", ArraySubquery(parked_texts(rows.model, keys))))
    parked = parse_parked(text for _, texts in read[:1] for text in texts)
    return Snapshot(_parsed(text for text, _ in read), parked)


def _checkpoint_texts(rows: Rows) -> models.QuerySet[Any, Any]:
    """Return the checkpoints of a model's partitions, each as one text."""
    names = ("partition", "incarnation", *Position._fields)
    parts = [part for name in names for part in (Cast(F(name), models.CharField()), Value(" "))]
    text = Concat(*parts[:-1])
    of_model = WriteBehindCheckpoint.objects.filter(label=rows.model._meta.label_lower)
    return of_model.annotate(text=text).values_list("text", flat=True)


def _parsed(texts: Iterable[str]) -> Checkpoints:
    parsed: dict[int, dict[str, Position]] = {}
    for text in texts:
        partition, incarnation, *values = text.split(" ")
        position = Position.parse(values)
        parsed.setdefault(int(partition), {})[incarnation] = position
    return parsed


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


def _merge(
    rows: Rows,
    row: bytes,
    pk: Any,
    instance: models.Model | None,
    batches: Sequence[PendingFields],
) -> models.Model | None:
    columns = {field.column: field for field in rows.columns}
    queued: set[str] = set()
    for batch in batches:
        marker = batch.fields.get(row + b"\0" + MARKER)
        if marker in {b"x", b"r"}:
            instance = None
        if marker in {b"c", b"r"}:
            if instance is None:
                instance = rows.model(pk=pk)
                instance._state.adding = False
                instance._state.db = router.db_for_write(rows.model)
            elif not _is_repeated(rows, instance, batch):
                break  # the creation will be parked, and all later writes behind it
        if instance is not None:
            for column, kinds in _by_column(batch.fields).items():
                attribute = columns[column].attname
                value, encoding = getattr(instance, attribute), encoding_of(columns[column])
                try:
                    present = _present(encoding, kinds, batch.encodings.get(column, encoding.code))
                    setattr(instance, attribute, _changed(encoding, value, present))
                except Exception as error:  # a queue may hold any bytes, which decode to any error
                    message = f"what is queued of {columns[column]}, row {pk}, cannot be read: {error}"
                    raise WriteBehindDamagedError(message) from error
                queued.add(attribute)
    if instance is not None:
        mark_queued(instance, queued)
    return instance


def _is_repeated(rows: Rows, instance: models.Model, batch: PendingFields) -> bool:
    """Return whether a batch creates a row that exists with the same values: the creation was sent twice."""
    [row] = rows_of(read_batch(rows.model, batch.fields, batch.encodings))
    fields = {field.column: field for field in rows.columns}
    return all(
        getattr(instance, fields[column].attname) == _value(encoding_of(fields[column]), kind, encoded)
        for (column, kind), encoded in row.changes.items()
        if kind == PUT
    )


def _by_column(fields: Mapping[bytes, bytes]) -> dict[str, Kinds]:
    by_column: dict[str, Kinds] = {}
    for name, value in fields.items():
        _, column, kind = split_field(name)
        if kind != MARKER:
            by_column.setdefault(column, {})[kind] = value
    return by_column


def _present(encoding: Encoding, kinds: Kinds, code: str) -> Kinds:
    """Return the changes of a column in its present encoding; the drain converts them in the same way."""
    if code == encoding.code:
        return kinds
    return {kind: convert(encoded, kind, code, encoding) for kind, encoded in kinds.items()}


def _changed(encoding: Encoding, value: Any, kinds: Kinds) -> Any:
    """Return a value after a batch's changes, as Postgres computes it: NULL plus anything is NULL."""
    if PUT in kinds:
        value = _value(encoding, PUT, kinds[PUT])
    if DELTA in kinds and value is not None:
        value = encoding.add(value, _value(encoding, DELTA, kinds[DELTA]))
    for kind in BOUNDS:
        if kind in kinds:
            bound, choose = _value(encoding, kind, kinds[kind]), min if kind == AT_MOST else max
            value = bound if value is None else choose(value, bound)
    return value


def _value(encoding: Encoding, kind: bytes, encoded: bytes) -> Any:
    if kind == PUT:
        return encoding.decode_put(encoded)
    if kind == DELTA:
        return encoding.decode_delta(int(encoded))  # type: ignore[misc]  # only such fields are given deltas
    return encoding.decode(encoded)
