"""Parked writes: rows that Postgres refuses or that cannot be decoded, found by bisection and set aside.

The rest of their batch is applied. Later writes of a parked row are parked behind it, so that
their order is kept. A row's parked writes are found by its model and key, and locked together:

    1. a drain locks the parked writes of the rows in its batch, and holds back the rows that have some;
    2. a retry locks the parked writes of a row, applies the first one and deletes it;
    3. the second one waits for the first, and then sees what the first has left.

A person retries or discards a parked write. One that waits for another row or for a lock is also
retried by itself (``retries``): after as long as it has waited, and at least once a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import ormsgpack
from django.db import models
from django.db.models import Value
from django.db.models.functions import Now

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.models import ParkedWrite
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.apply import Applied
from cachebackend.writebehind.batch import BatchRow, RowGroup, decode_keys, group_rows, rows_of
from cachebackend.writebehind.bisection import Bisection
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.composition import compose
from cachebackend.writebehind.conversion import pack_changes, unpack_changes
from cachebackend.writebehind.encoding import encoding_of
from cachebackend.writebehind.refusals import Refusal
from cachebackend.writebehind.remembered_queries import Parameter, RememberedQuery
from cachebackend.writebehind.stored_writes import unpack_write
from cachebackend.writebehind.transactions import limited_transaction

__all__ = [
    "FIRST_WAIT",
    "Outcome",
    "apply_or_park",
    "discard",
    "key_text",
    "lock_by_key",
    "parked_of",
    "row_of",
]

#: The time until a waiting write is first retried.
FIRST_WAIT = timedelta(seconds=1)
#: The error of a write that is parked only because an earlier one of its row is.
BEHIND = Refusal("Parked behind an earlier write of the row.")


#: One parked write of a model, by its old or new label.
_PARKED = RememberedQuery(
    lambda using: (
        ParkedWrite.objects.using(using)
        .filter(label__in=[Parameter("old", ParkedWrite, "label"), Parameter("new", ParkedWrite, "label")])
        .values_list("pk")[:1]
    )
)


class Outcome(NamedTuple):
    """What became of a batch.

    Attributes:
        applied: What was applied.
        parked: The number of rows that were parked for a person.
        waiting: The number of rows that were parked and are retried by themselves.
    """

    applied: Applied
    parked: int
    waiting: int


def apply_or_park(
    model: type[models.Model], using: str, partition: Partition, number: int, batch: Sequence[RowGroup]
) -> Outcome:
    """Write a batch's rows inside the caller's transaction; park the rows that are refused."""
    earlier = _lock_parked(model, using, partition.label, batch)
    held_back: list[BatchRow] = []
    if earlier:
        rows = rows_of(batch)
        held_back = [row for row in rows if key_text(model, row.pk) in earlier]
        batch = group_rows(row for row in rows if key_text(model, row.pk) not in earlier)
    bisection = Bisection(model, using, f"{using} {partition} {number}")
    bisection.apply(batch)
    bisection.apply_refused_again()
    new, composed = list(bisection.refused), []
    for row in held_back:
        _, *behind = earlier[key_text(model, row.pk)]  # the first one is refused, and keeps its error
        if write := _compose_with_last(model, behind, row):
            write.batch = number
            composed.append(write)
        else:
            new.append((row, BEHIND))
    parked = ParkedWrite.objects.using(using)
    parked.bulk_update(composed, ["changes", "batch"])
    parked.bulk_create(_parked(model, partition, number, row, refusal) for row, refusal in new)
    waiting = sum(refusal.waits for _, refusal in bisection.refused)
    waiting += sum(earlier[key_text(model, row.pk)][0].retry_at is not None for row in held_back)
    return Outcome(bisection.applied, len(bisection.refused) + len(held_back) - waiting, waiting)


def discard(parked: Iterable[ParkedWrite], using: str) -> int:
    """Delete parked writes without applying them; return their number.

    Writes that are parked behind a discarded one stay parked, and can be retried. A write to which a
    drain has added changes since it was read stays too.
    """
    seen = {write.pk: bytes(write.changes) for write in parked}
    with limited_transaction(using):
        current = ParkedWrite.objects.using(using).filter(pk__in=seen).select_for_update().order_by("pk")
        equal = [write.pk for write in current if bytes(write.changes) == seen[write.pk]]
        return ParkedWrite.objects.using(using).filter(pk__in=equal).delete()[0]


def parked_of(rows: Rows, pk: Any, using: str) -> models.QuerySet[ParkedWrite]:
    """Return the parked writes of a row, the oldest first."""
    key = rows.row(pk)[:-1].decode()
    return ParkedWrite.objects.using(using).filter(label=rows.model._meta.label_lower, key=key)


def row_of(parked: ParkedWrite, model: type[models.Model]) -> BatchRow:
    """Return the row of a parked write, as its batch had it.

    Raises:
        WriteBehindDamagedError: The write has another form than this package stores, or another key.
    """
    stored = unpack_write(bytes(parked.changes))
    [pk] = decode_keys(encoding_of(model._meta.pk), [parked.key.encode()])
    changes = {} if stored.marker == b"x" else unpack_changes(model, stored.changes)
    return BatchRow(pk, stored.marker, changes)


def _lock_parked(
    model: type[models.Model], using: str, label: str, batch: Sequence[RowGroup]
) -> dict[str, list[ParkedWrite]]:
    """Return the parked writes of a batch's rows by key, locked until the end of the transaction.

    A batch of a model that was renamed has the old label, and its rows those of the new one too.
    """
    labels = {"old": label, "new": model._meta.label_lower}
    if not _PARKED.rows(using, **labels):
        return {}
    keys = [key_text(model, pk) for group in batch for pk in group.pks]
    of_labels = ParkedWrite.objects.using(using).filter(label__in=labels.values(), key__in=keys)
    return lock_by_key(of_labels)


def lock_by_key(parked: models.QuerySet[ParkedWrite]) -> dict[str, list[ParkedWrite]]:
    """Lock parked writes and return them by key, the oldest of a row first."""
    by_key: dict[str, list[ParkedWrite]] = {}
    for write in parked.select_for_update().order_by("pk"):
        by_key.setdefault(write.key, []).append(write)
    return by_key


def _compose_with_last(
    model: type[models.Model], parked: Sequence[ParkedWrite], row: BatchRow
) -> ParkedWrite | None:
    """Add a row's write to the last of its parked writes and return that one; None if it must be parked."""
    try:
        composed = compose(row_of(parked[-1], model), row) if parked else None
    except WriteBehindDamagedError:
        composed = None
    if composed is None:
        return None
    parked[-1].changes = _packed(model, composed)
    return parked[-1]


def key_text(model: type[models.Model], pk: Any) -> str:
    """Return a primary key as parked writes have it."""
    return encoding_of(model._meta.pk).encode(pk).decode()


def _packed(model: type[models.Model], row: BatchRow) -> bytes:
    return ormsgpack.packb({"marker": row.marker} | pack_changes(model, row.changes))


def _parked(
    model: type[models.Model], partition: Partition, number: int, row: BatchRow, refusal: Refusal
) -> ParkedWrite:
    return ParkedWrite(
        label=partition.label,
        partition=partition.number,
        batch=number,
        key=key_text(model, row.pk),
        changes=_packed(model, row),
        error=refusal.text,
        retry_at=Now() + Value(FIRST_WAIT) if refusal.waits else None,
    )
