"""Rows that Postgres refuses, or that cannot be read, are found by bisection and set aside.

The rest of their batch lands. DeferredCalls writes of a parked row park behind it, so that their order is
kept. A parked write is tried again or discarded by hand, under the partition's lock, so that no
drain comes in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ormsgpack
from django.db import DatabaseError, DataError, connections, models, transaction

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.conf import write_behind_options
from cachebackend.errors import WriteBehindDamagedError
from cachebackend.invalidation import invalidate_rows
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol import Partition
from cachebackend.writebehind.apply import Applied, apply_batch
from cachebackend.writebehind.batch import Alike, BatchRow, alike, rows_of
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.wire import wire_of

__all__ = ["Retried", "apply_or_park", "discard", "retry", "row_of"]

#: How an SQLSTATE begins that says a value is refused, whoever writes it whenever: bad data, a
#: constraint, a view's check, a trigger's own exception, a value too large for a row or an index.
_REFUSALS = ("22", "23", "44", "P0", "54000")
#: Seconds for which the rows that are at fault are told from the others, of those that a drain may take.
HALVING_SECONDS = 30.0


@dataclass(slots=True)
class Retried:
    """What became of parked writes that were tried again.

    Attributes:
        landed: How many landed.
        left: Those that Postgres refused again, with the new error, and those behind them; those
            of a model that is gone.
    """

    landed: int = 0
    left: list[ParkedWrite] = field(default_factory=list)


def apply_or_park(
    model: type[models.Model], using: str, partition: Partition, number: int, batch: Sequence[Alike]
) -> tuple[Applied, int]:
    """Write a batch's rows inside the caller's transaction; return what was done and how many were parked."""
    parked = ParkedWrite.objects.using(using).filter(label=partition.label, partition=partition.number)
    behind = set(parked.values_list("key", flat=True))
    work = _Work(model, using)
    held: list[BatchRow] = []
    if behind:
        rows = rows_of(batch)
        held = [row for row in rows if _key_text(model, row.pk) in behind]
        batch = alike(row for row in rows if _key_text(model, row.pk) not in behind)
    work.apply(batch)
    if work.refused and len(work.refused) < sum(len(same.pks) for same in batch):
        # What they need, a parent or a unique value that is free again, may have come after them
        work.apply_refused_again()
    refused = list(work.refused)
    if left := work.applied.refused:
        refused += [(row, left[row.pk]) for row in rows_of(batch) if row.pk in left]
    refused += [(row, "Parked behind an earlier write of the row.") for row in held]
    if refused:
        parked.bulk_create(_parked(model, partition, number, row, error) for row, error in refused)
    return work.applied, len(refused)


def retry(parked: Iterable[ParkedWrite], using: str) -> Retried:
    """Try parked writes again, each row's from its oldest on, for they must keep their order.

    Args:
        parked: Some writes; those of their rows that came before and after are tried too.
        using: The database alias that they were read from.
    """
    retried = Retried()
    for label, number, key in sorted({(p.label, p.partition, p.key) for p in parked}):
        _retry_row(Partition(label, number), key, using, retried)
    return retried


def discard(parked: Iterable[ParkedWrite], using: str) -> int:
    """Give parked writes up; return how many. What was parked behind them waits on, to be tried again."""
    count = 0
    wanted = list(parked)
    for label, number in sorted({(p.label, p.partition) for p in wanted}):
        with transaction.atomic(using=using):
            _lock_partition(Partition(label, number), using)
            pks = [p.pk for p in wanted if (p.label, p.partition) == (label, number)]
            count += ParkedWrite.objects.using(using).filter(pk__in=pks).delete()[0]
    return count


def row_of(parked: ParkedWrite, model: type[models.Model]) -> BatchRow:
    """Return what a parked write was to do."""
    held = ormsgpack.unpackb(bytes(parked.changes))
    changes = {(column, kind): value for column, kind, value in held["changes"]}
    return BatchRow(wire_of(model._meta.pk).load(parked.key.encode()), held["marker"], changes)


def _retry_row(partition: Partition, key: str, using: str, retried: Retried) -> None:
    model = model_named(partition.label)
    with transaction.atomic(using=using):
        _lock_partition(partition, using)
        mine = ParkedWrite.objects.using(using).filter(
            label=partition.label, partition=partition.number, key=key
        )
        waiting = list(mine.order_by("pk"))
        while waiting:
            if model is None:
                waiting[0].error = f"{partition.label!r} is no model of this project; discard what it left."
                break
            work = _Work(model, using)
            row = row_of(waiting[0], model)
            work.apply(alike([row]))
            if errors := [*(error for _, error in work.refused), *work.applied.refused.values()]:
                [waiting[0].error] = errors
                waiting[0].save(using=using, update_fields=["error"])
                break
            invalidate_rows(model, work.applied.touched, using)
            waiting.pop(0).delete(using=using)
            retried.landed += 1
        retried.left += waiting


def _lock_partition(partition: Partition, using: str) -> None:
    """Wait for the drain that is under way, and keep others out until the transaction's end."""
    checkpoints = WriteBehindCheckpoint.objects.using(using).filter(
        label=partition.label, partition=partition.number
    )
    list(checkpoints.select_for_update().order_by("pk").values_list("pk"))


