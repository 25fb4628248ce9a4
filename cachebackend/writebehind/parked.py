"""Parked writes: rows that Postgres refuses or that cannot be decoded, found by bisection and set aside.

The rest of their batch is applied. Later writes of a parked row are parked behind it, so that
their order is kept. A person retries or discards a parked write; both hold the partition's lock,
so that no drain runs at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ormsgpack
from django.db import models, transaction

from cachebackend.invalidation import invalidate_rows
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol import Partition
from cachebackend.writebehind.apply import Applied
from cachebackend.writebehind.batch import BatchRow, RowGroup, group_rows, rows_of
from cachebackend.writebehind.bisection import Bisection
from cachebackend.writebehind.conversion import pack_changes, unpack_changes
from cachebackend.writebehind.encoding import encoding_of
from cachebackend.writebehind.queue import model_named

__all__ = ["Retried", "apply_or_park", "discard", "retry", "row_of"]


@dataclass(slots=True)
class Retried:
    """The result of retrying parked writes.

    Attributes:
        applied: The number of writes that were applied.
        remaining: The writes that are still parked: those that Postgres refused again, with the new
            error; those behind them; and those of a model that the project no longer has.
    """

    applied: int = 0
    remaining: list[ParkedWrite] = field(default_factory=list)


def apply_or_park(
    model: type[models.Model], using: str, partition: Partition, number: int, batch: Sequence[RowGroup]
) -> tuple[Applied, int]:
    """Write a batch's rows inside the caller's transaction; park the rows that are refused.

    Returns:
        What was applied, and the number of parked rows.
    """
    parked = ParkedWrite.objects.using(using).filter(label=partition.label, partition=partition.number)
    parked_keys = set(parked.values_list("key", flat=True))
    bisection = Bisection(model, using)
    held_back: list[BatchRow] = []
    if parked_keys:
        rows = rows_of(batch)
        held_back = [row for row in rows if _key_text(model, row.pk) in parked_keys]
        batch = group_rows(row for row in rows if _key_text(model, row.pk) not in parked_keys)
    bisection.apply(batch)
    if bisection.refused and len(bisection.refused) < sum(len(group.pks) for group in batch):
        # What they depend on, such as a parent row or a unique value that becomes free, may have been
        # applied after them
        bisection.apply_refused_again()
    refused = list(bisection.refused)
    if errors := bisection.applied.refused:
        refused += [(row, errors[row.pk]) for row in rows_of(batch) if row.pk in errors]
    refused += [(row, "Parked behind an earlier write of the row.") for row in held_back]
    if refused:
        parked.bulk_create(_parked(model, partition, number, row, error) for row, error in refused)
    return bisection.applied, len(refused)


def retry(parked: Iterable[ParkedWrite], using: str) -> Retried:
    """Retry parked writes. The writes of a row are retried from the oldest on, to keep their order.

    Args:
        parked: Some parked writes; all other parked writes of their rows are retried too.
        using: The database alias that they were read from.
    """
    retried = Retried()
    for label, number, key in sorted({(p.label, p.partition, p.key) for p in parked}):
        _retry_row(Partition(label, number), key, using, retried)
    return retried


def discard(parked: Iterable[ParkedWrite], using: str) -> int:
    """Delete parked writes without applying them; return their number.

    Writes that are parked behind a discarded one stay parked, and can be retried.
    """
    count = 0
    parked = list(parked)
    for label, number in sorted({(p.label, p.partition) for p in parked}):
        with transaction.atomic(using=using):
            _lock_partition(Partition(label, number), using)
            pks = [p.pk for p in parked if (p.label, p.partition) == (label, number)]
            count += ParkedWrite.objects.using(using).filter(pk__in=pks).delete()[0]
    return count


def row_of(parked: ParkedWrite, model: type[models.Model]) -> BatchRow:
    """Return the row of a parked write, as its batch had it."""
    stored = ormsgpack.unpackb(bytes(parked.changes))
    pk = encoding_of(model._meta.pk).decode(parked.key.encode())
    return BatchRow(pk, stored["marker"], unpack_changes(model, stored))


def _retry_row(partition: Partition, key: str, using: str, retried: Retried) -> None:
    model = model_named(partition.label)
    with transaction.atomic(using=using):
        _lock_partition(partition, using)
        of_row = ParkedWrite.objects.using(using).filter(
            label=partition.label, partition=partition.number, key=key
        )
        remaining = list(of_row.order_by("pk"))
        while remaining:
            if model is None:
                remaining[
                    0
                ].error = f"{partition.label!r} is not a model of this project; discard its writes."
                break
            bisection = Bisection(model, using)
            row = row_of(remaining[0], model)
            bisection.apply(group_rows([row]))
            if errors := [*(error for _, error in bisection.refused), *bisection.applied.refused.values()]:
                [remaining[0].error] = errors
                remaining[0].save(using=using, update_fields=["error"])
                break
            invalidate_rows(model, bisection.applied.touched, using)
            remaining.pop(0).delete(using=using)
            retried.applied += 1
        retried.remaining += remaining


def _lock_partition(partition: Partition, using: str) -> None:
    """Wait for the drain that is running, and block other drains until the end of the transaction."""
    checkpoints = WriteBehindCheckpoint.objects.using(using).filter(
        label=partition.label, partition=partition.number
    )
    list(checkpoints.select_for_update().order_by("pk").values_list("pk"))


def _key_text(model: type[models.Model], pk: Any) -> str:
    return encoding_of(model._meta.pk).encode(pk).decode()


def _parked(
    model: type[models.Model], partition: Partition, number: int, row: BatchRow, error: str
) -> ParkedWrite:
    return ParkedWrite(
        label=partition.label,
        partition=partition.number,
        batch=number,
        key=_key_text(model, row.pk),
        changes=ormsgpack.packb({"marker": row.marker} | pack_changes(model, row.changes)),
        error=error,
    )
