"""Rows as they will be when what is queued has landed: exact at every instant of a drain.

A row is read in one statement with the checkpoints of its partition: the numbers of the
last batches that it contains. The queue is read at one instant too: what its batches hold
of the row, and ``done``, the last batch that it forgot. Then, whatever happened between
the two readings:

    1. the row is read, the checkpoint is c;
    2. a batch n lands and is dropped, or does not, or lands and is not dropped yet;
    3. the queue is read.

A batch ``n <= c`` that stands is in the row already and is left out: no delta counts
twice. If ``c < done``, a batch is gone that the row does not have, and the row is read
again: no write is lost. Read in the other order the same two rules hold. What the queue
holds of a row that has a write parked, as of the same statement, will park behind it.

In a transaction that sees one snapshot only (REPEATABLE READ), reading again shows the
same row; if a batch landed since it began, there is no exact answer, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from django.db import models, router
from django.db.models import F, Value
from django.db.models.functions import Cast, Concat

from cachebackend import protocol
from cachebackend.effects import Operation
from cachebackend.errors import WriteBehindDamagedError, WriteBehindError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol import Partition, Pending
from cachebackend.protocol.queue.pending import PENDING_FIELDS
from cachebackend.writebehind.batch import BatchRow, read_batch, rows_of
from cachebackend.writebehind.changes import MARKER, Rows, split_field
from cachebackend.writebehind.expressions import AT_LEAST, AT_MOST, DELTA, PUT
from cachebackend.writebehind.queue import project_queue
from cachebackend.writebehind.wire import Wire, wire_of

__all__ = ["PendingBatch", "merged", "pending", "words_of"]

M = TypeVar("M", bound=models.Model)
#: How often a row is read again that a batch has left behind. Each time a drain was faster.
_TRIES = 20
#: The last landed batch of each incarnation of a partition's queue.
Checkpoints = Mapping[tuple[int, str], int]
#: The kinds of change, for people.
_WORDS = {PUT: "put", DELTA: "add", AT_LEAST: "at_least", AT_MOST: "at_most"}
#: What is done to a column: for each kind its value.
Kinds = dict[bytes, bytes]


class Snapshot(NamedTuple):
    """What the database says beside a row, in the same statement.

    Attributes:
        checkpoints: The last batches that it contains.
        parked: The keys of those rows that were asked for and have a write parked.
    """

    checkpoints: Checkpoints
    parked: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """What one batch holds of a row.

    Attributes:
        number: The batch's.
        is_created: Whether it creates the row.
        is_deleted: Whether it deletes it, before it creates it if it does that too.
        changes: For each field its kinds of change (``put``, ``add``, ``at_least``,
            ``at_most``) and their values.
    """

    number: int
    is_created: bool
    is_deleted: bool
    changes: dict[str, dict[str, Any]]


def merged(rows: Rows, pks: Sequence[Any]) -> dict[Any, Any]:
    """Return the rows that there are of these, by primary key, with all that is queued.

    Raises:
        NodeUnavailableError: A queue node did not answer.
        WriteBehindError: In this transaction the database shows only what was.
        WriteBehindDamagedError: A queue holds what no write puts there.
    """
    named = {rows.row(pk): rows.model._meta.pk.to_python(pk) for pk in pks}
    found: dict[bytes, models.Model | None] = {}
    for _ in range(_TRIES):
        left = {row: pk for row, pk in named.items() if row not in found}
        if not left:
            break
        read = _read_rows(rows, left)
        waiting = _read_queue(rows, list(left))
        for row, (instance, (checkpoints, parked)) in read.items():
            number = rows.partition(row).number
            queues = waiting[row]
            if all(checkpoints.get((number, queue.born), 0) >= queue.done for queue in queues):
                batches = [] if row[:-1] in parked else _left_to_land(queues, number, checkpoints)
                found[row] = _merge(rows, row, named[row], instance, batches)
    else:
        message = (
            f"{rows.model.__name__}: batches landed that the database does not show here; "
            "read outside of a REPEATABLE READ or SERIALIZABLE transaction"
        )
        raise WriteBehindError(message)
    return {named[row]: instance for row, instance in found.items() if instance is not None}


def pending(rows: Rows, pk: Any) -> list[PendingBatch]:
    """Return what is queued of a row and has not landed, oldest first.

    Raises:
        NodeUnavailableError: A queue node did not answer.
    """
    row = rows.row(pk)
    queues = _read_queue(rows, [row])[row]
    checkpoints, _ = _snapshot(rows, [row])  # read after the queue: what landed since is left out
    batches = _left_to_land(queues, rows.partition(row).number, checkpoints)
    return [_told(rows, number, fields) for number, fields in batches]


def words_of(model: type[models.Model], row: BatchRow) -> str:
    """Return in a line what a batch does to a row."""
    told = {b"c": ["create"], b"x": ["delete"], b"r": ["delete, create"]}.get(row.marker, [])
    for name, kinds in _changes_of(model, row.changes).items():
        told += [f"{name} {word} {value!r}" for word, value in kinds.items()]
    return "; ".join(told)


def _changes_of(
    model: type[models.Model], changes: Mapping[tuple[str, bytes], bytes]
) -> dict[str, dict[str, Any]]:
    columns = {field.column: field for field in model._meta.local_concrete_fields}
    told: dict[str, dict[str, Any]] = {}
    for (column, kind), value in sorted(changes.items()):
        field = columns.get(column)
        what: Any = value
        if field is not None:
            with suppress(Exception):  # what cannot be read is told as it stands
                what = _value(wire_of(field), kind, value)
        told.setdefault(column if field is None else field.name, {})[_WORDS[kind]] = what
    return told


def _told(rows: Rows, number: int, fields: Mapping[bytes, bytes]) -> PendingBatch:
    [row] = rows_of(read_batch(rows.model, fields))
    is_created, is_deleted = row.marker in {b"c", b"r"}, row.marker in {b"x", b"r"}
    return PendingBatch(number, is_created, is_deleted, _changes_of(rows.model, row.changes))


def _read_rows(rows: Rows, wanted: Mapping[bytes, Any]) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    """Return each row, or that there is none, and a snapshot that what it contains is not behind of.

    A row that is not there has no snapshot of its own; one is taken before the row is
    looked for again. Batches that land in between are then merged into nothing: only one
    that creates the row counts, whole, and so once is as twice.
    """
    found = _query(rows, wanted)
    if missing := {row: pk for row, pk in wanted.items() if row not in found}:
        before = _snapshot(rows, list(missing))
        found |= _query(rows, missing)
        found |= {row: (None, before) for row in missing if row not in found}
    return found


def _query(rows: Rows, wanted: Mapping[bytes, Any]) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    from django.contrib.postgres.expressions import ArraySubquery

    using = router.db_for_write(rows.model)
    queryset = rows.model._base_manager.using(using).filter(pk__in=list(wanted.values()))
    found: dict[bytes, tuple[models.Model | None, Snapshot]] = {}
    for instance in queryset.annotate(
        _writebehind=ArraySubquery(_checkpoint_texts(rows)),
        _writebehind_parked=ArraySubquery(_parked_keys(rows, list(wanted))),
    ):
        checkpoints = _parsed(instance.__dict__.pop("_writebehind"))
        parked = frozenset(key.encode() for key in instance.__dict__.pop("_writebehind_parked"))
        found[rows.row(instance.pk)] = instance, Snapshot(checkpoints, parked)
    return found


def _snapshot(rows: Rows, wanted: Sequence[bytes]) -> Snapshot:
    """Return the snapshot that goes with some rows, without them."""
    from django.contrib.postgres.expressions import ArraySubquery

    texts = _checkpoint_texts(rows).using(router.db_for_write(rows.model))
    # Where there is no checkpoint nothing landed, and nothing can have been parked
    read = list(texts.values_list("text", ArraySubquery(_parked_keys(rows, wanted))))
    parked = frozenset(key.encode() for _, keys in read[:1] for key in keys)
    return Snapshot(_parsed(text for text, _ in read), parked)


def _checkpoint_texts(rows: Rows) -> models.QuerySet[Any, Any]:
    """Return the checkpoints of a model's partitions, as one text each."""
    parts = [Cast(F(name), models.CharField()) for name in ("partition", "incarnation", "batch")]
    text = Concat(parts[0], Value(" "), parts[1], Value(" "), parts[2])
    of_model = WriteBehindCheckpoint.objects.filter(label=rows.model._meta.label_lower)
    return of_model.annotate(text=text).values_list("text", flat=True)