class _Work:
    """Rows on their way into the database."""

    def __init__(self, model: type[models.Model], using: str) -> None:
        self._model = model
        self._using = using
        self._chunk_rows = write_behind_options().batch_rows
        self._deadline = SYSTEM_CLOCK.monotonic() + HALVING_SECONDS
        self.applied = Applied()
        #: What was refused, and why.
        self.refused: list[tuple[BatchRow, str]] = []

    def apply(self, batch: Sequence[Alike]) -> None:
        """Write rows; halve what is refused until the rows that are at fault stand alone.

        If they are too many for the time that there is, those that are left are refused as
        they stand, the good with the bad: a batch that never landed would be worse.
        """
        if not batch:
            return
        try:
            applied = self._apply(batch)
        except (DatabaseError, WriteBehindDamagedError) as error:
            if not _is_refusal(error):
                raise
            text, rows = str(error).strip(), rows_of(batch)
            if len(rows) > 1 and self._has_time():
                middle = len(rows) // 2
                self.apply(alike(rows[:middle]))
                self.apply(alike(rows[middle:]))
                return
            if len(rows) > 1:
                text = f"One of {len(rows)} rows, too many to find it in time, and maybe not this one: {text}"
            self.refused += [(row, text) for row in rows]
        else:
            self.applied.add(applied)

    def apply_refused_again(self) -> None:
        """Try each refused row once more, as long as there is time."""
        refused, self.refused = self.refused, []
        for row, error in refused:
            if self._has_time():
                self.apply(alike([row]))
            else:
                self.refused.append((row, error))

    def _has_time(self) -> bool:
        return SYSTEM_CLOCK.monotonic() < self._deadline

    def _apply(self, batch: Sequence[Alike]) -> Applied:
        with transaction.atomic(using=self._using), connections[self._using].cursor() as cursor:
            # What rows of one batch need of each other may come in any order, but is due here; and
            # any join but this keeps to the order of the keys, in which rows are then locked
            cursor.execute("SET CONSTRAINTS ALL DEFERRED; SET LOCAL enable_hashjoin = off")
            applied = apply_batch(self._model, self._using, batch, self._chunk_rows)
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return applied


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, WriteBehindDamagedError | DataError):  # what psycopg itself refuses has no SQLSTATE
        return True
    return str(getattr(error.__cause__, "sqlstate", None) or "").startswith(_REFUSALS)


def _key_text(model: type[models.Model], pk: Any) -> str:
    return wire_of(model._meta.pk).dump(pk).decode()


def _parked(
    model: type[models.Model], partition: Partition, number: int, row: BatchRow, error: str
) -> ParkedWrite:
    changes = [[column, kind, value] for (column, kind), value in row.changes.items()]
    return ParkedWrite(
        label=partition.label,
        partition=partition.number,
        batch=number,
        key=_key_text(model, row.pk),
        changes=ormsgpack.packb({"marker": row.marker, "changes": changes}),
        error=error,
    )