def _parked_keys(rows: Rows, wanted: Sequence[bytes]) -> models.QuerySet[Any, Any]:
    """Return the keys of those of some rows that have a write parked."""
    partitions = {rows.partition(row).number for row in wanted}
    keys = [row[:-1].decode() for row in wanted]
    parked = ParkedWrite.objects.order_by().filter(label=rows.model._meta.label_lower)
    return parked.filter(partition__in=partitions, key__in=keys).values_list("key", flat=True)


def _parsed(texts: Iterable[str]) -> Checkpoints:
    split = [text.split(" ") for text in texts]
    return {(int(partition), incarnation): int(batch) for partition, incarnation, batch in split}


def _read_queue(rows: Rows, wanted: Sequence[bytes]) -> dict[bytes, list[Pending]]:
    """Return what the queues hold of each row, the one that lands first first."""
    groups: dict[Partition, list[bytes]] = {}
    for row in wanted:
        groups.setdefault(rows.partition(row), []).append(row)
    client = project_queue()
    at_once = max(PENDING_FIELDS // len(rows.names(b"")), 1)  # rows whole: each is read at one instant
    found: dict[bytes, list[Pending]] = {row: [] for row in wanted}
    for partition, members in groups.items():
        for at in range(0, len(members), at_once):
            some = members[at : at + at_once]
            for queue in client.run(_read_places(rows, partition, some)):
                for row, own in _by_row(queue, some).items():
                    found[row].append(own)
    return found


def _by_row(queue: Pending, members: Sequence[bytes]) -> dict[bytes, Pending]:
    """Return what one place holds of each row, from what it holds of all."""
    found = {row: queue._replace(batches=[(number, {}) for number, _ in queue.batches]) for row in members}
    for at, (_, fields) in enumerate(queue.batches):
        for name, value in fields.items():
            row = name[: name.index(b"\0") + 1]
            found[row].batches[at][1][name] = value
    return found


def _read_places(rows: Rows, partition: Partition, members: Sequence[bytes]) -> Operation[list[Pending]]:
    context = project_queue().context
    names = [name for row in members for name in rows.names(row)]
    queues = []
    for node in context.places(partition):
        queue = yield from protocol.pending(context, node, partition, names)
        if queue is not None:
            queues.append(queue)
    return queues


def _left_to_land(
    queues: Sequence[Pending], number: int, checkpoints: Checkpoints
) -> list[tuple[int, dict[bytes, bytes]]]:
    return [
        (batch, fields)
        for queue in queues
        for batch, fields in queue.batches
        if fields and batch > checkpoints.get((number, queue.born), 0)
    ]


def _merge(
    rows: Rows,
    row: bytes,
    pk: Any,
    instance: models.Model | None,
    batches: Sequence[tuple[int, dict[bytes, bytes]]],
) -> models.Model | None:
    columns = {field.column: field for field in rows.columns}
    for _, fields in batches:
        marker = fields.get(row + b"\0" + MARKER)
        if marker in {b"x", b"r"}:
            instance = None
        if marker in {b"c", b"r"}:
            if instance is not None:  # it will be parked, and all that follows with it
                return instance
            instance = rows.model(pk=pk)
            instance._state.adding = False
            instance._state.db = router.db_for_write(rows.model)
        if instance is not None:
            for column, kinds in _by_column(fields).items():
                attribute = columns[column].attname
                value = getattr(instance, attribute)
                try:
                    setattr(instance, attribute, _changed(wire_of(columns[column]), value, kinds))
                except Exception as error:  # what stands in a queue is foreign bytes
                    message = f"what is queued of {columns[column]}, row {pk}, cannot be read: {error}"
                    raise WriteBehindDamagedError(message) from error
    return instance


def _by_column(fields: Mapping[bytes, bytes]) -> dict[str, Kinds]:
    found: dict[str, Kinds] = {}
    for name, value in fields.items():
        _, column, kind = split_field(name)
        if kind != MARKER:
            found.setdefault(column, {})[kind] = value
    return found


def _changed(wire: Wire, value: Any, kinds: Kinds) -> Any:
    """Return what a batch makes of a value, as Postgres does: nothing added to NULL is NULL."""
    if PUT in kinds:
        value = _value(wire, PUT, kinds[PUT])
    if DELTA in kinds and value is not None:
        value = wire.plus(value, _value(wire, DELTA, kinds[DELTA]))
    for kind, choose in ((AT_LEAST, max), (AT_MOST, min)):
        if kind in kinds:
            bound = _value(wire, kind, kinds[kind])
            value = bound if value is None else choose(value, bound)
    return value


def _value(wire: Wire, kind: bytes, travels: bytes) -> Any:
    if kind == PUT:
        return wire.put(travels)
    if kind == DELTA:
        return wire.undelta(int(travels))  # type: ignore[misc]  # only such fields are given deltas
    return wire.load(travels)
